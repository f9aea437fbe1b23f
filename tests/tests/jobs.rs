//! Jobs and CronJobs with real containers.

use serde_json::Value;
use skerry_tests::{Agent, Hub, PATIENCE, Scratch, need_root, until};
use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A job of this name; `fields` stand in its spec, `args` are its program's.
fn job(name: &str, fields: &str, args: &str) -> String {
    format!(
        "apiVersion: skerry/v1
kind: Job
metadata: {{ name: {name} }}
spec:
{fields}
  template:
    spec:
      terminationGracePeriodSeconds: 1
      restartPolicy: Never
      containers:
      - {{ name: main, image: test/app:1, args: [{args}] }}
"
    )
}

fn status<'a>(device: &'a Value, name: &str) -> Option<&'a Value> {
    let mut apps = device["apps"].as_array()?.iter();
    let app = apps.find(|app| app["name"] == name)?;
    Some(&app["job"]).filter(|job| job.is_object())
}

/// Starts the agent again with this clock, in milliseconds since 1970.
fn start_at(agent: &mut Agent, clock: u64) {
    agent.kill();
    agent.start_with(&[], &[("SKERRY_FAKE_CLOCK", &clock.to_string())]);
    answers(agent);
}

fn answers(agent: &Agent) {
    let answers = || {
        agent
            .command("status")
            .output()
            .is_ok_and(|out| out.status.success())
    };
    until(PATIENCE, || answers().then_some(())).expect("the agent answers");
}

fn came_out(device: &Value, name: &str, outcome: &str) -> bool {
    status(device, name).is_some_and(|job| job["outcome"] == outcome)
}

#[test]
fn a_job_runs_to_its_end_once() {
    need_root();
    let scratch = Scratch::new("job");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let file = scratch.path().join("jobs.yaml");
    let path = file.display().to_string();
    let after = "apiVersion: skerry/v1
kind: App
metadata: { name: after }
spec:
  dependsOn: [{ name: copy, condition: Completed }]
  template: { spec: { containers: [{ name: main, image: test/app:1, args: [sleep] }] } }
";
    let copy = job("copy", "  completions: 3", "note, /dev/stdout, one");
    let bad = job("bad", "  backoffLimit: 0", "exit, '3'");
    let long = job("long", "  activeDeadlineSeconds: 2", "sleep");
    let gone = job(
        "gone",
        "  ttlSecondsAfterFinished: 1",
        "note, /dev/stdout, gone",
    );
    fs::write(&file, format!("{copy}---\n{after}")).expect("written");
    let said = hub.skerry(&["apply", "-f", &path, "--wait", "--timeout", "120s"]);
    assert!(said.contains("job/copy created"), "{said}");
    let device = hub.device("one");
    assert_eq!(status(&device, "copy").expect("a job")["succeeded"], 3);
    assert_eq!(one.container_processes().len(), 1, "the one that waited");
    let log = hub.skerry(&["logs", "copy"]);
    assert_eq!(
        log.lines().filter(|line| line.contains("one")).count(),
        3,
        "{log}"
    );
    let jobs = hub.skerry(&["get", "jobs"]);
    assert!(jobs.contains("copy") && jobs.contains("Complete"), "{jobs}");
    assert!(!jobs.contains("after"), "{jobs}");

    // Those that fail say why, and end waiting for them.
    fs::write(&file, bad).expect("written");
    let failed = hub.try_skerry(&["apply", "-f", &path, "--wait", "--timeout", "120s"]);
    let failed = failed.expect_err("it fails");
    assert!(failed.contains("BackoffLimitExceeded"), "{failed}");
    fs::write(&file, format!("{long}---\n{gone}")).expect("written");
    hub.skerry(&["apply", "-f", &path]);
    hub.wait_for_device("one", "the long job failed", |d| {
        came_out(d, "long", "Failed")
    });
    let device = hub.wait_for_device("one", "the short one is forgotten", |d| {
        let apps = d["apps"].as_array().into_iter().flatten();
        let mut gone = apps.filter(|app| app["name"] == "gone");
        came_out(d, "gone", "Complete") && gone.all(|app| app["containers"] == Value::Array(vec![]))
    });
    assert_eq!(
        status(&device, "long").expect("a job")["reason"],
        "DeadlineExceeded"
    );
    until(PATIENCE, || {
        (one.container_processes().len() == 1).then_some(())
    })
    .expect("what took too long is stopped");

    // Nothing of it runs again.
    one.kill();
    one.start_again();
    hub.wait_online("one");
    one.cut_power();
    one.start_again();
    hub.wait_for_device("one", "the app runs", |d| {
        let apps = d["apps"].as_array().into_iter().flatten();
        let mut after = apps.filter(|app| app["name"] == "after");
        after.any(|app| app["containers"][0]["state"]["kind"] == "running")
    });
    let device = hub.device("one");
    let copy = status(&device, "copy").expect("a job");
    assert_eq!(
        (&copy["succeeded"], &copy["active"]),
        (&3.into(), &0.into())
    );
    until(PATIENCE, || {
        (one.container_processes().len() == 1).then_some(())
    })
    .expect("only the app runs");
    answers(&one);
    let shown = one.agent("status", &[]);
    assert!(shown.contains("DeadlineExceeded"), "{shown}");
}

