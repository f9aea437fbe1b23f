//! The helper's binary, made unwritable for containers (CVE-2019-5736).
//!
//! A container's first process is a helper for the moment before it executes
//! the image's program, and a helper that enters a container can be seen by
//! the processes in it. Through `/proc/<pid>/exe` they could open our binary
//! and, once nothing executes it any more, write to it: the next helper would
//! run their code as root on the host. So helpers are executed from a
//! read-only mount of that one file, attached nowhere (Linux 5.12), or, where
//! the kernel has none, from a sealed copy in memory.
//!
//! Keeper and helper are the same file in any case, also after the agent's
//! binary was replaced on disk: what is mounted is what the keeper runs.

use crate::openat2::way_to;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;

const SELF: &str = "/proc/self/exe";

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// `MOUNT_ATTR_RDONLY` of `linux/mount.h`.
const MOUNT_ATTR_RDONLY: u64 = 1;

/// This process's binary, to be executed by its path in `/proc`.
#[derive(Debug)]
pub struct ProtectedExe {
    fd: OwnedFd,
}

impl ProtectedExe {
    /// Protects the binary that this process runs.
    pub fn of_this_process() -> io::Result<Self> {
        match read_only_mount(SELF) {
            Ok(fd) => Ok(Self { fd }),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOSYS | libc::EINVAL | libc::EPERM) => Ok(Self { fd: sealed_copy()? }),
                _ => Err(error),
            },
        }
    }

    /// What to execute, as long as this value lives.
    pub fn path(&self) -> PathBuf {
        way_to(&self.fd)
    }
}

fn read_only_mount(path: &str) -> io::Result<OwnedFd> {
    let path = CString::new(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: `path` is a C string that lives over the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    let fd = owned(fd)?;
    let attr = MountAttr {
        attr_set: MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path is an empty C string, and
    // `attr` has the layout and the size that the call is told.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(fd)
    }
}

fn sealed_copy() -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let fd = unsafe { libc::memfd_create(c"skerry-agent".as_ptr(), flags) };
    let mut copy = File::from(owned(fd.into())?);
    let mut original = File::open(SELF)?;
    let mut block = vec![0; 64 * 1024];
    loop {
        let count = original.read(&mut block)?;
        if count == 0 {
            break;
        }
        copy.write_all(&block[..count])?;
    }
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: the call takes numbers only.
    let result = unsafe { libc::fcntl(copy.as_raw_fd(), libc::F_ADD_SEALS, seals) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(copy.into())
}

fn owned(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel made this descriptor just now.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn write_error(fd: &OwnedFd) -> Option<i32> {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).custom_flags(libc::O_CLOEXEC).open(path);
        match opened {
            Ok(mut file) => file
                .write(b"x")
                .expect_err("must not be writable")
                .raw_os_error(),
            Err(error) => error.raw_os_error(),
        }
    }

    #[test]
    fn neither_form_can_be_written() {
        // Of a file that does not run, because one that does is "text busy".
        let file = tempfile::NamedTempFile::new().expect("a file");
        let path = file.path().to_str().expect("text");
        let mounted = read_only_mount(path).expect("this kernel has open_tree, mount_setattr");
        assert_eq!(write_error(&mounted), Some(libc::EROFS));
        fs::write(path, "the file itself can be written").expect("written");
        let copied = sealed_copy().expect("memfd");
        assert_eq!(write_error(&copied), Some(libc::EPERM));
    }

    #[test]
    fn the_mounted_form_runs() {
        let exe = ProtectedExe::of_this_process().expect("protected");
        let listed = std::process::Command::new(exe.path())
            .arg("--list")
            .output()
            .expect("runs");
        assert!(listed.status.success());
    }
}
