//! Which device runs what: every approved device that an app's selector
//! matches, each with the images of its own platform.

use super::configs::remedy;
use super::record::Standing;
use super::{Device, Effect, Fleet, MAX_PULLS, Turn};
use crate::model::{App, Platform, PlatformImage, Revision};
use skerry_wire::policy::Grant;
use skerry_wire::seal::Purpose;
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{
    AppRef, Assignment, Desired, DesiredPart, DeviceId, Digest, ImageRef, Labels, encode,
};
use std::collections::BTreeSet;

/// Bytes of one device's assignments: with its generation and count they fit
/// [`Desired::MAX_BYTES`].
const MAX_ASSIGNED_BYTES: usize = Desired::MAX_BYTES - 64;

/// Why a device does not get an app that is placed on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Which app.
    pub app: AppRef,
    /// CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people, with the remedy.
    pub message: String,
    /// The image to pull, when that would help.
    pub lacks: Option<(String, Digest)>,
}

/// The device's labels, if one of its apps may read them or is told one:
/// nothing is sent for a label that nobody sees.
fn labels_for(labels: &Labels, assigned: &[Assignment]) -> Labels {
    let reads =
        |a: &Assignment| a.policy.grants.contains(&Grant::ReadDevice) || a.pod.reads_labels();
    match assigned.iter().any(reads) {
        true => labels.clone(),
        false => Labels::default(),
    }
}

impl Fleet {
    /// What the device shall run, ordered by app, and what it cannot.
    pub fn assignments(&self, device: &Device) -> (Vec<Assignment>, Vec<Blocked>) {
        let mut assigned = Vec::new();
        let mut blocked = Vec::new();
        let mut bytes = 0;
        let mut named = BTreeSet::new();
        if device.record.standing != Standing::Approved {
            return (assigned, blocked);
        }
        for record in self.apps.values() {
            if !record.app.placement.matches(&device.record.labels) {
                continue;
            }
            if assigned.len() == Desired::MAX_ASSIGNMENTS {
                blocked.push(Blocked {
                    app: record.app.app.clone(),
                    reason: "TooManyApps",
                    message: format!(
                        "a device holds at most {} apps: narrow the selectors",
                        Desired::MAX_ASSIGNMENTS
                    ),
                    lacks: None,
                });
                continue;
            }
            if let Some(missing) = self.missing_config(&record.app.app, &record.revision.pod) {
                blocked.push(Blocked {
                    app: record.app.app.clone(),
                    reason: "ConfigMissing",
                    message: remedy(&missing),
                    lacks: None,
                });
                continue;
            }
            match self.assignment(&record.app, &record.revision, &device.record.platform) {
                Ok(assignment) => {
                    let configs = self.config_bytes(&assignment, &mut named);
                    let size = encode(&assignment).len() + configs;
                    if bytes + size > MAX_ASSIGNED_BYTES {
                        blocked.push(Blocked {
                            app: assignment.app,
                            reason: "DesiredTooLarge",
                            message: format!(
                                "a device takes at most {MAX_ASSIGNED_BYTES} bytes of apps and configs: narrow the selectors"
                            ),
                            lacks: None,
                        });
                        continue;
                    }
                    bytes += size;
                    assigned.push(assignment);
                }
                Err(why) => blocked.push(*why),
            }
        }
        (assigned, blocked)
    }

    fn assignment(
        &self,
        app: &App,
        revision: &Revision,
        platform: &Platform,
    ) -> Result<Assignment, Box<Blocked>> {
        let pod = revision.pod.clone().map_images(|pinned| -> Result<ImageRef, Box<Blocked>> {
            let found = self.platform_image(pinned.digest, platform);
            let found = found.ok_or_else(|| {
                let shown = if platform.arch.is_empty() {
                    "a platform that it did not say".to_string()
                } else {
                    platform.to_string()
                };
                Box::new(Blocked {
                    app: app.app.clone(),
                    reason: "NoImageForPlatform",
                    message: format!(
                        "the hub has no image {} for {shown}: import one, or 'skerry image pull {}'",
                        pinned.reference, pinned.reference
                    ),
                    lacks: Some((pinned.reference.clone(), pinned.digest)),
                })
            })?;
            Ok(ImageRef {
                reference: pinned.reference,
                manifest: found.manifest,
                manifest_size: found.manifest_size,
            })
        })?;
        Ok(Assignment {
            app: app.app.clone(),
            revision: revision.id,
            policy: {
                let mut policy = app.policy.clone();
                crate::zone::renew(&mut policy);
                policy
            },
            pod,
        })
    }

