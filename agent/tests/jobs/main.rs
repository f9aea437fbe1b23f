//! Jobs and CronJobs of the core on a machine on paper: its clock is set, it
//! sleeps, reboots, and its agent dies.

use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use skerry_agent::core::update::UpdateStart;
use skerry_agent::core::work::RunPhase;
use skerry_agent::core::{
    Change, Core, DesiredRecord, Effect, Event, Identity, ImageStatus, LogPlace, Now, Records,
    Start,
};
use skerry_agent::runtime::{ContainerId, Earlier, Exit, ExitStatus, Status};
use skerry_wire::cron::Schedule;
use skerry_wire::message::LogsRequest;
use skerry_wire::policy::{Concurrency, CronJob, Job, TimeZone, Work};
use skerry_wire::report::{ContainerState, Facts, JobOutcome, JobStatus};
use skerry_wire::seal::KeyPair;
use skerry_wire::zone::Zone;
use skerry_wire::*;
use std::collections::{BTreeMap, BTreeSet};

const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
const DAY: u64 = 24 * HOUR;
/// 2027-01-01 00:00 UTC, a Friday.
const NEW_YEAR: u64 = 1_798_761_600_000;

struct Process {
    ends_at: Option<u64>,
    code: i32,
}

struct Machine {
    keys: (KeyPair, KeyPair),
    /// Runs on whatever happens, in milliseconds.
    true_ms: u64,
    booted_ms: u64,
    boot: u32,
    wall_ms: i64,
    trusted: bool,
    records: Records,
    core: Core,
    processes: BTreeMap<ContainerId, Process>,
    /// When each container was made.
    made: Vec<u64>,
    most_at_once: usize,
    logs_removed: BTreeSet<String>,
    /// Logs of runs that are there.
    run_logs: BTreeSet<String>,
    /// Times that were started, and of which run.
    started: BTreeMap<u64, u32>,
    commits: usize,
}

