//! Jobs: which pods of theirs shall run now. A job's run is pods one after the
//! other, each of a revision of its own, so that [`plan`](super::plan) sees
//! ordinary pods. What is kept is one record for each job, committed when one
//! of its runs goes a step:
//!
//! ```text
//!        pod failed, may fail again            all completions
//!   ┌──────────────► BackOff ──┐          ┌───────────────────► Complete ─┐
//!  Pod ◄───────────────────────┘         Pod                              ├─► forgotten
//!   │ ▲ again          suspend            │ limit or deadline             │   after its time
//!   └─┴──────────────► Suspended          └───────────────────► Failed ───┘
//! ```
//!
//! The last pod of a run stays planned when the run has ended, as one that

pub mod cron;
mod job;
mod record;

pub use record::{Run, RunPhase, WorkRecord, pod_revision};

use super::event::Now;
use super::ledger::Ledger;
use cron::Clockwork;
use job::{Moment, Told};
use skerry_wire::policy::Work;
use skerry_wire::report::{GoingRun, JobOutcome, JobStatus, Severity};
use skerry_wire::{AppRef, Assignment, ContainerName, RevisionId};
use std::collections::{BTreeMap, BTreeSet};
/// A pod of a run, as [`plan`](super::plan) takes it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPod {
    /// The app's, with the pod's own revision.
    pub assignment: Assignment,
    /// Nothing of it starts any more, and what runs is stopped.
    pub ends: bool,
}

/// What [`plan`](super::plan) is told of jobs.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobPods {
    /// Pods, ordered by app, a run's after those before it.
    pub pods: Vec<RunPod>,
    /// Jobs, and CronJobs whose newest run, came out well.
    pub complete: BTreeSet<AppRef>,
}

/// All jobs of the device.
#[derive(Debug, Clone, Default)]
pub struct Works {
    records: BTreeMap<AppRef, WorkRecord>,
    pods: JobPods,
    clockworks: BTreeMap<AppRef, Clockwork>,
    clock_trusted: bool,
    stale: bool,
}

/// Something to tell the operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Note {
    /// Whether somebody should look.
    pub severity: Severity,
    /// CamelCase.
    pub reason: &'static str,
    /// A sentence.
    pub text: String,
}

/// What came of a step.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Records that changed.
    pub changed: Vec<AppRef>,
    /// What to tell of which app.
    pub notes: Vec<(AppRef, Note)>,
    /// Logs of jobs that are forgotten.
    pub logs: Vec<(AppRef, ContainerName)>,
    /// CronJobs, and of which of their runs the logs are still wanted.
    pub kept_runs: Vec<(AppRef, BTreeSet<u32>)>,
    /// When to step again, in milliseconds since boot.
    pub wake_at_ms: Option<u64>,
}

impl Works {
    /// Takes up what the store holds.
    pub fn new(records: BTreeMap<AppRef, WorkRecord>) -> Self {
        Self {
            records,
            stale: true,
            ..Self::default()
        }
    }

    /// What the plan is told: as of the newest step.
    pub fn pods(&self) -> &JobPods {
        &self.pods
    }

    /// The record of one app.
    pub fn record(&self, app: &AppRef) -> Option<&WorkRecord> {
        self.records.get(app)
    }

    /// All of them.
    pub fn records(&self) -> &BTreeMap<AppRef, WorkRecord> {
        &self.records
    }

    /// Whether the wall clock is believed from now on. True if that is new.
    pub fn trust_clock(&mut self, trusted: bool) -> bool {
        std::mem::replace(&mut self.clock_trusted, trusted) != trusted
    }

    /// The desired state is another one.
    pub fn desired_changed(&mut self) {
        self.stale = true;
    }

    /// Whether a CronJob waits for a clock that is right.
    pub fn waits_for_clock(&self, assignments: &[Assignment]) -> bool {
        let waits = |a: &Assignment| matches!(&a.policy.work, Work::CronJob(cron) if !cron.suspend);
        !self.clock_trusted && assignments.iter().any(waits)
    }

    /// The newest pod of an app that is a job; `None` when there is none.
    pub fn newest_pod(&self, app: &AppRef) -> Option<&Assignment> {
        let mut pods = self.pods.pods.iter().rev().map(|pod| &pod.assignment);
        pods.find(|assignment| assignment.app == *app)
    }

    /// Which run of a CronJob this pod's revision is of.
    pub fn run_of(&self, app: &AppRef, revision: RevisionId) -> Option<u32> {
        let record = self.records.get(app).filter(|r| r.cron.is_some())?;
        let is = |run: &&Run| pod_revision(record.revision, run.number, run.pod) == revision;
        record.runs.iter().rev().find(is).map(|run| run.number)
    }

    /// The machine was started anew: times of its last boot mean nothing.
    /// Those whose record changed.
    pub fn rebooted(&mut self, assignments: &[Assignment]) -> Vec<AppRef> {
        for run in self.records.values_mut().flat_map(|r| &mut r.runs) {
            run.since_ms = 0;
            match &mut run.phase {
                RunPhase::BackOff { until_ms } => *until_ms = 0,
                RunPhase::Ended { at_ms, .. } => *at_ms = 0,
                RunPhase::Pod | RunPhase::Suspended => {}
            }
        }
        self.build(assignments);
        self.records.keys().cloned().collect()
    }

