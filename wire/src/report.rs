//! What a device says of itself. A report is whole and the newest wins, so
//! that a lost one costs nothing; its events are kept until the hub has
//! acknowledged them.

use crate::id::{AppRef, ContainerName, Generation, RevisionId, Timestamp};
use crate::pod::{ExtendedResource, Role};
use crate::update::UpdateStatus;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Observed state of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The newest desired state that the device has committed.
    pub generation: Generation,
    /// The device's clock, right or wrong.
    pub at: Timestamp,
    /// What the machine is.
    pub facts: Facts,
    /// What is wrong or worth knowing, each kind once.
    pub conditions: Vec<Condition>,
    /// One entry for each app that is assigned or still there.
    pub apps: Vec<AppStatus>,
    /// What happened and was not acknowledged yet, oldest first, at most
    /// [`Report::MAX_EVENTS`].
    pub events: Vec<DeviceEvent>,
    /// What changes by the minute; no reason to report by itself.
    pub vitals: Vitals,
    /// How the newest order of each kind fares.
    pub updates: Vec<UpdateStatus>,
}

impl Report {
    /// Events in one report. A device keeps as many; older ones give way, and
    /// the gap in their numbers tells how many.
    pub const MAX_EVENTS: usize = 64;
}

/// What the machine is: changes seldom.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// OCI's name of the architecture: `amd64`, `arm64`, `arm`, `riscv64`.
    pub arch: String,
    /// OCI's variant: `v7`, `v8`, or empty.
    pub variant: String,
    /// `uname -r`.
    pub kernel: String,
    /// `PRETTY_NAME` of os-release, or empty.
    pub os: String,
    /// Board or product name, or empty.
    pub model: String,
    /// The host's own name.
    pub hostname: String,
    /// Cpus online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The agent's version.
    pub agent_version: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The board's or product's serial number, or empty.
    pub serial: String,
    /// Boots of this machine that the agent has seen, this one included.
    pub boot_count: u32,
    /// Why the machine started last, where it can be told: `power on`,
    /// `watchdog`, `reboot or watchdog` (a Raspberry Pi reboots through its
    /// watchdog), `kernel panic`; or empty.
    pub reset_reason: String,
    /// What apps may have of it.
    pub allocatable: Allocatable,
}

/// What of a device apps may have: requests are counted against it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allocatable {
    /// Thousandths of a cpu.
    pub cpu_millis: u32,
    /// Bytes.
    pub memory_bytes: u64,
    /// What the device's configuration and its CDI files name, with how many
    /// there are; sorted by name.
    pub extended: Vec<ExtendedResource>,
}

/// What changes by the minute. Absent is what cannot be read here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Seconds since the machine started, sleep included.
    pub uptime_secs: u64,
    /// The processor's temperature, in thousandths of a degree Celsius.
    pub temperature_millis: Option<i32>,
    /// The Raspberry Pi firmware's bits: 0 under-voltage, 1 frequency capped,
    /// 2 throttled, 3 soft temperature limit now; the same since boot from
    /// bit 16 on.
    pub throttled: Option<u32>,
    /// Used-up part of the data disk's life, in percent, as the disk itself
    /// estimates it in steps of 10.
    pub disk_wear_percent: Option<u8>,
    /// Bytes free for the agent's data.
    pub disk_free_bytes: u64,
    /// Bytes of memory available.
    pub memory_available_bytes: u64,
}

impl Vitals {
    /// [`Vitals::throttled`] in words: what is so now, then what was so since
    /// the machine started and is over. Empty when nothing is or was.
    pub fn throttling(&self) -> Vec<&'static str> {
        // Bit numbers of the firmware's GET_THROTTLED.
        const WORDS: [(u32, &str, &str); 4] = [
            (0, "under-voltage", "was under-voltage"),
            (1, "frequency capped", "was frequency capped"),
            (2, "throttled", "was throttled"),
            (3, "soft temperature limit", "was at soft temperature limit"),
        ];
        let bits = self.throttled.unwrap_or(0);
        let is = |bit: u32| bits & (1 << bit) != 0;
        let now = WORDS.iter().filter(|(bit, ..)| is(*bit));
        let past = WORDS.iter().filter(|(bit, ..)| is(bit + 16) && !is(*bit));
        now.map(|(_, now, _)| *now)
            .chain(past.map(|(_, _, past)| *past))
            .collect()
    }
}

/// Something lasting about the device, with a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// CamelCase, as in Kubernetes: `DiskPressure`.
    pub kind: String,
    /// Whether it is so.
    pub status: bool,
    /// CamelCase word for programs.
    pub reason: String,
    /// A sentence for people, with the remedy.
    pub message: String,
}

/// How one app fares on this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppStatus {
    /// Which app.
    pub app: AppRef,
    /// The revision this status is about.
    pub revision: RevisionId,
    /// One for each container, init containers first.
    pub containers: Vec<ContainerStatus>,
    /// How far a job is; absent for what runs on.
    pub job: Option<JobStatus>,
    /// How the newest change of its revision went or goes.
    pub update: Option<AppUpdate>,
    /// What the app reports of itself, by name, at most
    /// [`AppStatus::MAX_VALUES`] of [`AppStatus::MAX_VALUE_BYTES`] each.
    pub values: Vec<(String, String)>,
    /// Its address on the device's bridge.
    pub address: Option<IpAddr>,
}

