//! Configs and secrets: small files that apps of a namespace read, kept apart
//! from their images.

use crate::id::{ConfigName, Namespace};
use crate::pod::{EnvValue, PodSpec, VolumeSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A config or secret, whole, as a device gets it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// Whose.
    pub namespace: Namespace,
    /// Its name; configs and secrets have names of their own.
    pub name: ConfigName,
    /// Which of the two.
    pub kind: ConfigKind,
    /// Its files by name: letters, digits, `-`, `_` and `.`, at most 253, as
    /// in Kubernetes.
    pub data: ConfigData,
}

impl Config {
    /// Most bytes of names and values together, as in Kubernetes.
    pub const MAX_BYTES: usize = 1024 * 1024;
    /// Longest name of a file, in bytes, as in Kubernetes.
    pub const MAX_KEY_BYTES: usize = 253;

    /// What it is called in full.
    pub fn reference(&self) -> ConfigRef {
        ConfigRef {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            kind: self.kind,
        }
    }

    /// Whether a file may have this name: letters, digits, `-`, `_` and `.`,
    /// but not `.`, nor beginning with `..`, which is the device's own.
    pub fn is_key(key: &str) -> bool {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        (1..=Self::MAX_KEY_BYTES).contains(&key.len())
            && key.bytes().all(good)
            && key != "."
            && !key.starts_with("..")
    }
}

/// A config or secret in full: unique in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigRef {
    /// Its namespace.
    pub namespace: Namespace,
    /// Its name.
    pub name: ConfigName,
    /// Which of the two.
    pub kind: ConfigKind,
}

impl fmt::Display for ConfigRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// The configs and secrets that a pod of this namespace names, each once, and
/// whether the pod needs it: `false` where all say that it may be missing.
pub fn named_configs<Image>(
    namespace: &Namespace,
    pod: &PodSpec<Image>,
) -> BTreeMap<ConfigRef, bool> {
    let volumes = pod
        .volumes
        .iter()
        .filter_map(|volume| match &volume.source {
            VolumeSource::Config {
                kind,
                name,
                optional,
                ..
            } => Some((*kind, name, *optional)),
            VolumeSource::HostPath { .. }
            | VolumeSource::Named { .. }
            | VolumeSource::EmptyDir { .. } => None,
        });
    let env = pod.all_containers().flat_map(|container| {
        let all = container.env_from.iter();
        let all = all.map(|from| (from.kind, &from.name, from.optional));
        let one = container.env.iter().filter_map(|var| match &var.value {
            EnvValue::Config {
                kind,
                name,
                optional,
                ..
            } => Some((*kind, name, *optional)),
            EnvValue::Text(_) | EnvValue::Field(_) => None,
        });
        all.chain(one)
    });
    let mut named = BTreeMap::new();
    for (kind, name, optional) in volumes.chain(env) {
        let reference = ConfigRef {
            namespace: namespace.clone(),
            name: name.clone(),
            kind,
        };
        *named.entry(reference).or_insert(false) |= !optional;
    }
    named
}

/// Config or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigKind {
    /// Anybody who may see the app may see it.
    Config,
    /// Shown to nobody, and only ever in memory as files.
    Secret,
}

impl fmt::Display for ConfigKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ConfigKind::Config => "config",
            ConfigKind::Secret => "secret",
        })
    }
}

/// Names and contents. Its debug form shows no contents: a secret is never
/// printed by accident.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigData(pub BTreeMap<String, Vec<u8>>);

impl fmt::Debug for ConfigData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lengths = self.0.iter().map(|(name, value)| (name, value.len()));
        f.debug_map().entries(lengths).finish()
    }
}

impl ConfigData {
    /// Bytes of names and values together.
    pub fn bytes(&self) -> usize {
        let each = self.0.iter().map(|(name, value)| name.len() + value.len());
        each.sum()
    }
}
