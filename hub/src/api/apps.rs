//! Apps: what operators declare. An apply resolves every image name to a
//! digest first, then everything happens in one commit, or nothing.

use super::error::Failure;
use super::types::{self, Applied, AppliedList, Difference, ErrorDetail, List, Manifests};
use super::{Api, State, body, configs, fits, images, view};
use crate::core::{Answer, AppAction, Event, Fleet, Refused};
use crate::manifest::{self, Object};
use crate::model::{App, ConfigObject, PinnedImage, Revision};
use axum::Json;
use axum::body::Body;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use serde::Deserialize;
use skerry_wire::{AppName, AppRef, ConfigRef, Digest, Namespace};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Images that one apply pulls at the same time.
const PULLS_AT_ONCE: usize = 8;

/// What files declare.
struct Declared {
    apps: Vec<App>,
    configs: Vec<ConfigObject>,
    dry_run: bool,
}

fn read(manifests: Manifests) -> Result<Declared, Failure> {
    let files: Vec<manifest::File> = manifests
        .files
        .into_iter()
        .map(|file| manifest::File {
            name: file.name,
            text: file.text,
        })
        .collect();
    let objects = manifest::parse_files(&files).map_err(Failure::manifests)?;
    let mut declared = Declared {
        apps: Vec::new(),
        configs: Vec::new(),
        dry_run: manifests.dry_run,
    };
    for object in objects {
        match object {
            Object::App(app) => declared.apps.push(app),
            Object::Config(config) => declared.configs.push(config),
        }
    }
    Ok(declared)
}

/// All image names of these apps that the hub knows, with what they mean.
async fn known_images(
    api: &Api,
    apps: &[App],
) -> Result<BTreeMap<String, Option<Digest>>, Failure> {
    let names: Vec<String> = apps
        .iter()
        .flat_map(|app| app.pod.all_containers().map(|c| c.image.clone()))
        .collect();
    let look = move |fleet: &Fleet| {
        let meant = |name: String| {
            let digest = images::find(fleet, &name).map(|image| image.digest);
            (name, digest)
        };
        names.into_iter().map(meant).collect()
    };
    Ok(api.hub.read(look).await?)
}

/// The revision of each app; pulls the images that the hub does not have.
async fn resolve(api: &Arc<Api>, apps: Vec<App>) -> Result<Vec<(App, Revision)>, Failure> {
    let mut known = known_images(api, &apps).await?;
    let missing: Vec<String> = known
        .iter()
        .filter(|(_, digest)| digest.is_none())
        .map(|(name, _)| name.clone())
        .collect();
    let mut problems = Vec::new();
    let api_executor = &api.executor;
    for names in missing.chunks(PULLS_AT_ONCE) {
        let pull = |name: &String| {
            let (api, name) = (api.clone(), name.clone());
            let pull = async move { images::pull_for_fleet(&api, &name, &[]).await };
            api_executor.spawn(pull)
        };
        let pulls: Vec<_> = names.iter().map(pull).collect();
        for (name, pull) in names.iter().zip(pulls) {
            match pull.await {
                Ok(image) => {
                    known.insert(name.clone(), Some(image.digest));
                }
                Err(why) => problems.push(ErrorDetail {
                    field: Some(name.clone()),
                    message: why,
                    remedy: Some(format!(
                        "correct the name, or bring the image with 'skerry image import FILE --name {name}'"
                    )),
                    ..ErrorDetail::default()
                }),
            }
        }
        // Where none of so many can be had, the rest would only take as long.
        if problems.len() >= PULLS_AT_ONCE {
            break;
        }
    }
    if let Some(first) = problems.first() {
        let message = format!(
            "image {} is not on the hub and cannot be pulled: {}",
            first.field.as_deref().unwrap_or_default(),
            first.message
        );
        let failure = Failure::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "ImageUnavailable",
            message,
        );
        return Err(failure.with_details(problems));
    }
    let pin = |app: App| {
        let pod = app.pod.clone().map_images(|reference| {
            let digest = known.get(&reference).copied().flatten();
            let digest = digest.ok_or_else(|| Failure::internal("an image was not resolved"))?;
            Ok::<_, Failure>(PinnedImage { reference, digest })
        })?;
        Ok((app, Revision::of(pod)))
    };
    apps.into_iter().map(pin).collect()
}

