//! Apps and images: what operators declare.

use super::record::{AppRecord, Change};
use super::{Answer, AppAction, Fleet, Refused, RefusedKind, RequestId, Turn, refused};
use crate::model::{App, ConfigObject, Image, Revision};
use skerry_wire::policy::Work;
use skerry_wire::{AppRef, ConfigRef, Desired, DeviceId, RevisionId, Selector, encode};
use std::collections::{BTreeMap, BTreeSet};

/// Apps of one hub.
const MAX_APPS: usize = 10_000;
/// Bytes of one app's pod: all of a device's apps at this size would not fit,
/// one always does.
const MAX_POD_BYTES: usize = 64 * 1024;

impl Fleet {
    /// What an apply would do, without doing it.
    pub fn preview(&self, apps: &[(App, Revision)]) -> Result<Vec<(AppRef, AppAction)>, Refused> {
        let mut names = BTreeSet::new();
        let mut new = 0;
        for (app, revision) in apps {
            let name = &app.app;
            if !names.insert(name) {
                return Err(Refused {
                    kind: RefusedKind::Invalid,
                    reason: "AppTwice",
                    message: format!("app {name} is declared twice: keep one"),
                });
            }
            new += usize::from(!self.apps.contains_key(name));
            let bytes = encode(&revision.pod).len();
            if bytes > MAX_POD_BYTES {
                return Err(Refused {
                    kind: RefusedKind::Invalid,
                    reason: "AppTooLarge",
                    message: format!(
                        "app {name} has {bytes} bytes, the limit is {MAX_POD_BYTES}: make it smaller"
                    ),
                });
            }
            for container in revision.pod.all_containers() {
                if !self.images.contains_key(&container.image.digest) {
                    return Err(Refused {
                        kind: RefusedKind::Conflict,
                        reason: "ImageGone",
                        message: format!(
                            "image {} of app {name} is not on the hub any more: apply again",
                            container.image.reference
                        ),
                    });
                }
            }
        }
        if self.apps.len() + new > MAX_APPS {
            return Err(Refused {
                kind: RefusedKind::TooMany,
                reason: "TooManyApps",
                message: format!("a hub holds at most {MAX_APPS} apps: delete some"),
            });
        }
        let action = |(app, revision): &(App, Revision)| {
            let action = match self.apps.get(&app.app) {
                None => AppAction::Created,
                Some(old) if old.app == *app && old.revision.pod == revision.pod => {
                    AppAction::Unchanged
                }
                Some(_) => AppAction::Configured,
            };
            (app.app.clone(), action)
        };
        let actions: Vec<(AppRef, AppAction)> = apps.iter().map(action).collect();
        self.check_sizes(apps)?;
        self.check_circles(apps)?;
        Ok(actions)
    }

    /// The revision that an app has once this one is applied: a pod that was
    /// begun anew keeps the name that it got then.
    pub fn revision_with(&self, app: &AppRef, new: &Revision) -> RevisionId {
        let old = self.apps.get(app).map(|record| &record.revision);
        old.filter(|old| old.pod == new.pod).unwrap_or(new).id
    }

    /// Lets the devices of an app begin it anew, in the way in which they
    /// change it; and those too that went back from it.
    pub(super) fn restart(&mut self, turn: &mut Turn, request: RequestId, name: &AppRef) {
        let Some(record) = self.apps.get_mut(name) else {
            let message = format!("there is no app {name}: 'skerry get apps' lists them");
            let no = refused(RefusedKind::NotFound, "AppNotFound", message);
            return turn.answer(request, no);
        };
        if record.app.policy.work != Work::Service {
            let message = format!(
                "{name} runs to its end and is not begun anew: 'skerry create job NAME --from cronjob/{0}' runs a cronjob now, and a job is deleted and applied again",
                name.name
            );
            let no = refused(RefusedKind::Conflict, "NotRestartable", message);
            return turn.answer(request, no);
        }
        record.revision = record.revision.again(turn.now);
        record.changed = turn.now;
        let record = record.clone();
        let message = format!("{name} begins anew, revision {}", record.revision.id);
        turn.changes.push(Change::PutApp(Box::new(record.clone())));
        self.note(turn, None, Some(name), "AppRestarted", message);
        self.place_matching(turn, std::slice::from_ref(&record.app.placement), true);
        let done = vec![(name.clone(), AppAction::Configured)];
        turn.answer(request, Ok(Answer::Applied(done, Vec::new())));
    }

