//! An order on trial: switched to, proved, then kept or undone; and what a
//! start of the agent finds of it, also long after.

use super::{Active, DIAGNOSE_AGAIN_MS, Doctor, Phase, Step, Subject, UpdateEffect, UpdateRecord};
use crate::core::event::{Effect, Now};
use crate::core::handle::Core;
use crate::core::record::Change;
use crate::core::report::Urgency;
use crate::update::slot::Trial;
use skerry_wire::report::Severity;

impl Core {
    // --- the agent starts

    /// Takes up what an earlier run of the agent left.
    pub(in crate::core) fn restore_updates(&mut self, now: Now) {
        for (subject, record) in self.updates.records.clone() {
            let slot = subject
                .kind()
                .and_then(|k| self.updates.start.slots.get(&k));
            let trial = slot.map(|s| s.trial.clone());
            let runs = slot.map(|s| s.running.clone()).unwrap_or_default();
            match (record.phase, trial) {
                (
                    Phase::Trying {
                        what,
                        confirm_secs,
                        bad_before,
                    },
                    Some(Trial::Running),
                ) => {
                    let wait_ms = u64::from(confirm_secs).saturating_mul(1_000);
                    self.updates.active = Some(Active {
                        subject,
                        order: record.order,
                        confirm_secs,
                        what,
                        step: Step::Proving {
                            deadline_ms: now.boot_ms.saturating_add(wait_ms),
                            after: self.last_seq,
                            bad_before,
                            doctor: Doctor::Waits,
                            line: None,
                        },
                    });
                }
                (Phase::Confirming { what }, Some(Trial::Running)) => {
                    self.updates.active = Some(Active {
                        subject,
                        order: record.order,
                        confirm_secs: 0,
                        what,
                        step: Step::Confirming,
                    });
                    self.confirm_slot(subject);
                }
                (Phase::Confirming { what }, Some(Trial::None)) if runs == what => {
                    self.confirmed(now, subject, record.order, &what);
                }
                (Phase::Confirming { what }, Some(Trial::None)) => {
                    let reason = format!("{runs} was put in its place on the device");
                    self.rolled_back(now, subject, record.order, &what, reason);
                }
                // It ended again and again after it was confirmed. What was
                // undone before it was in use anyway is another matter.
                (Phase::Confirmed { what }, Some(Trial::Undone { reason })) if runs != what => {
                    self.rolled_back(now, subject, record.order, &what, reason);
                }
                (
                    Phase::Trying { what, .. } | Phase::Confirming { what },
                    Some(Trial::Undone { reason }),
                ) => self.rolled_back(now, subject, record.order, &what, reason),
                (Phase::Trying { what, .. }, Some(Trial::None)) => {
                    let reason = "the device started anew before the switch was made".to_string();
                    self.rolled_back(now, subject, record.order, &what, reason);
                }
                (Phase::Trying { what, .. } | Phase::Confirming { what }, None) => {
                    let reason = match subject {
                        Subject::Line => "the agent started anew during the trial",
                        Subject::Agent | Subject::Os => "the place for it is gone",
                    };
                    self.rolled_back(now, subject, record.order, &what, reason.into());
                }
                (Phase::Confirmed { .. } | Phase::Refused { .. } | Phase::RolledBack { .. }, _) => {
                }
            }
        }
        // A trial that the store knows nothing of: it was lost with it.
        let stray = self.updates.start.slots.iter().find(|(kind, slot)| {
            let active = self.updates.active.as_ref().map(|a| a.subject);
            slot.trial == Trial::Running && active != Some(Subject::of(**kind))
        });
        if let Some((kind, slot)) = stray {
            let (kind, what) = (*kind, slot.running.clone());
            self.updates.active = Some(Active {
                subject: Subject::of(kind),
                order: 0,
                confirm_secs: 0,
                what,
                step: Step::Reverting,
            });
            let reason = "the agent's store does not know of the trial".to_string();
            self.effects
                .push(Effect::Update(UpdateEffect::Revert { kind, reason }));
        }
    }

    // --- the trial

    /// The hub knows: commit, then switch.
    pub(super) fn switch(&mut self, now: Now) {
        let Some(active) = &mut self.updates.active else {
            return;
        };
        let Step::Armed {
            bad_before, line, ..
        } = std::mem::replace(&mut active.step, Step::Switching)
        else {
            return;
        };
        let record = UpdateRecord {
            order: active.order,
            phase: Phase::Trying {
                what: active.what.clone(),
                confirm_secs: active.confirm_secs,
                bad_before: bad_before.clone(),
            },
        };
        let (subject, confirm_secs) = (active.subject, active.confirm_secs);
        let effect = match (line, subject.kind()) {
            (Some((broker, tls_pin)), _) => {
                let wait_ms = u64::from(confirm_secs).saturating_mul(1_000);
                active.step = Step::Proving {
                    deadline_ms: now.boot_ms.saturating_add(wait_ms),
                    after: self.last_seq,
                    bad_before,
                    doctor: Doctor::Waits,
                    line: Some((broker.clone(), tls_pin)),
                };
                UpdateEffect::TryLine { broker, tls_pin }
            }
            (None, Some(kind)) => UpdateEffect::Switch { kind, confirm_secs },
            // A line always says which.
            (None, None) => return,
        };
        self.updates.records.insert(subject, record.clone());
        self.changes.push(Change::Update(subject, record));
        self.commit();
        self.effects.push(Effect::Update(effect));
    }

