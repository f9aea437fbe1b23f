//! What the hub needs of images: take them in, fetch them, give out their
//! blobs. All of it blocks; the shell calls it off its loop.

use crate::authority::now;
use crate::chain::chain;
use crate::image::{
    self, BlobStore, Credentials, ImportError, ImportOptions, Reference, Registry, RegistryOptions,
};
use crate::keys::make_private_dir;
use crate::model::{Image, Platform};
use skerry_wire::Digest;
use std::error::Error;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where blobs lie, inside the data directory.
pub const BLOBS_DIR: &str = "blobs";
/// Bytes of an archive's members together: more than any image has.
const MAX_ARCHIVE_BYTES: u64 = 64 * 1024 * 1024 * 1024;

/// Why an image could not be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ImageFailure {
    /// Whether what was sent is at fault, rather than the registry or the disk.
    pub is_invalid: bool,
    /// CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people, with the remedy.
    pub message: String,
}

/// The door to images and blobs.
pub trait Images: Send + Sync + 'static {
    /// Takes in all images of an archive (`docker save`, OCI archive). `name`
    /// goes before the archive's own, when it holds one image. When this
    /// returns, all of it is on the disk.
    fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageFailure>;

    /// Fetches an image from its registry for these platforms. With
    /// `expected`, that version of it and no other.
    fn pull(
        &self,
        reference: &str,
        expected: Option<Digest>,
        platforms: &[Platform],
    ) -> Result<Image, ImageFailure>;

    /// At most `max_bytes` of a blob; fewer only at its end.
    fn read(&self, digest: Digest, offset: u64, max_bytes: usize) -> Result<Vec<u8>, ImageFailure>;

    /// Takes in one blob. When this returns, it is on the disk.
    fn keep_blob(
        &self,
        digest: Digest,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), ImageFailure>;

    /// Forgets one blob, if it is there.
    fn remove_blob(&self, digest: Digest) -> Result<(), ImageFailure>;

    /// Whether a blob of so many bytes is here.
    fn has_blob(&self, digest: Digest, size: u64) -> bool;

    /// Where blobs lie: one file for each, for backups.
    fn blobs_dir(&self) -> &Path;
}

/// Images on this machine's disk, and in registries.
pub struct DiskImages {
    blobs: BlobStore,
    dir: PathBuf,
    registries: RegistryOptions,
}

impl DiskImages {
    /// Opens the blob store in the data directory. `auth` is a file in the
    /// form of Docker's `config.json`.
    pub fn open(data: &Path, auth: Option<&Path>) -> Result<Self, ImageFailure> {
        let failed = |message: String| ImageFailure {
            is_invalid: false,
            reason: "ImagesUnusable",
            message,
        };
        let mut registries = RegistryOptions::default();
        if let Some(path) = auth {
            let read = |error: &dyn Error| {
                failed(format!(
                    "cannot read registry credentials from {}: {}",
                    path.display(),
                    chain(error)
                ))
            };
            let text = std::fs::read_to_string(path).map_err(|e| read(&e))?;
            registries.credentials =
                Credentials::from_docker_config(&text).map_err(|e| read(&e))?;
        }
        let dir = data.join(BLOBS_DIR);
        // Images hold secrets, more often than they should.
        make_private_dir(&dir).map_err(|e| failed(chain(&e)))?;
        let blobs = BlobStore::open(&dir).map_err(|e| failed(chain(&e)))?;
        Ok(Self {
            blobs,
            dir,
            registries,
        })
    }
}

fn name(text: &str) -> Result<Reference, ImageFailure> {
    text.parse::<Reference>().map_err(|error| ImageFailure {
        is_invalid: true,
        reason: "InvalidReference",
        message: error.to_string(),
    })
}

impl Images for DiskImages {
    fn import(&self, archive: &Path, called: Option<&str>) -> Result<Vec<Image>, ImageFailure> {
        let options = ImportOptions {
            name: called.map(name).transpose()?,
            now: now(),
            max_bytes: MAX_ARCHIVE_BYTES,
        };
        image::import_path(&self.blobs, archive, &options).map_err(|error| ImageFailure {
            is_invalid: !matches!(error, ImportError::Blob(_) | ImportError::Read { .. }),
            reason: "ImportFailed",
            message: chain(&error),
        })
    }

    fn pull(
        &self,
        reference: &str,
        expected: Option<Digest>,
        platforms: &[Platform],
    ) -> Result<Image, ImageFailure> {
        let named = name(reference)?;
        let wanted = match expected {
            Some(digest) if named.digest().is_none() => name(&format!("{named}@{digest}"))?,
            Some(_) | None => named.clone(),
        };
        let failed = |error: &dyn Error| ImageFailure {
            is_invalid: false,
            reason: "PullFailed",
            message: chain(error),
        };
        let mut registry = Registry::new(self.registries.clone()).map_err(|e| failed(&e))?;
        let mut pulled = registry
            .pull(&self.blobs, &wanted, platforms, now(), &mut |_| {})
            .map_err(|e| failed(&e))?;
        pulled.reference = named.to_string();
        Ok(pulled)
    }

    fn read(&self, digest: Digest, offset: u64, max_bytes: usize) -> Result<Vec<u8>, ImageFailure> {
        let failed = |error: &dyn Error| ImageFailure {
            is_invalid: false,
            reason: "BlobUnreadable",
            message: chain(error),
        };
        let file = self
            .blobs
            .open_at(&digest, offset)
            .map_err(|e| failed(&e))?;
        let mut bytes = Vec::with_capacity(max_bytes);
        file.take(max_bytes as u64)
            .read_to_end(&mut bytes)
            .map_err(|e| failed(&e))?;
        Ok(bytes)
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), ImageFailure> {
        self.blobs.remove(&digest).map_err(|error| ImageFailure {
            is_invalid: false,
            reason: "BlobKept",
            message: chain(&error),
        })
    }

    fn has_blob(&self, digest: Digest, size: u64) -> bool {
        self.blobs.len(&digest) == Some(size)
    }

    fn keep_blob(
        &self,
        digest: Digest,
        size: u64,
        bytes: &mut dyn Read,
    ) -> Result<(), ImageFailure> {
        let failed = |error: &dyn Error, is_invalid| ImageFailure {
            is_invalid,
            reason: "BlobRefused",
            message: chain(error),
        };
        if self.blobs.len(&digest) == Some(size) {
            let skipped = std::io::copy(bytes, &mut std::io::sink());
            return skipped.map(drop).map_err(|e| failed(&e, false));
        }
        let mut writer = self.blobs.writer(size).map_err(|e| failed(&e, false))?;
        let mut piece = vec![0; 256 * 1024];
        loop {
            let read = bytes.read(&mut piece).map_err(|e| failed(&e, false))?;
            if read == 0 {
                break;
            }
            writer
                .write(&piece[..read])
                .map_err(|e| failed(&e, false))?;
        }
        let staged = writer.finish().map_err(|e| failed(&e, false))?;
        if staged.digest() != digest {
            return Err(ImageFailure {
                is_invalid: true,
                reason: "BlobRefused",
                message: format!("a file of it should be {digest} and is another: copy it again"),
            });
        }
        self.blobs
            .keep(&staged)
            .map(drop)
            .map_err(|e| failed(&e, false))
    }

    fn blobs_dir(&self) -> &Path {
        &self.dir
    }
}
