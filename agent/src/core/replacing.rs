//! Changes of apps' revisions, carried through: what is seen of each, what is
//! committed, and what is told.

use super::desired::is_service;
use super::event::{Effect, Now};
use super::handle::Core;
use super::plan::images_here;
use super::record::Change;
use super::replace::{
    self, ASK_AGAIN_MS, HASTY_TRIES, Heard, Hold, MAX_REASON_CHARS, Next, PATIENT_TRIES,
    Replacement, Runs, Seen, Stage, Standing, standing,
};
use super::report::Urgency;
use skerry_wire::report::Severity;
use skerry_wire::{AppRef, Assignment, RevisionId, Seq};
use std::collections::BTreeSet;

/// After the first list of this run, nothing is called late for so many
/// milliseconds: longer than most probes' periods.
const JUDGE_AFTER_MS: u64 = 15_000;
/// While it is only assumed that a pod is ready, it is looked at again after
/// so many milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;

/// What is kept in memory of a revision that is not known to be good.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    /// Since when it is ready, in milliseconds since boot.
    ready_since_ms: Option<u64>,
    hold: Hold,
    /// A report after this one has to be acknowledged.
    told: Option<Seq>,
    acknowledged: bool,
}

impl Watched {
    fn heard(&self) -> Heard {
        match (self.told, self.acknowledged) {
            (None, _) => Heard::Untold,
            (Some(_), false) => Heard::Told,
            (Some(_), true) => Heard::Acknowledged,
        }
    }
}

impl Core {
    /// Which revisions of an assigned app run.
    pub(super) fn runs<'a>(&'a self, assignment: &'a Assignment) -> Runs<'a> {
        let app = &assignment.app;
        replace::runs(assignment, self.previous.get(app), self.replacing.get(app))
    }

    // --- the hub wants something else

    /// What was before, and how each change stands at its beginning. Before
    /// the new state is in force.
    pub(super) fn prepare_replacements(&mut self, now: Now, new: &[Assignment]) {
        for assignment in new {
            let app = &assignment.app;
            // They are in order.
            let found = self.assignments().binary_search_by(|a| a.app.cmp(app));
            let current = found.ok().map(|at| self.assignments()[at].clone());
            if current.as_ref().map(|c| c.revision) == Some(assignment.revision) {
                continue;
            }
            let kept = current.and_then(|current| self.kept(now, current));
            self.watched.remove(app);
            // A job does not prove itself: it ends.
            if !is_service(assignment) {
                self.set_previous(app, None);
                self.set_replacing(app, None);
                continue;
            }
            let on_trial = Stage::Trial {
                since_ms: now.boot_ms,
                reboots: 0,
                handed_over: true,
            };
            let (previous, good_before, stage) = match kept {
                Some((old, good)) if old.revision != assignment.revision => {
                    (Some(old), good, Some(Stage::Waiting))
                }
                // It is good already.
                Some((_, true)) => (None, false, None),
                Some((_, false)) | None => (None, false, Some(on_trial)),
            };
            let record = stage.map(|stage| Replacement {
                to: assignment.revision,
                good_before,
                stage,
            });
            self.set_previous(app, previous);
            self.set_replacing(app, record);
        }
        let stay: BTreeSet<&AppRef> = new.iter().map(|a| &a.app).collect();
        let known = self.previous.keys().chain(self.replacing.keys());
        let gone: BTreeSet<AppRef> = known.filter(|app| !stay.contains(app)).cloned().collect();
        for app in gone {
            self.set_previous(&app, None);
            self.set_replacing(&app, None);
            self.watched.remove(&app);
        }
    }

    /// What an app keeps while it is changed, and whether it is good: the last
    /// one that was, unless the newest does well by now.
    fn kept(&self, now: Now, current: Assignment) -> Option<(Assignment, bool)> {
        let app = &current.app;
        match (self.previous.get(app), self.replacing.get(app)) {
            (Some(_), Some(record)) if self.does_well(now, &current, record) => {
                Some((current, true))
            }
            (Some(old), Some(record)) => Some((old.clone(), record.good_before)),
            (_, record) => {
                let mut entries = self.ledger.values();
                let begun = entries.any(|e| e.app == *app && e.revision == current.revision);
                let good = record.is_none_or(|r| self.does_well(now, &current, r));
                begun.then_some((current, good))
            }
        }
    }

    fn does_well(&self, now: Now, current: &Assignment, record: &Replacement) -> bool {
        let Stage::Trial { .. } = record.stage else {
            return false;
        };
        let policy = &current.policy.update;
        let min_ms = u64::from(policy.min_ready_secs).saturating_mul(1_000);
        self.watched.get(&current.app).is_some_and(|watched| {
            let since = watched.ready_since_ms;
            let long = since.is_some_and(|at| now.boot_ms >= at.saturating_add(min_ms));
            let heard = watched.heard() == Heard::Acknowledged;
            long && (policy.confirm_secs.is_none() || heard)
        })
    }