    /// Refuses apps that would wait for each other for ever.
    fn check_circles(&self, apps: &[(App, Revision)]) -> Result<(), Refused> {
        let new: BTreeMap<&AppRef, &App> = apps.iter().map(|(app, _)| (&app.app, app)).collect();
        let find = |name: &AppRef| {
            let old = || self.apps.get(name).map(|record| &record.app);
            new.get(name).copied().or_else(old)
        };
        for (app, _) in apps {
            let mut seen: Vec<&AppRef> = Vec::new();
            let mut ahead: Vec<&AppRef> = app.policy.depends_on.iter().map(|d| &d.app).collect();
            while let Some(name) = ahead.pop() {
                if *name == app.app {
                    return Err(Refused {
                        kind: RefusedKind::Invalid,
                        reason: "DependencyCircle",
                        message: format!(
                            "app {name} would wait for itself, by way of what it depends on: remove a dependsOn"
                        ),
                    });
                }
                if !seen.contains(&name) {
                    seen.push(name);
                    let further = find(name)
                        .into_iter()
                        .flat_map(|app| &app.policy.depends_on);
                    ahead.extend(further.map(|d| &d.app));
                }
            }
        }
        Ok(())
    }

    /// Refuses an apply after which some device's state would not fit its
    /// limit: nothing is cut off silently.
    fn check_sizes(&self, apps: &[(App, Revision)]) -> Result<(), Refused> {
        let size = |app: &App, revision: &Revision| {
            encode(&(&revision.pod, &app.policy)).len() + app.app.to_string().len() + 64
        };
        let replaced: BTreeSet<&AppRef> = apps.iter().map(|(app, _)| &app.app).collect();
        let mut placed: Vec<(&Selector, usize)> = Vec::new();
        for (app, revision) in apps {
            placed.push((&app.placement, size(app, revision)));
        }
        let old: Vec<&AppRecord> = self
            .apps
            .values()
            .filter(|record| !replaced.contains(&record.app.app))
            .collect();
        let total: usize = placed.iter().map(|(_, bytes)| bytes).sum();
        let all = total + old.iter().map(|r| size(&r.app, &r.revision)).sum::<usize>();
        if all <= Desired::MAX_BYTES {
            return Ok(());
        }
        for record in old {
            placed.push((&record.app.placement, size(&record.app, &record.revision)));
        }
        for device in self.devices.values() {
            let labels = &device.record.labels;
            let bytes: usize = placed
                .iter()
                .filter(|(selector, _)| selector.matches(labels))
                .map(|(_, bytes)| bytes)
                .sum();
            if bytes > Desired::MAX_BYTES {
                return Err(Refused {
                    kind: RefusedKind::Invalid,
                    reason: "DesiredTooLarge",
                    message: format!(
                        "device '{}' would get {bytes} bytes of apps, the limit is {}: narrow a selector",
                        device.record.device,
                        Desired::MAX_BYTES
                    ),
                });
            }
        }
        Ok(())
    }

    pub(super) fn apply(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        configs: Vec<ConfigObject>,
        apps: Vec<(App, Revision)>,
    ) {
        let both = self
            .preview(&apps)
            .and_then(|actions| Ok((actions, self.preview_configs(&configs, &apps)?)));
        let (actions, config_actions) = match both {
            Ok(both) => both,
            Err(no) => return turn.answer(request, Err(no)),
        };
        let concerned = self.put_configs(turn, configs, &config_actions);
        let mut selectors = Vec::new();
        for ((app, revision), (_, action)) in apps.into_iter().zip(&actions) {
            if *action == AppAction::Unchanged {
                continue;
            }
            let name = app.app.clone();
            let mut revision = revision;
            if let Some(old) = self.apps.get(&name) {
                selectors.push(old.app.placement.clone());
                revision.id = self.revision_with(&name, &revision);
            }
            selectors.push(app.placement.clone());
            let record = AppRecord {
                app,
                revision,
                changed: turn.now,
            };
            turn.changes.push(Change::PutApp(Box::new(record.clone())));
            let (reason, did) = match action {
                AppAction::Created => ("AppCreated", "created"),
                _ => ("AppConfigured", "changed"),
            };
            let message = format!("{name} was {did}, revision {}", record.revision.id);
            self.apps.insert(name.clone(), record);
            self.note(turn, None, Some(&name), reason, message);
        }
        self.place_matching(turn, &selectors, true);
        for device in concerned {
            self.place(turn, &device, true);
        }
        turn.answer(request, Ok(Answer::Applied(actions, config_actions)));
    }

