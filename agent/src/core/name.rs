//! Names on the device: an instance is one container of one revision of one
//! app; each of its incarnations is a container of the runtime.
//!
//! Names are made from what they stand for, so that containers can be told
//! apart even when the ledger is lost.

use crate::runtime::ContainerId;
use serde::{Deserialize, Serialize};
use skerry_wire::{AppRef, ContainerName, Digest, RevisionId};
use std::fmt;

/// Characters of app and container that people see in a name. The digest
/// behind them is what is unique.
const SHOWN_CHARS: usize = 20;
/// Hexadecimal digits of the digest: 64 bits.
const DIGEST_CHARS: usize = 16;

#[cfg(test)]
thread_local! {
    /// Names made by this thread: each takes a digest, so that tests of what a
    /// decision costs count them.
    pub static MADE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// One container of one revision of one app.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceName(String);

fn shown(app: &AppRef, container: &ContainerName) -> String {
    let cut = |s: &str| s.chars().take(SHOWN_CHARS).collect::<String>();
    format!("{}-{}", cut(app.name.as_str()), cut(container.as_str()))
}

fn digest(parts: &[&str]) -> String {
    // No part can hold a slash.
    let mut hex = Digest::of(parts.join("/").as_bytes()).hex();
    hex.truncate(DIGEST_CHARS);
    hex
}

impl InstanceName {
    /// The name of this container of this revision.
    pub fn new(app: &AppRef, revision: RevisionId, container: &ContainerName) -> Self {
        #[cfg(test)]
        MADE.set(MADE.get() + 1);
        let parts = [
            app.namespace.as_str(),
            app.name.as_str(),
            container.as_str(),
            &revision.0.hex(),
        ];
        Self(format!("{}-{}", shown(app, container), digest(&parts)))
    }

    /// The container that its `number`th incarnation is.
    pub fn incarnation(&self, number: u32) -> ContainerId {
        ContainerId::new(format!("{}.{number}", self.0)).expect("a name of labels and digits")
    }

    /// Which incarnation a container is; `None` for those of others.
    pub fn of(id: &ContainerId) -> Option<(Self, u32)> {
        let (name, number) = id.as_str().rsplit_once('.')?;
        Some((Self(name.to_string()), number.parse().ok()?))
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The log of a container of an app, the same over restarts and revisions.
pub fn log_name(app: &AppRef, container: &ContainerName) -> String {
    let parts = [
        app.namespace.as_str(),
        app.name.as_str(),
        container.as_str(),
    ];
    format!("{}-{}", shown(app, container), digest(&parts))
}

/// What the names of the logs of all runs of a CronJob begin with.
pub fn runs_log_group(app: &AppRef) -> String {
    let parts = [app.namespace.as_str(), app.name.as_str()];
    let shown: String = app.name.as_str().chars().take(SHOWN_CHARS).collect();
    format!("{shown}-{}", digest(&parts))
}

/// The log of a container of one run of a CronJob, the same over its tries.
pub fn run_log_name(app: &AppRef, run: u32, container: &ContainerName) -> String {
    format!("{}.{run}.{container}", runs_log_group(app))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_valid_unique_and_readable() {
        let app = |ns: &str, name: &str| AppRef {
            namespace: ns.parse().unwrap(),
            name: name.parse().unwrap(),
        };
        let long = "a".repeat(63);
        let revision = RevisionId(Digest::of(b"1"));
        let name = InstanceName::new(&app(&long, &long), revision, &long.parse().unwrap());
        let id = name.incarnation(u32::MAX);
        assert_eq!(InstanceName::of(&id), Some((name, u32::MAX)));
        let log = run_log_name(&app(&long, &long), u32::MAX, &long.parse().unwrap());
        assert!(log.len() <= crate::runtime::MAX_NAME, "{log}");
        let short = InstanceName::new(&app("default", "web"), revision, &"nginx".parse().unwrap());
        assert!(short.to_string().starts_with("web-nginx-"));
        let other = InstanceName::new(&app("other", "web"), revision, &"nginx".parse().unwrap());
        assert_ne!(short, other);
        assert_eq!(
            InstanceName::of(&ContainerId::new("something").unwrap()),
            None
        );
    }
}
