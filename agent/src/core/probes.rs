//! Probes and hooks between the machine and [`Health`](super::health::Health).

use super::event::{Effect, HookKind, Now};
use super::handle::Core;
use super::health::{Answer, ProbeKind, Verdict};
use super::ledger::{Entry, Phase};
use super::name::InstanceName;
use super::report::Urgency;
use crate::runtime::{ContainerId, Status};
use skerry_wire::report::Severity;

impl Core {
    /// The container runs now: its hook or its probes are due.
    pub(super) fn begin_health(&mut self, now: Now, id: &ContainerId) {
        // Its end may have come first.
        if !self.observed.runs(id) {
            self.observed.health.gone(id);
        } else if let Some(hook) = self.observed.health.runs(now.boot_ms, id) {
            self.effects.push(Effect::RunHook {
                id: id.clone(),
                kind: HookKind::PostStart,
                hook,
            });
        }
    }

    /// Takes up the containers that ran before this run of the agent, or that
    /// came with the ledger's loss.
    pub(super) fn watch_found(&mut self, now: Now) {
        let Some(containers) = &self.observed.containers else {
            return;
        };
        let desired = self.desired.iter().flat_map(|d| &d.assignments);
        let runs = self.works.pods().pods.iter().map(|run| &run.assignment);
        for assignment in desired.chain(self.previous.values()).chain(runs) {
            for container in assignment.pod.all_containers() {
                let name = InstanceName::new(&assignment.app, assignment.revision, &container.name);
                let Some(entry) = self.ledger.get(&name) else {
                    continue;
                };
                let id = name.incarnation(entry.incarnation);
                if matches!(containers.get(&id), Some(Status::Running { .. })) {
                    self.observed.health.found(now.boot_ms, &id, container);
                }
            }
        }
    }

    /// Asks what is due.
    pub(super) fn ask_probes(&mut self, now: Now) {
        if self.observed.containers.is_none() {
            return;
        }
        let questions = self.observed.health.due(now.boot_ms);
        let probes = questions.into_iter().map(Box::new).map(Effect::Probe);
        self.effects.extend(probes);
    }

    /// A probe was answered; true if the plan goes by what changed.
    pub(super) fn probed(
        &mut self,
        now: Now,
        id: &ContainerId,
        kind: ProbeKind,
        answer: Answer,
    ) -> bool {
        let verdict = self.observed.health.answered(now.boot_ms, id, kind, answer);
        let (severity, reason, text) = match verdict {
            Verdict::Same => return false,
            Verdict::Better => {
                self.pace.changed(now.boot_ms, Urgency::Soon);
                return true;
            }
            Verdict::Unready(why) => (
                Severity::Warning,
                "NotReady",
                format!("is not ready: {why}"),
            ),
            // Its stop is told with the reason.
            Verdict::Unwell(_) => return true,
        };
        if let Some(entry) = self.entry_of(id) {
            let text = format!("container {} {text}", entry.container);
            let app = entry.app.clone();
            self.note(now, severity, reason, Some(&app), &text);
        }
        true
    }

    /// A hook is done.
    pub(super) fn hooked(
        &mut self,
        now: Now,
        id: &ContainerId,
        kind: HookKind,
        result: Result<(), String>,
    ) {
        if kind == HookKind::PostStart {
            self.observed.health.hooked(now.boot_ms, id, result);
            self.pace.changed(now.boot_ms, Urgency::Soon);
            return;
        }
        let Some(entry) = self.entry_of(id) else {
            return;
        };
        let stopping = matches!(entry.phase, Phase::Stopping { .. });
        let (app, container) = (entry.app.clone(), entry.container.clone());
        if let Err(why) = result {
            let text = format!("the preStop hook of container {container} failed: {why}");
            self.note(now, Severity::Warning, "PreStopFailed", Some(&app), &text);
        }
        if stopping && self.observed.runs(id) {
            self.effects.push(Effect::Stop { id: id.clone() });
        }
    }

    /// The entry whose newest incarnation this is.
    pub(super) fn entry_of(&self, id: &ContainerId) -> Option<&Entry> {
        let (name, number) = InstanceName::of(id)?;
        let entry = self.ledger.get(&name)?;
        (entry.incarnation == number).then_some(entry)
    }
}
