//! How a new revision of an app takes the place of the old one: which of the
//! two run now, and when that changes. Pure.
//!
//! ```text
//!            images here, or Recreate                 good
//!   Waiting ──────────────┬──────────────► Trial ───────────────► (no record)
//!      │                  │ the app holds    │ fails, or is late
//!      │ image cannot     ▼                  ▼
//!      │ be had          Held ──limit──►  RolledBack ──► the hub wants
//!      └──────────────────────────────────►              something else
//! ```
//!
//! A revision without a record is good: it has once stayed ready for as long
//! as it must. Only such a one is gone back to. The record of a revision that
//! has to prove itself, and the whole assignment before it, are committed
//! together with what they come from, so a power cut ends in one stage or the
//! other.
//!
//! The times of a trial are of the boot clock. How long a trial had lasted when
//! the machine went down is not known, so it begins anew after each start of
//! the machine, and [`MAX_REBOOTS`] of them end it.

use super::ledger::Ledger;
use super::ledger::{Phase, Setback};
use super::name::InstanceName;
use super::observed::{ImageState, Observed};
use serde::{Deserialize, Serialize};
use skerry_wire::policy::{Grant, Strategy, UpdatePolicy};
use skerry_wire::report::ExitStatus;
use skerry_wire::{Assignment, RevisionId, Role};

/// A new revision has to stay ready for so many milliseconds, even if its
/// policy asks for less: long enough for a program that does not find what it
/// needs to end.
const PROVE_MS: u64 = 10_000;
/// Failed ends, or failed starts, of one container in a row that are no
/// accident any more.
pub const MAX_FAILURES: u32 = 3;
/// Failed tries to get an image, while what was before still runs: two and a
/// half minutes.
pub const PATIENT_TRIES: u32 = 6;
/// The same while nothing runs: a quarter of a minute.
pub const HASTY_TRIES: u32 = 3;
/// Starts of the machine within one trial that end it: what is on trial may be
/// what brings the machine down.
pub const MAX_REBOOTS: u8 = 3;
/// Between two questions whether an app still holds its update, in
/// milliseconds: a lock that is let go is not told.
pub const ASK_AGAIN_MS: u64 = 2_000;
/// Characters of a reason that are kept.
pub const MAX_REASON_CHARS: usize = 300;

/// What the store keeps of a revision that is not known to be good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replacement {
    /// Which revision.
    pub to: RevisionId,
    /// What was before it is kept and was good.
    pub good_before: bool,
    /// How far it is.
    pub stage: Stage,
}

/// How far a revision is that is not known to be good. Times are of the boot
/// clock of the boot that the store names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stage {
    /// Its images are on their way; what was before it runs.
    Waiting,
    /// The app holds it; what was before it runs.
    Held {
        /// When that began, in milliseconds since boot.
        since_ms: u64,
        /// What the app says.
        reason: String,
    },
    /// It was begun.
    Trial {
        /// When, in milliseconds since boot.
        since_ms: u64,
        /// How often the machine was started since then.
        reboots: u8,
        /// What was before it does not run beside it any more.
        handed_over: bool,
    },
    /// It failed; what was before it runs.
    RolledBack {
        /// A sentence for people.
        reason: String,
    },
}

impl Replacement {
    /// The machine was started anew.
    pub fn rebooted(&mut self, now_ms: u64) {
        match &mut self.stage {
            Stage::Waiting | Stage::RolledBack { .. } => {}
            Stage::Held { since_ms, .. } => *since_ms = now_ms,
            Stage::Trial {
                since_ms, reboots, ..
            } => {
                *since_ms = now_ms;
                *reboots = reboots.saturating_add(1);
            }
        }
    }
}

/// Which revisions of an app run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runs<'a> {
    /// This one alone.
    One(&'a Assignment),
    /// The new one starts beside the old one.
    Both {
        /// What was before.
        old: &'a Assignment,
        /// What shall be.
        new: &'a Assignment,
    },
}

