//! The small file that holds the identity once more.

use super::error::file_error;
use super::records::{read, value};
use super::{IdentityRecord, StoreError};
use crate::whole_file::replace_durably;
use serde::{Deserialize, Serialize};
use skerry_wire::Digest;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// What the small file holds.
#[derive(Serialize, Deserialize)]
pub(super) struct Spare {
    pub identity: IdentityRecord,
    /// No less than the count of starts at the last rescue.
    pub starts_floor: u32,
}
impl Spare {
    /// What the file of a data directory says, if it says something.
    pub fn of(dir: &Path) -> Option<Self> {
        let mut bytes = Vec::new();
        let file = File::open(dir.join("identity")).ok()?;
        file.take(64 * 1024).read_to_end(&mut bytes).ok()?;
        let (body, check) = bytes.split_last_chunk::<4>()?;
        if Digest::of(body).as_bytes()[..4] != *check {
            return None;
        }
        read("identity", body).ok()
    }

    /// Writes it into a data directory. Durable when it returns.
    pub fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let mut bytes = value(self);
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        let path = dir.join("identity");
        replace_durably(&path, &bytes).map_err(file_error("writing", &path))
    }
}

/// Who the device of a data directory is, from the small file alone: touches
/// no store, so an agent that runs, or one that is broken, stays as it is.
pub fn look_up_identity(dir: &Path) -> Option<IdentityRecord> {
    Spare::of(dir).map(|spare| spare.identity)
}