impl AppStatus {
    /// How these containers fare, with nothing else said.
    pub fn new(app: AppRef, revision: RevisionId, containers: Vec<ContainerStatus>) -> Self {
        Self {
            app,
            revision,
            containers,
            job: None,
            update: None,
            values: Vec::new(),
            address: None,
        }
    }

    /// Values that one app reports.
    pub const MAX_VALUES: usize = 16;
    /// Bytes of a value's name and text together.
    pub const MAX_VALUE_BYTES: usize = 256;
}

/// How far a job, or the runs of a CronJob, are on this device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Pods that run now.
    pub active: u32,
    /// Pods that ended well: of a job all, of a CronJob those of the newest
    /// run.
    pub succeeded: u32,
    /// Pods that failed, likewise.
    pub failed: u32,
    /// How the job, or the newest run that ended, came out.
    pub outcome: Option<JobOutcome>,
    /// When the job, or the newest run, began, by the device's clock.
    pub began: Option<Timestamp>,
    /// When the job, or the newest run that ended, did.
    pub ended: Option<Timestamp>,
    /// When the newest run was due.
    pub last_due: Option<Timestamp>,
    /// When the next one is; absent when suspended, and while the device does
    /// not know the time.
    pub next_due: Option<Timestamp>,
    /// Runs of a CronJob that have ended, oldest first, as many as its limits
    /// say.
    pub history: Vec<JobRun>,
    /// Runs of a CronJob that go on, oldest first.
    pub going: Vec<GoingRun>,
}

/// A run of a CronJob that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GoingRun {
    /// As in [`JobRun`].
    pub number: u32,
    /// When it was due, by the device's clock.
    pub due: Timestamp,
    /// When it began.
    pub began: Timestamp,
}

/// A run of a CronJob that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// From 1, rises for the life of the app on this device.
    pub number: u32,
    /// When it was due, by the device's clock.
    pub due: Timestamp,
    /// When it began.
    pub began: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// How it came out.
    pub outcome: JobOutcome,
}

/// How a job came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobOutcome {
    /// All completions are there.
    Complete,
    /// It failed, for good.
    Failed {
        /// CamelCase: `BackoffLimitExceeded`, `DeadlineExceeded`.
        reason: String,
    },
}

/// How a change of an app's revision goes on this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppUpdate {
    /// The revision that shall run.
    pub to: RevisionId,
    /// How far it is.
    pub state: AppUpdateState,
}

/// How far the change of an app's revision is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppUpdateState {
    /// The app holds it.
    Held {
        /// What the app says, or how it holds.
        reason: String,
    },
    /// It runs, and has to prove itself.
    Trial,
    /// It is good.
    Done,
    /// It was not, and the revision before it is back. Not tried again until
    /// the hub wants something else.
    RolledBack {
        /// A sentence for people.
        reason: String,
    },
}

/// How one container fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerStatus {
    /// Its name in the pod.
    pub name: ContainerName,
    /// What it is there.
    pub role: Role,
    /// Where it is in its life.
    pub state: ContainerState,
    /// Starts after the first, for this revision.
    pub restarts: u32,
    /// How it ended the last time.
    pub last_exit: Option<ExitStatus>,
    /// It runs, and its startup probe has succeeded, if it has one.
    pub started: bool,
    /// It is as it shall be: it has started, and its readiness probe says so if
    /// it has one; or it ended well, for good.
    pub ready: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    /// Bytes of its image are on their way.
    Fetching {
        /// Bytes here.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// Cannot start yet.
    Waiting {
        /// CamelCase: `ImageUnavailable`, `CreateFailed`.
        reason: String,
        /// A sentence for people.
        message: String,
    },
    /// Its process runs.
    Running {
        /// By the device's clock.
        since: Timestamp,
    },
    /// Ended, and starts again after a while.
    BackOff {
        /// Seconds from the ending to the next start.
        delay_secs: u32,
    },
    /// Ended, and stays so by its restart policy.
    Ended,
    /// Told to stop.
    Stopping,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// By itself, with a code.
    Code(i32),
    /// By a signal.
    Signal(i32),
    /// Killed for want of memory.
    OutOfMemory,
    /// Nobody saw it end: a reboot, or the keeper died.
    Unknown,
}

impl ExitStatus {
    /// Whether a restart policy calls it a success.
    pub fn is_success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

/// Something that happened on the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceEvent {
    /// Rises for the device's life: the count of its agent's starts in the
    /// upper 32 bits, in the lower the events of that start, from 1. So
    /// numbering writes nothing, and gaps within a start can be told.
    pub id: u64,
    /// By the device's clock.
    pub at: Timestamp,
    /// Whether somebody should look.
    pub severity: Severity,
    /// CamelCase word for programs: `MessageRefused`, `Started`.
    pub reason: String,
    /// Which app, if one.
    pub app: Option<AppRef>,
    /// A sentence for people.
    pub message: String,
    /// How often it happened in a row.
    pub count: u32,
}

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Severity {
    /// All is as it should be.
    Normal,
    /// Somebody should look.
    Warning,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmwares_bits_are_said_in_words() {
        let words = |bits| {
            let vitals = Vitals {
                throttled: bits,
                ..Vitals::default()
            };
            vitals.throttling().join(", ")
        };
        assert_eq!(words(None), "");
        assert_eq!(words(Some(0)), "");
        assert_eq!(words(Some(0x50005)), "under-voltage, throttled");
        assert_eq!(words(Some(0x50000)), "was under-voltage, was throttled");
        assert_eq!(
            words(Some(0xa_0008)),
            "soft temperature limit, was frequency capped"
        );
    }
}
