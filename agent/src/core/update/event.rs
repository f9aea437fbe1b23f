//! What updates of the device hear, want done, keep and show: as data.

use crate::update::slot::Trial;
use serde::{Deserialize, Serialize};
use skerry_wire::Digest;
use skerry_wire::update::{ReleaseKind, UpdateState};
use std::collections::BTreeMap;

/// What an order changes; one order at a time is under way for all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// The agent's program.
    Agent,
    /// The whole system.
    Os,
    /// The line to the hub.
    Line,
}

impl Subject {
    pub(super) fn of(kind: ReleaseKind) -> Self {
        match kind {
            ReleaseKind::Agent => Subject::Agent,
            ReleaseKind::Os => Subject::Os,
        }
    }

    pub(super) fn kind(self) -> Option<ReleaseKind> {
        match self {
            Subject::Agent => Some(ReleaseKind::Agent),
            Subject::Os => Some(ReleaseKind::Os),
            Subject::Line => None,
        }
    }
}

/// What the store keeps of the newest order of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRecord {
    /// Which order. No order up to this one is begun any more.
    pub order: u64,
    /// How far it is.
    pub phase: Phase,
}

/// How far a stored order is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Committed before the switch.
    Trying {
        /// The version, or the broker's address, as people see it.
        what: String,
        /// Time to confirm, in seconds.
        confirm_secs: u32,
        /// What `doctor` found bad before the switch: none of its fault.
        bad_before: Vec<String>,
    },
    /// It has proved itself; the slots may have been told or not.
    Confirming {
        /// As above.
        what: String,
    },
    /// In use for good.
    Confirmed {
        /// As above.
        what: String,
    },
    /// Not tried.
    Refused {
        /// As above.
        what: String,
        /// A sentence for people.
        reason: String,
    },
    /// Tried and undone.
    RolledBack {
        /// As above.
        what: String,
        /// A sentence for people.
        reason: String,
    },
}

impl Phase {
    pub(super) fn what(&self) -> &str {
        match self {
            Phase::Trying { what, .. }
            | Phase::Confirming { what }
            | Phase::Confirmed { what }
            | Phase::Refused { what, .. }
            | Phase::RolledBack { what, .. } => what,
        }
    }
}

/// How one subject stands, for people at the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdateView {
    /// Which.
    pub subject: Subject,
    /// The version that runs; `None` for a line.
    pub running: Option<String>,
    /// The newest order about it: what it changes to, and how that fares.
    pub newest: Option<(String, UpdateState)>,
    /// While it is being proved: when its time is over, in milliseconds since
    /// boot.
    pub trial_ends_ms: Option<u64>,
}

/// What is known of one kind of software at the agent's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// The version that runs.
    pub running: String,
    /// Where its trial stands.
    pub trial: Trial,
}

/// What the core must know about updates at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpdateStart {
    /// Whose releases are believed.
    pub release_keys: Vec<[u8; 32]>,
    /// What can be updated here.
    pub slots: BTreeMap<ReleaseKind, SlotState>,
    /// The line in use: the broker's address and the pin.
    pub line: Option<(String, Option<[u8; 32]>)>,
}

/// Something happened to an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateEvent {
    /// Outcome of [`UpdateEffect::Look`]: bytes that are here, all of them
    /// verified if it is as many as wanted; or why it cannot come here.
    Looked {
        /// Which artifact.
        digest: Digest,
        /// Bytes here, and whether all of them are, verified.
        result: Result<(u64, bool), String>,
    },
    /// Outcome of [`UpdateEffect::Write`] when it failed.
    WriteFailed {
        /// Which artifact.
        digest: Digest,
        /// Why, in words.
        reason: String,
    },
    /// Outcome of [`UpdateEffect::Finish`].
    Finished {
        /// Which artifact.
        digest: Digest,
        /// Why not, in words: the bytes are then gone.
        result: Result<(), String>,
    },
    /// Outcome of [`UpdateEffect::Install`].
    Installed {
        /// Which order.
        order: u64,
        /// What `doctor` finds bad now; or why it cannot be tried here.
        result: Result<Vec<String>, String>,
    },
    /// Outcome of [`UpdateEffect::Diagnose`]: what is bad, and in words.
    Diagnosed {
        /// Kind and sentence of each.
        bad: Vec<(String, String)>,
    },
    /// Outcome of [`UpdateEffect::Confirm`].
    SlotConfirmed {
        /// Whether this process must start anew; or why not, in words.
        result: Result<bool, String>,
    },
}

/// What the shell shall do for an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpdateEffect {
    /// See what is here of an artifact and whether there is room, forget
    /// others, then say [`UpdateEvent::Looked`].
    Look {
        /// Which.
        digest: Digest,
        /// Its bytes.
        size: u64,
    },
    /// Bytes of an artifact, in order; a failure is told.
    Write {
        /// Which.
        digest: Digest,
        /// Where they go.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// Verify an artifact, then say [`UpdateEvent::Finished`].
    Finish {
        /// Which.
        digest: Digest,
    },
    /// Put it into the slot that is not in use, then say
    /// [`UpdateEvent::Installed`].
    Install {
        /// Which order.
        order: u64,
        /// Which slots.
        kind: ReleaseKind,
        /// The artifact.
        digest: Digest,
        /// Its version.
        version: String,
    },
    /// Take the other slot: this process ends, or the machine.
    Switch {
        /// Which slots.
        kind: ReleaseKind,
        /// Time to confirm, in seconds.
        confirm_secs: u32,
    },
    /// Call the hub on this line from now on, until told otherwise.
    TryLine {
        /// The broker's address.
        broker: String,
        /// The pin.
        tls_pin: Option<[u8; 32]>,
    },
    /// The line on trial is the line.
    KeepLine,
    /// Back to the line before.
    OldLine,
    /// Ask `doctor`, then say [`UpdateEvent::Diagnosed`].
    Diagnose,
    /// What runs on trial is for good: say [`UpdateEvent::SlotConfirmed`].
    Confirm {
        /// Which slots.
        kind: ReleaseKind,
    },
    /// Give up what runs on trial: this process ends, or the machine.
    Revert {
        /// Which slots.
        kind: ReleaseKind,
        /// Why, in words.
        reason: String,
    },
    /// This process ends, to be started anew at once.
    Restart,
}
