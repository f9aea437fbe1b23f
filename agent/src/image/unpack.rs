//! One layer, from a stream of bytes to a directory that overlayfs can take as
//! a lower layer.
//!
//! Whoever made the layer may be an enemy. What it asks for is done as
//! containerd and umoci do it, with these differences and choices:
//!
//! - A leading `/` and `.` components are dropped, as there. A `..` anywhere is
//!   refused; they clamp it to the root.
//! - A path that leads through a symbolic link of the same layer is refused;
//!   they follow it inside the root. No tool that makes a layer of a directory
//!   tree writes such a path.
//! - A hard link's target must be a file in the same layer, reached without a
//!   symbolic link.
//! - Symbolic links are kept word for word, wherever they point, and never
//!   followed.
//! - `.wh.NAME` hides NAME of lower layers only, wherever it stands in the
//!   layer (OCI image spec, `layer.md`, "Whiteouts"); `.wh..wh..opq` likewise.
//!   Other names that begin with `.wh..wh.` are leftovers of aufs and skipped,
//!   other paths through `.wh.` directories are refused.
//! - Of several entries for one path the last wins. A directory over a
//!   directory keeps what is in it.
//! - Directories that the layer leaves out look like those of the layers below,
//!   or belong to root with mode 0755.
//! - Devices are made, as there: containers' file systems are mounted `nodev`
//!   and the device cgroup stands before them. One that is character device 0:0
//!   is a whiteout to overlayfs and can only hide.
//! - Extended attributes: capabilities, ACLs and `user.` are kept on files and
//!   directories. `trusted.` and `user.overlay.` steer overlayfs and are
//!   refused. Other `security.` labels belong to the machine that made the
//!   image and are left out.

use super::dir::Dir;
use super::layer::Layer;
use super::tar::{Reader, TarError};
use sha2::{Digest as _, Sha256};
use skerry_layer::Plain;
use skerry_wire::Digest;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Most entries in a layer.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Longest path in a layer, in bytes (Linux' PATH_MAX without the NUL).
pub const MAX_PATH_BYTES: usize = 4095;
/// Most directories in each other. Bounds open files and stack of removing.
pub const MAX_DEPTH: usize = 256;
/// Bytes of directory names kept in memory until their times can be set.
pub(super) const MAX_DIRECTORY_NAMES_BYTES: usize = 16 << 20;
/// Most bytes of extended attributes of one entry: more than ext4 holds.
pub(super) const MAX_XATTR_BYTES: usize = 64 << 10;

const BUFFER_BYTES: usize = 64 << 10;
pub(super) const WHITEOUT: &[u8] = b".wh.";
pub(super) const WHITEOUT_META: &[u8] = b".wh..wh.";
pub(super) const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What came of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the plain tar, to be compared with the image's config.
    pub diff_id: Digest,
    /// Bytes of the plain tar.
    pub tar_bytes: u64,
    /// Entries in it.
    pub entries: u64,
}

/// Why a layer cannot be unpacked. Nothing outside the directory was touched.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is damaged or no tar.
    #[error("the layer is broken after {after:?}")]
    Tar {
        /// Path of the last good entry, cut; empty at the start.
        after: String,
        /// What is wrong.
        source: TarError,
    },
    /// It unpacks to more than is allowed.
    #[error(
        "the layer unpacks to more than {limit} bytes, the quota of this device; raise the quota or make the image smaller"
    )]
    Quota {
        /// What is allowed.
        limit: u64,
    },
    /// More than [`MAX_ENTRIES`], or too many directories to remember.
    #[error(
        "the layer has too many entries: at most {MAX_ENTRIES} and 16 MiB of directory names are allowed"
    )]
    TooMany,
    /// An entry asks for what is not allowed or not possible.
    #[error("{path:?}: {problem}")]
    Refused {
        /// The entry's path, cut.
        path: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The file system did not do what it should.
    #[error("{path:?} cannot be written")]
    Disk {
        /// The entry's path, cut.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A `..` in a path.
    #[error("the path has '..' in it; images must not reach out of their root")]
    Parent,
    /// Longer than [`MAX_PATH_BYTES`], or a component over 255 bytes.
    #[error("the path is too long: at most 4095 bytes, 255 in each part")]
    Long,
    /// Deeper than [`MAX_DEPTH`].
    #[error("the path is deeper than {MAX_DEPTH} directories")]
    Deep,
    /// A NUL byte in a path, target or attribute.
    #[error("a name has a NUL byte in it")]
    Nul,
    /// The root itself as something other than a directory.
    #[error("the image's root must be a directory")]
    Root,
    /// A component of the path is a link or file of the same layer.
    #[error(
        "it would be written through {0:?}, which is not a directory but a link or file of the same layer"
    )]
    Through(String),
    /// A hard link to something that is not a file of this layer.
    #[error("it is a hard link to {0:?}, which is not a file in the same layer")]
    HardLink(String),
    /// A symbolic link to nothing or to too long a text.
    #[error("it is a symbolic link whose target is empty or longer than 4095 bytes")]
    Symlink,
    /// A whiteout of nothing, `.` or `..`.
    #[error("it is a whiteout of no valid name")]
    Whiteout,
    /// An attribute that steers overlayfs.
    #[error(
        "it has the extended attribute {0:?}, which would steer overlayfs; rebuild the image without it"
    )]
    Xattr(String),
    /// More than [`MAX_XATTR_BYTES`].
    #[error("it has more than 64 KiB of extended attributes")]
    XattrSize,
    /// A user or group id that Linux does not have.
    #[error("its owner {uid}:{gid} is out of range")]
    Owner {
        /// The user id.
        uid: u64,
        /// The group id.
        gid: u64,
    },
}

