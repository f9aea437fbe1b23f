//! What devices say of their orders.

use crate::core::record::{AttemptRecord, AttemptState, Change, Subject};
use crate::core::{Fleet, Turn};
use skerry_wire::DeviceId;
use skerry_wire::update::{UpdateState, UpdateStatus};
use std::collections::BTreeMap;

/// Longest reason of a device that is kept, in characters.
const MAX_REASON_CHARS: usize = 400;
/// No device makes us count on from a greater number: so many are left that none
/// brings the count to its end.
const MAX_ORDER: u64 = u64::MAX - u32::MAX as u64;

impl Fleet {
    /// Whether the device is about to try what this hub does not mean (any
    /// more): then it must not hear that its report is committed.
    pub(in crate::core) fn tries_unordered(
        &self,
        device: &DeviceId,
        updates: &[UpdateStatus],
    ) -> bool {
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
    pub(in crate::core) fn updates_reported(
        &mut self,
        turn: &mut Turn,
        name: &DeviceId,
        updates: &[UpdateStatus],
    ) {
        self.count_on(turn, name, updates);
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
            let ended = match (&attempt.state, &update.state) {
                (AttemptState::Ordered | AttemptState::Trying { .. }, _)
                | (AttemptState::Lost { .. }, _) => false,
                // It was well, and then did not stay: the others are not to
                // follow it.
                (AttemptState::Confirmed, UpdateState::RolledBack { .. }) => false,
                (
                    AttemptState::Confirmed
                    | AttemptState::Refused { .. }
                    | AttemptState::RolledBack { .. },
                    _,
                ) => true,
            };
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

    /// A device knows of a later order than this hub, which came from a backup
    /// while its clock is behind: what it was ordered since then has a number
    /// that it will not begin any more.
    fn count_on(&mut self, turn: &mut Turn, name: &DeviceId, updates: &[UpdateStatus]) {
        let known = updates.iter().map(|update| update.order);
        let Some(newest) = known.filter(|order| *order <= MAX_ORDER).max() else {
            return;
        };
        self.updates.last_order = self.updates.last_order.max(newest);
        // One at a time is ordered of a device: a later one is not of this hub.
        let ordered = self.updates.open_attempts(name);
        let ordered = ordered.filter(|a| a.state == AttemptState::Ordered && a.order < newest);
        let subjects: Vec<Subject> = ordered.map(|a| a.subject).collect();
        for subject in subjects {
            // It gets another, with a number above.
            self.take_back(turn, name, subject);
        }
    }

    pub(super) fn put_attempt(&mut self, turn: &mut Turn, attempt: AttemptRecord) {
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
    pub(super) fn withdraw(&mut self, turn: &mut Turn, rollout: u64) {
        let all = self.updates.attempts.values().flat_map(BTreeMap::values);
        let taken: Vec<(DeviceId, Subject)> = all
            .filter(|a| a.rollout == rollout && a.state == AttemptState::Ordered)
            .map(|a| (a.device.clone(), a.subject))
            .collect();
        for (device, subject) in taken {
            self.take_back(turn, &device, subject);
        }
    }

    pub(super) fn take_back(&mut self, turn: &mut Turn, device: &DeviceId, subject: Subject) {
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
    pub(in crate::core) fn forget_attempts(&mut self, turn: &mut Turn, device: &DeviceId) {
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
    pub(in crate::core) fn updates_due(&mut self) {
        self.updates.due = true;
    }
}
