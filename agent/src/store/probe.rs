//! A look at a store before it is opened for good.

use super::error::file_error;
use super::records::open_file;
use super::{Store, StoreError};
use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use std::fs::File;
use std::io::{self, Read};
use std::ops::{Bound, Range};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Opens the store and reads all of it. To be called where a crash does no
/// harm: redb may panic on a file that is damaged enough.
pub fn probe(path: &Path) -> Result<(), StoreError> {
    // Nothing is brought to the disk: what is to be mended is mended once, by
    // who opens it for good.
    let file = open_file(path)?;
    let tried = Tried::of(file).map_err(file_error("reading", path))?;
    let store = Store::on(tried)?;
    store.identity()?;
    store.records()?;
    Ok(())
}

/// A store's file that is locked as it is when it is opened, but written in
/// memory only.
#[derive(Debug)]
struct Tried {
    file: FileBackend,
    bytes: Mutex<Vec<u8>>,
}

impl Tried {
    fn of(file: File) -> io::Result<Self> {
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes)?;
        Ok(Self {
            file: FileBackend::new(file).map_err(io::Error::other)?,
            bytes: Mutex::new(bytes),
        })
    }

    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(offset: u64, length: usize) -> Option<Range<usize>> {
        let start = usize::try_from(offset).ok()?;
        Some(start..start.checked_add(length)?)
    }
}

impl StorageBackend for Tried {
    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let place = Self::place(offset, out.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let bytes = self.bytes();
        let found = bytes.get(place).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.bytes().resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let place = Self::place(offset, data.len()).ok_or(io::ErrorKind::InvalidInput)?;
        let mut bytes = self.bytes();
        let there = bytes.get_mut(place).ok_or(io::ErrorKind::UnexpectedEof)?;
        there.copy_from_slice(data);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
