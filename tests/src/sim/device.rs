//! A machine with an agent: the process around the agent's real core, its
//! store, its line, its keeper and its images.

use super::Mutant;
use super::broker::{Message, Party};
use super::catalog::{Program, platform};
use super::chance::Chance;
use super::keeper::{ImageStore, Keeper, State};
use super::laws::{Lawful, broken};
use super::world::{EPOCH_MS, Happening, World};
use skerry_agent::core::health::{Answer, ProbeKind};
use skerry_agent::core::join::{Join, JoinStep};
use skerry_agent::core::ledger::{Phase, StopCause};
use skerry_agent::core::replace::{Runs, Stage, runs};
use skerry_agent::core::update::UpdateStart;
use skerry_agent::core::work::{Run, RunPhase, WorkRecord, pod_revision};
use skerry_agent::core::{
    Change, Configs, Core, CreateContainer, Effect, Event, HookKind, Identity, Now, Outgoing,
    Records, Start,
};
use skerry_agent::runtime::{ContainerId, ExitStatus, Timestamp as Nanos};
use skerry_wire::finding::Finding;
use skerry_wire::message::{Gone, JoinRequest};
use skerry_wire::report::{Facts, Report, Vitals};
use skerry_wire::seal::{KeyPair, Purpose, TokenSecret, seal, seal_join};
use skerry_wire::stream::{Channel, End};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{
    AppRef, Assignment, Config, Desired, DeviceId, Digest, Generation, ImageRef, PodSpec,
    RevisionId, Role, Seq, SessionId, StreamId, Timestamp, decode, encode, named_configs,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Messages that an agent's line holds while it is down.
const OUTBOX: usize = 64;
/// Starts that an agent skips when their count was lost with its store.
const STARTS_SKIPPED: u32 = 1 << 20;
/// What every log holds.
pub const LOG: &[u8] = b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\nnine\nten\n";
/// How long a machine is down after a power cut, at most.
const REBOOT_MS: u64 = 5_000;

/// The agent's process.
pub enum AgentRun {
    /// It does not run.
    Off,
    /// It asks to join.
    Joining(Box<Join>),
    /// It is a device.
    Running(Box<Core>),
}

/// How an agent ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentEnd {
    /// Its process is killed.
    Crash,
    /// The machine loses power.
    PowerCut,
}

/// What a keeper brings about.
#[derive(Debug)]
pub enum KeeperNews {
    /// A helper has made a container, or not; and on which connection it was
    /// asked for.
    Made(ContainerId, bool, u64),
    /// A process ends.
    Ends(ContainerId, ExitStatus),
    /// What is left of a container is taken down, or not; the same.
    TakenDown(ContainerId, bool, u64),
    /// A probe is answered; the same.
    Probed(ContainerId, ProbeKind, Answer, u64),
    /// A hook is done; the same.
    Hooked(ContainerId, HookKind, Result<(), String>, u64),
    /// A run of the agent gets its list, if nothing is being made.
    List(u64),
}

/// One machine.
pub struct DeviceHost {
    /// Its number in the world.
    pub number: usize,
    wish: DeviceId,
    /// Its key.
    pub key: KeyPair,
    /// Its name, once it has joined.
    pub name: Option<DeviceId>,
    /// What the agent has committed.
    pub records: Records,
    /// The same, as the laws read it.
    desired: Option<(Generation, Vec<Assignment>)>,
    before: Option<Records>,
    join_starts: u32,
    /// Its count of starts when its store was last lost, and what it had then.
    starts_floor: u32,
    lost: Generation,
    /// With which it joins.
    pub token: Option<TokenSecret>,
    /// It was told that it may not join.
    pub is_refused: bool,
    /// The agent's process.
    pub agent: AgentRun,
    /// Counts the agent's starts and ends.
    pub run: u64,
    connection: u32,
    will: Option<Message>,
    outbox: VecDeque<Message>,
    last_sent: Option<Message>,
    wake_at: Option<u64>,
    /// Counts its connections to the keeper: answers go to who asked.
    attached: u64,
    /// It ends so after so many effects more.
    pub doom: Option<(u64, AgentEnd)>,
    /// So many writes fail.
    pub disk_full: u64,
    boot: u32,
    booted_ms: u64,
    /// Its clock is this far from the true time.
    pub wall: Wall,
    /// Its containers.
    pub keeper: Keeper,
    /// Its images.
    pub images: ImageStore,
    /// The configs on its disk.
    configs: Vec<Config>,
    /// Those that each app's files are of, in memory.
    pub files: BTreeMap<(AppRef, RevisionId), Configs>,
    /// Commits of this machine.
    pub commits: u64,
    /// Messages that this run has heard.
    heard: BTreeSet<u64>,
    /// Times at which CronJobs were started, since they are on this machine.
    started: BTreeMap<(AppRef, Timestamp), u32>,
}

/// What a machine's clock says.
#[derive(Debug, Clone, Copy)]
pub enum Wall {
    /// The time, and some.
    Shifted(u64),
    /// The time since boot: it has no battery.
    Since1970,
}

