//! A directory held open, and the system calls on the names in it.
//!
//! All path work of unpacking goes through here, one name at a time and never
//! following a link, so no sequence of entries leads outside of the directory
//! that it began with.

use super::tar::Time;
use libc::c_long;
use nix::NixPath;
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, fstat, fstatat,
    futimens, makedev, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

/// The kernel's name for "nothing below shines through here".
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// One component of a path. Whoever makes one has checked that it is neither
/// empty, `.` nor `..`, and has no slash and no NUL in it.
pub type Name<'a> = &'a [u8];

/// A directory, held open.
pub struct Dir(OwnedFd);

/// Owner, permissions and time of something that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Time,
}

fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: every caller passes a descriptor that the kernel made for it in
    // the line before and that nobody else knows.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn open(at: Option<RawFd>, name: &(impl NixPath + ?Sized), flags: OFlag) -> nix::Result<OwnedFd> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(at, name, flags, Mode::from_bits_truncate(0o600)).map(own)
}

#[allow(
    clippy::unnecessary_cast,
    reason = "a C long has 32 bits on 32-bit Arm"
)]
fn timespec(time: Time) -> TimeSpec {
    // Both are C longs. Where those have 32 bits, a file of 2040 is of 2038.
    let seconds = time.seconds.clamp(c_long::MIN as i64, c_long::MAX as i64);
    TimeSpec::new(seconds as c_long, time.nanos as c_long)
}

