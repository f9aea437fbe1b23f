//! From a tar stream into a volume.

use super::CHUNK;
use super::error::{MAX_ENTRIES, Result, VolumeTarError, at};
use crate::image::tar::{Entry, Kind, Part, Reader, TarError};
use crate::openat2::{create_without_links, open_in_root, open_without_links};
use nix::fcntl::{AtFlags, OFlag};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// What a file is called until it is whole.
const PARTIAL: &str = ".skerry-partial";

/// Who owns what is unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// As the archive says.
    Archive,
    /// The owner of the directory that it is unpacked into.
    Directory,
}

/// Unpacks a stream into the directory at `path` of `root`, which is made when
/// missing. A file appears whole or not at all. Returns how many entries.
pub fn unpack(root: &File, path: &Path, stream: impl Read, owners: Owners) -> Result<u64> {
    let base = make_dirs(root, path)?;
    let meta = base.metadata().map_err(at("cannot read", path))?;
    let mut reader = Reader::new(io::BufReader::with_capacity(CHUNK, stream));
    let mut count = 0;
    // Last: a directory may refuse what is still to come into it.
    let mut dirs: Vec<(PathBuf, Entry)> = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        count += 1;
        if count > MAX_ENTRIES {
            return Err(VolumeTarError::TooMany);
        }
        let inside = plain(&entry.path);
        let owner = match owners {
            Owners::Archive => (entry.uid, entry.gid),
            Owners::Directory => (u64::from(meta.uid()), u64::from(meta.gid())),
        };
        let entry = Entry {
            uid: owner.0,
            gid: owner.1,
            ..entry
        };
        let Some(name) = inside.file_name() else {
            // The directory itself: it is the app's only where all is
            // restored.
            if owners == Owners::Archive && entry.kind == Kind::Directory {
                dirs.push((inside, entry));
            }
            continue;
        };
        let parent = inside.parent().unwrap_or(Path::new(""));
        let dir = make_dirs(&base, parent)?;
        match &entry.kind {
            Kind::Directory => {
                make_dirs(&base, &inside)?;
                dirs.push((inside, entry));
            }
            Kind::File { .. } => {
                write_file(&dir, name, &entry, &mut reader).map_err(named(&inside))?;
            }
            Kind::Symlink(target) => {
                remove(&dir, name).map_err(at("cannot replace", &inside))?;
                symlinkat(OsStr::from_bytes(target), Some(dir.as_raw_fd()), name)
                    .map_err(io::Error::from)
                    .and_then(|()| set_owner(&dir, name, &entry))
                    .map_err(at("cannot make the link", &inside))?;
            }
            Kind::HardLink(target) => {
                hard_link(&base, &dir, name, &plain(target))
                    .map_err(at("cannot make the link", &inside))?;
            }
            Kind::Fifo => {
                remove(&dir, name).map_err(at("cannot replace", &inside))?;
                let mode = Mode::from_bits_truncate(entry.mode & 0o777);
                mknodat(Some(dir.as_raw_fd()), name, SFlag::S_IFIFO, mode, 0)
                    .map_err(io::Error::from)
                    .and_then(|()| set_owner(&dir, name, &entry))
                    .map_err(at("cannot make", &inside))?;
            }
            Kind::Character(..) | Kind::Block(..) => {
                return Err(VolumeTarError::Refused {
                    what: "a device",
                    path: inside,
                });
            }
        }
    }
    for (inside, entry) in dirs.into_iter().rev() {
        let dir = open_without_links(&base, &inside, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        dir.and_then(|dir| finish(&dir, &entry))
            .map_err(at("cannot set up", &inside))?;
    }
    Ok(count)
}

fn named(path: &Path) -> impl FnOnce(VolumeTarError) -> VolumeTarError + use<'_> {
    move |error| match error {
        VolumeTarError::File { what, source, .. } => VolumeTarError::File {
            what,
            path: path.to_path_buf(),
            source,
        },
        other => other,
    }
}

