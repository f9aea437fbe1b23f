//! Which log is whose, and how long it is kept.

use crate::machine::{HOUR, Machine, NEW_YEAR, SECOND, app, cron, cron_job, job};
use skerry_agent::runtime::Earlier;
use skerry_wire::RestartPolicy;
use skerry_wire::policy::{CronJob, Job, Work};
use skerry_wire::report::JobStatus;

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
