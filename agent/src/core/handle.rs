//! The core itself: folds events into what is known, plans, and says what
//! shall be done.

use super::event::{Change, CreateContainer, DesiredRecord, Effect, Event, Now, Outgoing, Records};
use super::fetch::{Fetcher, News};
use super::inbox::{Inbox, Said};
use super::journal::Journal;
use super::ledger::Entry;
use super::name::{InstanceName, log_name};
use super::observed::{ImageState, Observed};
use super::plan::{self, Action, Ledger, Wanted, plan};
use super::report::{self, Pace, Urgency};
use super::streams::{Steps, Streams};
use crate::runtime::{self, ContainerId, Status};
use skerry_wire::message::{Presence, Reply};
use skerry_wire::report::{Condition, Facts, Report, Severity};
use skerry_wire::seal::{KeyPair, PublicKey, Purpose};
use skerry_wire::topic::Lane;
use skerry_wire::{
    AppRef, Assignment, Desired, DeviceId, Digest, FleetId, Generation, Seq, SessionId, decode,
    encode,
};
use std::collections::{BTreeMap, BTreeSet};

/// Containers on a device: what the keeper can hold.
pub const MAX_CONTAINERS: usize = 1_000;
/// A removal that failed is tried again after so many milliseconds.
pub const REMOVE_AGAIN_MS: u64 = 30_000;
/// The hub's streams outlive a lost line for so many milliseconds.
pub const STREAMS_OFFLINE_MS: u64 = 30_000;
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
}

/// The desired state in force.
#[derive(Debug, Clone)]
struct InForce {
    generation: Generation,
    digest: Digest,
    assignments: Vec<Assignment>,
}

