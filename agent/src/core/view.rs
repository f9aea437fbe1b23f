//! What others may see of the core.

use super::event::Now;
use super::handle::{Core, Identity, LinkState};
use super::observed::Observed;
use super::plan::Ledger;
use super::report;
use super::update::UpdateView;
use skerry_wire::report::Report;
use skerry_wire::{AppRef, Assignment, Generation, SessionId};
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

    /// What the hub would be told now. Does not count as telling.
    pub fn report(&self, now: Now) -> Report {
        let mut apps = report::apps(
            now.boot_ms,
            self.assignments(),
            &self.previous,
            &self.replacing,
            &self.observed,
            &self.ledger,
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
            conditions: self
                .conditions
                .iter()
                .cloned()
                .chain(self.network_condition())
                .collect(),
            apps,
            events: self.journal.events().cloned().collect(),
            vitals: skerry_wire::report::Vitals::default(),
            updates: self.updates.status(),
        }
    }
}