/// A path for a message.
pub(super) fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

/// The read stopped at the quota.
#[derive(Debug, thiserror::Error)]
#[error("quota")]
struct OverQuota;

/// Counts, hashes and limits the plain tar.
struct Metered<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        if self.count > self.limit {
            return Err(io::Error::other(OverQuota));
        }
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Unpacks the layer that `source` streams (gzip, zstd or plain) into the
/// empty directory `into`. `below` are the unpacked layers under it, lowest
/// first. At most `quota` bytes of plain tar are read, and files are at most
/// that long.
///
/// On an error `into` holds a part; it is the caller's to remove. Nothing is
/// synced.
pub fn unpack(
    source: impl Read,
    into: &Path,
    below: &[PathBuf],
    quota: u64,
) -> Result<Unpacked, UnpackError> {
    let broken_at_start = |source: io::Error| UnpackError::Tar {
        after: String::new(),
        source: source.into(),
    };
    let mut plain = Plain::new(source).map_err(broken_at_start)?;
    let mut metered = Metered {
        inner: &mut plain,
        hash: Sha256::new(),
        count: 0,
        limit: quota,
    };
    let disk = |source: io::Error| UnpackError::Disk {
        path: "/".into(),
        source,
    };
    let root = Dir::open(into).map_err(disk)?;
    let mut layer = Layer {
        root,
        below,
        quota,
        directories: BTreeMap::new(),
        directory_bytes: 0,
        parent: None,
        buffer: vec![0; BUFFER_BYTES],
    };
    layer.start_root()?;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, &mut metered));
    let mut last = Vec::new();
    let mut entries = 0;
    let outcome = loop {
        match reader.next_entry() {
            Ok(None) => break Ok(()),
            Err(error) => break Err(Failure::Tar(error)),
            Ok(Some(entry)) => {
                last.clone_from(&entry.path);
                entries += 1;
                if entries > MAX_ENTRIES {
                    break Err(Failure::Unpack(UnpackError::TooMany));
                }
                if let Err(failure) = layer.take(entry, &mut reader) {
                    break Err(failure);
                }
            }
        }
    };
    // All bytes count for the digest, also those after the end of the tar.
    let outcome = outcome.and_then(|()| {
        let rest = io::copy(&mut reader.into_inner(), &mut io::sink());
        rest.map(drop).map_err(|e| Failure::Tar(TarError::Read(e)))
    });
    outcome.map_err(|failure| match failure {
        Failure::Unpack(error) => error,
        Failure::Tar(TarError::Read(error))
            if error.get_ref().is_some_and(|e| e.is::<OverQuota>()) =>
        {
            UnpackError::Quota { limit: quota }
        }
        Failure::Tar(source) => UnpackError::Tar {
            after: show(&last),
            source,
        },
    })?;
    layer.finish()?;
    Ok(Unpacked {
        diff_id: Digest::from_bytes(metered.hash.finalize().into()),
        tar_bytes: metered.count,
        entries,
    })
}

pub(super) enum Failure {
    Tar(TarError),
    Unpack(UnpackError),
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}