    fn set_previous(&mut self, app: &AppRef, previous: Option<Assignment>) {
        if self.previous.get(app) == previous.as_ref() {
            return;
        }
        match &previous {
            Some(assignment) => self.previous.insert(app.clone(), assignment.clone()),
            None => self.previous.remove(app),
        };
        let previous = previous.map(Box::new);
        self.changes.push(Change::Previous(app.clone(), previous));
        self.prune_kept();
    }

    fn set_replacing(&mut self, app: &AppRef, record: Option<Replacement>) {
        if self.replacing.get(app) == record.as_ref() {
            return;
        }
        match &record {
            Some(record) => self.replacing.insert(app.clone(), record.clone()),
            None => self.replacing.remove(app),
        };
        self.changes.push(Change::Replacing(app.clone(), record));
    }

    /// What a full disk kept of a change that is over.
    pub(super) fn drop_orphans(&mut self) {
        let orphans = self.previous.keys();
        let orphans = orphans.filter(|app| !self.replacing.contains_key(*app));
        for app in orphans.cloned().collect::<Vec<_>>() {
            self.set_previous(&app, None);
        }
    }

    /// The machine was started anew.
    pub(super) fn reboot_replacements(&mut self, now: Now) {
        for (app, record) in &mut self.replacing {
            let before = record.clone();
            record.rebooted(now.boot_ms);
            if *record != before {
                let change = Change::Replacing(app.clone(), Some(record.clone()));
                self.changes.push(change);
            }
        }
    }

    // --- what happens

    /// The list of what runs is here: from now on it can be judged.
    pub(super) fn judge_from_now(&mut self, now: Now) {
        let from_ms = now.boot_ms.saturating_add(JUDGE_AFTER_MS);
        self.judge_from_ms = self.judge_from_ms.or(Some(from_ms));
    }

    /// An app was asked, or says by itself, whether it holds its update.
    /// True if somebody wants to know: what is said at another time may not be
    /// so any more when it counts.
    pub(super) fn hold_answered(&mut self, now: Now, app: &AppRef, held: Option<String>) -> bool {
        let Some(watched) = self.watched.get_mut(app) else {
            return false;
        };
        if matches!(watched.hold, Hold::Unasked) {
            return false;
        }
        watched.hold = match held {
            None => Hold::Free,
            Some(reason) => Hold::Held {
                reason: reason.chars().take(MAX_REASON_CHARS).collect(),
                again_ms: now.boot_ms.saturating_add(ASK_AGAIN_MS),
            },
        };
        true
    }

    /// The hub has this report.
    pub(super) fn replacements_acknowledged(&mut self, report: Seq) {
        for watched in self.watched.values_mut() {
            if watched.told.is_some_and(|told| report > told) {
                watched.acknowledged = true;
            }
        }
    }

    /// When a change has to be looked at, in milliseconds since boot.
    pub(super) fn replacements_due_ms(&self) -> Option<u64> {
        self.replace_at_ms
            .filter(|_| self.observed.containers.is_some())
    }

    /// Takes every change as far as it goes now. True if what runs may differ.
    pub(super) fn step_replacements(&mut self, now: Now) -> bool {
        self.replace_at_ms = None;
        if self.observed.containers.is_none() || self.replacing.is_empty() {
            return false;
        }
        // Taken out for as long as its apps are gone through.
        let desired = self.desired.take();
        let mut changed = false;
        for assignment in desired.iter().flat_map(|d| &d.assignments) {
            // A change may be followed by another at once: a hold that nobody
            // has, then the beginning.
            for _ in 0..4 {
                match self.step_replacement(now, assignment) {
                    Stepped::Not => break,
                    Stepped::Memory => {}
                    Stepped::Changed => changed = true,
                }
            }
        }
        self.desired = desired;
        changed
    }

    fn seen(&mut self, now: Now, assignment: &Assignment, stage: &Stage) -> Seen {
        let app = &assignment.app;
        let is_begun = matches!(stage, Stage::Trial { .. });
        let (standing, tries) = match is_begun {
            true => {
                let standing = standing(assignment, &self.observed, &self.ledger);
                (standing, HASTY_TRIES)
            }
            false => (Standing::Coming(String::new()), PATIENT_TRIES),
        };
        let watched = self.watched.entry(app.clone()).or_default();
        watched.ready_since_ms = match standing {
            Standing::Ready => watched.ready_since_ms.or(Some(now.boot_ms)),
            Standing::Assumed | Standing::Coming(_) | Standing::Failing(_) => None,
        };
        if watched.ready_since_ms.is_none() {
            // What was heard was not of the state that counts.
            watched.told = None;
            watched.acknowledged = false;
        }
        Seen {
            now_ms: now.boot_ms,
            judge_from_ms: self.judge_from_ms.unwrap_or(u64::MAX),
            images_here: !is_begun && images_here(assignment, &self.observed),
            image_trouble: replace::image_trouble(assignment, &self.observed, tries),
            standing,
            ready_since_ms: watched.ready_since_ms,
            hold: watched.hold.clone(),
            heard: watched.heard(),
        }
    }

