//! What the operator rolls out to the devices themselves, and the laws of it
//! on the hub.

use super::hub_store::HubStore;
use super::laws::{Lawful, broken};
use super::operator::Ask;
use super::software::some_line;
use super::world::World;
use skerry_hub::core::{
    AttemptRecord, AttemptState, Event, MaxUnavailable, RolloutRecord, RolloutState, Steer,
    Subject, Wish,
};
use skerry_wire::Selector;

/// Whether the device may be between two softwares.
fn is_open(attempt: &AttemptRecord) -> bool {
    matches!(
        attempt.state,
        AttemptState::Ordered | AttemptState::Trying { .. }
    )
}

/// Whether it came to nothing.
fn has_failed(attempt: &AttemptRecord) -> bool {
    matches!(
        attempt.state,
        AttemptState::Refused { .. } | AttemptState::RolledBack { .. } | AttemptState::Lost { .. }
    )
}

impl HubStore {
    /// Looked at as each attempt is committed: how many are open, and that
    /// nobody has failed before.
    pub(super) fn check_attempt(&self, new: &AttemptRecord) -> Lawful {
        if new.state != AttemptState::Ordered {
            return Ok(());
        }
        let key = (new.device.clone(), new.subject);
        if self
            .attempts
            .get(&key)
            .is_some_and(|a| a.order == new.order)
        {
            return Ok(());
        }
        let Some(rollout) = self.rollouts.get(&new.rollout) else {
            return broken("an order has its rollout", format!("{new:?}"));
        };
        if rollout.state != RolloutState::Running {
            return broken(
                "only what goes on gives orders",
                format!("{new:?} while {:?}", rollout.state),
            );
        }
        let ours = || {
            let all = self.attempts.values();
            all.filter(|a| a.rollout == rollout.id && a.device != new.device)
        };
        let failed = ours().find(|a| has_failed(a) && a.order > rollout.forgiven);
        if let Some(failed) = failed {
            return broken(
                "a rollout stops at the first that does not come back",
                format!("{new:?} after {failed:?}"),
            );
        }
        let MaxUnavailable::Count(most) = rollout.max_unavailable else {
            return Ok(());
        };
        let open = ours().filter(|a| is_open(a)).count() + 1;
        if open > most as usize {
            return broken(
                "no more devices are in flight than allowed",
                format!("{open} of rollout {}, allowed {most}", rollout.id),
            );
        }
        Ok(())
    }
}

impl World {
    /// How many devices a rollout may have in flight.
    pub(super) fn most_of(&self, rollout: u64) -> usize {
        let rollout = self.hub.store.rollouts.get(&rollout);
        match rollout.map(|r| r.max_unavailable) {
            Some(MaxUnavailable::Count(most)) => most as usize,
            Some(MaxUnavailable::Percent(_)) | None => usize::MAX,
        }
    }

    pub(super) fn count_attempt(&mut self, attempt: &AttemptRecord) {
        let what = match attempt.state {
            AttemptState::Ordered => "update ordered",
            AttemptState::Trying { .. } => "update is tried",
            AttemptState::Confirmed => "update came back",
            AttemptState::Refused { .. } => "update was refused",
            AttemptState::RolledBack { .. } => "update was undone",
            AttemptState::Lost { .. } => "update was lost",
        };
        self.count(what, || format!("{attempt:?}"));
    }

    pub(super) fn count_rollout(&mut self, rollout: &RolloutRecord) {
        let what = match rollout.state {
            RolloutState::Running => "rollout goes on",
            RolloutState::Paused => "rollout paused",
            RolloutState::Stopped { .. } => "rollout stopped",
            RolloutState::Complete => "rollout complete",
            RolloutState::Superseded => "rollout superseded",
        };
        self.count(what, || {
            format!("{} of {}", rollout.id, rollout.target.shown())
        });
    }

    /// The hub gets every release there is.
    pub(super) fn import_releases(&mut self) {
        for number in 0..self.catalog.releases.len() {
            let signed = self.catalog.releases[number].signed.clone();
            self.ask(Ask::Rollout, |request| Event::AddRelease {
                request,
                signed,
            });
        }
    }

    pub(super) fn roll_out(&mut self) {
        let selectors = ["", "", "site=a", "site!=a"];
        let selector: Selector = self.chance.pick(&selectors).parse().expect("a selector");
        let wish = if self.chance.one_in(3) {
            self.count("line rolled out", String::new);
            let (broker, tls_pin) = some_line(&mut self.chance);
            Wish::Line { broker, tls_pin }
        } else {
            self.count("release rolled out", String::new);
            let release = self.chance.pick(&self.catalog.releases);
            Wish::Release {
                kind: release.kind,
                version: release.version.clone(),
                allow_older: self.chance.one_in(2),
            }
        };
        let max_unavailable = MaxUnavailable::Count(self.chance.between(1, 2) as u32);
        let confirm_secs = self.chance.between(10, 40) as u32;
        self.ask(Ask::Rollout, |request| Event::StartRollout {
            request,
            wish,
            selector,
            max_unavailable,
            confirm_secs,
        });
    }

    pub(super) fn steer_rollout(&mut self) {
        let subjects = [Subject::Agent, Subject::Os, Subject::Line];
        let subject = *self.chance.pick(&subjects);
        let steer = *self
            .chance
            .pick(&[Steer::Pause, Steer::Resume, Steer::Resume, Steer::Undo]);
        self.count("rollout steered", || format!("{steer:?} {subject:?}"));
        self.ask(Ask::Rollout, |request| Event::SteerRollout {
            request,
            subject,
            steer,
        });
    }

    /// Why the rollouts are not at rest, if so: what goes on and has all its
    /// devices comes to an end, and no device that is there is left with an
    /// order.
    pub(super) fn unrest_of_rollouts(&self) -> Option<String> {
        let store = &self.hub.store;
        let there = |device: &skerry_wire::DeviceId| {
            let mut hosts = self.devices.iter();
            hosts.any(|h| h.name.as_ref() == Some(device) && self.is_member(h))
        };
        for attempt in store.attempts.values() {
            if is_open(attempt) && there(&attempt.device) {
                return Some(format!("{attempt:?}"));
            }
        }
        let goes_on = store.rollouts.values().find(|rollout| {
            let meant = store.devices.values().filter(|d| {
                d.standing == skerry_hub::core::Standing::Approved
                    && rollout.selector.matches(&d.labels)
            });
            let meant: Vec<_> = meant.collect();
            rollout.state == RolloutState::Running
                && !meant.is_empty()
                && meant.iter().all(|d| there(&d.device))
        });
        goes_on.map(|r| format!("rollout {} of {} goes on", r.id, r.target.shown()))
    }
}
