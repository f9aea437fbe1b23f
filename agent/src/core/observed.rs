//! What the machine says, as far as we heard. Never stored: it is asked anew
//! after each start.

use super::action::{Action, KILL_AGAIN_MS};
use super::devices::DevicesSeen;
use super::health::Health;
use crate::runtime::{ContainerId, Status};
use skerry_wire::report::Allocatable;
use skerry_wire::{AppRef, Digest, RevisionId};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What the machine says.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    /// Every container of the runtime; `None` while that is not known, and
    /// then nothing is planned.
    pub containers: Option<BTreeMap<ContainerId, Status>>,
    /// What was asked of the runtime and not answered yet. A container is left
    /// alone for as long.
    pub busy: BTreeMap<ContainerId, Operation>,
    /// Containers whose remains could not be taken down, and when that is
    /// tried again, in milliseconds since boot.
    pub stuck: BTreeMap<ContainerId, u64>,
    /// Containers that nobody knows and that were told to stop, and when they
    /// are killed, in milliseconds since boot.
    pub strays: BTreeMap<ContainerId, u64>,
    /// Containers of ours that this run of the agent has told to stop.
    pub told: BTreeSet<ContainerId>,
    /// Whether containers are well.
    pub health: Health,
    /// How the images stand that were asked for.
    pub images: BTreeMap<Digest, ImageState>,
    /// Where the pods on bridges are.
    pub addresses: BTreeMap<(AppRef, RevisionId), IpAddr>,
    /// What apps may have of the device.
    pub allocatable: Allocatable,
    /// The devices that are watched; `None` before they were looked at.
    pub devices: Option<DevicesSeen>,
    /// What is wrong with the network of pods, in words.
    pub network_troubles: Vec<String>,
}

/// What the runtime is doing to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Being made.
    Create,
    /// Being taken down.
    Remove,
}

/// How an image stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageState {
    /// Being looked at, fetched or unpacked.
    Fetching {
        /// Bytes here of the blobs that are known.
        done_bytes: u64,
        /// Bytes of the blobs that are known.
        total_bytes: u64,
    },
    /// All here.
    Ready,
    /// It could not be had, and is tried again.
    Failed {
        /// Why, in words.
        reason: String,
        /// When, in milliseconds since boot.
        retry_at_ms: u64,
        /// How often in a row.
        failures: u32,
    },
}

impl Observed {
    /// Whether this image is on the disk.
    pub fn has_image(&self, manifest: &Digest) -> bool {
        matches!(self.images.get(manifest), Some(ImageState::Ready))
    }

    /// Whether this container is known to run.
    pub fn runs(&self, id: &ContainerId) -> bool {
        let status = self.containers.as_ref().and_then(|all| all.get(id));
        matches!(status, Some(Status::Running { .. }))
    }

    /// Notes how a container stands; ignored while the list is not known,
    /// because that will say it.
    pub fn set(&mut self, id: ContainerId, status: Status) {
        if let Some(containers) = &mut self.containers {
            containers.insert(id, status);
        }
    }

    /// Notes that nothing of a container is left.
    pub fn gone(&mut self, id: &ContainerId) {
        if let Some(containers) = &mut self.containers {
            containers.remove(id);
        }
        self.stuck.remove(id);
        self.strays.remove(id);
        self.told.remove(id);
        self.health.gone(id);
    }

    /// Notes that this action is under way, so that it is not planned again.
    pub fn begun(&mut self, now_ms: u64, action: &Action) {
        match action {
            Action::Create {
                entry,
                assignment,
                container,
            } => {
                let id = entry.name().incarnation(entry.incarnation);
                if let Some(spec) = assignment.pod.container(*container) {
                    self.health.made(&id, spec);
                }
                self.busy.insert(id, Operation::Create);
            }
            Action::Settle { id, .. } | Action::Remove { id } => {
                self.busy.insert(id.clone(), Operation::Remove);
            }
            Action::Stop {
                instance: None,
                id,
                kill_at_ms,
                ..
            } => {
                self.strays.insert(id.clone(), *kill_at_ms);
            }
            Action::Kill { instance: None, id } => {
                let again_ms = now_ms.saturating_add(KILL_AGAIN_MS);
                self.strays.insert(id.clone(), again_ms);
            }
            Action::FetchImage(image) => {
                let fetching = ImageState::Fetching {
                    done_bytes: 0,
                    total_bytes: 0,
                };
                self.images.insert(image.manifest, fetching);
            }
            Action::Stop { id, .. } => {
                self.told.insert(id.clone());
            }
            Action::Adopt { .. }
            | Action::Vanished { .. }
            | Action::Kill { .. }
            | Action::Reset { .. }
            | Action::Forget { .. } => {}
        }
    }
}
