//! Devices: what they are, have and say, and who lets them in.

use super::{DeviceApp, DeviceUpdate};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A device's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeviceState {
    /// Connected.
    Online,
    /// Disconnected.
    Offline,
    /// Nobody can tell now.
    Unknown,
    /// Waits for `skerry approve`.
    Pending,
    /// Shut out.
    Revoked,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its state.
    pub state: DeviceState,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The first eight hexadecimal digits of its key, to compare by eye.
    pub key: String,
    /// What the machine is.
    pub facts: Facts,
    /// How the machine was when it last reported; absent before it did.
    pub vitals: Option<Vitals>,
    /// What is wrong or worth knowing.
    pub conditions: Vec<Condition>,
    /// The number of what it shall run.
    pub generation_desired: u64,
    /// The number of what it last said to have taken.
    pub generation_applied: u64,
    /// When the hub last heard from it; absent before the first time.
    pub last_seen_ms: Option<u64>,
    /// When it joined.
    pub joined_ms: u64,
    /// What it shall run, and what it still runs.
    pub apps: Vec<DeviceApp>,
    /// The newest order to change the device itself, of each subject.
    #[serde(default)]
    pub updates: Vec<DeviceUpdate>,
    /// What its apps may have, and what they ask for.
    #[serde(default)]
    pub budget: Budget,
}

/// What apps may have of a device, and what those that are placed on it ask
/// for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// What they may have; nothing as long as the device has not said.
    pub allocatable: Amounts,
    /// Sum of their requests.
    pub requests: Amounts,
    /// Sum of their limits.
    pub limits: Amounts,
}

/// Amounts of a device's resources.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Thousandths of a cpu.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Named resources: `example.com/camera`.
    pub extended: BTreeMap<String, u64>,
}

/// The share of the last ten seconds in which some process had to wait, in
/// hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pressure {
    /// For a cpu.
    pub cpu: u32,
    /// For memory.
    pub memory: u32,
    /// For a disk.
    pub io: u32,
}

/// What a machine is; empty or 0 where unknown.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `amd64`, `arm64`, `arm`.
    pub arch: String,
    /// `v7`, `v8` or empty.
    pub variant: String,
    /// `uname -r`.
    pub kernel: String,
    /// The system's own name for itself.
    pub os: String,
    /// Board or product.
    pub model: String,
    /// The machine's own host name.
    pub hostname: String,
    /// Cpus online.
    pub cpus: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// The agent's version.
    pub agent_version: String,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Changes at each boot.
    pub boot_id: String,
    /// The board's or product's serial number.
    pub serial: String,
    /// Boots that its agent has seen.
    pub boot_count: u32,
    /// Why it started last: `power on`, `watchdog`, `kernel panic`.
    pub reset_reason: String,
}

/// How a machine was when it last reported; absent what it does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Seconds since the machine started.
    pub uptime_secs: u64,
    /// The processor's temperature in thousandths of a degree Celsius.
    pub temperature_millis: Option<i32>,
    /// The Raspberry Pi firmware's bits, as `vcgencmd get_throttled` says them.
    pub throttled: Option<u32>,
    /// The same in words: `under-voltage`, `was throttled`.
    pub throttling: Vec<String>,
    /// At least so much of the data disk's life is used up, in percent.
    pub disk_wear_percent: Option<u8>,
    /// Bytes free for the agent's data.
    pub disk_free_bytes: u64,
    /// Bytes of memory available.
    pub memory_available_bytes: u64,
}

/// The outcome of one diagnosis of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// CamelCase, said of the trouble: `NoMemoryLimits`.
    pub kind: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// A sentence for people.
    pub text: String,
    /// What to type on the device, or to do there; empty when nothing.
    pub remedy: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but less well.
    Poor,
    /// It does not work.
    Bad,
    /// The machine does not tell.
    Unknown,
}

/// Something lasting about a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// CamelCase: `DiskPressure`.
    pub kind: String,
    /// Whether it is so.
    pub status: bool,
    /// CamelCase word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// Why something is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// CamelCase: `NoImageForPlatform`.
    pub reason: String,
    /// A sentence for people, with the remedy.
    pub message: String,
}

/// `PATCH /v1/devices/{device}/labels`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelChange {
    /// Set these.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Take these away.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// `POST /v1/devices/{device}/approve`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// Added to those of its token.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A named volume of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// The namespace of the apps that share it.
    pub namespace: String,
    /// Its name: the apps' `claimName`.
    pub name: String,
    /// Bytes on the disk that its files take.
    pub used_bytes: u64,
    /// Files and directories in it.
    pub entries: u64,
    /// Most bytes that it may have, where the file system limits it.
    pub limit_bytes: Option<u64>,
    /// Apps of the device that use it.
    pub apps: Vec<String>,
}

/// How devices of a token get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// At once.
    Auto,
    /// They wait for `skerry approve`.
    Manual,
}

/// `POST /v1/tokens`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Labels of the devices that join with it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// How many devices may join; 1 when absent.
    pub uses: Option<u32>,
    /// For how long; a day when absent.
    pub expires_secs: Option<u64>,
    /// The hub's own setting when absent.
    pub approve: Option<Approval>,
}

/// The answer to it: the only time that the token is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    /// What to type on the device.
    pub token: String,
    /// 16 hexadecimal digits, for `DELETE /v1/tokens/{id}`.
    pub id: String,
    /// Good until then.
    pub expires_ms: u64,
}

/// A token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// 16 hexadecimal digits.
    pub id: String,
    /// Labels of the devices that join with it.
    pub labels: BTreeMap<String, String>,
    /// Devices that may still join.
    pub uses_left: u32,
    /// When it was made.
    pub created_ms: u64,
    /// Good until then.
    pub expires_ms: u64,
    /// How they get in.
    pub approve: Approval,
}