impl Machine {
    fn new(wall: u64) -> Self {
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

    fn now(&self) -> Now {
        Now {
            boot_ms: self.boot_ms(),
            wall: Timestamp(u64::try_from(self.wall_ms).unwrap_or(0)),
        }
    }

    fn desire(&mut self, assignments: Vec<Assignment>) {
        let generation = Generation(self.core.generation().0 + 1);
        let bytes = encode(&Desired {
            generation,
            assignments,
            ..Desired::default()
        });
        self.records.desired = Some(DesiredRecord { generation, bytes });
        self.start_agent();
    }

    fn start_agent(&mut self) {
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

    fn power_cut(&mut self, off_ms: u64) {
        self.processes.clear();
        self.true_ms += off_ms;
        self.wall_ms += off_ms as i64;
        self.booted_ms = self.true_ms;
        self.boot += 1;
        self.start_agent();
    }

    fn set_clock(&mut self, by_ms: i64) {
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
    fn pass(&mut self, ms: u64) {
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
    fn log(&self, run: Option<u32>, previous: bool) -> Result<LogPlace, String> {
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
    fn runs_with_logs(&self) -> Vec<u32> {
        let number = |name: &String| name.split('.').nth(1)?.parse().ok();
        let mut runs: Vec<u32> = self.run_logs.iter().filter_map(number).collect();
        runs.sort_unstable();
        runs
    }

    fn status(&self) -> JobStatus {
        let report = self.core.report(self.now());
        report.apps[0].job.clone().expect("a job")
    }

    fn outcome(&self) -> Option<String> {
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

fn app(name: &str) -> AppRef {
    AppRef {
        namespace: "default".parse().unwrap(),
        name: name.parse().unwrap(),
    }
}

/// A job whose container ends after so many milliseconds with this code.
fn job(args: &str, restart_policy: RestartPolicy, work: Work) -> Assignment {
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

fn cron(schedule: &str) -> CronJob {
    CronJob::new(schedule.into(), Job::default())
}

fn cron_job(args: &str, cron: CronJob) -> Assignment {
    job(args, RestartPolicy::Never, Work::CronJob(Box::new(cron)))
}

#[test]
fn a_job_has_its_completions_one_after_the_other_and_then_rests() {
    let three = Job {
        completions: 3,
        ..Job::default()
    };
    let mut machine = Machine::new(NEW_YEAR);
    let wanted = job("5000 0", RestartPolicy::Never, Work::Job(three));
    machine.desire(vec![wanted.clone()]);
    assert_eq!(machine.status().active, 1);
    machine.pass(7 * SECOND);
    assert_eq!(machine.status().succeeded, 1);
    machine.pass(60 * SECOND);
    assert_eq!(machine.made, [0, 5 * SECOND, 10 * SECOND]);
    assert_eq!(machine.most_at_once, 1);
    assert_eq!(machine.outcome().as_deref(), Some("Complete"));
    // Neither agent nor machine nor time makes it run again, nor costs a write.
    let commits = machine.commits;
    machine.pass(DAY);
    assert_eq!(machine.commits, commits);
    machine.start_agent();
    machine.power_cut(DAY);
    machine.set_clock(-(40 * DAY as i64));
    machine.pass(DAY);
    // Nor does what is said around its pod.
    let mut other = wanted.clone();
    other.policy.work = Work::Job(Job {
        completions: 2,
        backoff_limit: 1,
        ..three
    });
    machine.desire(vec![other]);
    machine.pass(DAY);
    assert_eq!(machine.made.len(), 3);
    assert!(machine.logs_removed.is_empty(), "its log is kept");
    // Another pod does, and so does one that was away.
    machine.desire(vec![job("4000 0", RestartPolicy::Never, Work::Job(three))]);
    machine.pass(60 * SECOND);
    assert_eq!(machine.made.len(), 6);
    machine.desire(vec![]);
    assert_eq!(machine.logs_removed.len(), 1);
    assert!(machine.records.works.is_empty() && machine.records.ledger.is_empty());
    machine.desire(vec![wanted]);
    machine.pass(60 * SECOND);
    assert_eq!(machine.made.len(), 9);
}

#[test]
fn each_run_of_a_cron_job_has_a_log_as_long_as_it_is_remembered() {
    let every_minute = |args: &str, succeeded: u8| CronJob {
        successful_history: succeeded,
        failed_history: 1,
        ..cron(args)
    };
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![cron_job("5000 0", every_minute("* * * * *", 2))]);
    let none = machine.log(None, false).unwrap_err();
    assert!(none.contains("has not started yet"), "{none}");
    machine.pass(60 * SECOND + 1);
    let first = machine.log(None, false).unwrap().name;
    assert_eq!(machine.status().going[0].number, 1);
    machine.pass(3 * 60 * SECOND);
    assert_eq!(machine.runs_with_logs(), [2, 3, 4], "two past, one goes on");
    assert_ne!(machine.log(None, false).unwrap().name, first);
    let shown = |status: JobStatus| -> Vec<u32> {
        let past = status.history.iter().map(|run| run.number);
        past.chain(status.going.iter().map(|run| run.number))
            .collect()
    };
    assert_eq!(shown(machine.status()), [2, 3, 4]);
    for run in [2, 3, 4] {
        let name = machine.log(Some(run), false).unwrap().name;
        assert!(machine.run_logs.contains(&name), "{name}");
    }
    let gone = machine.log(Some(1), false).unwrap_err();
    assert!(gone.contains("only 2, 3, 4 (see successful"), "{gone}");

    // Whoever follows a run is done when it is.
    let all = |machine: &Machine, run| machine.core.has_written_all(&app("job"), run);
    assert!(all(&machine, Some(1)) && all(&machine, Some(3)) && !all(&machine, Some(4)));
    machine.pass(6 * SECOND);
    assert!(all(&machine, Some(4)));
    machine.pass(54 * SECOND);

    // Another pod stops what goes on; what is past is still there to be read.
    machine.desire(vec![cron_job("4000 0", every_minute("* * * * *", 2))]);
    assert_eq!(machine.runs_with_logs(), [3, 4]);
    // The agent died between the commit and what was to follow it.
    machine.run_logs.insert(first);
    machine.start_agent();
    assert_eq!(machine.runs_with_logs(), [3, 4]);
    // Nothing is left of one that is removed, whatever it became before.
    machine.pass(60 * SECOND);
    machine.desire(vec![job("1000", RestartPolicy::Never, Work::Service)]);
    assert_eq!(machine.runs_with_logs(), [0; 0]);
    let app = machine.log(Some(1), false).unwrap_err();
    assert!(app.contains("leave --job-run out"), "{app}");
    assert!(!all(&machine, None), "a service writes on");
    machine.desire(vec![]);
    assert!(all(&machine, None));
}

#[test]
fn a_run_that_is_forgotten_takes_its_log_along() {
    let hourly = CronJob {
        job: Job {
            ttl_after_finished_secs: Some(100),
            ..Job::default()
        },
        ..cron("0 * * * *")
    };
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![cron_job("5000 0", hourly)]);
    machine.pass(HOUR + 90 * SECOND);
    assert_eq!(machine.runs_with_logs(), [1]);
    machine.pass(20 * SECOND);
    assert_eq!(machine.runs_with_logs(), [0; 0]);
    assert!(machine.status().history.is_empty());
    assert_eq!(machine.outcome().as_deref(), Some("Complete"));
    machine.pass(HOUR);
    assert_eq!(machine.runs_with_logs(), [0; 0]);
}

#[test]
fn the_log_before_is_that_of_the_start_or_the_try_before() {
    let mut machine = Machine::new(NEW_YEAR);
    let tries = Work::Job(Job::default());
    machine.desire(vec![job("0 1", RestartPolicy::Never, tries)]);
    machine.pass(5 * SECOND);
    // It waits for its second try: the newest is the one that failed.
    let earlier = |machine: &Machine| machine.log(None, true).unwrap().earlier;
    assert_eq!(earlier(&machine), Some(Earlier::Newest));
    assert_eq!(machine.log(None, false).unwrap().earlier, None);
    machine.pass(2 * HOUR);
    assert!(matches!(earlier(&machine), Some(Earlier::Than(_))));

    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![job("1000 1", RestartPolicy::Always, Work::Service)]);
    let first = machine.processes.keys().next().unwrap().clone();
    assert_eq!(earlier(&machine), Some(Earlier::Than(first)));
    machine.pass(1_500);
    assert_eq!(earlier(&machine), Some(Earlier::Newest), "it backs off");
    machine.pass(SECOND);
    let second = machine.processes.keys().next().unwrap().clone();
    assert_eq!(earlier(&machine), Some(Earlier::Than(second)));

    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![cron_job("5000 0", cron("* * * * *"))]);
    machine.pass(2 * 60 * SECOND + 1);
    let place = machine.log(Some(1), true).unwrap();
    assert_eq!(place.earlier, Some(Earlier::ThanNewest));
}

#[test]
fn failed_pods_come_back_after_a_wait_that_doubles_up_to_the_limit() {
    let limit = Job {
        backoff_limit: 7,
        ..Job::default()
    };
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![job("0 1", RestartPolicy::Never, Work::Job(limit))]);
    machine.pass(HOUR);
    let waits: Vec<u64> = machine
        .made
        .windows(2)
        .map(|w| (w[1] - w[0]) / SECOND)
        .collect();
    assert_eq!(waits, [10, 20, 40, 80, 160, 320, 360]);
    assert_eq!(machine.outcome().as_deref(), Some("BackoffLimitExceeded"));
    assert_eq!(machine.status().failed, 8);
    machine.power_cut(0);
    machine.pass(HOUR);
    assert_eq!(machine.made.len(), 8);
}

#[test]
fn restarts_in_place_count_towards_the_limit() {
    for limit in [0, 1, 6] {
        let limited = Job {
            backoff_limit: limit,
            ..Job::default()
        };
        let mut machine = Machine::new(NEW_YEAR);
        machine.desire(vec![job(
            "0 1",
            RestartPolicy::OnFailure,
            Work::Job(limited),
        )]);
        machine.pass(HOUR);
        assert_eq!(machine.made.len() as u32, limit + 1, "limit {limit}");
        assert_eq!(machine.outcome().as_deref(), Some("BackoffLimitExceeded"));
        let report = machine.core.report(machine.now());
        assert_eq!(report.apps[0].containers[0].state, ContainerState::Ended);
    }
}

#[test]
fn a_deadline_counts_while_the_machine_is_on() {
    let hour = Job {
        active_deadline_secs: Some(3_600),
        ..Job::default()
    };
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![job("", RestartPolicy::OnFailure, Work::Job(hour))]);
    for _ in 0..3 {
        machine.pass(15 * 60 * SECOND);
        assert_eq!(machine.outcome(), None);
        machine.power_cut(DAY);
    }
    let on_ms = machine.true_ms;
    while machine.outcome().is_none() {
        machine.pass(SECOND);
    }
    assert_eq!(machine.outcome().as_deref(), Some("DeadlineExceeded"));
    assert!(machine.processes.is_empty());
    // Each power cut costs an eighth of the deadline at most.
    let last_ms = machine.true_ms - on_ms;
    let quarter = 15 * 60 * SECOND;
    assert!(
        (quarter..=quarter + 3 * 450 * SECOND).contains(&last_ms),
        "{last_ms}"
    );
    let commits = machine.commits;
    assert!(commits < 60, "{commits} commits");
}

#[test]
fn an_ended_job_is_forgotten_after_its_time_to_live() {
    let short = Job {
        ttl_after_finished_secs: Some(100),
        ..Job::default()
    };
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![job("1000 0", RestartPolicy::Never, Work::Job(short))]);
    machine.pass(100 * SECOND);
    assert!(machine.logs_removed.is_empty() && !machine.records.ledger.is_empty());
    machine.pass(2 * SECOND);
    assert!(!machine.logs_removed.is_empty() && machine.records.ledger.is_empty());
    machine.power_cut(HOUR);
    machine.pass(HOUR);
    assert_eq!(machine.made.len(), 1, "it is not run again");
    assert_eq!(machine.outcome().as_deref(), Some("Complete"));
}

#[test]
fn a_suspended_job_stops_and_goes_on_with_another_pod() {
    let mut machine = Machine::new(NEW_YEAR);
    let suspended = |suspend| {
        let work = Work::Job(Job {
            suspend,
            ..Job::default()
        });
        job("60000 0", RestartPolicy::Never, work)
    };
    machine.desire(vec![suspended(true)]);
    machine.pass(HOUR);
    assert!(machine.made.is_empty());
    machine.desire(vec![suspended(false)]);
    machine.pass(30 * SECOND);
    machine.desire(vec![suspended(true)]);
    machine.pass(HOUR);
    assert!(machine.processes.is_empty() && machine.outcome().is_none());
    machine.desire(vec![suspended(false)]);
    machine.pass(61 * SECOND);
    assert_eq!(machine.made.len(), 2);
    assert_eq!(machine.outcome().as_deref(), Some("Complete"));
}

#[test]
fn an_app_that_waits_for_a_job_starts_when_all_of_it_is_done() {
    let two = Job {
        completions: 2,
        ttl_after_finished_secs: Some(60),
        ..Job::default()
    };
    let first = job("5000 0", RestartPolicy::Never, Work::Job(two));
    let mut second = job("", RestartPolicy::Always, Work::Service);
    second.app = app("service");
    second.policy.depends_on = vec![skerry_wire::desired::Dependency {
        app: app("job"),
        condition: skerry_wire::desired::Awaited::Completed,
    }];
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![first, second]);
    machine.pass(9 * SECOND);
    assert_eq!(machine.made, [0, 5 * SECOND]);
    machine.pass(SECOND);
    assert_eq!(machine.made, [0, 5 * SECOND, 10 * SECOND]);
    // Also when nothing is left of the job but its record.
    machine.pass(HOUR);
    machine.power_cut(0);
    assert_eq!(machine.made.len(), 4);
}

