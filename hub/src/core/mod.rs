//! The fleet core: `Fleet::handle(now, event) -> effects`. Pure: no clock, no
//! randomness, no log, no path, nothing asynchronous. The shell commits, seals
//! and sends; the simulation does the same on a virtual clock.
//!
//! Laws, each with a test: a device's generation only rises; handling the same
//! thing twice sends nothing; what is answered or acknowledged is in a
//! [`Effect::Commit`] before it.

mod apps;
mod configs;
mod devices;
pub mod event;
mod join;
mod journal;
mod line;
mod placement;
mod questions;
pub mod record;
mod streams;
mod update;

#[cfg(test)]
mod tests;

pub use event::{
    Answer, AppAction, Effect, Event, Input, Open, Outgoing, Refused, RefusedKind, RequestId,
    StreamOutput,
};
pub use join::{device_password, same_secret, token_id_text};
pub use placement::Blocked;
pub use record::{
    AppRecord, AttemptRecord, AttemptState, Change, ConfigRecord, DeviceRecord, EventRecord,
    HubRecord, MaxUnavailable, Records, ReleaseRecord, RevokedKey, RolloutRecord, RolloutState,
    Standing, Subject, Target, TokenRecord,
};
pub use update::{RolloutCounts, Steer, Wish, compare_versions};

use crate::model::{Image, Platform};
use journal::Journal;
use questions::{About, Questions};
use skerry_wire::message::{Command, CommandBody};
use skerry_wire::report::Report;
use skerry_wire::seal::{KeyPair, PublicKey, Purpose};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{
    AppRef, ConfigRef, DeviceId, Digest, FleetId, Generation, Seq, SessionId, StreamId, Timestamp,
    decode, encode,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use streams::Streams;
use update::Updates;

/// Added to the hub's start count by a restore: more starts than happen
/// between two backups.
const RESTORE_STARTS: u32 = 1 << 16;
/// Desired states and syncs that one event sends at most; the rest follows
/// when they have left, so that 10,000 states never wait in memory.
const SENDS_PER_EVENT: usize = 64;
/// An online device that did not commit its desired state within this time
/// gets it again; the time doubles with each repeat.
const RESEND_AFTER_MS: u64 = 30_000;
/// The resend time doubles so often: half an hour at most.
const MAX_RESEND_DOUBLINGS: u8 = 6;
/// A device that did not answer a sync within this time is asked once more:
/// the question may be lost.
const SYNC_AGAIN_MS: u64 = 20_000;
/// A device that does not answer a sync within this time is offline.
const SYNC_ANSWER_MS: u64 = 60_000;
/// Pulls for platforms of devices under way at once. A device names its own
/// platform, and could else have one pulled with each of its reports.
const MAX_PULLS: usize = 64;

/// The whole fleet, in memory.
pub struct Fleet {
    fleet: FleetId,
    key: KeyPair,
    hub: HubRecord,
    /// The number of the newest message sent.
    sent: Seq,
    devices: BTreeMap<DeviceId, Device>,
    by_key: HashMap<PublicKey, DeviceId>,
    revoked: HashMap<PublicKey, RevokedKey>,
    apps: BTreeMap<AppRef, AppRecord>,
    configs: BTreeMap<ConfigRef, ConfigRecord>,
    tokens: BTreeMap<[u8; 8], TokenRecord>,
    /// By digest, then by name.
    images: BTreeMap<Digest, BTreeMap<String, Image>>,
    journal: Journal,
    streams: Streams,
    updates: Updates,
    line: HubLine,
    /// Devices that shall get their desired state.
    unsent: BTreeSet<DeviceId>,
    /// Devices that shall say where they are.
    unasked: BTreeSet<DeviceId>,
    questions: Questions,
    /// What the shell is pulling.
    pulls: BTreeSet<(Digest, Platform)>,
}

/// The hub's own line to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HubLine {
    Down,
    Up {
        since: Timestamp,
        /// When devices that nobody can tell of were last asked.
        asked: Timestamp,
        /// The queue was full, and there was no room since.
        full: bool,
    },
}