/// A path of an archive as a path inside: without `/`, `.` and `..`.
fn plain(path: &[u8]) -> PathBuf {
    let path = PathBuf::from(OsString::from_vec(path.to_vec()));
    let parts = path.components();
    parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

/// Makes the directories of `path` in `root`, following links as if that was
/// `/`, and opens the last.
fn make_dirs(root: &File, path: &Path) -> Result<File> {
    let mut made = PathBuf::new();
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    let mut dir = open_in_root(root, &made, flags).map_err(at("cannot read", path))?;
    for part in path.components() {
        let Component::Normal(part) = part else {
            continue;
        };
        made.push(part);
        let mode = Mode::from_bits_truncate(0o755);
        let fresh = match mkdirat(Some(dir.as_raw_fd()), part, mode) {
            Ok(()) => true,
            Err(nix::Error::EEXIST) => false,
            Err(error) => return Err(at("cannot make", &made)(error.into())),
        };
        let above = dir;
        dir = open_in_root(root, &made, flags).map_err(at("there is no directory at", &made))?;
        if fresh {
            // As of the one above it, so that the app may use it.
            let owner = above.metadata().map_err(at("cannot read", &made))?;
            let ids = (Some(owner.uid()), Some(owner.gid()));
            std::os::unix::fs::fchown(&dir, ids.0, ids.1).map_err(at("cannot set up", &made))?;
        }
    }
    Ok(dir)
}

fn remove(dir: &File, name: &OsStr) -> io::Result<()> {
    match unlinkat(Some(dir.as_raw_fd()), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EISDIR | nix::Error::EPERM) => Err(io::Error::other(
            "a directory is there: put '/' behind the path to copy into it, or remove it first",
        )),
        Err(error) => Err(error.into()),
    }
}

fn write_file(
    dir: &File,
    name: &OsStr,
    entry: &Entry,
    reader: &mut Reader<impl Read>,
) -> Result<()> {
    let Kind::File { parts, length } = &entry.kind else {
        return Ok(());
    };
    let here = Path::new("");
    let partial = OsStr::new(PARTIAL);
    remove(dir, partial).map_err(at("cannot write", here))?;
    let mode = Mode::from_bits_truncate(0o600);
    let mut file = create_without_links(dir, partial, mode).map_err(at("cannot write", here))?;
    let written = fill(&mut file, parts, *length, reader).and_then(|()| {
        finish(&file, entry).map_err(at("cannot set up", here))?;
        let dir = Some(dir.as_raw_fd());
        nix::fcntl::renameat(dir, partial, dir, name)
            .map_err(|error| at("cannot replace", here)(error.into()))
    });
    if written.is_err() {
        let _ = remove(dir, partial);
    }
    written
}

fn fill(
    file: &mut File,
    parts: &[Part],
    length: u64,
    reader: &mut Reader<impl Read>,
) -> Result<()> {
    let cannot = || at("cannot write", Path::new(""));
    let mut buffer = vec![0; CHUNK];
    for part in parts {
        file.seek(SeekFrom::Start(part.offset)).map_err(cannot())?;
        let mut left = part.length;
        while left > 0 {
            let room = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
            let count = reader.read(&mut buffer[..room])?;
            if count == 0 {
                return Err(TarError::Truncated.into());
            }
            file.write_all(&buffer[..count]).map_err(cannot())?;
            left -= count as u64;
        }
    }
    file.set_len(length).map_err(cannot())?;
    file.sync_data().map_err(cannot())
}

/// Owner, mode and time of a file or directory.
fn finish(file: &File, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = ids(entry);
    std::os::unix::fs::fchown(file, Some(uid), Some(gid))?;
    // After the owner, whose change takes setuid away.
    file.set_permissions(fs::Permissions::from_mode(entry.mode & 0o7777))?;
    let seconds = entry.mtime.seconds;
    let since = std::time::Duration::new(seconds.unsigned_abs(), entry.mtime.nanos);
    let at = match seconds < 0 {
        true => std::time::UNIX_EPOCH.checked_sub(since),
        false => std::time::UNIX_EPOCH.checked_add(since),
    };
    match at {
        Some(at) => file.set_modified(at),
        None => Ok(()),
    }
}

/// The largest number means "leave it" to the kernel.
fn ids(entry: &Entry) -> (u32, u32) {
    let id = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    (id(entry.uid).unwrap_or(0), id(entry.gid).unwrap_or(0))
}

fn set_owner(dir: &File, name: &OsStr, entry: &Entry) -> io::Result<()> {
    let (uid, gid) = ids(entry);
    nix::unistd::fchownat(
        Some(dir.as_raw_fd()),
        name,
        Some(Uid::from_raw(uid)),
        Some(Gid::from_raw(gid)),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}

fn hard_link(base: &File, dir: &File, name: &OsStr, target: &Path) -> io::Result<()> {
    let parent = target.parent().unwrap_or(Path::new(""));
    let target_name = target.file_name().ok_or(io::ErrorKind::NotFound)?;
    let parent = open_in_root(base, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
    remove(dir, name)?;
    linkat(
        Some(parent.as_raw_fd()),
        target_name,
        Some(dir.as_raw_fd()),
        name,
        AtFlags::empty(),
    )?;
    Ok(())
}