/// The agent's brain.
#[derive(Debug, Clone)]
pub struct Core {
    identity: Identity,
    session: SessionId,
    facts: Facts,
    conditions: Vec<Condition>,
    starts: u32,
    last_seq: Seq,
    pub(super) revoked: bool,
    pub(super) link: LinkState,
    desired: Option<InForce>,
    previous: BTreeMap<AppRef, Assignment>,
    pub(super) ledger: Ledger,
    pub(super) observed: Observed,
    inbox: Inbox,
    pub(super) journal: Journal,
    pub(super) pace: Pace,
    pub(super) streams: Streams,
    pub(super) fetcher: Fetcher,
    presence_at_ms: Option<u64>,
    plan_at_ms: Option<u64>,
    /// Records to be committed before what follows.
    changes: Vec<Change>,
    pub(super) effects: Vec<Effect>,
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
            ledger: records.ledger,
            observed: Observed::default(),
            inbox,
            journal: Journal::new(records.starts),
            pace: Pace::default(),
            streams: Streams::default(),
            fetcher: Fetcher::new(start.session),
            presence_at_ms: None,
            plan_at_ms: None,
            changes: Vec::new(),
            effects: Vec::new(),
            facts: start.facts,
            identity,
        };
        if let Some(record) = records.desired {
            match read_desired(record.generation, &record.bytes) {
                Ok(assignments) => {
                    core.desired = Some(InForce {
                        generation: record.generation,
                        digest: Digest::of(&record.bytes),
                        assignments,
                    });
                }
                Err(text) => core.trouble(now, "StoreUnreadable", &format!(
                    "the stored desired state cannot be read ({text}): apps that run keep running until the hub sends it anew"
                )),
            }
        }
        if records.boot_id != core.facts.boot_id {
            core.rebooted();
        }
        core.settle(now);
        let effects = core.take_effects();
        (core, effects)
    }

    fn rebooted(&mut self) {
        let boot_id = self.facts.boot_id.clone();
        self.changes.push(Change::Boot(boot_id));
        let mut policies = BTreeMap::new();
        let desired = self.desired.iter().flat_map(|d| &d.assignments);
        for assignment in desired.chain(self.previous.values()) {
            for container in &assignment.pod.containers {
                let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
                policies.insert(name, assignment.pod.restart_policy);
            }
        }
        for (name, entry) in &mut self.ledger {
            let before = entry.clone();
            entry.rebooted(policies.get(name).copied());
            if *entry != before {
                let change = Change::Ledger(name.clone(), Some(entry.clone()));
                self.changes.push(change);
            }
        }
    }

    /// Folds one event in and says what shall be done.
    pub fn handle(&mut self, now: Now, event: Event) -> Vec<Effect> {
        let now_ms = now.boot_ms;
        match event {
            Event::LinkUp { connection } => self.link_up(now, connection),
            Event::LinkDown { reason } => self.link_down(now, reason),
            Event::Message { topic, payload } => self.heard(now, &topic, &payload),
            Event::Wake => {
                let steps = self.fetcher.wake(now_ms);
                self.carry_out(steps);
                self.close_streams_when_offline(now);
            }
            Event::Listed(containers) => {
                self.observed.busy.clear();
                self.observed.containers = Some(containers.into_iter().collect());
                self.pace.changed(now_ms, Urgency::Soon);
            }
            Event::RuntimeLost { reason } => {
                self.observed.busy.clear();
                self.observed.containers = None;
                self.trouble(now, "RuntimeUnavailable", &reason);
            }
            Event::Created { id, result } => self.created(now, id, result),
            Event::Exited { id, exit } => {
                self.tell_exit(now, &id, &exit);
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
            Event::Image { manifest, result } => {
                let (steps, news) = self.fetcher.prepared(now_ms, manifest, result);
                self.carry_out(steps);
                self.image_news(now, news);
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
            Event::Conditions(conditions) => {
                if self.conditions != conditions {
                    self.conditions = conditions;
                    self.pace.changed(now_ms, Urgency::Soon);
                }
            }
            Event::Facts(facts) => {
                self.facts = facts;
                self.pace.changed(now_ms, Urgency::Soon);
            }
            Event::Trouble { reason, message } => self.trouble(now, reason, &message),
        }
        self.settle(now);
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
        [
            self.plan_at_ms,
            self.pace.wake_at_ms(),
            self.fetcher.wake_at_ms(),
            streams,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // --- what others may see

    /// Who this device is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// This run.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The newest desired state that is committed; 0 before the first.
    pub fn generation(&self) -> Generation {
        self.desired
            .as_ref()
            .map_or(Generation(0), |d| d.generation)
    }

    /// What shall run; empty when the hub has never said.
    pub fn assignments(&self) -> &[Assignment] {
        self.desired.as_ref().map_or(&[], |d| &d.assignments)
    }

    /// Revisions that run until their app's new images are here.
    pub fn previous(&self) -> &BTreeMap<AppRef, Assignment> {
        &self.previous
    }

    /// What we did.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the machine says.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Whether the hub shut this device out.
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// `None` while connected, else why not.
    pub fn offline_reason(&self) -> Option<&str> {
        match &self.link {
            LinkState::Up { .. } => None,
            LinkState::Down { reason, .. } => Some(reason),
        }
    }

    /// What the hub would be told now. Does not count as telling.
    pub fn report(&self, now: Now) -> Report {
        Report {
            generation: self.generation(),
            at: now.wall,
            facts: self.facts.clone(),
            conditions: self.conditions.clone(),
            apps: report::apps(
                now.boot_ms,
                self.assignments(),
                &self.previous,
                &self.observed,
                &self.ledger,
            ),
            events: self.journal.events().cloned().collect(),
        }
    }

    // --- the line

    fn link_up(&mut self, now: Now, connection: u32) {
        self.link = LinkState::Up { connection };
        self.say_presence(now);
        self.pace.link_up();
        let steps = self.fetcher.link_up(now.boot_ms);
        self.carry_out(steps);
    }

    fn link_down(&mut self, now: Now, reason: String) {
        let since_ms = match &self.link {
            LinkState::Down { since_ms, .. } => *since_ms,
            LinkState::Up { .. } => now.boot_ms,
        };
        self.link = LinkState::Down { since_ms, reason };
        self.pace.link_down();
        self.fetcher.link_down();
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

    fn next_seq(&mut self) -> Seq {
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
            Ok(Said::Part) => {}
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
                } else {
                    let steps = self.streams.heard(frame);
                    self.carry_out(steps);
                }
            }
            Err(unheard) => self.refusal(now, "MessageRefused", &unheard.to_string()),
        }
    }

    // --- desired state

    fn desired(&mut self, now: Now, generation: Generation, bytes: Vec<u8>, seq: Seq) {
        let digest = Digest::of(&bytes);
        if let Some(current) = &self.desired {
            if generation < current.generation {
                let text = format!(
                    "desired state {generation} is older than {}, which is in force",
                    current.generation
                );
                return self.refusal(now, "DesiredRefused", &text);
            }
            if generation == current.generation {
                if digest != current.digest {
                    let text = format!(
                        "desired state {generation} came again with other content; was the hub restored without 'skerry restore'?"
                    );
                    self.refusal(now, "DesiredRefused", &text);
                }
                // The hub does not know that we have it.
                self.pace.asked(now.boot_ms);
                return;
            }
        }
        let assignments = match read_desired(generation, &bytes) {
            Ok(assignments) => assignments,
            Err(text) => {
                let text = format!("desired state {generation} cannot be used: {text}");
                return self.refusal(now, "DesiredRefused", &text);
            }
        };
        self.keep_previous(&assignments);
        let record = DesiredRecord { generation, bytes };
        self.changes.push(Change::Desired(record, seq));
        self.desired = Some(InForce {
            generation,
            digest,
            assignments,
        });
        let needed = self.images();
        let steps = self
            .fetcher
            .retain(now.boot_ms, |manifest| needed.contains(manifest));
        self.carry_out(steps);
        self.observed
            .images
            .retain(|manifest, _| needed.contains(manifest));
        self.pace.changed(now.boot_ms, Urgency::Soon);
    }

    /// What runs now stays what runs until the new images are here.
    fn keep_previous(&mut self, new: &[Assignment]) {
        let Some(current) = &self.desired else {
            return;
        };
        for old in &current.assignments {
            let changed = new
                .iter()
                .any(|n| n.app == old.app && n.revision != old.revision);
            let begun = |e: &Entry| e.app == old.app && e.revision == old.revision;
            if changed && !self.previous.contains_key(&old.app) && self.ledger.values().any(begun) {
                self.previous.insert(old.app.clone(), old.clone());
                let change = Change::Previous(old.app.clone(), Some(old.clone()));
                self.changes.push(change);
            }
        }
    }

    fn images(&self) -> BTreeSet<Digest> {
        self.assignments()
            .iter()
            .chain(self.previous.values())
            .flat_map(|a| &a.pod.containers)
            .map(|c| c.image.manifest)
            .collect()
    }

    // --- the machine

    fn created(&mut self, now: Now, id: ContainerId, result: Result<i32, String>) {
        self.observed.busy.remove(&id);
        self.pace.changed(now.boot_ms, Urgency::Soon);
        match result {
            Ok(pid) => {
                let started_at = runtime::Timestamp(now.wall.0.saturating_mul(1_000_000));
                // Its end may have come first.
                if let Some(containers) = &mut self.observed.containers {
                    containers
                        .entry(id)
                        .or_insert(Status::Running { pid, started_at });
                }
            }
            Err(reason) => {
                let Some((name, _)) = InstanceName::of(&id) else {
                    return;
                };
                let Some(entry) = self.ledger.get_mut(&name) else {
                    return;
                };
                if name.incarnation(entry.incarnation) != id {
                    return;
                }
                entry.create_failed(now.boot_ms, &reason);
                let (app, container) = (entry.app.clone(), entry.container.clone());
                let change = Change::Ledger(name, Some(entry.clone()));
                self.changes.push(change);
                let text = format!("container {container} cannot be started: {reason}");
                self.note(now, Severity::Warning, "CreateFailed", Some(&app), &text);
            }
        }
    }

    fn tell_exit(&mut self, now: Now, id: &ContainerId, exit: &runtime::Exit) {
        let Some((name, _)) = InstanceName::of(id) else {
            return;
        };
        let Some(entry) = self.ledger.get(&name) else {
            return;
        };
        let (app, container) = (entry.app.clone(), entry.container.clone());
        let stopping = matches!(entry.phase, super::ledger::Phase::Stopping { .. });
        let how = match exit.status {
            runtime::ExitStatus::Code(code) => format!("ended with code {code}"),
            runtime::ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
        };
        let good = stopping || exit.status == runtime::ExitStatus::Code(0);
        let (severity, reason) = match (exit.oom_killed, good) {
            (true, _) => (Severity::Warning, "OutOfMemory"),
            (false, true) => (Severity::Normal, "Ended"),
            (false, false) => (Severity::Warning, "Ended"),
        };
        let text = format!("container {container} {how}");
        self.note(now, severity, reason, Some(&app), &text);
    }

    fn image_news(&mut self, now: Now, news: News) {
        for (manifest, state) in news {
            let urgency = match &state {
                ImageState::Fetching { .. } => Urgency::Slow,
                ImageState::Ready | ImageState::Failed { .. } => Urgency::Soon,
            };
            if let ImageState::Failed { reason, .. } = &state {
                let image = self
                    .assignments()
                    .iter()
                    .flat_map(|a| &a.pod.containers)
                    .find(|c| c.image.manifest == manifest)
                    .map_or(String::new(), |c| c.image.reference.clone());
                let text = format!("image {image} cannot be had: {reason}");
                self.note(now, Severity::Warning, "ImageUnavailable", None, &text);
            }
            self.observed.images.insert(manifest, state);
            self.pace.changed(now.boot_ms, urgency);
        }
    }

    // --- planning

    fn settle(&mut self, now: Now) {
        // Each pass carries out all that was planned; two or three are enough.
        // The bound is for the case that a law of the plan is broken.
        for _ in 0..16 {
            let wanted = Wanted {
                assignments: self.desired.as_ref().map(|d| d.assignments.as_slice()),
                previous: &self.previous,
            };
            let plan = plan(now.boot_ms, wanted, &self.observed, &self.ledger);
            self.plan_at_ms = plan.wake_at_ms;
            if plan.actions.is_empty() {
                break;
            }
            self.pace.changed(now.boot_ms, Urgency::Soon);
            let mut acts = Vec::new();
            for action in plan.actions {
                let touched = touched(&action);
                plan::apply(now.boot_ms, &mut self.ledger, &action);
                self.observed.begun(now.boot_ms, &action);
                if let Some(name) = touched {
                    let entry = self.ledger.get(&name).cloned();
                    self.changes.push(Change::Ledger(name, entry));
                }
                self.act(now, action, &mut acts);
            }
            self.commit();
            self.effects.extend(acts);
        }
        self.commit();
        self.report_when_due(now);
    }

    fn act(&mut self, now: Now, action: Action, acts: &mut Vec<Effect>) {
        match action {
            Action::FetchImage(image) => acts.extend(self.fetcher.want(&image).effects),
            Action::Create {
                entry,
                assignment,
                container,
            } => {
                let text = format!(
                    "container {} of revision {} is started",
                    entry.container, entry.revision
                );
                self.note(now, Severity::Normal, "Started", Some(&entry.app), &text);
                acts.push(Effect::Create(Box::new(CreateContainer {
                    id: entry.name().incarnation(entry.incarnation),
                    log_name: log_name(&entry.app, &entry.container),
                    assignment,
                    container,
                })));
            }
            Action::Settle { id, .. } => {
                acts.push(Effect::ForgetExit { id: id.clone() });
                acts.push(Effect::Remove { id });
            }
            Action::Stop { id, kill_at_ms, .. } if kill_at_ms <= now.boot_ms => {
                acts.push(Effect::Kill { id });
            }
            Action::Stop { id, .. } => acts.push(Effect::Stop { id }),
            Action::Kill { id, .. } => acts.push(Effect::Kill { id }),
            Action::Remove { id } => {
                acts.push(Effect::ForgetExit { id: id.clone() });
                acts.push(Effect::Remove { id });
            }
            Action::Forget {
                with_log,
                with_scratch,
                ..
            } => {
                if let Some((app, container)) = with_log {
                    let log_name = log_name(&app, &container);
                    acts.push(Effect::RemoveLog { log_name });
                }
                if let Some((app, revision)) = with_scratch {
                    let revision = revision.short();
                    acts.push(Effect::RemoveScratch { app, revision });
                }
            }
            Action::DropPrevious { app } => {
                self.previous.remove(&app);
                self.changes.push(Change::Previous(app, None));
            }
            Action::Adopt { entry } => {
                let text = format!(
                    "container {} was found running and taken over: the agent's store was lost",
                    entry.container
                );
                self.note(now, Severity::Warning, "Adopted", Some(&entry.app), &text);
            }
            Action::Vanished { .. } | Action::Reset { .. } => {}
        }
    }

    fn report_when_due(&mut self, now: Now) {
        if self.pace.wake_at_ms().is_none_or(|at| now.boot_ms < at) {
            return;
        }
        let report = self.report(now);
        let content = report::content(&report);
        let seq = self.last_seq.next();
        if self.pace.send(now.boot_ms, content, seq) {
            let events = self.journal.send();
            let report = report::fit(Report { events, ..report });
            self.send(Purpose::Report, Lane::Report, encode(&report));
        }
    }

    fn commit(&mut self) {
        let changes = std::mem::take(&mut self.changes);
        if !changes.is_empty() {
            self.effects.push(Effect::Commit(changes));
        }
    }

    pub(super) fn revoke(&mut self) {
        self.revoked = true;
        self.changes.push(Change::Revoked);
        self.commit();
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

    fn trouble(&mut self, now: Now, reason: &str, message: &str) {
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

/// The entry of the ledger that an action changes.
fn touched(action: &Action) -> Option<InstanceName> {
    match action {
        Action::Adopt { entry } | Action::Create { entry, .. } => Some(entry.name()),
        Action::Settle { instance, .. }
        | Action::Vanished { instance }
        | Action::Reset { instance }
        | Action::Forget { instance, .. } => Some(instance.clone()),
        Action::Stop { instance, .. } | Action::Kill { instance, .. } => instance.clone(),
        Action::FetchImage(_) | Action::Remove { .. } | Action::DropPrevious { .. } => None,
    }
}

/// Reads and checks a desired state. The error says what is wrong with it.
fn read_desired(generation: Generation, bytes: &[u8]) -> Result<Vec<Assignment>, String> {
    if bytes.len() > Desired::MAX_BYTES {
        return Err("it is too long".into());
    }
    let desired: Desired =
        decode("desired state", bytes).map_err(|e| format!("{e}; update the agent"))?;
    if desired.generation != generation {
        return Err("its generation is not the one it was sent as".into());
    }
    let assignments = desired.assignments;
    if assignments.len() > Desired::MAX_ASSIGNMENTS {
        return Err(format!("more than {} apps", Desired::MAX_ASSIGNMENTS));
    }
    if !assignments.windows(2).all(|pair| pair[0].app < pair[1].app) {
        return Err("its apps are not in order, or one is there twice".into());
    }
    let mut count = 0;
    for assignment in &assignments {
        let names: BTreeSet<_> = assignment.pod.containers.iter().map(|c| &c.name).collect();
        if names.is_empty() || names.len() != assignment.pod.containers.len() {
            let app = &assignment.app;
            return Err(format!("the containers of {app} are none, or share a name"));
        }
        count += names.len();
    }
    if count > MAX_CONTAINERS {
        return Err(format!(
            "{count} containers, at most {MAX_CONTAINERS} are possible"
        ));
    }
    Ok(assignments)
}
