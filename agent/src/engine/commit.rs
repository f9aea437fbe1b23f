//! Commits, and what is done while the disk does not take it.

use super::run::Engine;
use crate::chain::chain;
use crate::core::{Change, Event};
use crate::doctor::DATA_DIR_UNWRITABLE;
use crate::machine::Machine;
use crate::notify;
use crate::runtime::ContainerId;
use crate::store::Reopened;
use crate::volatile;
use smol::Timer;
use std::collections::VecDeque;
use std::mem::discriminant;
use std::time::Duration;

/// Pause before a store that failed is written again, while nothing else can
/// go on.
const STORE_AGAIN: Duration = Duration::from_secs(5);
/// The same in milliseconds, while everything else goes on.
const SAVE_AGAIN_MS: u64 = 30_000;
/// Ends that the runtime keeps for us meanwhile: a small file each.
const MAX_ENDS: usize = 1_000;

/// What a full or broken disk has not taken yet. Bounded: there is one change
/// for each record at most.
#[derive(Debug, Default)]
pub(super) struct Unsaved {
    changes: Vec<Change>,
    /// Containers whose end is only in these changes: the runtime must not
    /// forget it before they are on the disk.
    ends: VecDeque<ContainerId>,
    again_at_ms: Option<u64>,
}

/// Whether apps may go on while this is not on the disk. What is lost with it
/// at the next start is found out again: the ledger from what the runtime
/// lists, the boot from the kernel, and an app whose images are all here does
/// not need its previous revision. A change of a revision is begun again, or
/// fails again. The count of starts is for messages only.
pub(super) fn may_wait(change: &Change) -> bool {
    match change {
        Change::Ledger(..)
        | Change::Boot(..)
        | Change::Previous(_, None)
        | Change::Replacing(..) => true,
        // What is lost of it is done once more: less harm than apps that wait.
        Change::Work(..) => true,
        // There is no line before it is on the disk.
        Change::Starts(_) => true,
        Change::Previous(_, Some(_))
        | Change::Desired(..)
        | Change::Kept(..)
        | Change::Carried(..)
        | Change::Revoked
        | Change::Update(..)
        | Change::Line { .. } => false,
    }
}

/// Whether both are of one record.
fn same_record(a: &Change, b: &Change) -> bool {
    match (a, b) {
        (Change::Ledger(a, _), Change::Ledger(b, _)) => a == b,
        (Change::Previous(a, _), Change::Previous(b, _))
        | (Change::Replacing(a, _), Change::Replacing(b, _)) => a == b,
        (Change::Carried(a, _), Change::Carried(b, _)) => a == b,
        (Change::Update(a, _), Change::Update(b, _)) => a == b,
        (Change::Work(a, _), Change::Work(b, _)) => a == b,
        (a, b) => discriminant(a) == discriminant(b),
    }
}

impl Unsaved {
    /// Adds newer changes: those of the same records give way.
    pub(super) fn add(&mut self, changes: Vec<Change>) {
        self.changes
            .retain(|old| !changes.iter().any(|new| same_record(old, new)));
        self.changes.extend(changes);
    }

    fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether the count of starts waits: no message may leave before it does
    /// not.
    pub(super) fn has_starts(&self) -> bool {
        self.changes.iter().any(|c| matches!(c, Change::Starts(_)))
    }

    /// When to try again, in milliseconds since boot.
    pub(super) fn again_at_ms(&self) -> Option<u64> {
        self.again_at_ms
    }

    /// Which end the runtime may forget now, if this one is handled.
    pub(super) fn end(&mut self, id: ContainerId) -> Option<ContainerId> {
        if self.is_empty() {
            return Some(id);
        }
        self.ends.push_back(id);
        if self.ends.len() > MAX_ENDS {
            return self.ends.pop_front();
        }
        None
    }

    /// All is on the disk: which ends the runtime may forget.
    fn saved(&mut self) -> VecDeque<ContainerId> {
        self.again_at_ms = None;
        std::mem::take(&mut self.ends)
    }
}

