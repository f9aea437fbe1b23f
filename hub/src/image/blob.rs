//! The hub's blobs: files named by their SHA-256.
//!
//! ```text
//! sha256/<hex>   whole and verified
//! tmp/           being written; emptied at open
//! ```
//!
//! A power cut leaves a blob out or in: it is written to `tmp`, synced, renamed
//! and the directory synced.

use sha2::{Digest as _, Sha256};
use skerry_wire::Digest;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Largest blob, in bytes.
const MAX_BLOB_BYTES: u64 = 64 << 30;

/// Why a blob cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// A file or directory of the store.
    #[error("the blob store cannot use {}", path.display())]
    Disk {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// More bytes than allowed.
    #[error("a blob is longer than the {0} bytes allowed")]
    TooLong(u64),
    /// Other bytes than announced.
    #[error("a blob should be {wanted} and is {got}")]
    Digest {
        /// What was announced.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
    /// Another length than announced.
    #[error("blob {digest} should have {wanted} bytes and has {got}")]
    Size {
        /// Which.
        digest: Digest,
        /// What was announced.
        wanted: u64,
        /// What came.
        got: u64,
    },
    /// It is not here.
    #[error("blob {0} is not here")]
    Missing(Digest),
}

fn disk(path: &Path) -> impl FnOnce(io::Error) -> BlobError {
    let path = path.to_owned();
    move |source| BlobError::Disk { path, source }
}

/// All blobs of a hub. Calls may come from any thread.
#[derive(Debug)]
pub struct BlobStore {
    root: PathBuf,
    next_temp: AtomicU64,
}

impl BlobStore {
    /// Opens the store in `root`, makes it when it is not there, and sweeps
    /// what an interrupted run left.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let root = root.into();
        let tmp = root.join("tmp");
        match fs::remove_dir_all(&tmp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(disk(&tmp)(error)),
            _ => {}
        }
        for dir in [&tmp, &root.join("sha256")] {
            fs::create_dir_all(dir).map_err(disk(dir))?;
        }
        sync_dir(&root)?;
        Ok(Self {
            root,
            next_temp: AtomicU64::new(0),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join("sha256").join(digest.hex())
    }

    /// Whether it is here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.len(digest).is_some()
    }

    /// Its bytes, when it is here.
    pub fn len(&self, digest: &Digest) -> Option<u64> {
        fs::metadata(self.path(digest))
            .ok()
            .filter(|m| m.is_file())
            .map(|m| m.len())
    }

    /// Opens it for reading from byte `offset` on; an offset at or after its
    /// end reads nothing.
    pub fn open_at(&self, digest: &Digest, offset: u64) -> Result<File, BlobError> {
        let path = self.path(digest);
        let mut file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(BlobError::Missing(*digest));
            }
            other => other.map_err(disk(&path))?,
        };
        file.seek(SeekFrom::Start(offset)).map_err(disk(&path))?;
        Ok(file)
    }

    /// Reads a small blob whole; longer ones than `limit` bytes are refused.
    pub fn read(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, BlobError> {
        let mut bytes = Vec::new();
        let file = self.open_at(digest, 0)?;
        file.take(limit + 1)
            .read_to_end(&mut bytes)
            .map_err(disk(&self.path(digest)))?;
        match bytes.len() as u64 > limit {
            true => Err(BlobError::TooLong(limit)),
            false => Ok(bytes),
        }
    }

    /// Starts a blob of at most `limit` bytes. Dropping the writer forgets it.
    pub fn writer(&self, limit: u64) -> Result<BlobWriter, BlobError> {
        let number = self.next_temp.fetch_add(1, Ordering::Relaxed);
        let temp = self
            .root
            .join("tmp")
            .join(format!("{}-{number}", std::process::id()));
        let file = File::create_new(&temp).map_err(disk(&temp))?;
        let limit = limit.min(MAX_BLOB_BYTES);
        Ok(BlobWriter {
            file,
            temp: Temp(temp),
            hash: Sha256::new(),
            len: 0,
            limit,
        })
    }

    /// Keeps a small blob.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest, BlobError> {
        let mut writer = self.writer(bytes.len() as u64)?;
        writer.write(bytes)?;
        let staged = writer.finish()?;
        self.keep(&staged)
    }

    /// Keeps a finished blob: synced, then under its name.
    pub fn keep(&self, staged: &Staged) -> Result<Digest, BlobError> {
        let path = self.path(&staged.digest);
        if self.len(&staged.digest) == Some(staged.len) {
            return Ok(staged.digest);
        }
        staged.open()?.sync_all().map_err(disk(&path))?;
        fs::rename(&staged.temp.0, &path).map_err(disk(&path))?;
        sync_dir(&self.root.join("sha256"))?;
        Ok(staged.digest)
    }

    /// Removes a blob, if it is there.
    pub fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(disk(&path)(error)),
            _ => Ok(()),
        }
    }

    /// All blobs with their bytes, in no order.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, BlobError> {
        let dir = self.root.join("sha256");
        let mut out = Vec::new();
        for entry in fs::read_dir(&dir).map_err(disk(&dir))? {
            let entry = entry.map_err(disk(&dir))?;
            let digest = entry
                .file_name()
                .to_str()
                .and_then(|hex| format!("sha256:{hex}").parse().ok());
            if let Some(digest) = digest {
                out.push((digest, entry.metadata().map_err(disk(&dir))?.len()));
            }
        }
        Ok(out)
    }
}

