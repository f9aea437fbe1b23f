//! What is on the hub's disk.

use skerry_hub::core::{
    AppRecord, AttemptRecord, Change, ConfigRecord, DeviceRecord, EventRecord, HubRecord, Records,
    ReleaseRecord, RevokedKey, RolloutRecord, Subject, TokenRecord,
};
use skerry_hub::model::Image;
use skerry_wire::update::ReleaseKind;
use skerry_wire::{AppRef, ConfigRef, DeviceId, Digest};
use std::collections::BTreeMap;

/// What is on the hub's disk.
#[derive(Debug, Clone, Default)]
pub struct HubStore {
    /// The hub's own numbers.
    pub hub: HubRecord,
    /// Devices.
    pub devices: BTreeMap<DeviceId, DeviceRecord>,
    reports: BTreeMap<DeviceId, Box<[u8]>>,
    revoked: BTreeMap<[u8; 32], RevokedKey>,
    /// Apps.
    pub apps: BTreeMap<AppRef, AppRecord>,
    /// Configs and secrets.
    pub configs: BTreeMap<ConfigRef, ConfigRecord>,
    tokens: BTreeMap<[u8; 8], TokenRecord>,
    pub(super) events: BTreeMap<u64, EventRecord>,
    images: BTreeMap<(Digest, String), Image>,
    releases: BTreeMap<(ReleaseKind, String), ReleaseRecord>,
    /// Rollouts.
    pub rollouts: BTreeMap<u64, RolloutRecord>,
    /// The newest order of each subject to each device.
    pub attempts: BTreeMap<(DeviceId, Subject), AttemptRecord>,
}

impl HubStore {
    pub(super) fn apply(&mut self, change: Change) {
        match change {
            Change::PutHub(hub) => self.hub = hub,
            Change::PutDevice(device) => {
                self.devices.insert(device.device.clone(), *device);
            }
            Change::DeleteDevice(device) => {
                self.devices.remove(&device);
            }
            Change::PutReport(device, report) => {
                self.reports.insert(device, report);
            }
            Change::DeleteReport(device) => {
                self.reports.remove(&device);
            }
            Change::PutRevokedKey(key) => {
                self.revoked.insert(*key.key.as_bytes(), key);
            }
            Change::PutApp(app) => {
                self.apps.insert(app.app.app.clone(), *app);
            }
            Change::DeleteApp(app) => {
                self.apps.remove(&app);
            }
            Change::PutConfig(config) => {
                self.configs
                    .insert(config.object.config.reference(), *config);
            }
            Change::DeleteConfig(config) => {
                self.configs.remove(&config);
            }
            Change::PutToken(token) => {
                self.tokens.insert(token.id, token);
            }
            Change::DeleteToken(id) => {
                self.tokens.remove(&id);
            }
            Change::PutEvent(event) => {
                self.events.insert(event.id, event);
            }
            Change::DeleteEvent(id) => {
                self.events.remove(&id);
            }
            Change::PutImage(image) => {
                let key = (image.digest, image.reference.clone());
                self.images.insert(key, *image);
            }
            Change::PutRelease(release) => {
                let key = (release.kind, release.version.clone());
                self.releases.insert(key, *release);
            }
            Change::DeleteRelease(kind, version) => {
                self.releases.remove(&(kind, version));
            }
            Change::PutRollout(rollout) => {
                self.rollouts.insert(rollout.id, *rollout);
            }
            Change::DeleteRollout(id) => {
                self.rollouts.remove(&id);
            }
            Change::PutAttempt(attempt) => {
                let key = (attempt.device.clone(), attempt.subject);
                self.attempts.insert(key, *attempt);
            }
            Change::DeleteAttempt(device, subject) => {
                self.attempts.remove(&(device, subject));
            }
        }
    }

    pub(super) fn records(&self) -> Records {
        Records {
            hub: self.hub.clone(),
            devices: self.devices.values().cloned().collect(),
            reports: self.reports.clone().into_iter().collect(),
            revoked: self.revoked.values().cloned().collect(),
            apps: self.apps.values().cloned().collect(),
            configs: self.configs.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            events: self.events.values().cloned().collect(),
            images: self.images.values().cloned().collect(),
            releases: self.releases.values().cloned().collect(),
            rollouts: self.rollouts.values().cloned().collect(),
            attempts: self.attempts.values().cloned().collect(),
        }
    }
}
