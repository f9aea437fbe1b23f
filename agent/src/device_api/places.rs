//! Where an app's socket and lock are, and what it keeps over a restart of the
//! agent: in the run directory, so that nothing of it wears out a disk, and
//! none of it outlives the containers at a reboot.

use crate::core::CreateContainer;
use crate::runtime::Mount;
use crate::whole_file::replace;
use serde::{Deserialize, Serialize};
use skerry_wire::report::AppStatus;
use skerry_wire::{AppRef, Digest};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Where apps find their socket and lock.
pub const TARGET: &str = "/run/skerry";
/// Longest file of what an app keeps, in bytes: its values, its hold, and what
/// JSON adds.
const MAX_KEPT_BYTES: u64 = 64 * 1024;

/// What an app holds and reports.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// Why it holds its update, if it does by the API.
    pub hold: Option<String>,
    /// Its values.
    pub values: BTreeMap<String, String>,
}

fn root(run_dir: &Path) -> PathBuf {
    run_dir.join("api")
}

fn key(app: &AppRef) -> String {
    Digest::of(app.to_string().as_bytes()).hex()[..16].to_owned()
}

/// The directory of an app.
pub fn dir(run_dir: &Path, app: &AppRef) -> PathBuf {
    root(run_dir).join(key(app))
}

/// Where it is listened for an app.
pub fn socket(run_dir: &Path, app: &AppRef) -> PathBuf {
    dir(run_dir, app).join("app/api.sock")
}

/// Makes an app's directory with its lock. What is there stays.
pub fn make(run_dir: &Path, app: &AppRef) -> io::Result<()> {
    let shared = dir(run_dir, app).join("app");
    fs::create_dir_all(&shared)?;
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o755))?;
    let lock = shared.join("update.lock");
    if !lock.exists() {
        fs::File::create(&lock)?;
        fs::set_permissions(&lock, fs::Permissions::from_mode(0o444))?;
    }
    Ok(())
}

/// Removes the directories of all other apps.
pub fn prune<'a>(run_dir: &Path, apps: impl Iterator<Item = &'a AppRef>) -> io::Result<()> {
    let stay: BTreeSet<String> = apps.map(key).collect();
    let entries = match fs::read_dir(root(run_dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if !stay.contains(&*entry.file_name().to_string_lossy()) {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

/// What is mounted into a container for it to ask; `None` for apps that may
/// not. Blocks.
pub fn mount(create: &CreateContainer, run_dir: &Path) -> Result<Option<Mount>, String> {
    let assignment = &create.assignment;
    if assignment.policy.grants.is_empty() {
        return Ok(None);
    }
    let app = &assignment.app;
    make(run_dir, app).map_err(|error| format!("the app's socket cannot be made: {error}"))?;
    Ok(Some(Mount {
        read_only: true,
        ..Mount::new(dir(run_dir, app).join("app"), TARGET)
    }))
}

impl Kept {
    /// What an app kept; nothing where that cannot be read.
    pub fn read(run_dir: &Path, app: &AppRef) -> Self {
        let path = dir(run_dir, app).join("kept.json");
        let short = fs::metadata(&path).is_ok_and(|m| m.len() <= MAX_KEPT_BYTES);
        let bytes = short.then(|| fs::read(&path).ok()).flatten();
        let kept = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        kept.unwrap_or_default()
    }

    /// Whether this value may be added.
    pub fn takes(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.values.len() < AppStatus::MAX_VALUES
    }

    /// Replaces what was kept, whole.
    pub fn write(&self, run_dir: &Path, app: &AppRef) -> io::Result<()> {
        let text = serde_json::to_vec(self).map_err(io::Error::other)?;
        replace(&dir(run_dir, app).join("kept.json"), &text)
    }
}
