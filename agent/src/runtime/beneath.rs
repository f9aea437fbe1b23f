//! What is below a directory in which apps write, opened and made so that no link
//! leads out of it: the kernel resolves the path (openat2(2), `RESOLVE_BENEATH`).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// Opens (`O_PATH`) what is at a path below `root`; no link leads out of that.
pub fn open_beneath(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: openat2 made this descriptor just now.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Makes the directories of a path below `root` that are missing. `dress` gives
/// each new one its owner and mode, by a path that leads to it and nothing else.
pub fn make_dirs_beneath(
    root: &File,
    path: &Path,
    dress: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let mut there = PathBuf::new();
    for part in path {
        let parent = open_beneath(root, &there, OFlag::O_DIRECTORY)?;
        there.push(part);
        match mkdirat(Some(parent.as_raw_fd()), part, Mode::S_IRWXU) {
            Ok(()) => {}
            Err(nix::Error::EEXIST) => continue,
            Err(error) => return Err(error.into()),
        }
        // Whatever has taken its place since is no link.
        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let new = open_beneath(&parent, Path::new(part), flags)?;
        dress(Path::new(&format!("/proc/self/fd/{}", new.as_raw_fd())))?;
    }
    Ok(())
}
