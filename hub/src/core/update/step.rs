//! How rollouts go on.

use crate::core::record::{
    AttemptRecord, AttemptState, RolloutRecord, RolloutState, Standing, Subject, Target,
};
use crate::core::{Device, Fleet, Turn};
use skerry_wire::update::ReleaseKind;
use skerry_wire::{DeviceId, Selector};
use std::collections::BTreeMap;

/// A device may be so much later than its time to confirm, in milliseconds:
/// it must end the trial, start again and connect. A board boots twice in it.
const GRACE_MS: u64 = 3 * 60 * 1_000;

impl Fleet {
    /// Devices that tried something and were not heard of in time.
    pub(in crate::core) fn expire_attempts(&mut self, turn: &mut Turn) {
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
    pub(in crate::core) fn step_rollouts(&mut self, turn: &mut Turn) {
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
    pub(super) fn call_back(&mut self, turn: &mut Turn) {
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
                        || matches!(d.connection, crate::core::Connection::Offline { .. })
                });
                away || !pursued
            })
            .map(|a| (a.device.clone(), a.subject))
            .collect();
        for (device, subject) in idle {
            self.take_back(turn, &device, subject);
        }
    }

    pub(super) fn step_rollout(&mut self, turn: &mut Turn, rollout: RolloutRecord) {
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
                    failed = failed.or(state.failure(subject).map(|why| (name.clone(), why)));
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
            let (shown, selector) = (rollout.target.shown(), &rollout.selector);
            let message = match *selector == Selector::default() {
                true => format!("{shown} is on all devices ({total})"),
                false => format!("{shown} is on all devices of '{selector}' ({total})"),
            };
            self.set_state(turn, rollout.id, RolloutState::Complete);
            return self.note(turn, None, None, "RolloutComplete", message);
        }
        let room = rollout.max_unavailable.of(total).saturating_sub(open);
        let next = waiting.into_iter().filter(|(_, online)| *online);
        for (device, _) in next.take(room) {
            self.order(turn, &rollout, device);
        }
    }

    pub(super) fn order(&mut self, turn: &mut Turn, rollout: &RolloutRecord, device: DeviceId) {
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