impl<'a> Runs<'a> {
    /// The one that other apps go by: the old one until it hands over.
    pub fn serving(self) -> &'a Assignment {
        match self {
            Runs::One(one) => one,
            Runs::Both { old, .. } => old,
        }
    }

    /// The newest of them.
    pub fn newest(self) -> &'a Assignment {
        match self {
            Runs::One(one) => one,
            Runs::Both { new, .. } => new,
        }
    }
}

/// Which revisions of the app run that shall be `new`.
pub fn runs<'a>(
    new: &'a Assignment,
    previous: Option<&'a Assignment>,
    record: Option<&Replacement>,
) -> Runs<'a> {
    let (Some(old), Some(record)) = (previous, record) else {
        return Runs::One(new);
    };
    match record.stage {
        Stage::Waiting | Stage::Held { .. } | Stage::RolledBack { .. } => Runs::One(old),
        Stage::Trial {
            handed_over: false, ..
        } => Runs::Both { old, new },
        Stage::Trial {
            handed_over: true, ..
        } => Runs::One(new),
    }
}

/// Whether anything of the new revision is wanted on the disk.
pub fn is_given_up(record: Option<&Replacement>) -> bool {
    matches!(
        record.map(|record| &record.stage),
        Some(Stage::RolledBack { .. })
    )
}

/// How a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it shall be.
    Ready,
    /// It was so when this agent started, and has not been asked since.
    Assumed,
    /// Not yet, or not now, and what it lacks.
    Coming(String),
    /// It will not be, and why.
    Failing(String),
}

/// How the pod of this revision stands.
pub fn standing(assignment: &Assignment, observed: &Observed, ledger: &Ledger) -> Standing {
    let mut coming = None;
    let mut assumed = false;
    for (index, container) in assignment.pod.all_containers().enumerate() {
        let shown = &container.name;
        let name = InstanceName::new(&assignment.app, assignment.revision, shown);
        let Some(entry) = ledger.get(&name) else {
            if assignment.pod.role(index) != Role::Init {
                coming = coming.or(Some(format!("container {shown} has not started")));
            }
            continue;
        };
        let often = entry.failures >= MAX_FAILURES;
        match (&entry.phase, entry.last_exit) {
            (
                Phase::BackOff {
                    why: Setback::CreateFailed(why),
                    ..
                },
                _,
            ) if often => {
                return Standing::Failing(format!("container {shown} cannot be started: {why}"));
            }
            (Phase::Ended, Some(exit)) if !exit.is_success() => {
                return Standing::Failing(format!("container {shown} {}", how(exit)));
            }
            (_, Some(exit)) if often && !exit.is_success() && exit != ExitStatus::Unknown => {
                return Standing::Failing(format!(
                    "container {shown} ended {} times, the last time it {}",
                    entry.failures,
                    how(exit)
                ));
            }
            _ => {}
        }
        // What comes first is done, or else the others do not run.
        if assignment.pod.role(index) == Role::Init || entry.phase == Phase::Ended {
            continue;
        }
        let id = name.incarnation(entry.incarnation);
        let runs = observed.runs(&id) && matches!(entry.phase, Phase::Running { .. });
        if !runs {
            coming = coming.or(Some(format!("container {shown} does not run")));
        } else if !observed.health.ready(&id) {
            let why = observed.health.why_unready(&id);
            let why = why.map_or(String::new(), |why| format!(": {why}"));
            coming = coming.or(Some(format!("container {shown} is not ready{why}")));
        } else if !observed.health.is_asked(&id) {
            assumed = true;
        }
    }
    match (coming, assumed) {
        (Some(why), _) => Standing::Coming(why),
        (None, true) => Standing::Assumed,
        (None, false) => Standing::Ready,
    }
}

fn how(exit: ExitStatus) -> String {
    match exit {
        ExitStatus::Code(code) => format!("ended with code {code}"),
        ExitStatus::Signal(signal) => format!("was ended by signal {signal}"),
        ExitStatus::OutOfMemory => "was killed for want of memory".into(),
        ExitStatus::Unknown => "ended, and nobody saw how".into(),
    }
}

