//! Two places for the device's software, of which one is in use: the door
//! between the agent's core and whatever holds the bytes. The agent's own
//! program (`binary.rs`) and the root file systems of our minimal
//! image are behind it.
//!
//! ```text
//!            install                try_next              confirm
//! Trial::None ─────► Trial::None ────────────► Running ────────────► None
//!      ▲                                          │ revert, any other start,
//!      │ install                                  ▼ a watchdog, a power cut
//!      └───────────────────────────────────── Undone{reason}
//! ```
//!
//! What the core relies on:
//! - each call is durable when it returns, and a power cut inside of one
//!   leaves the state before it or the one after it;
//! - after [`Slots::try_next`] the other place is taken **once**: every start
//!   after that one takes the confirmed place again unless
//!   [`Slots::confirm`] came before. So software that crashes, hangs or loses
//!   power while on trial is undone without a line of its own code;
//! - [`Trial::Undone`] stays until the next [`Slots::install`], so that the
//!   agent that came back can say what happened, however often it starts.

use skerry_wire::update::ReleaseKind;
use std::io;
use std::path::{Path, PathBuf};

/// Where the place on trial stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trial {
    /// Nothing is on trial; what runs is for good.
    None,
    /// This very program (or system) is the one on trial.
    Running,
    /// What was on trial was given up; what runs is what ran before.
    Undone {
        /// A sentence for people: what happened to it.
        reason: String,
    },
}

/// What must start anew for the other place to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// This program ends its work and calls what the slots say.
    RestartAgent,
    /// The machine reboots.
    RestartMachine,
}

/// Why a slot could not be written or switched.
#[derive(Debug, thiserror::Error)]
pub enum SlotError {
    /// A file or device.
    #[error("{what} {} failed", path.display())]
    File {
        /// What was done: `writing`, `opening`.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What is installed does not fit. The text has the remedy.
    #[error("{0}")]
    NoRoom(String),
    /// What is installed cannot run here. The text says what it is and what
    /// would do.
    #[error("{0}")]
    Unsuitable(String),
    /// What remembers which place is in use cannot be read or makes no sense.
    #[error("{0}")]
    Damaged(String),
}

/// Two places for one kind of software. Calls may block for as long as the
/// disk does: the shell makes them off its loop.
pub trait Slots: Send {
    /// Which software.
    fn kind(&self) -> ReleaseKind;

    /// The version that runs now, as the software itself says it.
    fn running(&self) -> String;

    /// Where the trial stands, as found at the start of this process and
    /// changed by the calls below.
    fn trial(&self) -> Trial;

    /// Copies a release's artifact, whose digest has been verified, to the
    /// place that is not in use. Checks what it can: that it is for this
    /// machine, that it fits, that it starts and says `version`.
    fn install(&mut self, artifact: &Path, version: &str) -> Result<(), SlotError>;

    /// Makes the next start take what was installed, once.
    /// `confirm_secs` is the time it has from then on to be confirmed, for
    /// slots that can watch over it from outside (a guard, a watchdog).
    fn try_next(&mut self, confirm_secs: u32) -> Result<Switch, SlotError>;

    /// What is on trial has proved itself: it is for good now. Repeating it
    /// changes nothing. `Some` if something must still start anew for that: a
    /// system that has booted just goes on, with `None`.
    fn confirm(&mut self) -> Result<Option<Switch>, SlotError>;

    /// Gives up what is on trial; the next start takes what was before, and
    /// finds [`Trial::Undone`] with this reason.
    fn revert(&mut self, reason: &str) -> Result<Switch, SlotError>;
}
