//! The machine on paper, and what it is told to run.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use skerry_agent::core::update::UpdateStart;
use skerry_agent::core::{
    Change, Core, DesiredRecord, Effect, Event, Identity, ImageStatus, LogPlace, Now, Records,
    Start,
};
use skerry_agent::runtime::{ContainerId, Exit, ExitStatus, Status};
use skerry_wire::message::LogsRequest;
use skerry_wire::policy::{CronJob, Job, Work};
use skerry_wire::report::{Facts, JobOutcome, JobStatus};
use skerry_wire::seal::KeyPair;
use skerry_wire::*;
use std::collections::{BTreeMap, BTreeSet};

pub const SECOND: u64 = 1_000;
pub const HOUR: u64 = 3_600 * SECOND;
pub const DAY: u64 = 24 * HOUR;
/// 2027-01-01 00:00 UTC, a Friday.
pub const NEW_YEAR: u64 = 1_798_761_600_000;

pub struct Process {
    ends_at: Option<u64>,
    code: i32,
}

pub struct Machine {
    keys: (KeyPair, KeyPair),
    /// Runs on whatever happens, in milliseconds.
    pub true_ms: u64,
    booted_ms: u64,
    boot: u32,
    pub wall_ms: i64,
    pub trusted: bool,
    pub records: Records,
    pub core: Core,
    pub processes: BTreeMap<ContainerId, Process>,
    /// When each container was made.
    pub made: Vec<u64>,
    pub most_at_once: usize,
    pub logs_removed: BTreeSet<String>,
    /// Logs of runs that are there.
    pub run_logs: BTreeSet<String>,
    /// Times that were started, and of which run.
    pub started: BTreeMap<u64, u32>,
    pub commits: usize,
}

impl Machine {
    pub fn new(wall: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let keys = (KeyPair::generate(&mut rng), KeyPair::generate(&mut rng));
        let (core, _) = restore(&keys, Records::default(), 1, 0, 0);
        Self {
            keys,
            true_ms: 0,
            booted_ms: 0,
            boot: 1,
            wall_ms: wall as i64,
            trusted: true,
            records: Records::default(),
            core,
            processes: BTreeMap::new(),
            made: Vec::new(),
            most_at_once: 0,
            logs_removed: BTreeSet::new(),
            run_logs: BTreeSet::new(),
            started: BTreeMap::new(),
            commits: 0,
        }
    }

    fn boot_ms(&self) -> u64 {
        self.true_ms - self.booted_ms
    }

    pub fn now(&self) -> Now {
        Now {
            boot_ms: self.boot_ms(),
            wall: Timestamp(u64::try_from(self.wall_ms).unwrap_or(0)),
        }
    }

    pub fn desire(&mut self, assignments: Vec<Assignment>) {
        let generation = Generation(self.core.generation().0 + 1);
        let bytes = encode(&Desired {
            generation,
            assignments,
            ..Desired::default()
        });
        self.records.desired = Some(DesiredRecord { generation, bytes });
        self.start_agent();
    }

    pub fn start_agent(&mut self) {
        self.records.starts += 1;
        let now = self.now();
        let (core, effects) = restore(
            &self.keys,
            self.records.clone(),
            self.boot,
            now.boot_ms,
            now.wall.0,
        );
        self.core = core;
        self.carry_out(effects);
        let listed = self.processes.keys().map(|id| (id.clone(), running()));
        let listed = listed.collect();
        self.say(Event::Listed(listed));
        let trusted = self.trusted;
        self.say(Event::Clock { trusted });
    }

    pub fn power_cut(&mut self, off_ms: u64) {
        self.processes.clear();
        self.true_ms += off_ms;
        self.wall_ms += off_ms as i64;
        self.booted_ms = self.true_ms;
        self.boot += 1;
        self.start_agent();
    }

    pub fn set_clock(&mut self, by_ms: i64) {
        self.wall_ms += by_ms;
        let trusted = self.trusted;
        self.say(Event::Clock { trusted });
    }

