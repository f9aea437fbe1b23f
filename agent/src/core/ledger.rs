//! What we did, and when we may do it again. Kept in the store, so it says
//! what was decided, not what the machine did of it.
//!
//! ```text
//!            create              exit, policy says so
//!   Ready ─────────► Running ────────────────────────► BackOff ──► Running
//!                       │ │ exit, policy says no           (create)
//!                       │ └──────────────────────────► Ended
//!                       │ stop
//!                       └────► Stopping ──► leaving: entry gone, or Ready if wanted again
//!                                           unwell: as at an exit that was a failure
//!                                           finished: Ended
//! ```

use super::name::InstanceName;
use crate::runtime;
use serde::{Deserialize, Serialize};
use skerry_wire::probe::Hook;
use skerry_wire::report::ExitStatus;
use skerry_wire::{AppRef, Assignment, ContainerName, Digest, RestartPolicy, RevisionId, Role};
use std::collections::BTreeMap;

/// The wait before the first restart, in milliseconds.
const BACKOFF_FIRST_MS: u64 = 1_000;
/// The longest wait: Kubernetes' figure. Costs at most 288 starts a day.
pub const BACKOFF_CAP_MS: u64 = 5 * 60 * 1_000;
/// A container that ran this long starts over with the first wait.
const BACKOFF_RESET_MS: u64 = 10 * 60 * 1_000;
/// Characters of a failure's text that are kept.
const MAX_SETBACK_CHARS: usize = 400;

/// What we did.
pub type Ledger = BTreeMap<InstanceName, Entry>;

/// What we did for one instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which app.
    pub app: AppRef,
    /// Which revision of it.
    pub revision: RevisionId,
    /// Which container of its pod.
    pub container: ContainerName,
    /// How it is stopped.
    pub stop: StopPlan,
    /// Number of the newest incarnation; 0 before the first.
    pub incarnation: u32,
    /// How often it was started.
    pub starts: u32,
    /// Ends and failed starts in a row: what the wait grows with.
    pub failures: u32,
    /// How it ended the last time.
    pub last_exit: Option<ExitStatus>,
    /// Where it is.
    pub phase: Phase,
}

/// How an instance is stopped: kept here because its assignment may be gone
/// when that is needed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopPlan {
    /// Seconds between the beginning of the stop and the kill.
    pub grace_secs: u32,
    /// It stops when nothing of its pod with a lower rank runs any more: 0 for
    /// all but sidecars, the first sidecar has the highest.
    pub rank: u16,
    /// What is done before the stop signal.
    pub pre_stop: Option<Box<Hook>>,
    /// Apps that stop after it.
    pub depends_on: Vec<AppRef>,
}

impl StopPlan {
    /// How this container of the pod is stopped.
    pub fn of(assignment: &Assignment, index: usize) -> Self {
        let pod = &assignment.pod;
        let rank = match pod.role(index) {
            Role::Main | Role::Init => 0,
            Role::Sidecar => pod.init_containers.len().saturating_sub(index),
        };
        Self {
            grace_secs: pod.termination_grace_secs,
            rank: u16::try_from(rank).unwrap_or(u16::MAX),
            pre_stop: pod.container(index).and_then(|c| c.pre_stop.clone()),
            depends_on: assignment
                .policy
                .depends_on
                .iter()
                .map(|d| d.app.clone())
                .collect(),
        }
    }
}

/// Why an instance was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopCause {
    /// Nobody wants it any more.
    Leaving,
    /// A probe or hook failed: its restart policy counts.
    Unwell,
    /// What it served has ended for good.
    Finished,
}

/// Where an instance is, as far as we acted. Times are of the boot clock of
/// the boot that the store names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// May start at once.
    Ready,
    /// Was told to start.
    Running {
        /// When, in milliseconds since boot.
        since_ms: u64,
    },
    /// Starts again later.
    BackOff {
        /// When, in milliseconds since boot.
        until_ms: u64,
        /// The whole wait, in milliseconds.
        delay_ms: u64,
        /// Why it does not run.
        why: Setback,
    },
    /// Stays ended by its restart policy.
    Ended,
    /// Was told to stop.
    Stopping {
        /// When it is killed (again), in milliseconds since boot.
        kill_at_ms: u64,
        /// Milliseconds that it had run by then.
        ran_ms: u64,
        /// Why.
        cause: StopCause,
    },
}

