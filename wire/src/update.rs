//! What a device's own software and line shall be: orders that a device tries
//! and keeps only when they prove themselves (commit-confirmed).

use crate::id::Digest;
use serde::{Deserialize, Serialize};

/// A change of the device itself. It is tried once, and undone unless the
/// device passes its own checks and hears the hub's acknowledgement in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateOrder {
    /// Rises for each attempt of the fleet: a device never tries one twice.
    pub order: u64,
    /// Seconds from the switch until it must be confirmed.
    pub confirm_secs: u32,
    /// What to change.
    pub body: UpdateBody,
}

impl UpdateOrder {
    /// Least time to confirm in, in seconds: a slow board must boot in it.
    pub const MIN_CONFIRM_SECS: u32 = 10;
    /// Most, in seconds: one day.
    pub const MAX_CONFIRM_SECS: u32 = 86_400;
}

/// What an order changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateBody {
    /// Run this release. Its artifact is fetched as a blob by its digest.
    Release(SignedRelease),
    /// Reach the hub at another address from now on.
    Line {
        /// As in a join token: `mqtts://hub.example:8883`.
        broker: String,
        /// SHA-256 of the certificate that must be in the broker's chain.
        tls_pin: Option<[u8; 32]>,
    },
}

/// A [`Release`] as its maker signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRelease {
    /// The encoded [`Release`].
    pub statement: Vec<u8>,
    /// The Ed25519 key that signed it; the device must know it already.
    pub key: [u8; 32],
    /// Its signature over [`SignedRelease::CONTEXT`] and `statement`, 64 bytes.
    pub signature: Vec<u8>,
}

impl SignedRelease {
    /// Put before the statement when it is signed and verified, so that the
    /// signature can mean nothing else.
    pub const CONTEXT: &'static [u8] = b"skerry release v1\0";
    /// Longest statement, in bytes.
    pub const MAX_STATEMENT_BYTES: usize = 4096;
}

/// One version of a device's software, for every platform it was built for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which software.
    pub kind: ReleaseKind,
    /// As the software itself says it: `0.2.0`.
    pub version: String,
    /// One for each platform.
    pub artifacts: Vec<Artifact>,
}

/// Which software of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReleaseKind {
    /// The agent's program; containers keep running.
    Agent,
    /// The whole system of a device that runs our minimal image; reboots.
    Os,
}

/// A release's bytes for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// OCI's name of the architecture, as in [`Facts`](crate::report::Facts).
    pub arch: String,
    /// OCI's variant, or empty.
    pub variant: String,
    /// The program, or the system's image.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// How the newest order of one kind fares on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Which order.
    pub order: u64,
    /// How far it is.
    pub state: UpdateState,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// Bytes are on their way.
    Fetching {
        /// Bytes here.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// Switched, not confirmed yet.
    Trying,
    /// In use for good.
    Confirmed,
    /// Not even tried, and why, with the remedy.
    Refused {
        /// A sentence for people.
        reason: String,
    },
    /// Tried and undone, and why.
    RolledBack {
        /// A sentence for people.
        reason: String,
    },
}