impl DeviceHost {
    /// A machine that was just set up.
    pub fn new(chance: &mut Chance, entropy: &mut Chance, number: usize) -> Self {
        // Two of them may want the same name.
        let wish = format!("kiosk-{}", chance.below(2));
        Self {
            number,
            wish: wish.parse().expect("a name"),
            key: KeyPair::generate(entropy.rng()),
            name: None,
            records: Records::default(),
            desired: None,
            before: None,
            join_starts: 0,
            starts_floor: 0,
            lost: Generation(0),
            token: None,
            is_refused: false,
            agent: AgentRun::Off,
            run: 0,
            connection: 0,
            will: None,
            outbox: VecDeque::new(),
            last_sent: None,
            wake_at: None,
            attached: 0,
            doom: None,
            disk_full: 0,
            boot: 1,
            booted_ms: 0,
            wall: Wall::Shifted(0),
            keeper: Keeper::default(),
            images: ImageStore::default(),
            configs: Vec::new(),
            files: BTreeMap::new(),
            commits: 0,
            heard: BTreeSet::new(),
            started: BTreeMap::new(),
        }
    }

    /// Whether this run has heard a message.
    pub fn took(&self, message: &Message) -> bool {
        self.heard.contains(&message.id)
    }

    /// The generation that is on its disk.
    pub fn generation(&self) -> Generation {
        let desired = self.records.desired.as_ref();
        desired.map_or(Generation(0), |d| d.generation)
    }

    /// The newest generation that it may have said to have.
    pub fn said(&self) -> Generation {
        self.generation().max(self.lost)
    }

    /// What is on its disk to be run.
    pub fn assignments(&self) -> &[Assignment] {
        self.desired.as_ref().map_or(&[], |(_, all)| all)
    }

    /// Whether the files of an app's configs are as on the disk. Variables
    /// stay as they were at the start.
    pub fn has_files_of(&self, assignment: &Assignment) -> bool {
        let key = (assignment.app.clone(), assignment.revision);
        let volumes = PodSpec {
            volumes: assignment.pod.volumes.clone(),
            ..PodSpec::<ImageRef>::new(Vec::new())
        };
        let named = named_configs(&assignment.app.namespace, &volumes);
        let files = |all: &[Config]| -> Vec<Config> {
            let all = all.iter();
            all.filter(|config| named.contains_key(&config.reference()))
                .cloned()
                .collect()
        };
        // What the hub says counts before what was kept for a revision that
        // went back.
        let said: BTreeSet<_> = self.configs.iter().map(Config::reference).collect();
        let kept = self.records.kept.iter();
        let kept = kept.filter(|config| !said.contains(&config.reference()));
        let mut now: Vec<Config> = self.configs.iter().chain(kept).cloned().collect();
        now.sort_by_key(Config::reference);
        let written = self.files.get(&key);
        written.is_none_or(|written| {
            let mut all = written.all.clone();
            all.sort_by_key(Config::reference);
            files(&all) == files(&now)
        })
    }

    /// What shall run by what is on its disk: of each app one revision, or two.
    pub fn shall_run(&self) -> Vec<&Assignment> {
        let mut all = Vec::new();
        for assignment in self.assignments() {
            let runs = self.runs(assignment);
            all.push(runs.newest());
            if let Runs::Both { old, .. } = runs {
                all.push(old);
            }
        }
        all
    }

    /// Which revisions of an app shall run.
    pub fn runs<'a>(&'a self, assignment: &'a Assignment) -> Runs<'a> {
        let (app, records) = (&assignment.app, &self.records);
        let previous = records.previous.get(app);
        runs(assignment, previous, records.replacing.get(app))
    }

    /// The core, while it runs.
    pub fn core(&self) -> Option<&Core> {
        match &self.agent {
            AgentRun::Running(core) => Some(core),
            AgentRun::Off | AgentRun::Joining(_) => None,
        }
    }

    /// Whether a job's run that is on the disk and desired has this pod, and it
    /// shall run.
    pub fn has_pod(&self, app: &AppRef, revision: RevisionId) -> bool {
        let Some(record) = self.records.works.get(app) else {
            return false;
        };
        let desired = self.assignments().iter();
        let mut desired = desired.filter(|a| a.app == *app && a.revision == record.revision);
        let shall = |run: &Run| run.phase == RunPhase::Pod;
        desired.any(|a| {
            let mut runs = record.runs.iter().filter(|run| shall(run));
            runs.any(|run| pod_revision(a.revision, run.number, run.pod) == revision)
        })
    }

    fn read_desired(&mut self) {
        self.configs.clear();
        self.desired = self.records.desired.as_ref().map(|record| {
            let desired: Desired = decode("desired", &record.bytes).unwrap_or_default();
            self.configs = desired.configs;
            (record.generation, desired.assignments)
        });
    }
}

impl World {
    /// What time it is on a machine.
    pub(super) fn device_now(&self, device: usize) -> Now {
        let host = &self.devices[device];
        let boot_ms = self.now_ms.saturating_sub(host.booted_ms) + 1_000;
        let wall = match host.wall {
            Wall::Shifted(by_ms) => EPOCH_MS + self.now_ms + by_ms,
            Wall::Since1970 => boot_ms,
        };
        Now {
            boot_ms,
            wall: Timestamp(wall),
        }
    }

    fn facts(&self, device: usize) -> Facts {
        Facts {
            arch: platform().arch,
            boot_id: format!("boot-{device}-{}", self.devices[device].boot),
            ..Facts::default()
        }
    }

    // --- the process