    fn step_replacement(&mut self, now: Now, assignment: &Assignment) -> Stepped {
        let app = &assignment.app;
        let Some(mut record) = self.replacing.get(app).cloned() else {
            return Stepped::Not;
        };
        if let Stage::RolledBack { .. } = record.stage
            && self.previous.contains_key(app)
        {
            return Stepped::Not;
        }
        let seen = self.seen(now, assignment, &record.stage);
        let assumed = seen.standing == Standing::Assumed;
        let next = replace::next(assignment, self.previous.get(app), &record, &seen);
        let to = assignment.revision;
        match next {
            Next::Stay(at_ms) => {
                let look = assumed.then(|| now.boot_ms.saturating_add(LOOK_AGAIN_MS));
                let at = [self.replace_at_ms, at_ms, look].into_iter().flatten();
                self.replace_at_ms = at.min();
                return Stepped::Not;
            }
            Next::Ask => {
                self.watch(app).hold = Hold::Asked;
                self.effects.push(Effect::AskHold { app: app.clone() });
                return Stepped::Memory;
            }
            Next::Tell => {
                self.watch(app).told = Some(self.last_seq);
                // Whether or not there is anything new in it.
                self.pace.asked(now.boot_ms);
                return Stepped::Memory;
            }
            Next::Hold(reason) => {
                let text = format!("the app holds its update to revision {to}: {reason}");
                self.note(now, Severity::Normal, "UpdateHeld", Some(app), &text);
                record.stage = Stage::Held {
                    since_ms: now.boot_ms,
                    reason,
                };
            }
            Next::Begin { forced } => {
                if forced {
                    let secs = assignment.policy.update.hold_limit_secs;
                    let text = format!(
                        "the app still holds its update to revision {to} after {secs} seconds, the longest that it may: it begins"
                    );
                    self.note(now, Severity::Warning, "UpdateForced", Some(app), &text);
                }
                self.watch(app).hold = Hold::Unasked;
                let beside = assignment.policy.update.strategy
                    == skerry_wire::policy::Strategy::StartThenStop
                    && self.previous.contains_key(app);
                if !beside && !record.good_before {
                    self.set_previous(app, None);
                }
                record.stage = Stage::Trial {
                    since_ms: now.boot_ms,
                    reboots: 0,
                    handed_over: !beside,
                };
            }
            Next::HandOver => {
                if let Stage::Trial { handed_over, .. } = &mut record.stage {
                    *handed_over = true;
                }
                if !record.good_before {
                    self.set_previous(app, None);
                }
            }
            Next::Good => {
                if self.previous.contains_key(app) {
                    let text = format!("revision {to} has proved itself");
                    self.note(now, Severity::Normal, "Updated", Some(app), &text);
                }
                self.watched.remove(app);
                self.set_previous(app, None);
                self.set_replacing(app, None);
                self.pace.changed(now.boot_ms, Urgency::Soon);
                return Stepped::Changed;
            }
            Next::GoBack(why) => {
                let why: String = why.chars().take(MAX_REASON_CHARS).collect();
                self.tell_rollback(now, app, to, &why);
                self.watched.remove(app);
                record.stage = Stage::RolledBack { reason: why };
            }
        }
        self.set_replacing(app, Some(record));
        self.pace.changed(now.boot_ms, Urgency::Soon);
        Stepped::Changed
    }

    fn watch(&mut self, app: &AppRef) -> &mut Watched {
        self.watched.entry(app.clone()).or_default()
    }

    fn tell_rollback(&mut self, now: Now, app: &AppRef, to: RevisionId, why: &str) {
        let old = self.previous.get(app).map(|old| old.revision.to_string());
        let old = old.unwrap_or_default();
        let text = format!(
            "revision {to} failed, revision {old} is back: {why}. It is not tried again by itself: apply another one, or 'skerry rollout restart'"
        );
        self.note(now, Severity::Warning, "RolledBack", Some(app), &text);
    }
}

/// What a step came to.
enum Stepped {
    /// Nothing.
    Not,
    /// Something that is not stored.
    Memory,
    /// A record.
    Changed,
}