/// One device.
pub struct Device {
    /// What is stored of it.
    pub record: DeviceRecord,
    /// Its newest report, encoded: decoded it would take five times the memory.
    report: Option<Box<[u8]>>,
    /// Whether it is there.
    pub connection: Connection,
    reply_seq: Seq,
    stream_seq: Seq,
    /// The start whose numbers it was told to leave, because the hub has heard
    /// of it or of later ones in another run.
    behind: Option<u32>,
    /// When its desired state was last sent.
    sent_at: Timestamp,
    resends: u8,
    /// Where its join is to be answered, while it waits in the lobby.
    attempt: Option<Box<str>>,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Nobody can tell yet.
    Unknown,
    /// It said so itself, on the connection in its record.
    Online {
        /// By the hub's clock.
        since: Timestamp,
    },
    /// Its will came, or it did not answer.
    Offline {
        /// By the hub's clock.
        since: Timestamp,
    },
}

impl Device {
    fn new(record: DeviceRecord) -> Self {
        Self {
            report: None,
            connection: Connection::Unknown,
            // What came before the last presence is old: see `line.rs`.
            reply_seq: record.presence_seq,
            stream_seq: record.presence_seq,
            behind: None,
            sent_at: Timestamp(0),
            resends: 0,
            attempt: None,
            record,
        }
    }

    /// Its newest report, without events.
    pub fn report(&self) -> Option<Report> {
        decode("report", self.report.as_deref()?).ok()
    }

    fn is_online(&self) -> bool {
        self.record.standing == Standing::Approved
            && matches!(self.connection, Connection::Online { .. })
    }
}

/// What one event leads to, in the making.
struct Turn {
    now: Timestamp,
    changes: Vec<Change>,
    effects: Vec<Effect>,
    /// Devices whose record changed.
    dirty: BTreeSet<DeviceId>,
}

impl Turn {
    fn answer(&mut self, request: RequestId, result: Result<Answer, Refused>) {
        self.effects.push(Effect::Answer(request, result));
    }
}

fn refused(
    kind: RefusedKind,
    reason: &'static str,
    message: impl Into<String>,
) -> Result<Answer, Refused> {
    Err(Refused {
        kind,
        reason,
        message: message.into(),
    })
}

fn no_such_device(device: &DeviceId) -> Result<Answer, Refused> {
    refused(
        RefusedKind::NotFound,
        "DeviceNotFound",
        format!("there is no device '{device}': 'skerry get devices' lists them"),
    )
}

impl Fleet {
    /// The fleet as it was stored, and what must be committed before anything
    /// is sent: the start count, and after a restore the raised generations.
    pub fn restore(fleet: FleetId, key: KeyPair, records: Records) -> (Self, Vec<Change>) {
        let mut changes = Vec::new();
        let mut hub = records.hub;
        let raise = std::mem::take(&mut hub.restored);
        let step = if raise { RESTORE_STARTS } else { 1 };
        hub.starts = hub.starts.saturating_add(step);
        let raised = |generation: Generation| {
            Generation(generation.0.saturating_add(Generation::RESTORE_STEP))
        };
        if raise {
            hub.floor = raised(hub.floor);
        }
        changes.push(Change::PutHub(hub.clone()));

        let mut devices = BTreeMap::new();
        let mut by_key = HashMap::new();
        for mut record in records.devices {
            if raise {
                record.generation = raised(record.generation);
                changes.push(Change::PutDevice(Box::new(record.clone())));
            }
            by_key.insert(record.key, record.device.clone());
            devices.insert(record.device.clone(), Device::new(record));
        }
        for (device, report) in records.reports {
            if let Some(device) = devices.get_mut(&device) {
                device.report = Some(report);
            }
        }
        let mut images: BTreeMap<Digest, BTreeMap<String, Image>> = BTreeMap::new();
        for image in records.images {
            let names = images.entry(image.digest).or_default();
            names.insert(image.reference.clone(), image);
        }
        let mut this = Self {
            fleet,
            key,
            sent: Seq::first_of_start(hub.starts),
            streams: Streams::of_start(hub.starts),
            questions: Questions::of_start(hub.starts),
            hub,
            devices,
            by_key,
            revoked: records.revoked.into_iter().map(|r| (r.key, r)).collect(),
            apps: records
                .apps
                .into_iter()
                .map(|a| (a.app.app.clone(), a))
                .collect(),
            configs: records
                .configs
                .into_iter()
                .map(|c| (c.object.config.reference(), c))
                .collect(),
            tokens: records.tokens.into_iter().map(|t| (t.id, t)).collect(),
            images,
            journal: Journal::restore(records.events),
            updates: Updates::restore(records.releases, records.rollouts, records.attempts),
            line: HubLine::Down,
            unsent: BTreeSet::new(),
            unasked: BTreeSet::new(),
            pulls: BTreeSet::new(),
        };
        // Another version of the hub may mean other content by the same apps.
        let all: Vec<DeviceId> = this.devices.keys().cloned().collect();
        let mut turn = Turn {
            now: Timestamp(0),
            changes,
            effects: Vec::new(),
            dirty: BTreeSet::new(),
        };
        for device in all {
            this.place(&mut turn, &device, false);
        }
        this.collect_dirty(&mut turn);
        (this, turn.changes)
    }

