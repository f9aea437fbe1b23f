//! Configs and secrets: what operators declare, and which of them a device
//! gets: those that its assignments name, and no other.

use super::record::{Change, ConfigRecord};
use super::{AppAction, Device, Fleet, Refused, RefusedKind, Turn};
use crate::model::{App, ConfigObject, Revision};
use skerry_wire::{
    AppRef, Assignment, Config, ConfigKind, ConfigRef, Desired, DeviceId, encode, named_configs,
};
use std::collections::{BTreeMap, BTreeSet};

/// Configs and secrets of one hub.
const MAX_CONFIGS: usize = 10_000;
/// Bytes of all of them together: they are in memory.
const MAX_BYTES: usize = 256 * 1024 * 1024;

/// What was deleted, and the devices that are concerned.
type Deleted = (Vec<(ConfigRef, AppAction)>, Vec<DeviceId>);

impl Fleet {
    /// All configs and secrets, by namespace, name and kind.
    pub fn configs(&self) -> impl Iterator<Item = &ConfigRecord> {
        self.configs.values()
    }

    /// One of them.
    pub fn config(&self, config: &ConfigRef) -> Option<&ConfigRecord> {
        self.configs.get(config)
    }

    /// Apps whose pods name this one, whether they need it or not.
    pub fn users_of(&self, config: &ConfigRef) -> Vec<&AppRef> {
        let names = |record: &&super::AppRecord| {
            let app = &record.app.app;
            named_configs(&app.namespace, &record.revision.pod).contains_key(config)
        };
        let users = self.apps.values().filter(names);
        users.map(|record| &record.app.app).collect()
    }

    /// What an apply would do to these, without doing it. `apps` come with
    /// them.
    pub fn preview_configs(
        &self,
        configs: &[ConfigObject],
        apps: &[(App, Revision)],
    ) -> Result<Vec<(ConfigRef, AppAction)>, Refused> {
        let mut actions = Vec::new();
        let mut new = BTreeMap::new();
        for object in configs {
            let name = object.config.reference();
            let bytes = object.config.data.bytes();
            if bytes > Config::MAX_BYTES {
                return Err(invalid(
                    "ConfigTooLarge",
                    format!(
                        "{name} has {bytes} bytes, the limit is {}: split it",
                        Config::MAX_BYTES
                    ),
                ));
            }
            if let Some(key) = object.config.data.0.keys().find(|key| !Config::is_key(key)) {
                let shown: String = key.chars().take(80).collect();
                return Err(invalid(
                    "InvalidKey",
                    format!(
                        "'{shown}' is not a name of a file in {name}: use 1 to 253 letters, digits, '-', '_' and '.', not beginning with '..'"
                    ),
                ));
            }
            if new.insert(name.clone(), object).is_some() {
                return Err(invalid(
                    "ConfigTwice",
                    format!("{name} is declared twice: keep one"),
                ));
            }
            let action = match self.configs.get(&name) {
                None => AppAction::Created,
                Some(old) if old.object == *object => AppAction::Unchanged,
                Some(old) if old.object.immutable => {
                    return Err(Refused {
                        kind: RefusedKind::Conflict,
                        reason: "ConfigImmutable",
                        message: format!(
                            "{name} is immutable: declare another one and name that in the apps, or delete it first"
                        ),
                    });
                }
                Some(_) => AppAction::Configured,
            };
            actions.push((name, action));
        }
        let old = self
            .configs
            .iter()
            .filter(|(name, _)| !new.contains_key(name));
        let old: Vec<&ConfigObject> = old.map(|(_, record)| &record.object).collect();
        let all = old.iter().copied().chain(configs);
        let bytes: usize = all.map(|object| object.config.data.bytes()).sum();
        if old.len() + configs.len() > MAX_CONFIGS || bytes > MAX_BYTES {
            return Err(Refused {
                kind: RefusedKind::TooMany,
                reason: "TooManyConfigs",
                message: format!(
                    "a hub holds at most {MAX_CONFIGS} configs and secrets with {MAX_BYTES} bytes: delete some"
                ),
            });
        }
        self.check_missing(&new, apps)?;
        self.check_sizes_with(&new, apps)?;
        Ok(actions)
    }

