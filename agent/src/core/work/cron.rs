//! When a CronJob's runs start. The only decision of the agent that goes by the
//! wall clock, so it is made only while that can be trusted, and so that it is
//! sound however the clock moves:
//!
//! - a time that was due is started at most once, also after the clock was set
//!   back: the times that were started are kept, as stretches without a gap;
//! - of all times that were missed (off, asleep, the clock leapt), the newest
//!   is started, if it is not later than its starting deadline;
//! - a clock that was far ahead and is set right again does not hold anything
//!   up: from there on the times that come are due, but those that were
//!   started.

use super::job::{Moment, Told};
use super::record::{Run, RunPhase, WorkRecord};
use serde::{Deserialize, Serialize};
use skerry_wire::cron::Schedule;
use skerry_wire::policy::{Concurrency, CronJob};
use skerry_wire::report::{JobOutcome, JobRun, Severity};
use skerry_wire::zone::Zone;
use skerry_wire::{Digest, Timestamp};

/// Runs of one CronJob that go on at one time with `concurrencyPolicy: Allow`:
/// Kubernetes has no limit, a device has.
pub const MAX_ACTIVE_RUNS: usize = 8;
/// Stretches of started times that are kept: each leap of the clock, and each
/// time that was missed, begins another. When there are more, the oldest two
/// become one, and what was missed between them is not made up for.
const MAX_STRETCHES: usize = 8;
/// The wall clock is looked at so often at least, in milliseconds: it may be
/// slewed.
const LOOK_AGAIN_MS: u64 = 60 * 60 * 1_000;

/// Kubernetes' word for a run that another one replaced is that there is none:
/// it is deleted. Ours is remembered.
const REPLACED: &str = "Replaced";

/// What is kept of a CronJob besides its runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CronRecord {
    /// Digest of the schedule and zone that this is about.
    pub spoken: Option<Digest>,
    /// Times up to this one are settled; `None` until the clock can be trusted.
    pub since: Option<Timestamp>,
    /// The newest time that was started.
    pub last_due: Option<Timestamp>,
    /// Times that were started: first and last of each stretch, sorted.
    pub started: Vec<(Timestamp, Timestamp)>,
    /// Runs that have ended, oldest first.
    pub history: Vec<JobRun>,
}

/// A schedule, read.
#[derive(Debug, Clone, Default)]
pub struct Clockwork {
    spoken: Option<Digest>,
    read: Option<(Schedule, Zone)>,
    /// The first time after the first one is the second.
    next: Option<(Timestamp, Timestamp)>,
    /// The newest time that was told as missed.
    missed: Option<Timestamp>,
}

impl Clockwork {
    /// Takes up a schedule. The error says why it cannot be read.
    fn set(&mut self, cron: &CronJob) -> Result<Digest, String> {
        let rule = cron.time_zone.as_ref().map_or("", |zone| &zone.rule);
        let spoken = Digest::of(format!("{}\n{rule}", cron.schedule).as_bytes());
        if self.spoken == Some(spoken) {
            return Ok(spoken);
        }
        *self = Self {
            spoken: Some(spoken),
            ..Self::default()
        };
        let schedule = cron.schedule.parse::<Schedule>();
        let schedule = schedule.map_err(|e| format!("'{}' {e}", cron.schedule))?;
        let zone = match rule {
            "" => Zone::UTC,
            rule => rule
                .parse()
                .map_err(|e: skerry_wire::zone::ZoneError| e.to_string())?,
        };
        self.read = Some((schedule, zone));
        Ok(spoken)
    }

    /// The first time that is due after this one.
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        if let Some((from, next)) = self.next
            && (from..next).contains(&at)
        {
            return Some(next);
        }
        let (schedule, zone) = self.read.as_ref()?;
        schedule.next_after(zone, at)
    }

    fn newest_until(&self, since: Timestamp, at: Timestamp) -> Option<Timestamp> {
        let (schedule, zone) = self.read.as_ref()?;
        schedule.newest_until(zone, since, at)
    }
}

impl CronRecord {
    fn was_started(&self, time: Timestamp) -> bool {
        let mut stretches = self.started.iter();
        stretches.any(|(first, last)| (*first..=*last).contains(&time))
    }

