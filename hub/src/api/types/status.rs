//! How apps do on their devices.

use super::{Pressure, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One app on one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceApp {
    /// The app's namespace.
    pub namespace: String,
    /// The app's name.
    pub name: String,
    /// `App`, `Job` or `CronJob`; empty for what it shall not run.
    #[serde(default)]
    pub kind: String,
    /// How far a job is, as reported.
    #[serde(default)]
    pub job: Option<JobStatus>,
    /// The revision it shall run; absent when it shall run none.
    pub revision: Option<String>,
    /// The revision that it reports; absent before it did.
    pub running_revision: Option<String>,
    /// Why the device does not get the app although it is placed there.
    pub problem: Option<Problem>,
    /// As reported.
    pub containers: Vec<Container>,
    /// Its address on the device's bridge, as reported; absent on the device's
    /// own network.
    #[serde(default)]
    pub address: Option<String>,
    /// How the change of its revision goes or went; absent when there is
    /// nothing to say.
    #[serde(default)]
    pub update: Option<AppUpdate>,
    /// What the app reports of itself.
    #[serde(default)]
    pub values: BTreeMap<String, String>,
}

/// How the change of an app's revision goes on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppUpdate {
    /// The revision that shall run.
    pub to: String,
    /// How far it is.
    pub state: AppUpdateState,
    /// What the app says that holds it; or why it was rolled back.
    pub message: Option<String>,
}

/// How far the change of an app's revision is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AppUpdateState {
    /// The app holds it.
    Held,
    /// It runs, and has to prove itself.
    Trial,
    /// It is good.
    Done,
    /// It failed, and what was before it is back.
    RolledBack,
}

/// How far a job, or the runs of a CronJob, are on one device. Times are by
/// its clock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Pods, or runs of a CronJob, that go on now.
    pub active: u32,
    /// Pods that ended well; of a CronJob those of its newest run.
    pub succeeded: u32,
    /// Pods that failed, likewise.
    pub failed: u32,
    /// How the job, or the newest run that ended, came out: `Complete` or
    /// `Failed`; absent before.
    pub outcome: Option<String>,
    /// Why it failed: `BackoffLimitExceeded`, `DeadlineExceeded`, `Replaced`.
    pub reason: Option<String>,
    /// When the job, or the newest run, began.
    pub began_ms: Option<u64>,
    /// When the job, or the newest run that ended, did.
    pub ended_ms: Option<u64>,
    /// When the newest run was due.
    pub last_due_ms: Option<u64>,
    /// When the next one is; absent when suspended, and while the device does
    /// not know the time.
    pub next_due_ms: Option<u64>,
    /// Runs of a CronJob that are remembered, oldest first, and behind them
    /// those that go on.
    pub runs: Vec<JobRun>,
}

/// A run of a CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// Which on its device: from 1, rising.
    pub number: u32,
    /// When it was due.
    pub due_ms: u64,
    /// When it began.
    pub began_ms: u64,
    /// When it ended; absent while it goes on.
    pub ended_ms: Option<u64>,
    /// `Complete` or `Failed`; absent while it goes on.
    pub outcome: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// One container as reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// What it is there.
    pub role: Role,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Starts after the first.
    pub restarts: u32,
    /// How it ended the last time.
    pub last_exit: Option<Exit>,
    /// It runs, and its startup probe has succeeded, if it has one.
    pub started: bool,
    /// It is as it shall be: started and ready for its users, or ended well.
    pub ready: bool,
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// What the pod is for.
    Main,
    /// Runs to its end before the others.
    Init,
    /// Runs beside the others, starts before and stops after them.
    Sidecar,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ContainerState {
    /// Its image is on the way.
    Fetching {
        /// Bytes there.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// Cannot start yet.
    Waiting {
        /// CamelCase.
        reason: String,
        /// A sentence.
        message: String,
    },
    /// Its process runs.
    Running {
        /// Since, by the device's clock.
        since_ms: u64,
    },
    /// Starts again after a wait.
    BackOff {
        /// How long the wait is.
        delay_secs: u32,
    },
    /// Ended for good.
    Ended,
    /// Told to stop.
    Stopping,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Exit {
    /// By itself.
    Code {
        /// 0 is success.
        code: i32,
    },
    /// By a signal.
    Signal {
        /// Which.
        signal: i32,
    },
    /// For want of memory.
    OutOfMemory,
    /// Nobody saw it.
    Unknown,
}

/// How an app fares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppCounts {
    /// Devices that it is placed on.
    pub desired: u32,
    /// Those that report this revision.
    pub updated: u32,
    /// Those where every container of this revision runs, or ended well; of a
    /// job those where it is complete, of a CronJob those where no run failed
    /// last.
    pub ready: u32,
    /// Those that cannot have it; the device says why.
    pub blocked: u32,
    /// Pods of a job, or runs of a CronJob, that go on now.
    #[serde(default)]
    pub active: u32,
    /// Devices where the job, or the newest run that ended, failed.
    #[serde(default)]
    pub failed: u32,
    /// When it began on the first device.
    #[serde(default)]
    pub began_ms: Option<u64>,
    /// When it ended on the last device, if it has on all.
    #[serde(default)]
    pub ended_ms: Option<u64>,
    /// When the newest run of a CronJob was due.
    #[serde(default)]
    pub last_due_ms: Option<u64>,
    /// When the next one is.
    #[serde(default)]
    pub next_due_ms: Option<u64>,
    /// Those where it failed and what was before it is back.
    #[serde(default)]
    pub rolled_back: u32,
}

/// What one container uses now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The app's namespace.
    pub namespace: String,
    /// The app's name.
    pub app: String,
    /// The container's name.
    pub container: String,
    /// Cpu time since its start, in microseconds.
    pub cpu_usec: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Processes and threads.
    pub pids: u64,
    /// Its cpu limit in thousandths, if it has one.
    #[serde(default)]
    pub cpu_limit_millis: Option<u32>,
    /// Its memory limit in bytes, if it has one.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// How much it waits; absent on cgroup v1.
    #[serde(default)]
    pub pressure: Option<Pressure>,
    /// By the device's clock.
    pub at_ms: u64,
}
