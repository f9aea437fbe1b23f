//! A container's environment: its image's, then whole configs, then single
//! variables, each put together when the container starts. A config that
//! changes later changes nothing here: the next start has it.

use super::compose::Places;
use super::expand::{expand, undeclared};
use super::network::Place;
use crate::core::{Configs, CreateContainer};
use skerry_wire::pod::{EnvValue, Field, SubPath};
use skerry_wire::{Config, ConfigKind, ConfigName, ConfigRef, Namespace};
use std::net::{IpAddr, Ipv4Addr};

/// Where a device without a network is reached by itself.
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The environment of a container, words of its command that refer to it put
/// in, too.
pub struct Environment {
    /// All variables.
    pub all: Vec<(String, String)>,
    declared: Vec<(String, String)>,
}

impl Environment {
    /// Of a container, over that of its image. The error says what is missing.
    pub fn of(
        create: &CreateContainer,
        image: &[String],
        places: &Places,
        place: &Place,
    ) -> Result<Self, String> {
        let (namespace, configs) = (&create.assignment.app.namespace, &create.configs);
        let mut declared: Vec<(String, String)> = Vec::new();
        let declare = |declared: &mut Vec<(String, String)>, name: String, value: String| {
            declared.retain(|(other, _)| *other != name);
            declared.push((name, value));
        };
        for from in &create.spec().env_from {
            let Some(config) = find(namespace, configs, from.kind, &from.name) else {
                match from.optional {
                    true => continue,
                    false => return Err(missing(namespace, from.kind, &from.name)),
                }
            };
            for (key, value) in &config.data.0 {
                let name = format!("{}{key}", from.prefix);
                // As in Kubernetes: what can be no variable is none.
                if let Ok(value) = std::str::from_utf8(value)
                    && !value.contains('\0')
                {
                    declare(&mut declared, name, value.to_string());
                }
            }
        }
        for var in &create.spec().env {
            let value = match &var.value {
                EnvValue::Text(text) => Some(put_in(text, &declared)?),
                EnvValue::Config {
                    kind,
                    name,
                    key,
                    optional,
                } => match (find(namespace, configs, *kind, name), optional) {
                    (Some(config), _) => of_key(config, key, &var.name, *optional)?,
                    (None, true) => None,
                    (None, false) => return Err(missing(namespace, *kind, name)),
                },
                EnvValue::Field(field) => Some(field_value(create, field, places, place)?),
            };
            if let Some(value) = value {
                declare(&mut declared, var.name.clone(), value);
            }
        }
        let image = image.iter().filter_map(|line| line.split_once('='));
        let mut all: Vec<(String, String)> = image
            .filter(|(name, _)| !declared.iter().any(|(other, _)| other == name))
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect();
        all.extend(declared.iter().cloned());
        Ok(Self { all, declared })
    }

    /// Words of a manifest, with what they refer to.
    pub fn words(&self, words: &[String]) -> Result<Vec<String>, String> {
        let word = |word: &String| put_in(word, &self.declared);
        words.iter().map(word).collect()
    }

    /// A path in a volume, what it refers to put in. Unlike in words, all of
    /// that must be declared: each app would else write to the same `$(NAME)`.
    pub fn sub_path(&self, path: &SubPath) -> Result<String, String> {
        let text = match path {
            SubPath::Plain(path) => return Ok(path.clone()),
            SubPath::Expr(text) => text,
        };
        let refuse = |why: String| Err(format!("subPathExpr '{text}' {why}"));
        if let Some(name) = undeclared(text, &self.declared) {
            return refuse(format!(
                "refers to a variable {name} that the container does not declare: add it to env, or write $$({name})"
            ));
        }
        let path = put_in(text, &self.declared)?;
        let shown: String = path.chars().take(80).collect();
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return refuse(format!(
                "is '{shown}', which leads out of its volume: it must be relative, without '..', with its variables put in"
            ));
        }
        let parts = path.split('/').filter(|part| !matches!(*part, "" | "."));
        match parts.collect::<Vec<_>>().join("/") {
            // Its variables are empty.
            plain if plain.is_empty() => refuse(
                "is empty with its variables put in: give them a value, or leave it out for all of the volume".into(),
            ),
            plain => Ok(plain),
        }
    }
}

fn put_in(text: &str, declared: &[(String, String)]) -> Result<String, String> {
    expand(text, declared).ok_or_else(|| {
        "a variable or argument is longer than 64 KiB once $(NAME) is put in: refer to less, or write $$(NAME)".into()
    })
}

/// A config that the container's app names, if it is on this device.
pub fn find<'c>(
    namespace: &Namespace,
    configs: &'c Configs,
    kind: ConfigKind,
    name: &ConfigName,
) -> Option<&'c Config> {
    let mut all = configs.all.iter();
    all.find(|c| c.kind == kind && c.name == *name && c.namespace == *namespace)
}

/// What to do where there is none.
pub fn missing(namespace: &Namespace, kind: ConfigKind, name: &ConfigName) -> String {
    let config = ConfigRef {
        namespace: namespace.clone(),
        name: name.clone(),
        kind,
    };
    format!("{config} is not on this device: apply it, or say 'optional: true'")
}

fn of_key(
    config: &Config,
    key: &str,
    variable: &str,
    optional: bool,
) -> Result<Option<String>, String> {
    let Some(value) = config.data.0.get(key) else {
        return match optional {
            true => Ok(None),
            false => Err(format!(
                "{} has no file '{key}', which is variable {variable}: add it, or say 'optional: true'",
                config.reference()
            )),
        };
    };
    match std::str::from_utf8(value) {
        Ok(text) if !text.contains('\0') => Ok(Some(text.to_string())),
        _ => Err(format!(
            "file '{key}' of {} is no text, and cannot be variable {variable}: mount it as a volume",
            config.reference()
        )),
    }
}

fn field_value(
    create: &CreateContainer,
    field: &Field,
    places: &Places,
    place: &Place,
) -> Result<String, String> {
    let app = &create.assignment.app;
    match field {
        Field::AppName => Ok(app.name.to_string()),
        Field::Namespace => Ok(app.namespace.to_string()),
        Field::DeviceName => Ok(places.device.clone()),
        // Its loopback while the device has none: apps start without a network.
        Field::HostIp => Ok(place.host.unwrap_or(LOOPBACK).to_string()),
        Field::PodIp => match place.pod.first() {
            Some(address) => Ok(address.to_string()),
            None => Err("an app without a network has no address: leave 'status.podIP' out".into()),
        },
        Field::PodIps if place.pod.is_empty() => {
            Err("an app without a network has no address: leave 'status.podIPs' out".into())
        }
        Field::PodIps => {
            let all: Vec<String> = place.pod.iter().map(ToString::to_string).collect();
            Ok(all.join(","))
        }
        // As a label of a pod in Kubernetes: one that is not there is empty.
        Field::DeviceLabel(key) => {
            let value = create.configs.labels.get(key);
            Ok(value.cloned().unwrap_or_default())
        }
    }
}
