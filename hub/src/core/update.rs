//! Releases of the devices' own software, and their way onto the devices: a few
//! at a time, and no further when one does not come back.
//!
//! The laws, each with a test:
//! - at no time are more devices between two softwares than the rollout allows;
//! - after one device was refused, rolled back or lost, no other is ordered;
//! - an order's number is never used twice, and rises;
//! - a device switches only after its report of being about to was
//!   acknowledged, and that is acknowledged only for the order that this hub
//!   still means: what was taken back is never tried;
//! - what is known survives a restart of the hub.

mod operate;
mod releases;
mod reports;
mod step;

use super::record::{
    AttemptRecord, AttemptState, MaxUnavailable, ReleaseRecord, RolloutRecord, Standing, Subject,
    Target,
};
use super::{Device, Fleet};
use skerry_wire::update::{ReleaseKind, UpdateBody, UpdateOrder};
use skerry_wire::{DeviceId, Digest, Selector, Timestamp};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// All that the core knows of updates.
#[derive(Debug, Default)]
pub(super) struct Updates {
    /// Whose releases this hub takes.
    trusted: Vec<[u8; 32]>,
    releases: BTreeMap<(ReleaseKind, String), ReleaseRecord>,
    rollouts: BTreeMap<u64, RolloutRecord>,
    attempts: BTreeMap<DeviceId, BTreeMap<Subject, AttemptRecord>>,
    last_order: u64,
    /// Something happened that rollouts may go on after.
    pub(super) due: bool,
}

/// How far a rollout is, counted now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RolloutCounts {
    /// Devices that the selector means.
    pub total: usize,
    /// Those that have it.
    pub updated: usize,
    /// Those that are fetching or trying it.
    pub updating: usize,
    /// Those that could not.
    pub failed: usize,
    /// Those to come that are not connected.
    pub offline: usize,
}

/// What an operator wants rolled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// This version of this software.
    Release {
        /// Which software.
        kind: ReleaseKind,
        /// Which version.
        version: String,
        /// Also where something newer runs.
        allow_older: bool,
    },
    /// This line.
    Line {
        /// The broker's address.
        broker: String,
        /// The certificate that must be in its chain.
        tls_pin: Option<[u8; 32]>,
    },
}

/// What an operator does to the newest rollout of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// No device is ordered any more, until resumed.
    Pause,
    /// Go on; devices that failed are tried once more.
    Resume,
    /// Roll out what was there before.
    Undo,
}

impl Subject {
    /// What a release of this kind changes.
    pub fn of(kind: ReleaseKind) -> Self {
        match kind {
            ReleaseKind::Agent => Subject::Agent,
            ReleaseKind::Os => Subject::Os,
        }
    }

    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Subject::Agent => "agent",
            Subject::Os => "os",
            Subject::Line => "line",
        }
    }
}

impl Target {
    /// What it changes.
    pub fn subject(&self) -> Subject {
        match self {
            Target::Release { kind, .. } => Subject::of(*kind),
            Target::Line { .. } => Subject::Line,
        }
    }

    /// `agent 0.2.0`, `line mqtts://hub.example:8883`.
    pub fn shown(&self) -> String {
        match self {
            Target::Release { kind, version, .. } => format!("{} {version}", kind.as_str()),
            Target::Line { broker, .. } => format!("line {}", without_login(broker)),
        }
    }

    fn body(&self) -> UpdateBody {
        match self {
            Target::Release { signed, .. } => UpdateBody::Release(signed.clone()),
            Target::Line { broker, tls_pin } => UpdateBody::Line {
                broker: broker.clone(),
                tls_pin: *tls_pin,
            },
        }
    }
}

fn without_login(broker: &str) -> String {
    match (broker.split_once("://"), broker.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        _ => broker.to_string(),
    }
}

impl MaxUnavailable {
    /// Devices at a time, of so many: at least one, or nothing ever happens.
    fn of(self, total: usize) -> usize {
        match self {
            MaxUnavailable::Count(count) => (count as usize).max(1),
            MaxUnavailable::Percent(percent) => (total * usize::from(percent) / 100).max(1),
        }
    }
}

impl AttemptState {
    /// Whether the device is between two softwares, or about to be.
    fn is_open(&self) -> bool {
        match self {
            AttemptState::Ordered | AttemptState::Trying { .. } => true,
            AttemptState::Confirmed
            | AttemptState::Refused { .. }
            | AttemptState::RolledBack { .. }
            | AttemptState::Lost { .. } => false,
        }
    }

    /// Why it came to nothing.
    fn failure(&self, subject: Subject) -> Option<String> {
        match self {
            AttemptState::Refused { reason } => Some(format!("refused it: {reason}")),
            AttemptState::RolledBack { reason } => Some(format!("rolled it back: {reason}")),
            AttemptState::Lost { secs } => Some(format!(
                "was neither confirmed nor back within {secs} s: look at the device; 'skerry rollout undo {}' takes it back",
                subject.as_str()
            )),
            AttemptState::Ordered | AttemptState::Trying { .. } | AttemptState::Confirmed => None,
        }
    }
}

