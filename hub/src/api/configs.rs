//! Configs and secrets. A secret's values go in and never come out again: what
//! is shown of it is the names of its files and their sizes.

use super::State;
use super::error::Failure;
use super::types::{self, Action, Applied, Difference, List};
use crate::core::{Answer, AppAction, ConfigRecord, Event, Fleet};
use crate::manifest::{self, Values};
use crate::model::ConfigObject;
use axum::Json;
use axum::extract::{Path, Query};
use serde::Deserialize;
use skerry_wire::{ConfigKind, ConfigName, ConfigRef, Namespace};

fn kind_name(kind: ConfigKind) -> &'static str {
    match kind {
        ConfigKind::Config => "Config",
        ConfigKind::Secret => "Secret",
    }
}

/// What an apply or delete did.
pub fn applied(actions: Vec<(ConfigRef, AppAction)>) -> Vec<Applied> {
    let item = |(name, action): (ConfigRef, AppAction)| Applied {
        kind: kind_name(name.kind).into(),
        revision: None,
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        action: action_of(action),
    };
    actions.into_iter().map(item).collect()
}

/// The same word for programs.
pub fn action_of(action: AppAction) -> Action {
    match action {
        AppAction::Created => Action::Created,
        AppAction::Configured => Action::Configured,
        AppAction::Unchanged => Action::Unchanged,
        AppAction::Deleted => Action::Deleted,
        AppAction::Absent => Action::Absent,
    }
}

/// What an apply would change. Of a secret's files it says only which.
pub fn difference(fleet: &Fleet, object: &ConfigObject) -> Difference {
    let name = object.config.reference();
    let current = fleet.config(&name).map(|record| &record.object);
    let shown = |of: &ConfigObject, other: Option<&ConfigObject>, word: &'static str| {
        manifest::config_to_yaml(of, |file| {
            let value = |object: &ConfigObject| object.config.data.0.get(file).cloned();
            match (of.config.kind, other) {
                (ConfigKind::Config, _) => Values::Clear,
                (ConfigKind::Secret, Some(other)) if value(of) != value(other) => {
                    Values::Changed(word)
                }
                (ConfigKind::Secret, _) => Values::Hidden,
            }
        })
    };
    Difference {
        kind: kind_name(name.kind).into(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        current: current.map(|current| shown(current, Some(object), "before")),
        proposed: shown(object, current, "after"),
        images: Vec::new(),
    }
}

fn view(fleet: &Fleet, record: &ConfigRecord, whole: bool) -> types::Config {
    let object = &record.object;
    let name = object.config.reference();
    let files = object.config.data.0.iter();
    let users = match whole {
        true => fleet.users_of(&name),
        false => Vec::new(),
    };
    types::Config {
        kind: kind_name(name.kind).into(),
        namespace: name.namespace.to_string(),
        name: name.name.to_string(),
        secret_type: match (name.kind, object.type_name.as_str()) {
            (ConfigKind::Config, _) => None,
            (ConfigKind::Secret, "") => Some("Opaque".into()),
            (ConfigKind::Secret, named) => Some(named.into()),
        },
        immutable: object.immutable,
        files: files
            .map(|(name, value)| types::ConfigFile {
                name: name.clone(),
                bytes: value.len() as u64,
            })
            .collect(),
        apps: users.iter().map(|app| app.to_string()).collect(),
        changed_ms: record.changed.0,
        manifest: whole.then(|| manifest::config_to_json(object)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Which {
    namespace: Option<String>,
}

type Listed = Result<Json<List<types::Config>>, Failure>;

async fn list(state: &State, kind: ConfigKind, which: Which) -> Listed {
    let look = move |fleet: &Fleet| {
        let wanted = |record: &&ConfigRecord| {
            let config = &record.object.config;
            let namespace = which.namespace.as_deref();
            config.kind == kind && namespace.is_none_or(|n| config.namespace.as_str() == n)
        };
        let found = fleet.configs().filter(wanted);
        found.map(|record| view(fleet, record, false)).collect()
    };
    let items = state.hub.read(look).await?;
    Ok(Json(List { items }))
}

pub async fn list_configs(state: State, Query(which): Query<Which>) -> Listed {
    list(&state, ConfigKind::Config, which).await
}

pub async fn list_secrets(state: State, Query(which): Query<Which>) -> Listed {
    list(&state, ConfigKind::Secret, which).await
}

type Named = Path<(String, String)>;

fn named(kind: ConfigKind, Path((namespace, name)): Named) -> Result<ConfigRef, Failure> {
    let wrong = |error: skerry_wire::IdError| Failure::invalid("InvalidName", error.to_string());
    Ok(ConfigRef {
        namespace: Namespace::new(namespace).map_err(wrong)?,
        name: ConfigName::new(name).map_err(wrong)?,
        kind,
    })
}

fn none(config: &ConfigRef) -> Failure {
    Failure::not_found(
        "ConfigNotFound",
        format!(
            "there is no {config}: 'skerry get {}s' lists them",
            config.kind
        ),
    )
}

async fn one(state: &State, config: ConfigRef) -> Result<Json<types::Config>, Failure> {
    let wanted = config.clone();
    let look = move |fleet: &Fleet| {
        let record = fleet.config(&wanted)?;
        Some(view(fleet, record, true))
    };
    let found: Option<types::Config> = state.hub.read(look).await?;
    found.map(Json).ok_or_else(|| none(&config))
}

pub async fn one_config(state: State, path: Named) -> Result<Json<types::Config>, Failure> {
    one(&state, named(ConfigKind::Config, path)?).await
}

pub async fn one_secret(state: State, path: Named) -> Result<Json<types::Config>, Failure> {
    one(&state, named(ConfigKind::Secret, path)?).await
}

async fn delete(state: &State, config: ConfigRef) -> Result<Json<List<Applied>>, Failure> {
    let configs = vec![config.clone()];
    let event = move |request| Event::Delete {
        request,
        configs,
        apps: Vec::new(),
    };
    let actions = match state.hub.ask(event).await? {
        Answer::Applied(_, actions) => actions,
        Answer::Done
        | Answer::Stream(_)
        | Answer::Usage(_)
        | Answer::Doctor(_)
        | Answer::Rollout(_) => Vec::new(),
    };
    if actions
        .iter()
        .any(|(_, action)| *action == AppAction::Absent)
    {
        return Err(none(&config));
    }
    let items = applied(actions);
    Ok(Json(List { items }))
}

pub async fn delete_config(state: State, path: Named) -> Result<Json<List<Applied>>, Failure> {
    delete(&state, named(ConfigKind::Config, path)?).await
}

pub async fn delete_secret(state: State, path: Named) -> Result<Json<List<Applied>>, Failure> {
    delete(&state, named(ConfigKind::Secret, path)?).await
}
