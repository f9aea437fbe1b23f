//! The messages that are not desired state, report or stream.

use crate::finding::Finding;
use crate::id::{AppRef, ContainerName, DeviceId, Generation, Seq, SessionId, StreamId, Timestamp};
use crate::report::Facts;
use serde::{Deserialize, Serialize};

/// A device is here. First message of each connection; answered with the
/// desired state when the hub has a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Presence {
    /// This run of the agent.
    pub session: SessionId,
    /// Counts the connections of this run.
    pub connection: u32,
    /// The newest desired state that the device has committed.
    pub generation: Generation,
}

/// A device is gone: the will that its broker publishes. Believed only of the
/// connection it was made for, so that a late will harms no living device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// This run of the agent.
    pub session: SessionId,
    /// The connection that ended.
    pub connection: u32,
}

/// The hub asks something of one run of one agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Which run; any other refuses it, and says so in a new [`Presence`].
    pub session: SessionId,
    /// What is asked.
    pub body: CommandBody,
}

/// What the hub asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum CommandBody {
    /// Say [`Presence`] and report.
    Sync,
    /// A report was committed on the hub.
    Acknowledge {
        /// The report's number.
        report: Seq,
        /// Events up to this id need no repeating.
        events: u64,
    },
    /// Send a container's log as a stream.
    Logs(LogsRequest),
    /// Run a process in a container, wired to a stream.
    Exec(ExecRequest),
    /// Answer with [`Reply::Usage`].
    Usage {
        /// Repeated in the answer.
        request: u64,
    },
    /// The device was shut out; it keeps its apps and stops calling.
    Revoked,
    /// Look at yourself and answer with [`Reply::Doctor`].
    Doctor {
        /// Repeated in the answer.
        request: u64,
        /// The hub's clock as it asks: the device compares its own.
        hub_time: Timestamp,
    },
}

/// Which log, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogsRequest {
    /// Where the lines go.
    pub stream: StreamId,
    /// Which app.
    pub app: AppRef,
    /// Which container; the only one when absent.
    pub container: Option<ContainerName>,
    /// Only the last so many lines.
    pub tail: Option<u32>,
    /// Only lines of the last so many seconds, by the device's clock.
    pub since_secs: Option<u64>,
    /// Go on when the end is reached.
    pub follow: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// Bytes that may be sent before more credit comes.
    pub credit: u32,
}

/// What to run where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// Where its input and output go.
    pub stream: StreamId,
    /// Which app.
    pub app: AppRef,
    /// Which container; the only one when absent.
    pub container: Option<ContainerName>,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Give it a terminal of so many columns and rows.
    pub tty: Option<(u16, u16)>,
    /// Keep its standard input open.
    pub stdin: bool,
    /// Bytes of output that may be sent before more credit comes.
    pub credit: u32,
}

/// Answer to a command that wants one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Answer to [`CommandBody::Usage`].
    Usage {
        /// As asked.
        request: u64,
        /// What the containers use now.
        containers: Vec<ContainerUsage>,
    },
    /// Answer to [`CommandBody::Doctor`].
    Doctor {
        /// As asked.
        request: u64,
        /// Every diagnosis, good or not, at most [`Finding::MAX`].
        findings: Vec<Finding>,
    },
}

/// What one container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUsage {
    /// Which app.
    pub app: AppRef,
    /// Which container.
    pub container: ContainerName,
    /// Cpu time since its start, in microseconds.
    pub cpu_usec: u64,
    /// Bytes of memory now, page cache included.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// When this was read, by the device's clock: two answers give a rate.
    pub at: Timestamp,
}

/// A machine wants to become a device. Comes sealed with the token's secret as
/// pre-shared key, from the key that the device has just made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The name it would like.
    pub name: DeviceId,
    /// What the machine is.
    pub facts: Facts,
}

/// What the hub says to that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinReply {
    /// Welcome.
    Accepted {
        /// The name it got: the one it wanted, or that with a number.
        device: DeviceId,
        /// Its password at the broker; the user name is the device's name.
        password: String,
        /// Ed25519 keys whose releases it may run as its own software.
        release_keys: Vec<[u8; 32]>,
    },
    /// In the lobby until somebody says `skerry approve`. Ask again later.
    Waiting {
        /// The name to approve.
        device: DeviceId,
    },
    /// No, and why.
    Refused {
        /// A sentence for people, with the remedy.
        reason: String,
    },
}