#[test]
fn a_cron_job_starts_when_it_is_due_in_its_zone() {
    let mut machine = Machine::new(NEW_YEAR);
    let mut nightly = cron("30 2 * * *");
    nightly.time_zone = Some(TimeZone {
        name: "Europe/Berlin".into(),
        rule: "CET-1CEST,M3.5.0,M10.5.0/3".into(),
    });
    machine.desire(vec![cron_job("1000 0", nightly)]);
    assert_eq!(
        machine.status().next_due,
        Some(Timestamp(NEW_YEAR + HOUR * 3 / 2))
    );
    machine.pass(10 * DAY);
    assert_eq!(machine.made.len(), 10);
    assert_eq!(machine.made[0], HOUR * 3 / 2);
    assert_eq!(machine.status().history.len(), 3);
    assert!(machine.records.ledger.len() <= 1);
    assert!(machine.logs_removed.is_empty());
}

#[test]
fn of_all_that_was_missed_the_newest_is_started_once() {
    let mut machine = Machine::new(NEW_YEAR + 30 * SECOND);
    machine.desire(vec![cron_job("1000 0", cron("*/5 * * * *"))]);
    machine.pass(HOUR);
    assert_eq!(machine.made.len(), 12);
    // Off for a week; asleep; the clock leaps by a month.
    machine.power_cut(7 * DAY);
    assert_eq!(machine.made.len(), 13);
    machine.true_ms += 3 * HOUR;
    machine.set_clock(3 * HOUR as i64);
    assert_eq!(machine.made.len(), 14);
    machine.pass(2 * SECOND);
    machine.set_clock(30 * DAY as i64);
    machine.pass(2 * SECOND);
    assert_eq!(machine.made.len(), 15);
    machine.pass(HOUR);
    assert_eq!(machine.made.len(), 27);
}

