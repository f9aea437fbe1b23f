//! What many apps on one device cost: a hub, an agent, and 1, 50, 100 and 200
//! small apps that run. Prints a table; asserts nothing about time, since
//! machines are noisy.
//!
//! `./bench apps` builds releases and runs this; `./bench apps --short` takes
//! two minutes instead of five. What there must be with 200 apps:
//!
//! - a decision takes less than 5 ms: "a plan" is the planning function alone,
//!   called in this process; "a decision" is all that the agent itself thinks
//!   between an event and what it does about it, in processor time of its own
//!   (`--log debug`), and "while starting" is when there is most to decide;
//! - agent and keeper use less than 0.5 % of one processor while the apps idle;
//! - the cost of an app is flat: the last lines set the second hundred's apps
//!   beside those of the whole way from 1 to 200.
//!
//! On a loaded machine look at the processor's time rather than at the clock's:
//! of the distributions the median, of the rest what is called cpu.

use skerry_agent::core::action::{Action, apply};
use skerry_agent::core::observed::{ImageState, Observed};
use skerry_agent::core::plan::{Wanted, plan};
use skerry_agent::runtime::{Status, Timestamp};
use skerry_tests::cost::{
    anonymous, children_millis, descriptors, head, median, ours, pss, row, scheduled_millis,
    threads, wakeups,
};
use skerry_tests::fleet::app_manifest;
use skerry_tests::{Agent, Hub, Scratch, need_root, until};
use skerry_wire::{self as wire, AppRef, Assignment, Digest, ImageRef, PodSpec, RevisionId};
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// How many apps there are, one time after the other.
const COUNTS: [usize; 4] = [1, 50, 100, 200];
/// How long 100 starts may take on a loaded machine.
const LONG: Duration = Duration::from_secs(300);
/// A new app is on trial for 10 s; then it has its last report.
const SETTLES: Duration = Duration::from_secs(14);
/// Apps that are killed, to see what one start among the others costs.
const VICTIMS: usize = 10;

fn main() {
    need_root();
    let short = std::env::args().any(|a| a == "--short");
    head();
    for count in COUNTS {
        plans(count);
    }
    let scratch = Scratch::new("apps");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    one.kill();
    one.start_with(&["--log", "debug"], &[]);
    hub.wait_online("one");
    let most = COUNTS[COUNTS.len() - 1];
    let mut all = Vec::new();
    let mut running = 0;
    for count in COUNTS {
        let idle = Duration::from_secs(if short && count != most { 20 } else { 30 });
        all.push(measure(&scratch, &hub, &one, running, count, idle));
        running = count;
    }
    flatness(&all);
}

/// What agent and keeper, and their helpers, need with so many apps.
struct Cost {
    apps: f64,
    pss_kib: f64,
    anonymous_kib: f64,
    files: f64,
    threads: f64,
    idle_percent: f64,
    start_millis: f64,
    restart_millis: f64,
    decision_micros: f64,
}

