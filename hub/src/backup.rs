//! Backup and restore: a tar with a snapshot of the store and the keys, and
//! the image blobs when asked for. A restore works without a hub, on an empty
//! data directory, and only moves numbers forward: see
//! [`crate::store::Store::mark_restored`].

use crate::api::UPLOADS_DIR;
use crate::authority::now;
use crate::images::BLOBS_DIR;
use crate::keys::{KEYS_DIR, KeysError, make_private_dir, random};
use crate::store::{Store, StoreError};
use skerry_wire::Digest;
use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// The store's file inside the data directory.
pub const STORE_FILE: &str = "hub.redb";
/// The hub's settings that a restore must keep, inside the data directory.
pub const FLEET_FILE: &str = "fleet";
/// Image blobs inside a backup.
const BLOBS: &str = "blobs";
/// Where whole blobs lie, inside theirs; beside it are those that still come.
const WHOLE_BLOBS: &str = "sha256";
/// The first entry of a backup, and what is in it.
const VERSION_ENTRY: &str = "skerry-backup";
const VERSION: &str = "1";

/// Why a backup or restore failed.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The disk, or the file.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// A restore must not mix with what is there.
    #[error("{0} is not empty: restore into an empty directory, or move what is there away")]
    NotEmpty(PathBuf),
    /// Another file.
    #[error("{path} is not a backup of 'skerry backup': {problem}")]
    NotABackup {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_path_buf();
    move |source| BackupError::File {
        doing,
        path,
        source,
    }
}

/// Writes a backup into a file without a name, ready to be read from its
/// start.
pub fn write(data: &Path, store: &Store, blobs: Option<&Path>) -> Result<File, BackupError> {
    // Names of its own: two backups at once must not write into each other.
    // What a killed hub leaves there goes at its next start.
    let dir = data.join(UPLOADS_DIR);
    make_private_dir(&dir)?;
    let name = Digest::of(&random::<16>()).hex();
    let snapshot = dir.join(format!("{name}.redb"));
    let made = write_tar(data, store, &snapshot, blobs);
    let _ = fs::remove_file(&snapshot);
    made
}

fn write_tar(
    data: &Path,
    store: &Store,
    snapshot: &Path,
    blobs: Option<&Path>,
) -> Result<File, BackupError> {
    store.snapshot(snapshot)?;
    let path = snapshot.with_extension("tar");
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(file_error("cannot make", &path))?;
    fs::remove_file(&path).map_err(file_error("cannot unlink", &path))?;
    let mut tar = tar::Builder::new(file);
    // Holes as zeros: every tar reads that, and the store is small.
    tar.sparse(false);
    let mut header = tar::Header::new_gnu();
    header.set_size(VERSION.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, VERSION_ENTRY, VERSION.as_bytes())
        .map_err(file_error("cannot write", &path))?;
    let mut add = |name: &Path, from: &Path| {
        tar.append_path_with_name(from, name)
            .map_err(file_error("cannot read", from))
    };
    add(Path::new(STORE_FILE), snapshot)?;
    let fleet = data.join(FLEET_FILE);
    if fleet.exists() {
        add(Path::new(FLEET_FILE), &fleet)?;
    }
    let keys = data.join(KEYS_DIR);
    for name in files_in(&keys)? {
        add(&Path::new(KEYS_DIR).join(&name), &keys.join(&name))?;
    }
    if let Some(blobs) = blobs {
        let whole = blobs.join(WHOLE_BLOBS);
        if whole.exists() {
            add_tree(&mut tar, &whole, &Path::new(BLOBS).join(WHOLE_BLOBS))?;
        }
    }
    let mut file = tar
        .into_inner()
        .map_err(file_error("cannot write", &path))?;
    file.rewind().map_err(file_error("cannot read", &path))?;
    Ok(file)
}

fn files_in(dir: &Path) -> Result<Vec<std::ffi::OsString>, BackupError> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(file_error("cannot read", dir))? {
        let entry = entry.map_err(file_error("cannot read", dir))?;
        let kind = entry.file_type().map_err(file_error("cannot read", dir))?;
        if kind.is_file() {
            names.push(entry.file_name());
        }
    }
    names.sort();
    Ok(names)
}

