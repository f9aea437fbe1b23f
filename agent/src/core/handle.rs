//! The core itself: folds events into what is known, plans, and says what
//! shall be done.

use super::desired::read_desired;
use super::devices::WatchedDevice;
use super::event::{Effect, Event, Now, Outgoing};
use super::fetch::Fetcher;
use super::inbox::{Inbox, Said};
use super::journal::Journal;
use super::ledger::Ledger;
use super::ledger::{Phase, restart_policy};
use super::name::InstanceName;
use super::network::PodShape;
use super::observed::Observed;
use super::record::{Change, Records};
use super::replace::Replacement;
use super::replacing::Watched;
use super::report::{Pace, Urgency};
use super::resize::{Carried, Size};
use super::streams::{Steps, Streams};
use super::update::{UpdateStart, Updates};
use super::work::Works;
use crate::runtime::{ContainerId, Status};
use skerry_wire::message::{Presence, Reply};
use skerry_wire::report::{Condition, ExitStatus, Facts, Severity};
use skerry_wire::seal::{KeyPair, PublicKey, Purpose};
use skerry_wire::topic::Lane;
use skerry_wire::update::UpdateOrder;
use skerry_wire::{
    AppRef, Assignment, Config, Desired, DeviceId, Digest, FleetId, Generation, Labels, Seq,
    SessionId, encode,
};
use std::collections::{BTreeMap, BTreeSet};

/// A removal that failed is tried again after so many milliseconds.
const REMOVE_AGAIN_MS: u64 = 30_000;
/// The hub's streams outlive a lost line for so many milliseconds.
const STREAMS_OFFLINE_MS: u64 = 30_000;
/// Presence is repeated at most once in so many milliseconds.
const PRESENCE_GAP_MS: u64 = 5_000;

/// Who this device is and whom it believes.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its fleet.
    pub fleet: FleetId,
    /// Its name.
    pub device: DeviceId,
    /// Its own key.
    pub key: KeyPair,
    /// The hub's key.
    pub hub: PublicKey,
}

/// What is new with this run of the agent.
#[derive(Debug, Clone)]
pub struct Start {
    /// Drawn at random.
    pub session: SessionId,
    /// What the machine is, its boot id included.
    pub facts: Facts,
    /// What of the device itself can be changed, and how that stands.
    pub update: UpdateStart,
}

/// The desired state in force.
#[derive(Debug, Clone)]
pub(super) struct InForce {
    pub(super) generation: Generation,
    pub(super) digest: Digest,
    pub(super) assignments: Vec<Assignment>,
    pub(super) updates: Vec<UpdateOrder>,
    pub(super) configs: Vec<Config>,
    pub(super) labels: Labels,
}

impl InForce {
    pub(super) fn of(desired: Desired, digest: Digest) -> Self {
        Self {
            generation: desired.generation,
            digest,
            assignments: desired.assignments,
            updates: desired.updates,
            configs: desired.configs,
            labels: desired.labels,
        }
    }
}

/// The agent's brain.
#[derive(Debug, Clone)]
pub struct Core {
    pub(super) identity: Identity,
    pub(super) session: SessionId,
    pub(super) facts: Facts,
    pub(super) conditions: Vec<Condition>,
    pub(super) starts: u32,
    pub(super) last_seq: Seq,
    pub(super) revoked: bool,
    pub(super) link: LinkState,
    pub(super) desired: Option<InForce>,
    pub(super) previous: BTreeMap<AppRef, Assignment>,
    /// Configs that only previous revisions name.
    pub(super) kept: Vec<Config>,
    pub(super) replacing: BTreeMap<AppRef, Replacement>,
    pub(super) watched: BTreeMap<AppRef, Watched>,
    /// From when on a change may be called late, in milliseconds since boot.
    pub(super) judge_from_ms: Option<u64>,
    pub(super) replace_at_ms: Option<u64>,
    /// What apps report of themselves.
    pub(super) values: BTreeMap<AppRef, BTreeMap<String, String>>,
    pub(super) ledger: Ledger,
    pub(super) observed: Observed,
    pub(super) inbox: Inbox,
    pub(super) journal: Journal,
    pub(super) pace: Pace,
    pub(super) streams: Streams,
    pub(super) fetcher: Fetcher,
    pub(super) updates: Updates,
    pub(super) works: Works,
    pub(super) presence_at_ms: Option<u64>,
    pub(super) plan_at_ms: Option<u64>,
    /// Questions of the hub that the machine is being examined for.
    pub(super) diagnosing: BTreeSet<u64>,
    /// Records to be committed before what follows.
    pub(super) changes: Vec<Change>,
    pub(super) effects: Vec<Effect>,
    /// How pods on bridges were said to be.
    pub(super) shapes: Vec<PodShape>,
    /// Images that were said to be needed; `None` before the first time.
    pub(super) needed_images: Option<BTreeSet<Digest>>,
    /// When images were examined last, in milliseconds since boot.
    pub(super) examined: BTreeMap<Digest, u64>,
    /// Devices that were said to be watched.
    pub(super) watched_devices: BTreeSet<WatchedDevice>,
    /// Revisions that run under the name of another.
    pub(super) carried: BTreeMap<AppRef, Carried>,
    /// How new limits of running containers stand.
    pub(super) sizes: BTreeMap<ContainerId, Size>,
    /// When refused limits are tried again, in milliseconds since boot.
    pub(super) resize_at_ms: Option<u64>,
}

