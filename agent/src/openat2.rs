//! Files below a directory in which others write: the kernel resolves the path
//! (openat2(2), Linux 5.6), so that nothing that is exchanged meanwhile leads
//! out of it. An empty path is the directory itself.

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};

/// Follows links as if `root` was `/`.
pub(crate) fn open_in_root(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open(root, path, flags, Mode::empty(), resolve)
}

/// Follows links, and refuses those that lead out of `root`.
pub(crate) fn open_beneath(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    open(root, path, flags, Mode::empty(), resolve)
}

/// Refuses every link.
pub(crate) fn open_without_links(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    open(root, path, flags, Mode::empty(), resolve)
}

/// Makes a file to be written, where nothing has this name yet.
pub(crate) fn create_without_links(root: &File, name: &OsStr, mode: Mode) -> io::Result<File> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
    open(root, Path::new(name), flags, mode, resolve)
}

fn open(
    root: &File,
    path: &Path,
    flags: OFlag,
    mode: Mode,
    resolve: ResolveFlag,
) -> io::Result<File> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(resolve);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: openat2 made this descriptor just now.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// The path of an open file that leads to it and nothing else, whatever its
/// names mean by now (proc(5), `/proc/self/fd`).
pub(crate) fn way_to(file: &impl AsRawFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
