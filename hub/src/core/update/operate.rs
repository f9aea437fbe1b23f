//! What operators do to rollouts.

use super::releases::no_such_release;
use super::{Steer, Wish, compare_versions};
use crate::core::record::{Change, MaxUnavailable, RolloutRecord, RolloutState, Subject, Target};
use crate::core::{Answer, Fleet, Refused, RefusedKind, RequestId, Turn, refused};
use skerry_wire::Selector;
use skerry_wire::update::{ReleaseKind, UpdateOrder};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Rollouts that are remembered; the oldest that came to an end gives way.
const MAX_ROLLOUTS: usize = 100;

impl Fleet {
    pub(in crate::core) fn start_rollout(
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

    pub(super) fn target_of(&self, wish: Wish, selector: &Selector) -> Result<Target, Refused> {
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
    pub(super) fn refuse_older(&self, version: &str, selector: &Selector) -> Result<(), Refused> {
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

    pub(super) fn begin(
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
                message: match selector == Selector::default() {
                    true => "there are no devices yet: 'skerry get devices' shows them".into(),
                    false => format!(
                        "no device matches '{selector}': 'skerry get devices' shows their labels"
                    ),
                },
            });
        }
        let subject = target.subject();
        // One that stopped has come to its end, and its reason stays to be read.
        let goes_on = |r: &&RolloutRecord| match r.state {
            RolloutState::Running | RolloutState::Paused => r.target.subject() == subject,
            RolloutState::Stopped { .. } | RolloutState::Complete | RolloutState::Superseded => {
                false
            }
        };
        let others = self.updates.rollouts.values().filter(goes_on);
        let others: Vec<u64> = others.map(|r| r.id).collect();
        for id in others {
            self.set_state(turn, id, RolloutState::Superseded);
        }
        let id = self
            .updates
            .rollouts
            .keys()
            .next_back()
            .map_or(1, |id| id + 1);
        let shown = target.shown();
        let message = match selector == Selector::default() {
            true => format!("{shown} is rolled out to all devices"),
            false => format!("{shown} is rolled out to '{selector}'"),
        };
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

    pub(super) fn forget_old_rollouts(&mut self, turn: &mut Turn) {
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

    pub(in crate::core) fn steer_rollout(
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
            (Steer::Pause, RolloutState::Paused) => {}
            (Steer::Pause, RolloutState::Stopped { device, .. }) => {
                let message = format!(
                    "the rollout of {shown} stopped by itself, at device '{device}': no further device gets it"
                );
                let no = refused(RefusedKind::Conflict, "RolloutStopped", message);
                return turn.answer(request, no);
            }
            (Steer::Resume, RolloutState::Running) => {}
            (Steer::Resume, RolloutState::Paused | RolloutState::Stopped { .. }) => {
                // What failed during a pause nobody has been told of: it stops.
                let has_stopped = matches!(rollout.state, RolloutState::Stopped { .. });
                if let Some(rollout) = self.updates.rollouts.get_mut(&id)
                    && has_stopped
                {
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

    /// The newest other thing that was rolled out before to the same devices,
    /// and that none failed at. Going back is what the operator orders with
    /// this very word.
    pub(super) fn undo(
        &mut self,
        turn: &mut Turn,
        rollout: &RolloutRecord,
    ) -> Result<u64, Refused> {
        let subject = rollout.target.subject();
        // By how it ended the last time; one that was taken back says nothing.
        let failed = |target: &Target| {
            let of_it = self.updates.rollouts.values().rev();
            let mut of_it = of_it.filter(|r| r.target == *target);
            of_it.find_map(|r| match r.state {
                RolloutState::Stopped { .. } => Some(true),
                RolloutState::Complete => Some(false),
                RolloutState::Running | RolloutState::Paused | RolloutState::Superseded => {
                    // Resumed after it had stopped.
                    (r.forgiven > 0).then_some(true)
                }
            }) == Some(true)
        };
        // What others had is nothing that these could go back to.
        let was_for_all = |before: &RolloutRecord| {
            let mut devices = self.devices_of(&rollout.selector);
            devices.all(|device| self.is_meant(device, &before.selector))
        };
        let before = self.updates.rollouts.values().rev().find(|r| {
            r.id < rollout.id
                && r.target.subject() == subject
                && r.target != rollout.target
                && !failed(&r.target)
                && was_for_all(r)
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
            message: format!(
                "this hub rolled out nothing before it to these devices that none failed at: {remedy}"
            ),
        })
    }

    /// What was deleted cannot be gone back to: its bytes are gone.
    pub(super) fn still_here(&self, target: &Target) -> Result<(), Refused> {
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

    pub(super) fn set_state(&mut self, turn: &mut Turn, id: u64, state: RolloutState) {
        if let Some(rollout) = self.updates.rollouts.get_mut(&id) {
            rollout.state = state;
            rollout.changed = turn.now;
            turn.changes
                .push(Change::PutRollout(Box::new(rollout.clone())));
        }
    }
}