/// Orders versions as people do: numbers by value, a suffix before none.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> (Vec<u64>, String) {
        let (main, rest) = match text.find(['-', '+', '~']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let numbers = main.split('.').map(|n| n.parse().unwrap_or(0)).collect();
        (numbers, rest.to_string())
    };
    let ((a, a_rest), (b, b_rest)) = (parts(a), parts(b));
    a.cmp(&b)
        .then_with(|| match (a_rest.is_empty(), b_rest.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (true, true) | (false, false) => a_rest.cmp(&b_rest),
        })
}

impl Updates {
    pub(super) fn restore(
        releases: Vec<ReleaseRecord>,
        rollouts: Vec<RolloutRecord>,
        attempts: Vec<AttemptRecord>,
    ) -> Self {
        let last_order = attempts.iter().map(|a| a.order).max().unwrap_or(0);
        let mut by_device: BTreeMap<DeviceId, BTreeMap<Subject, AttemptRecord>> = BTreeMap::new();
        for attempt in attempts {
            by_device
                .entry(attempt.device.clone())
                .or_default()
                .insert(attempt.subject, attempt);
        }
        Self {
            trusted: Vec::new(),
            releases: releases
                .into_iter()
                .map(|r| ((r.kind, r.version.clone()), r))
                .collect(),
            rollouts: rollouts.into_iter().map(|r| (r.id, r)).collect(),
            attempts: by_device,
            last_order,
            due: true,
        }
    }

    fn attempt(&self, device: &DeviceId, subject: Subject) -> Option<&AttemptRecord> {
        self.attempts.get(device)?.get(&subject)
    }

    fn open_attempts<'a>(&'a self, device: &DeviceId) -> impl Iterator<Item = &'a AttemptRecord> {
        let all = self
            .attempts
            .get(device)
            .into_iter()
            .flat_map(BTreeMap::values);
        all.filter(|a| a.state.is_open())
    }

    /// By the clock, so that a hub that came from a backup does not give a
    /// number twice; and rising all the same.
    fn next_order(&mut self, now: Timestamp) -> u64 {
        self.last_order = now.0.max(self.last_order.saturating_add(1));
        self.last_order
    }

    fn newest(&self, subject: Subject) -> Option<&RolloutRecord> {
        let mut all = self.rollouts.values().rev();
        all.find(|r| r.target.subject() == subject)
    }
}

/// For whoever shows the fleet.
impl Fleet {
    /// All releases, by kind and version.
    pub fn releases(&self) -> impl Iterator<Item = &ReleaseRecord> {
        self.updates.releases.values()
    }

    /// All rollouts, the oldest first.
    pub fn rollouts(&self) -> impl Iterator<Item = &RolloutRecord> {
        self.updates.rollouts.values()
    }

    /// The newest attempt of each subject on a device.
    pub fn attempts(&self, device: &DeviceId) -> impl Iterator<Item = &AttemptRecord> {
        let all = self.updates.attempts.get(device);
        all.into_iter().flat_map(BTreeMap::values)
    }

    /// Whose releases this hub takes, and devices pin when they join.
    pub fn release_keys(&self) -> &[[u8; 32]] {
        &self.updates.trusted
    }

    /// Says whose releases this hub takes.
    pub fn trust(&mut self, keys: Vec<[u8; 32]>) {
        self.updates.trusted = keys;
    }

    /// How far a rollout is.
    pub fn rollout_counts(&self, rollout: &RolloutRecord) -> RolloutCounts {
        let subject = rollout.target.subject();
        let mut counts = RolloutCounts::default();
        for device in self.devices_of(&rollout.selector) {
            counts.total += 1;
            let attempt = self.updates.attempt(&device.record.device, subject);
            match attempt
                .filter(|a| a.rollout == rollout.id)
                .map(|a| &a.state)
            {
                Some(AttemptState::Confirmed) => counts.updated += 1,
                Some(AttemptState::Ordered | AttemptState::Trying { .. }) => counts.updating += 1,
                Some(_) => counts.failed += 1,
                None if !device.is_online() => counts.offline += 1,
                None => {}
            }
        }
        counts
    }

    fn devices_of<'a>(&'a self, selector: &'a Selector) -> impl Iterator<Item = &'a Device> {
        let all = self.devices.values();
        all.filter(|device| self.is_meant(device, selector))
    }

    fn is_meant(&self, device: &Device, selector: &Selector) -> bool {
        device.record.standing == Standing::Approved && selector.matches(&device.record.labels)
    }

    /// What a device is ordered to change of itself.
    pub(super) fn orders(&self, device: &DeviceId) -> Vec<UpdateOrder> {
        self.updates
            .open_attempts(device)
            .filter_map(|attempt| {
                let rollout = self.updates.rollouts.get(&attempt.rollout)?;
                Some(UpdateOrder {
                    order: attempt.order,
                    confirm_secs: rollout.confirm_secs,
                    body: rollout.target.body(),
                })
            })
            .collect()
    }

    /// The bytes of this blob, when it is an artifact of an order of the
    /// device's.
    pub(super) fn artifact_size(&self, device: &DeviceId, blob: Digest) -> Option<u64> {
        self.updates.open_attempts(device).find_map(|attempt| {
            let rollout = self.updates.rollouts.get(&attempt.rollout)?;
            let Target::Release { artifacts, .. } = &rollout.target else {
                return None;
            };
            artifacts.iter().find(|a| a.digest == blob).map(|a| a.size)
        })
    }
}
