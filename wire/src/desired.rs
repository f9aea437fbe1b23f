//! What a device shall run. The hub resolves everything first (names of images
//! to digests of this device's platform, volumes to kinds), so a device needs
//! nobody to understand its desired state.

use crate::config::Config;
use crate::id::{AppRef, Digest, Generation, RevisionId};
use crate::label::Labels;
use crate::pod::PodSpec;
use crate::policy::AppPolicy;
use crate::update::UpdateOrder;
use serde::{Deserialize, Serialize};

/// All that one device shall run, whole: what is not in it shall stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Only rises; see [`Generation`].
    pub generation: Generation,
    /// At most [`Desired::MAX_ASSIGNMENTS`], ordered by app, each app once.
    pub assignments: Vec<Assignment>,
    /// Changes of the device itself, at most one of each kind.
    pub updates: Vec<UpdateOrder>,
    /// Those that the assignments name, ordered by namespace, name and kind.
    pub configs: Vec<Config>,
    /// The device's labels, for apps that may read them.
    pub labels: Labels,
}

impl Desired {
    /// More apps than any device of ours can hold.
    pub const MAX_ASSIGNMENTS: usize = 512;
    /// Longest encoded desired state, in bytes: 512 apps of 4 KiB.
    pub const MAX_BYTES: usize = 2 * 1024 * 1024;
}

/// One message's share of an encoded [`Desired`]. Nearly always the only one;
/// a state longer than [`DesiredPart::MAX_BYTES`] comes in several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPart {
    /// The generation that the whole has.
    pub generation: Generation,
    /// The digest of the whole: parts of different wholes never mix.
    pub whole: Digest,
    /// From 0.
    pub index: u16,
    /// How many parts there are, at least 1.
    pub count: u16,
    /// This part's bytes.
    pub bytes: Vec<u8>,
}

impl DesiredPart {
    /// Bytes in one part: a message stays under the 128 KiB that hosted
    /// brokers allow.
    pub const MAX_BYTES: usize = 96 * 1024;

    /// Cuts an encoded desired state into parts.
    pub fn split(generation: Generation, encoded: &[u8]) -> Vec<DesiredPart> {
        let whole = Digest::of(encoded);
        let chunks: Vec<&[u8]> = encoded.chunks(Self::MAX_BYTES).collect();
        let count = chunks.len() as u16;
        let part = |(index, bytes): (usize, &&[u8])| DesiredPart {
            generation,
            whole,
            index: index as u16,
            count,
            bytes: bytes.to_vec(),
        };
        chunks.iter().enumerate().map(part).collect()
    }
}

/// This device runs this revision of this app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which app.
    pub app: AppRef,
    /// Which version of it.
    pub revision: RevisionId,
    /// What is said around the pod.
    pub policy: AppPolicy,
    /// What to run.
    pub pod: PodSpec,
}

impl Assignment {
    /// This pod, with nothing said around it.
    pub fn new(app: AppRef, revision: RevisionId, pod: PodSpec) -> Self {
        Self {
            app,
            revision,
            policy: AppPolicy::default(),
            pod,
        }
    }
}

/// An app that another one waits for before it starts, and that stops after
/// it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    /// Which app.
    pub app: AppRef,
    /// What it has to be.
    pub condition: Awaited,
}

/// What an app has to be so that another one may start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// Its containers run and have come up.
    #[default]
    Started,
    /// Its containers are ready.
    Healthy,
    /// Its containers have ended well, for good.
    Completed,
}
