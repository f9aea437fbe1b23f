//! The simulation: see `tests/src/sim/mod.rs` for what a seed contains and
//! which laws are checked.
//!
//! `SKERRY_SIM_SEED=7` plays one seed, `SKERRY_SIM_SEEDS=10000` plays more;
//! `SKERRY_SIM_STEPS=1000` shows more steps of a failure.

use skerry_tests::sim::{Failure, Mutant, Options, Stats, play};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Seeds of an ordinary test run.
const SEEDS: u64 = 1_000;
/// A mutant is caught within so many.
const MUTANT_SEEDS: u64 = 200;
/// What an ordinary run must have met; otherwise it tests nothing.
const MUST_HAPPEN: [&str; 45] = [
    "agent crash",
    "agent start",
    "apply",
    "approve",
    "attack on a device",
    "attack on the hub",
    "backup",
    "broker away",
    "broker forgets",
    "clock jumps",
    "delete",
    "desired taken",
    "disk full",
    "doubled",
    "hub clock jumps",
    "hub crash",
    "hub line cut",
    "job ends",
    "joined",
    "keeper lost",
    "label",
    "line cut",
    "line given up",
    "line kept",
    "log read",
    "lost",
    "on trial",
    "power cut",
    "proved",
    "reboot",
    "restore",
    "rolled back",
    "rollout complete",
    "rollout paused",
    "rollout stopped",
    "rollout superseded",
    "store lost",
    "update came back",
    "update held",
    "update refused",
    "update tried",
    "update was lost",
    "update was refused",
    "update was undone",
    "will",
];

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a number, not '{text}'")),
    )
}

/// Plays these seeds on all processors; the failure with the lowest seed.
fn play_all(seeds: u64, options: Options) -> Result<Stats, Box<Failure>> {
    let next = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let total = Mutex::new(Stats::default());
    let failure: Mutex<Option<Box<Failure>>> = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    match play(seed, options) {
                        Ok(stats) => {
                            let total = total.lock();
                            total.unwrap_or_else(PoisonError::into_inner).add(&stats);
                        }
                        Err(failed) => {
                            stop.store(true, Ordering::Relaxed);
                            let failure = failure.lock();
                            let mut failure = failure.unwrap_or_else(PoisonError::into_inner);
                            if failure.as_ref().is_none_or(|old| failed.seed < old.seed) {
                                *failure = Some(failed);
                            }
                        }
                    }
                }
            });
        }
    });
    match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(failure) => Err(failure),
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

#[test]
fn the_laws_hold_in_every_seed() {
    let options = Options {
        steps_shown: number("SKERRY_SIM_STEPS").map(|steps| steps as usize),
        ..Options::default()
    };
    if let Some(seed) = number("SKERRY_SIM_SEED") {
        match play(seed, options) {
            Ok(stats) => return println!("seed {seed} is fine: {stats:#?}"),
            Err(failure) => panic!("{failure}"),
        }
    }
    let seeds = number("SKERRY_SIM_SEEDS").unwrap_or(SEEDS);
    match play_all(seeds, options) {
        Ok(stats) => {
            println!("{seeds} seeds: {stats:#?}");
            if seeds >= SEEDS {
                for what in MUST_HAPPEN {
                    assert!(stats.counts.contains_key(what), "no seed had: {what}");
                }
            }
        }
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_seed_is_always_the_same_history() {
    for seed in [1, 2, 3] {
        let first = play(seed, Options::default()).map_err(|e| e.broken);
        let second = play(seed, Options::default()).map_err(|e| e.broken);
        assert_eq!(first, second);
    }
}

#[test]
fn planted_bugs_are_caught() {
    for mutant in Mutant::ALL {
        let options = Options {
            mutant: Some(mutant),
            ..Options::default()
        };
        match play_all(MUTANT_SEEDS, options) {
            Ok(_) => panic!("{mutant:?} was not caught within {MUTANT_SEEDS} seeds"),
            Err(failure) => println!("{mutant:?}: seed {}: {}", failure.seed, failure.broken),
        }
    }
}
