//! One step of one run: what its newest pod came to, the wait before the next,
//! the deadline, the time to live.

use super::Note;
use super::record::{Run, RunPhase, WorkRecord, pod_revision};
use crate::core::event::Now;
use crate::core::ledger::Ledger;
use crate::core::ledger::{Entry, Phase, Setback};
use crate::core::name::InstanceName;
use skerry_wire::policy::Job;
use skerry_wire::report::{JobOutcome, Severity};
use skerry_wire::{Assignment, PodSpec, RestartPolicy, Role};

/// The wait after the first pod that failed, in milliseconds. This and the next
/// are Kubernetes' figures.
const POD_BACKOFF_FIRST_MS: u64 = 10_000;
/// The longest such wait: it doubles.
const POD_BACKOFF_CAP_MS: u64 = 6 * 60 * 1_000;
/// The time that counts towards a deadline is committed at least so often, in
/// parts of the deadline: a power cut costs the deadline an eighth at most.
const CHECKPOINTS: u64 = 8;
/// And not more often than this, nor more seldom, in milliseconds.
const CHECKPOINT_MS: std::ops::RangeInclusive<u64> = 60_000..=60 * 60 * 1_000;

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

/// The entry of a container of the run's newest pod.
fn entry<'a>(
    assignment: &Assignment,
    ledger: &'a Ledger,
    run: &Run,
    index: usize,
) -> Option<&'a Entry> {
    let revision = pod_revision(assignment.revision, run.number, run.pod);
    let container = assignment.pod.container(index)?;
    ledger.get(&InstanceName::new(
        &assignment.app,
        revision,
        &container.name,
    ))
}

pub(super) fn rests(assignment: &Assignment, ledger: &Ledger, run: &Run) -> bool {
    let containers = 0..assignment.pod.all_containers().count();
    containers
        .filter_map(|index| entry(assignment, ledger, run, index))
        .all(|e| !matches!(e.phase, Phase::Running { .. } | Phase::Stopping { .. }))
}

impl Moment<'_> {
    pub(super) fn step_job(
        &self,
        old: Option<&WorkRecord>,
        job: &Job,
        told: &mut Told,
    ) -> WorkRecord {
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
        rests(self.assignment, self.ledger, run)
    }

    fn entry(&self, run: &Run, index: usize) -> Option<&Entry> {
        entry(self.assignment, self.ledger, run, index)
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
