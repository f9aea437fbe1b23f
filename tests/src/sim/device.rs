//! A machine with an agent: the process around the agent's real core, its
//! store, its line, its keeper and its images.

mod act;
mod check;
mod keeper_news;
mod line;
mod update;

pub use act::LOG;
pub use keeper_news::KeeperNews;

use super::Mutant;
use super::broker::Message;
use super::catalog::platform;
use super::chance::Chance;
use super::keeper::{ImageStore, Keeper};
use super::laws::Lawful;
use super::software::{Line, Places, first_line};
use super::world::{EPOCH_MS, Happening, World};
use skerry_agent::core::join::Join;
use skerry_agent::core::replace::{Runs, runs};
use skerry_agent::core::update::Subject;
use skerry_agent::core::work::{Run, RunPhase, pod_revision};
use skerry_agent::core::{Configs, Core, Event, Identity, Now, Records, Start};
use skerry_wire::message::JoinRequest;
use skerry_wire::report::Facts;
use skerry_wire::seal::{KeyPair, TokenSecret};
use skerry_wire::update::ReleaseKind;
use skerry_wire::{
    AppRef, Assignment, Config, Desired, DeviceId, Digest, Generation, ImageRef, PodSpec,
    RevisionId, SessionId, Timestamp, decode, named_configs,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Starts that an agent skips when their count was lost with its store.
const STARTS_SKIPPED: u32 = 1 << 20;
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
    /// It ends by itself, to start anew.
    Restart,
    /// The machine starts anew by itself.
    Reboot,
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
    /// Its two places for each kind of software.
    places: BTreeMap<ReleaseKind, Places>,
    /// What comes into them.
    artifacts: ImageStore,
    /// Its line to the hub, and the one on trial.
    line: Line,
    trial_line: Option<Line>,
    /// Orders that it has tried, since they are on this machine.
    tried: BTreeSet<(Subject, u64)>,
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
        let mut places = BTreeMap::from([(ReleaseKind::Agent, Places::new())]);
        if chance.one_in(2) {
            places.insert(ReleaseKind::Os, Places::new());
        }
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
            places,
            artifacts: ImageStore::default(),
            line: first_line(),
            trial_line: None,
            tried: BTreeSet::new(),
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
            agent_version: self.devices[device].places[&ReleaseKind::Agent]
                .running()
                .to_string(),
            boot_id: format!("boot-{device}-{}", self.devices[device].boot),
            ..Facts::default()
        }
    }

    // --- the process

    pub(super) fn agent_start(&mut self, device: usize, run: u64) -> Lawful {
        if self.devices[device].run != run {
            return Ok(());
        }
        if !self.software_starts(device) {
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
        let update = self.update_start(device);
        let connect_ms = self.chance.between(2, 300);
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
            update,
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

    /// The agent's process ends here and now.
    pub(super) fn agent_end(&mut self, device: usize, end: AgentEnd) {
        let rolls_back = self.has_mutant(Mutant::DeviceCommitNotSynced);
        self.count(
            match end {
                AgentEnd::Crash => "agent crash",
                AgentEnd::PowerCut => "power cut",
                AgentEnd::Restart => "agent restart",
                AgentEnd::Reboot => "reboot",
            },
            || device.to_string(),
        );
        self.agent_cut(device, true);
        self.software_ends(device, end);
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
        if matches!(end, AgentEnd::PowerCut | AgentEnd::Reboot) {
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
        host.tried.clear();
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
}
