//! CronJobs: when a run starts, and when it does not.

use crate::machine::{DAY, HOUR, Machine, NEW_YEAR, SECOND, cron, cron_job};
use skerry_agent::core::work::cron::MAX_ACTIVE_RUNS;
use skerry_wire::Timestamp;
use skerry_wire::policy::{Concurrency, TimeZone};

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
    assert_eq!(machine.processes.len(), MAX_ACTIVE_RUNS);
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
