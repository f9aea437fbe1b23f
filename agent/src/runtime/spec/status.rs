//! What the runtime knows of containers, and how they ended.

use super::ContainerId;
use serde::{Deserialize, Serialize};
use std::time::{SystemTime, UNIX_EPOCH};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The code a shell would show: 128 + n for signal n.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How its first process ended.
    pub status: ExitStatus,
    /// Whether the kernel killed something in it for want of memory, and it
    /// then ended unhappily.
    pub oom_killed: bool,
    /// When, by the wall clock.
    pub at: Timestamp,
}

/// Nanoseconds since 1970 by the wall clock, which may be wrong on a device
/// without a battery: for showing, never for deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The clock now; 0 when it stands before 1970.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }
}

/// What the runtime knows of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Which one.
    pub id: ContainerId,
    /// How it stands.
    pub status: Status,
}

/// How a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It runs and the keeper owns it.
    Running {
        /// Its first process, as the host sees it.
        pid: i32,
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended, and the record waits for `forget_exit`.
    Exited(Exit),
    /// Something of it is left on the machine, but the keeper that owned it is
    /// gone and how it ended is not known: kill it and remove it.
    Lost,
}
