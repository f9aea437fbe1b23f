//! File systems in memory that are ours, below the run directory: one for the
//! files of configs and secrets, and one for each empty-dir volume in memory.
//! They outlive the agent, as containers do, and go with their app.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Most bytes of all configs and secrets as files. A desired state has 2 MiB,
/// and rarely is one of them in more than a few volumes.
const SECRET_BYTES: u64 = 64 * 1024 * 1024;

/// Bytes of `/dev/shm`: Docker's and Kubernetes' figure.
const SHM_BYTES: u64 = 64 * 1024 * 1024;

/// Whether something is mounted right there.
fn is_mounted(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

/// Makes a place whose files are in memory and never swapped out. Blocks.
pub fn secret_memory(path: &Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| {
        format!(
            "{} cannot be made in memory: {error}; secrets are not written to a disk",
            path.display()
        )
    };
    make_dir(path).map_err(|e| failed(&e))?;
    if is_mounted(path).map_err(|e| failed(&e))? {
        return Ok(());
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let call =
        |kind: &str, options: &str| mount(Some("skerry"), path, Some(kind), flags, Some(options));
    // Linux 6.4; before that, only ramfs is never swapped.
    let first = call("tmpfs", &format!("noswap,mode=0700,size={SECRET_BYTES}"));
    first
        .or_else(|_| call("ramfs", "mode=0700"))
        .map_err(|e| failed(&e))
}

/// Makes an empty-dir volume in memory, with its limit. Blocks.
pub fn volume_memory(path: &Path, size_bytes: Option<u64>) -> Result<(), String> {
    memory(path, size_bytes, "0777", MsFlags::empty())
}

/// Makes what the containers of a pod have at `/dev/shm`, as large as each of
/// them would have it alone. Blocks.
pub fn shared_memory(path: &Path) -> Result<(), String> {
    memory(path, Some(SHM_BYTES), "1777", MsFlags::MS_NOEXEC)
}

fn memory(path: &Path, size_bytes: Option<u64>, mode: &str, more: MsFlags) -> Result<(), String> {
    let failed =
        |error: &dyn std::fmt::Display| format!("{} cannot be made: {error}", path.display());
    make_dir(path).map_err(|e| failed(&e))?;
    if is_mounted(path).map_err(|e| failed(&e))? {
        return Ok(());
    }
    let size = size_bytes.map_or(String::new(), |bytes| format!(",size={bytes}"));
    let options = format!("mode={mode}{size}");
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | more;
    mount(Some("skerry"), path, Some("tmpfs"), flags, Some(&*options)).map_err(|e| failed(&e))
}

fn make_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Unmounts all that is mounted below, and right at, a directory. A container
/// that still uses one keeps it until it ends. Blocks.
///
/// By the table of this thread, which may be in the mounts of the keeper
/// ([`in_mounts_of`](super::namespace::in_mounts_of)) while its process is not.
pub fn unmount_below(dir: &Path) {
    let Ok(dir) = dir.canonicalize() else {
        return;
    };
    let Ok(table) = fs::read_to_string("/proc/thread-self/mountinfo") else {
        return;
    };
    let points = table.lines().filter_map(|line| line.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points
        .map(unescape)
        .filter(|point| point.starts_with(&dir))
        .collect();
    // The last that was mounted first.
    below.reverse();
    for point in below {
        if let Err(error) = umount2(&point, MntFlags::MNT_DETACH) {
            tracing::warn!("{} stays mounted: {error}", point.display());
        }
    }
}

/// A path as mountinfo writes it: `\040` is a space.
pub(crate) fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| *first == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(byte) => {
                out.push(byte);
                rest = &after[3..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from(
        String::from_utf8_lossy(&out).into_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_as_the_kernel_writes_them() {
        assert_eq!(unescape("/run/a\\040b\\134c"), Path::new("/run/a b\\c"));
        assert_eq!(unescape("/run/a\\"), Path::new("/run/a\\"));
    }
}
