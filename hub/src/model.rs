//! The hub's nouns: what operators declare. Records of the store wrap these;
//! devices get them resolved, as [`skerry_wire::Desired`].

mod platform;

pub use platform::Platform;

use serde::{Deserialize, Serialize};
use skerry_wire::{
    AppPolicy, AppRef, Config, Digest, PodSpec, RevisionId, Selector, Timestamp, encode,
};

/// What an operator declared: this pod, on every device that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name in full.
    pub app: AppRef,
    /// On which devices.
    pub placement: Selector,
    /// What is said around the pod. Not part of a revision, as placement is
    /// not.
    pub policy: AppPolicy,
    /// What runs there; images by the names that the manifest gave.
    pub pod: PodSpec<String>,
}

/// A config or secret as an operator declared it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigObject {
    /// What devices get of it.
    pub config: Config,
    /// It may be deleted, but not changed.
    pub immutable: bool,
    /// A secret's type, only shown; empty is Kubernetes' `Opaque`.
    pub type_name: String,
}

/// An image name and what it meant when the revision was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// As the manifest says.
    pub reference: String,
    /// The index or manifest that it resolved to: the same bytes for every
    /// device, for each platform its own manifest.
    pub digest: Digest,
}

/// One immutable version of an app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// The digest of the pod below.
    pub id: RevisionId,
    /// What runs, with pinned images. Placement is not part of a revision:
    /// moving an app does not restart it.
    pub pod: PodSpec<PinnedImage>,
}

impl Revision {
    /// The revision that this pod is.
    pub fn of(pod: PodSpec<PinnedImage>) -> Self {
        let id = RevisionId(Digest::of(&encode(&pod)));
        Self { id, pod }
    }

    /// The same pod as a revision of its own, for devices to begin anew: made
    /// at this time, which names it.
    pub fn again(&self, at: Timestamp) -> Self {
        Self {
            id: RevisionId(Digest::of(&encode(&(self.id, at)))),
            pod: self.pod.clone(),
        }
    }
}

/// An image that the hub holds, by the name that operators gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `nginx:1.27`, as manifests say it.
    pub reference: String,
    /// Its index, or its manifest when it has only one.
    pub digest: Digest,
    /// When it came.
    pub added: Timestamp,
    /// What the hub holds of it, one entry for each platform.
    pub platforms: Vec<PlatformImage>,
}

/// One platform's share of an [`Image`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    /// What it runs on.
    pub platform: Platform,
    /// The image manifest.
    pub manifest: Digest,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    /// Config and layers as they travel: what a device may fetch besides the
    /// manifest, each with its bytes.
    pub blobs: Vec<(Digest, u64)>,
}
