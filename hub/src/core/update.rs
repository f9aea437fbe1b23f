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

use super::record::{
    AttemptRecord, AttemptState, Change, MaxUnavailable, ReleaseRecord, RolloutRecord,
    RolloutState, Standing, Subject, Target,
};
use super::{Answer, Device, Effect, Fleet, Refused, RefusedKind, RequestId, Turn, refused};
use skerry_wire::update::{
    Release, ReleaseKind, SignedRelease, UpdateBody, UpdateOrder, UpdateState, UpdateStatus,
};
use skerry_wire::{DeviceId, Digest, Selector, Timestamp};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Releases of one hub.
const MAX_RELEASES: usize = 200;
/// Rollouts that are remembered; the oldest that came to an end gives way.
const MAX_ROLLOUTS: usize = 100;
/// A device may be so much later than its time to confirm, in milliseconds:
/// it must end the trial, start again and connect. A board boots twice in it.
const GRACE_MS: u64 = 3 * 60 * 1_000;
/// Longest reason of a device that is kept, in characters.
const MAX_REASON_CHARS: usize = 400;

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
    fn failure(&self) -> Option<String> {
        match self {
            AttemptState::Refused { reason } => Some(format!("refused it: {reason}")),
            AttemptState::RolledBack { reason } => Some(format!("rolled it back: {reason}")),
            AttemptState::Lost { secs } => Some(format!(
                "was neither confirmed nor back within {secs} s: look at the device; 'skerry rollout undo' lets the others stay as they were"
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

/// What operators do.
impl Fleet {
    pub(super) fn add_release(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        signed: SignedRelease,
    ) {
        let release = match signed.open(&self.updates.trusted) {
            Ok(release) => release,
            Err(error) => {
                let message = format!(
                    "{error}: start the hub with --release-key and the public key that 'skerry release keygen' printed"
                );
                let no = refused(RefusedKind::Invalid, "ReleaseRefused", message);
                return turn.answer(request, no);
            }
        };
        let Release {
            kind,
            version,
            artifacts,
        } = release;
        let key = (kind, version.clone());
        if let Some(old) = self.updates.releases.get(&key)
            && old.artifacts != artifacts
        {
            let message = format!(
                "there is another {} {version} already: give this one another version",
                kind.as_str()
            );
            let no = refused(RefusedKind::Conflict, "ReleaseExists", message);
            return turn.answer(request, no);
        }
        if self.updates.releases.len() >= MAX_RELEASES {
            let message = format!("a hub holds at most {MAX_RELEASES} releases: delete some");
            return turn.answer(
                request,
                refused(RefusedKind::TooMany, "TooManyReleases", message),
            );
        }
        let record = ReleaseRecord {
            kind,
            version: version.clone(),
            artifacts,
            signed,
            added: turn.now,
        };
        turn.changes
            .push(Change::PutRelease(Box::new(record.clone())));
        self.updates.releases.insert(key, record);
        let message = format!("release {} {version} was imported", kind.as_str());
        self.note(turn, None, None, "ReleaseImported", message);
        turn.answer(request, Ok(Answer::Done));
    }

    pub(super) fn delete_release(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        kind: ReleaseKind,
        version: String,
    ) {
        let is_this = |target: &Target| matches!(target, Target::Release { kind: k, version: v, .. } if *k == kind && *v == version);
        let going_on = |r: &&RolloutRecord| match r.state {
            RolloutState::Running | RolloutState::Paused | RolloutState::Stopped { .. } => {
                is_this(&r.target)
            }
            RolloutState::Complete | RolloutState::Superseded => false,
        };
        if self.updates.rollouts.values().find(going_on).is_some() {
            let message = format!(
                "{} {version} is being rolled out: 'skerry rollout undo {}' first",
                kind.as_str(),
                kind.as_str()
            );
            return turn.answer(
                request,
                refused(RefusedKind::Conflict, "ReleaseInUse", message),
            );
        }
        let of_it = |a: &&AttemptRecord| {
            let rollout = self.updates.rollouts.get(&a.rollout);
            a.state.is_open() && rollout.is_some_and(|r| is_this(&r.target))
        };
        let mut attempts = self.updates.attempts.values().flat_map(BTreeMap::values);
        if let Some(attempt) = attempts.find(of_it) {
            let message = format!(
                "device '{0}' is changing to it: delete it when that has come to an end ('skerry describe device {0}')",
                attempt.device
            );
            return turn.answer(
                request,
                refused(RefusedKind::Conflict, "ReleaseInUse", message),
            );
        }
        match self.updates.releases.remove(&(kind, version.clone())) {
            Some(release) => {
                turn.changes.push(Change::DeleteRelease(kind, version));
                for artifact in release.artifacts {
                    if !self.needs_blob(artifact.digest) {
                        turn.effects.push(Effect::RemoveBlob(artifact.digest));
                    }
                }
                turn.answer(request, Ok(Answer::Done));
            }
            None => turn.answer(request, Err(no_such_release(kind, &version))),
        }
    }

    /// Whether a release or an image has this blob. No device's order has one
    /// that its release has not: a release with orders is not deleted.
    fn needs_blob(&self, blob: Digest) -> bool {
        let mut artifacts = self.updates.releases.values().flat_map(|r| &r.artifacts);
        let mut platforms = self.images().flat_map(|image| &image.platforms);
        artifacts.any(|a| a.digest == blob)
            || self.images().any(|image| image.digest == blob)
            || platforms
                .any(|p| p.manifest == blob || p.blobs.iter().any(|(digest, _)| *digest == blob))
    }

    pub(super) fn start_rollout(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        wish: Wish,
        selector: Selector,
        max_unavailable: MaxUnavailable,
        confirm_secs: u32,
    ) {
        let started = self
            .target_of(wish, &selector)
            .and_then(|target| self.begin(turn, target, selector, max_unavailable, confirm_secs));
        turn.answer(request, started.map(Answer::Rollout));
    }

    fn target_of(&self, wish: Wish, selector: &Selector) -> Result<Target, Refused> {
        match wish {
            Wish::Line { broker, tls_pin } => Ok(Target::Line { broker, tls_pin }),
            Wish::Release {
                kind,
                version,
                allow_older,
            } => {
                let release = self.updates.releases.get(&(kind, version.clone()));
                let release = release.ok_or_else(|| no_such_release(kind, &version))?;
                if kind == ReleaseKind::Agent && !allow_older {
                    self.refuse_older(&version, selector)?;
                }
                Ok(Target::Release {
                    kind,
                    version,
                    artifacts: release.artifacts.clone(),
                    signed: release.signed.clone(),
                })
            }
        }
    }

    /// An older release may have holes that a newer one closed: going back is
    /// for people to decide.
    fn refuse_older(&self, version: &str, selector: &Selector) -> Result<(), Refused> {
        let newer = self.devices_of(selector).find_map(|device| {
            let runs = device.report()?.facts.agent_version;
            let newer = compare_versions(&runs, version) == Ordering::Greater;
            newer.then(|| (device.record.device.clone(), runs))
        });
        match newer {
            None => Ok(()),
            Some((device, runs)) => Err(Refused {
                kind: RefusedKind::Conflict,
                reason: "OlderRelease",
                message: format!(
                    "device '{device}' runs {runs}, which is newer than {version}: say --allow-older to go back, or 'skerry rollout undo agent'"
                ),
            }),
        }
    }

    fn begin(
        &mut self,
        turn: &mut Turn,
        target: Target,
        selector: Selector,
        max_unavailable: MaxUnavailable,
        confirm_secs: u32,
    ) -> Result<u64, Refused> {
        let range = UpdateOrder::MIN_CONFIRM_SECS..=UpdateOrder::MAX_CONFIRM_SECS;
        if !range.contains(&confirm_secs) {
            return Err(Refused {
                kind: RefusedKind::Invalid,
                reason: "InvalidConfirmTime",
                message: format!(
                    "a device can be given {} s to a day to confirm in, not {confirm_secs} s",
                    UpdateOrder::MIN_CONFIRM_SECS
                ),
            });
        }
        if self.devices_of(&selector).next().is_none() {
            return Err(Refused {
                kind: RefusedKind::Invalid,
                reason: "NoDevice",
                message: format!(
                    "no device matches '{selector}': 'skerry get devices' shows their labels"
                ),
            });
        }
        let subject = target.subject();
        let others: Vec<u64> = self
            .updates
            .rollouts
            .values()
            .filter(|r| r.target.subject() == subject && r.state != RolloutState::Complete)
            .map(|r| r.id)
            .collect();
        for id in others {
            self.set_state(turn, id, RolloutState::Superseded);
        }
        let id = self
            .updates
            .rollouts
            .keys()
            .next_back()
            .map_or(1, |id| id + 1);
        let message = format!("{} is rolled out to '{selector}'", target.shown());
        let rollout = RolloutRecord {
            id,
            target,
            selector,
            max_unavailable,
            confirm_secs,
            state: RolloutState::Running,
            forgiven: 0,
            created: turn.now,
            changed: turn.now,
        };
        turn.changes
            .push(Change::PutRollout(Box::new(rollout.clone())));
        self.updates.rollouts.insert(id, rollout);
        self.forget_old_rollouts(turn);
        self.note(turn, None, None, "RolloutStarted", message);
        self.updates.due = true;
        Ok(id)
    }

    fn forget_old_rollouts(&mut self, turn: &mut Turn) {
        while self.updates.rollouts.len() > MAX_ROLLOUTS {
            let attempts = self.updates.attempts.values().flat_map(BTreeMap::values);
            let used: Vec<u64> = attempts
                .filter(|a| a.state.is_open())
                .map(|a| a.rollout)
                .collect();
            let old = self.updates.rollouts.keys().find(|id| !used.contains(id));
            let Some(id) = old.copied() else { return };
            self.updates.rollouts.remove(&id);
            turn.changes.push(Change::DeleteRollout(id));
        }
    }

    pub(super) fn steer_rollout(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        subject: Subject,
        steer: Steer,
    ) {
        let Some(rollout) = self.updates.newest(subject).cloned() else {
            let message = format!(
                "nothing of '{}' was rolled out yet: 'skerry release rollout' or 'skerry line set'",
                subject.as_str()
            );
            let no = refused(RefusedKind::NotFound, "RolloutNotFound", message);
            return turn.answer(request, no);
        };
        let id = rollout.id;
        let shown = rollout.target.shown();
        match (steer, &rollout.state) {
            (Steer::Undo, _) => {
                let undone = self.undo(turn, &rollout);
                return turn.answer(request, undone.map(Answer::Rollout));
            }
            (Steer::Pause, RolloutState::Running) => {
                self.set_state(turn, id, RolloutState::Paused);
                let message = format!("the rollout of {shown} is paused");
                self.note(turn, None, None, "RolloutPaused", message);
            }
            (Steer::Pause, RolloutState::Paused | RolloutState::Stopped { .. }) => {}
            (Steer::Resume, RolloutState::Running) => {}
            (Steer::Resume, RolloutState::Paused | RolloutState::Stopped { .. }) => {
                if let Some(rollout) = self.updates.rollouts.get_mut(&id) {
                    rollout.forgiven = self.updates.last_order;
                }
                self.set_state(turn, id, RolloutState::Running);
                let message = format!("the rollout of {shown} goes on");
                self.note(turn, None, None, "RolloutResumed", message);
                self.updates.due = true;
            }
            (Steer::Pause | Steer::Resume, RolloutState::Complete | RolloutState::Superseded) => {
                let message = format!("the rollout of {shown} has come to its end");
                let no = refused(RefusedKind::Conflict, "RolloutEnded", message);
                return turn.answer(request, no);
            }
        }
        turn.answer(request, Ok(Answer::Rollout(id)));
    }

    /// The newest other thing that was rolled out before. Going back is what
    /// the operator orders with this very word.
    fn undo(&mut self, turn: &mut Turn, rollout: &RolloutRecord) -> Result<u64, Refused> {
        let subject = rollout.target.subject();
        let before = self.updates.rollouts.values().rev().find(|r| {
            r.id < rollout.id && r.target.subject() == subject && r.target != rollout.target
        });
        if let Some(before) = before {
            let target = before.target.clone();
            self.still_here(&target)?;
            let (selector, most) = (rollout.selector.clone(), rollout.max_unavailable);
            return self.begin(turn, target, selector, most, rollout.confirm_secs);
        }
        // Nothing to go back to by ourselves: at least no further device.
        let going_on = match rollout.state {
            RolloutState::Running | RolloutState::Paused | RolloutState::Stopped { .. } => true,
            RolloutState::Complete | RolloutState::Superseded => false,
        };
        let has_it = self.rollout_counts(rollout).updated;
        if going_on && has_it == 0 {
            self.withdraw(turn, rollout.id);
            self.set_state(turn, rollout.id, RolloutState::Superseded);
            let message = format!("the rollout of {} was called off", rollout.target.shown());
            self.note(turn, None, None, "RolloutUndone", message);
            return Ok(rollout.id);
        }
        let remedy = match subject {
            Subject::Agent => {
                "import what was there before and 'skerry release rollout VERSION --allow-older'"
            }
            Subject::Os => {
                "import what was there before and 'skerry release rollout VERSION --kind os'"
            }
            Subject::Line => "'skerry line set' with the address that was there before",
        };
        Err(Refused {
            kind: RefusedKind::Conflict,
            reason: "NothingBefore",
            message: format!("this hub rolled out nothing before it: {remedy}"),
        })
    }

    /// What was deleted cannot be gone back to: its bytes are gone.
    fn still_here(&self, target: &Target) -> Result<(), Refused> {
        let Target::Release {
            kind,
            version,
            artifacts,
            ..
        } = target
        else {
            return Ok(());
        };
        let release = self.updates.releases.get(&(*kind, version.clone()));
        match release.is_some_and(|r| r.artifacts == *artifacts) {
            true => Ok(()),
            false => Err(Refused {
                kind: RefusedKind::Conflict,
                reason: "NothingBefore",
                message: format!(
                    "before it was {}, which was deleted: import it again, then undo again",
                    target.shown()
                ),
            }),
        }
    }

    fn set_state(&mut self, turn: &mut Turn, id: u64, state: RolloutState) {
        if let Some(rollout) = self.updates.rollouts.get_mut(&id) {
            rollout.state = state;
            rollout.changed = turn.now;
            turn.changes
                .push(Change::PutRollout(Box::new(rollout.clone())));
        }
    }
}

/// What devices do.
impl Fleet {
    /// Whether the device is about to try what this hub does not mean (any
    /// more): then it must not hear that its report is committed.
    pub(super) fn tries_unordered(&self, device: &DeviceId, updates: &[UpdateStatus]) -> bool {
        let tries = |u: &&UpdateStatus| u.state == UpdateState::Trying;
        updates.iter().filter(tries).any(|update| {
            let mut all = self
                .updates
                .attempts
                .get(device)
                .into_iter()
                .flat_map(BTreeMap::values);
            !all.any(|a| {
                let meant = match a.state {
                    // Late, but on its way.
                    AttemptState::Lost { .. } => true,
                    _ => a.state.is_open(),
                };
                a.order == update.order && meant
            })
        })
    }

    /// A device says how its orders fare.
    pub(super) fn updates_reported(
        &mut self,
        turn: &mut Turn,
        name: &DeviceId,
        updates: &[UpdateStatus],
    ) {
        for update in updates {
            let Some(attempt) = self
                .updates
                .attempts
                .get(name)
                .and_then(|all| all.values().find(|a| a.order == update.order))
                .cloned()
            else {
                continue;
            };
            let ended =
                !attempt.state.is_open() && !matches!(attempt.state, AttemptState::Lost { .. });
            if ended {
                continue;
            }
            let cut = |text: &String| text.chars().take(MAX_REASON_CHARS).collect::<String>();
            let state = match &update.state {
                UpdateState::Fetching { .. } => AttemptState::Ordered,
                UpdateState::Trying => match attempt.state {
                    AttemptState::Trying { .. } => continue,
                    // Late, but on its way: it is ordered nothing else before
                    // that has come to its end.
                    AttemptState::Lost { .. }
                    | AttemptState::Ordered
                    | AttemptState::Confirmed
                    | AttemptState::Refused { .. }
                    | AttemptState::RolledBack { .. } => AttemptState::Trying { since: turn.now },
                },
                UpdateState::Confirmed => AttemptState::Confirmed,
                UpdateState::Refused { reason } => AttemptState::Refused {
                    reason: cut(reason),
                },
                UpdateState::RolledBack { reason } => AttemptState::RolledBack {
                    reason: cut(reason),
                },
            };
            if state != attempt.state {
                self.put_attempt(turn, AttemptRecord { state, ..attempt });
            }
        }
    }

    fn put_attempt(&mut self, turn: &mut Turn, attempt: AttemptRecord) {
        let name = attempt.device.clone();
        turn.changes
            .push(Change::PutAttempt(Box::new(attempt.clone())));
        self.updates
            .attempts
            .entry(name.clone())
            .or_default()
            .insert(attempt.subject, attempt);
        self.updates.due = true;
        self.place(turn, &name, false);
    }

    /// Orders of a rollout that no device has taken up yet are taken back.
    fn withdraw(&mut self, turn: &mut Turn, rollout: u64) {
        let all = self.updates.attempts.values().flat_map(BTreeMap::values);
        let taken: Vec<(DeviceId, Subject)> = all
            .filter(|a| a.rollout == rollout && a.state == AttemptState::Ordered)
            .map(|a| (a.device.clone(), a.subject))
            .collect();
        for (device, subject) in taken {
            self.take_back(turn, &device, subject);
        }
    }

    fn take_back(&mut self, turn: &mut Turn, device: &DeviceId, subject: Subject) {
        if let Some(all) = self.updates.attempts.get_mut(device)
            && all.remove(&subject).is_some()
        {
            turn.changes
                .push(Change::DeleteAttempt(device.clone(), subject));
            self.updates.due = true;
            self.place(turn, device, false);
        }
    }

    /// A device is forgotten, and what it was ordered.
    pub(super) fn forget_attempts(&mut self, turn: &mut Turn, device: &DeviceId) {
        for subject in self
            .updates
            .attempts
            .remove(device)
            .unwrap_or_default()
            .into_keys()
        {
            turn.changes
                .push(Change::DeleteAttempt(device.clone(), subject));
        }
        self.updates.due = true;
    }

    /// Connected, let in, labelled: rollouts may go on.
    pub(super) fn updates_due(&mut self) {
        self.updates.due = true;
    }
}

/// The engine.
impl Fleet {
    /// Devices that tried something and were not heard of in time.
    pub(super) fn expire_attempts(&mut self, turn: &mut Turn) {
        let mut lost = Vec::new();
        for attempt in self.updates.attempts.values().flat_map(BTreeMap::values) {
            let AttemptState::Trying { since } = attempt.state else {
                continue;
            };
            let rollout = self.updates.rollouts.get(&attempt.rollout);
            let confirm_secs = rollout.map_or(0, |r| r.confirm_secs);
            let wait_ms = u64::from(confirm_secs) * 1_000 + GRACE_MS;
            if turn.now.0.abs_diff(since.0) >= wait_ms {
                lost.push((attempt.clone(), wait_ms / 1_000));
            }
        }
        for (attempt, secs) in lost {
            let state = AttemptState::Lost { secs };
            self.put_attempt(turn, AttemptRecord { state, ..attempt });
        }
    }

    /// Lets every rollout go on that may.
    pub(super) fn step_rollouts(&mut self, turn: &mut Turn) {
        // A step changes attempts, which makes another one due; the second
        // finds nothing new, or the bound ends it until the next event.
        for _ in 0..4 {
            if !std::mem::take(&mut self.updates.due) {
                return;
            }
            let running: Vec<RolloutRecord> = self
                .updates
                .rollouts
                .values()
                .filter(|r| r.state == RolloutState::Running)
                .cloned()
                .collect();
            self.call_back(turn);
            for rollout in running {
                self.step_rollout(turn, rollout);
            }
        }
    }

    /// An order that a device has not taken up and that nobody pursues, or
    /// whose device is away, is taken back: when many come back at once, they
    /// do not all begin at once.
    fn call_back(&mut self, turn: &mut Turn) {
        let all = self.updates.attempts.values().flat_map(BTreeMap::values);
        let idle: Vec<(DeviceId, Subject)> = all
            .filter(|a| a.state == AttemptState::Ordered)
            .filter(|a| {
                let pursued =
                    self.updates
                        .rollouts
                        .get(&a.rollout)
                        .is_some_and(|r| match r.state {
                            RolloutState::Running | RolloutState::Paused => true,
                            RolloutState::Stopped { .. }
                            | RolloutState::Complete
                            | RolloutState::Superseded => false,
                        });
                let away = self.devices.get(&a.device).is_none_or(|d| {
                    d.record.standing != Standing::Approved
                        || matches!(d.connection, super::Connection::Offline { .. })
                });
                away || !pursued
            })
            .map(|a| (a.device.clone(), a.subject))
            .collect();
        for (device, subject) in idle {
            self.take_back(turn, &device, subject);
        }
    }

    fn step_rollout(&mut self, turn: &mut Turn, rollout: RolloutRecord) {
        let subject = rollout.target.subject();
        let mut waiting = Vec::new();
        let (mut total, mut open, mut updated) = (0, 0, 0);
        let mut failed = None;
        for device in self.devices.values() {
            let name = &device.record.device;
            let is_meant = self.is_meant(device, &rollout.selector);
            total += usize::from(is_meant);
            let ours = self.updates.attempt(name, subject);
            let ours = ours.filter(|a| a.rollout == rollout.id);
            // One that got other labels meanwhile is still at it, and what it
            // says of the release is as true.
            if !is_meant && ours.is_none() {
                continue;
            }
            // Of any rollout: a device that changes its line is not there for
            // its agent's sake either.
            let is_open = self.updates.open_attempts(name).next().is_some();
            match ours.map(|a| (&a.state, a.order)) {
                _ if is_open => open += 1,
                Some((AttemptState::Confirmed, _)) => updated += usize::from(is_meant),
                Some((state, order)) if order > rollout.forgiven => {
                    failed = failed.or(state.failure().map(|why| (name.clone(), why)));
                }
                Some(_) | None if is_meant => waiting.push((name.clone(), device.is_online())),
                Some(_) | None => {}
            }
        }
        if let Some((device, why)) = failed {
            let message = format!(
                "the rollout of {} stopped: device '{device}' {why}",
                rollout.target.shown()
            );
            self.warn(turn, Some(&device), None, "RolloutStopped", message);
            let state = RolloutState::Stopped {
                device,
                reason: why,
            };
            self.set_state(turn, rollout.id, state);
            self.updates.due = true;
            return;
        }
        if updated == total && total > 0 {
            let message = format!(
                "{} is on all {total} devices of '{}'",
                rollout.target.shown(),
                rollout.selector
            );
            self.set_state(turn, rollout.id, RolloutState::Complete);
            return self.note(turn, None, None, "RolloutComplete", message);
        }
        let room = rollout.max_unavailable.of(total).saturating_sub(open);
        let next = waiting.into_iter().filter(|(_, online)| *online);
        for (device, _) in next.take(room) {
            self.order(turn, &rollout, device);
        }
    }

    fn order(&mut self, turn: &mut Turn, rollout: &RolloutRecord, device: DeviceId) {
        let report = self.devices.get(&device).and_then(Device::report);
        let runs = report.map(|r| r.facts.agent_version);
        let has_it = match &rollout.target {
            Target::Release { kind, version, .. } => {
                *kind == ReleaseKind::Agent && runs.as_ref() == Some(version)
            }
            Target::Line { .. } => false,
        };
        let order = self.updates.next_order(turn.now);
        let attempt = AttemptRecord {
            device: device.clone(),
            subject: rollout.target.subject(),
            rollout: rollout.id,
            order,
            ordered: turn.now,
            state: if has_it {
                AttemptState::Confirmed
            } else {
                AttemptState::Ordered
            },
        };
        if !has_it {
            let message = format!("is ordered to change to {}", rollout.target.shown());
            self.note(turn, Some(&device), None, "UpdateOrdered", message);
        }
        self.put_attempt(turn, attempt);
    }
}

fn no_such_release(kind: ReleaseKind, version: &str) -> Refused {
    Refused {
        kind: RefusedKind::NotFound,
        reason: "ReleaseNotFound",
        message: format!(
            "there is no release {} {version}: 'skerry release list' shows them",
            kind.as_str()
        ),
    }
}