/// Why an instance does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setback {
    /// It ended.
    Exited,
    /// It could not be started, and why.
    CreateFailed(String),
}

impl Entry {
    /// An entry for an instance that was never started.
    pub fn new(
        app: AppRef,
        revision: RevisionId,
        container: ContainerName,
        stop: StopPlan,
    ) -> Self {
        Self {
            app,
            revision,
            container,
            stop,
            incarnation: 0,
            starts: 0,
            failures: 0,
            last_exit: None,
            phase: Phase::Ready,
        }
    }

    /// The name of the instance that this is about.
    pub fn name(&self) -> InstanceName {
        InstanceName::new(&self.app, self.revision, &self.container)
    }

    /// A new incarnation is told to start.
    pub fn start(&mut self, now_ms: u64) {
        self.incarnation = self.incarnation.saturating_add(1);
        self.starts = self.starts.saturating_add(1);
        self.phase = Phase::Running { since_ms: now_ms };
    }

    /// The newest incarnation ended.
    pub fn ended(&mut self, now_ms: u64, policy: RestartPolicy, exit: ExitStatus) {
        self.last_exit = Some(exit);
        let (ran_ms, cause) = match self.phase {
            Phase::Running { since_ms } => (now_ms.saturating_sub(since_ms), None),
            Phase::Stopping { ran_ms, cause, .. } => (ran_ms, Some(cause)),
            Phase::Ready | Phase::BackOff { .. } | Phase::Ended => (0, None),
        };
        if ran_ms >= BACKOFF_RESET_MS {
            self.failures = 0;
        }
        let again = match cause {
            // However politely it ended, it was not well.
            Some(StopCause::Unwell) => policy != RestartPolicy::Never,
            Some(StopCause::Finished) => false,
            Some(StopCause::Leaving) | None => restarts(policy, exit),
        };
        if again {
            self.set_back(now_ms, Setback::Exited);
        } else {
            self.phase = Phase::Ended;
        }
    }

    /// The newest incarnation is told to stop.
    pub fn stop(&mut self, now_ms: u64, kill_at_ms: u64, cause: StopCause) {
        let ran_ms = match self.phase {
            Phase::Running { since_ms } => now_ms.saturating_sub(since_ms),
            Phase::Stopping { ran_ms, .. } => ran_ms,
            Phase::Ready | Phase::BackOff { .. } | Phase::Ended => 0,
        };
        self.phase = Phase::Stopping {
            kill_at_ms,
            ran_ms,
            cause,
        };
    }

    /// It was killed, and is killed again at this time if that has no effect.
    pub fn killed(&mut self, again_at_ms: u64) {
        match &mut self.phase {
            Phase::Stopping { kill_at_ms, .. } => *kill_at_ms = again_at_ms,
            Phase::Ready | Phase::Running { .. } | Phase::BackOff { .. } | Phase::Ended => {}
        }
    }

    /// The newest incarnation could not be started.
    pub fn create_failed(&mut self, now_ms: u64, why: &str) {
        self.starts = self.starts.saturating_sub(1);
        let why = why.chars().take(MAX_SETBACK_CHARS).collect();
        self.set_back(now_ms, Setback::CreateFailed(why));
    }

    fn set_back(&mut self, now_ms: u64, why: Setback) {
        let delay_ms = backoff_ms(self.failures, &self.name());
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::BackOff {
            until_ms: now_ms.saturating_add(delay_ms),
            delay_ms,
            why,
        };
    }

    /// The machine was started anew: nothing runs, no time of the old boot
    /// means anything. `policy` is `None` for what shall not run any more.
    pub fn rebooted(&mut self, policy: Option<RestartPolicy>) {
        self.failures = 0;
        match self.phase {
            Phase::Running { .. } => {
                self.last_exit = Some(ExitStatus::Unknown);
                self.phase = match policy {
                    Some(policy) if !restarts(policy, ExitStatus::Unknown) => Phase::Ended,
                    Some(_) | None => Phase::Ready,
                };
            }
            Phase::BackOff { .. } | Phase::Stopping { .. } => self.phase = Phase::Ready,
            Phase::Ready | Phase::Ended => {}
        }
    }
}

