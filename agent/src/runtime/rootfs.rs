//! A container's root file system: its layers and an empty writable layer,
//! laid over each other by overlayfs, seen by this process's mount namespace
//! only.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};

use crate::openat2::{open_in_root, way_to};
use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Why a root file system cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// The kernel gave no own mount namespace.
    #[error("no own mount namespace")]
    Unshare(#[source] nix::Error),
    /// A directory or link cannot be made or removed.
    #[error("cannot prepare {}", path.display())]
    Prepare {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layer is not there.
    #[error("image layer {} is not there", path.display())]
    Layer {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the mount.
    #[error("overlayfs cannot be mounted at {}", path.display())]
    Overlay {
        /// Where.
        path: PathBuf,
        /// Why.
        source: nix::Error,
    },
}

/// Gives this process a mount namespace of its own, from which nothing gets
/// back to the host's. What the host unmounts still goes away here, so that
/// no container keeps a disk busy.
pub fn unshare_mounts() -> Result<(), RootfsError> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(RootfsError::Unshare)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(RootfsError::Unshare)
}

/// Mounts `layers` (lowest first) at `target`, which must exist, with a new
/// and empty writable layer in `scratch`. `links` is a directory for short
/// names.
///
/// The options of a mount must fit into one page, however long the paths are
/// and up to 127 layers: so each layer gets a short link, and the options name
/// the links. They also keep the host's paths out of the container's
/// `/proc/mounts`.
pub fn mount_overlay(
    layers: &[PathBuf],
    scratch: &Path,
    links: &Path,
    target: &Path,
) -> Result<(), RootfsError> {
    let prepare = |path: &Path| {
        let path = path.to_owned();
        move |source| RootfsError::Prepare { path, source }
    };
    remove_all(scratch).map_err(prepare(scratch))?;
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    make_dir(scratch, 0o700).map_err(prepare(scratch))?;
    // The root directory that the container sees is this one.
    make_dir(&upper, 0o755).map_err(prepare(&upper))?;
    make_dir(&work, 0o700).map_err(prepare(&work))?;
    make_dir(links, 0o700).map_err(prepare(links))?;
    let mut lower = String::new();
    for (number, layer) in layers.iter().enumerate().rev() {
        File::open(layer).map_err(|source| RootfsError::Layer {
            path: layer.clone(),
            source,
        })?;
        let name = number.to_string();
        symlink(layer, links.join(&name)).map_err(prepare(links))?;
        if !lower.is_empty() {
            lower.push(':');
        }
        lower.push_str(&name);
    }
    symlink(&upper, links.join("u")).map_err(prepare(links))?;
    symlink(&work, links.join("w")).map_err(prepare(links))?;
    std::env::set_current_dir(links).map_err(prepare(links))?;
    let mounted = mount_at(target, &lower);
    std::env::set_current_dir("/").map_err(prepare(Path::new("/")))?;
    mounted.map_err(|source| RootfsError::Overlay {
        path: target.to_owned(),
        source,
    })
}

fn mount_at(target: &Path, lower: &str) -> Result<(), nix::Error> {
    let options = format!("lowerdir={lower},upperdir=u,workdir=w");
    let flags = MsFlags::MS_NODEV;
    let call = |options: &str| {
        mount(
            Some("overlay"),
            target,
            Some("overlay"),
            flags,
            Some(options),
        )
    };
    // "volatile" spares the flash: the writable layer never outlives its
    // container, so nothing in it needs to be synced. Linux 5.10.
    match call(&format!("{options},volatile")) {
        Err(nix::Error::EINVAL) => call(&options),
        other => other,
    }
}

fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes a directory and everything in it, if it is there. Follows no links.
pub fn remove_all(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes the directories of `path` inside the open directory `root`, following
/// the image's links without leaving it. What is there stays as it is.
pub fn make_dirs_in(root: &File, path: &str) -> io::Result<()> {
    let mut made = PathBuf::new();
    for part in Path::new(path.trim_start_matches('/')).iter() {
        let parent = open_in(root, &made)?;
        match nix::sys::stat::mkdirat(
            Some(parent.as_raw_fd()),
            part,
            Mode::from_bits_truncate(0o755),
        ) {
            Ok(()) | Err(nix::Error::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        made.push(part);
    }
    Ok(())
}

fn open_in(root: &File, path: &Path) -> io::Result<File> {
    open_in_root(root, path, OFlag::O_PATH | OFlag::O_DIRECTORY)
}

/// Where `path` really is inside the open directory `root`, an absolute path
/// seen from there: the image's links are followed as far as something is
/// there, and the rest is added.
pub fn real_path_in(root: &File, path: &str) -> io::Result<String> {
    let link = |file: &File| fs::read_link(way_to(file));
    let base = link(root)?;
    let path = Path::new(path.trim_start_matches('/'));
    for there in path.ancestors() {
        let rest = path.strip_prefix(there).unwrap_or(Path::new(""));
        match open_in_root(root, there, OFlag::O_PATH) {
            Ok(file) => {
                let real = link(&file)?;
                let inside = real.strip_prefix(&base).map_err(io::Error::other)?;
                let whole = Path::new("/").join(inside).join(rest);
                return Ok(whole.to_string_lossy().into_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A link that leads nowhere yet may lead somewhere once all is
                // mounted: into /proc, if that is where it points.
                if let Some(target) = dangling(root, there)? {
                    let whole = Path::new("/").join(target).join(rest);
                    return Ok(plain(&whole).to_string_lossy().into_owned());
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// The target of the link at `path`, seen from `root`, if there is a link.
fn dangling(root: &File, path: &Path) -> io::Result<Option<PathBuf>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(None);
    };
    let parent_dir = match open_in(root, parent) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match nix::fcntl::readlinkat(Some(parent_dir.as_raw_fd()), name) {
        Ok(target) => Ok(Some(Path::new("/").join(parent).join(target))),
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// A path without `.` and `..`, by its words alone.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => out.push(name),
            std::path::Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Removes the symbolic link at `path` inside the open directory `root`. What
/// is not there, or not a link, stays as it is.
pub fn remove_link_in(root: &File, path: &str) -> io::Result<()> {
    let path = Path::new(path.trim_start_matches('/'));
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let parent = match open_in(root, parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let here = Some(parent.as_raw_fd());
    match nix::fcntl::readlinkat(here, name) {
        Ok(_) => Ok(unlinkat(here, name, UnlinkatFlags::NoRemoveDir)?),
        Err(nix::Error::EINVAL | nix::Error::ENOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
