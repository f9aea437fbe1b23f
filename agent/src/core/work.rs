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
//! shall end: so its log is kept, and what runs of it is stopped in order.

use super::event::Now;
use super::ledger::{Entry, Phase, Setback};
use super::name::InstanceName;
use super::plan::Ledger;
use super::work_cron::{Clockwork, CronRecord};
use serde::{Deserialize, Serialize};
use skerry_wire::policy::{CronJob, Job, Work};
use skerry_wire::report::{GoingRun, JobOutcome, JobStatus, Severity};
use skerry_wire::{AppRef, Assignment, ContainerName, Digest, RestartPolicy, RevisionId, Role};
use skerry_wire::{PodSpec, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// The wait after the first pod that failed, in milliseconds. This and the next
/// are Kubernetes' figures.
pub const POD_BACKOFF_FIRST_MS: u64 = 10_000;
/// The longest such wait: it doubles.
pub const POD_BACKOFF_CAP_MS: u64 = 6 * 60 * 1_000;
/// The time that counts towards a deadline is committed at least so often, in
/// parts of the deadline: a power cut costs the deadline an eighth at most.
const CHECKPOINTS: u64 = 8;
/// And not more often than this, nor more seldom, in milliseconds.
const CHECKPOINT_MS: std::ops::RangeInclusive<u64> = 60_000..=60 * 60 * 1_000;

/// What is kept of one job, or one CronJob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkRecord {
    /// Whose runs these are.
    pub revision: RevisionId,
    /// JobPods so far: the number of the newest.
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

/// What one record's step needs to know.
pub(super) struct Moment<'a> {
    pub now: Now,
    /// Whether the wall clock is believed.
    pub trusted: bool,
    pub assignment: &'a Assignment,
    pub ledger: &'a Ledger,
}

/// What came of one record's step.
#[derive(Default)]
pub(super) struct Told {
    pub notes: Vec<Note>,
    pub wake_at_ms: Option<u64>,
    pub forgotten: bool,
}

impl Told {
    pub fn wake_at(&mut self, at_ms: u64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |now| now.min(at_ms)));
    }

    pub fn note(&mut self, severity: Severity, reason: &'static str, text: String) {
        self.notes.push(Note {
            severity,
            reason,
            text,
        });
    }
}

