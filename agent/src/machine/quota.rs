//! Size limits of directories where the file system can: project quotas of
//! ext4 and XFS (Linux, "Project quota"; mount option `prjquota`). Everything
//! below a directory belongs to its project, which has the limit.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// What is made in the directory belongs to its project.
const XFLAG_PROJINHERIT: u32 = 0x200;
/// Project quotas (linux/quota.h).
const PRJQUOTA: u32 = 2;
const Q_GETQUOTA: u32 = 0x80_0007;
const Q_SETQUOTA: u32 = 0x80_0008;
/// `XQM_CMD(8)` of linux/dqblk_xfs.h: how quotas stand.
const Q_XGETQSTATV: u32 = (b'X' as u32) << 8 | 8;
/// Project quotas are enforced, not only counted.
const QUOTA_PDQ_ENFD: u16 = 1 << 5;
/// Of every architecture (Linux 5.14).
const SYS_QUOTACTL_FD: libc::c_long = 443;
/// Only the block limits of a [`libc::dqblk`] count.
const QIF_BLIMITS: u32 = 1;
/// Bytes of a block of these limits.
const BLOCK_BYTES: u64 = 1024;
/// Projects of ours: above those that an administrator gives by hand.
const OURS: u32 = 1 << 30;

nix::ioctl_read!(get_xattr, b'X', 31, FsXattr);
nix::ioctl_write_ptr!(set_xattr, b'X', 32, FsXattr);

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
}

fn xattr_of(file: &File) -> io::Result<FsXattr> {
    let mut found = FsXattr::default();
    // SAFETY: the descriptor is open, and the kernel fills just this struct.
    unsafe { get_xattr(file.as_raw_fd(), &mut found) }?;
    Ok(found)
}

fn quotactl<T>(file: &File, command: u32, id: u32, value: &mut T) -> io::Result<()> {
    let command = (command << 8) | PRJQUOTA;
    let value: *mut T = value;
    // SAFETY: the descriptor is open; the kernel reads or fills the struct that
    // belongs to the command, which `value` has room for.
    let result = unsafe { libc::syscall(SYS_QUOTACTL_FD, file.as_raw_fd(), command, id, value) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn is_enforced(file: &File) -> bool {
    // `struct fs_quota_statv`: a version, a byte of nothing, then the flags.
    let mut status = [0u64; 32];
    status[0] = u64::from_ne_bytes([1, 0, 0, 0, 0, 0, 0, 0]);
    let read = quotactl(file, Q_XGETQSTATV, 0, &mut status);
    let [_, _, low, high, ..] = status[0].to_ne_bytes();
    read.is_ok() && u16::from_ne_bytes([low, high]) & QUOTA_PDQ_ENFD != 0
}

fn empty() -> libc::dqblk {
    // SAFETY: a struct of integers, for which zeros are values.
    unsafe { std::mem::zeroed() }
}

/// The project of a directory: the same for the same path. Two directories
/// share one with a chance of one to 2^30, and would share their limit.
fn project_of(path: &Path) -> u32 {
    let digest = skerry_wire::Digest::of(path.as_os_str().as_encoded_bytes()).hex();
    let number = u32::from_str_radix(&digest[..8], 16).unwrap_or(1);
    OURS | (number & (OURS - 1))
}

/// Limits what is in a directory, or lifts the limit. An error says that the
/// file system cannot. Blocks.
pub fn set(path: &Path, limit_bytes: Option<u64>) -> io::Result<()> {
    let dir = open(path)?;
    let id = project_of(path);
    let has = xattr_of(&dir);
    if limit_bytes.is_none() && !has.as_ref().is_ok_and(|x| x.projid == id) {
        return Ok(()); // it never had one
    }
    if !is_enforced(&dir) {
        return Err(io::Error::other("its file system has no project quotas"));
    }
    let mut block = empty();
    block.dqb_bhardlimit = limit_bytes.map_or(0, |bytes| bytes.div_ceil(BLOCK_BYTES));
    block.dqb_bsoftlimit = block.dqb_bhardlimit;
    block.dqb_valid = QIF_BLIMITS;
    quotactl(&dir, Q_SETQUOTA, id, &mut block)?;
    if has?.projid == id {
        return Ok(());
    }
    // What is in it already, then the directory itself: that it has the
    // project says that all is done.
    let mut ahead: Vec<PathBuf> = vec![path.to_path_buf()];
    let mut dirs = Vec::new();
    while let Some(now) = ahead.pop() {
        for entry in fs::read_dir(&now)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                ahead.push(entry.path());
            } else if kind.is_file() {
                assign(&open(&entry.path())?, id, false)?;
            }
        }
        dirs.push(now);
    }
    for now in dirs.iter().rev() {
        assign(&open(now)?, id, true)?;
    }
    Ok(())
}

fn assign(file: &File, id: u32, inherits: bool) -> io::Result<()> {
    let mut value = xattr_of(file)?;
    value.projid = id;
    if inherits {
        value.xflags |= XFLAG_PROJINHERIT;
    }
    // SAFETY: the descriptor is open, and the kernel only reads the struct.
    unsafe { set_xattr(file.as_raw_fd(), &value) }?;
    Ok(())
}

/// The limit of a directory, where one is enforced. Blocks.
pub fn limit(path: &Path) -> Option<u64> {
    let dir = open(path).ok()?;
    let id = project_of(path);
    if xattr_of(&dir).ok()?.projid != id || !is_enforced(&dir) {
        return None;
    }
    let mut block = empty();
    quotactl(&dir, Q_GETQUOTA, id, &mut block).ok()?;
    (block.dqb_bhardlimit > 0).then(|| block.dqb_bhardlimit * BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn projects_are_ours_and_stay() {
        let a = project_of(Path::new("/var/lib/skerry-agent/volumes/default/a"));
        assert_eq!(
            a,
            project_of(Path::new("/var/lib/skerry-agent/volumes/default/a"))
        );
        assert!(a & OURS != 0 && a < 2 * OURS);
        assert_ne!(a, project_of(Path::new("/b")));
    }

    #[test]
    fn where_it_cannot_be_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        // Nothing to lift is no error on any file system.
        set(dir.path(), None).unwrap();
        match limit(dir.path()) {
            // As everywhere where nobody mounted with prjquota.
            None if set(dir.path(), Some(1 << 20)).is_err() => {
                assert_eq!(limit(dir.path()), None);
            }
            _ => {
                assert_eq!(limit(dir.path()), Some(1 << 20));
                set(dir.path(), None).unwrap();
                assert_eq!(limit(dir.path()), None);
            }
        }
    }
}