fn applied(
    actions: Vec<(AppRef, AppAction)>,
    revisions: &BTreeMap<AppRef, String>,
    kinds: &BTreeMap<AppRef, &'static str>,
) -> Vec<Applied> {
    let item = |(app, action): (AppRef, AppAction)| Applied {
        kind: kinds.get(&app).copied().unwrap_or("App").into(),
        revision: revisions.get(&app).cloned(),
        namespace: app.namespace.to_string(),
        name: app.name.to_string(),
        action: configs::action_of(action),
    };
    actions.into_iter().map(item).collect()
}

fn kinds(apps: &[App]) -> BTreeMap<AppRef, &'static str> {
    let kind = |app: &App| (app.app.clone(), manifest::kind(app));
    apps.iter().map(kind).collect()
}

pub async fn apply(state: State, body: Body) -> Result<Json<AppliedList>, Failure> {
    let Declared {
        apps,
        configs,
        dry_run,
    } = read(body::json(body, false).await?)?;
    let kinds = kinds(&apps);
    let apps = resolve(&state, apps).await?;
    let declared = apps.clone();
    let (actions, config_actions) = if dry_run {
        let look = move |fleet: &Fleet| {
            let actions = fleet.preview(&apps)?;
            Ok::<_, Refused>((actions, fleet.preview_configs(&configs, &apps)?))
        };
        state.hub.read(look).await??
    } else {
        let apply = move |request| Event::Apply {
            request,
            configs,
            apps,
        };
        match state.hub.ask(apply).await? {
            Answer::Applied(actions, config_actions) => (actions, config_actions),
            Answer::Done
            | Answer::Stream(_)
            | Answer::Usage(_)
            | Answer::Doctor(_)
            | Answer::Rollout(_) => (Vec::new(), Vec::new()),
        }
    };
    let look = move |fleet: &Fleet| {
        let revision = |(app, revision): &(App, Revision)| {
            let is = fleet.revision_with(&app.app, revision);
            (app.app.clone(), view::revision(is))
        };
        let revisions: BTreeMap<_, _> = declared.iter().map(revision).collect();
        (revisions, fits::warnings(fleet, &declared))
    };
    let (revisions, warnings) = state.hub.read(look).await?;
    let mut items = configs::applied(config_actions);
    items.extend(applied(actions, &revisions, &kinds));
    Ok(Json(AppliedList { items, warnings }))
}

