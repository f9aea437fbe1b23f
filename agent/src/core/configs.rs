//! Configs and secrets on the device: whose files are written, when, and which
//! are kept for what still runs.
//!
//! Files follow the committed desired state, never the other way round: a
//! change is committed, then written, and written again whenever this run of
//! the agent cannot know that it was.

use super::event::{Configs, Effect};
use super::handle::Core;
use super::record::Change;
use skerry_wire::message::{VolumeAction, VolumeRef, VolumeRequest};
use skerry_wire::{
    AppName, Assignment, Config, ConfigRef, Desired, Namespace, VolumeSource, named_configs,
};
use std::collections::{BTreeMap, BTreeSet};

impl Core {
    fn config(&self, name: &ConfigRef) -> Option<&Config> {
        let desired = self.desired.iter().flat_map(|d| &d.configs);
        // What the hub says counts before what was kept.
        desired.chain(&self.kept).find(|c| c.reference() == *name)
    }

    /// All that may have containers: what is desired, what was before it, and
    /// the pods of jobs.
    fn all_assignments(&self) -> impl Iterator<Item = &Assignment> {
        let jobs = self.works.pods().pods.iter().map(|pod| &pod.assignment);
        let before = self.previous.values();
        self.assignments().iter().chain(before).chain(jobs)
    }

    /// What an assignment's containers are given.
    pub(super) fn configs_of(&self, assignment: &Assignment) -> Configs {
        let named = named_configs(&assignment.app.namespace, &assignment.pod);
        Configs {
            generation: self.generation(),
            all: named
                .keys()
                .filter_map(|n| self.config(n).cloned())
                .collect(),
            labels: match assignment.pod.reads_labels() {
                true => self.labels(),
                false => Default::default(),
            },
        }
    }

    /// Revisions that still run may name configs that a new desired state does
    /// not have any more: they are kept for their restarts.
    pub(super) fn keep_configs(&mut self, new: &Desired) {
        let there: BTreeSet<ConfigRef> = new.configs.iter().map(Config::reference).collect();
        let names = self
            .previous
            .values()
            .flat_map(|previous| named_configs(&previous.app.namespace, &previous.pod).into_keys());
        let names: BTreeSet<ConfigRef> = names.filter(|name| !there.contains(name)).collect();
        let found = names.iter().filter_map(|name| self.config(name).cloned());
        self.set_kept(found.collect());
    }

    /// Some revision does not run any more.
    pub(super) fn prune_kept(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let names: BTreeSet<ConfigRef> = self
            .previous
            .values()
            .flat_map(|p| named_configs(&p.app.namespace, &p.pod).into_keys())
            .collect();
        let mut kept = self.kept.clone();
        kept.retain(|config| names.contains(&config.reference()));
        self.set_kept(kept);
    }

    fn set_kept(&mut self, kept: Vec<Config>) {
        if kept != self.kept {
            self.kept = kept;
            self.changes.push(Change::Kept(self.kept.clone()));
        }
    }

    /// Has the files of all that may run written as they are now, behind the
    /// commit of what they are.
    pub(super) fn write_configs(&mut self) {
        let has_files = |a: &&Assignment| {
            let mut sources = a.pod.volumes.iter().map(|volume| &volume.source);
            sources.any(|source| matches!(source, VolumeSource::Config { .. }))
        };
        let all: Vec<(Assignment, Configs)> = self
            .all_assignments()
            .filter(has_files)
            .map(|assignment| (assignment.clone(), self.configs_of(assignment)))
            .collect();
        if !all.is_empty() {
            self.commit();
            self.effects.push(Effect::WriteConfigs(all));
        }
    }

    /// Something of the hub with named volumes.
    pub(super) fn volume(&mut self, request: VolumeRequest) {
        let stream = request.stream;
        if let Err(reason) = self.may_change(&request.action) {
            return self.refuse_stream(stream, reason);
        }
        if self.open_stream(stream, super::streams::StreamKind::Volume) {
            let users = self.volume_users();
            self.effects.push(Effect::OpenVolume { request, users });
        }
    }

    /// Refuses to take a volume from under an app.
    pub fn may_change(&self, action: &VolumeAction) -> Result<(), String> {
        let volume = match action {
            VolumeAction::Remove(volume) | VolumeAction::Restore(volume) => volume,
            VolumeAction::List | VolumeAction::Read { .. } | VolumeAction::Write { .. } => {
                return Ok(());
            }
        };
        if let Some(apps) = self.volume_users().get(volume) {
            let names: Vec<&str> = apps.iter().map(AppName::as_str).collect();
            return Err(format!(
                "volume {volume} is used by {}: delete the app, or take it from this device, and try again",
                names.join(", ")
            ));
        }
        // What leaves is known by name only: it may still use the volume.
        let assigned = |entry: &super::ledger::Entry| {
            self.all_assignments()
                .any(|a| a.app == entry.app && a.revision == entry.revision)
        };
        let leaving = self
            .ledger
            .values()
            .find(|e| e.app.namespace == volume.namespace && !assigned(e));
        match leaving {
            Some(entry) => Err(format!(
                "app {} is just being stopped and may still use volume {volume}: try again in a moment",
                entry.app
            )),
            None => Ok(()),
        }
    }

    /// Apps of each named volume that some app names.
    pub fn volume_users(&self) -> BTreeMap<VolumeRef, BTreeSet<AppName>> {
        let mut users: BTreeMap<VolumeRef, BTreeSet<AppName>> = BTreeMap::new();
        for assignment in self.all_assignments() {
            let namespace: &Namespace = &assignment.app.namespace;
            for volume in &assignment.pod.volumes {
                if let VolumeSource::Named { claim, .. } = &volume.source
                    && let Ok(name) = claim.parse()
                {
                    let namespace = namespace.clone();
                    let apps = users.entry(VolumeRef { namespace, name }).or_default();
                    apps.insert(assignment.app.name.clone());
                }
            }
        }
        users
    }
}