/// Why an image of this revision cannot be had, once it failed so often.
pub fn image_trouble(assignment: &Assignment, observed: &Observed, tries: u32) -> Option<String> {
    assignment.pod.all_containers().find_map(|container| {
        let image = &container.image;
        match observed.images.get(&image.manifest) {
            Some(ImageState::Failed {
                reason, failures, ..
            }) if *failures >= tries => {
                Some(format!("image {} cannot be had: {reason}", image.reference))
            }
            Some(ImageState::Failed { .. } | ImageState::Ready | ImageState::Fetching { .. })
            | None => None,
        }
    })
}

/// What an app said when it was asked whether it holds its update.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Hold {
    /// It was not asked.
    #[default]
    Unasked,
    /// It was, and has not answered.
    Asked,
    /// It does not.
    Free,
    /// It does.
    Held {
        /// Why, in its words.
        reason: String,
        /// When it is asked again, in milliseconds since boot.
        again_ms: u64,
    },
}

/// Whether the hub has heard of what is on trial.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Heard {
    /// It was not told yet.
    #[default]
    Untold,
    /// It was told; an acknowledgement of a newer report has to come.
    Told,
    /// It has acknowledged.
    Acknowledged,
}

/// What is known of an app whose revision is not known to be good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Now, in milliseconds since boot.
    pub now_ms: u64,
    /// Nothing is late before this, in milliseconds since boot: the agent has
    /// just started and has asked nothing.
    pub judge_from_ms: u64,
    /// All images of the new revision are here.
    pub images_here: bool,
    /// Why an image cannot be had, if what was before runs, and if not.
    pub image_trouble: Option<String>,
    /// How the new revision stands.
    pub standing: Standing,
    /// Since when it is ready without a break.
    pub ready_since_ms: Option<u64>,
    /// Whether the app holds the update.
    pub hold: Hold,
    /// Whether the hub has heard.
    pub heard: Heard,
}

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until then, in milliseconds since boot.
    Stay(Option<u64>),
    /// Ask the app whether it holds the update.
    Ask,
    /// Tell the hub, which has to acknowledge it.
    Tell,
    /// The app holds it, and why.
    Hold(String),
    /// Begin with the new revision; the app had its way for long enough.
    Begin {
        /// The app still holds it.
        forced: bool,
    },
    /// What was before is let go.
    HandOver,
    /// It is good.
    Good,
    /// Back to what was before, and why.
    GoBack(String),
}

/// The longest of some that may not be there.
fn earliest<const N: usize>(times: [Option<u64>; N]) -> Option<u64> {
    times.into_iter().flatten().min()
}

fn after(since_ms: u64, secs: u32) -> u64 {
    since_ms.saturating_add(u64::from(secs).saturating_mul(1_000))
}

/// Whether the app that runs can hold an update.
fn can_hold(new: &Assignment, old: &Assignment) -> bool {
    let may = |of: &Assignment| of.policy.grants.contains(&Grant::HoldUpdates);
    new.policy.update.hold_limit_secs > 0 && may(new) && may(old)
}

/// What comes next for a revision that is not known to be good.
pub fn next(
    new: &Assignment,
    previous: Option<&Assignment>,
    record: &Replacement,
    seen: &Seen,
) -> Next {
    let policy = &new.policy.update;
    match (&record.stage, previous) {
        (Stage::Trial { .. }, _) => on_trial(policy, previous.is_some(), record, seen),
        (_, None) => Next::Begin { forced: false },
        (Stage::RolledBack { .. }, Some(_)) => Next::Stay(None),
        (Stage::Waiting | Stage::Held { .. }, Some(old)) => waiting(new, old, record, seen),
    }
}

fn waiting(new: &Assignment, old: &Assignment, record: &Replacement, seen: &Seen) -> Next {
    let policy = &new.policy.update;
    if let Some(why) = seen.image_trouble.clone()
        && record.good_before
    {
        return Next::GoBack(why);
    }
    if !seen.images_here && policy.strategy != Strategy::Recreate {
        return Next::Stay(None);
    }
    if !can_hold(new, old) {
        return Next::Begin { forced: false };
    }
    match &seen.hold {
        Hold::Unasked => Next::Ask,
        Hold::Asked => Next::Stay(None),
        Hold::Free => Next::Begin { forced: false },
        Hold::Held { reason, again_ms } => match record.stage {
            Stage::Held { since_ms, .. } => {
                let limit_ms = after(since_ms, policy.hold_limit_secs);
                if seen.now_ms >= limit_ms {
                    Next::Begin { forced: true }
                } else if seen.now_ms >= *again_ms {
                    Next::Ask
                } else {
                    Next::Stay(Some(limit_ms.min(*again_ms)))
                }
            }
            Stage::Waiting | Stage::Trial { .. } | Stage::RolledBack { .. } => {
                Next::Hold(reason.clone())
            }
        },
    }
}

