//! Between what shall be and what is: plans until nothing is planned, commits
//! before it acts, and reports.

use super::action::{self, Action};
use super::event::{CreateContainer, Effect, HookKind, Now, OutgoingReport};
use super::handle::Core;
use super::ledger::StopCause;
use super::name::{InstanceName, log_name, run_log_name, runs_log_group};
use super::plan::{Wanted, plan};
use super::record::Change;
use super::report::{self, Urgency};
use super::work::WorkRecord;
use crate::runtime::ContainerId;
use skerry_wire::AppRef;
use skerry_wire::policy::Work;
use skerry_wire::report::{Report, Severity};

impl Core {
    pub(super) fn settle(&mut self, now: Now) {
        // Each pass carries out all that was planned; two or three are enough.
        // The bound is for the case that a law of the plan is broken.
        for _ in 0..16 {
            let step_at_ms = self.step_works(now);
            let wanted = Wanted {
                assignments: self.desired.as_ref().map(|d| d.assignments.as_slice()),
                previous: &self.previous,
                replacing: &self.replacing,
                jobs: self.works.pods(),
            };
            let plan = plan(now.boot_ms, wanted, &self.observed, &self.ledger);
            self.plan_at_ms = plan.wake_at_ms.into_iter().chain(step_at_ms).min();
            if plan.actions.is_empty() {
                break;
            }
            self.pace.changed(now.boot_ms, Urgency::Soon);
            let mut acts = Vec::new();
            for action in plan.actions {
                let touched = touched(&action);
                action::apply(now.boot_ms, &mut self.ledger, &action);
                self.observed.begun(now.boot_ms, &action);
                if let Some(name) = touched {
                    let entry = self.ledger.get(&name).cloned();
                    self.changes.push(Change::Ledger(name, entry));
                }
                self.act(now, action, &mut acts);
            }
            self.commit();
            self.effects.extend(acts);
        }
        self.commit();
        self.report_when_due(now);
    }

    /// Takes jobs as far as they go. When to do so again.
    fn step_works(&mut self, now: Now) -> Option<u64> {
        let assignments = self.desired.as_ref().map(|d| d.assignments.as_slice());
        let stepped = self.works.step(now, assignments, &self.ledger);
        self.works_changed(stepped.changed);
        for (app, note) in stepped.notes {
            self.note(now, note.severity, note.reason, Some(&app), &note.text);
        }
        // What still has an entry goes with it.
        for (app, container) in stepped.logs {
            let mut entries = self.ledger.values();
            if !entries.any(|e| e.app == app && e.container == container) {
                let log_name = log_name(&app, &container);
                self.commit();
                self.effects.push(Effect::RemoveLog { log_name });
            }
        }
        for (app, runs) in stepped.kept_runs {
            let group = runs_log_group(&app);
            self.commit();
            self.effects.push(Effect::KeepRunLogs { group, runs });
        }
        stepped.wake_at_ms
    }

    fn works_changed(&mut self, changed: Vec<AppRef>) {
        for app in changed {
            let record = self.works.record(&app).cloned();
            self.changes.push(Change::Work(app, record));
        }
    }

    pub(super) fn works_rebooted(&mut self) {
        let assignments = self.desired.as_ref().map_or(&[][..], |d| &d.assignments);
        let changed = self.works.rebooted(assignments);
        self.works_changed(changed);
    }

