//! The store of one data directory: what it is opened from when it is broken,
//! and what it is on when its disk takes no writes.

use super::error::file_error;
use super::spare::Spare;
use super::{IdentityRecord, Store, StoreError};
use crate::core::Change;
use crate::volatile;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Starts that are skipped when their count was lost with the store: more than
/// an agent makes in its life.
const STARTS_SKIPPED: u32 = 1 << 20;
/// Broken stores that are kept for whoever wants to look.
const MAX_BROKEN: u32 = 3;

/// The store's copy during a trial.
const SNAPSHOT: &str = "agent.redb.before-update";
/// The same while it is written: of no use to anybody when it is cut off.
const SNAPSHOT_NEW: &str = "agent.redb.before-update.new";

/// The store of one data directory.
#[derive(Debug)]
pub struct StoreDir {
    /// The records.
    pub store: Store,
    /// What was wrong with the store that was there, if something was.
    pub broken: Option<String>,
    dir: PathBuf,
    /// Where memory may be mounted if the disk takes no more writes.
    memory: Option<PathBuf>,
}

/// What the store is on, after a write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reopened {
    /// What it was on before.
    Same,
    /// From now on, memory: see [`volatile`].
    Memory,
}

impl StoreDir {
    /// Opens the store of a data directory, making both when they are not
    /// there. `probe` opens the file somewhere where a crash does no harm; what
    /// it refuses is moved aside, and the identity comes from the small file.
    pub fn open(
        dir: &Path,
        probe: impl Fn(&Path) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        use std::os::unix::fs::DirBuilderExt;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(file_error("making", dir))?;
        // Neither opened nor moved aside: nothing is wrong with what is in it.
        if volatile::is_read_only(dir) {
            return Err(StoreError::ReadOnly { dir: dir.into() });
        }
        // A power cut left it. That it takes room is all the harm it does.
        let _ = fs::remove_file(dir.join(SNAPSHOT_NEW));
        let path = dir.join("agent.redb");
        let fresh = !path.exists();
        let mut broken = None;
        if !fresh && let Err(error) = probe(&path) {
            let text = match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            if is_locked(&error) {
                return Err(error);
            }
            move_aside(dir, &path)?;
            broken = Some(text);
        }
        // An agent that was on trial may have left what only it can read.
        let snapshot = dir.join(SNAPSHOT);
        let mut old = false;
        if broken.is_some() && snapshot.exists() && probe(&snapshot).is_ok() {
            fs::rename(&snapshot, &path).map_err(file_error("renaming", &snapshot))?;
            old = true;
        }
        let store = Store::at(&path)?;
        if old {
            // The starts of the other agent are not counted in it, and numbers
            // that the hub has seen must not come again.
            let starts = store.records()?.starts.saturating_add(STARTS_SKIPPED);
            store.commit(&[Change::Starts(starts)])?;
        }
        let mut opened = Self {
            store,
            broken,
            dir: dir.to_owned(),
            memory: None,
        };
        if opened.store.identity()?.is_none()
            && let Some(spare) = Spare::of(&opened.dir)
        {
            // A file that a power cut left empty is a new store to redb.
            let lost = || "it was gone, or empty".to_string();
            opened.broken.get_or_insert_with(lost);
            // The count of starts is lost: begin far above it.
            let starts = spare.starts_floor.saturating_add(STARTS_SKIPPED);
            opened.store.set_identity(&spare.identity, false)?;
            opened.store.commit(&[Change::Starts(starts)])?;
            let spare = Spare {
                starts_floor: starts,
                ..spare
            };
            spare.write(dir)?;
        }
        Ok(opened)
    }