#[test]
fn a_start_that_is_too_late_is_left_out() {
    let mut late = cron("0 * * * *");
    late.starting_deadline_secs = Some(600);
    let mut machine = Machine::new(NEW_YEAR + HOUR / 2);
    machine.desire(vec![cron_job("1000 0", late)]);
    machine.power_cut(HOUR);
    assert!(machine.made.is_empty(), "half an hour late");
    machine.pass(HOUR / 2);
    assert_eq!(machine.made.len(), 1);
    machine.power_cut(HOUR + 500 * SECOND);
    assert_eq!(machine.made.len(), 2, "500 seconds late");
}

#[test]
fn nothing_starts_from_a_clock_that_nobody_vouches_for() {
    let mut machine = Machine::new(40 * SECOND); // 1970
    machine.trusted = false;
    machine.desire(vec![cron_job("1000 0", cron("* * * * *"))]);
    machine.pass(HOUR);
    assert!(machine.made.is_empty());
    let conditions = machine.core.report(machine.now()).conditions;
    assert_eq!(conditions[0].kind, "ClockNotTrusted");
    assert!(conditions[0].message.contains("time server"));
    assert_eq!(machine.status().next_due, None);
    machine.trusted = true;
    machine.set_clock(NEW_YEAR as i64);
    machine.pass(HOUR);
    assert_eq!(machine.made.len(), 60);
    assert!(machine.core.report(machine.now()).conditions.is_empty());
}