#[test]
fn a_cron_job_goes_by_a_clock_that_can_be_believed() {
    need_root();
    let scratch = Scratch::new("cron");
    let mut hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    // 1970: nobody believes that.
    start_at(&mut one, 60_000);
    let manifest = "apiVersion: skerry/v1
kind: CronJob
metadata: { name: nightly }
spec:
  schedule: 30 2 * * *
  timeZone: Europe/Berlin
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers:
          - { name: main, image: test/app:1, args: [time] }
";
    hub.apply(&scratch, manifest);
    hub.wait_for_device("one", "it waits for the time", |d| {
        let mut conditions = d["conditions"].as_array().into_iter().flatten();
        conditions.any(|c| c["kind"] == "ClockNotTrusted") && status(d, "nightly").is_some()
    });
    // 2027-03-27 02:29:50 in Berlin.
    let before = 1_806_110_990_000_u64;
    start_at(&mut one, before);
    let device = hub.wait_for_device("one", "it ran", |d| came_out(d, "nightly", "Complete"));
    let ran = status(&device, "nightly").expect("a job");
    assert_eq!(ran["last_due_ms"], 1_806_111_000_000_u64);
    // On the 28th there is no 02:30, and from then on it is an hour earlier in
    // UTC.
    assert_eq!(ran["next_due_ms"], 1_806_280_200_000_u64, "{ran}");
    // The same again, and a day later: one time is one start.
    start_at(&mut one, before);
    start_at(&mut one, before + 3 * 86_400_000);
    hub.wait_for_device("one", "it made up for the newest", |d| {
        let runs = status(d, "nightly").map(|job| &job["runs"]);
        let runs = runs.and_then(Value::as_array);
        runs.is_some_and(|runs| runs.len() == 2)
    });
    // Each has its own log, which says something else, and who follows it is
    // done when it is.
    let runs = ["1", "2"].map(|run| hub.skerry(&["logs", "one/nightly", "--job-run", run]));
    assert!(runs.iter().all(|log| log.lines().count() == 1), "{runs:?}");
    assert_ne!(runs[0], runs[1]);
    assert_eq!(hub.skerry(&["logs", "cronjob/nightly", "-f"]), runs[1]);
    let none = hub.try_skerry(&["logs", "nightly", "--job-run", "3"]);
    let none = none.expect_err("there were two");
    assert!(
        none.contains("run 3 of default/nightly is not kept on this device, only 1, 2"),
        "{none}"
    );
    let described = hub.skerry(&["describe", "cronjob", "nightly"]);
    let mut rows = described.lines().map(str::split_whitespace);
    let second = |mut row: std::str::SplitWhitespace<'_>| {
        let start = [row.next(), row.next(), row.next()];
        start == [Some("one"), Some("2"), Some("2027-03-30")]
    };
    assert!(rows.any(second), "{described}");
    let log_dirs = || fs::read_dir(one.run_dir().join("logs")).map_or(0, |dir| dir.count());
    assert_eq!(log_dirs(), 2);
    let shown = hub.skerry(&["get", "cronjobs"]);
    assert!(
        shown.contains("30 2 * * *") && shown.contains("Europe/Berlin"),
        "{shown}"
    );
    // The device knows all that by itself.
    hub.kill();
    let here = ["1", "2"].map(|run| one.agent("logs", &["nightly", "--job-run", run]));
    assert_eq!(here, runs);
    assert_eq!(one.agent("logs", &["nightly", "-f"]), runs[1]);
    let status = one.agent("status", &[]);
    assert!(status.contains("CRONJOB  RUN  DUE"), "{status}");
    hub.start_again();
    hub.wait_online("one");
    hub.skerry(&["delete", "cronjob", "nightly"]);
    until(PATIENCE, || (log_dirs() == 0).then_some(())).expect("the logs are gone");
}

