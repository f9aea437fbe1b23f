//! Jobs: completions, failures, deadlines.

use crate::machine::{DAY, HOUR, Machine, NEW_YEAR, SECOND, app, job};
use skerry_wire::RestartPolicy;
use skerry_wire::policy::{Job, Work};
use skerry_wire::report::ContainerState;

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