fn measure(
    scratch: &Scratch,
    hub: &Hub,
    one: &Agent,
    running: usize,
    count: usize,
    idle: Duration,
) -> Cost {
    let mut log = DecisionLog::new(one);
    let keeper = keeper_of(one);
    let before = spent(one, keeper);
    let begin = Instant::now();
    let texts: Vec<String> = (running..count)
        .map(|number| app_manifest(&format!("idle-{number:03}"), &["sleep"], ""))
        .collect();
    let path = scratch.path().join("apps.yaml");
    fs::write(&path, texts.join("---\n")).expect("written");
    hub.skerry(&["apply", "-f", &path.display().to_string()]);
    await_apps(one, count, &[]);
    let new = (count - running) as f64;
    let took = begin.elapsed().as_secs_f64() * 1e3 / new;
    let start_millis = (spent(one, keeper) - before) / new;
    row(
        &format!("{count} apps: apply to running, each of the new"),
        &[took],
        "ms",
    );
    row(
        &format!("{count} apps: cpu of one start"),
        &[start_millis],
        "ms",
    );
    pause(SETTLES);
    row(
        &format!("{count} apps: a decision while starting (budget 5000)"),
        &log.micros(one),
        "us",
    );

    let pids = ours(one);
    let total = |of: fn(u32) -> f64| pids.iter().map(|pid| of(*pid)).sum::<f64>();
    let before = (total(scheduled_millis), total(wakeups));
    pause(idle);
    let after = (total(scheduled_millis), total(wakeups));
    let idle_percent = (after.0 - before.0) / idle.as_secs_f64() / 10.0;
    row(
        &format!(
            "{count} apps: idle for {} s: cpu (budget 0.5)",
            idle.as_secs()
        ),
        &[idle_percent],
        "%",
    );
    row(
        &format!("{count} apps: idle: wakes in a minute"),
        &[(after.1 - before.1) * 60.0 / idle.as_secs_f64()],
        "",
    );

    // After the keeper has given back what only work needs.
    let (pss_kib, anonymous_kib) = (total(pss), total(anonymous));
    let (files, threads) = (total(descriptors), total(threads));
    for (what, value, unit) in [
        ("agent and keeper: PSS", pss_kib, "KiB"),
        ("agent and keeper: anonymous", anonymous_kib, "KiB"),
        ("agent and keeper: files open", files, ""),
        ("agent and keeper: threads", threads, ""),
        ("agent and keeper: processes", pids.len() as f64, ""),
    ] {
        row(&format!("{count} apps: {what}"), &[value], unit);
    }

    log.micros(one);
    let victims = VICTIMS.min(count);
    let before = spent(one, keeper);
    for _ in 0..victims {
        let there = one.container_processes();
        let victim = there[there.len() / 2];
        let end = nix::sys::signal::Signal::SIGKILL;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(victim), end).expect("it runs");
        await_apps(one, count, &[victim]);
    }
    let restart_millis = (spent(one, keeper) - before) / victims as f64;
    row(
        &format!("{count} apps: cpu of one end and new start"),
        &[restart_millis],
        "ms",
    );
    let decisions = log.micros(one);
    row(
        &format!("{count} apps: a decision while one restarts"),
        &decisions,
        "us",
    );
    Cost {
        apps: count as f64,
        pss_kib,
        anonymous_kib,
        files,
        threads,
        idle_percent,
        start_millis,
        restart_millis,
        decision_micros: median(&decisions),
    }
}

/// What one app more costs: on the whole way, and in the second hundred.
fn flatness(all: &[Cost]) {
    let [first, .., hundred, last] = all else {
        return;
    };
    println!(
        "{:<56} {:>9} {:>9}",
        "ONE APP MORE COSTS", "1 TO 200", "FROM 100"
    );
    let slope =
        |from: &Cost, of: &dyn Fn(&Cost) -> f64| (of(last) - of(from)) / (last.apps - from.apps);
    let line = |what: &str, of: &dyn Fn(&Cost) -> f64, unit: &str| {
        println!(
            "{what:<56} {:>9.3} {:>9.3}  {unit}",
            slope(first, of),
            slope(hundred, of)
        );
    };
    line("PSS", &|cost| cost.pss_kib, "KiB");
    line("anonymous", &|cost| cost.anonymous_kib, "KiB");
    line("files open", &|cost| cost.files, "");
    line("threads", &|cost| cost.threads, "");
    line("idle cpu", &|cost| cost.idle_percent, "%");
    line(
        "a decision while one restarts, median",
        &|cost| cost.decision_micros,
        "us",
    );
    let starts = |cost: &Cost| format!("{:.1}", cost.start_millis);
    let restarts = |cost: &Cost| format!("{:.1}", cost.restart_millis);
    let shown = |of: &dyn Fn(&Cost) -> String| all.iter().map(of).collect::<Vec<_>>().join(", ");
    println!("cpu of one start, by count of apps: {} ms", shown(&starts));
    println!(
        "cpu of one end and new start, the same: {} ms",
        shown(&restarts)
    );
}