    /// Takes one event. `now` is the hub's clock and may jump.
    pub fn handle(&mut self, now: Timestamp, event: Event) -> Vec<Effect> {
        let mut turn = Turn {
            now,
            changes: Vec::new(),
            effects: Vec::new(),
            dirty: BTreeSet::new(),
        };
        self.take(&mut turn, event);
        self.step_rollouts(&mut turn);
        self.pump(&mut turn);
        self.collect_dirty(&mut turn);
        if !turn.changes.is_empty() {
            turn.effects.insert(0, Effect::Commit(turn.changes));
        }
        turn.effects
    }

    fn take(&mut self, turn: &mut Turn, event: Event) {
        match event {
            Event::Message { topic, payload } => self.message(turn, &topic, &payload),
            Event::LinkUp { fresh_broker } => self.link_up(turn, fresh_broker),
            Event::LinkDown => self.link_down(turn),
            Event::NotSent(device) => {
                self.unsent.insert(device);
                if let HubLine::Up { full, .. } = &mut self.line {
                    *full = true;
                }
            }
            Event::Room => {
                if let HubLine::Up { full, .. } = &mut self.line {
                    *full = false;
                }
            }
            Event::SendMore => {}
            Event::Tick => self.tick(turn),
            Event::ImageAdded { request, image } => self.image_added(turn, request, image),
            Event::PullFailed {
                reference,
                digest,
                platform,
                message,
            } => {
                let message = format!("cannot pull {reference} for {platform}: {message}");
                self.pulls.remove(&(digest, platform));
                self.warn(turn, None, None, "PullFailed", message);
            }
            Event::Apply {
                request,
                configs,
                apps,
            } => self.apply(turn, request, configs, apps),
            Event::Delete {
                request,
                configs,
                apps,
            } => self.delete(turn, request, &configs, apps),
            Event::Restart { request, app } => self.restart(turn, request, &app),
            Event::CreateToken {
                request,
                id,
                secret,
                labels,
                uses,
                expires,
                manual,
            } => {
                let created = turn.now;
                let token = TokenRecord {
                    id,
                    secret,
                    labels,
                    uses_left: uses,
                    created,
                    expires,
                    manual,
                };
                self.create_token(turn, request, token);
            }
            Event::DeleteToken { request, id } => self.delete_token(turn, request, id),
            Event::Approve {
                request,
                device,
                labels,
            } => self.approve(turn, request, device, labels),
            Event::Label {
                request,
                device,
                set,
                remove,
            } => self.label(turn, request, device, set, remove),
            Event::Revoke { request, device } => self.revoke(turn, request, device),
            Event::Usage { request, device } => self.ask(turn, request, device, About::Usage),
            Event::Doctor { request, device } => self.ask(turn, request, device, About::Doctor),
            Event::AddRelease { request, signed } => self.add_release(turn, request, signed),
            Event::DeleteRelease {
                request,
                kind,
                version,
            } => self.delete_release(turn, request, kind, version),
            Event::StartRollout {
                request,
                wish,
                selector,
                max_unavailable,
                confirm_secs,
            } => self.start_rollout(turn, request, wish, selector, max_unavailable, confirm_secs),
            Event::SteerRollout {
                request,
                subject,
                steer,
            } => self.steer_rollout(turn, request, subject, steer),
            Event::OpenStream {
                request,
                device,
                open,
            } => self.open_stream(turn, request, device, open),
            Event::StreamInput { stream, input } => self.stream_input(turn, stream, input),
            Event::StreamConsumed { stream, bytes } => self.stream_consumed(turn, stream, bytes),
            Event::CloseStream { stream } => self.close_stream(turn, stream),
            Event::BlobRead {
                device,
                stream,
                result,
            } => self.blob_read(turn, device, stream, result),
        }
    }