#[test]
fn a_clock_that_was_far_ahead_holds_nothing_up() {
    let mut machine = Machine::new(NEW_YEAR + HOUR);
    machine.desire(vec![cron_job("1000 0", cron("0 12 * * *"))]);
    machine.pass(3 * DAY);
    assert_eq!(machine.made.len(), 3);
    machine.set_clock(70 * 365 * DAY as i64);
    machine.pass(HOUR);
    assert_eq!(machine.made.len(), 4);
    machine.set_clock(-(70 * 365 * DAY as i64));
    machine.pass(3 * DAY);
    assert_eq!(machine.made.len(), 7);
    // Back by two days: those were started.
    machine.set_clock(-(2 * DAY as i64));
    machine.pass(2 * DAY);
    assert_eq!(machine.made.len(), 7);
    machine.pass(DAY);
    assert_eq!(machine.made.len(), 8);
}

#[test]
fn what_still_runs_is_joined_awaited_or_replaced() {
    let with = |concurrency| {
        let mut every = cron("* * * * *");
        every.concurrency = concurrency;
        let mut machine = Machine::new(NEW_YEAR);
        machine.desire(vec![cron_job("90000 0", every)]);
        machine.pass(600 * SECOND);
        machine
    };
    let allowed = with(Concurrency::Allow);
    assert_eq!((allowed.made.len(), allowed.most_at_once), (10, 2));
    // Every second one comes as soon as the one before it has ended.
    let forbidden = with(Concurrency::Forbid);
    assert_eq!((forbidden.made.len(), forbidden.most_at_once), (7, 1));
    let replaced = with(Concurrency::Replace);
    assert_eq!((replaced.made.len(), replaced.most_at_once), (10, 1));
    assert_eq!(replaced.outcome().as_deref(), Some("Replaced"));
}

#[test]
fn runs_that_never_end_do_not_fill_the_machine() {
    let mut machine = Machine::new(NEW_YEAR);
    machine.desire(vec![cron_job("", cron("* * * * *"))]);
    machine.pass(HOUR);
    assert_eq!(
        machine.processes.len(),
        skerry_agent::core::work::cron::MAX_ACTIVE_RUNS
    );
}

#[test]
fn another_schedule_starts_nothing_for_the_past() {
    let mut machine = Machine::new(NEW_YEAR + 10 * HOUR);
    machine.desire(vec![cron_job("1000 0", cron("0 12 * * *"))]);
    machine.pass(SECOND);
    machine.desire(vec![cron_job("1000 0", cron("0 9 * * *"))]);
    machine.pass(HOUR);
    assert!(machine.made.is_empty());
    let mut suspended = cron("0 9 * * *");
    suspended.suspend = true;
    machine.desire(vec![cron_job("1000 0", suspended)]);
    machine.pass(2 * DAY);
    assert!(machine.made.is_empty());
    // Kubernetes too makes up for the newest that was missed.
    machine.desire(vec![cron_job("1000 0", cron("0 9 * * *"))]);
    assert_eq!(machine.made.len(), 1);
}