    pub(super) fn agent_start(&mut self, device: usize, run: u64) -> Lawful {
        if self.devices[device].run != run {
            return Ok(());
        }
        let now = self.device_now(device);
        let facts = self.facts(device);
        let hub = self.hub.key.public();
        self.count("agent start", || device.to_string());
        let session = SessionId(u64::from_le_bytes(self.entropy.bytes()));
        let attempt = Digest::of(&self.entropy.bytes::<8>()).hex()[..32].to_string();
        let host = &mut self.devices[device];
        host.wake_at = None;
        host.attached += 1;
        let connect_ms = self.chance.between(1, 300);
        self.later(connect_ms, Happening::AgentConnect(device, run));
        let host = &mut self.devices[device];
        let Some(name) = host.name.clone() else {
            host.join_starts += 1;
            let request = JoinRequest {
                name: host.wish.clone(),
                facts,
            };
            let (fleet, key) = (self.fleet.clone(), host.key.clone());
            let join = Join::new(fleet, attempt, key, hub, request, host.join_starts);
            host.agent = AgentRun::Joining(Box::new(join));
            return Ok(());
        };
        // The shell commits this start before the core is restored.
        host.records.starts += 1;
        let identity = Identity {
            fleet: self.fleet.clone(),
            device: name,
            key: host.key.clone(),
            hub,
        };
        let start = Start {
            session,
            facts,
            update: UpdateStart::default(),
        };
        let (core, effects) = Core::restore(identity, start, host.records.clone(), now);
        host.agent = AgentRun::Running(Box::new(core));
        self.device_effects(device, effects)?;
        self.device_after(device)?;
        self.clock_set(device)?;
        let serial = self.devices[device].keeper.serial;
        let list_ms = self.chance.between(1, 30);
        let list = KeeperNews::List(run);
        self.later(list_ms, Happening::Keeper(device, serial, list));
        Ok(())
    }

    /// The shell says whether the clock can be believed.
    pub(super) fn clock_set(&mut self, device: usize) -> Lawful {
        let host = &self.devices[device];
        let trusted = matches!(host.wall, Wall::Shifted(_));
        match host.agent {
            AgentRun::Running(_) => self.device_event(device, Event::Clock { trusted }),
            AgentRun::Off | AgentRun::Joining(_) => Ok(()),
        }
    }

    /// No time of a CronJob is started twice, and none by a clock that nobody
    /// believes; no job goes on beyond its completions.
    fn check_work(&mut self, device: usize, app: &AppRef, record: Option<&WorkRecord>) -> Lawful {
        let host = &mut self.devices[device];
        let Some(record) = record else {
            host.started.retain(|(other, _), _| other != app);
            return Ok(());
        };
        let before = host.records.works.get(app).map_or(0, |old| old.count);
        for run in &record.runs {
            let Some(due) = run.due else {
                continue;
            };
            if run.number > before && matches!(host.wall, Wall::Since1970) {
                return broken(
                    "no CronJob goes by a wrong clock",
                    format!("{app} at {due:?}"),
                );
            }
            let key = (app.clone(), due);
            if *host.started.entry(key).or_insert(run.number) != run.number {
                return broken("no time is started twice", format!("{app} at {due:?}"));
            }
        }
        for run in &record.runs {
            *self.stats.counts.entry("job steps").or_default() += 1;
            if run.is_over() {
                *self.stats.counts.entry("job ends").or_default() += 1;
            }
        }
        Ok(())
    }

    /// The agent's process ends here and now.
    pub(super) fn agent_end(&mut self, device: usize, end: AgentEnd) {
        let rolls_back = self.has_mutant(Mutant::DeviceCommitNotSynced);
        self.count(
            match end {
                AgentEnd::Crash => "agent crash",
                AgentEnd::PowerCut => "power cut",
            },
            || device.to_string(),
        );
        self.agent_cut(device, true);
        let host = &mut self.devices[device];
        host.agent = AgentRun::Off;
        host.run += 1;
        host.doom = None;
        host.outbox.clear();
        host.last_sent = None;
        host.heard.clear();
        if rolls_back && let Some(before) = host.before.take() {
            host.records = before;
            host.read_desired();
        }
        let mut delay_ms = self.chance.between(5, 3_000);
        if end == AgentEnd::PowerCut {
            delay_ms = self.chance.between(500, REBOOT_MS);
            let host = &mut self.devices[device];
            host.boot += 1;
            host.booted_ms = self.now_ms + delay_ms;
            host.keeper.power_cut(&mut self.chance);
            host.files.clear();
            host.images.power_cut(&mut self.chance);
            if self.chance.one_in(3) {
                host.wall = Wall::Since1970;
            }
        }
        let run = self.devices[device].run;
        self.later(delay_ms, Happening::AgentStart(device, run));
    }

    /// The agent's store is damaged and moved aside; its key and name are kept
    /// in a file of their own. Containers live on.
    pub(super) fn store_lost(&mut self, device: usize) {
        let host = &self.devices[device];
        let AgentRun::Running(_) = host.agent else {
            return;
        };
        self.agent_end(device, AgentEnd::Crash);
        self.count("store lost", || device.to_string());
        let host = &mut self.devices[device];
        host.lost = host.said();
        host.starts_floor += STARTS_SKIPPED;
        host.records = Records {
            starts: host.starts_floor,
            ..Records::default()
        };
        host.before = None;
        // What it does not remember it may do again.
        host.started.clear();
        host.read_desired();
    }