    fn say(&mut self, event: Event) {
        let effects = self.core.handle(self.now(), event);
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Commit(changes) => self.commit(changes),
                Effect::Create(create) => {
                    let entries = self.records.ledger.values();
                    let mut ids = entries.map(|e| e.name().incarnation(e.incarnation));
                    assert!(ids.any(|id| id == create.id), "commit before act");
                    let args = &create.spec().args;
                    let (after, code) = (args.first(), args.get(1));
                    let after = after.and_then(|after| after.parse::<u64>().ok());
                    let process = Process {
                        ends_at: after.map(|after| self.true_ms + after),
                        code: code.map_or(0, |code| code.parse().unwrap()),
                    };
                    self.processes.insert(create.id.clone(), process);
                    if create.log_name.contains('.') {
                        self.run_logs.insert(create.log_name.clone());
                    }
                    self.made.push(self.true_ms);
                    self.most_at_once = self.most_at_once.max(self.processes.len());
                    let result = Ok(7);
                    self.say(Event::Created {
                        id: create.id,
                        result,
                    });
                }
                Effect::Stop { id } | Effect::Kill { id } => {
                    self.end(&id, ExitStatus::Signal(15));
                }
                Effect::Remove { id } => {
                    self.processes.remove(&id);
                    let result = Ok(());
                    self.say(Event::Removed { id, result });
                }
                Effect::PrepareImage(image) => {
                    let (manifest, result) = (image.manifest, Ok(ImageStatus::Ready));
                    self.say(Event::Image { manifest, result });
                }
                Effect::RemoveLog { log_name } => {
                    self.logs_removed.insert(log_name);
                }
                Effect::KeepRunLogs { group, runs } => {
                    self.run_logs.retain(|name| {
                        let mut parts = name.split('.');
                        let of_it = parts.next() == Some(group.as_str());
                        let run = parts.next().and_then(|run| run.parse().ok());
                        !of_it || run.is_some_and(|run| runs.contains(&run))
                    });
                }
                _ => {}
            }
        }
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.commits += 1;
        for change in changes {
            if let Change::Work(_, Some(record)) = &change {
                for run in &record.runs {
                    if let Some(due) = run.due {
                        let before = *self.started.entry(due.0).or_insert(run.number);
                        assert_eq!(before, run.number, "{} was started twice", due.0);
                    }
                }
            }
            self.records.apply(change);
        }
    }

    fn end(&mut self, id: &ContainerId, status: ExitStatus) {
        if self.processes.remove(id).is_some() {
            let exit = Exit {
                status,
                oom_killed: false,
                at: skerry_agent::runtime::Timestamp(0),
            };
            self.say(Event::Exited {
                id: id.clone(),
                exit,
            });
        }
    }

    /// Lets time pass, with all that falls due on the way.
    pub fn pass(&mut self, ms: u64) {
        let end = self.true_ms + ms;
        for _ in 0..100_000 {
            let wake = self.core.wake_at().map(|at| at + self.booted_ms);
            let ends = self.processes.iter();
            let ends = ends.filter_map(|(id, p)| Some((p.ends_at?, id.clone())));
            let first = ends.min();
            let at = first.as_ref().map(|(at, _)| *at).into_iter().chain(wake);
            let next = at.min().unwrap_or(end).max(self.true_ms);
            if next > end {
                break;
            }
            self.wall_ms += (next - self.true_ms) as i64;
            self.true_ms = next;
            match first {
                Some((at, id)) if at <= next => {
                    let code = self.processes[&id].code;
                    self.end(&id, ExitStatus::Code(code));
                }
                _ if next == end => {
                    self.say(Event::Wake);
                    break;
                }
                _ => self.say(Event::Wake),
            }
        }
        self.wall_ms += (end - self.true_ms) as i64;
        self.true_ms = end;
    }

    /// The log that this asks for.
    pub fn log(&self, run: Option<u32>, previous: bool) -> Result<LogPlace, String> {
        self.core.find_log(&LogsRequest {
            stream: StreamId(0),
            app: app("job"),
            container: None,
            tail: None,
            since_secs: None,
            follow: false,
            timestamps: false,
            run,
            previous,
            credit: 0,
        })
    }

    /// Numbers of the runs whose logs are there.
    pub fn runs_with_logs(&self) -> Vec<u32> {
        let number = |name: &String| name.split('.').nth(1)?.parse().ok();
        let mut runs: Vec<u32> = self.run_logs.iter().filter_map(number).collect();
        runs.sort_unstable();
        runs
    }

    pub fn status(&self) -> JobStatus {
        let report = self.core.report(self.now());
        report.apps[0].job.clone().expect("a job")
    }

    pub fn outcome(&self) -> Option<String> {
        self.status().outcome.map(|outcome| match outcome {
            JobOutcome::Complete => "Complete".to_string(),
            JobOutcome::Failed { reason } => reason,
        })
    }
}

fn running() -> Status {
    Status::Running {
        pid: 7,
        started_at: skerry_agent::runtime::Timestamp(0),
    }
}

fn restore(
    keys: &(KeyPair, KeyPair),
    records: Records,
    boot: u32,
    boot_ms: u64,
    wall: u64,
) -> (Core, Vec<Effect>) {
    let identity = Identity {
        fleet: "acme".parse().unwrap(),
        device: "kiosk".parse().unwrap(),
        key: keys.0.clone(),
        hub: keys.1.public(),
    };
    let facts = Facts {
        boot_id: format!("boot-{boot}"),
        ..Facts::default()
    };
    let start = Start {
        session: SessionId(u64::from(records.starts) * 1000),
        facts,
        update: UpdateStart::default(),
    };
    let wall = Timestamp(wall);
    Core::restore(identity, start, records, Now { boot_ms, wall })
}

pub fn app(name: &str) -> AppRef {
    AppRef {
        namespace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

/// A job whose container ends after so many milliseconds with this code.
pub fn job(args: &str, restart_policy: RestartPolicy, work: Work) -> Assignment {
    let image = ImageRef {
        reference: "image:1".into(),
        manifest: Digest::of(b"image"),
        manifest_size: 10,
    };
    let container = ContainerSpec {
        args: args.split_whitespace().map(str::to_string).collect(),
        ..ContainerSpec::new("main".parse().unwrap(), image)
    };
    let pod = PodSpec {
        restart_policy,
        ..PodSpec::new(vec![container])
    };
    let revision = RevisionId(Digest::of(args.as_bytes()));
    let mut assignment = Assignment::new(app("job"), revision, pod);
    assignment.policy.work = work;
    assignment
}

pub fn cron(schedule: &str) -> CronJob {
    CronJob::new(schedule.into(), Job::default())
}

pub fn cron_job(args: &str, cron: CronJob) -> Assignment {
    job(args, RestartPolicy::Never, Work::CronJob(Box::new(cron)))
}