    /// The best of an image's platforms for a device.
    fn platform_image(&self, image: Digest, device: &Platform) -> Option<&PlatformImage> {
        let names = self.images.get(&image)?.values();
        names
            .flat_map(|image| &image.platforms)
            .filter_map(|p| Some((p.platform.suits(device)?, p)))
            // The first of equals, so that the answer never depends on when
            // an image came.
            .min_by_key(|(level, p)| (std::cmp::Reverse(*level), p.manifest))
            .map(|(_, p)| p)
    }

    /// The bytes of this blob, when the device may fetch it: only those of its
    /// own images.
    pub(super) fn blob_size(&self, device: &Device, blob: Digest) -> Option<u64> {
        if device.record.standing != Standing::Approved {
            return None;
        }
        if let Some(size) = self.artifact_size(&device.record.device, blob) {
            return Some(size);
        }
        self.apps
            .values()
            .filter(|record| record.app.placement.matches(&device.record.labels))
            .flat_map(|record| record.revision.pod.all_containers())
            .filter_map(|c| self.platform_image(c.image.digest, &device.record.platform))
            .find_map(|p| {
                let manifest = [(p.manifest, p.manifest_size)];
                let mut blobs = manifest.iter().chain(&p.blobs);
                blobs
                    .find(|(digest, _)| *digest == blob)
                    .map(|(_, size)| *size)
            })
    }

    /// Computes the device's desired state anew. A new generation and a
    /// message only when its content changed. With `tell`, what cannot be there
    /// is told of, and images that are missing are pulled.
    pub(super) fn place(&mut self, turn: &mut Turn, name: &DeviceId, tell: bool) {
        let Some(device) = self.devices.get(name) else {
            return;
        };
        if device.record.standing == Standing::Pending {
            return;
        }
        let platform = device.record.platform.clone();
        let (assigned, blocked) = self.assignments(device);
        let labels = labels_for(&device.record.labels, &assigned);
        let configs = self.configs_for(&assigned);
        let orders = self.orders(name);
        let content = Digest::of(&encode(&(&assigned, orders, labels, &configs)));
        let device = self.devices.get_mut(name).expect("it was there above");
        if content != device.record.content {
            device.record.content = content;
            device.record.generation = device.record.generation.next();
            device.resends = 0;
            turn.dirty.insert(name.clone());
            if device.is_online() {
                self.unsent.insert(name.clone());
            }
        }
        if !tell {
            return;
        }
        for why in blocked {
            self.warn(turn, Some(name), Some(&why.app), why.reason, why.message);
            if let Some((reference, digest)) = why.lacks
                && !platform.arch.is_empty()
                && self.pulls.len() < MAX_PULLS
                && self.pulls.insert((digest, platform.clone()))
            {
                turn.effects.push(Effect::PullImage {
                    reference,
                    digest,
                    platform: platform.clone(),
                });
            }
        }
    }

    pub(super) fn send_desired(&mut self, turn: &mut Turn, name: &DeviceId) {
        let Some(device) = self.devices.get(name) else {
            return;
        };
        if device.record.standing != Standing::Approved {
            return;
        }
        let (assignments, _) = self.assignments(device);
        let labels = labels_for(&device.record.labels, &assignments);
        let generation = device.record.generation;
        let to = device.record.key;
        let configs = self.configs_for(&assignments);
        let whole = encode(&Desired {
            generation,
            assignments,
            updates: self.orders(name),
            configs,
            labels,
        });
        for part in DesiredPart::split(generation, &whole) {
            let topic = Topic::Device(name.clone(), Lane::Desired);
            self.send(turn, to, topic, Purpose::Desired, encode(&part));
        }
        let device = self.devices.get_mut(name).expect("it was there above");
        device.sent_at = turn.now;
    }
}