/// How the line stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Connected.
    Up {
        /// Which connection of this run.
        connection: u32,
    },
    /// Not connected.
    Down {
        /// Since when, in milliseconds since boot.
        since_ms: u64,
        /// Why, in words.
        reason: String,
    },
}

impl Core {
    /// Takes up what the store holds. `records.starts` already counts this
    /// start.
    pub fn restore(
        identity: Identity,
        start: Start,
        records: Records,
        now: Now,
    ) -> (Core, Vec<Effect>) {
        let inbox = Inbox::new(
            identity.fleet.clone(),
            identity.device.clone(),
            identity.hub,
            identity.key.clone(),
            records.seen,
        );
        let mut core = Core {
            session: start.session,
            conditions: Vec::new(),
            starts: records.starts,
            last_seq: Seq::first_of_start(records.starts),
            revoked: records.revoked,
            link: LinkState::Down {
                since_ms: now.boot_ms,
                reason: "not connected yet".into(),
            },
            desired: None,
            previous: records.previous,
            kept: records.kept,
            replacing: records.replacing,
            watched: BTreeMap::new(),
            judge_from_ms: None,
            replace_at_ms: None,
            values: BTreeMap::new(),
            ledger: records.ledger,
            observed: Observed::default(),
            inbox,
            journal: Journal::new(records.starts),
            pace: Pace::default(),
            streams: Streams::default(),
            fetcher: Fetcher::new(start.session),
            updates: Updates::new(start.update, records.updates, start.session),
            works: Works::new(records.works),
            presence_at_ms: None,
            plan_at_ms: None,
            diagnosing: BTreeSet::new(),
            changes: Vec::new(),
            effects: Vec::new(),
            shapes: Vec::new(),
            needed_images: None,
            examined: BTreeMap::new(),
            watched_devices: BTreeSet::new(),
            carried: records.carried,
            sizes: BTreeMap::new(),
            resize_at_ms: None,
            facts: start.facts,
            identity,
        };
        if let Some(record) = records.desired {
            match read_desired(record.generation, &record.bytes) {
                Ok(mut desired) => {
                    let digest = Digest::of(&record.bytes);
                    desired.assignments = core.carry_on(desired.assignments);
                    core.desired = Some(InForce::of(desired, digest));
                }
                Err(text) => core.trouble(now, "StoreUnreadable", &format!(
                    "the stored desired state cannot be read ({text}): apps that run keep running until the hub sends it anew"
                )),
            }
        }
        core.facts.boot_count = records.boots;
        core.observed.allocatable = core.facts.allocatable.clone();
        if records.boot_id != core.facts.boot_id {
            core.rebooted(now);
        }
        core.restore_updates(now);
        core.step_updates(now);
        core.drop_orphans();
        if core.desired.is_some() {
            core.serve_apps();
        }
        core.settle(now);
        core.watch_devices();
        core.need_images();
        let effects = core.take_effects();
        (core, effects)
    }

    fn rebooted(&mut self, now: Now) {
        let boot_id = self.facts.boot_id.clone();
        let boots = self.facts.boot_count.saturating_add(1);
        self.facts.boot_count = boots;
        self.changes.push(Change::Boot(boot_id, boots));
        self.reboot_replacements(now);
        let before = self.ledger.clone();
        self.works_rebooted();
        let mut policies = BTreeMap::new();
        let mut pods = Vec::new();
        let desired = self.desired.iter().flat_map(|d| &d.assignments);
        let runs = self.works.pods().pods.iter().map(|run| &run.assignment);
        for assignment in desired.chain(self.previous.values()).chain(runs) {
            let mut names = Vec::new();
            for (index, container) in assignment.pod.all_containers().enumerate() {
                let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
                let policy = restart_policy(assignment, index, ExitStatus::Unknown);
                policies.insert(name.clone(), policy);
                names.push(name);
            }
            pods.push((names, assignment.pod.init_containers.len()));
        }
        for (name, entry) in &mut self.ledger {
            entry.rebooted(policies.get(name).copied());
        }
        for (names, inits) in pods {
            rebooted_pod(&mut self.ledger, &names, inits);
        }
        for (name, entry) in &self.ledger {
            if before.get(name) != Some(entry) {
                let change = Change::Ledger(name.clone(), Some(entry.clone()));
                self.changes.push(change);
            }
        }
    }

