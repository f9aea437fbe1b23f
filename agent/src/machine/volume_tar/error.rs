//! Why a stream was not packed or unpacked.

use crate::image::tar::TarError;
use std::io;
use std::path::{Path, PathBuf};

/// Entries of one stream, as many as an ext4 file system of 64 GiB has inodes.
pub(super) const MAX_ENTRIES: u64 = 4_000_000;

/// Why a stream was not packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum VolumeTarError {
    /// A file or directory.
    #[error("{what} {}", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// Inside the volume.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive.
    #[error("the archive cannot be read")]
    Archive(#[from] TarError),
    /// Nobody takes the stream any more, or it was cut short.
    #[error("the stream was cut short")]
    Stream(#[from] io::Error),
    /// An entry that no volume gets.
    #[error("{} is {what}, which is not put into volumes", path.display())]
    Refused {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// Too many.
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    TooMany,
}

pub(super) type Result<T> = std::result::Result<T, VolumeTarError>;

pub(super) fn at<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> VolumeTarError + use<'a> {
    move |source| VolumeTarError::File {
        what,
        path: path.to_path_buf(),
        source,
    }
}