impl<M: Machine> Engine<M> {
    /// Commits, whatever it takes. Changes that may wait wait for a disk that
    /// works again: apps do not wait for them.
    pub(super) async fn commit(&mut self, changes: Vec<Change>) {
        self.unsaved.add(changes);
        if self.unsaved.is_empty() {
            return;
        }
        loop {
            let changes = std::mem::take(&mut self.unsaved.changes);
            let store = self.store.take().expect("only taken while committing");
            let (store, changes, result) = smol::unblock(move || {
                let result = store.commit(&changes);
                (store, changes, result)
            })
            .await;
            let Err(error) = result else {
                self.store = Some(store);
                for id in self.unsaved.saved() {
                    self.forget_exit(id);
                }
                return;
            };
            let text = chain(&error);
            let can_wait = changes.iter().all(may_wait);
            self.unsaved.changes = changes;
            // redb takes no more after a failed write: open it anew.
            let (store, reopened) = smol::unblock(move || store.reopen()).await;
            self.store = Some(store);
            match reopened {
                Ok(Reopened::Memory) => {
                    self.tell_of_memory();
                    // It takes them now.
                    continue;
                }
                Ok(Reopened::Same) => tracing::error!("{text}: is the disk full?"),
                Err(error) => tracing::error!("{text}; {}", chain(&error)),
            }
            if can_wait {
                let now_ms = self.setup.clock.now().boot_ms;
                let again_at_ms = now_ms.saturating_add(SAVE_AGAIN_MS);
                if self.unsaved.again_at_ms.replace(again_at_ms).is_none() {
                    let message = format!("{text}; apps go on, but restarts are not remembered");
                    self.find_out(async move {
                        Event::Trouble {
                            reason: "StoreFailed",
                            message,
                        }
                    });
                }
                return;
            }
            notify::alive();
            Timer::after(STORE_AGAIN).await;
        }
    }
}

impl<M: Machine> Engine<M> {
    /// The disk takes no writes any more: that is an event, and a condition.
    fn tell_of_memory(&mut self) {
        let store = self.store.as_ref().expect("only taken while committing");
        let message = volatile::told(store.dir());
        let reason = DATA_DIR_UNWRITABLE;
        self.find_out(async move { Event::Trouble { reason, message } });
        self.look_at_ms = self.setup.clock.now().boot_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::ledger::{Entry, StopPlan};
    use skerry_wire::{AppRef, Digest, RevisionId};

    fn entry(incarnation: u32) -> Change {
        let app = AppRef {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
        };
        let revision = RevisionId(Digest::of(b"1"));
        let mut entry = Entry::new(app, revision, "main".parse().unwrap(), StopPlan::default());
        entry.incarnation = incarnation;
        Change::Ledger(entry.name(), Some(entry))
    }

    #[test]
    fn what_waits_for_the_disk_does_not_grow_with_restarts() {
        let mut unsaved = Unsaved::default();
        for n in 1..100 {
            unsaved.add(vec![entry(n), Change::Boot(n.to_string(), 1)]);
        }
        assert_eq!(unsaved.changes, [entry(99), Change::Boot("99".into(), 1)]);
        assert!(unsaved.changes.iter().all(may_wait), "apps start at boot");
    }

    #[test]
    fn an_end_is_forgotten_once_it_is_on_the_disk() {
        let id = |n: usize| ContainerId::new(format!("a.{n}")).unwrap();
        let mut unsaved = Unsaved::default();
        assert_eq!(unsaved.end(id(1)), Some(id(1)));
        unsaved.add(vec![entry(2)]);
        for n in 0..MAX_ENDS {
            assert_eq!(unsaved.end(id(n)), None);
        }
        assert_eq!(unsaved.end(id(MAX_ENDS)), Some(id(0)));
        assert_eq!(unsaved.saved().len(), MAX_ENDS);
        assert_eq!(unsaved.saved().len(), 0);
    }
}