    /// Folds one event in and says what shall be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let now_ms = now.boot_ms;
        let plan_is_due = self.plan_at_ms.is_some_and(|at| now_ms >= at);
        let mut replace_is_due = self.replacements_due_ms().is_some_and(|at| now_ms >= at);
        // What changes nothing that the plan goes by: with many apps, planning
        // is what costs most.
        let mut replan = match &event {
            Event::Wake | Event::Probed { .. } => plan_is_due,
            Event::StreamOutput { .. }
            | Event::StreamInputTaken { .. }
            | Event::StreamEnded { .. }
            | Event::Usage { .. }
            | Event::Conditions(_)
            | Event::Network { .. }
            | Event::Note { .. }
            | Event::Resized { .. }
            | Event::Value { .. }
            // An app can say it as often as it likes.
            | Event::Hold { .. }
            | Event::Facts(_) => plan_is_due,
            _ => true,
        };
        match event {
            Event::LinkUp { connection } => self.link_up(now, connection),
            Event::LinkDown { reason } => self.link_down(now, reason),
            Event::Message { topic, payload } => self.heard(now, &topic, &payload),
            Event::Wake => {
                let steps = self.fetcher.wake(now_ms);
                self.carry_out(steps);
                self.update_wake(now);
                self.close_streams_when_offline(now);
            }
            Event::Listed(containers) => {
                self.observed.busy.clear();
                self.sizes.clear();
                let containers = containers.into_iter().collect();
                self.observed.health.retain(&containers);
                self.observed.containers = Some(containers);
                self.watch_found(now);
                // A run before this one may not have come to it.
                self.write_configs();
                self.judge_from_now(now);
                self.pace.changed(now_ms, Urgency::Soon);
            }
            Event::RuntimeLost { reason } => {
                self.observed.busy.clear();
                self.observed.health.unanswered();
                self.observed.containers = None;
                self.trouble(now, "RuntimeUnavailable", &reason);
            }
            Event::Created { id, result } => self.created(now, id, result),
            Event::Exited { id, exit } => {
                self.tell_exit(now, &id, &exit);
                self.suspect_image(now, &id, &exit);
                self.release_hold(&id);
                self.observed.health.gone(&id);
                self.observed.set(id, Status::Exited(exit));
                self.pace.changed(now_ms, Urgency::Soon);
            }
            Event::Removed { id, result } => {
                self.observed.busy.remove(&id);
                match result {
                    Ok(()) => self.observed.gone(&id),
                    Err(reason) => {
                        let again_ms = now_ms.saturating_add(REMOVE_AGAIN_MS);
                        self.observed.stuck.insert(id.clone(), again_ms);
                        self.observed.set(id.clone(), Status::Lost);
                        self.trouble(
                            now,
                            "RemoveFailed",
                            &format!("container {id} cannot be taken down: {reason}"),
                        );
                    }
                }
                self.pace.changed(now_ms, Urgency::Soon);
            }
            Event::Probed { id, kind, answer } => replan |= self.probed(now, &id, kind, answer),
            Event::Hooked { id, hook, result } => self.hooked(now, &id, hook, result),
            Event::Image { manifest, result } => {
                let (steps, news) = self.fetcher.prepared(now_ms, manifest, result);
                self.carry_out(steps);
                self.image_news(now, news);
            }
            Event::ImageLost { manifest, reason } => {
                // What runs from it goes on; what starts waits for it.
                if self.observed.has_image(&manifest) {
                    self.observed.images.remove(&manifest);
                    self.trouble(now, "ImageDamaged", &reason);
                }
            }
            Event::BlobFailed { digest, reason } => {
                let (steps, news) = self.fetcher.blob(now_ms, digest, Err(reason));
                self.carry_out(steps);
                self.image_news(now, news);
            }
            Event::BlobFinished { digest, result } => {
                let (steps, news) = self.fetcher.blob(now_ms, digest, result);
                self.carry_out(steps);
                self.image_news(now, news);
            }
            Event::StreamOutput {
                stream,
                channel,
                bytes,
            } => {
                let steps = self.streams.output(stream, channel, bytes);
                self.carry_out(steps);
            }
            Event::StreamInputTaken { stream, bytes } => {
                let steps = self.streams.input_taken(stream, bytes);
                self.carry_out(steps);
            }
            Event::StreamEnded { stream, end } => {
                let steps = self.streams.ended(stream, end);
                self.carry_out(steps);
            }
            Event::Usage {
                request,
                containers,
            } => {
                let reply = Reply::Usage {
                    request,
                    containers,
                };
                self.send(Purpose::Reply, Lane::Reply, encode(&reply));
            }
            Event::Diagnosed { request, findings } => {
                self.diagnosing.remove(&request);
                let reply = Reply::Doctor { request, findings };
                self.send(Purpose::Reply, Lane::Reply, encode(&reply));
            }
            Event::Conditions(conditions) => {
                // Their words hold figures that always move.
                let same = |(a, b): (&Condition, &Condition)| {
                    (&a.kind, a.status, &a.reason) == (&b.kind, b.status, &b.reason)
                };
                if self.conditions.len() != conditions.len()
                    || !self.conditions.iter().zip(&conditions).all(same)
                {
                    self.conditions = conditions;
                    self.pace.changed(now_ms, Urgency::Soon);
                }
            }
            Event::Facts(facts) => {
                let boot_count = self.facts.boot_count;
                self.facts = Facts {
                    boot_count,
                    ..*facts
                };
                self.observed.allocatable = self.facts.allocatable.clone();
                self.pace.changed(now_ms, Urgency::Soon);
            }
            Event::Clock { trusted } => {
                if self.works.trust_clock(trusted) {
                    self.pace.changed(now_ms, Urgency::Soon);
                }
            }
            Event::Network {
                addresses,
                troubles,
            } => self.network(now, addresses, troubles),
            Event::Devices(seen) => self.devices_seen(now, seen),
            Event::Resized { id, result } => self.resized(now, id, result),
            Event::Update(event) => self.update_event(now, event),
            Event::Hold { app, held } => {
                replace_is_due |= self.hold_answered(now, &app, held);
            }
            Event::Value { app, name, text } => self.app_value(now, app, name, text),
            Event::Note { reason, message } => {
                self.note(now, Severity::Normal, reason, None, &message);
            }
            Event::Trouble { reason, message } => self.trouble(now, reason, &message),
        }
        // Whether or not there is anything to plan: a trial's time may be up.
        self.step_updates(now);
        if replan || replace_is_due {
            replan |= self.step_replacements(now);
        }
        if replan {
            self.settle(now);
            self.shape_network();
            self.watch_devices();
            self.need_images();
        } else {
            self.commit();
            self.report_when_due(now);
        }
        self.ask_probes(now);
        self.ask_sizes(now);
        self.take_effects()
    }

    /// When [`Event::Wake`] is wanted, in milliseconds since boot.
    pub fn wake_at(&self) -> Option<u64> {
        let streams = match &self.link {
            LinkState::Down { since_ms, .. } if !self.streams.is_empty() => {
                Some(since_ms.saturating_add(STREAMS_OFFLINE_MS))
            }
            LinkState::Down { .. } | LinkState::Up { .. } => None,
        };
        let asks = self.observed.containers.is_some();
        let probes = self.observed.health.wake_at_ms().filter(|_| asks);
        [
            self.plan_at_ms,
            self.resize_at_ms,
            self.replacements_due_ms(),
            probes,
            self.pace.wake_at_ms(),
            self.fetcher.wake_at_ms(),
            self.updates.wake_at_ms(),
            streams,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- the line

    fn link_up(&mut self, now: Now, connection: u32) {
        self.link = LinkState::Up { connection };
        self.say_presence(now);
        self.pace.link_up();
        let steps = self.fetcher.link_up(now.boot_ms);
        self.carry_out(steps);
        self.update_link_up(now);
    }

    fn link_down(&mut self, now: Now, reason: String) {
        let since_ms = match &self.link {
            LinkState::Down { since_ms, .. } => *since_ms,
            LinkState::Up { .. } => now.boot_ms,
        };
        self.link = LinkState::Down { since_ms, reason };
        self.pace.link_down();
        self.fetcher.link_down();
        self.updates.fetcher.link_down();
    }

    fn close_streams_when_offline(&mut self, now: Now) {
        if let LinkState::Down { since_ms, .. } = &self.link
            && now.boot_ms >= since_ms.saturating_add(STREAMS_OFFLINE_MS)
        {
            let effects = self.streams.close_all();
            self.effects.extend(effects);
        }
    }

    pub(super) fn say_presence(&mut self, now: Now) {
        let LinkState::Up { connection } = self.link else {
            return;
        };
        self.presence_at_ms = Some(now.boot_ms);
        let presence = Presence {
            session: self.session,
            connection,
            generation: self.generation(),
        };
        self.send(Purpose::Presence, Lane::Presence, encode(&presence));
    }

    /// Presence, unless it was said just now.
    pub(super) fn repeat_presence(&mut self, now: Now) {
        let recent = |at: u64| now.boot_ms < at.saturating_add(PRESENCE_GAP_MS);
        if !self.presence_at_ms.is_some_and(recent) {
            self.say_presence(now);
        }
    }

    pub(super) fn next_seq(&mut self) -> Seq {
        self.last_seq = self.last_seq.next();
        // The numbers of this start are used up: begin those of another.
        if self.last_seq.0 >> 32 != u64::from(self.starts) {
            self.starts = self.starts.saturating_add(1);
            self.changes.push(Change::Starts(self.starts));
            self.commit();
        }
        self.last_seq
    }

    pub(super) fn send(&mut self, purpose: Purpose, lane: Lane, body: Vec<u8>) {
        let seq = self.next_seq();
        self.effects.push(Effect::Send(Outgoing {
            purpose,
            lane,
            seq,
            body,
        }));
    }

    pub(super) fn carry_out(&mut self, steps: Steps) {
        for frame in steps.frames {
            self.send(Purpose::StreamOut, Lane::StreamOut, encode(&frame));
        }
        self.effects.extend(steps.effects);
    }

    fn heard(&mut self, now: Now, topic: &str, payload: &[u8]) {
        match self.inbox.hear(topic, payload) {
            Ok(Said::Part | Said::Again) => {}
            Ok(Said::Desired {
                generation,
                bytes,
                seq,
            }) => self.desired(now, generation, bytes, seq),
            Ok(Said::Command(command)) => self.command(now, command),
            Ok(Said::Frame(frame)) => {
                if self.fetcher.owns(frame.stream) {
                    let (steps, news) = self.fetcher.heard(now.boot_ms, frame);
                    self.carry_out(steps);
                    self.image_news(now, news);
                } else if self.updates.fetcher.owns(frame.stream) {
                    self.artifact_frame(now, frame);
                } else {
                    let steps = self.streams.heard(frame);
                    self.carry_out(steps);
                }
            }
            Err(unheard) => self.refusal(now, "MessageRefused", &unheard.to_string()),
        }
    }

    pub(super) fn commit(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.effects.push(Effect::Commit(changes));
        }
    }

    /// The hub is not called again: nothing is owed to it any more.
    pub(super) fn revoke(&mut self, now: Now) {
        self.revoked = true;
        self.changes.push(Change::Revoked);
        self.commit();
        self.link_down(now, "the hub shut this device out".into());
        let closed = self.streams.close_all();
        self.effects.extend(closed);
        self.effects.push(Effect::StopCalling);
    }

    fn take_effects(&mut self) -> Vec<Effect> {
        self.commit();
        std::mem::take(&mut self.effects)
    }

    // --- telling

    pub(super) fn note(
        &mut self,
        now: Now,
        severity: Severity,
        reason: &str,
        app: Option<&AppRef>,
        message: &str,
    ) {
        self.journal.add(now.wall, severity, reason, app, message);
        self.pace.changed(now.boot_ms, Urgency::Soon);
    }

    pub(super) fn trouble(&mut self, now: Now, reason: &str, message: &str) {
        self.note(now, Severity::Warning, reason, None, message);
    }

    /// Something that an attacker can cause at will: told slowly.
    pub(super) fn refusal(&mut self, now: Now, reason: &str, message: &str) {
        let new = self
            .journal
            .add(now.wall, Severity::Warning, reason, None, message);
        let urgency = if new { Urgency::Soon } else { Urgency::Slow };
        self.pace.changed(now.boot_ms, urgency);
    }
}

/// A pod of a machine that was started anew begins anew, with its init
/// containers, unless its main containers have ended for good.
fn rebooted_pod(ledger: &mut Ledger, names: &[InstanceName], inits: usize) {
    let (init_names, main_names) = names.split_at(inits);
    let ended = |name: &InstanceName| {
        let entry = ledger.get(name);
        entry.is_some_and(|entry| entry.phase == Phase::Ended)
    };
    if main_names.iter().all(ended) {
        return;
    }
    for name in init_names {
        if let Some(entry) = ledger.get_mut(name)
            && entry.phase == Phase::Ended
            && entry.last_exit.is_some_and(|exit| exit.is_success())
        {
            entry.phase = Phase::Ready;
        }
    }
}