    fn start(&mut self, time: Timestamp, clockwork: &Clockwork) {
        self.last_due = Some(time);
        self.since = Some(time);
        self.started.push((time, time));
        self.started.sort_unstable();
        let mut joined: Vec<(Timestamp, Timestamp)> = Vec::new();
        for (first, last) in std::mem::take(&mut self.started) {
            match joined.last_mut() {
                Some(before) if clockwork.next_after(before.1) >= Some(first) => {
                    before.1 = before.1.max(last);
                }
                Some(_) | None => joined.push((first, last)),
            }
        }
        while joined.len() > MAX_STRETCHES {
            let first = joined.remove(0).0;
            joined[0].0 = first;
        }
        self.started = joined;
    }

    /// Remembers how a run came out, if it has.
    fn remember(&mut self, run: &Run, cron: &CronJob) {
        let (RunPhase::Ended { outcome, at, .. }, Some(due)) = (&run.phase, run.due) else {
            return;
        };
        self.history.push(JobRun {
            number: run.number,
            due,
            began: run.began,
            ended: *at,
            outcome: outcome.clone(),
        });
        let well = |run: &JobRun| run.outcome == JobOutcome::Complete;
        for (kind, limit) in [
            (true, cron.successful_history),
            (false, cron.failed_history),
        ] {
            let count = self.history.iter().filter(|run| well(run) == kind).count();
            let mut surplus = count.saturating_sub(usize::from(limit.min(CronJob::MAX_HISTORY)));
            self.history.retain(|run| {
                let goes = surplus > 0 && well(run) == kind;
                surplus -= usize::from(goes);
                !goes
            });
        }
    }
}

impl Moment<'_> {
    pub(super) fn step_cron(
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

    /// Starts the newest time that is due and was not started.
    fn start_when_due(
        &self,
        record: &mut WorkRecord,
        cron: &CronJob,
        clockwork: &mut Clockwork,
        told: &mut Told,
    ) {
        let Some(kept) = &mut record.cron else {
            return;
        };
        let spoken = match clockwork.set(cron) {
            Ok(spoken) => spoken,
            Err(text) => {
                let text = format!("the schedule cannot be read: {text}; update the agent");
                return told.note(Severity::Warning, "ScheduleUnreadable", text);
            }
        };
        if !self.trusted {
            return;
        }
        let wall = self.now.wall;
        // Another schedule starts nothing for a time before it was there, and a
        // clock that was set back does not either.
        if kept.spoken != Some(spoken) || kept.since.is_none_or(|since| wall < since) {
            kept.spoken = Some(spoken);
            kept.since = Some(wall);
        }
        let Some(next) = clockwork.next_after(wall) else {
            return;
        };
        clockwork.next = Some((wall, next));
        if cron.suspend {
            return;
        }
        let away_ms = next.0.saturating_sub(wall.0).min(LOOK_AGAIN_MS);
        told.wake_at(self.now.boot_ms.saturating_add(away_ms));
        let since = kept.since.unwrap_or(wall);
        let Some(due) = clockwork.newest_until(since, wall) else {
            return;
        };
        if kept.was_started(due) {
            kept.since = Some(due);
            return;
        }
        if let Some(secs) = cron.starting_deadline_secs
            && wall.0.saturating_sub(due.0) > u64::from(secs).saturating_mul(1_000)
        {
            if clockwork.missed != Some(due) {
                clockwork.missed = Some(due);
                let text = format!(
                    "a start was due {}s ago, and may be {secs}s late (startingDeadlineSeconds): it is left out",
                    wall.0.saturating_sub(due.0) / 1_000
                );
                told.note(Severity::Warning, "StartMissed", text);
            }
            return;
        }
        let active = |run: &Run| !run.is_over() || !self.rests(run);
        let count = record.runs.iter().filter(|run| active(run)).count();
        match cron.concurrency {
            // It is looked at again when the one before has ended.
            Concurrency::Forbid if count > 0 => return,
            Concurrency::Forbid => {}
            Concurrency::Allow if count >= MAX_ACTIVE_RUNS => {
                kept.since = Some(due);
                let text = format!(
                    "a start is left out: {count} runs of it still go on; set activeDeadlineSeconds or concurrencyPolicy: Forbid"
                );
                return told.note(Severity::Warning, "TooManyRuns", text);
            }
            Concurrency::Allow => {}
            Concurrency::Replace => {
                let going = record.runs.iter_mut().filter(|run| !run.is_over());
                for run in going {
                    self.fail(run, REPLACED, told);
                    kept.remember(run, cron);
                }
                // The old pods end first.
                if count > 0 && !record.runs.iter().all(|run| self.rests(run)) {
                    return;
                }
            }
        }
        kept.start(due, clockwork);
        record.begin(self.now, Some(due));
    }
}