    /// Commits all of these or none; what is part of the identity also goes to
    /// the small file.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.store.commit(changes)?;
        let line = changes.iter().any(|c| matches!(c, Change::Line { .. }));
        match (line, Spare::of(&self.dir), self.store.identity()) {
            (true, Some(spare), Ok(Some(identity))) => Spare { identity, ..spare }.write(&self.dir),
            // The small file is for the day that the store breaks.
            _ => Ok(()),
        }
    }

    /// The update came to its end: the copy of the store is of no use.
    pub fn forget_snapshot(&self) {
        // Harmless where it stays: it counts only for a store that is broken.
        let _ = fs::remove_file(self.dir.join(SNAPSHOT));
    }

    /// Stores who this device is, in both places.
    pub fn set_identity(&self, identity: &IdentityRecord, anew: bool) -> Result<(), StoreError> {
        self.store.set_identity(identity, anew)?;
        let starts_floor = Spare::of(&self.dir).map_or(0, |spare| spare.starts_floor);
        let spare = Spare {
            identity: identity.clone(),
            starts_floor,
        };
        spare.write(&self.dir)
    }

    /// Allows memory to take the place of a disk that takes no writes, to be
    /// mounted there.
    pub fn or_memory(mut self, memory: PathBuf) -> Self {
        self.memory = Some(memory);
        self
    }

    /// Its data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the file anew, after redb has met an error that it cannot get
    /// over: in memory if the disk takes no writes. Blocks. If that fails,
    /// nothing can be committed until it works.
    pub fn reopen(mut self) -> (Self, Result<Reopened, StoreError>) {
        // The lock must go before it can be had again.
        self.store.close();
        let opened = self.lay_memory().and_then(|reopened| {
            self.store = Store::at(&self.dir.join("agent.redb"))?;
            Ok(reopened)
        });
        (self, opened)
    }

    fn lay_memory(&self) -> Result<Reopened, StoreError> {
        match &self.memory {
            Some(memory) => lay_memory(&self.dir, memory),
            None => Ok(Reopened::Same),
        }
    }

    /// Removes store and identity for good.
    pub fn erase(self) -> Result<(), StoreError> {
        let dir = self.dir.clone();
        drop(self);
        let broken = (1..=MAX_BROKEN).map(|n| format!("agent.redb.broken-{n}"));
        for name in ["identity", "agent.redb", SNAPSHOT, SNAPSHOT_NEW]
            .map(String::from)
            .into_iter()
            .chain(broken)
        {
            let path = dir.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("removing", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Lays memory over a data directory whose disk takes no writes, unless that
/// was done. To be asked after a failure, for it writes to the disk.
pub fn lay_memory(dir: &Path, memory: &Path) -> Result<Reopened, StoreError> {
    if volatile::is_laid(dir) {
        return Ok(Reopened::Same);
    }
    let Some(why) = volatile::refusal(dir) else {
        return Ok(Reopened::Same);
    };
    tracing::error!("{} takes no writes: {why}", dir.display());
    volatile::lay(dir, memory, dir, dir).map_err(file_error("laying memory over", dir))?;
    tracing::error!("{}", volatile::told(dir));
    Ok(Reopened::Memory)
}

/// The store's file in a data directory.
pub fn file(dir: &Path) -> PathBuf {
    dir.join("agent.redb")
}

/// Copies the store, which nobody has open, for the case that an agent on
/// trial makes it unreadable for this one. Durable when it returns.
pub fn take_snapshot(dir: &Path) -> Result<(), StoreError> {
    let (path, new) = (dir.join(SNAPSHOT), dir.join(SNAPSHOT_NEW));
    let copied = fs::copy(file(dir), &new)
        .and_then(|_| File::open(&new)?.sync_all())
        .map_err(file_error("copying to", &new))
        .and_then(|()| fs::rename(&new, &path).map_err(file_error("renaming", &new)));
    if copied.is_err() {
        // A disk that is full needs the room more than anything.
        let _ = fs::remove_file(&new);
    }
    copied?;
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(file_error("syncing", dir))
}

/// Whether the store itself is fine, and only cannot be had now.
fn is_locked(error: &StoreError) -> bool {
    match error {
        StoreError::Locked | StoreError::ReadOnly { .. } | StoreError::File { .. } => true,
        StoreError::Database { .. }
        | StoreError::Value { .. }
        | StoreError::Closed
        | StoreError::Damaged(_) => false,
    }
}

fn move_aside(dir: &Path, path: &Path) -> Result<(), StoreError> {
    let name = |n: u32| dir.join(format!("agent.redb.broken-{n}"));
    // The oldest gives way.
    for n in (1..MAX_BROKEN).rev() {
        if name(n).exists() {
            fs::rename(name(n), name(n + 1)).map_err(file_error("renaming", path))?;
        }
    }
    fs::rename(path, name(1)).map_err(file_error("renaming", path))
}