#[test]
fn what_the_start_before_said_is_shown_by_itself() {
    need_root();
    let scratch = Scratch::new("previous");
    let mut hub = Hub::start(&scratch);
    let one = Agent::start(&scratch, "one", &hub.token(&[]));
    hub.wait_online("one");
    hub.import_test_image(&scratch);
    let manifest = "apiVersion: skerry/v1
kind: App
metadata: { name: once }
spec: { template: { spec: { containers: [{ name: main, image: test/app:1, args: [lines, '1000'] }] } } }
---
apiVersion: skerry/v1
kind: App
metadata: { name: crash }
spec: { template: { spec: { containers: [{ name: main, image: test/app:1, args: [time] }] } } }
";
    // Without waiting: one of them is never ready.
    let file = scratch.path().join("apps.yaml");
    fs::write(&file, manifest).expect("written");
    hub.skerry(&["apply", "-f", &file.display().to_string()]);
    until(PATIENCE, || {
        let lines = hub.try_skerry(&["logs", "once", "--tail", "1"]);
        lines.is_ok_and(|lines| !lines.is_empty()).then_some(())
    })
    .expect("it writes");
    let none = hub.try_skerry(&["logs", "once", "--previous"]);
    let none = none.expect_err("it was started once");
    assert!(
        none.contains("nothing is kept of an earlier start"),
        "{none}"
    );
    // Each start says another time, and ends: while the next one is waited
    // for, the newest is the one before.
    let all = || hub.skerry(&["logs", "crash"]);
    let (text, previous) = until(PATIENCE, || {
        let before = all();
        let previous = hub.try_skerry(&["logs", "crash", "-p"]).ok()?;
        let same = before == all() && before.lines().count() > 1;
        let last = before.lines().last() == Some(previous.trim_end());
        (same && last).then_some((before, previous))
    })
    .expect("it ended twice");
    assert_eq!(previous.lines().count(), 1, "of {text}");
    hub.kill();
    let here = one.agent("logs", &["crash", "--previous", "--tail", "5"]);
    assert_eq!(here.lines().count(), 1, "{here}");
    assert!(one.agent("logs", &["crash"]).contains(&here));
}

#[test]
fn each_minute_is_one_start_on_a_real_clock() {
    need_root();
    let scratch = Scratch::new("minute");
    let hub = Hub::start(&scratch);
    let mut one = Agent::start(&scratch, "one", &hub.token(&[]));
    // Whatever this machine's clock is worth: the true time, believed.
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    start_at(
        &mut one,
        u64::try_from(now.as_millis()).expect("before 2554"),
    );
    hub.import_test_image(&scratch);
    let manifest = "apiVersion: skerry/v1
kind: CronJob
metadata: { name: tick }
spec:
  schedule: '* * * * *'
  concurrencyPolicy: Replace
  jobTemplate: { spec: { template: { spec: { restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{ name: main, image: test/app:1, args: [sleep] }] } } } }
";
    hub.apply(&scratch, manifest);
    let within = Duration::from_secs(60) + PATIENCE;
    until(within, || {
        (one.container_processes().len() == 1).then_some(())
    })
    .expect("it started");
    let first = one.container_processes();
    until(within, || {
        let now = one.container_processes();
        (now.len() == 1 && now != first).then_some(())
    })
    .expect("another took its place");
    hub.wait_for_device("one", "the old one is remembered", |d| {
        status(d, "tick").is_some_and(|job| job["runs"][0]["reason"] == "Replaced")
    });
    hub.skerry(&["delete", "cronjob", "tick"]);
    until(PATIENCE, || {
        one.container_processes().is_empty().then_some(())
    })
    .expect("it is gone");
}