#[derive(Debug)]
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        // Kept blobs are renamed away; what stays is swept at the next open.
        let _ = fs::remove_file(&self.0);
    }
}

/// A blob that is being written.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    temp: Temp,
    hash: Sha256,
    len: u64,
    limit: u64,
}

impl BlobWriter {
    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.len += bytes.len() as u64;
        if self.len > self.limit {
            return Err(BlobError::TooLong(self.limit));
        }
        self.file.write_all(bytes).map_err(disk(&self.temp.0))?;
        self.hash.update(bytes);
        Ok(())
    }

    /// Forgets what was written, to begin anew.
    pub fn restart(&mut self) -> Result<(), BlobError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(disk(&self.temp.0))?;
        self.hash = Sha256::new();
        self.len = 0;
        Ok(())
    }

    /// All is written: the blob can be read, and kept by [`BlobStore::keep`].
    pub fn finish(self) -> Result<Staged, BlobError> {
        let digest = Digest::from_bytes(self.hash.finalize().into());
        Ok(Staged {
            digest,
            len: self.len,
            temp: self.temp,
        })
    }

    /// Like [`BlobWriter::finish`], for a blob that was announced.
    pub fn finish_as(self, wanted: Digest, size: u64) -> Result<Staged, BlobError> {
        let staged = self.finish()?;
        if staged.len != size {
            return Err(BlobError::Size {
                digest: wanted,
                wanted: size,
                got: staged.len,
            });
        }
        if staged.digest != wanted {
            return Err(BlobError::Digest {
                wanted,
                got: staged.digest,
            });
        }
        Ok(staged)
    }
}

/// A whole blob without a name. Dropping it forgets it, unless it was kept.
/// Holds no open file: an archive has thousands.
#[derive(Debug)]
pub struct Staged {
    digest: Digest,
    len: u64,
    temp: Temp,
}

impl Staged {
    /// What it is.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Opens it for reading, while it is not kept.
    pub fn open(&self) -> Result<File, BlobError> {
        File::open(&self.temp.0).map_err(disk(&self.temp.0))
    }
}

fn sync_dir(path: &Path) -> Result<(), BlobError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(disk(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_was_announced_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        let digest = store.put(b"hello").unwrap();
        assert_eq!(digest, Digest::of(b"hello"));
        assert_eq!(store.put(b"hello").unwrap(), digest);
        assert_eq!((store.has(&digest), store.len(&digest)), (true, Some(5)));
        let mut rest = String::new();
        store
            .open_at(&digest, 3)
            .unwrap()
            .read_to_string(&mut rest)
            .unwrap();
        assert_eq!(rest, "lo");
        assert!(matches!(store.read(&digest, 4), Err(BlobError::TooLong(4))));
        assert_eq!(store.list().unwrap(), [(digest, 5)]);

        let mut writer = store.writer(10).unwrap();
        writer.write(b"other").unwrap();
        assert!(matches!(
            writer.finish_as(digest, 5),
            Err(BlobError::Digest { .. })
        ));
        let mut writer = store.writer(3).unwrap();
        assert!(matches!(writer.write(b"long"), Err(BlobError::TooLong(3))));
        drop(writer);
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);

        store.remove(&digest).unwrap();
        store.remove(&digest).unwrap();
        assert!(matches!(
            store.open_at(&digest, 0),
            Err(BlobError::Missing(_))
        ));
    }

    #[test]
    fn leftovers_are_swept_at_open() {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        let digest = store.put(b"kept").unwrap();
        fs::write(dir.path().join("tmp/half"), b"ha").unwrap();
        let store = BlobStore::open(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
        assert_eq!(store.list().unwrap(), [(digest, 4)]);
    }
}