    pub(super) fn agent_wake(&mut self, device: usize, run: u64, at_ms: u64) -> Lawful {
        let now = self.device_now(device);
        let host = &mut self.devices[device];
        if host.run != run || host.wake_at != Some(at_ms) {
            return Ok(());
        }
        host.wake_at = None;
        match &mut host.agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                let step = join.wake(now);
                self.join_step(device, step)
            }
            AgentRun::Running(_) => self.device_event(device, Event::Wake),
        }
    }

    fn wake_later(&mut self, device: usize, at_boot_ms: Option<u64>) {
        let now = self.device_now(device);
        let Some(at_boot_ms) = at_boot_ms else {
            return;
        };
        let delay_ms = at_boot_ms.saturating_sub(now.boot_ms);
        let at_ms = self.now_ms.saturating_add(delay_ms);
        let host = &mut self.devices[device];
        if host.wake_at.is_some_and(|old| old <= at_ms) {
            return;
        }
        host.wake_at = Some(at_ms);
        let run = host.run;
        self.at(at_ms, Happening::AgentWake(device, run, at_ms));
    }

    // --- the line

    pub(super) fn agent_connect(&mut self, device: usize, run: u64) -> Lawful {
        if self.devices[device].run != run || self.broker.line(Party::Device(device)).is_some() {
            return Ok(());
        }
        if !self.broker.up || !self.lets_in(device) {
            let again_ms = self.chance.between(500, 5_000);
            self.later(again_ms, Happening::AgentConnect(device, run));
            let reason = "the broker says no".to_string();
            return self.device_event(device, Event::LinkDown { reason });
        }
        let now = self.device_now(device);
        let host = &mut self.devices[device];
        host.connection += 1;
        let connection = host.connection;
        let will = match &host.agent {
            AgentRun::Off => return Ok(()),
            AgentRun::Joining(_) => None,
            AgentRun::Running(core) if core.is_revoked() => return Ok(()),
            AgentRun::Running(core) => {
                let gone = Gone {
                    session: core.session(),
                    connection,
                };
                let seq = Seq(Seq::first_of_start(host.records.starts).0 + u64::from(connection));
                Some(Outgoing {
                    purpose: Purpose::Gone,
                    lane: Lane::Presence,
                    seq,
                    body: encode(&gone),
                })
            }
        };
        self.devices[device].will = match will {
            Some(will) => Some(self.seal_of_device(device, &will)?),
            None => None,
        };
        let (_, kept) = self.broker.connect(Party::Device(device));
        let host = &mut self.devices[device];
        let mut again = std::mem::take(&mut host.outbox);
        // What was on its way when the line went may be sent twice.
        if let Some(last) = host.last_sent.take()
            && self.chance.one_in(3)
        {
            again.push_front(last);
        }
        for message in again {
            self.publish(message)?;
        }
        for message in kept {
            self.later(1, Happening::Deliver(message));
        }
        match &mut self.devices[device].agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                let step = join.link_up(now);
                self.join_step(device, step)
            }
            AgentRun::Running(_) => self.device_event(device, Event::LinkUp { connection }),
        }
    }

    /// Whether the broker takes this machine's name and password.
    fn lets_in(&self, device: usize) -> bool {
        let host = &self.devices[device];
        if !self.hub.embedded {
            return true;
        }
        let known = &self.hub.store.devices;
        // Nobody is on the hub's own broker before the hub is.
        if !self.hub.connected_before {
            return false;
        }
        match (&self.hub.fleet, &host.agent) {
            (None, _) => false,
            (Some(_), AgentRun::Running(_)) => known.values().any(|d| {
                d.key == host.key.public() && d.standing == skerry_hub::core::Standing::Approved
            }),
            (Some(_), AgentRun::Off | AgentRun::Joining(_)) => true,
        }
    }

    /// Cuts a machine's line; its will is said, perhaps late.
    pub(super) fn agent_cut(&mut self, device: usize, with_will: bool) {
        if !self.broker.cut(Party::Device(device)) {
            return;
        }
        let run = self.devices[device].run;
        let delay_ms = self.chance.between(0, 200);
        self.later(delay_ms, Happening::AgentLineDown(device, run));
        let late_ms = self.chance.between(0, 3_000);
        if with_will && let Some(will) = self.devices[device].will.take() {
            self.later(late_ms, Happening::Will(will));
        }
    }

    pub(super) fn agent_line_down(&mut self, device: usize, run: u64) -> Lawful {
        if self.devices[device].run != run || self.broker.line(Party::Device(device)).is_some() {
            return Ok(());
        }
        let again_ms = self.chance.between(10, 3_000);
        self.later(again_ms, Happening::AgentConnect(device, run));
        match &mut self.devices[device].agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                join.link_down();
                Ok(())
            }
            AgentRun::Running(_) => {
                let reason = "the line was cut".to_string();
                self.device_event(device, Event::LinkDown { reason })
            }
        }
    }

    fn seal_of_device(&mut self, device: usize, outgoing: &Outgoing) -> Lawful<Message> {
        let host = &self.devices[device];
        let Some(name) = host.name.clone() else {
            return broken("only devices speak", device.to_string());
        };
        let topic = self.topic(&Topic::Device(name, outgoing.lane));
        let sealed = seal(
            outgoing.purpose,
            outgoing.seq,
            &topic,
            &host.key,
            &self.hub.key.public(),
            &outgoing.body,
            self.entropy.rng(),
        );
        let Ok(sealed) = sealed else {
            return broken("what a device says can be sealed", topic.to_string());
        };
        let from = Party::Device(device);
        let (purpose, seq) = (outgoing.purpose, outgoing.seq);
        Ok(self.message(from, Party::Hub, &topic, sealed, purpose, seq))
    }

    fn device_send(&mut self, device: usize, message: Message) -> Lawful {
        if self.broker.line(Party::Device(device)).is_some() {
            self.devices[device].last_sent = Some(message.clone());
            return self.publish(message);
        }
        let outbox = &mut self.devices[device].outbox;
        if outbox.len() < OUTBOX {
            outbox.push_back(message);
        }
        Ok(())
    }

    fn join_step(&mut self, device: usize, step: Option<JoinStep>) -> Lawful {
        self.tell(|| format!("{device} {step:?}"));
        let host = &mut self.devices[device];
        let AgentRun::Joining(join) = &host.agent else {
            return Ok(());
        };
        match step {
            None | Some(JoinStep::Waiting { .. } | JoinStep::Unheard(_)) => {}
            Some(JoinStep::Ask { seq, body }) => {
                let topic = join.request_topic();
                let Some(token) = host.token.clone() else {
                    return Ok(());
                };
                let hub = self.hub.key.public();
                let rng = self.entropy.rng();
                let sealed = seal_join(&token, seq, &topic, &host.key, &hub, &body, rng);
                let Ok(sealed) = sealed else {
                    return broken("a join can be sealed", topic);
                };
                let from = Party::Device(device);
                let message = self.message(from, Party::Hub, &topic, sealed, Purpose::Join, seq);
                self.device_send(device, message)?;
            }
            Some(JoinStep::Accepted { device: name, .. }) => {
                self.count("joined", || format!("{device} as {name}"));
                if !self.calm && self.chance.one_in(5) {
                    // Before the name was stored: it asks again.
                    self.agent_end(device, AgentEnd::Crash);
                    return Ok(());
                }
                let host = &mut self.devices[device];
                host.name = Some(name);
                host.run += 1;
                let run = host.run;
                self.broker.cut(Party::Device(device));
                self.later(1, Happening::AgentStart(device, run));
                return Ok(());
            }
            Some(JoinStep::Refused { reason }) => {
                self.count("join refused", || reason);
                let host = &mut self.devices[device];
                host.agent = AgentRun::Off;
                host.is_refused = true;
                return Ok(());
            }
        }
        let wake_at = match &self.devices[device].agent {
            AgentRun::Joining(join) => join.wake_at(),
            AgentRun::Off | AgentRun::Running(_) => None,
        };
        self.wake_later(device, wake_at);
        Ok(())
    }

    pub(super) fn device_hears(&mut self, device: usize, message: &Message) -> Lawful {
        let now = self.device_now(device);
        match &mut self.devices[device].agent {
            AgentRun::Off => Ok(()),
            AgentRun::Joining(join) => {
                let step = join.heard(now, &message.topic, &message.payload);
                self.join_step(device, Some(step))
            }
            AgentRun::Running(_) => {
                self.devices[device].heard.insert(message.id);
                let event = Event::Message {
                    topic: message.topic.to_string(),
                    payload: message.payload.to_vec(),
                };
                self.device_event(device, event)
            }
        }
    }

    // --- the core

    /// One event for the core, and everything that it leads to.
    pub(super) fn device_event(&mut self, device: usize, event: Event) -> Lawful {
        let now = self.device_now(device);
        self.tell(|| match &event {
            Event::Message { topic, .. } => format!("{device} hears {topic}"),
            Event::LinkDown { .. } => format!("{device} has no line"),
            other => format!("{device} {other:?}"),
        });
        let AgentRun::Running(core) = &mut self.devices[device].agent else {
            return Ok(());
        };
        let effects = core.handle(now, event);
        self.device_effects(device, effects)?;
        self.device_after(device)
    }

    /// Planning again gives nothing, and the core is woken when it wants.
    fn device_after(&mut self, device: usize) -> Lawful {
        let now = self.device_now(device);
        let check = self.chance.one_in(4);
        let AgentRun::Running(core) = &mut self.devices[device].agent else {
            return Ok(());
        };
        if check {
            let mut again = core.clone();
            again.handle(now, Event::Wake);
            let effects = again.handle(now, Event::Wake);
            if !effects.is_empty() {
                return broken("planning again gives nothing", format!("{effects:?}"));
            }
            if again.wake_at().is_some_and(|at| at <= now.boot_ms) {
                return broken(
                    "nobody wakes up all the time",
                    format!("{:?} at {}", again.wake_at(), now.boot_ms),
                );
            }
            if again.report(now).events.len() > Report::MAX_EVENTS {
                return broken("everything is bounded", "events of a report");
            }
        }
        let wake_at = core.wake_at();
        self.wake_later(device, wake_at);
        Ok(())
    }

    fn device_falls(&mut self, device: usize) -> Option<AgentEnd> {
        match &mut self.devices[device].doom {
            Some((0, end)) => Some(*end),
            Some((left, _)) => {
                *left -= 1;
                None
            }
            None => None,
        }
    }

    fn device_effects(&mut self, device: usize, mut effects: Vec<Effect>) -> Lawful {
        if self.has_mutant(Mutant::ActBeforeCommit) {
            let commits = |effect: &Effect| matches!(effect, Effect::Commit(_));
            effects.sort_by_key(commits);
        }
        let run = self.devices[device].run;
        for effect in effects {
            if let Some(end) = self.device_falls(device) {
                self.agent_end(device, end);
            }
            if self.devices[device].run != run {
                return Ok(());
            }
            self.device_act(device, effect)?;
        }
        Ok(())
    }

    fn device_act(&mut self, device: usize, effect: Effect) -> Lawful {
        let run = self.devices[device].run;
        let serial = self.devices[device].keeper.serial;
        let asked = self.devices[device].attached;
        match effect {
            Effect::Commit(changes) => self.device_commit(device, changes),
            Effect::Send(outgoing) => {
                let message = self.seal_of_device(device, &outgoing)?;
                self.device_send(device, message)
            }
            Effect::SendReport(report) => {
                let vitals = Vitals {
                    uptime_secs: self.device_now(device).boot_ms / 1_000,
                    ..Vitals::default()
                };
                let message = self.seal_of_device(device, &report.with(vitals))?;
                self.device_send(device, message)
            }
            Effect::Create(wanted) => {
                self.tell(|| format!("{device} creates {}", wanted.id));
                self.check_create(device, &wanted)?;
                self.devices[device].keeper.create(&wanted)?;
                let assignment = &wanted.assignment;
                let key = (assignment.app.clone(), assignment.revision);
                self.devices[device]
                    .files
                    .insert(key, wanted.configs.clone());
                let fails = self.chance.one_in(if self.calm { 1_000_000 } else { 12 });
                let delay_ms = self.chance.between(2, 400);
                let news = KeeperNews::Made(wanted.id.clone(), !fails, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::Stop { id } => {
                self.check_stop(device, &id, "stops")?;
                let Some(one) = self.devices[device].keeper.containers.get_mut(&id) else {
                    return Ok(());
                };
                one.signalled = true;
                if one.program != Program::Stubborn {
                    let delay_ms = self.chance.between(1, 500);
                    let news = KeeperNews::Ends(id, ExitStatus::Signal(15));
                    self.later(delay_ms, Happening::Keeper(device, serial, news));
                }
                Ok(())
            }
            Effect::Kill { id } => {
                self.check_stop(device, &id, "kills")?;
                if let Some(one) = self.devices[device].keeper.containers.get_mut(&id) {
                    one.signalled = true;
                }
                let delay_ms = self.chance.between(1, 50);
                let news = KeeperNews::Ends(id, ExitStatus::Signal(9));
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::Remove { id } => {
                self.check_stop(device, &id, "removes")?;
                let fails = !self.calm && self.chance.one_in(25);
                let delay_ms = self.chance.between(1, 50);
                let news = KeeperNews::TakenDown(id, !fails, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::Probe(question) => {
                let bad = !self.calm && self.chance.one_in(6);
                let answer = match bad {
                    true if self.chance.one_in(3) => Answer::NotAsked,
                    true => Answer::Bad("unwell".into()),
                    false => Answer::Good,
                };
                if matches!(answer, Answer::Bad(_)) {
                    self.count("probe failed", || question.id.to_string());
                    let host = &mut self.devices[device];
                    host.keeper.sick.insert(question.id.clone());
                }
                let delay_ms = self.chance.between(1, 1_000);
                let news = KeeperNews::Probed(question.id, question.kind, answer, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::RunHook { id, kind, .. } => {
                let bad = !self.calm && self.chance.one_in(6);
                if bad {
                    let host = &mut self.devices[device];
                    host.keeper.sick.insert(id.clone());
                }
                let result = match bad {
                    true => Err("it failed".to_string()),
                    false => Ok(()),
                };
                let delay_ms = self.chance.between(1, 1_000);
                let news = KeeperNews::Hooked(id, kind, result, asked);
                self.later(delay_ms, Happening::Keeper(device, serial, news));
                Ok(())
            }
            Effect::WriteConfigs(apps) => {
                self.count("configs written", || device.to_string());
                for (assignment, configs) in apps {
                    self.check_configs(device, &configs)?;
                    let key = (assignment.app, assignment.revision);
                    if let Some(files) = self.devices[device].files.get_mut(&key) {
                        *files = configs;
                    }
                }
                Ok(())
            }
            Effect::RemoveScratch { app, revision } => {
                let files = &mut self.devices[device].files;
                files.retain(|(a, r), _| *a != app || r.short() != revision);
                Ok(())
            }
            Effect::ForgetExit { .. }
            | Effect::ShapeNetwork(_)
            | Effect::WatchDevices(_)
            | Effect::ExamineImage(_)
            | Effect::NeedImages(_)
            | Effect::Resize { .. }
            | Effect::RemoveLog { .. }
            | Effect::OpenExec { .. }
            | Effect::OpenVolume { .. }
            | Effect::StreamCredit { .. }
            | Effect::StreamInput { .. }
            | Effect::StreamResize { .. }
            | Effect::StreamCloseInput { .. }
            | Effect::StreamClose { .. } => Ok(()),
            Effect::PrepareImage(image) => {
                let manifest = image.manifest;
                let result = Ok(self.devices[device].images.status(&image, &self.catalog));
                self.news_later(device, run, Event::Image { manifest, result });
                Ok(())
            }
            Effect::WriteBlob {
                digest,
                offset,
                bytes,
            } => {
                let host = &mut self.devices[device];
                let written = if host.disk_full > 0 {
                    host.disk_full -= 1;
                    Err("no space left on device".to_string())
                } else {
                    host.images.write(digest, offset, &bytes)
                };
                if let Err(reason) = written {
                    self.news_later(device, run, Event::BlobFailed { digest, reason });
                }
                Ok(())
            }
            Effect::FinishBlob { digest } => {
                let result = self.devices[device].images.finish(digest);
                self.news_later(device, run, Event::BlobFinished { digest, result });
                Ok(())
            }
            Effect::OpenLog { request, .. } => {
                self.open_log(device, run, request.stream);
                Ok(())
            }
            Effect::ReadUsage { request, .. } => {
                let containers = Vec::new();
                self.news_later(
                    device,
                    run,
                    Event::Usage {
                        request,
                        containers,
                    },
                );
                Ok(())
            }
            Effect::Diagnose { request, .. } => {
                let findings = vec![Finding::good("Simulated", "well")];
                self.news_later(device, run, Event::Diagnosed { request, findings });
                Ok(())
            }
            // Nothing of the device itself changes in this world.
            Effect::Update(_) => Ok(()),
            Effect::ServeApps(_) | Effect::ReleaseHold { .. } => Ok(()),
            Effect::AskHold { app } => {
                let holds = !self.calm && self.chance.one_in(3);
                let held = holds.then(|| "it is busy".to_string());
                if holds {
                    self.count("update held", || app.to_string());
                }
                let delay_ms = self.chance.between(1, 50);
                let news = Box::new(Event::Hold { app, held });
                self.later(delay_ms, Happening::AgentNews(device, run, news));
                Ok(())
            }
            Effect::StopCalling => {
                self.count("stopped calling", || device.to_string());
                self.broker.cut(Party::Device(device));
                Ok(())
            }
        }
    }

    /// Answers of one kind come in the order of the questions.
    fn news_later(&mut self, device: usize, run: u64, event: Event) {
        let news = Happening::AgentNews(device, run, Box::new(event));
        self.later(5, news);
    }

    fn open_log(&mut self, device: usize, run: u64, stream: StreamId) {
        let mut delay_ms = 0;
        for bytes in LOG.chunks(16) {
            delay_ms += self.chance.between(1, 100);
            let event = Event::StreamOutput {
                stream,
                channel: Channel::Output,
                bytes: bytes.to_vec(),
            };
            self.later(delay_ms, Happening::AgentNews(device, run, Box::new(event)));
        }
        let end = End::Done;
        let event = Event::StreamEnded { stream, end };
        self.later(
            delay_ms + 1,
            Happening::AgentNews(device, run, Box::new(event)),
        );
    }

    // --- the laws of a device

    fn device_commit(&mut self, device: usize, changes: Vec<Change>) -> Lawful {
        // In the middle of a commit the disk has all of it or nothing.
        if let Some((0, end)) = self.devices[device].doom
            && self.chance.one_in(2)
        {
            self.agent_end(device, end);
            return Ok(());
        }
        self.tell(|| format!("{device} commits {}", changes.len()));
        let key = *self.devices[device].key.public().as_bytes();
        let keeps = self.has_mutant(Mutant::DeviceCommitNotSynced);
        let host = &mut self.devices[device];
        host.commits += 1;
        if keeps {
            host.before = Some(host.records.clone());
        }
        for change in changes {
            let host = &self.devices[device];
            if let Change::Desired(new, _) = &change {
                if new.generation <= host.generation() {
                    return broken(
                        "desired state only moves forward",
                        format!("{} after {}", new.generation, host.generation()),
                    );
                }
                if self.hub.made(&key, new.generation) != Some(Digest::of(&new.bytes)) {
                    return broken(
                        "nothing forged is taken",
                        format!("generation {} was never said so", new.generation),
                    );
                }
                *self.stats.counts.entry("desired taken").or_default() += 1;
            }
            if let Change::Work(app, record) = &change {
                self.check_work(device, app, record.as_ref())?;
            }
            if let Change::Replacing(_, record) = &change {
                let what = match record.as_ref().map(|r| &r.stage) {
                    Some(Stage::RolledBack { .. }) => "rolled back",
                    Some(Stage::Trial { .. }) => "on trial",
                    Some(Stage::Waiting | Stage::Held { .. }) => "to be changed",
                    None => "proved",
                };
                *self.stats.counts.entry(what).or_default() += 1;
            }
            self.devices[device].records.apply(change);
        }
        let host = &mut self.devices[device];
        host.read_desired();
        Ok(())
    }

    fn check_create(&self, device: usize, wanted: &CreateContainer) -> Lawful {
        let host = &self.devices[device];
        let ledger = host.records.ledger.values();
        let mut newest = ledger.filter(|e| e.name().incarnation(e.incarnation) == wanted.id);
        if !newest.any(|e| matches!(e.phase, Phase::Running { .. })) {
            return broken(
                "commit before act",
                format!("{} is made, the ledger does not know it", wanted.id),
            );
        }
        self.check_configs(device, &wanted.configs)?;
        let app = &wanted.assignment.app;
        let job = host.has_pod(app, wanted.assignment.revision);
        if !job && !host.shall_run().contains(&&wanted.assignment) {
            return broken(
                "nothing runs that was not desired",
                format!("{} of {app}", wanted.id),
            );
        }
        let status = host.images.status(&wanted.spec().image, &self.catalog);
        if status != skerry_agent::core::ImageStatus::Ready {
            return broken("nothing starts without its image", format!("{status:?}"));
        }
        Ok(())
    }

    /// Files are never of another state than the one on the disk.
    fn check_configs(&self, device: usize, configs: &Configs) -> Lawful {
        let host = &self.devices[device];
        let stored =
            |config: &Config| host.configs.contains(config) || host.records.kept.contains(config);
        if configs.generation == host.generation() && configs.all.iter().all(stored) {
            return Ok(());
        }
        broken(
            "a config is committed before it is written",
            format!("{configs:?}, {} is committed", host.generation()),
        )
    }

    /// What is desired and runs is left alone.
    fn check_stop(&mut self, device: usize, id: &ContainerId, does: &str) -> Lawful {
        self.tell(|| format!("{device} {does} {id}"));
        let host = &self.devices[device];
        let Some(one) = host.keeper.containers.get(id) else {
            return Ok(());
        };
        let runs = match one.state {
            State::Running { .. } | State::Starting => true,
            State::Exited(_) | State::Lost => false,
        };
        if !runs || one.signalled {
            return Ok(());
        }
        let wanted = |a: &Assignment| a.app == one.app && a.revision == one.revision;
        let mut ledger = host.records.ledger.values();
        let entry = ledger.find(|e| e.name().incarnation(e.incarnation) == *id);
        let reason = match entry.map(|e| &e.phase) {
            Some(Phase::Stopping { cause, .. }) => match cause {
                StopCause::Unwell => host.keeper.sick.contains(id),
                StopCause::Finished => one.role == Role::Sidecar,
                StopCause::Leaving => false,
            },
            _ => false,
        };
        // Of a container that a lost ledger knew, nobody knows its pod.
        if does != "removes" && entry.is_some() {
            host.keeper.check_stop_order(id)?;
        }
        if reason {
            return Ok(());
        }
        if host.shall_run().iter().any(|a| wanted(a)) {
            return broken(
                "a running app is never stopped without a reason",
                format!("device {device} {does} {id}, which is desired"),
            );
        }
        Ok(())
    }

    // --- the keeper

    pub(super) fn keeper_news(&mut self, device: usize, serial: u64, news: KeeperNews) -> Lawful {
        let now = self.device_now(device);
        let at = Nanos(now.wall.0.saturating_mul(1_000_000));
        let early = self.has_mutant(Mutant::EarlyList);
        let host = &mut self.devices[device];
        if host.keeper.serial != serial {
            return Ok(());
        }
        let attached = host.attached;
        match news {
            KeeperNews::List(run) => {
                if host.run != run {
                    return Ok(());
                }
                if host.keeper.is_starting() && !early {
                    self.later(5, Happening::Keeper(device, serial, KeeperNews::List(run)));
                    return Ok(());
                }
                let list = host.keeper.list();
                self.device_event(device, Event::Listed(list))
            }
            KeeperNews::Made(id, false, asked) => {
                host.keeper.containers.remove(&id);
                let result = Err("the helper failed".to_string());
                self.keeper_tells(device, asked == attached, Event::Created { id, result })
            }
            KeeperNews::Made(id, true, asked) => {
                let pid = host.keeper.started(&id, at);
                let program = host.keeper.containers.get(&id).map(|one| one.program);
                if let Some(Program::Ends { after_ms, code }) = program {
                    let news = KeeperNews::Ends(id.clone(), ExitStatus::Code(code));
                    self.later(after_ms, Happening::Keeper(device, serial, news));
                }
                let result = Ok(pid);
                self.keeper_tells(device, asked == attached, Event::Created { id, result })
            }
            KeeperNews::Ends(id, status) => match host.keeper.ended(&id, status, at) {
                Some(exit) => self.keeper_tells(device, true, Event::Exited { id, exit }),
                None => Ok(()),
            },
            KeeperNews::Probed(id, kind, answer, asked) => {
                let event = Event::Probed { id, kind, answer };
                self.keeper_tells(device, asked == attached, event)
            }
            KeeperNews::Hooked(id, hook, result, asked) => {
                let event = Event::Hooked { id, hook, result };
                self.keeper_tells(device, asked == attached, event)
            }
            KeeperNews::TakenDown(id, true, asked) => {
                host.keeper.containers.remove(&id);
                let result = Ok(());
                self.keeper_tells(device, asked == attached, Event::Removed { id, result })
            }
            KeeperNews::TakenDown(id, false, asked) => {
                let result = Err("it is busy".to_string());
                self.keeper_tells(device, asked == attached, Event::Removed { id, result })
            }
        }
    }

    fn keeper_tells(&mut self, device: usize, heard: bool, event: Event) -> Lawful {
        self.devices[device].keeper.check_single()?;
        match heard {
            true => self.device_event(device, event),
            false => Ok(()),
        }
    }

    /// The agent loses its keeper, which lives on or dies.
    pub(super) fn keeper_lost(&mut self, device: usize, dies: bool) -> Lawful {
        self.count("keeper lost", || format!("{device} {dies}"));
        let host = &mut self.devices[device];
        if dies {
            host.keeper.crash();
        }
        host.attached += 1;
        let reason = "the keeper has gone".to_string();
        self.device_event(device, Event::RuntimeLost { reason })?;
        let host = &self.devices[device];
        let (serial, run) = (host.keeper.serial, host.run);
        let delay_ms = self.chance.between(1, 500);
        let list = KeeperNews::List(run);
        self.later(delay_ms, Happening::Keeper(device, serial, list));
        Ok(())
    }
}
