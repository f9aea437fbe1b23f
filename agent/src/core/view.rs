//! What others may see of the core.

use super::event::Now;
use super::handle::{Core, Identity, LinkState};
use super::ledger::Ledger;
use super::observed::Observed;
use super::replace::{self, Runs};
use super::report;
use super::update::UpdateView;
use super::work::Works;
use skerry_wire::report::{Condition, Report};
use skerry_wire::{AppRef, Assignment, Generation, RevisionId, SessionId};
use std::collections::BTreeMap;

impl Core {
    /// Who this device is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// This run.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// The newest desired state that is committed; 0 before the first.
    pub fn generation(&self) -> Generation {
        self.desired
            .as_ref()
            .map_or(Generation(0), |d| d.generation)
    }

    /// What shall run; empty when the hub has never said.
    pub fn assignments(&self) -> &[Assignment] {
        self.desired.as_ref().map_or(&[], |d| &d.assignments)
    }

    /// What was before a revision that is not known to be good.
    pub fn previous(&self) -> &BTreeMap<AppRef, Assignment> {
        &self.previous
    }

    /// What we did.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What the machine says.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Whether the hub shut this device out.
    pub fn is_revoked(&self) -> bool {
        self.revoked
    }

    /// `None` while connected, else why not.
    pub fn offline_reason(&self) -> Option<&str> {
        match &self.link {
            LinkState::Up { .. } => None,
            LinkState::Down { reason, .. } => Some(reason),
        }
    }

    /// How each software and the line of this device stand.
    pub fn updates(&self) -> Vec<UpdateView> {
        self.updates.views()
    }

    /// How far jobs are.
    pub fn works(&self) -> &Works {
        &self.works
    }

    /// The revision that an app's containers have in names: of a job, that of
    /// its newest pod.
    pub fn named_revision(&self, app: &AppRef, revision: RevisionId) -> RevisionId {
        let pod = self.works.newest_pod(app);
        let carried = self.carried.get(app).filter(|one| one.shown == revision);
        match (pod, carried) {
            (Some(pod), _) => pod.revision,
            (None, Some(carried)) => carried.running,
            (None, None) => revision,
        }
    }

    /// The older revision that runs beside the newest one of an app.
    pub fn runs_beside(&self, app: &AppRef) -> Option<RevisionId> {
        let new = self.assignments().iter().find(|one| one.app == *app)?;
        let (old, record) = (self.previous.get(app), self.replacing.get(app));
        match replace::runs(new, old, record) {
            Runs::Both { old, .. } => Some(old.revision),
            Runs::One(_) => None,
        }
    }

    /// The machine's lasting troubles, and what holds jobs up.
    fn all_conditions(&self) -> Vec<Condition> {
        let mut all = self.conditions.clone();
        all.extend(self.network_condition());
        if self.works.waits_for_clock(self.assignments()) {
            all.push(Condition {
                kind: "ClockNotTrusted".into(),
                status: true,
                reason: "CronJobsWait".into(),
                message: "nothing vouches for this device's clock, so no CronJob starts: let a time server set it (timedatectl set-ntp true, chrony), or give the board a clock with a battery".into(),
            });
        }
        all
    }

    /// What the hub would be told now. Does not count as telling.
    pub fn report(&self, now: Now) -> Report {
        let mut apps = report::apps(
            now.boot_ms,
            self.assignments(),
            &self.previous,
            &self.replacing,
            &self.observed,
            &self.ledger,
            (now, &self.works),
        );
        for status in &mut apps {
            let values = self.values.get(&status.app).into_iter().flatten();
            status.values = values.map(|(n, v)| (n.clone(), v.clone())).collect();
        }
        self.show_carried(&mut apps);
        Report {
            generation: self.generation(),
            at: now.wall,
            facts: self.facts.clone(),
            conditions: self.all_conditions(),
            apps,
            events: self.journal.events().cloned().collect(),
            vitals: skerry_wire::report::Vitals::default(),
            updates: self.updates.status(),
        }
    }
}
