//! What is below a directory in which apps write, opened and made so that no link
//! leads out of it.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use crate::openat2::{self, way_to};
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, mkdirat};

/// Opens (`O_PATH`) what is at a path below `root`; no link leads out of that.
pub fn open_beneath(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    openat2::open_beneath(root, path, OFlag::O_PATH | flags)
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
        dress(&way_to(&new))?;
    }
    Ok(())
}