#[derive(Debug, Clone)]
enum Fate {
    Pass(u64),
    Crash,
    PowerCut(u64),
    Leap(i64),
    Doubt(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        3 => (1..2 * DAY).prop_map(Fate::Pass),
        1 => Just(Fate::Crash),
        1 => (0..3 * DAY).prop_map(Fate::PowerCut),
        1 => (-5 * DAY as i64..5 * DAY as i64).prop_map(Fate::Leap),
        1 => (-30_000 * DAY as i64..30_000 * DAY as i64).prop_map(Fate::Leap),
        1 => (1..DAY).prop_map(Fate::Doubt),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// `commit` checks that no time is started twice.
    #[test]
    fn however_the_clock_moves_each_time_is_started_once(
        fates in prop::collection::vec(fate(), 1..8),
        schedule in prop::sample::select(vec!["0 * * * *", "*/20 3-9 * * *", "30 2 * * *", "0 0 * * 1,4"]),
        run_ms in 1u64..90 * 60 * SECOND,
        concurrency in prop::sample::select(vec![Concurrency::Allow, Concurrency::Forbid, Concurrency::Replace]),
    ) {
        let mut wanted = cron(schedule);
        wanted.concurrency = concurrency;
        let schedule: Schedule = schedule.parse().unwrap();
        let mut machine = Machine::new(NEW_YEAR + 100 * DAY);
        machine.desire(vec![cron_job(&format!("{run_ms} 0"), wanted)]);
        for fate in fates.into_iter().chain([Fate::Pass(2 * DAY)]) {
            let (from, before) = (machine.now().wall, machine.started.len());
            match fate {
                Fate::Pass(ms) => {
                    machine.pass(ms);
                    // None is lost while the machine is on and its clock right;
                    // only a run that goes on may hold up those after it.
                    let mut due = schedule.next_after(&Zone::UTC, from);
                    while let Some(at) = due.filter(|at| *at <= machine.now().wall) {
                        let started = machine.started.contains_key(&at.0);
                        prop_assert!(started || concurrency == Concurrency::Forbid, "{at:?}");
                        due = schedule.next_after(&Zone::UTC, at);
                    }
                }
                Fate::Crash => machine.start_agent(),
                Fate::PowerCut(ms) => machine.power_cut(ms),
                Fate::Leap(ms) => {
                    let lowest = NEW_YEAR as i64 - machine.wall_ms;
                    machine.set_clock(ms.max(lowest));
                    prop_assert!(machine.started.len() <= before + 1);
                }
                Fate::Doubt(ms) => {
                    machine.trusted = false;
                    machine.set_clock(0);
                    machine.pass(ms);
                    prop_assert_eq!(machine.started.len(), before);
                    machine.trusted = true;
                    machine.set_clock(0);
                    prop_assert!(machine.started.len() <= before + 1);
                }
            }
            if concurrency != Concurrency::Allow {
                prop_assert!(machine.processes.len() <= 1);
            }
        }
    }

    #[test]
    fn completions_are_reached_exactly_or_the_limit_is(
        code in 0u32..2,
        completions in 1u32..4,
        limit in 0u32..3,
        policy in prop::sample::select(vec![RestartPolicy::Never, RestartPolicy::OnFailure]),
        fates in prop::collection::vec(prop_oneof![
            (1..20 * SECOND).prop_map(Fate::Pass), Just(Fate::Crash)
        ], 0..12),
    ) {
        let work = Work::Job(Job { completions, backoff_limit: limit, ..Job::default() });
        let mut machine = Machine::new(NEW_YEAR);
        machine.desire(vec![job(&format!("3000 {code}"), policy, work)]);
        for fate in fates {
            match fate {
                Fate::Pass(ms) => machine.pass(ms),
                _ => machine.start_agent(),
            }
            prop_assert!(machine.processes.len() <= 1);
        }
        machine.pass(DAY);
        let expected = if code == 0 { completions } else { limit + 1 };
        prop_assert_eq!(machine.made.len() as u32, expected);
        let ended = matches!(machine.records.works[&app("job")].runs[0].phase, RunPhase::Ended { .. });
        prop_assert!(ended);
    }
}
