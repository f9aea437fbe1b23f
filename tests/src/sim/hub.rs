//! The hub's process around its real core: one loop that commits what a batch
//! of events changed and then acts, on a store that keeps what was committed.

use super::Mutant;
use super::broker::{Message, Party};
use super::catalog::Catalog;
use super::chance::Chance;
use super::hub_store::HubStore;
use super::laws::{Lawful, broken};
use super::operator::{Ask, Intent};
use super::software::release_keys;
use super::world::{EPOCH_MS, Happening, World};
use skerry_hub::core::{
    Answer, Change, Effect, Event, Fleet, Outgoing, RequestId, Standing, StreamOutput,
};
use skerry_wire::seal::{KeyPair, Purpose, seal};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{
    AppRef, Desired, DesiredPart, DeviceId, Digest, Generation, RevisionId, StreamId, Timestamp,
    decode,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Messages that the hub's line holds while it is down.
const OUTBOX: usize = 64;
/// Events that the journal may hold.
const MAX_EVENTS: usize = 5_000;
/// Backups that are kept.
const BACKUPS: usize = 3;

/// The hub's machine.
pub struct HubHost {
    /// The hub's key.
    pub key: KeyPair,
    /// Its disk.
    pub store: HubStore,
    /// What the last commit changed, for a disk that forgets it.
    unsynced: Option<HubStore>,
    /// The core, while the hub runs.
    pub fleet: Option<Fleet>,
    /// Counts its starts and ends.
    pub run: u64,
    /// The broker is inside the hub.
    pub embedded: bool,
    /// It crashes after so many effects more.
    pub doom: Option<u64>,
    /// Added to its clock.
    pub clock_shift_ms: u64,
    inbox: Vec<Event>,
    working: bool,
    /// Its run has had a line.
    pub connected_before: bool,
    outbox: VecDeque<Message>,
    backups: VecDeque<(HubStore, Intent)>,
    /// Counts the times that it went back to a backup.
    pub restores: u64,
    pub(super) asks: BTreeMap<RequestId, Ask>,
    pub(super) last_request: u64,
    /// The digest of each desired state that left, by reader and number.
    made: BTreeMap<([u8; 32], Generation), Digest>,
    /// Messages that came and are not committed yet.
    hearing: Vec<(u64, Party)>,
    /// Messages that were committed: by which run, since which restore.
    heard: BTreeMap<u64, (u64, u64)>,
    /// What logs gave so far.
    pub(super) logs: BTreeMap<StreamId, Vec<u8>>,
}

impl HubHost {
    /// A hub that was never started.
    pub fn new(entropy: &mut Chance, catalog: &Catalog, embedded: bool) -> Self {
        let mut store = HubStore::default();
        for one in &catalog.images {
            store.apply(Change::PutImage(Box::new(one.image.clone())));
        }
        Self {
            key: KeyPair::generate(entropy.rng()),
            store,
            unsynced: None,
            fleet: None,
            run: 0,
            embedded,
            doom: None,
            clock_shift_ms: 0,
            inbox: Vec::new(),
            working: false,
            connected_before: false,
            outbox: VecDeque::new(),
            backups: VecDeque::new(),
            restores: 0,
            asks: BTreeMap::new(),
            last_request: 0,
            made: BTreeMap::new(),
            hearing: Vec::new(),
            heard: BTreeMap::new(),
            logs: BTreeMap::new(),
        }
    }

    /// Notes that a message came to this run.
    pub fn heard(&mut self, message: &Message) {
        if self.fleet.is_some() {
            self.hearing.push((message.id, message.from));
        }
    }

    /// Whether the run, and the store, have surely taken this message.
    pub fn took(&self, message: &Message) -> (bool, bool) {
        match self.heard.get(&message.id) {
            Some((run, restores)) => (*run == self.run, *restores == self.restores),
            None => (false, false),
        }
    }

    /// The digest of what was sent to a reader under a number.
    pub fn made(&self, key: &[u8; 32], generation: Generation) -> Option<Digest> {
        self.made.get(&(*key, generation)).copied()
    }
}

impl World {
    pub(super) fn hub_now(&self) -> Timestamp {
        Timestamp(EPOCH_MS + self.now_ms + self.hub.clock_shift_ms)
    }

    pub(super) fn hub_start(&mut self) -> Lawful {
        let records = self.hub.store.records();
        let (mut fleet, changes) =
            Fleet::restore(self.fleet.clone(), self.hub.key.clone(), records);
        fleet.trust(release_keys());
        self.hub.fleet = Some(fleet);
        self.count("hub start", String::new);
        if self.hub_falls() {
            self.hub_crash();
            return Ok(());
        }
        self.hub_commit(changes)?;
        self.hub.connected_before = false;
        let run = self.hub.run;
        self.later(1_000, Happening::HubTick(run));
        let delay_ms = self.chance.between(1, 100);
        self.later(delay_ms, Happening::HubConnect(run));
        Ok(())
    }

    pub(super) fn hub_tick(&mut self, run: u64) -> Lawful {
        if run == self.hub.run {
            self.later(1_000, Happening::HubTick(run));
            self.hub_event(Event::Tick);
        }
        Ok(())
    }

    pub(super) fn hub_connect(&mut self) -> Lawful {
        let run = self.hub.run;
        if self.hub.fleet.is_none() || self.broker.line(Party::Hub).is_some() {
            return Ok(());
        }
        if !self.broker.up {
            let delay_ms = self.chance.between(100, 2_000);
            self.later(delay_ms, Happening::HubConnect(run));
            return Ok(());
        }
        let (_, kept) = self.broker.connect(Party::Hub);
        let fresh_broker = self.hub.embedded && !self.hub.connected_before;
        self.hub.connected_before = true;
        for message in std::mem::take(&mut self.hub.outbox) {
            self.publish(message)?;
        }
        self.hub_event(Event::LinkUp { fresh_broker });
        for message in kept {
            self.later(1, Happening::Deliver(message));
        }
        Ok(())
    }

    pub(super) fn hub_line_down(&mut self) {
        if self.broker.line(Party::Hub).is_some() {
            return;
        }
        self.hub_event(Event::LinkDown);
        let run = self.hub.run;
        let delay_ms = self.chance.between(10, 2_000);
        self.later(delay_ms, Happening::HubConnect(run));
    }

    /// Cuts the hub's own line.
    pub(super) fn hub_cut(&mut self) {
        if self.broker.cut(Party::Hub) {
            let run = self.hub.run;
            let delay_ms = self.chance.between(0, 200);
            self.later(delay_ms, Happening::HubLineDown(run));
        }
    }

    /// Something for the hub's loop. What comes together goes into one commit.
    pub(super) fn hub_event(&mut self, event: Event) {
        if self.hub.fleet.is_none() {
            return;
        }
        self.hub.inbox.push(event);
        if !self.hub.working {
            self.hub.working = true;
            let delay_ms = self.chance.below(4);
            self.later(delay_ms, Happening::HubWork);
        }
    }

    pub(super) fn hub_work(&mut self) -> Lawful {
        self.hub.working = false;
        let events = std::mem::take(&mut self.hub.inbox);
        self.hub_takes(events).map(|_| ())
    }

    /// Handles, commits, acts. Gives back what was done.
    pub(super) fn hub_takes(&mut self, events: Vec<Event>) -> Lawful<(Vec<Change>, Vec<Effect>)> {
        let now = self.hub_now();
        let mut changes = Vec::new();
        let mut effects = Vec::new();
        let mut intent = self.intent.clone();
        for event in events {
            let Some(fleet) = &mut self.hub.fleet else {
                return Ok((changes, effects));
            };
            let mut sends = Vec::new();
            for effect in fleet.handle(now, event) {
                match effect {
                    Effect::Commit(more) => changes.extend(more),
                    Effect::Answer(id, Ok(answer)) => {
                        if let Some(ask) = self.hub.asks.get(&id) {
                            intent.done(ask);
                        }
                        effects.push(Effect::Answer(id, Ok(answer)));
                    }
                    Effect::Send(message) => {
                        sends.push(message.clone());
                        effects.push(Effect::Send(message));
                    }
                    other => effects.push(other),
                }
            }
            for message in sends {
                self.check_desired(&intent, &message)?;
            }
        }
        if self.hub_falls() {
            self.hub_crash();
            return Ok((changes, effects));
        }
        self.hub_commit(changes.clone())?;
        let when = (self.hub.run, self.hub.restores);
        for (id, from) in std::mem::take(&mut self.hub.hearing) {
            if self.is_approved(from) {
                self.hub.heard.insert(id, when);
            }
        }
        self.intent = intent;
        self.check_hub()?;
        for effect in effects.clone() {
            if self.hub_falls() {
                self.hub_crash();
                return Ok((changes, effects));
            }
            self.hub_act(effect)?;
        }
        Ok((changes, effects))
    }

    /// From whom the hub takes messages at all.
    pub(super) fn is_approved(&self, from: Party) -> bool {
        let Party::Device(number) = from else {
            return false;
        };
        let key = self.devices[number].key.public();
        let mut devices = self.hub.store.devices.values();
        devices.any(|d| d.key == key && d.standing == Standing::Approved)
    }

    fn hub_falls(&mut self) -> bool {
        match &mut self.hub.doom {
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
            None => false,
        }
    }

    fn hub_commit(&mut self, changes: Vec<Change>) -> Lawful {
        if changes.is_empty() {
            return Ok(());
        }
        if self.has_mutant(Mutant::HubCommitNotSynced) {
            self.hub.unsynced = Some(self.hub.store.clone());
        }
        for change in changes {
            if let Change::PutDevice(new) = &change
                && let Some(old) = self.hub.store.devices.get(&new.device)
                && new.generation < old.generation
            {
                return broken(
                    "a device's generation only rises",
                    format!("on the hub from {} to {}", old.generation, new.generation),
                );
            }
            if let Change::PutAttempt(attempt) = &change {
                self.hub.store.check_attempt(attempt)?;
                self.count_attempt(attempt);
            }
            if let Change::PutRollout(rollout) = &change {
                self.count_rollout(rollout);
            }
            self.hub.store.apply(change);
        }
        Ok(())
    }

    /// The hub's process ends here and now.
    fn hub_crash(&mut self) {
        self.count("hub crash", String::new);
        self.hub.doom = None;
        self.hub.fleet = None;
        self.hub.run += 1;
        self.hub.connected_before = false;
        self.hub.inbox.clear();
        self.hub.hearing.clear();
        self.hub.outbox.clear();
        self.hub.asks.clear();
        self.hub.logs.clear();
        if self.has_mutant(Mutant::HubCommitNotSynced)
            && let Some(before) = self.hub.unsynced.take()
        {
            self.hub.store = before;
        }
        self.broker.cut(Party::Hub);
        if self.hub.embedded {
            self.broker_forgets();
        }
        let run = self.hub.run;
        let delay_ms = self.chance.between(20, 4_000);
        self.later(delay_ms, Happening::HubStart(run));
    }

    /// `skerry backup`.
    pub(super) fn hub_backup(&mut self) {
        self.count("backup", String::new);
        if self.hub.backups.len() == BACKUPS {
            self.hub.backups.pop_front();
        }
        let backup = (self.hub.store.clone(), self.intent.clone());
        self.hub.backups.push_back(backup);
    }

    /// `skerry restore` of some backup, on a hub that was killed.
    pub(super) fn hub_restore(&mut self) {
        if self.hub.backups.is_empty() {
            return;
        }
        let number = self.chance.below(self.hub.backups.len() as u64) as usize;
        let (mut store, intent) = self.hub.backups[number].clone();
        self.hub_crash();
        self.count("restore", String::new);
        if !self.has_mutant(Mutant::RestoreUnmarked) {
            for change in store.records().mark_restored(self.hub_now()) {
                store.apply(change);
            }
        }
        self.hub.store = store;
        self.hub.unsynced = None;
        self.hub.restores += 1;
        self.intent = intent;
    }

    /// What leaves to a device is what the operator wants of it.
    fn check_desired(&mut self, intent: &Intent, message: &Outgoing) -> Lawful {
        if message.purpose != Purpose::Desired {
            return Ok(());
        }
        let Ok(part) = decode::<DesiredPart>("part", &message.body) else {
            return broken(
                "the hub speaks its own language",
                "a part of a desired state",
            );
        };
        let Ok(desired) = decode::<Desired>("desired", &part.bytes) else {
            return Ok(()); // a state of several parts
        };
        let fleet = self.hub.fleet.as_ref();
        let mut devices = fleet.into_iter().flat_map(Fleet::devices);
        let Some(device) = devices.find(|d| d.record.key == message.to) else {
            return broken(
                "only devices get desired states",
                format!("{:?}", message.to),
            );
        };
        if device.record.standing != Standing::Approved {
            return broken(
                "only who was let in gets desired states",
                format!("{}", device.record.device),
            );
        }
        let said = desired.assignments.iter().map(|a| (&a.app, a.revision));
        let said: BTreeSet<(&AppRef, RevisionId)> = said.collect();
        let wanted = intent.placed_on(&device.record.labels);
        if said != wanted {
            return broken(
                "a device is told what its operator wants",
                format!("{said:?} instead of {wanted:?}"),
            );
        }
        Ok(())
    }

    /// What is acknowledged is durable, and nothing is shown that is not so.
    fn check_hub(&self) -> Lawful {
        let store = &self.hub.store;
        let stored = store
            .apps
            .iter()
            .map(|(name, r)| (name, (&r.app, &r.revision)));
        let wanted = self.intent.apps.iter().map(|(name, (a, r))| (name, (a, r)));
        if !stored.eq(wanted) {
            return broken(
                "no acknowledged apply is lost",
                format!(
                    "the store has {:?}, acknowledged were {:?}",
                    store.apps.keys(),
                    self.intent.apps.keys()
                ),
            );
        }
        let Some(fleet) = &self.hub.fleet else {
            return Ok(());
        };
        if store.events.len() > MAX_EVENTS || fleet.open_streams() > 64 {
            return broken("everything is bounded", "too many events or streams");
        }
        for device in fleet.devices() {
            let record = &device.record;
            let host = self.devices.iter().find(|h| h.key.public() == record.key);
            let Some(host) = host else {
                return broken("only who has a token joins", format!("{}", record.device));
            };
            let has = host.said();
            if record.applied > has {
                return broken(
                    "applied means committed by the device",
                    format!(
                        "{} at {}, the device has {has}",
                        record.device, record.applied
                    ),
                );
            }
        }
        Ok(())
    }

    fn hub_act(&mut self, effect: Effect) -> Lawful {
        match effect {
            Effect::Commit(_) | Effect::Happened(_) | Effect::PullImage { .. } => Ok(()),
            Effect::Send(message) => self.hub_send(message),
            Effect::Disconnect(name) => {
                let hosts: Vec<usize> = self
                    .devices
                    .iter()
                    .filter(|host| host.name.as_ref() == Some(&name))
                    .map(|host| host.number)
                    .collect();
                if self.hub.embedded {
                    hosts
                        .into_iter()
                        .for_each(|host| self.agent_cut(host, true));
                }
                Ok(())
            }
            Effect::Answer(id, result) => {
                let Some(ask) = self.hub.asks.remove(&id) else {
                    return Ok(());
                };
                self.tell(|| format!("answer to {ask:?}: {result:?}"));
                match result {
                    Ok(answer) => self.check_answer(ask, answer),
                    Err(_) => Ok(()),
                }
            }
            Effect::StreamOut(stream, output) => self.stream_out(stream, output),
            Effect::RemoveBlob(digest) => {
                self.catalog.blobs.remove(&digest);
                Ok(())
            }
            Effect::ReadBlob {
                device,
                stream,
                digest,
                offset,
                max_bytes,
            } => {
                let blob = self.catalog.blobs.get(&digest);
                let result = blob.ok_or("no such blob".to_string()).map(|bytes| {
                    let rest = bytes.get(offset as usize..).unwrap_or_default();
                    rest[..rest.len().min(max_bytes)].to_vec()
                });
                let event = Event::BlobRead {
                    device,
                    stream,
                    result,
                };
                let delay_ms = self.chance.between(1, 20);
                let run = self.hub.run;
                self.later(delay_ms, Happening::BlobRead(run, Box::new(event)));
                Ok(())
            }
            Effect::MoreToSend => {
                self.hub_event(Event::SendMore);
                Ok(())
            }
        }
    }

    fn hub_send(&mut self, message: Outgoing) -> Lawful {
        if message.purpose == Purpose::Desired
            && let Ok(part) = decode::<DesiredPart>("part", &message.body)
        {
            let key = (*message.to.as_bytes(), part.generation);
            let old = self.hub.made.insert(key, part.whole);
            if old.is_some_and(|old| old != part.whole) {
                return broken(
                    "a generation never names two contents",
                    format!("generation {}", part.generation),
                );
            }
        }
        let topic = self.topic(&message.topic);
        let sealed = seal(
            message.purpose,
            message.seq,
            &topic,
            &self.hub.key,
            &message.to,
            &message.body,
            self.entropy.rng(),
        );
        let Ok(sealed) = sealed else {
            return broken("what the hub says can be sealed", topic.to_string());
        };
        for to in self.readers(&message.topic) {
            let (purpose, seq) = (message.purpose, message.seq);
            let ready = self.message(Party::Hub, to, &topic, sealed.clone(), purpose, seq);
            if self.broker.line(Party::Hub).is_some() {
                self.publish(ready)?;
            } else if self.hub.outbox.len() < OUTBOX {
                self.hub.outbox.push_back(ready);
            } else if let Topic::Device(device, Lane::Desired) = &message.topic {
                self.hub_event(Event::NotSent(device.clone()));
            }
        }
        Ok(())
    }

    fn stream_out(&mut self, stream: StreamId, output: StreamOutput) -> Lawful {
        match output {
            StreamOutput::Data(_, bytes) => {
                let got = self.hub.logs.entry(stream).or_default();
                got.extend_from_slice(&bytes);
                if !super::device::LOG.starts_with(got) {
                    return broken(
                        "a stream has no gap and no repeat",
                        String::from_utf8_lossy(got).to_string(),
                    );
                }
                let bytes = bytes.len() as u32;
                self.hub_event(Event::StreamConsumed { stream, bytes });
            }
            StreamOutput::InputTaken => {}
            StreamOutput::End(end) => {
                let got = self.hub.logs.remove(&stream).unwrap_or_default();
                if end == skerry_wire::stream::End::Done && got != super::device::LOG {
                    return broken(
                        "a stream that says that it is done is whole",
                        String::from_utf8_lossy(&got).to_string(),
                    );
                }
                self.count("log read", || format!("{end:?}"));
            }
        }
        Ok(())
    }

    /// What was said to be done is on the disk.
    fn check_answer(&mut self, ask: Ask, answer: Answer) -> Lawful {
        let device = |name: &DeviceId| self.hub.store.devices.get(name);
        let so = match &ask {
            Ask::Apply(apps) => apps.iter().all(|(app, revision)| {
                let stored = self.hub.store.apps.get(&app.app);
                // A later one of the same batch may have changed it again.
                stored.is_none_or(|s| s.revision == *revision || !self.intent.is(app, revision))
            }),
            Ask::Delete(_) | Ask::Token | Ask::Stream | Ask::Usage | Ask::Doctor | Ask::Rollout => {
                true
            }
            Ask::Approve(name) => device(name).is_none_or(|d| d.standing != Standing::Pending),
            Ask::Revoke(name) => device(name).is_none_or(|d| d.standing == Standing::Revoked),
            Ask::Label(name, labels) => device(name).is_none_or(|d| {
                let there = |(key, value)| d.labels.get(key) == Some(value);
                labels.iter().all(there)
            }),
        };
        if let Answer::Stream(stream) = answer {
            self.hub.logs.insert(stream, Vec::new());
        }
        match so {
            true => Ok(()),
            false => broken("what is acknowledged is durable", format!("{ask:?}")),
        }
    }
}
