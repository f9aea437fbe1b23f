//! What the HTTP API says and takes, as JSON. `openapi.json` describes the
//! same; a test holds the two together. Times are milliseconds since 1970 by
//! the clock of whoever saw the thing.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A list answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List<T> {
    /// The things, ordered by name unless said otherwise.
    pub items: Vec<T>,
}

/// The body of every answer that is not 2xx.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ApiError,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// CamelCase word for programs: `NotFound`, `InvalidManifest`.
    pub reason: String,
    /// A sentence for people, with the remedy.
    pub message: String,
    /// One for each mistake in what was sent; may be empty.
    #[serde(default)]
    pub details: Vec<ErrorDetail>,
}

/// One mistake in a manifest, and where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// The file's name as it was sent.
    pub file: Option<String>,
    /// From 1.
    pub line: Option<u32>,
    /// From 1.
    pub column: Option<u32>,
    /// `spec.template.spec.containers[0].image`.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do instead.
    pub remedy: Option<String>,
}

/// `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The hub's version.
    pub version: String,
    /// Which fleet it serves.
    pub fleet: String,
    /// When this hub process started.
    pub started_ms: u64,
    /// How many devices are in which state.
    pub devices: DeviceCounts,
    /// How many apps there are.
    pub apps: u32,
    /// The broker.
    pub broker: BrokerStatus,
}

/// Devices by state.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCounts {
    /// Connected.
    pub online: u32,
    /// Known to be disconnected.
    pub offline: u32,
    /// Nobody can tell: the hub restarted, or lost its broker.
    pub unknown: u32,
    /// In the lobby.
    pub pending: u32,
    /// Shut out.
    pub revoked: u32,
}

/// The broker between hub and devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerStatus {
    /// What devices dial, `mqtts://hub.example:8883`.
    pub address: String,
    /// It runs inside the hub.
    pub embedded: bool,
    /// The hub's own line to it is up.
    pub connected: bool,
}

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

/// How an order to change the device itself fares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUpdate {
    /// `agent`, `os` or `line`.
    pub subject: String,
    /// `agent 0.2.0`.
    pub target: String,
    /// The rollout that it is part of.
    pub rollout: u64,
    /// The order's number.
    pub order: u64,
    /// When it was given.
    pub ordered_ms: u64,
    /// How far it is.
    pub state: UpdateState,
    /// Why it came to nothing.
    pub message: Option<String>,
}

/// How far an order is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    /// Not switched yet.
    Ordered,
    /// Switched, or about to.
    Trying,
    /// In use for good.
    Confirmed,
    /// Not tried.
    Refused,
    /// Tried and undone.
    RolledBack,
    /// Tried, and not heard of again in time.
    Lost,
}

/// A release of the devices' own software.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `agent` or `os`.
    pub kind: String,
    /// Its version.
    pub version: String,
    /// First digits of the key that signed it.
    pub key: String,
    /// When it came.
    pub added_ms: u64,
    /// One for each platform.
    pub platforms: Vec<ImagePlatform>,
}

/// `POST /v1/rollouts`: a release or a line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRollout {
    /// Which release.
    #[serde(default)]
    pub release: Option<WantedRelease>,
    /// Which line.
    #[serde(default)]
    pub line: Option<WantedLine>,
    /// To which devices; empty is all.
    #[serde(default)]
    pub selector: String,
    /// How many at one time: `1`, `10%`. 1 when absent.
    #[serde(default)]
    pub max_unavailable: Option<String>,
    /// Time for each to confirm in. 300 when absent.
    #[serde(default)]
    pub confirm_secs: Option<u32>,
}

/// Which release shall be rolled out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedRelease {
    /// `agent` or `os`.
    pub kind: String,
    /// Which version.
    pub version: String,
    /// Also to devices that run a newer one.
    #[serde(default)]
    pub allow_older: bool,
}

/// Which line shall be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WantedLine {
    /// `mqtts://hub.example:8883`.
    pub broker: String,
    /// SHA-256 of a certificate of the broker's chain; the hub's own authority
    /// when absent and the broker is the hub's.
    #[serde(default)]
    pub tls_pin: Option<String>,
    /// Trust the device's own roots instead of a pin.
    #[serde(default)]
    pub system_roots: bool,
}

/// A rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its number.
    pub id: u64,
    /// `agent`, `os` or `line`.
    pub subject: String,
    /// `agent 0.2.0`.
    pub target: String,
    /// To which devices.
    pub selector: String,
    /// How many at one time.
    pub max_unavailable: String,
    /// Time for each to confirm in.
    pub confirm_secs: u32,
    /// Where it stands.
    pub state: RolloutState,
    /// Which device stopped it, and why.
    pub message: Option<String>,
    /// Devices that the selector means now.
    pub devices: u32,
    /// Those that have it.
    pub updated: u32,
    /// Those that are at it.
    pub updating: u32,
    /// Those that could not.
    pub failed: u32,
    /// Those to come that are not connected.
    pub offline: u32,
    /// When it began.
    pub created_ms: u64,
    /// When its state last changed.
    pub changed_ms: u64,
}

/// Where a rollout stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Going on.
    Running,
    /// Held by an operator.
    Paused,
    /// A device could not; no other is ordered.
    Stopped,
    /// Every device has it.
    Complete,
    /// Another came after it, or it was called off.
    Superseded,
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
    /// Runs of a CronJob that have ended, oldest first.
    pub history: Vec<JobRun>,
}

