//! What a layer's directory holds, as one digest: taken when the layer has been
//! unpacked and verified, and compared when something of it seems to be
//! missing, as after a power cut on a bad card, when `fsck` puts files away.
//!
//! Names, kinds, owners, permissions, sizes and where links lead are in it,
//! contents are not: reading all of a layer takes minutes on such a disk, and
//! file systems lose whole files rather than change bytes in them.

use super::dir::Dir;
use super::layer::kind_of;
use super::unpack::MAX_DEPTH;
use nix::sys::stat::SFlag;
use sha2::{Digest as _, Sha256};
use skerry_wire::Digest;
use std::io;
use std::path::Path;

/// The digest of what is below `dir`.
///
/// # Errors
/// What cannot be read: with `EIO` it is damaged.
pub fn digest_of(dir: &Path) -> io::Result<Digest> {
    let mut hash = Sha256::new();
    walk(&Dir::open_quietly(dir)?, &mut hash, 0)?;
    Ok(Digest::from_bytes(hash.finalize().into()))
}

// These numbers have other sizes on some machines.
#[allow(clippy::unnecessary_cast)]
fn walk(dir: &Dir, hash: &mut Sha256, depth: usize) -> io::Result<()> {
    if depth > MAX_DEPTH {
        return Err(io::Error::other(
            "more directories in each other than can be",
        ));
    }
    let mut names = dir.names()?;
    names.sort();
    hash.update((names.len() as u64).to_le_bytes());
    for name in names {
        let name = name.as_bytes();
        let Some(stat) = dir.stat(name)? else {
            return Err(io::Error::other("a name without a file"));
        };
        let kind = kind_of(&stat);
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name);
        hash.update((stat.st_mode as u32).to_le_bytes());
        hash.update(stat.st_uid.to_le_bytes());
        hash.update(stat.st_gid.to_le_bytes());
        if kind == SFlag::S_IFREG {
            hash.update((stat.st_size as u64).to_le_bytes());
        } else if kind == SFlag::S_IFLNK {
            let target = dir.read_link(name)?;
            hash.update((target.len() as u64).to_le_bytes());
            hash.update(&target);
        } else if kind == SFlag::S_IFCHR || kind == SFlag::S_IFBLK {
            hash.update((stat.st_rdev as u64).to_le_bytes());
        } else if kind == SFlag::S_IFDIR {
            walk(&dir.child_quietly(name)?, hash, depth + 1)?;
        }
    }
    Ok(())
}
