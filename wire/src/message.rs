//! The messages that are not desired state, report or stream.

use crate::finding::Finding;
use crate::id::{
    AppName, AppRef, ContainerName, DeviceId, Generation, Namespace, Seq, SessionId, StreamId,
    Timestamp, VolumeName,
};
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
    /// Do something with the device's named volumes, as a stream.
    Volume(VolumeRequest),
    /// Answer to a [`Presence`] of a run that the hub has not heard of, under a
    /// number that it has: the device has forgotten how often it started. Its
    /// next numbers are those of the start after this one. Worth nothing to
    /// any other run, so whoever repeats an old presence gains nothing.
    CountOn {
        /// The highest start that the hub has heard of.
        starts: u32,
    },
}

/// What to do with named volumes. Its stream carries what goes in or out, and
/// its end says how it went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRequest {
    /// Where bytes go, and where they come from.
    pub stream: StreamId,
    /// What to do.
    pub action: VolumeAction,
    /// Bytes of output that may be sent before more credit comes.
    pub credit: u32,
}

/// What can be done with named volumes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeAction {
    /// The output is an encoded list of [`VolumeInfo`], at most
    /// [`VolumeInfo::MAX`].
    List,
    /// Remove one that no app uses.
    Remove(VolumeRef),
    /// The output is a tar of what is at a path: an entry named `.` and what
    /// is below it, or a single entry named as the file.
    Read {
        /// Of which volume.
        volume: VolumeRef,
        /// Inside it, without `..`; empty is all of it.
        path: String,
    },
    /// The input is a tar, which is unpacked into a directory that is made
    /// when missing. What is there and has other names stays.
    Write {
        /// Into which volume, made when missing.
        volume: VolumeRef,
        /// Inside it, without `..`; empty is its root.
        path: String,
    },
    /// The input is a tar that takes the place of all of a volume that no app
    /// uses: at once, when all of it has come.
    Restore(VolumeRef),
}

/// A named volume of a device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VolumeRef {
    /// The namespace of the apps that share it.
    pub namespace: Namespace,
    /// What they call it: a claim's name.
    pub name: VolumeName,
}

impl std::fmt::Display for VolumeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How a named volume stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Which.
    pub volume: VolumeRef,
    /// Bytes on the disk that its files take.
    pub used_bytes: u64,
    /// Files and directories in it.
    pub entries: u64,
    /// Most bytes that it may have, where the file system limits it.
    pub limit_bytes: Option<u64>,
    /// Apps of the device that use it.
    pub apps: Vec<AppName>,
}

impl VolumeInfo {
    /// Volumes that one answer tells of.
    pub const MAX: usize = 4096;
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
    /// Of a CronJob: which of its runs on this device; the newest when absent.
    pub run: Option<u32>,
    /// Only what the start before the one that runs now wrote; or, while it
    /// waits to be started again, the newest one.
    pub previous: bool,
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

/// The share of the last ten seconds in which some process of a container had
/// to wait for something, in hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// For a cpu.
    pub cpu: u32,
    /// For memory.
    pub memory: u32,
    /// For a disk.
    pub io: u32,
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
    /// How much it waits; absent where the kernel does not tell (cgroup v1, or
    /// no CONFIG_PSI).
    pub pressure: Option<Pressure>,
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
