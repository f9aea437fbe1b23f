//! Laws, at random.

use crate::machine::{DAY, Machine, NEW_YEAR, SECOND, app, cron, cron_job, job};
use proptest::prelude::*;
use skerry_agent::core::work::RunPhase;
use skerry_wire::RestartPolicy;
use skerry_wire::cron::Schedule;
use skerry_wire::policy::{Concurrency, Job, Work};
use skerry_wire::zone::Zone;

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