/// Adds a directory of blobs, with its own directories. Blobs only come, and
/// come whole, so that this needs no lock.
fn add_tree(tar: &mut tar::Builder<File>, from: &Path, to: &Path) -> Result<(), BackupError> {
    for entry in fs::read_dir(from).map_err(file_error("cannot read", from))? {
        let entry = entry.map_err(file_error("cannot read", from))?;
        let kind = entry.file_type().map_err(file_error("cannot read", from))?;
        let (path, name) = (entry.path(), to.join(entry.file_name()));
        if kind.is_dir() {
            add_tree(tar, &path, &name)?;
        } else if kind.is_file() {
            tar.append_path_with_name(&path, &name)
                .map_err(file_error("cannot read", &path))?;
        }
    }
    Ok(())
}

/// Makes a data directory from a backup.
pub fn restore(backup: &Path, data: &Path) -> Result<(), BackupError> {
    make_private_dir(data)?;
    let mut present = fs::read_dir(data).map_err(file_error("cannot read", data))?;
    if present.next().is_some() {
        return Err(BackupError::NotEmpty(data.into()));
    }
    let not_a_backup = |problem: String| BackupError::NotABackup {
        path: backup.into(),
        problem,
    };
    let file = File::open(backup).map_err(file_error("cannot open", backup))?;
    let mut tar = tar::Archive::new(file);
    let entries = tar.entries().map_err(|e| not_a_backup(e.to_string()))?;
    let mut first = true;
    let mut has_store = false;
    for entry in entries {
        let mut entry = entry.map_err(|e| not_a_backup(e.to_string()))?;
        let name = entry
            .path()
            .map_err(|e| not_a_backup(e.to_string()))?
            .into_owned();
        if first {
            first = false;
            let mut version = String::new();
            let read = entry.by_ref().take(16).read_to_string(&mut version);
            if name != Path::new(VERSION_ENTRY) || read.is_err() {
                return Err(not_a_backup("its first entry is another".into()));
            }
            if version != VERSION {
                return Err(not_a_backup(format!(
                    "it has version {version}, this program reads {VERSION}"
                )));
            }
            continue;
        }
        if !name.components().all(|c| matches!(c, Component::Normal(_))) {
            return Err(not_a_backup(format!("it has a path {}", name.display())));
        }
        if !entry.header().entry_type().is_file() {
            return Err(not_a_backup(format!("{} is no file", name.display())));
        }
        has_store |= name == Path::new(STORE_FILE);
        let to = match name.strip_prefix(BLOBS) {
            Ok(blob) => data.join(BLOBS_DIR).join(blob),
            Err(_) => data.join(&name),
        };
        let parent = to.parent().unwrap_or(data);
        make_private_dir(parent)?;
        let mut out = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&to)
            .map_err(file_error("cannot make", &to))?;
        io::copy(&mut entry, &mut out).map_err(file_error("cannot write", &to))?;
        out.sync_all().map_err(file_error("cannot write", &to))?;
    }
    if !has_store {
        return Err(not_a_backup("it has no store: it was cut short".into()));
    }
    Store::open(&data.join(STORE_FILE))?.mark_restored(now())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Keys;

    /// What a pull is writing has no length yet, and may be gone the next
    /// moment: a backup with a part of it could not be read.
    #[test]
    fn a_backup_has_whole_blobs_only_and_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let (data, blobs) = (dir.path().join("data"), dir.path().join("blobs"));
        Keys::open(&data, &[]).unwrap();
        let store = Store::open(&data.join(STORE_FILE)).unwrap();
        for (part, name) in [("sha256", "abc"), ("tmp", "1-0")] {
            fs::create_dir_all(blobs.join(part)).unwrap();
            fs::write(blobs.join(part).join(name), b"blob").unwrap();
        }
        // Another that was not yet read, and one that ran before: not in the way.
        let _other = write(&data, &store, None).unwrap();
        let file = write(&data, &store, Some(&blobs)).unwrap();
        let mut tar = tar::Archive::new(file);
        let names: Vec<PathBuf> = tar
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().into_owned())
            .collect();
        let has = |name: &str| names.iter().any(|n| n == Path::new(name));
        assert!(has(STORE_FILE) && has("blobs/sha256/abc"), "{names:?}");
        assert!(!has("blobs/tmp/1-0"), "{names:?}");
        let left = fs::read_dir(data.join(UPLOADS_DIR)).unwrap().count();
        assert_eq!(left, 0);
    }
}