    fn collect_dirty(&mut self, turn: &mut Turn) {
        for device in std::mem::take(&mut turn.dirty) {
            if let Some(found) = self.devices.get(&device) {
                turn.changes
                    .push(Change::PutDevice(Box::new(found.record.clone())));
            }
        }
    }

    fn link_up(&mut self, turn: &mut Turn, fresh_broker: bool) {
        let since = turn.now;
        self.line = HubLine::Up {
            since,
            asked: since,
            full: false,
        };
        for (name, device) in &mut self.devices {
            if device.record.standing != Standing::Approved {
                continue;
            }
            if fresh_broker {
                device.connection = Connection::Offline { since };
            } else {
                // Also one whose session is not known, as after a backup from
                // before it came: that refuses the question, and says its own.
                self.unasked.insert(name.clone());
            }
        }
    }

    fn link_down(&mut self, turn: &mut Turn) {
        if self.line == HubLine::Down {
            return;
        }
        self.line = HubLine::Down;
        self.unasked.clear();
        self.unsent.clear();
        for device in self.devices.values_mut() {
            device.connection = Connection::Unknown;
        }
        self.end_all_streams(turn, "the hub lost its broker: try again");
    }

    /// Sends what waits, within [`SENDS_PER_EVENT`].
    fn pump(&mut self, turn: &mut Turn) {
        if !matches!(self.line, HubLine::Up { full: false, .. }) {
            return;
        }
        for _ in 0..SENDS_PER_EVENT {
            if let Some(device) = self.unsent.pop_first() {
                self.send_desired(turn, &device);
            } else if let Some(device) = self.unasked.pop_first() {
                self.send_command(turn, &device, CommandBody::Sync);
            } else {
                return;
            }
        }
        if !self.unsent.is_empty() || !self.unasked.is_empty() {
            turn.effects.push(Effect::MoreToSend);
        }
    }

    fn tick(&mut self, turn: &mut Turn) {
        let now = turn.now;
        self.expire_tokens(turn);
        self.expire_attempts(turn);
        self.expire_streams(turn);
        self.expire_questions(turn);
        let HubLine::Up { since, full, asked } = &mut self.line else {
            return;
        };
        // The line's word of room may have overtaken ours of none. Trying once
        // a second costs little; waiting for a word that was said costs all.
        *full = false;
        let sync_over = now.0.abs_diff(since.0) >= SYNC_ANSWER_MS;
        let ask_again = !sync_over && now.0.abs_diff(asked.0) >= SYNC_AGAIN_MS;
        if ask_again {
            *asked = now;
        }
        for (name, device) in &mut self.devices {
            if device.record.standing != Standing::Approved {
                continue;
            }
            if sync_over && device.connection == Connection::Unknown {
                device.connection = Connection::Offline { since: now };
                self.updates.due = true;
            }
            if ask_again
                && device.connection == Connection::Unknown
                && device.record.session != SessionId(0)
            {
                self.unasked.insert(name.clone());
            }
            let wait = RESEND_AFTER_MS << device.resends;
            let behind = device.record.applied < device.record.generation;
            if device.is_online() && behind && now.0.abs_diff(device.sent_at.0) >= wait {
                device.resends = (device.resends + 1).min(MAX_RESEND_DOUBLINGS);
                self.unsent.insert(name.clone());
            }
        }
    }