/// Devices begin an app anew.
pub async fn restart(
    state: State,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<Applied>, Failure> {
    let app = app_ref(&namespace, &name)?;
    let wanted = app.clone();
    let restart = move |request| Event::Restart {
        request,
        app: wanted,
    };
    state.hub.ask(restart).await?;
    let wanted = app.clone();
    let look = move |fleet: &Fleet| {
        let record = fleet.app(&wanted)?;
        let revision = view::revision(record.revision.id);
        Some((manifest::kind(&record.app), revision))
    };
    let found = state.hub.read(look).await?;
    let (kind, revision) = found.ok_or_else(|| no_such_app(&app))?;
    Ok(Json(Applied {
        kind: kind.into(),
        namespace: app.namespace.to_string(),
        name: app.name.to_string(),
        action: configs::action_of(AppAction::Configured),
        revision: Some(revision),
    }))
}

pub async fn delete(state: State, body: Body) -> Result<Json<List<Applied>>, Failure> {
    let declared = read(body::json(body, false).await?)?;
    let kinds = kinds(&declared.apps);
    let apps: Vec<AppRef> = declared.apps.into_iter().map(|app| app.app).collect();
    let configs = declared.configs.iter();
    let configs: Vec<ConfigRef> = configs.map(|c| c.config.reference()).collect();
    let (actions, config_actions) = if declared.dry_run {
        let look = move |fleet: &Fleet| {
            fleet.preview_delete(&configs, &apps)?;
            let what = |there: bool| match there {
                true => AppAction::Deleted,
                false => AppAction::Absent,
            };
            let app = |name: AppRef| (name.clone(), what(fleet.app(&name).is_some()));
            let config = |name: ConfigRef| (name.clone(), what(fleet.config(&name).is_some()));
            let apps: Vec<_> = apps.into_iter().map(app).collect();
            let configs: Vec<_> = configs.into_iter().map(config).collect();
            Ok::<_, Refused>((apps, configs))
        };
        state.hub.read(look).await??
    } else {
        take_away(&state, apps, configs).await?
    };
    let mut items = applied(actions, &BTreeMap::new(), &kinds);
    items.extend(configs::applied(config_actions));
    Ok(Json(List { items }))
}

type Taken = (Vec<(AppRef, AppAction)>, Vec<(ConfigRef, AppAction)>);

async fn take_away(
    state: &State,
    apps: Vec<AppRef>,
    configs: Vec<ConfigRef>,
) -> Result<Taken, Failure> {
    let delete = move |request| Event::Delete {
        request,
        configs,
        apps,
    };
    match state.hub.ask(delete).await? {
        Answer::Applied(actions, config_actions) => Ok((actions, config_actions)),
        Answer::Done
        | Answer::Stream(_)
        | Answer::Usage(_)
        | Answer::Doctor(_)
        | Answer::Rollout(_) => Ok((Vec::new(), Vec::new())),
    }
}

pub async fn diff(state: State, body: Body) -> Result<Json<List<Difference>>, Failure> {
    let Declared { apps, configs, .. } = read(body::json(body, false).await?)?;
    let known = known_images(&state, &apps).await?;
    let look = move |fleet: &Fleet| {
        let item = |app: App| {
            let mut images: Vec<types::PinnedImage> = Vec::new();
            for container in app.pod.all_containers() {
                let digest = known.get(&container.image).copied().flatten();
                let image = types::PinnedImage {
                    reference: container.image.clone(),
                    digest: digest.map(|d| d.to_string()),
                };
                if !images.contains(&image) {
                    images.push(image);
                }
            }
            let current = fleet.app(&app.app);
            Difference {
                kind: manifest::kind(&app).into(),
                namespace: app.app.namespace.to_string(),
                name: app.app.name.to_string(),
                current: current.map(|record| manifest::to_yaml(&record.app)),
                proposed: manifest::to_yaml(&app),
                images,
            }
        };
        let first = configs
            .iter()
            .map(|object| configs::difference(fleet, object));
        first.chain(apps.into_iter().map(item)).collect()
    };
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    namespace: Option<String>,
}

pub async fn list(
    state: State,
    Query(which): Query<Which>,
) -> Result<Json<List<types::App>>, Failure> {
    let look = move |fleet: &Fleet| {
        let counts = view::app_counts(fleet);
        let wanted = |app: &AppRef| {
            let namespace = which.namespace.as_deref();
            namespace.is_none_or(|n| app.namespace.as_str() == n)
        };
        fleet
            .apps()
            .filter(|record| wanted(&record.app.app))
            .map(|record| {
                let of_app = counts.get(&record.app.app).copied();
                view::app(record, of_app.unwrap_or_default())
            })
            .collect()
    };
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

/// The app that a path names.
pub fn app_ref(namespace: &str, name: &str) -> Result<AppRef, Failure> {
    let wrong = |error: skerry_wire::IdError| Failure::invalid("InvalidName", error.to_string());
    Ok(AppRef {
        namespace: Namespace::new(namespace).map_err(wrong)?,
        name: AppName::new(name).map_err(wrong)?,
    })
}

fn no_such_app(app: &AppRef) -> Failure {
    Failure::not_found(
        "AppNotFound",
        format!("there is no app {app}: 'skerry get apps' lists them"),
    )
}

pub async fn one(
    state: State,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<types::App>, Failure> {
    let app = app_ref(&namespace, &name)?;
    let wanted = app.clone();
    let look = move |fleet: &Fleet| {
        let record = fleet.app(&wanted)?;
        let counts = view::app_counts(fleet).get(&wanted).copied();
        Some(view::app(record, counts.unwrap_or_default()))
    };
    let found = state.hub.read(look).await?;
    found.map(Json).ok_or_else(|| no_such_app(&app))
}

pub async fn delete_one(
    state: State,
    Path((namespace, name)): Path<(String, String)>,
) -> Result<Json<List<Applied>>, Failure> {
    let app = app_ref(&namespace, &name)?;
    let (actions, _) = take_away(&state, vec![app.clone()], Vec::new()).await?;
    if actions.iter().any(|(_, a)| *a == AppAction::Absent) {
        return Err(no_such_app(&app));
    }
    let items = applied(actions, &BTreeMap::new(), &BTreeMap::new());
    Ok(Json(List { items }))
}
