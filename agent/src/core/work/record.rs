//! What is kept of a job and of its runs.

use super::cron::CronRecord;
use super::job::rests;
use crate::core::event::Now;
use crate::core::ledger::Ledger;
use serde::{Deserialize, Serialize};
use skerry_wire::report::JobOutcome;
use skerry_wire::{Assignment, Digest, RevisionId, Timestamp};
use std::collections::BTreeSet;

/// What is kept of one job, or one CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRecord {
    /// Whose runs these are.
    pub revision: RevisionId,
    /// Runs so far: the number of the newest.
    pub count: u32,
    /// Oldest first: of a job the only one; of a CronJob those that have not
    /// ended, and the newest that has.
    pub runs: Vec<Run>,
    /// Of a CronJob.
    pub cron: Option<CronRecord>,
}

/// One run of a job. Times in milliseconds are of the boot clock of the boot
/// that the store names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// From 1, rises for the life of the app on this device.
    pub number: u32,
    /// When a CronJob wanted it.
    pub due: Option<Timestamp>,
    /// When it began, by the device's clock.
    pub began: Timestamp,
    /// Its pods so far: the number of the newest; 0 before the first.
    pub pod: u32,
    /// Pods that ended well.
    pub succeeded: u32,
    /// Pods that failed.
    pub failed: u32,
    /// Pods that failed since one ended well: what the wait grows with.
    pub in_a_row: u32,
    /// Milliseconds that count towards the deadline, up to `since_ms`.
    pub spent_ms: u64,
    /// From when on they are counted.
    pub since_ms: u64,
    /// Where it is.
    pub phase: RunPhase,
}

/// Where a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunPhase {
    /// Its newest pod shall run.
    Pod,
    /// Its newest pod failed; the next one comes later.
    BackOff {
        /// When.
        until_ms: u64,
    },
    /// Its newest pod shall end, until somebody wants it to go on.
    Suspended,
    /// It has come out.
    Ended {
        /// How.
        outcome: JobOutcome,
        /// When, by the device's clock.
        at: Timestamp,
        /// When.
        at_ms: u64,
        /// Whether the clock could be trusted then.
        trusted: bool,
        /// Its time to live is over: nothing of it is kept but this.
        forgotten: bool,
    },
}

/// The revision that a run's pod has in names.
pub fn pod_revision(revision: RevisionId, run: u32, pod: u32) -> RevisionId {
    RevisionId(Digest::of(
        format!("{}/{run}/{pod}", revision.0.hex()).as_bytes(),
    ))
}

impl WorkRecord {
    pub(super) fn new(revision: RevisionId, cron: Option<CronRecord>) -> Self {
        Self {
            revision,
            count: 0,
            runs: Vec::new(),
            cron,
        }
    }

    /// Of a CronJob: the numbers of the runs that go on or are remembered.
    pub fn kept_runs(&self) -> Option<BTreeSet<u32>> {
        let past = self.cron.as_ref()?.history.iter().map(|run| run.number);
        let forgotten = |run: &&Run| {
            matches!(
                run.phase,
                RunPhase::Ended {
                    forgotten: true,
                    ..
                }
            )
        };
        let now = self.runs.iter().filter(|run| !forgotten(run));
        Some(past.chain(now.map(|run| run.number)).collect())
    }

    /// How the newest run that ended came out.
    pub(super) fn newest_outcome(&self) -> Option<&JobOutcome> {
        let ended = self.runs.iter().rev().find_map(|run| match &run.phase {
            RunPhase::Ended { outcome, .. } => Some(outcome),
            RunPhase::Pod | RunPhase::BackOff { .. } | RunPhase::Suspended => None,
        });
        let history = self.cron.iter().flat_map(|cron| cron.history.last());
        ended.or(history.map(|run| &run.outcome).next())
    }

    pub(super) fn begin(&mut self, now: Now, due: Option<Timestamp>) -> &mut Run {
        self.count = self.count.saturating_add(1);
        self.runs.push(Run {
            number: self.count,
            due,
            began: now.wall,
            pod: 1,
            succeeded: 0,
            failed: 0,
            in_a_row: 0,
            spent_ms: 0,
            since_ms: now.boot_ms,
            phase: RunPhase::Pod,
        });
        self.runs.last_mut().expect("it was pushed just now")
    }
}

impl Run {
    /// Whether it has come out.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, RunPhase::Ended { .. })
    }

    /// Whether it has come out and nothing of it runs any more.
    pub fn rests_after_all(&self, assignment: &Assignment, ledger: &Ledger) -> bool {
        self.is_over() && rests(assignment, ledger, self)
    }

    pub(super) fn next_pod(&mut self) {
        self.pod = self.pod.saturating_add(1);
        self.phase = RunPhase::Pod;
    }

    pub(super) fn spent_ms(&self, now_ms: u64) -> u64 {
        self.spent_ms
            .saturating_add(now_ms.saturating_sub(self.since_ms))
    }
}