    /// Takes every run as far as it goes.
    pub fn step(
        &mut self,
        now: Now,
        assignments: Option<&[Assignment]>,
        ledger: &Ledger,
    ) -> Stepped {
        let mut stepped = Stepped::default();
        let Some(assignments) = assignments else {
            return stepped;
        };
        if self.stale {
            self.forget_others(assignments, &mut stepped);
        }
        for assignment in assignments {
            if assignment.policy.work == Work::Service {
                continue;
            }
            let app = &assignment.app;
            let moment = Moment {
                now,
                trusted: self.clock_trusted,
                assignment,
                ledger,
            };
            let old = self.records.get(app);
            let mut told = Told::default();
            let record = match &assignment.policy.work {
                Work::Service => continue,
                Work::Job(job) => moment.step_job(old, job, &mut told),
                Work::CronJob(cron) => {
                    let clockwork = self.clockworks.entry(app.clone()).or_default();
                    moment.step_cron(old, cron, clockwork, &mut told)
                }
            };
            let before = old.and_then(WorkRecord::kept_runs);
            let kept = record.kept_runs();
            let is_cron = kept.is_some();
            // After a start of the agent too: it may have died in between.
            if kept != before || (is_cron && self.stale) {
                let kept = kept.unwrap_or_default();
                stepped.kept_runs.push((app.clone(), kept));
            }
            if told.forgotten && !is_cron {
                let containers = assignment.pod.all_containers();
                let logs = containers.map(|c| (app.clone(), c.name.clone()));
                stepped.logs.extend(logs);
            }
            let notes = told.notes.into_iter().map(|note| (app.clone(), note));
            stepped.notes.extend(notes);
            stepped.wake_at_ms = stepped.wake_at_ms.into_iter().chain(told.wake_at_ms).min();
            if old != Some(&record) {
                stepped.changed.push(app.clone());
                self.records.insert(app.clone(), record);
            }
        }
        if self.stale || !stepped.changed.is_empty() {
            self.stale = false;
            self.build(assignments);
        }
        stepped
    }

    /// What is not assigned as a job any more begins anew if it comes back.
    fn forget_others(&mut self, assignments: &[Assignment], stepped: &mut Stepped) {
        let works = |a: &&Assignment| a.policy.work != Work::Service;
        let apps: BTreeSet<&AppRef> = assignments.iter().filter(works).map(|a| &a.app).collect();
        for (app, record) in &self.records {
            if apps.contains(app) {
                continue;
            }
            stepped.changed.push(app.clone());
            if record.cron.is_some() {
                stepped.kept_runs.push((app.clone(), BTreeSet::new()));
            }
        }
        self.records.retain(|app, _| apps.contains(app));
        self.clockworks.retain(|app, _| apps.contains(app));
    }

    fn build(&mut self, assignments: &[Assignment]) {
        self.pods = JobPods::default();
        for assignment in assignments {
            let Some(record) = self.records.get(&assignment.app) else {
                continue;
            };
            if record.revision != assignment.revision || assignment.policy.work == Work::Service {
                continue;
            }
            for run in &record.runs {
                let ends = match run.phase {
                    RunPhase::Pod => false,
                    RunPhase::BackOff { .. } | RunPhase::Suspended => true,
                    RunPhase::Ended { forgotten, .. } if forgotten => continue,
                    RunPhase::Ended { .. } => true,
                };
                if run.pod > 0 {
                    let assignment = Assignment {
                        revision: pod_revision(record.revision, run.number, run.pod),
                        ..assignment.clone()
                    };
                    self.pods.pods.push(RunPod { assignment, ends });
                }
            }
            if record.newest_outcome() == Some(&JobOutcome::Complete) {
                self.pods.complete.insert(assignment.app.clone());
            }
        }
    }

    /// How far a job is; `None` for what is none.
    pub fn status(&self, now: Now, assignment: &Assignment) -> Option<JobStatus> {
        if assignment.policy.work == Work::Service {
            return None;
        }
        let Some(record) = self.records.get(&assignment.app) else {
            return Some(JobStatus::default());
        };
        let newest = record.runs.last();
        let ended = record.runs.iter().rev().find_map(|run| match &run.phase {
            RunPhase::Ended { at, .. } => Some(*at),
            RunPhase::Pod | RunPhase::BackOff { .. } | RunPhase::Suspended => None,
        });
        let cron = record.cron.as_ref();
        let last = cron.and_then(|cron| cron.history.last());
        let runs_now = |run: &&Run| match (&assignment.policy.work, &run.phase) {
            (_, RunPhase::Pod) => true,
            // A run of a CronJob is what a job is in Kubernetes.
            (Work::CronJob(_), RunPhase::BackOff { .. }) => true,
            (_, RunPhase::BackOff { .. } | RunPhase::Suspended | RunPhase::Ended { .. }) => false,
        };
        Some(JobStatus {
            active: record.runs.iter().filter(runs_now).count() as u32,
            succeeded: newest.map_or(0, |run| run.succeeded),
            failed: newest.map_or(0, |run| run.failed),
            outcome: record.newest_outcome().cloned(),
            began: newest.map(|run| run.began),
            ended: ended.or(last.map(|run| run.ended)),
            last_due: cron.and_then(|cron| cron.last_due),
            next_due: match &assignment.policy.work {
                Work::CronJob(cron) if self.clock_trusted && !cron.suspend => {
                    let clockwork = self.clockworks.get(&assignment.app);
                    clockwork.and_then(|clockwork| clockwork.next_after(now.wall))
                }
                Work::Service | Work::Job(_) | Work::CronJob(_) => None,
            },
            history: cron.map_or(Vec::new(), |cron| cron.history.clone()),
            going: record.runs.iter().filter_map(going).collect(),
        })
    }
}

/// A run of a CronJob that has not come out.
fn going(run: &Run) -> Option<GoingRun> {
    let due = run.due.filter(|_| !run.is_over())?;
    Some(GoingRun {
        number: run.number,
        due,
        began: run.began,
    })
}
