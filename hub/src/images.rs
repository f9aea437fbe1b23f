//! What the hub needs of images: take them in, fetch them, give out their
//! blobs. All of it blocks; the shell calls it off its loop.

use crate::model::{Image, Platform};
use skerry_wire::Digest;
use std::path::Path;

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
    fn read(
        &self,
        digest: Digest,
        offset: u64,
        max_bytes: usize,
    ) -> Result<Vec<u8>, ImageFailure>;

    /// Where blobs lie: one file for each, for backups.
    fn blobs_dir(&self) -> &Path;
}
