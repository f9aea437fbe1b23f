//! What the HTTP API says and takes, as JSON. `openapi.json` describes the
//! same; a test holds the two together. Times are milliseconds since 1970 by
//! the clock of whoever saw the thing.
//!
//! Some of them have a twin in [`skerry_wire::report`], and stay apart from it:
//! that one is positional bytes between our own programs and grows at its end,
//! these are JSON that operators' programs read.

mod declared;
mod device;
mod rollout;
mod status;

pub use declared::{
    Action, App, Applied, AppliedList, Config, ConfigFile, Difference, Image, ImagePlatform,
    ManifestFile, Manifests, PinnedImage, Pull,
};
pub use device::{
    Amounts, Approval, Approve, Budget, Condition, CreatedToken, Device, DeviceState, Facts,
    Finding, LabelChange, NewToken, Pressure, Problem, Token, Verdict, Vitals, Volume,
};
pub use rollout::{
    DeviceUpdate, NewRollout, Release, Rollout, RolloutState, UpdateState, WantedLine,
    WantedRelease,
};
pub use status::{
    AppCounts, AppUpdate, AppUpdateState, Container, ContainerState, DeviceApp, Exit, JobRun,
    JobStatus, Role, Usage,
};

use serde::{Deserialize, Serialize};

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