    pub(super) fn diagnosed(&mut self, now: Now, bad: Vec<(String, String)>) {
        let seen = self.observed.containers.is_some();
        let Some(active) = &mut self.updates.active else {
            return;
        };
        let Step::Proving {
            bad_before, doctor, ..
        } = &mut active.step
        else {
            return;
        };
        let mut fresh: Vec<String> = bad
            .into_iter()
            .filter(|(kind, _)| !bad_before.contains(kind))
            .map(|(_, text)| text)
            .collect();
        if !seen {
            fresh.push("the containers cannot be seen".into());
        }
        if !fresh.is_empty() {
            *doctor = Doctor::Again {
                at_ms: now.boot_ms.saturating_add(DIAGNOSE_AGAIN_MS),
                found: fresh.join("; "),
            };
            return;
        }
        active.step = Step::Confirming;
        let record = UpdateRecord {
            order: active.order,
            phase: Phase::Confirming {
                what: active.what.clone(),
            },
        };
        let subject = active.subject;
        self.updates.records.insert(subject, record.clone());
        self.changes.push(Change::Update(subject, record));
        self.commit();
        self.confirm_slot(subject);
    }

    fn confirm_slot(&mut self, subject: Subject) {
        if let Some(kind) = subject.kind() {
            let confirm = UpdateEffect::Confirm { kind };
            self.effects.push(Effect::Update(confirm));
        }
    }

    pub(super) fn slot_confirmed(&mut self, now: Now, result: Result<bool, String>) {
        let Some(active) = &self.updates.active else {
            return;
        };
        if !matches!(active.step, Step::Confirming) {
            return;
        }
        let (subject, order, what) = (active.subject, active.order, active.what.clone());
        match result {
            Ok(restart) => {
                self.confirmed(now, subject, order, &what);
                if restart {
                    self.commit();
                    self.effects.push(Effect::Update(UpdateEffect::Restart));
                }
            }
            Err(reason) => self.revert(format!("it cannot be made the one in use: {reason}")),
        }
    }

    pub(super) fn line_proved(&mut self, now: Now, line: (String, Option<[u8; 32]>)) {
        let Some(active) = &self.updates.active else {
            return;
        };
        let (order, what) = (active.order, active.what.clone());
        let (broker, tls_pin) = line.clone();
        self.updates.start.line = Some(line);
        self.changes.push(Change::Line { broker, tls_pin });
        self.confirmed(now, Subject::Line, order, &what);
        self.commit();
        self.effects.push(Effect::Update(UpdateEffect::KeepLine));
    }

    // --- ends

    /// Time is up.
    pub(super) fn give_up(&mut self, now: Now) {
        let Some(active) = &self.updates.active else {
            return;
        };
        let Step::Proving { doctor, line, .. } = &active.step else {
            return;
        };
        let secs = active.confirm_secs;
        let unheard = match self.offline_reason() {
            Some(why) => format!("the hub was not reached within {secs} s: {why}"),
            None => format!("the hub acknowledged nothing within {secs} s"),
        };
        let reason = match doctor {
            Doctor::Waits => unheard,
            Doctor::Asked => format!("'skerry-agent doctor' did not end within {secs} s"),
            Doctor::Again { found, .. } => {
                format!("'skerry-agent doctor' finds what was not so before: {found}")
            }
        };
        if line.is_none() {
            return self.revert(reason);
        }
        let (order, what) = (active.order, active.what.clone());
        self.rolled_back(now, Subject::Line, order, &what, reason);
        self.commit();
        self.effects.push(Effect::Update(UpdateEffect::OldLine));
    }

    /// What runs on trial gives itself up; what comes back tells of it.
    fn revert(&mut self, reason: String) {
        let Some(active) = &mut self.updates.active else {
            return;
        };
        active.step = Step::Reverting;
        if let Some(kind) = active.subject.kind() {
            let revert = UpdateEffect::Revert { kind, reason };
            self.effects.push(Effect::Update(revert));
        }
    }

    fn end_update(&mut self, now: Now, subject: Subject, order: u64, phase: Phase) {
        let record = UpdateRecord { order, phase };
        self.updates.records.insert(subject, record.clone());
        self.changes.push(Change::Update(subject, record));
        if self
            .updates
            .active
            .as_ref()
            .is_some_and(|a| a.order == order)
        {
            self.updates.active = None;
        }
        self.pace.changed(now.boot_ms, Urgency::Soon);
    }

    pub(super) fn confirmed(&mut self, now: Now, subject: Subject, order: u64, what: &str) {
        let text = format!("{} is in use for good", shown(subject, what));
        let what = what.to_string();
        self.end_update(now, subject, order, Phase::Confirmed { what });
        self.note(now, Severity::Normal, "UpdateConfirmed", None, &text);
    }

    fn rolled_back(&mut self, now: Now, subject: Subject, order: u64, what: &str, reason: String) {
        let text = format!("{} was tried and undone: {reason}", shown(subject, what));
        let what = what.to_string();
        self.end_update(now, subject, order, Phase::RolledBack { what, reason });
        self.trouble(now, "UpdateRolledBack", &text);
    }

    pub(super) fn refuse_update(
        &mut self,
        now: Now,
        subject: Subject,
        order: u64,
        what: &str,
        reason: String,
    ) {
        let text = format!("{} was not tried: {reason}", shown(subject, what));
        let what = what.to_string();
        self.end_update(now, subject, order, Phase::Refused { what, reason });
        self.trouble(now, "UpdateRefused", &text);
    }
}

fn shown(subject: Subject, what: &str) -> String {
    match subject {
        Subject::Agent => format!("agent {what}"),
        Subject::Os => format!("system {what}"),
        Subject::Line => format!("the line to {what}"),
    }
}