/// The revision that a run's pod has in names.
pub fn pod_revision(revision: RevisionId, run: u32, pod: u32) -> RevisionId {
    RevisionId(Digest::of(
        format!("{}/{run}/{pod}", revision.0.hex()).as_bytes(),
    ))
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
    fn newest_outcome(&self) -> Option<&JobOutcome> {
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

    fn next_pod(&mut self) {
        self.pod = self.pod.saturating_add(1);
        self.phase = RunPhase::Pod;
    }

    fn spent_ms(&self, now_ms: u64) -> u64 {
        self.spent_ms
            .saturating_add(now_ms.saturating_sub(self.since_ms))
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

/// How a pod of a job stands.
#[derive(Debug, PartialEq, Eq)]
enum PodEnd {
    /// It has not ended, and its containers failed so often.
    Going { failures: u32 },
    /// All its containers ended well.
    Well,
    /// One did not, and does not start again.
    Badly,
}

fn pod_end<'a>(pod: &PodSpec, entry: impl Fn(usize) -> Option<&'a Entry>) -> PodEnd {
    let count = pod.init_containers.len() + pod.containers.len();
    let (mut failures, mut all_ended, mut all_well) = (0u32, true, true);
    for index in 0..count {
        let role = pod.role(index);
        let Some(entry) = entry(index) else {
            all_ended &= role != Role::Main;
            continue;
        };
        let ended = entry.phase == Phase::Ended;
        let well = ended && entry.last_exit.is_some_and(|exit| exit.is_success());
        match role {
            Role::Sidecar => continue,
            Role::Init if ended && !well => return PodEnd::Badly,
            Role::Init => {}
            Role::Main => {
                all_ended &= ended;
                all_well &= well;
            }
        }
        let not_made = matches!(
            &entry.phase,
            Phase::BackOff {
                why: Setback::CreateFailed(_),
                ..
            }
        );
        if not_made && pod.restart_policy == RestartPolicy::Never {
            return PodEnd::Badly;
        }
        let runs = matches!(entry.phase, Phase::Running { .. } | Phase::Stopping { .. });
        let ends = entry.starts.saturating_sub(u32::from(runs || well));
        failures = failures.saturating_add(ends.max(entry.failures));
    }
    match (all_ended, all_well) {
        (true, true) => PodEnd::Well,
        (true, false) => PodEnd::Badly,
        (false, _) => PodEnd::Going { failures },
    }
}

impl Moment<'_> {
    fn step_job(&self, old: Option<&WorkRecord>, job: &Job, told: &mut Told) -> WorkRecord {
        let revision = self.assignment.revision;
        let same = |record: &&WorkRecord| record.revision == revision && record.cron.is_none();
        let mut record = match old.filter(same) {
            Some(record) => record.clone(),
            None => WorkRecord {
                count: old.map_or(0, |old| old.count),
                ..WorkRecord::new(revision, None)
            },
        };
        if record.runs.is_empty() {
            let run = record.begin(self.now, None);
            if job.suspend {
                run.pod = 0;
                run.phase = RunPhase::Suspended;
            }
        }
        for run in &mut record.runs {
            self.suspend_or_resume(run, job);
            self.step_run(run, job, told);
        }
        record
    }

    /// Kubernetes too counts a deadline anew after a suspension.
    fn suspend_or_resume(&self, run: &mut Run, job: &Job) {
        match run.phase {
            RunPhase::Pod | RunPhase::BackOff { .. } if job.suspend => {
                run.phase = RunPhase::Suspended;
            }
            RunPhase::Suspended if !job.suspend => {
                run.spent_ms = 0;
                run.since_ms = self.now.boot_ms;
                run.began = self.now.wall;
                run.next_pod();
            }
            RunPhase::Pod
            | RunPhase::BackOff { .. }
            | RunPhase::Suspended
            | RunPhase::Ended { .. } => {}
        }
    }

    /// Whether nothing of the run's newest pod runs any more.
    pub fn rests(&self, run: &Run) -> bool {
        let containers = 0..self.assignment.pod.all_containers().count();
        containers
            .filter_map(|index| self.entry(run, index))
            .all(|e| !matches!(e.phase, Phase::Running { .. } | Phase::Stopping { .. }))
    }

    fn entry(&self, run: &Run, index: usize) -> Option<&Entry> {
        let revision = pod_revision(self.assignment.revision, run.number, run.pod);
        let container = self.assignment.pod.container(index)?;
        let name = InstanceName::new(&self.assignment.app, revision, &container.name);
        self.ledger.get(&name)
    }

    /// One step of a run, and when the next one may be due.
    pub fn step_run(&self, run: &mut Run, job: &Job, told: &mut Told) {
        let now_ms = self.now.boot_ms;
        match &run.phase {
            RunPhase::Suspended => return,
            RunPhase::Ended { .. } => return self.forget_when_due(run, job, told),
            RunPhase::BackOff { until_ms } if now_ms < *until_ms => told.wake_at(*until_ms),
            RunPhase::BackOff { .. } => run.next_pod(),
            RunPhase::Pod => {
                let pod = &self.assignment.pod;
                match pod_end(pod, |index| self.entry(run, index)) {
                    PodEnd::Well => {
                        run.succeeded = run.succeeded.saturating_add(1);
                        run.in_a_row = 0;
                        if run.succeeded >= job.completions {
                            return self.complete(run, told);
                        }
                        run.next_pod();
                    }
                    PodEnd::Badly => {
                        run.failed = run.failed.saturating_add(1);
                        if run.failed > job.backoff_limit {
                            return self.fail(run, "BackoffLimitExceeded", told);
                        }
                        let delay_ms = pod_backoff_ms(run.in_a_row);
                        run.in_a_row = run.in_a_row.saturating_add(1);
                        let until_ms = now_ms.saturating_add(delay_ms);
                        run.phase = RunPhase::BackOff { until_ms };
                        told.wake_at(until_ms);
                        let text = format!(
                            "pod {} of the job failed, {} of {} that may; the next one starts in {}s",
                            run.pod,
                            run.failed,
                            job.backoff_limit,
                            delay_ms / 1_000
                        );
                        told.note(Severity::Warning, "JobPodFailed", text);
                    }
                    PodEnd::Going { failures }
                        if run.failed.saturating_add(failures) > job.backoff_limit =>
                    {
                        run.failed = run.failed.saturating_add(1);
                        return self.fail(run, "BackoffLimitExceeded", told);
                    }
                    PodEnd::Going { .. } => {}
                }
            }
        }
        if let Some(secs) = job.active_deadline_secs {
            self.watch_deadline(run, u64::from(secs).saturating_mul(1_000), told);
        }
    }

    fn watch_deadline(&self, run: &mut Run, deadline_ms: u64, told: &mut Told) {
        let now_ms = self.now.boot_ms;
        let spent_ms = run.spent_ms(now_ms);
        if spent_ms >= deadline_ms {
            if run.phase == RunPhase::Pod {
                run.failed = run.failed.saturating_add(1);
            }
            return self.fail(run, "DeadlineExceeded", told);
        }
        let every_ms =
            (deadline_ms / CHECKPOINTS).clamp(*CHECKPOINT_MS.start(), *CHECKPOINT_MS.end());
        if now_ms.saturating_sub(run.since_ms) >= every_ms {
            run.spent_ms = spent_ms;
            run.since_ms = now_ms;
        }
        let left_ms = deadline_ms - spent_ms;
        told.wake_at(now_ms.saturating_add(left_ms.min(every_ms)));
    }

    fn complete(&self, run: &mut Run, told: &mut Told) {
        let text = format!(
            "the job is complete: {} ended well, {} failed",
            pods(run.succeeded),
            run.failed
        );
        told.note(Severity::Normal, "JobComplete", text);
        self.end(run, JobOutcome::Complete, told);
    }

    pub fn fail(&self, run: &mut Run, reason: &str, told: &mut Told) {
        let why = match reason {
            "DeadlineExceeded" => "it took longer than activeDeadlineSeconds",
            "BackoffLimitExceeded" => "it failed more often than backoffLimit allows",
            _ => "the next one takes its place",
        };
        let text = format!(
            "the job failed: {why} ({} ended well, {} failed); its log tells more",
            pods(run.succeeded),
            run.failed
        );
        told.note(Severity::Warning, "JobFailed", text);
        let reason = reason.into();
        self.end(run, JobOutcome::Failed { reason }, told);
    }

    fn end(&self, run: &mut Run, outcome: JobOutcome, told: &mut Told) {
        run.phase = RunPhase::Ended {
            outcome,
            at: self.now.wall,
            at_ms: self.now.boot_ms,
            trusted: self.trusted,
            forgotten: false,
        };
        // What comes after an end is for the next step.
        told.wake_at(self.now.boot_ms);
    }

    /// By the boot clock, or by a clock that could be trusted then and can now.
    fn forget_when_due(&self, run: &mut Run, job: &Job, told: &mut Told) {
        let Some(secs) = job.ttl_after_finished_secs else {
            return;
        };
        let RunPhase::Ended {
            at,
            at_ms,
            trusted,
            forgotten,
            ..
        } = &mut run.phase
        else {
            return;
        };
        if *forgotten {
            return;
        }
        let ttl_ms = u64::from(secs).saturating_mul(1_000);
        let mut passed_ms = self.now.boot_ms.saturating_sub(*at_ms);
        if *trusted && self.trusted {
            passed_ms = passed_ms.max(self.now.wall.0.saturating_sub(at.0));
        }
        if passed_ms >= ttl_ms {
            *forgotten = true;
            told.forgotten = true;
        } else {
            told.wake_at(self.now.boot_ms.saturating_add(ttl_ms - passed_ms));
        }
    }
}

fn pods(count: u32) -> String {
    match count {
        1 => "1 pod".into(),
        n => format!("{n} pods"),
    }
}

/// The wait after a pod that failed, after so many that failed before it in a
/// row.
fn pod_backoff_ms(before: u32) -> u64 {
    // 2^10 times the first wait is far beyond the cap.
    POD_BACKOFF_FIRST_MS
        .saturating_mul(1 << before.min(10))
        .min(POD_BACKOFF_CAP_MS)
}

/// Kubernetes' word for a run that another one replaced is that there is none:
/// it is deleted. Ours is remembered.
pub(super) const REPLACED: &str = "Replaced";

impl Moment<'_> {
    fn step_cron(
        &self,
        old: Option<&WorkRecord>,
        cron: &CronJob,
        clockwork: &mut Clockwork,
        told: &mut Told,
    ) -> WorkRecord {
        let revision = self.assignment.revision;
        let mut record = match old.filter(|record| record.cron.is_some()) {
            Some(record) => record.clone(),
            None => WorkRecord {
                count: old.map_or(0, |old| old.count),
                ..WorkRecord::new(revision, Some(CronRecord::default()))
            },
        };
        if record.revision != revision {
            // What ran of the old pod leaves with it.
            record.revision = revision;
            record.runs.clear();
        }
        for run in &mut record.runs {
            let before = run.is_over();
            self.step_run(run, &cron.job, told);
            let Some(history) = &mut record.cron else {
                continue;
            };
            match &run.phase {
                // What came out before it is no younger.
                RunPhase::Ended {
                    at,
                    forgotten: true,
                    ..
                } => history.history.retain(|past| past.ended > *at),
                RunPhase::Ended { .. } if !before => history.remember(run, cron),
                RunPhase::Pod
                | RunPhase::BackOff { .. }
                | RunPhase::Suspended
                | RunPhase::Ended { .. } => {}
            }
        }
        self.start_when_due(&mut record, cron, clockwork, told);
        // Of those that have ended, the newest is kept, and what still runs of
        // others: that is waited for.
        let newest = record.runs.iter().rposition(Run::is_over);
        let mut index = 0;
        record.runs.retain(|run| {
            index += 1;
            !run.is_over() || Some(index - 1) == newest || !self.rests(run)
        });
        record
    }
}