    /// A new app may come before its configs, and waits for them. One that
    /// runs must not be stopped by a change that names what is not there.
    fn check_missing(
        &self,
        new: &BTreeMap<ConfigRef, &ConfigObject>,
        apps: &[(App, Revision)],
    ) -> Result<(), Refused> {
        for (app, revision) in apps {
            let Some(old) = self.apps.get(&app.app) else {
                continue;
            };
            let ran = self.missing_config(&app.app, &old.revision.pod).is_none();
            let named = named_configs(&app.app.namespace, &revision.pod);
            let mut needed = named.iter().filter(|(_, needed)| **needed);
            let missing = needed
                .find(|(name, _)| !new.contains_key(name) && !self.configs.contains_key(name));
            if let (true, Some((name, _))) = (ran, missing) {
                return Err(Refused {
                    kind: RefusedKind::Conflict,
                    reason: "ConfigMissing",
                    message: format!(
                        "app {} runs, and its change names {name}, which is not on the hub: apply that first or in the same call, or say 'optional: true'",
                        app.app
                    ),
                });
            }
        }
        Ok(())
    }

    /// Refuses what would make some device's state longer than its limit: an
    /// app that runs would have to stop for it.
    fn check_sizes_with(
        &self,
        new: &BTreeMap<ConfigRef, &ConfigObject>,
        apps: &[(App, Revision)],
    ) -> Result<(), Refused> {
        let object = |name: &ConfigRef| {
            let old = || self.configs.get(name).map(|record| &record.object);
            new.get(name).copied().or_else(old)
        };
        // What each app that names any adds to a device.
        let replaced: BTreeMap<&AppRef, (&App, &Revision)> = apps
            .iter()
            .map(|(app, revision)| (&app.app, (app, revision)))
            .collect();
        let old = self
            .apps
            .values()
            .map(|record| (&record.app, &record.revision));
        let old = old.filter(|(app, _)| !replaced.contains_key(&app.app));
        let all: Vec<(&App, BTreeSet<ConfigRef>, usize)> = old
            .chain(replaced.values().copied())
            .map(|(app, revision)| {
                let named = named_configs(&app.app.namespace, &revision.pod);
                (
                    app,
                    named.into_keys().collect(),
                    encode(&revision.pod).len(),
                )
            })
            .collect();
        let mut named: BTreeSet<&ConfigRef> = BTreeSet::new();
        for (_, configs, _) in &all {
            named.extend(configs);
        }
        let bytes = |name: &ConfigRef| object(name).map_or(0, |o| encode(&o.config).len());
        let sizes: BTreeMap<&ConfigRef, usize> =
            named.into_iter().map(|name| (name, bytes(name))).collect();
        let apps_bytes: usize = all.iter().map(|(_, _, bytes)| bytes).sum();
        if sizes.values().sum::<usize>() + apps_bytes <= Desired::MAX_BYTES {
            return Ok(());
        }
        for device in self.devices.values() {
            let labels = &device.record.labels;
            let here = all.iter().filter(|(app, ..)| app.placement.matches(labels));
            let mut names: BTreeSet<&ConfigRef> = BTreeSet::new();
            let mut total = 0;
            for (_, configs, bytes) in here {
                names.extend(configs);
                total += bytes;
            }
            total += names.iter().map(|name| sizes[*name]).sum::<usize>();
            if total > Desired::MAX_BYTES {
                return Err(invalid(
                    "DesiredTooLarge",
                    format!(
                        "device '{}' would get {total} bytes of apps, configs and secrets, the limit is {}: make them smaller, or narrow a selector",
                        device.record.device,
                        Desired::MAX_BYTES
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Stores what [`Fleet::preview_configs`] let pass. The devices that are
    /// concerned are placed anew by the caller.
    pub(super) fn put_configs(
        &mut self,
        turn: &mut Turn,
        configs: Vec<ConfigObject>,
        actions: &[(ConfigRef, AppAction)],
    ) -> Vec<DeviceId> {
        let mut changed = BTreeSet::new();
        for (object, (name, action)) in configs.into_iter().zip(actions) {
            let (reason, did) = match action {
                AppAction::Unchanged => continue,
                AppAction::Created => ("ConfigCreated", "created"),
                _ => ("ConfigChanged", "changed"),
            };
            let record = ConfigRecord {
                object,
                changed: turn.now,
            };
            turn.changes
                .push(Change::PutConfig(Box::new(record.clone())));
            self.configs.insert(name.clone(), record);
            self.note(turn, None, None, reason, format!("{name} was {did}"));
            changed.insert(name.clone());
        }
        self.devices_naming(&changed)
    }

    /// Takes them away, unless an app still needs one.
    pub(super) fn delete_configs(
        &mut self,
        turn: &mut Turn,
        configs: &[ConfigRef],
        leaving: &[AppRef],
    ) -> Result<Deleted, Refused> {
        self.preview_delete(configs, leaving)?;
        let mut actions = Vec::new();
        let mut gone = BTreeSet::new();
        for name in configs {
            if self.configs.remove(name).is_none() {
                actions.push((name.clone(), AppAction::Absent));
                continue;
            }
            turn.changes.push(Change::DeleteConfig(name.clone()));
            self.note(
                turn,
                None,
                None,
                "ConfigDeleted",
                format!("{name} was deleted"),
            );
            actions.push((name.clone(), AppAction::Deleted));
            gone.insert(name.clone());
        }
        Ok((actions, self.devices_naming(&gone)))
    }

    /// Refuses to delete what an app needs that does not leave in the same
    /// call.
    pub fn preview_delete(&self, configs: &[ConfigRef], leaving: &[AppRef]) -> Result<(), Refused> {
        for record in self.apps.values() {
            let app = &record.app.app;
            if leaving.contains(app) {
                continue;
            }
            let named = named_configs(&app.namespace, &record.revision.pod);
            let mut needed = named.iter().filter(|(_, needed)| **needed);
            if let Some((name, _)) =
                needed.find(|(name, _)| configs.contains(name) && self.configs.contains_key(name))
            {
                return Err(Refused {
                    kind: RefusedKind::Conflict,
                    reason: "ConfigInUse",
                    message: format!("app {app} uses {name}: delete or change the app first"),
                });
            }
        }
        Ok(())
    }

    fn devices_naming(&self, configs: &BTreeSet<ConfigRef>) -> Vec<DeviceId> {
        if configs.is_empty() {
            return Vec::new();
        }
        let names = |record: &&super::AppRecord| {
            let named = named_configs(&record.app.app.namespace, &record.revision.pod);
            named.keys().any(|name| configs.contains(name))
        };
        let apps: Vec<_> = self.apps.values().filter(names).collect();
        let concerned = |device: &&Device| {
            let labels = &device.record.labels;
            apps.iter()
                .any(|record| record.app.placement.matches(labels))
        };
        let devices = self.devices.values().filter(concerned);
        devices.map(|device| device.record.device.clone()).collect()
    }

    /// The first config that the pod needs and the hub does not have.
    pub(super) fn missing_config<Image>(
        &self,
        app: &AppRef,
        pod: &skerry_wire::PodSpec<Image>,
    ) -> Option<ConfigRef> {
        let named = named_configs(&app.namespace, pod);
        let mut needed = named.into_iter().filter(|(_, needed)| *needed);
        needed
            .find(|(name, _)| !self.configs.contains_key(name))
            .map(|(name, _)| name)
    }

    /// The configs that these assignments name, in their order on the wire.
    pub(super) fn configs_for(&self, assignments: &[Assignment]) -> Vec<Config> {
        let names: BTreeSet<ConfigRef> = assignments
            .iter()
            .flat_map(|a| named_configs(&a.app.namespace, &a.pod).into_keys())
            .collect();
        let found = names.iter().filter_map(|name| self.configs.get(name));
        found.map(|record| record.object.config.clone()).collect()
    }

    /// Bytes that an assignment's configs add to those that are named already.
    pub(super) fn config_bytes(
        &self,
        assignment: &Assignment,
        named: &mut BTreeSet<ConfigRef>,
    ) -> usize {
        let names = named_configs(&assignment.app.namespace, &assignment.pod).into_keys();
        let new: Vec<ConfigRef> = names.filter(|name| !named.contains(name)).collect();
        let found = new.iter().filter_map(|name| self.configs.get(name));
        let bytes = found
            .map(|record| encode(&record.object.config).len())
            .sum();
        named.extend(new);
        bytes
    }
}

/// How to get what an app waits for.
pub(super) fn remedy(config: &ConfigRef) -> String {
    let verb = match config.kind {
        ConfigKind::Config => "config",
        ConfigKind::Secret => "secret",
    };
    format!(
        "the hub has no {config}: apply it, or 'skerry create {verb} {} -n {} ...', or say 'optional: true'",
        config.name, config.namespace
    )
}

fn invalid(reason: &'static str, message: String) -> Refused {
    Refused {
        kind: RefusedKind::Invalid,
        reason,
        message,
    }
}