    pub(super) fn act(&mut self, now: Now, action: Action, acts: &mut Vec<Effect>) {
        match action {
            Action::FetchImage(image) => acts.extend(self.fetcher.want(&image).effects),
            Action::Create {
                entry,
                assignment,
                container,
            } => {
                let configs = self.configs_of(&assignment);
                let run = self.works.run_of(&entry.app, entry.revision);
                acts.push(Effect::Create(Box::new(CreateContainer {
                    id: entry.name().incarnation(entry.incarnation),
                    log_name: match run {
                        Some(run) => run_log_name(&entry.app, run, &entry.container),
                        None => log_name(&entry.app, &entry.container),
                    },
                    log_shares: match &assignment.policy.work {
                        Work::CronJob(cron) => cron.kept_runs(),
                        Work::Service | Work::Job(_) => 1,
                    },
                    assignment: *assignment,
                    container,
                    configs,
                })));
            }
            Action::Settle { id, .. } => {
                acts.push(Effect::ForgetExit { id: id.clone() });
                acts.push(Effect::Remove { id });
            }
            Action::Stop { id, kill_at_ms, .. } if kill_at_ms <= now.boot_ms => {
                acts.push(Effect::Kill { id });
            }
            Action::Stop {
                instance,
                id,
                cause,
                ..
            } => {
                self.tell_stop(now, &id, cause);
                // Its probes do not count any more.
                self.observed.health.gone(&id);
                let entry = instance.and_then(|name| self.ledger.get(&name));
                acts.push(match entry.and_then(|entry| entry.stop.pre_stop.clone()) {
                    Some(hook) => Effect::RunHook {
                        id,
                        kind: HookKind::PreStop,
                        hook,
                    },
                    None => Effect::Stop { id },
                });
            }
            Action::Kill { id, .. } => acts.push(Effect::Kill { id }),
            Action::Remove { id } => {
                acts.push(Effect::ForgetExit { id: id.clone() });
                acts.push(Effect::Remove { id });
            }
            Action::Forget {
                with_log,
                with_scratch,
                ..
            } => {
                if let Some((app, container)) = with_log {
                    let log_name = log_name(&app, &container);
                    acts.push(Effect::RemoveLog { log_name });
                }
                if let Some((app, revision)) = with_scratch {
                    // Its run's log was perhaps being written when it was
                    // not wanted any more.
                    let group = runs_log_group(&app);
                    let kept = self.works.record(&app).and_then(WorkRecord::kept_runs);
                    let runs = kept.unwrap_or_default();
                    acts.push(Effect::KeepRunLogs { group, runs });
                    let revision = revision.short();
                    acts.push(Effect::RemoveScratch { app, revision });
                }
            }
            Action::Adopt { entry } => {
                let text = format!(
                    "container {} was found and taken over: the agent's store did not know it",
                    entry.container
                );
                self.note(now, Severity::Warning, "Adopted", Some(&entry.app), &text);
                self.watch_found(now);
            }
            Action::Vanished { .. } | Action::Reset { .. } => {}
        }
    }

    /// Why a container that shall run is stopped.
    fn tell_stop(&mut self, now: Now, id: &ContainerId, cause: StopCause) {
        let unwell = self.observed.health.unwell(id).map(|u| u.why.clone());
        let unwell = unwell.or_else(|| {
            let device = self.observed.lost_node(id)?;
            Some(format!("{device} is back as another device node"))
        });
        if let (StopCause::Unwell, Some(why), Some(entry)) = (cause, unwell, self.entry_of(id)) {
            let text = format!("container {} is stopped: {why}", entry.container);
            let app = entry.app.clone();
            self.note(now, Severity::Warning, "Unhealthy", Some(&app), &text);
        }
    }

    pub(super) fn report_when_due(&mut self, now: Now) {
        if self.pace.wake_at_ms().is_none_or(|at| now.boot_ms < at) {
            return;
        }
        let report = self.report(now);
        let content = report::content(&report);
        let seq = self.last_seq.next();
        if self.pace.send(now.boot_ms, content, seq) {
            let events = self.journal.send();
            let report = report::fit(Report { events, ..report });
            let report = OutgoingReport {
                seq: self.next_seq(),
                report: Box::new(report),
            };
            self.effects.push(Effect::SendReport(report));
        }
    }
}

/// The entry of the ledger that an action changes.
fn touched(action: &Action) -> Option<InstanceName> {
    match action {
        Action::Adopt { entry } | Action::Create { entry, .. } => Some(entry.name()),
        Action::Settle { instance, .. }
        | Action::Vanished { instance }
        | Action::Reset { instance }
        | Action::Forget { instance, .. } => Some(instance.clone()),
        Action::Stop { instance, .. } | Action::Kill { instance, .. } => instance.clone(),
        Action::FetchImage(_) | Action::Remove { .. } => None,
    }
}
