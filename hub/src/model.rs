//! The hub's nouns: what operators declare. Records of the store wrap these;
//! devices get them resolved, as [`skerry_wire::Desired`].

use serde::{Deserialize, Serialize};
use skerry_wire::{AppRef, Digest, PodSpec, RevisionId, Selector, encode};

/// What an operator declared: this pod, on every device that matches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct App {
    /// Its name in full.
    pub app: AppRef,
    /// On which devices.
    pub placement: Selector,
    /// What runs there; images by the names that the manifest gave.
    pub pod: PodSpec<String>,
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
}