    pub(super) fn delete(
        &mut self,
        turn: &mut Turn,
        request: RequestId,
        configs: &[ConfigRef],
        apps: Vec<AppRef>,
    ) {
        let (config_actions, concerned) = match self.delete_configs(turn, configs, &apps) {
            Ok(done) => done,
            Err(no) => return turn.answer(request, Err(no)),
        };
        let mut selectors = Vec::new();
        let mut actions = Vec::new();
        for name in apps {
            let Some(old) = self.apps.remove(&name) else {
                actions.push((name, AppAction::Absent));
                continue;
            };
            selectors.push(old.app.placement);
            turn.changes.push(Change::DeleteApp(name.clone()));
            let message = format!("{name} was deleted");
            self.note(turn, None, Some(&name), "AppDeleted", message);
            actions.push((name, AppAction::Deleted));
        }
        self.place_matching(turn, &selectors, true);
        for device in concerned {
            self.place(turn, &device, true);
        }
        turn.answer(request, Ok(Answer::Applied(actions, config_actions)));
    }

    /// Places anew on all devices that any of these selectors means; `tell`
    /// as for [`Fleet::place`].
    fn place_matching(&mut self, turn: &mut Turn, selectors: &[Selector], tell: bool) {
        let affected: Vec<DeviceId> = self
            .devices
            .values()
            .filter(|d| selectors.iter().any(|s| s.matches(&d.record.labels)))
            .map(|d| d.record.device.clone())
            .collect();
        for device in affected {
            self.place(turn, &device, tell);
        }
    }

    pub(super) fn image_added(
        &mut self,
        turn: &mut Turn,
        request: Option<RequestId>,
        mut image: Image,
    ) {
        self.pulls.retain(|(asked, _)| *asked != image.digest);
        if image.platforms.is_empty() {
            if let Some(request) = request {
                let message = format!("image {} has no platform of ours", image.reference);
                turn.answer(
                    request,
                    refused(RefusedKind::Invalid, "EmptyImage", message),
                );
            }
            return;
        }
        let names = self.images.entry(image.digest).or_default();
        // Pulling one platform must not forget another that is here.
        if let Some(old) = names.get(&image.reference) {
            for platform in &old.platforms {
                if !image
                    .platforms
                    .iter()
                    .any(|p| p.manifest == platform.manifest)
                {
                    image.platforms.push(platform.clone());
                }
            }
        }
        image
            .platforms
            .sort_by(|a, b| (&a.platform, a.manifest).cmp(&(&b.platform, b.manifest)));
        let digest = image.digest;
        let changed = names
            .get(&image.reference)
            .is_none_or(|old| old.platforms != image.platforms);
        turn.changes.push(Change::PutImage(Box::new(image.clone())));
        names.insert(image.reference.clone(), image);
        if changed {
            let uses = |record: &&AppRecord| {
                let mut containers = record.revision.pod.all_containers();
                containers.any(|c| c.image.digest == digest)
            };
            let selectors: Vec<Selector> = self
                .apps
                .values()
                .filter(uses)
                .map(|record| record.app.placement.clone())
                .collect();
            // A platform that is still missing after a pull was reported when
            // it was found missing; asking again would go round in circles.
            self.place_matching(turn, &selectors, false);
        }
        if let Some(request) = request {
            turn.answer(request, Ok(Answer::Done));
        }
    }
}
