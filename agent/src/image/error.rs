//! Why an image cannot be had.

use super::manifest::ManifestError;
use super::unpack::UnpackError;
use skerry_wire::Digest;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Why an image cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory of the store.
    #[error("the image store cannot use {}", path.display())]
    Disk {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else writes this blob now.
    #[error("blob {0} is being fetched already")]
    Busy(Digest),
    /// More bytes than announced.
    #[error("blob {digest} is longer than the {size} bytes announced; what came was dropped")]
    Longer {
        /// Which one.
        digest: Digest,
        /// What was announced.
        size: u64,
    },
    /// Fewer bytes than announced; what came is kept.
    #[error("blob {digest} has only {got} of {size} bytes so far")]
    Shorter {
        /// Which one.
        digest: Digest,
        /// What came.
        got: u64,
        /// What was announced.
        size: u64,
    },
    /// Other bytes than announced.
    #[error("blob {wanted} arrived as {got}; what came was dropped, fetch it again")]
    Digest {
        /// What was asked for.
        wanted: Digest,
        /// What came.
        got: Digest,
    },
    /// The manifest or config is not usable.
    #[error("image {image} cannot be used")]
    Manifest {
        /// The image, as the manifest of the app names it.
        image: String,
        /// Why.
        source: ManifestError,
    },
    /// A layer cannot be unpacked.
    #[error("{layer} cannot be unpacked")]
    Layer {
        /// Which one.
        layer: Box<LayerName>,
        /// Why.
        source: UnpackError,
    },
    /// A layer unpacks to something else than the config says.
    #[error(
        "{layer} unpacks to {got}, but the config says {wanted}; push or import the image again"
    )]
    DiffId {
        /// Which one.
        layer: Box<LayerName>,
        /// What the config says.
        wanted: Digest,
        /// What it is.
        got: Digest,
    },
}

/// A layer, for messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerName {
    /// The image, as the manifest of the app names it.
    pub image: String,
    /// From 1, lowest first.
    pub number: usize,
    /// How many there are.
    pub count: usize,
    /// The layer as it travels.
    pub digest: Digest,
}

impl fmt::Display for LayerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            image,
            number,
            count,
            digest,
        } = self;
        write!(f, "image {image}: layer {number} of {count} ({digest})")
    }
}

pub(super) fn disk(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Disk { path, source }
}
