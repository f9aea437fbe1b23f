//! All that the engine does for updates, in calls that block.

use super::artifact::ArtifactDir;
use super::slot::{SlotError, Slots, Switch};
use crate::chain::chain;
use crate::config::Config;
use crate::core::update::SlotState;
use crate::doctor::{self, Verdict};
use crate::volatile;
use skerry_wire::Digest;
use skerry_wire::update::ReleaseKind;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// A device's slots, its artifact and its doctor.
pub struct Software {
    slots: Mutex<Vec<Box<dyn Slots>>>,
    /// Where the artifact comes.
    pub artifacts: ArtifactDir,
    config: Config,
}

impl std::fmt::Debug for Software {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Software").finish_non_exhaustive()
    }
}

impl Software {
    /// One entry for each kind of software that can be updated here.
    pub fn new(config: Config, slots: Vec<Box<dyn Slots>>) -> Self {
        Self {
            slots: Mutex::new(slots),
            artifacts: ArtifactDir::new(&config.data_dir),
            config,
        }
    }

    fn with<T>(
        &self,
        kind: ReleaseKind,
        act: impl FnOnce(&mut dyn Slots) -> Result<T, SlotError>,
    ) -> Result<T, String> {
        // A panic in a slot leaves it as its file says: durable before return.
        let mut all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = all
            .iter_mut()
            .find(|slots| slots.kind() == kind)
            .ok_or_else(|| format!("there is no place for the {}", kind.as_str()))?;
        act(slots.as_mut()).map_err(|error| chain(&error))
    }

    /// How all slots stand.
    pub fn states(&self) -> BTreeMap<ReleaseKind, SlotState> {
        let all = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let states = all.iter().map(|slots| {
            let state = SlotState {
                running: slots.running(),
                trial: slots.trial(),
            };
            (slots.kind(), state)
        });
        states.collect()
    }

    /// Installs a verified artifact; what `doctor` finds bad at this time.
    pub fn install(
        &self,
        kind: ReleaseKind,
        digest: &Digest,
        version: &str,
        broker: &str,
    ) -> Result<Vec<String>, String> {
        if let Some(reason) = volatile::why_not_for_good(&self.config.data_dir) {
            return Err(reason);
        }
        let artifact = self.artifacts.path(digest);
        let installed = self.with(kind, |slots| slots.install(&artifact, version));
        // Either way it is of no more use: what was refused stays refused.
        self.artifacts.clear();
        installed?;
        let bad = self.diagnose(broker);
        Ok(bad.into_iter().map(|(kind, _)| kind).collect())
    }

    /// What is bad: its kind, and a sentence.
    pub fn diagnose(&self, broker: &str) -> Vec<(String, String)> {
        doctor::findings(&self.config, Some(broker))
            .into_iter()
            .filter(|finding| finding.verdict == Verdict::Bad)
            .map(|finding| (finding.kind.to_string(), finding.text))
            .collect()
    }

    /// See [`Slots::try_next`].
    pub fn try_next(&self, kind: ReleaseKind, confirm_secs: u32) -> Result<Switch, String> {
        self.with(kind, |slots| slots.try_next(confirm_secs))
    }

    /// See [`Slots::confirm`].
    pub fn confirm(&self, kind: ReleaseKind) -> Result<Option<Switch>, String> {
        self.with(kind, |slots| slots.confirm())
    }

    /// See [`Slots::revert`].
    pub fn revert(&self, kind: ReleaseKind, reason: &str) -> Result<Switch, String> {
        self.with(kind, |slots| slots.revert(reason))
    }
}
