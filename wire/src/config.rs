//! Configs and secrets: small files that apps of a namespace read, kept apart
//! from their images.

use crate::id::{ConfigName, Namespace};
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
}

/// Config or secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigKind {
    /// Anybody who may see the app may see it.
    Config,
    /// Shown to nobody, and only ever in memory as files.
    Secret,
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
