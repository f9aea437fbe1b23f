//! A blob on its way to the disk.

use super::error::{StoreError, disk};
use super::files::{remove_file, sync_dir};
use super::store::Need;
use sha2::{Digest as _, Sha256};
use skerry_wire::Digest;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A blob that is being fetched. Dropping it keeps what came, for later.
#[derive(Debug)]
pub struct BlobWriter {
    digest: Digest,
    size: u64,
    file: File,
    part: PathBuf,
    whole: PathBuf,
    hash: Sha256,
    offset: u64,
}

impl BlobWriter {
    /// Continues `part`, which becomes `whole`.
    pub(super) fn open(need: &Need, part: PathBuf, whole: PathBuf) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part);
        let mut file = file.map_err(disk(&part))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(StoreError::Busy(need.digest)),
            Err(TryLockError::Error(error)) => return Err(disk(&part)(error)),
        }
        // Another writer may have finished between our open and our lock.
        let ours = file.metadata().map_err(disk(&part))?.ino();
        if !fs::metadata(&part).is_ok_and(|named| named.ino() == ours) {
            return Err(StoreError::Busy(need.digest));
        }
        let mut hash = Sha256::new();
        let mut offset = hash_all(&mut file, &mut hash).map_err(disk(&part))?;
        if offset > need.size {
            file.set_len(0).map_err(disk(&part))?;
            io::Seek::rewind(&mut file).map_err(disk(&part))?;
            (hash, offset) = (Sha256::new(), 0);
        }
        Ok(Self {
            digest: need.digest,
            size: need.size,
            file,
            part,
            whole,
            hash,
            offset,
        })
    }

    /// How many bytes are here: the next byte wanted.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Takes the bytes that follow.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if bytes.len() as u64 > self.size - self.offset {
            remove_file(&self.part)?;
            return Err(StoreError::Longer {
                digest: self.digest,
                size: self.size,
            });
        }
        if let Err(error) = self.file.write_all(bytes) {
            // What was written of it is cut off, so that offset and file agree.
            let cut = self.file.set_len(self.offset);
            return Err(disk(&self.part)(cut.err().unwrap_or(error)));
        }
        self.hash.update(bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Verifies and keeps the blob. Too few bytes are kept for later, wrong
    /// ones are dropped.
    pub fn finish(self) -> Result<(), StoreError> {
        if self.offset < self.size {
            return Err(StoreError::Shorter {
                digest: self.digest,
                got: self.offset,
                size: self.size,
            });
        }
        let got = Digest::from_bytes(self.hash.finalize().into());
        if got != self.digest {
            remove_file(&self.part)?;
            return Err(StoreError::Digest {
                wanted: self.digest,
                got,
            });
        }
        self.file.sync_all().map_err(disk(&self.part))?;
        fs::rename(&self.part, &self.whole).map_err(disk(&self.whole))?;
        sync_dir(self.whole.parent().expect("in the store"))
    }
}

/// Hashes a file and leaves the position at its end.
fn hash_all(file: &mut File, hash: &mut Sha256) -> io::Result<u64> {
    let mut reader = BufReader::with_capacity(64 << 10, file);
    let mut total = 0;
    loop {
        let bytes = io::BufRead::fill_buf(&mut reader)?;
        if bytes.is_empty() {
            return Ok(total);
        }
        hash.update(bytes);
        let count = bytes.len();
        total += count as u64;
        io::BufRead::consume(&mut reader, count);
    }
}
