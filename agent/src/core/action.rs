//! One thing to do, as the plan says it, and what that makes of the ledger.

use super::ledger::{Entry, Ledger, Phase, StopCause};
use super::name::InstanceName;
use crate::runtime::ContainerId;
use skerry_wire::report::ExitStatus;
use skerry_wire::{AppRef, Assignment, ContainerName, ImageRef, RestartPolicy, RevisionId};

/// A kill that had no effect is repeated after so many milliseconds.
pub const KILL_AGAIN_MS: u64 = 10_000;

/// One thing to do. Those without a container change the ledger only.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Get an image.
    FetchImage(ImageRef),
    /// This container is the newest incarnation of what shall run, but the
    /// ledger does not know it (it was lost): take it over as it is.
    Adopt {
        /// The ledger's new entry.
        entry: Entry,
    },
    /// Start the next incarnation.
    Create {
        /// The ledger's entry, started.
        entry: Entry,
        /// What of.
        assignment: Box<Assignment>,
        /// Which container of its pod, as an index of all of them.
        container: usize,
    },
    /// It ended: note how, decide about the next start, take it down.
    Settle {
        /// Which instance.
        instance: InstanceName,
        /// Which container.
        id: ContainerId,
        /// How it ended.
        exit: ExitStatus,
        /// What the restart policy makes of it; `None` for what shall not run
        /// any more.
        policy: Option<RestartPolicy>,
    },
    /// The ledger says that it runs, but there is nothing: it never started.
    Vanished {
        /// Which instance.
        instance: InstanceName,
    },
    /// Ask it to stop.
    Stop {
        /// Which instance; `None` for a stray.
        instance: Option<InstanceName>,
        /// Which container.
        id: ContainerId,
        /// When it is killed, in milliseconds since boot.
        kill_at_ms: u64,
        /// Why.
        cause: StopCause,
    },
    /// Kill it.
    Kill {
        /// Which instance; `None` for a stray.
        instance: Option<InstanceName>,
        /// Which container.
        id: ContainerId,
    },
    /// Take down what is left of it.
    Remove {
        /// Which container.
        id: ContainerId,
    },
    /// It was stopped, but shall run after all: it may start again.
    Reset {
        /// Which instance.
        instance: InstanceName,
    },
    /// It is gone and shall not come back.
    Forget {
        /// Which instance.
        instance: InstanceName,
        /// No revision has this container any more: its log goes too.
        with_log: Option<(AppRef, ContainerName)>,
        /// It was the last of its revision.
        with_scratch: Option<(AppRef, RevisionId)>,
    },
}

/// What an action makes of the ledger. The exit that a stopped container had
/// is kept only as long as its entry.
pub fn apply(now_ms: u64, ledger: &mut Ledger, action: &Action) {
    let mut change = |name: &InstanceName, change: &dyn Fn(&mut Entry)| {
        if let Some(entry) = ledger.get_mut(name) {
            change(entry);
        }
    };
    match action {
        Action::Adopt { entry } | Action::Create { entry, .. } => {
            ledger.insert(entry.name(), entry.clone());
        }
        Action::Settle {
            instance,
            exit,
            policy,
            ..
        } => change(instance, &|entry| match policy {
            Some(policy) => entry.ended(now_ms, *policy, *exit),
            None => entry.last_exit = Some(*exit),
        }),
        Action::Vanished { instance } => change(instance, &|entry| {
            entry.starts = entry.starts.saturating_sub(1);
            entry.phase = Phase::Ready;
        }),
        Action::Stop {
            instance: Some(instance),
            kill_at_ms,
            cause,
            ..
        } => change(instance, &|entry| entry.stop(now_ms, *kill_at_ms, *cause)),
        Action::Kill {
            instance: Some(instance),
            ..
        } => change(instance, &|entry| {
            entry.killed(now_ms.saturating_add(KILL_AGAIN_MS));
        }),
        Action::Reset { instance } => change(instance, &|entry| entry.phase = Phase::Ready),
        Action::Forget { instance, .. } => {
            ledger.remove(instance);
        }
        Action::FetchImage(_)
        | Action::Stop { instance: None, .. }
        | Action::Kill { instance: None, .. }
        | Action::Remove { .. } => {}
    }
}
