//! Files and directories of the store, with errors that name them.

use super::error::{StoreError, disk};
use std::fs::{self, File};
use std::io;
use std::path::Path;

pub(super) fn exists(path: &Path) -> Result<bool, StoreError> {
    path.try_exists().map_err(disk(path))
}

pub(super) fn remove_file(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(path)(error)),
        _ => Ok(()),
    }
}

/// Removes a directory of ours and all in it. Follows no links.
pub(super) fn remove_dir(path: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(disk(path))
}