fn on_trial(policy: &UpdatePolicy, kept: bool, record: &Replacement, seen: &Seen) -> Next {
    let Stage::Trial {
        since_ms,
        reboots,
        handed_over,
    } = record.stage
    else {
        return Next::Stay(None);
    };
    let back = kept && record.good_before;
    let secs = policy
        .progress_deadline_secs
        .unwrap_or(UpdatePolicy::DEFAULT_DEADLINE_SECS);
    let late_ms = after(since_ms, secs).max(seen.judge_from_ms);
    let confirm_secs = policy.confirm_secs.filter(|_| back);
    let confirm_ms = confirm_secs.map(|secs| after(since_ms, secs).max(seen.judge_from_ms));
    if back {
        if let Some(why) = went_wrong(reboots, seen) {
            return Next::GoBack(why);
        }
        let unready = match &seen.standing {
            Standing::Ready | Standing::Assumed => None,
            Standing::Coming(why) | Standing::Failing(why) => Some(why),
        };
        if let Some(why) = unready
            && seen.now_ms >= late_ms
        {
            return Next::GoBack(format!("not ready within {secs} seconds: {why}"));
        }
        if let (Some(secs), Some(at_ms)) = (confirm_secs, confirm_ms)
            && seen.now_ms >= at_ms
        {
            if let Some(why) = unready {
                let why = format!("not confirmed within {secs} seconds, not ready: {why}");
                return Next::GoBack(why);
            }
            if seen.heard != Heard::Acknowledged {
                return Next::GoBack(format!(
                    "not confirmed within {secs} seconds: the hub has not acknowledged a report since it was ready"
                ));
            }
        }
    }
    // Nothing good to go back to: the newest wins.
    let failing = matches!(seen.standing, Standing::Failing(_));
    if kept && !back && !handed_over && (failing || seen.now_ms >= late_ms) {
        return Next::HandOver;
    }
    let min_ms = u64::from(policy.min_ready_secs).saturating_mul(1_000);
    let prove_ms = min_ms.max(PROVE_MS);
    // Soon enough for the answer to come in time.
    let tell_ms = confirm_secs.map(|secs| min_ms.max(PROVE_MS.min(u64::from(secs) * 500)));
    let until = |wait_ms: u64| seen.ready_since_ms.map(|at| at.saturating_add(wait_ms));
    let past = |at: Option<u64>| at.is_some_and(|at| seen.now_ms >= at);
    if !handed_over && past(until(min_ms)) {
        return Next::HandOver;
    }
    let tell_at = tell_ms.and_then(until);
    if seen.heard == Heard::Untold && past(tell_at) {
        return Next::Tell;
    }
    let confirmed = confirm_secs.is_none() || seen.heard == Heard::Acknowledged;
    if handed_over && confirmed && past(until(prove_ms)) {
        return Next::Good;
    }
    let ahead = |at: Option<u64>| at.filter(|at| *at > seen.now_ms);
    Next::Stay(earliest([
        ahead(Some(late_ms).filter(|_| kept)),
        ahead(confirm_ms),
        ahead(until(min_ms)),
        ahead(until(prove_ms)),
        ahead(tell_at),
    ]))
}

/// What cannot become well any more.
fn went_wrong(reboots: u8, seen: &Seen) -> Option<String> {
    if let Standing::Failing(why) = &seen.standing {
        return Some(why.clone());
    }
    if reboots >= MAX_REBOOTS {
        return Some(format!(
            "the device was started anew {reboots} times while it was on trial"
        ));
    }
    seen.image_trouble.clone()
}

#[cfg(test)]
#[path = "replace_tests.rs"]
mod tests;