/// The restart policy of a container that ended so: an init container runs
/// until it succeeds, unless nothing of the pod shall run twice; a sidecar
/// always runs. That a power cut or a lost keeper ended an init container is no
/// failure of it, and what comes after it has not begun.
pub fn restart_policy(assignment: &Assignment, index: usize, exit: ExitStatus) -> RestartPolicy {
    let policy = assignment.pod.restart_policy;
    match (assignment.pod.role(index), policy) {
        (Role::Main, policy) => policy,
        (Role::Sidecar, _) => RestartPolicy::Always,
        (Role::Init, RestartPolicy::Never) if exit != ExitStatus::Unknown => RestartPolicy::Never,
        (Role::Init, RestartPolicy::Never) => RestartPolicy::OnFailure,
        (Role::Init, RestartPolicy::Always | RestartPolicy::OnFailure) => RestartPolicy::OnFailure,
    }
}

/// Whether a container that ended so starts again.
pub fn restarts(policy: RestartPolicy, exit: ExitStatus) -> bool {
    match policy {
        RestartPolicy::Always => true,
        RestartPolicy::OnFailure => !exit.is_success(),
        RestartPolicy::Never => false,
    }
}

/// The wait after `failures` earlier ones: doubling, capped, and up to a
/// quarter shorter by a jitter that is the same whenever it is asked for.
fn backoff_ms(failures: u32, name: &InstanceName) -> u64 {
    // 2^20 times the first wait is far beyond the cap.
    let factor = 1u64 << failures.min(20);
    let whole = BACKOFF_FIRST_MS.saturating_mul(factor).min(BACKOFF_CAP_MS);
    let hash = Digest::of(format!("{name} {failures}").as_bytes());
    let hash = u64::from(u32::from_le_bytes(
        hash.as_bytes()[..4].try_into().expect("four bytes"),
    ));
    whole - hash % (whole / 4)
}

/// How the runtime's word for an end is said to the hub.
pub fn exit_status(exit: &runtime::Exit) -> ExitStatus {
    if exit.oom_killed {
        return ExitStatus::OutOfMemory;
    }
    match exit.status {
        runtime::ExitStatus::Code(code) => ExitStatus::Code(code),
        runtime::ExitStatus::Signal(signal) => ExitStatus::Signal(signal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> Entry {
        let app = AppRef {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
        };
        Entry::new(
            app,
            RevisionId(Digest::of(b"1")),
            "web".parse().unwrap(),
            StopPlan::default(),
        )
    }

    #[test]
    fn waits_double_up_to_the_cap_and_start_over_after_a_long_run() {
        let mut entry = entry();
        let mut last = 0;
        for n in 0..12 {
            entry.start(0);
            entry.ended(1, RestartPolicy::Always, ExitStatus::Code(1));
            let Phase::BackOff { delay_ms, .. } = entry.phase else {
                panic!("{n}: {:?}", entry.phase);
            };
            assert!(delay_ms >= last || delay_ms > BACKOFF_CAP_MS * 3 / 4, "{n}");
            last = delay_ms;
        }
        assert!(last > BACKOFF_CAP_MS * 3 / 4);
        entry.start(0);
        entry.ended(BACKOFF_RESET_MS, RestartPolicy::Always, ExitStatus::Code(1));
        assert!(matches!(entry.phase, Phase::BackOff { delay_ms, .. } if delay_ms <= 1000));
    }

    #[test]
    fn policies_say_who_starts_again() {
        use ExitStatus::*;
        for (policy, exit, again) in [
            (RestartPolicy::Always, Code(0), true),
            (RestartPolicy::OnFailure, Code(0), false),
            (RestartPolicy::OnFailure, Code(3), true),
            (RestartPolicy::OnFailure, OutOfMemory, true),
            (RestartPolicy::OnFailure, Unknown, true),
            (RestartPolicy::Never, Signal(9), false),
        ] {
            assert_eq!(restarts(policy, exit), again, "{policy:?} {exit:?}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_is_zero_or_above_the_cap(failures: u32) {
            let wait = backoff_ms(failures, &entry().name());
            prop_assert!((BACKOFF_FIRST_MS * 3 / 4..=BACKOFF_CAP_MS).contains(&wait));
        }
    }
}
