//! What apps may ask of the device's API, and what they say there.

use super::event::{Effect, Now};
use super::handle::Core;
use super::name::InstanceName;
use super::replace::Stage;
use super::report::Urgency;
use crate::runtime::ContainerId;
use skerry_wire::policy::Grant;
use skerry_wire::report::{AppStatus, Facts};
use skerry_wire::{AppRef, Labels, RevisionId};
use std::collections::BTreeMap;

/// An update that an app may want to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingUpdate {
    /// To which revision.
    pub to: RevisionId,
    /// For so many milliseconds the app holds it; `None` if it does not.
    pub held_ms: Option<u64>,
    /// Longest time that it may, in seconds.
    pub limit_secs: u32,
}

impl Core {
    /// What each app may ask, those that may nothing left out.
    pub fn grants(&self) -> BTreeMap<AppRef, Vec<Grant>> {
        let granted = self.assignments().iter().map(|a| {
            let app = a.app.clone();
            (app, a.policy.grants.clone())
        });
        granted.filter(|(_, grants)| !grants.is_empty()).collect()
    }

    pub(super) fn serve_apps(&mut self) {
        let grants = self.grants();
        self.values.retain(|app, _| grants.contains_key(app));
        self.effects.push(Effect::ServeApps(grants));
    }

    /// The device's labels, as far as the hub has told them.
    pub fn labels(&self) -> Labels {
        let desired = self.desired.as_ref();
        desired.map(|d| d.labels.clone()).unwrap_or_default()
    }

    /// What the machine is.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// The revision of an app that runs, the newer one of two; `None` for an
    /// app that is not assigned.
    pub fn revision_of(&self, app: &AppRef) -> Option<RevisionId> {
        let assigned = self.assignments().iter().find(|a| a.app == *app)?;
        Some(self.runs(assigned).newest().revision)
    }

    /// Whether the app runs what it shall, and that has stayed ready for as long
    /// as it must.
    pub fn is_proved(&self, app: &AppRef) -> bool {
        !self.replacing.contains_key(app)
    }

    /// The update of an app that has yet to begin.
    pub fn waiting_update(&self, now: Now, app: &AppRef) -> Option<WaitingUpdate> {
        let assigned = self.assignments().iter().find(|a| a.app == *app)?;
        let record = self.replacing.get(app)?;
        let held_ms = match record.stage {
            Stage::Waiting => None,
            Stage::Held { since_ms, .. } => Some(now.boot_ms.saturating_sub(since_ms)),
            Stage::Trial { .. } | Stage::RolledBack { .. } => return None,
        };
        Some(WaitingUpdate {
            to: record.to,
            held_ms,
            limit_secs: assigned.policy.update.hold_limit_secs,
        })
    }

    /// A container has ended: what its app held, it held for it.
    pub(super) fn release_hold(&mut self, id: &ContainerId) {
        let name = InstanceName::of(id).map(|(name, _)| name);
        let Some(entry) = name.and_then(|name| self.ledger.get(&name)) else {
            return;
        };
        let app = entry.app.clone();
        let assigned = self.assignments().iter().find(|a| a.app == app);
        if assigned.is_some_and(|a| a.policy.grants.contains(&Grant::HoldUpdates)) {
            self.effects.push(Effect::ReleaseHold { app });
        }
    }

    /// An app says a value. Who keeps the bounds is who lets it in: here only
    /// so that no report can grow beyond them.
    pub(super) fn app_value(&mut self, now: Now, app: AppRef, name: String, text: Option<String>) {
        if !self.assignments().iter().any(|a| a.app == app) {
            return;
        }
        let values = self.values.entry(app).or_default();
        let before = values.get(&name).cloned();
        match &text {
            Some(text) if name.len() + text.len() <= AppStatus::MAX_VALUE_BYTES => {
                if values.len() < AppStatus::MAX_VALUES || values.contains_key(&name) {
                    values.insert(name.clone(), text.clone());
                }
            }
            Some(_) => {}
            None => drop(values.remove(&name)),
        }
        if values.get(&name) != before.as_ref() {
            self.pace.changed(now.boot_ms, Urgency::Slow);
        }
    }
}
