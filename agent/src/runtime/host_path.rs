//! Paths of the host that apps may mount because they are below a directory that
//! the device allows. Apps write there: one may put a link to `/etc` there for
//! another to mount, or exchange a directory while we look. So such a path is
//! resolved once, by the kernel, never out of that directory (openat2(2),
//! `RESOLVE_BENEATH`), and what was found is mounted from its descriptor.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;

use super::beneath::{make_dirs_beneath, open_beneath};

/// Why a path of the host cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// A link on the way leads elsewhere.
    #[error(
        "host path {} leads out of {}, which is what this device allows: there is a link on the \
         way; remove it, or add what it leads to to hostPaths in the agent's configuration",
        path.display(),
        dir.display()
    )]
    Leaves {
        /// The path.
        path: PathBuf,
        /// What no link may leave.
        dir: PathBuf,
    },
    /// Something else.
    #[error("host path {}: {source}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HostPathError {
    fn of<'p>(dir: &'p Path, path: &'p Path) -> impl Fn(io::Error) -> Self + Copy + use<'p> {
        move |source| match source.raw_os_error() {
            Some(libc::EXDEV | libc::ELOOP) => Self::Leaves {
                path: path.to_owned(),
                dir: dir.to_owned(),
            },
            _ => Self::Open {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// Whether there is nothing at the path.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Open { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// A directory that any user in a container may use, and those above it.
    Dir,
    /// An empty file, in a directory that is there.
    File,
}

/// Opens (`O_PATH`) what is at `path`, below `dir`. The directory itself is the
/// administrator's word, wherever it leads. Blocks.
pub fn open(dir: &Path, path: &Path) -> Result<File, HostPathError> {
    let failed = HostPathError::of(dir, path);
    let root = open_path(dir).map_err(failed)?;
    match inside(dir, path).map_err(failed)? {
        rest if rest.as_os_str().is_empty() => Ok(root),
        rest => open_beneath(&root, rest, OFlag::empty()).map_err(failed),
    }
}

/// Makes what is missing at `path`, below `dir`. Blocks.
pub fn make(dir: &Path, path: &Path, what: Made) -> Result<(), HostPathError> {
    let failed = HostPathError::of(dir, path);
    let root = open_path(dir).map_err(failed)?;
    let rest = inside(dir, path).map_err(failed)?;
    let made = match what {
        Made::Dir => make_dirs_beneath(&root, rest, |new| {
            fs::set_permissions(new, fs::Permissions::from_mode(0o777))
        }),
        Made::File => make_file(&root, rest),
    };
    made.map_err(failed)
}

fn inside<'p>(dir: &Path, path: &'p Path) -> io::Result<&'p Path> {
    let rest = path.strip_prefix(dir);
    rest.map_err(|_| io::Error::from_raw_os_error(libc::EXDEV))
}

fn open_path(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_CLOEXEC);
    options.open(path)
}

fn make_file(root: &File, path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = open_beneath(root, parent, OFlag::O_DIRECTORY)?;
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o644);
    let fd = openat(
        Some(parent.as_raw_fd()),
        name,
        flags | OFlag::O_WRONLY,
        mode,
    )?;
    Ok(nix::unistd::close(fd)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_is_used_or_made_outside() {
        let scratch = tempfile::tempdir().expect("a directory");
        let (dir, outside) = (
            scratch.path().join("allowed"),
            scratch.path().join("outside"),
        );
        fs::create_dir_all(dir.join("in")).expect("made");
        fs::create_dir(&outside).expect("made");
        symlink(&outside, dir.join("link")).expect("linked");
        symlink("../../outside", dir.join("in/up")).expect("linked");
        symlink("in", dir.join("stays")).expect("linked");
        for name in ["link", "in/up", "link/new", "in/up/new"] {
            let path = dir.join(name);
            for what in [Made::Dir, Made::File] {
                // A link itself is there already, and then not made.
                let made = make(&dir, &path, what);
                assert!(made.is_err() || open(&dir, &path).is_err(), "{name}");
            }
            let error = open(&dir, &path).expect_err(name);
            assert!(matches!(error, HostPathError::Leaves { .. }), "{error}");
            assert!(error.to_string().contains("hostPaths"), "{error}");
        }
        let left = fs::read_dir(&outside).expect("read").count();
        assert_eq!(left, 0, "made outside");
        assert!(open(&dir, &outside).is_err(), "not below it");

        open(&dir, &dir).expect("itself");
        open(&dir, &dir.join("stays")).expect("a link that stays");
        assert!(open(&dir, &dir.join("a/b")).expect_err("none").is_missing());
        make(&dir, &dir.join("a/b"), Made::Dir).expect("made");
        make(&dir, &dir.join("a/b/file"), Made::File).expect("made");
        let data = fs::metadata(dir.join("a/b")).expect("there");
        assert_eq!(data.permissions().mode() & 0o777, 0o777);
        assert!(dir.join("a/b/file").is_file());
        assert!(make(&dir, &dir.join("c/file"), Made::File).is_err());
    }
}