    /// Whether a command can reach the device now.
    fn reachable(&self, device: &DeviceId) -> Result<(), Refused> {
        let Some(found) = self.devices.get(device) else {
            return no_such_device(device).map(|_| ());
        };
        if found.is_online() && self.line != HubLine::Down {
            return Ok(());
        }
        let why = match found.record.standing {
            Standing::Pending => format!("waits in the lobby: 'skerry approve {device}'"),
            Standing::Revoked => "was shut out".to_string(),
            Standing::Approved => "is not connected: try again when it is online".to_string(),
        };
        Err(Refused {
            kind: RefusedKind::Unavailable,
            reason: "DeviceUnreachable",
            message: format!("device '{device}' {why}"),
        })
    }

    fn next_seq(&mut self, turn: &mut Turn) -> Seq {
        self.sent = self.sent.next();
        // 2^32 messages flowed over into the next start's numbers: own them.
        let start = (self.sent.0 >> 32) as u32;
        if start != self.hub.starts {
            self.hub.starts = start;
            turn.changes.push(Change::PutHub(self.hub.clone()));
        }
        self.sent
    }

    fn send(
        &mut self,
        turn: &mut Turn,
        to: PublicKey,
        topic: Topic,
        purpose: Purpose,
        body: Vec<u8>,
    ) {
        let seq = self.next_seq(turn);
        turn.effects.push(Effect::Send(Outgoing {
            to,
            topic,
            purpose,
            seq,
            body,
        }));
    }

    fn send_command(&mut self, turn: &mut Turn, device: &DeviceId, body: CommandBody) {
        let Some(found) = self.devices.get(device) else {
            return;
        };
        let (to, session) = (found.record.key, found.record.session);
        let topic = Topic::Device(device.clone(), Lane::Command);
        let body = encode(&Command { session, body });
        self.send(turn, to, topic, Purpose::Command, body);
    }
}

/// For whoever shows the fleet.
impl Fleet {
    /// Which fleet this is.
    pub fn id(&self) -> &FleetId {
        &self.fleet
    }

    /// The hub's public key.
    pub fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    /// The key that seals.
    pub fn key(&self) -> &KeyPair {
        &self.key
    }

    /// All devices, by name.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.devices.values()
    }

    /// One device.
    pub fn device(&self, device: &DeviceId) -> Option<&Device> {
        self.devices.get(device)
    }

    /// All apps, by name.
    pub fn apps(&self) -> impl Iterator<Item = &AppRecord> {
        self.apps.values()
    }

    /// One app.
    pub fn app(&self, app: &AppRef) -> Option<&AppRecord> {
        self.apps.get(app)
    }

    /// All tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &TokenRecord> {
        self.tokens.values()
    }

    /// All images.
    pub fn images(&self) -> impl Iterator<Item = &Image> {
        self.images.values().flat_map(BTreeMap::values)
    }

    /// The newest image of a name.
    pub fn image(&self, reference: &str) -> Option<&Image> {
        let names = self.images.values();
        names
            .filter_map(|names| names.get(reference))
            .max_by_key(|image| image.added)
    }

    /// Events above `after`, oldest first.
    pub fn events(&self, after: u64) -> impl Iterator<Item = &EventRecord> {
        self.journal.after(after)
    }

    /// Whether the hub's line is up.
    pub fn is_connected(&self) -> bool {
        self.line != HubLine::Down
    }

    /// The platforms of all devices that are let in or wait for it.
    pub fn platforms(&self) -> BTreeSet<Platform> {
        let devices = self.devices.values();
        devices
            .filter(|d| d.record.standing != Standing::Revoked)
            .map(|d| d.record.platform.clone())
            .filter(|p| !p.arch.is_empty())
            .collect()
    }

    /// How many streams are open, for tests and figures.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether this stream is open.
    pub fn has_stream(&self, stream: StreamId) -> bool {
        self.streams.has(stream)
    }
}