/// A run of a CronJob that has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// When it was due.
    pub due_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
    /// `Complete` or `Failed`.
    pub outcome: String,
    /// Why it failed.
    pub reason: Option<String>,
}

/// Why something is not as declared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// CamelCase: `NoImageForPlatform`.
    pub reason: String,
    /// A sentence for people, with the remedy.
    pub message: String,
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

/// `POST /v1/apply`, `/v1/diff` and `/v1/delete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifests {
    /// The files; each may hold several documents.
    pub files: Vec<ManifestFile>,
    /// Only say what would happen. Only for apply and delete.
    #[serde(default)]
    pub dry_run: bool,
}

/// One manifest file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// What errors call it.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// What an apply or delete did to one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// `App`, `Job` or `CronJob`; `App` of what was not there.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was done.
    pub action: Action,
    /// The app's revision now; absent when it is gone.
    pub revision: Option<String>,
}

/// What an apply did, and what may still be wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedList {
    /// What was done to each thing.
    pub items: Vec<Applied>,
    /// Sentences for people; none when all is well.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What was done to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was not there.
    Created,
    /// It was changed.
    Configured,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Deleted,
    /// It was not there to be deleted.
    Absent,
}

/// A config or secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `Config` or `Secret`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A secret's type.
    #[serde(rename = "type")]
    pub secret_type: Option<String>,
    /// It may be deleted, but not changed.
    pub immutable: bool,
    /// Its files, without what is in them.
    pub files: Vec<ConfigFile>,
    /// Apps that name it, as `NAMESPACE/NAME`; empty in a list.
    pub apps: Vec<String>,
    /// When it was last changed.
    pub changed_ms: u64,
    /// The manifest as JSON, a secret's values as stars; absent in a list.
    pub manifest: Option<serde_json::Value>,
}

/// A file of a config or secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
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

/// One thing of `POST /v1/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `App`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// YAML of what is there; absent when nothing is.
    pub current: Option<String>,
    /// YAML of what was sent, in the same form.
    pub proposed: String,
    /// What its images' names mean now.
    pub images: Vec<PinnedImage>,
}

/// An image name and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// As in the manifest.
    pub reference: String,
    /// `sha256:...`; absent when nobody has resolved it yet (a diff does not
    /// pull).
    pub digest: Option<String>,
}

/// One app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// `App`, `Job` or `CronJob`.
    #[serde(default)]
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// On which devices.
    pub selector: String,
    /// Its images.
    pub images: Vec<PinnedImage>,
    /// How it fares.
    pub devices: AppCounts,
    /// When it was last changed.
    pub changed_ms: u64,
    /// The manifest as JSON, in canonical form.
    pub manifest: serde_json::Value,
    /// The network it lives in: `host`, `bridge` or `none`.
    #[serde(default)]
    pub network: String,
    /// Ports of its devices that lead to it, as `8080->80/tcp` or
    /// `10.0.0.1:8080->80/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Services that it is behind, as `web` or `web:80->8080/tcp,81/udp`.
    #[serde(default)]
    pub services: Vec<String>,
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

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `nginx:1.27`.
    pub reference: String,
    /// Its index or manifest.
    pub digest: String,
    /// When it came here.
    pub added_ms: u64,
    /// What it can run on.
    pub platforms: Vec<ImagePlatform>,
}

/// One platform's manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePlatform {
    /// `linux/arm64/v8`.
    pub platform: String,
    /// The manifest.
    pub digest: String,
    /// Bytes of manifest, config and layers as they travel.
    pub size_bytes: u64,
}

/// `POST /v1/images/pull`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// `registry.example/team/app:1`.
    pub reference: String,
    /// `linux/arm64`; those of the fleet's devices when empty.
    #[serde(default)]
    pub platforms: Vec<String>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rises with each event.
    pub id: u64,
    /// When it happened the last time.
    pub at_ms: u64,
    /// Which device, if one.
    pub device: Option<String>,
    /// `namespace/name`, if one.
    pub app: Option<String>,
    /// Whether somebody should look.
    pub severity: Severity,
    /// CamelCase word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// How often it happened in a row.
    pub count: u32,
}

/// Whether somebody should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// All is as it should be.
    Normal,
    /// Somebody should look.
    Warning,
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

/// `<data>/operator.json`: how the command line finds its hub.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// `http://127.0.0.1:7420` or `https://...`.
    pub url: String,
    /// The bearer token.
    pub token: String,
    /// SHA-256 of the hub's CA certificate (DER), 64 hexadecimal digits.
    pub ca_pin: String,
}

/// Channels of the byte frames that logs and exec speak:
/// `[channel u8][length u32 big-endian][bytes]`.
pub mod channel {
    /// To the process; length 0 closes it.
    pub const STDIN: u8 = 0;
    /// From the process or the log.
    pub const STDOUT: u8 = 1;
    /// From the process or the log.
    pub const STDERR: u8 = 2;
    /// Columns and rows, u16 big-endian each.
    pub const RESIZE: u8 = 3;
    /// The exit code, i32 big-endian; the last frame.
    pub const EXIT: u8 = 4;
    /// Why it failed, as text; the last frame.
    pub const ERROR: u8 = 5;
    /// Longest frame that either side takes, in bytes.
    pub const MAX_FRAME_BYTES: usize = 64 * 1024;
}
