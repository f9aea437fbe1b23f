//! In which order the containers of a pod start: init containers one after the
//! other, each when those before it are done, then the main ones. Once a main
//! container was started, the pod is past that, until the machine starts anew.

use super::ledger::{Entry, Phase};
use skerry_wire::{PodSpec, Role};

/// How far a pod is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// A main container was started in this boot, or all have ended for good.
    pub begun: bool,
    /// All main containers have ended for good.
    pub finished: bool,
    /// The first init container that is not done; their count when all are.
    pub frontier: usize,
    inits: usize,
}

impl Order {
    /// How far the pod is, given the ledger's entry of each of its containers
    /// and whether it has come up.
    pub fn of<'a>(
        pod: &PodSpec,
        entry: impl Fn(usize) -> Option<&'a Entry>,
        started: impl Fn(usize) -> bool,
    ) -> Order {
        let inits = pod.init_containers.len();
        let phase = |index: usize| entry(index).map(|entry| &entry.phase);
        let mut mains = (inits..inits + pod.containers.len()).map(phase);
        let finished = mains
            .clone()
            .all(|phase| matches!(phase, Some(Phase::Ended)));
        let begun = mains.any(|phase| match phase {
            Some(Phase::Running { .. } | Phase::BackOff { .. } | Phase::Stopping { .. }) => true,
            Some(Phase::Ready | Phase::Ended) | None => false,
        });
        let done = |index: usize| match pod.role(index) {
            Role::Sidecar => started(index),
            Role::Init | Role::Main => entry(index).is_some_and(|entry| {
                let good = entry.last_exit.is_some_and(|exit| exit.is_success());
                entry.phase == Phase::Ended && good
            }),
        };
        Order {
            begun: begun || finished,
            finished,
            frontier: (0..inits).find(|index| !done(*index)).unwrap_or(inits),
            inits,
        }
    }

    /// Whether this container may start now.
    pub fn may_start(&self, role: Role, index: usize) -> bool {
        match role {
            Role::Main => self.begun || self.frontier == self.inits,
            Role::Init => !self.begun && index == self.frontier,
            Role::Sidecar if self.begun => !self.finished,
            Role::Sidecar => index <= self.frontier,
        }
    }
}
