//! Releases, lines and their rollouts.

use super::ImagePlatform;
use serde::{Deserialize, Serialize};

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