impl Dir {
    /// Opens a directory of ours by its path.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open(
            None,
            path,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        )?))
    }

    /// Opens the same directory once more.
    pub fn open_same(&self) -> nix::Result<Self> {
        Ok(Self(open(
            self.at(),
            c".",
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        )?))
    }

    /// Opens a directory in this one. `ENOTDIR` or `ELOOP` if it is not one.
    pub fn child(&self, name: Name) -> nix::Result<Self> {
        Ok(Self(open(
            self.at(),
            name,
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
        )?))
    }

    /// The same without the time of reading it being written down: a look must
    /// not wear out the disk.
    pub fn open_quietly(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME;
        Ok(Self(open(None, path, flags)?))
    }

    /// [`Dir::child`] in the same way.
    pub fn child_quietly(&self, name: Name) -> nix::Result<Self> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOATIME;
        Ok(Self(open(self.at(), name, flags)?))
    }

    /// Where a symbolic link leads, word for word.
    pub fn read_link(&self, name: Name) -> nix::Result<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        readlinkat(self.at(), name).map(OsStringExt::into_vec)
    }

    fn at(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }

    /// What `name` is, without following it; `None` when it is not there.
    pub fn stat(&self, name: Name) -> nix::Result<Option<FileStat>> {
        match fstatat(self.at(), name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(other) => Err(other),
        }
    }

    /// What this directory itself is.
    pub fn stat_self(&self) -> nix::Result<FileStat> {
        fstat(self.0.as_raw_fd())
    }

    /// Makes an empty directory.
    pub fn make_dir(&self, name: Name) -> nix::Result<()> {
        mkdirat(self.at(), name, Mode::from_bits_truncate(0o700))
    }

    /// Makes an empty file; it must not be there.
    pub fn make_file(&self, name: Name) -> nix::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
        open(self.at(), name, flags).map(File::from)
    }

    /// Makes a symbolic link; `target` is kept as it is.
    pub fn make_symlink(&self, name: Name, target: &[u8]) -> nix::Result<()> {
        symlinkat(target, self.at(), name)
    }

    /// Gives `old_name` of `old` another name, without following it.
    pub fn make_hard_link(&self, name: Name, old: &Dir, old_name: Name) -> nix::Result<()> {
        linkat(old.at(), old_name, self.at(), name, AtFlags::empty())
    }

    /// Makes a device or named pipe. Character device 0:0 is overlayfs'
    /// whiteout.
    pub fn make_node(&self, name: Name, kind: SFlag, major: u32, minor: u32) -> nix::Result<()> {
        let device = makedev(major.into(), minor.into());
        mknodat(
            self.at(),
            name,
            kind,
            Mode::from_bits_truncate(0o600),
            device,
        )
    }

    /// Sets owner, permissions and time of a device or pipe, of a link without
    /// permissions, which it has not.
    pub fn set_attributes(&self, name: Name, a: &Attributes, is_link: bool) -> nix::Result<()> {
        let (uid, gid) = (Uid::from_raw(a.uid), Gid::from_raw(a.gid));
        fchownat(
            self.at(),
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        if !is_link {
            // This call follows links, but the caller made this name itself as
            // something else, in a directory that is closed to all others.
            let mode = Mode::from_bits_truncate(a.mode);
            fchmodat(self.at(), name, mode, FchmodatFlags::FollowSymlink)?;
        }
        let time = timespec(a.mtime);
        utimensat(
            self.at(),
            name,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
    }

    /// Sets this directory's owner and permissions.
    pub fn set_owner_and_mode(&self, a: &Attributes) -> nix::Result<()> {
        set_owner_and_mode(&self.0, a)
    }

    /// Sets this directory's time.
    pub fn set_time(&self, time: Time) -> nix::Result<()> {
        let time = timespec(time);
        futimens(self.0.as_raw_fd(), &time, &time)
    }

    /// Sets an extended attribute of this directory.
    pub fn set_xattr(&self, name: &[u8], value: &[u8]) -> nix::Result<()> {
        set_xattr(&self.0, name, value)
    }

    /// Hides all that lower layers have in this directory.
    pub fn set_opaque(&self) -> nix::Result<()> {
        set_xattr(&self.0, OPAQUE, b"y")
    }

    /// Whether [`Dir::set_opaque`] was called.
    pub fn is_opaque(&self) -> nix::Result<bool> {
        let name = CString::new(OPAQUE).expect("no NUL in it");
        let mut value = [0u8; 1];
        // SAFETY: the name ends with NUL, the buffer has the length given.
        let count = unsafe {
            let buffer = value.as_mut_ptr().cast();
            libc::fgetxattr(self.0.as_raw_fd(), name.as_ptr(), buffer, value.len())
        };
        match Errno::result(count) {
            Ok(1) => Ok(value == *b"y"),
            Ok(_) | Err(Errno::ENODATA | Errno::ERANGE | Errno::ENOTSUP) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Removes `name` and all in it, following nothing.
    pub fn remove(&self, name: Name) -> nix::Result<()> {
        match unlinkat(self.at(), name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR | Errno::EPERM) => {}
            other => return other,
        }
        let child = self.child(name)?;
        for inner in child.names()? {
            child.remove(inner.as_bytes())?;
        }
        unlinkat(self.at(), name, UnlinkatFlags::RemoveDir)
    }

    /// The names in it, in no order.
    pub fn names(&self) -> nix::Result<Vec<CString>> {
        let mut dir = nix::dir::Dir::openat(
            self.at(),
            ".",
            OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOATIME,
            Mode::empty(),
        )?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry?;
            let dots = matches!(entry.file_name().to_bytes(), b"." | b"..");
            if !(dots && matches!(entry.file_type(), Some(Type::Directory) | None)) {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }

    /// Writes all of this directory's file system to the disk.
    pub fn sync_file_system(&self) -> nix::Result<()> {
        nix::unistd::syncfs(self.0.as_raw_fd())
    }
}

/// Sets a file's owner, permissions and time; call it after the last write.
pub fn set_file_attributes(file: &File, a: &Attributes) -> nix::Result<()> {
    set_owner_and_mode(file, a)?;
    let time = timespec(a.mtime);
    futimens(file.as_raw_fd(), &time, &time)
}

/// The owner first: changing it clears setuid and setgid.
fn set_owner_and_mode(fd: &impl AsRawFd, a: &Attributes) -> nix::Result<()> {
    fchown(
        fd.as_raw_fd(),
        Some(Uid::from_raw(a.uid)),
        Some(Gid::from_raw(a.gid)),
    )?;
    fchmod(fd.as_raw_fd(), Mode::from_bits_truncate(a.mode))
}

/// Sets an extended attribute of an open file or directory; call it after
/// setting the owner, which clears capabilities.
pub fn set_xattr(fd: &impl AsRawFd, name: &[u8], value: &[u8]) -> nix::Result<()> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the name ends with NUL, the value has the length given, and the
    // kernel keeps neither.
    let result = unsafe {
        libc::fsetxattr(
            fd.as_raw_fd(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    Errno::result(result).map(drop)
}
