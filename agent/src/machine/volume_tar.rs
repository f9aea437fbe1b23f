//! Volumes as tar streams. Apps own what is in a volume and may put links into
//! it that lead anywhere: every path is resolved by the kernel with the volume
//! as its root (openat2(2), `RESOLVE_IN_ROOT`), and no last part of a path is
//! ever followed.

use crate::image::tar::{Entry, Kind, Reader, TarError};
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, linkat, symlinkat, unlinkat};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// Bytes that headers and contents are padded to.
const BLOCK: usize = 512;
/// Read and written at once.
const CHUNK: usize = 64 * 1024;
/// Entries of one stream, as many as an ext4 file system of 64 GiB has inodes.
const MAX_ENTRIES: u64 = 4_000_000;
/// What a file is called until it is whole.
const PARTIAL: &str = ".skerry-partial";

/// Why a stream was not packed or unpacked.
#[derive(Debug, thiserror::Error)]
pub enum VolumeTarError {
    /// A file or directory.
    #[error("{what} {}", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// Inside the volume.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The archive.
    #[error("the archive cannot be read")]
    Archive(#[from] TarError),
    /// Nobody takes the stream any more, or it was cut short.
    #[error("the stream was cut short")]
    Stream(#[from] io::Error),
    /// An entry that no volume gets.
    #[error("{} is {what}, which is not put into volumes", path.display())]
    Refused {
        /// What it is.
        what: &'static str,
        /// Its path.
        path: PathBuf,
    },
    /// Too many.
    #[error("the archive has more than {MAX_ENTRIES} entries")]
    TooMany,
}

type Result<T> = std::result::Result<T, VolumeTarError>;

fn at<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> VolumeTarError + use<'a> {
    move |source| VolumeTarError::File {
        what,
        path: path.to_path_buf(),
        source,
    }
}

/// Opens what is at `path`, seen from `root`. Links in between are followed as
/// if `root` was `/`.
pub fn open_in(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: openat2 made this descriptor just now.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Each of the two gets the other's name, at once (renameat2(2); musl has no
/// function for it).
pub fn exchange(one: &Path, other: &Path) -> io::Result<()> {
    /// `RENAME_EXCHANGE` of linux/fs.h.
    const EXCHANGE: libc::c_uint = 2;
    let name = |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other);
    let (one, other) = (name(one)?, name(other)?);
    let (here, there) = (libc::AT_FDCWD, libc::AT_FDCWD);
    // SAFETY: both names end with a zero byte and live until the call returns.
    let done = unsafe {
        libc::syscall(
            libc::SYS_renameat2,
            here,
            one.as_ptr(),
            there,
            other.as_ptr(),
            EXCHANGE,
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The way to an open file that leads to nothing else.
fn itself(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

// --- packing

/// Packs what is at `path` in `root`: a directory as `.` and what is below it,
/// a file under its own name.
pub fn pack(root: &File, path: &Path, out: &mut impl Write) -> Result<()> {
    let cannot = "cannot read";
    let start = open_in(root, path, OFlag::O_PATH).map_err(at(cannot, path))?;
    let meta = start.metadata().map_err(at(cannot, path))?;
    let mut links = BTreeMap::new();
    if meta.is_dir() {
        pack_dir(&start, &meta, &mut links, out)?;
    } else {
        let name = path.file_name().unwrap_or(OsStr::new("file"));
        let Some(file) = read_again(&start).map_err(at(cannot, path))? else {
            return Err(VolumeTarError::Refused {
                what: "neither a file nor a directory",
                path: path.to_path_buf(),
            });
        };
        header(out, Path::new(name), b'0', &meta, meta.len(), None)?;
        content(&file, meta.len(), out)?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(out.flush()?)
}

/// Without recursion: volumes may be as deep as they like.
fn pack_dir(
    root: &File,
    meta: &fs::Metadata,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
    out: &mut impl Write,
) -> Result<()> {
    header(out, Path::new("./"), b'5', meta, 0, None)?;
    let mut ahead = vec![PathBuf::new()];
    while let Some(dir) = ahead.pop() {
        let open = match open_beneath(root, &dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(open) => open,
            // An app removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at("cannot read", &dir)(error)),
        };
        let entries = fs::read_dir(itself(&open)).map_err(at("cannot read", &dir))?;
        let mut names: Vec<OsString> = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(at("cannot read", &dir))?;
        names.sort();
        for name in names {
            let inside = dir.join(&name);
            match pack_entry(&open, &name, &inside, links, out) {
                Ok(true) => ahead.push(inside),
                Ok(false) => {}
                Err(VolumeTarError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// As [`open_in`], but no part of the path may be a link.
fn open_beneath(root: &File, path: &Path, flags: OFlag) -> io::Result<File> {
    let path = match path.as_os_str().is_empty() {
        true => Path::new("."),
        false => path,
    };
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd = openat2(root.as_raw_fd(), path, how)?;
    // SAFETY: openat2 made this descriptor just now.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// Packs one entry; whether it is a directory, whose content follows.
fn pack_entry(
    dir: &File,
    name: &OsStr,
    inside: &Path,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
    out: &mut impl Write,
) -> Result<bool> {
    let cannot = "cannot read";
    let path = itself(dir).join(name);
    let meta = fs::symlink_metadata(&path).map_err(at(cannot, inside))?;
    let kind = meta.file_type();
    let shown = Path::new(".").join(inside);
    if kind.is_dir() {
        let mut with_slash = shown.into_os_string();
        with_slash.push("/");
        header(out, Path::new(&with_slash), b'5', &meta, 0, None)?;
        return Ok(true);
    }
    if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(at(cannot, inside))?;
        header(out, &shown, b'2', &meta, 0, Some(&target))?;
        return Ok(false);
    }
    if kind.is_fifo() {
        header(out, &shown, b'6', &meta, 0, None)?;
        return Ok(false);
    }
    if !kind.is_file() {
        // A socket means nothing without its program; a device is not kept.
        return Ok(false);
    }
    let key = (meta.dev(), meta.ino());
    if let Some(first) = links.get(&key) {
        header(out, &shown, b'1', &meta, 0, Some(first))?;
        return Ok(false);
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let found = open_beneath(dir, Path::new(name), flags).map_err(at(cannot, inside))?;
    // Of what was opened: an app may have put another one there.
    let Some(file) = read_again(&found).map_err(at(cannot, inside))? else {
        return Ok(false);
    };
    let meta = file.metadata().map_err(at(cannot, inside))?;
    header(out, &shown, b'0', &meta, meta.len(), None)?;
    content(&file, meta.len(), out)?;
    if meta.nlink() > 1 {
        links.insert((meta.dev(), meta.ino()), shown);
    }
    Ok(false)
}

/// Opens a file (`O_PATH`) for reading, if it is one. A device would be opened
/// by the host's root, whatever rules hold its app: a watchdog begins to count
/// by that alone, a serial line changes its signals.
fn read_again(found: &File) -> io::Result<Option<File>> {
    match found.metadata()?.is_file() {
        true => File::open(itself(found)).map(Some),
        false => Ok(None),
    }
}

/// So many bytes: zeros where the file became shorter meanwhile.
fn content(file: &File, length: u64, out: &mut impl Write) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    let mut reader = file.take(length);
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
        let count = match reader.read(&mut buffer[..room]) {
            Ok(0) => {
                buffer[..room].fill(0);
                room
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(at("cannot read", Path::new("a file"))(error)),
        };
        out.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        out.write_all(&[0; BLOCK][..BLOCK - over])?;
    }
    Ok(())
}

/// A header, with a PAX one before it for what does not fit (POSIX.1-2001,
/// `pax`, "Interchange Format").
fn header(
    out: &mut impl Write,
    path: &Path,
    kind: u8,
    meta: &fs::Metadata,
    size: u64,
    link: Option<&Path>,
) -> Result<()> {
    let path = path.as_os_str().as_bytes();
    let link = link.map_or(&b""[..], |link| link.as_os_str().as_bytes());
    let mut records = Vec::new();
    // The records are the truth for every name that is not plain and short:
    // readers disagree about the bytes of a header.
    let plain = |text: &[u8]| text.len() < 100 && text.is_ascii();
    if !plain(path) {
        record(&mut records, "path", path);
    }
    if !plain(link) {
        record(&mut records, "linkpath", link);
    }
    if size >= 1 << 33 {
        record(&mut records, "size", size.to_string().as_bytes());
    }
    for (name, id) in [("uid", meta.uid()), ("gid", meta.gid())] {
        if id >= 1 << 21 {
            record(&mut records, name, id.to_string().as_bytes());
        }
    }
    if meta.mtime() < 0 || meta.mtime_nsec() != 0 {
        let whole = meta.mtime();
        let text = match (whole < 0, meta.mtime_nsec()) {
            (_, 0) | (true, _) => whole.to_string(),
            (false, nanos) => format!("{whole}.{nanos:09}"),
        };
        record(&mut records, "mtime", text.as_bytes());
    }
    if !records.is_empty() {
        let numbers = Numbers {
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: records.len() as u64,
            mtime: 0,
        };
        out.write_all(&block(b"././@PaxHeader", b'x', &numbers, b""))?;
        out.write_all(&records)?;
        let over = records.len() % BLOCK;
        if over > 0 {
            out.write_all(&[0; BLOCK][..BLOCK - over])?;
        }
    }
    let numbers = Numbers {
        mode: meta.mode() & 0o7777,
        uid: meta.uid().min((1 << 21) - 1),
        gid: meta.gid().min((1 << 21) - 1),
        size: size.min((1 << 33) - 1),
        mtime: meta.mtime().clamp(0, (1 << 33) - 1) as u64,
    };
    Ok(out.write_all(&block(path, kind, &numbers, link))?)
}

/// `length key=value\n`, the length with itself.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} {key}=").as_bytes());
    out.extend(value);
    out.push(b'\n');
}

struct Numbers {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
}

fn block(path: &[u8], kind: u8, numbers: &Numbers, link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], room: usize| {
        let bytes = &bytes[..bytes.len().min(room)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, path, 100);
    put(100, format!("{:07o}", numbers.mode).as_bytes(), 8);
    put(108, format!("{:07o}", numbers.uid).as_bytes(), 8);
    put(116, format!("{:07o}", numbers.gid).as_bytes(), 8);
    put(124, format!("{:011o}", numbers.size).as_bytes(), 12);
    put(136, format!("{:011o}", numbers.mtime).as_bytes(), 12);
    put(148, b"        ", 8);
    put(156, &[kind], 1);
    put(157, link, 100);
    put(257, b"ustar\x0000", 8);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

// --- unpacking

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
        let dir = open_beneath(&base, &inside, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
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
    let mut dir = open_in(root, &made, flags).map_err(at("cannot read", path))?;
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
        dir = open_in(root, &made, flags).map_err(at("there is no directory at", &made))?;
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
    let how = OpenHow::new()
        .flags(
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC,
        )
        .mode(Mode::from_bits_truncate(0o600))
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    let fd = openat2(dir.as_raw_fd(), Path::new(partial), how)
        .map_err(|error| at("cannot write", here)(error.into()))?;
    // SAFETY: openat2 made this descriptor just now.
    let mut file = unsafe { File::from_raw_fd(fd) };
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
    parts: &[crate::image::tar::Part],
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
    let parent = open_in(base, parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// An app may make any node in its volume, and open none of them. Whoever
    /// reads its volume is root of the host, and opens none either: there is no
    /// driver behind this one, so opening it is an error that is seen.
    #[test]
    fn devices_in_a_volume_are_never_opened() {
        if !nix::unistd::geteuid().is_root() {
            assert_eq!(std::env::var("SKERRY_TESTS_MAY_SKIP").as_deref(), Ok("1"));
            return;
        }
        let volume = tempfile::tempdir().unwrap();
        let (name, node) = (volume.path().join("x"), volume.path().join("node"));
        let numbers = libc::makedev(240, 77);
        nix::sys::stat::mknod(&node, SFlag::S_IFCHR, Mode::S_IRUSR, numbers).unwrap();
        assert!(File::open(&node).is_err(), "no driver");
        let root = File::open(volume.path()).unwrap();
        let refused = pack(&root, Path::new("node"), &mut Vec::new()).unwrap_err();
        assert!(
            matches!(refused, VolumeTarError::Refused { .. }),
            "{refused}"
        );

        // A file and the node take turns at one name, at once.
        fs::write(&name, "a file").unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let racer = {
            let (name, node, stop) = (name.clone(), node.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    exchange(&name, &node).unwrap();
                }
            })
        };
        for _ in 0..3000 {
            for path in ["", "x"] {
                match pack(&root, Path::new(path), &mut Vec::new()) {
                    Ok(()) | Err(VolumeTarError::Refused { .. }) => {}
                    Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap();
    }

    fn packed(root: &Path, path: &str) -> Vec<u8> {
        let mut out = Vec::new();
        pack(&File::open(root).unwrap(), Path::new(path), &mut out).unwrap();
        out
    }

    fn tree(root: &Path) -> BTreeMap<PathBuf, String> {
        let mut found = BTreeMap::new();
        let mut ahead = vec![root.to_path_buf()];
        while let Some(dir) = ahead.pop() {
            for entry in fs::read_dir(&dir).unwrap().flatten() {
                let path = entry.path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let kind = meta.file_type();
                let what = if kind.is_dir() {
                    ahead.push(path.clone());
                    "dir".into()
                } else if kind.is_symlink() {
                    format!("-> {}", fs::read_link(&path).unwrap().display())
                } else if kind.is_fifo() {
                    "fifo".into()
                } else {
                    format!("{:?} links {}", fs::read(&path).unwrap(), meta.nlink())
                };
                let inside = path.strip_prefix(root).unwrap().to_path_buf();
                let shown = format!("{what} {:o} {}", meta.mode() & 0o7777, meta.uid());
                found.insert(inside, shown);
            }
        }
        found
    }

    #[test]
    fn a_volume_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("a b/\u{fc}\n")).unwrap();
        let long = "x".repeat(200);
        let bytes = OsString::from_vec(b"\xff\xfe".to_vec());
        fs::write(from.join("a b/\u{fc}\n").join(&long), b"long").unwrap();
        fs::write(from.join(&bytes), b"no text").unwrap();
        fs::write(from.join("-rf *"), vec![7; 1000]).unwrap();
        fs::write(from.join("empty"), b"").unwrap();
        fs::hard_link(from.join("-rf *"), from.join("same")).unwrap();
        symlink("/etc/passwd", from.join("out")).unwrap();
        symlink(format!("../{long}"), from.join("longlink")).unwrap();
        nix::unistd::mkfifo(&from.join("pipe"), Mode::from_bits_truncate(0o640)).unwrap();
        let closed = from.join("closed");
        fs::create_dir(&closed).unwrap();
        fs::write(closed.join("in"), b"x").unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 5);
        File::open(from.join("empty"))
            .unwrap()
            .set_modified(old)
            .unwrap();

        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let root = File::open(&to).unwrap();
        unpack(
            &root,
            Path::new(""),
            &packed(&from, "")[..],
            Owners::Archive,
        )
        .unwrap();
        assert_eq!(tree(&to), tree(&from));
        assert_eq!(
            fs::metadata(to.join("empty")).unwrap().modified().unwrap(),
            old
        );
        // Over itself, too.
        unpack(
            &root,
            Path::new(""),
            &packed(&from, "")[..],
            Owners::Archive,
        )
        .unwrap();
        assert_eq!(tree(&to), tree(&from));
        // And as another program reads it.
        let bytes = packed(&from, "");
        let mut archive = tar::Archive::new(&bytes[..]);
        assert_eq!(archive.entries().unwrap().count(), tree(&from).len() + 1);
    }

    #[test]
    fn a_single_file_goes_under_its_name_into_a_directory_that_is_made() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("from")).unwrap();
        fs::write(dir.path().join("from/app.conf"), b"1").unwrap();
        let bytes = packed(&dir.path().join("from"), "app.conf");
        let root = File::open(dir.path()).unwrap();
        unpack(&root, Path::new("new/sub"), &bytes[..], Owners::Directory).unwrap();
        assert_eq!(fs::read(dir.path().join("new/sub/app.conf")).unwrap(), b"1");
        let why = pack(&root, Path::new("nothing"), &mut io::sink()).unwrap_err();
        assert_eq!(why.to_string(), "cannot read nothing");
    }

    /// An archive made by hand.
    fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            header.set_uid(0);
            header.set_gid(0);
            let is_file = *kind == tar::EntryType::Regular;
            header.set_size(if is_file { text.len() as u64 } else { 0 });
            let name = path.as_bytes();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            if !is_file {
                header.set_link_name_literal(text).unwrap();
            }
            header.set_cksum();
            let content = if is_file { text.as_bytes() } else { &[] };
            builder.append(&header, content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn nothing_leads_out_of_the_volume() {
        use tar::EntryType::{Char, Link, Regular, Symlink};
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        let outside = dir.path().join("outside");
        fs::create_dir(&volume).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("secret"), b"s").unwrap();
        // What an app may have put there before.
        symlink(&outside, volume.join("door")).unwrap();
        symlink(outside.join("secret"), volume.join("file")).unwrap();
        let root = File::open(&volume).unwrap();
        let write = |entries: &[(&str, tar::EntryType, &str)]| {
            unpack(
                &root,
                Path::new(""),
                &archive(entries)[..],
                Owners::Directory,
            )
        };
        write(&[("../../outside/a", Regular, "x")]).unwrap();
        write(&[("/outside/b", Regular, "x")]).unwrap();
        let _ = write(&[("door/c", Regular, "x")]);
        write(&[("file", Regular, "x")]).unwrap();
        let _ = write(&[("own", Symlink, "../outside"), ("own/d", Regular, "x")]);
        let _ = write(&[("hard", Link, "door/secret"), ("hard", Regular, "x")]);
        let device = write(&[("null", Char, "")]).unwrap_err();
        assert!(device.to_string().contains("null is a device"), "{device}");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().flatten().collect();
        assert_eq!(names.len(), 1, "{names:?}");
        assert_eq!(fs::read(outside.join("secret")).unwrap(), b"s");
        // A link that leads out is read as a link, never followed.
        let mut out = Vec::new();
        assert!(pack(&root, Path::new("door/secret"), &mut out).is_err());
    }
}
