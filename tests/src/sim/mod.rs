//! The simulation: the hub's real core and the agents' real cores on one
//! virtual clock, in one thread, without any input or output. What their
//! shells do is done here with models: stores, seals, a broker, keepers with
//! containers, image stores. All that is random comes from one seed, so a
//! seed is a whole history and can be played again.
//!
//! **What a seed contains.** One hub (on its own broker, or on one that may
//! lose its memory), one to five machines that join by token (some through
//! the lobby), four images, up to four apps with one or two containers each.
//! About 40 virtual seconds of trouble: an operator applies, changes and
//! deletes apps, labels, approves, revokes, reads logs and usage, makes
//! backups, rolls out agents, systems and lines of which some do not work, and
//! holds, goes on with and undoes that; messages are lost, doubled, late; lines are cut, with late wills;
//! agents crash between any two effects or inside a commit; the power goes;
//! keepers die; the hub crashes between any two effects or goes back to a
//! backup; clocks jump, also to 1970; disks are full; an
//! agent's store is damaged and begins anew. In every second seed
//! somebody owns the broker: it drops messages, plays recorded ones again,
//! alters them, moves them to other topics. Then the trouble ends, and all
//! must come to rest as it shall be within [`PATIENCE_MS`] of virtual time,
//! and stay so without a word or a commit.
//!
//! **What is checked** after every event is in the files that do things:
//! `hub.rs` (what is acknowledged is durable; nothing is shown as applied that
//! its device has not committed; a generation never names two contents),
//! `device/check.rs` (a commit stands before each act; generations rise; nothing
//! runs that was not desired; what is desired is not stopped; planning again
//! gives nothing), `device/update.rs` (an order is tried once, and only while
//! the hub means it; what is kept works; what is confirmed is in use),
//! `rollout.rs` (never more in flight than allowed; no order after the first
//! failure; every rollout ends), `keeper.rs` (never two of one container), `broker.rs` (no
//! secret in the clear, no message too long), `attacker.rs` (what is forged,
//! altered, moved or played again changes nothing).
//!
//! The [`Mutant`]s are bugs that shells and stores could have. A test plants
//! each of them and wants it caught.

pub mod attacker;
pub mod broker;
pub mod catalog;
pub mod chance;
pub mod device;
pub mod hub;
pub mod hub_store;
pub mod keeper;
pub mod laws;
pub mod operator;
pub mod rest;
pub mod rollout;
pub mod software;
pub mod world;

pub use world::{Stats, World};

use laws::Broken;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Virtual milliseconds of trouble in one seed.
pub const TROUBLE_MS: u64 = 40_000;
/// Virtual milliseconds after the trouble within which all is at rest: the
/// longest backoff of a container and of a report are five minutes each.
pub const PATIENCE_MS: u64 = 15 * 60 * 1_000;
/// Steps that a failure shows.
pub const STEPS_SHOWN: usize = 60;

/// A bug that is planted in what stands around the cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The agent's shell acts first and commits afterwards.
    ActBeforeCommit,
    /// The hub's store says that a commit is durable when it is not: a crash
    /// takes the last one back.
    HubCommitNotSynced,
    /// The same on a device.
    DeviceCommitNotSynced,
    /// The keeper lists its containers while one is being made.
    EarlyList,
    /// A hub is put back to an older copy of its store without `skerry
    /// restore`.
    RestoreUnmarked,
    /// What is on trial stays so when it ends.
    TrialStays,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Mutant; 6] = [
        Mutant::ActBeforeCommit,
        Mutant::HubCommitNotSynced,
        Mutant::DeviceCommitNotSynced,
        Mutant::EarlyList,
        Mutant::RestoreUnmarked,
        Mutant::TrialStays,
    ];
}

/// How a seed is played.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// The bug that is planted, if any.
    pub mutant: Option<Mutant>,
    /// Steps that a failure shows; [`STEPS_SHOWN`] unless said.
    pub steps_shown: Option<usize>,
}

/// A seed that broke a law.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "seed {seed} at {at_ms} ms: {broken}\n{}\nplay it again: SKERRY_SIM_SEED={seed}",
    .steps.join("\n")
)]
pub struct Failure {
    /// Which seed.
    pub seed: u64,
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// Which law and what was seen.
    pub broken: Broken,
    /// The last steps before it.
    pub steps: Vec<String>,
}

/// Plays one seed. A failing seed is played a second time to tell its steps.
pub fn play(seed: u64, options: Options) -> Result<Stats, Box<Failure>> {
    match play_once(seed, options, false) {
        Ok(stats) => Ok(stats),
        Err(first) => Err(match play_once(seed, options, true) {
            Err(told) => told,
            Ok(_) => first,
        }),
    }
}

fn play_once(seed: u64, options: Options, tell: bool) -> Result<Stats, Box<Failure>> {
    let mut world = World::new(seed, options, tell);
    let ended = catch_unwind(AssertUnwindSafe(|| world.run()));
    let broken = match ended {
        Ok(Ok(())) => return Ok(world.stats),
        Ok(Err(broken)) => broken,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| t.to_string()));
            Broken {
                law: "no core panics",
                what: text.unwrap_or_else(|| "it panicked".into()),
            }
        }
    };
    Err(Box::new(Failure {
        seed,
        at_ms: world.now_ms(),
        broken,
        steps: world.steps(),
    }))
}