/// Processor time of agent, keeper and all helpers that have ended, in
/// milliseconds.
fn spent(one: &Agent, keeper: u32) -> f64 {
    scheduled_millis(one.pid()) + scheduled_millis(keeper) + children_millis(keeper)
}

/// The keeper: the one that is ours and not the agent, before there are apps.
fn keeper_of(one: &Agent) -> u32 {
    let agent = one.pid();
    let is_keeper = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        *pid != agent && line.split(|byte| *byte == 0).any(|word| word == b"keeper")
    };
    let found = until(LONG, || ours(one).into_iter().find(is_keeper));
    found.expect("a keeper runs")
}

fn await_apps(one: &Agent, count: usize, gone: &[i32]) {
    let up = until(LONG, || {
        let there = one.container_processes();
        let all = there.len() == count && gone.iter().all(|pid| !there.contains(pid));
        all.then_some(())
    });
    assert!(up.is_some(), "{count} apps do not run:\n{}", one.log());
}

fn pause(span: Duration) {
    until(span, || None::<()>);
}

/// What the agent's log says of how long it thought.
struct DecisionLog {
    read: usize,
}

impl DecisionLog {
    fn new(one: &Agent) -> Self {
        Self {
            read: one.log().len(),
        }
    }

    /// Since the last look, in microseconds.
    fn micros(&mut self, one: &Agent) -> Vec<f64> {
        let log = one.log();
        let new = log.get(self.read..).unwrap_or_default();
        self.read = log.len();
        let decided = new
            .lines()
            .filter_map(|line| line.split_once("decided in "));
        let words = decided.filter_map(|(_, rest)| rest.split_whitespace().next());
        words.filter_map(|word| word.parse().ok()).collect()
    }
}

/// Planning with nothing to do: the least that an event costs on a device.
fn plans(count: usize) {
    let assignment = |n: usize| {
        let image = ImageRef {
            reference: "a".into(),
            manifest: Digest::of(b"image"),
            manifest_size: 1,
        };
        let main = wire::ContainerSpec::new("main".parse().expect("a name"), image);
        Assignment {
            app: AppRef {
                namespace: "default".parse().expect("a name"),
                name: format!("app{n:03}").parse().expect("a name"),
            },
            revision: RevisionId(Digest::of(&n.to_le_bytes())),
            policy: Default::default(),
            pod: PodSpec::new(vec![main]),
        }
    };
    let assignments: Vec<Assignment> = (0..count).map(assignment).collect();
    let (previous, replacing) = (BTreeMap::new(), BTreeMap::new());
    let jobs = Default::default();
    let wanted = Wanted {
        assignments: Some(&assignments),
        previous: &previous,
        replacing: &replacing,
        jobs: &jobs,
    };
    let mut observed = Observed {
        containers: Some(BTreeMap::new()),
        ..Observed::default()
    };
    let here = (Digest::of(b"image"), ImageState::Ready);
    observed.images.extend([here]);
    let mut ledger = BTreeMap::new();
    loop {
        let actions = plan(0, wanted, &observed, &ledger).actions;
        if actions.is_empty() {
            break;
        }
        for action in actions {
            apply(0, &mut ledger, &action);
            if let Action::Create { entry, .. } = action {
                let id = entry.name().incarnation(entry.incarnation);
                let started_at = Timestamp(0);
                observed.set(id, Status::Running { pid: 2, started_at });
            }
        }
    }
    assert_eq!(ledger.len(), count);
    let mut micros = Vec::new();
    for _ in 0..200 {
        let begin = Instant::now();
        let plan = plan(0, wanted, &observed, &ledger);
        micros.push(begin.elapsed().as_secs_f64() * 1e6);
        assert!(plan.actions.is_empty());
    }
    row(
        &format!("{count} apps: a plan with nothing to do, unoptimised"),
        &micros,
        "us",
    );
}
