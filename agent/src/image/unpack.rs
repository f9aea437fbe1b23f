//! One layer, from a stream of bytes to a directory that overlayfs can take as
//! a lower layer.
//!
//! Whoever made the layer may be an enemy. What it asks for is done as
//! containerd and umoci do it, with these differences and choices:
//!
//! - A leading `/` and `.` components are dropped, as there. A `..` anywhere is
//!   refused; they clamp it to the root.
//! - A path that leads through a symbolic link of the same layer is refused;
//!   they follow it inside the root. No tool that makes a layer of a directory
//!   tree writes such a path.
//! - A hard link's target must be a file in the same layer, reached without a
//!   symbolic link.
//! - Symbolic links are kept word for word, wherever they point, and never
//!   followed.
//! - `.wh.NAME` hides NAME of lower layers only, wherever it stands in the
//!   layer (OCI image spec, `layer.md`, "Whiteouts"); `.wh..wh..opq` likewise.
//!   Other names that begin with `.wh..wh.` are leftovers of aufs and skipped,
//!   other paths through `.wh.` directories are refused.
//! - Of several entries for one path the last wins. A directory over a
//!   directory keeps what is in it.
//! - Directories that the layer leaves out look like those of the layers below,
//!   or belong to root with mode 0755.
//! - Devices are made, as there: containers' file systems are mounted `nodev`
//!   and the device cgroup stands before them. One that is character device 0:0
//!   is a whiteout to overlayfs and can only hide.
//! - Extended attributes: capabilities, ACLs and `user.` are kept on files and
//!   directories. `trusted.` and `user.overlay.` steer overlayfs and are
//!   refused. Other `security.` labels belong to the machine that made the
//!   image and are left out.

use super::compression::Plain;
use super::dir::{Attributes, Dir, Name, set_file_attributes, set_xattr};
use super::tar::{Entry, Kind, Part, Reader, TarError, Time};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};
use sha2::{Digest as _, Sha256};
use skerry_wire::Digest;
use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Most entries in a layer.
pub const MAX_ENTRIES: u64 = 1_000_000;
/// Longest path in a layer, in bytes (Linux' PATH_MAX without the NUL).
pub const MAX_PATH_BYTES: usize = 4095;
/// Most directories in each other. Bounds open files and stack of removing.
pub const MAX_DEPTH: usize = 256;
/// Bytes of directory names kept in memory until their times can be set.
const MAX_DIRECTORY_NAMES_BYTES: usize = 16 << 20;
/// Most bytes of extended attributes of one entry: more than ext4 holds.
const MAX_XATTR_BYTES: usize = 64 << 10;

const BUFFER_BYTES: usize = 64 << 10;
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What came of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the plain tar, to be compared with the image's config.
    pub diff_id: Digest,
    /// Bytes of the plain tar.
    pub tar_bytes: u64,
    /// Entries in it.
    pub entries: u64,
}

/// Why a layer cannot be unpacked. Nothing outside the directory was touched.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream is damaged or no tar.
    #[error("the layer is broken after {after:?}")]
    Tar {
        /// Path of the last good entry, cut; empty at the start.
        after: String,
        /// What is wrong.
        source: TarError,
    },
    /// It unpacks to more than is allowed.
    #[error(
        "the layer unpacks to more than {limit} bytes, the quota of this device; raise the quota or make the image smaller"
    )]
    Quota {
        /// What is allowed.
        limit: u64,
    },
    /// More than [`MAX_ENTRIES`], or too many directories to remember.
    #[error(
        "the layer has too many entries: at most {MAX_ENTRIES} and 16 MiB of directory names are allowed"
    )]
    TooMany,
    /// An entry asks for what is not allowed or not possible.
    #[error("{path:?}: {problem}")]
    Refused {
        /// The entry's path, cut.
        path: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The file system did not do what it should.
    #[error("{path:?} cannot be written")]
    Disk {
        /// The entry's path, cut.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A `..` in a path.
    #[error("the path has '..' in it; images must not reach out of their root")]
    Parent,
    /// Longer than [`MAX_PATH_BYTES`], or a component over 255 bytes.
    #[error("the path is too long: at most 4095 bytes, 255 in each part")]
    Long,
    /// Deeper than [`MAX_DEPTH`].
    #[error("the path is deeper than {MAX_DEPTH} directories")]
    Deep,
    /// A NUL byte in a path, target or attribute.
    #[error("a name has a NUL byte in it")]
    Nul,
    /// The root itself as something other than a directory.
    #[error("the image's root must be a directory")]
    Root,
    /// A component of the path is a link or file of the same layer.
    #[error(
        "it would be written through {0:?}, which is not a directory but a link or file of the same layer"
    )]
    Through(String),
    /// A hard link to something that is not a file of this layer.
    #[error("it is a hard link to {0:?}, which is not a file in the same layer")]
    HardLink(String),
    /// A symbolic link to nothing or to too long a text.
    #[error("it is a symbolic link whose target is empty or longer than 4095 bytes")]
    Symlink,
    /// A whiteout of nothing, `.` or `..`.
    #[error("it is a whiteout of no valid name")]
    Whiteout,
    /// An attribute that steers overlayfs.
    #[error(
        "it has the extended attribute {0:?}, which would steer overlayfs; rebuild the image without it"
    )]
    Xattr(String),
    /// More than [`MAX_XATTR_BYTES`].
    #[error("it has more than 64 KiB of extended attributes")]
    XattrSize,
    /// A user or group id that Linux does not have.
    #[error("its owner {uid}:{gid} is out of range")]
    Owner {
        /// The user id.
        uid: u64,
        /// The group id.
        gid: u64,
    },
}

/// A path for a message.
fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).chars().take(200).collect()
}

/// The read stopped at the quota.
#[derive(Debug, thiserror::Error)]
#[error("quota")]
struct OverQuota;

/// Counts, hashes and limits the plain tar.
struct Metered<R> {
    inner: R,
    hash: Sha256,
    count: u64,
    limit: u64,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        if self.count > self.limit {
            return Err(io::Error::other(OverQuota));
        }
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

/// Unpacks the layer that `source` streams (gzip, zstd or plain) into the
/// empty directory `into`. `below` are the unpacked layers under it, lowest
/// first. At most `quota` bytes of plain tar are read, and files are at most
/// that long.
///
/// On an error `into` holds a part; it is the caller's to remove. Nothing is
/// synced.
pub fn unpack(
    source: impl Read,
    into: &Path,
    below: &[PathBuf],
    quota: u64,
) -> Result<Unpacked, UnpackError> {
    let broken_at_start = |source: io::Error| UnpackError::Tar {
        after: String::new(),
        source: source.into(),
    };
    let mut plain = Plain::new(source).map_err(broken_at_start)?;
    let mut metered = Metered {
        inner: &mut plain,
        hash: Sha256::new(),
        count: 0,
        limit: quota,
    };
    let disk = |source: io::Error| UnpackError::Disk {
        path: "/".into(),
        source,
    };
    let root = Dir::open(into).map_err(disk)?;
    let mut layer = Layer {
        root,
        below,
        quota,
        directories: BTreeMap::new(),
        directory_bytes: 0,
        parent: None,
        buffer: vec![0; BUFFER_BYTES],
    };
    layer.start_root()?;
    let mut reader = Reader::new(BufReader::with_capacity(BUFFER_BYTES, &mut metered));
    let mut last = Vec::new();
    let mut entries = 0;
    let outcome = loop {
        match reader.next_entry() {
            Ok(None) => break Ok(()),
            Err(error) => break Err(Failure::Tar(error)),
            Ok(Some(entry)) => {
                last.clone_from(&entry.path);
                entries += 1;
                if entries > MAX_ENTRIES {
                    break Err(Failure::Unpack(UnpackError::TooMany));
                }
                if let Err(failure) = layer.take(entry, &mut reader) {
                    break Err(failure);
                }
            }
        }
    };
    // All bytes count for the digest, also those after the end of the tar.
    let outcome = outcome.and_then(|()| {
        let rest = io::copy(&mut reader.into_inner(), &mut io::sink());
        rest.map(drop).map_err(|e| Failure::Tar(TarError::Read(e)))
    });
    outcome.map_err(|failure| match failure {
        Failure::Unpack(error) => error,
        Failure::Tar(TarError::Read(error))
            if error.get_ref().is_some_and(|e| e.is::<OverQuota>()) =>
        {
            UnpackError::Quota { limit: quota }
        }
        Failure::Tar(source) => UnpackError::Tar {
            after: show(&last),
            source,
        },
    })?;
    layer.finish()?;
    Ok(Unpacked {
        diff_id: Digest::from_bytes(metered.hash.finalize().into()),
        tar_bytes: metered.count,
        entries,
    })
}

enum Failure {
    Tar(TarError),
    Unpack(UnpackError),
}

impl From<UnpackError> for Failure {
    fn from(error: UnpackError) -> Self {
        Self::Unpack(error)
    }
}

/// A path of the archive, taken apart and checked.
struct Parts<'a>(Vec<Name<'a>>);

impl<'a> Parts<'a> {
    fn of(path: &'a [u8]) -> Result<Self, Problem> {
        if path.len() > MAX_PATH_BYTES {
            return Err(Problem::Long);
        }
        if path.contains(&0) {
            return Err(Problem::Nul);
        }
        let mut parts = Vec::new();
        for part in path.split(|b| *b == b'/') {
            match part {
                b"" | b"." => {}
                b".." => return Err(Problem::Parent),
                _ if part.len() > 255 => return Err(Problem::Long),
                _ => parts.push(part),
            }
        }
        if parts.len() > MAX_DEPTH {
            return Err(Problem::Deep);
        }
        Ok(Self(parts))
    }

    fn split(&self) -> Option<(Name<'a>, &[Name<'a>])> {
        self.0.split_last().map(|(last, parents)| (*last, parents))
    }
}

struct Layer<'a> {
    root: Dir,
    below: &'a [PathBuf],
    quota: u64,
    /// Times of directories: set at the end, because making things inside
    /// changes them.
    directories: BTreeMap<Vec<u8>, Time>,
    directory_bytes: usize,
    /// The directory that the last entry was in: mostly the next one's, too.
    parent: Option<(Vec<u8>, Dir)>,
    buffer: Vec<u8>,
}

fn refused(path: &[u8], problem: Problem) -> UnpackError {
    UnpackError::Refused {
        path: show(path),
        problem,
    }
}

fn disk(path: &[u8], error: Errno) -> UnpackError {
    UnpackError::Disk {
        path: show(path),
        source: error.into(),
    }
}

fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

impl Layer<'_> {
    /// The root looks like that of the layer below until an entry says else.
    fn start_root(&mut self) -> Result<(), UnpackError> {
        let attributes = self.inherited(&[]);
        self.root
            .set_owner_and_mode(&attributes)
            .map_err(|e| disk(b"/", e))?;
        self.remember(b"", attributes.mtime)
    }

    fn take<R: Read>(&mut self, entry: Entry, reader: &mut Reader<R>) -> Result<(), Failure> {
        let path = &entry.path;
        let no = |problem| Failure::Unpack(refused(path, problem));
        let parts = Parts::of(path).map_err(no)?;
        let attributes = attributes(&entry).map_err(no)?;
        let Some((name, parents)) = parts.split() else {
            let Kind::Directory = entry.kind else {
                return Err(no(Problem::Root));
            };
            self.finish_directory(None, &entry, &attributes)?;
            return Ok(());
        };
        if parents.iter().any(|part| part.starts_with(WHITEOUT_META)) {
            return Ok(()); // Inside one of aufs' own directories.
        }
        if parents.iter().any(|part| part.starts_with(WHITEOUT)) {
            return Err(no(Problem::Whiteout));
        }
        if name.starts_with(WHITEOUT) {
            return self.whiteout(path, name, parents).map_err(Failure::Unpack);
        }
        let parent_path = parents.join(&b'/');
        let parent = self.parent(path, parents)?;
        let fail = |e: Errno| Failure::Unpack(disk(path, e));
        let old = parent.stat(name).map_err(fail)?;

        if let Kind::Directory = entry.kind {
            match &old {
                Some(stat) if kind_of(stat) == SFlag::S_IFDIR => {}
                Some(stat) => {
                    parent.remove(name).map_err(fail)?;
                    parent.make_dir(name).map_err(fail)?;
                    if is_whiteout(stat) {
                        parent
                            .child(name)
                            .and_then(|dir| dir.set_opaque())
                            .map_err(fail)?;
                    }
                }
                None => parent.make_dir(name).map_err(fail)?,
            }
            let dir = parent.child(name).map_err(fail)?;
            self.parent = Some((parent_path, parent));
            return self
                .finish_directory(Some(dir), &entry, &attributes)
                .map_err(Failure::Unpack);
        }

        if let Kind::HardLink(target) = &entry.kind {
            let linked = self.hard_link(path, name, &parent, &parent_path, target, old.is_some());
            self.parent = Some((parent_path, parent));
            return linked.map_err(Failure::Unpack);
        }
        if old.is_some() {
            parent.remove(name).map_err(fail)?;
            self.forget_below(&parts.0.join(&b'/'));
        }
        match &entry.kind {
            Kind::File { parts, length } => {
                if *length > self.quota {
                    return Err(UnpackError::Quota { limit: self.quota }.into());
                }
                let file = parent.make_file(name).map_err(fail)?;
                write_parts(&file, parts, reader, &mut self.buffer, path)?;
                if parts.last().map_or(0, |part| part.offset + part.length) < *length {
                    file.set_len(*length).map_err(|source| UnpackError::Disk {
                        path: show(path),
                        source,
                    })?;
                }
                // Permissions after the owner, capabilities after both.
                set_file_attributes(&file, &attributes).map_err(fail)?;
                set_xattrs(path, &entry.xattrs, |name, value| {
                    set_xattr(&file, name, value)
                })?;
            }
            Kind::Symlink(target) => {
                if target.is_empty() || target.len() > MAX_PATH_BYTES {
                    return Err(no(Problem::Symlink));
                }
                if target.contains(&0) {
                    return Err(no(Problem::Nul));
                }
                parent.make_symlink(name, target).map_err(fail)?;
                parent
                    .set_attributes(name, &attributes, true)
                    .map_err(fail)?;
            }
            Kind::Character(major, minor) => {
                parent
                    .make_node(name, SFlag::S_IFCHR, *major, *minor)
                    .map_err(fail)?;
                parent
                    .set_attributes(name, &attributes, false)
                    .map_err(fail)?;
            }
            Kind::Block(major, minor) => {
                parent
                    .make_node(name, SFlag::S_IFBLK, *major, *minor)
                    .map_err(fail)?;
                parent
                    .set_attributes(name, &attributes, false)
                    .map_err(fail)?;
            }
            Kind::Fifo => {
                parent.make_node(name, SFlag::S_IFIFO, 0, 0).map_err(fail)?;
                parent
                    .set_attributes(name, &attributes, false)
                    .map_err(fail)?;
            }
            Kind::Directory | Kind::HardLink(_) => unreachable!("handled above"),
        }
        self.parent = Some((parent_path, parent));
        Ok(())
    }

    /// Attributes of a directory that an entry names; `None` is the root.
    fn finish_directory(
        &mut self,
        dir: Option<Dir>,
        entry: &Entry,
        attributes: &Attributes,
    ) -> Result<(), UnpackError> {
        let dir = dir.as_ref().unwrap_or(&self.root);
        dir.set_owner_and_mode(attributes)
            .map_err(|e| disk(&entry.path, e))?;
        set_xattrs(&entry.path, &entry.xattrs, |name, value| {
            dir.set_xattr(name, value)
        })?;
        let key = Parts::of(&entry.path)
            .map_err(|p| refused(&entry.path, p))?
            .0
            .join(&b'/');
        self.remember(&key, attributes.mtime)
    }

    fn hard_link(
        &mut self,
        path: &[u8],
        name: Name,
        parent: &Dir,
        parent_path: &[u8],
        target: &[u8],
        replaces: bool,
    ) -> Result<(), UnpackError> {
        let no_file = || refused(path, Problem::HardLink(show(target)));
        let target_parts = Parts::of(target).map_err(|problem| refused(path, problem))?;
        let (target_name, target_parents) = target_parts.split().ok_or_else(no_file)?;
        let target_dir = walk(&self.root, target_parents).map_err(|_| no_file())?;
        let stat = target_dir
            .stat(target_name)
            .map_err(|e| disk(path, e))?
            .ok_or_else(no_file)?;
        if kind_of(&stat) == SFlag::S_IFDIR || is_whiteout(&stat) {
            return Err(no_file());
        }
        if target_parents.join(&b'/') == parent_path && target_name == name {
            return Ok(()); // A link to itself: it is there already.
        }
        if replaces {
            parent.remove(name).map_err(|e| disk(path, e))?;
            self.forget_below(&[parent_path, name].join(&b'/'));
        }
        match parent.make_hard_link(name, &target_dir, target_name) {
            // What was replaced was a directory with the target in it.
            Err(Errno::ENOENT) => Err(no_file()),
            other => other.map_err(|e| disk(path, e)),
        }
    }

    fn whiteout(&mut self, path: &[u8], name: Name, parents: &[Name]) -> Result<(), UnpackError> {
        let fail = |e: Errno| disk(path, e);
        if name == WHITEOUT_OPAQUE {
            return match parents.is_empty() {
                true => self.root.set_opaque().map_err(fail),
                false => self.parent(path, parents)?.set_opaque().map_err(fail),
            };
        }
        if name.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(refused(path, Problem::Whiteout));
        }
        let parent = self.parent(path, parents)?;
        match parent.stat(hidden).map_err(fail)? {
            None => {
                parent
                    .make_node(hidden, SFlag::S_IFCHR, 0, 0)
                    .map_err(fail)?;
            }
            // The layer has something there itself: only what is below goes.
            Some(stat) if kind_of(&stat) == SFlag::S_IFDIR => {
                parent
                    .child(hidden)
                    .and_then(|dir| dir.set_opaque())
                    .map_err(fail)?;
            }
            Some(_) => {}
        }
        self.parent = Some((parents.join(&b'/'), parent));
        Ok(())
    }

    /// Opens the directory that `parents` lead to, making what is missing.
    fn parent(&mut self, path: &[u8], parents: &[Name]) -> Result<Dir, UnpackError> {
        let fail = |e: Errno| disk(path, e);
        if let Some((known, dir)) = self.parent.take()
            && known == parents.join(&b'/')
        {
            return Ok(dir);
        }
        let mut here = self.root.open_same().map_err(fail)?;
        for depth in 0..parents.len() {
            let name = parents[depth];
            here = match here.child(name) {
                Ok(child) => child,
                Err(Errno::ENOENT) => self.make_missing(path, &here, &parents[..=depth])?,
                Err(Errno::ENOTDIR | Errno::ELOOP) => {
                    let stat = here.stat(name).map_err(fail)?;
                    if !stat.is_some_and(|stat| is_whiteout(&stat)) {
                        let through = show(&parents[..=depth].join(&b'/'));
                        return Err(refused(path, Problem::Through(through)));
                    }
                    // Hidden below, and new here.
                    here.remove(name).map_err(fail)?;
                    let made = self.make_missing(path, &here, &parents[..=depth])?;
                    made.set_opaque().map_err(fail)?;
                    made
                }
                Err(other) => return Err(fail(other)),
            };
        }
        Ok(here)
    }

    fn make_missing(
        &mut self,
        path: &[u8],
        here: &Dir,
        parts: &[Name],
    ) -> Result<Dir, UnpackError> {
        let fail = |e: Errno| disk(path, e);
        let name = parts.last().expect("the root is never missing");
        let attributes = self.inherited(parts);
        here.make_dir(name).map_err(fail)?;
        let dir = here.child(name).map_err(fail)?;
        dir.set_owner_and_mode(&attributes).map_err(fail)?;
        self.remember(&parts.join(&b'/'), attributes.mtime)?;
        Ok(dir)
    }

    /// What a directory looks like in the layers below.
    fn inherited(&self, parts: &[Name]) -> Attributes {
        let plain = Attributes {
            mode: 0o755,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
        };
        for layer in self.below.iter().rev() {
            match look_up(layer, parts) {
                Found::Directory(attributes) => return attributes,
                Found::Hidden => return plain,
                Found::Nothing => {}
            }
        }
        plain
    }

    fn remember(&mut self, path: &[u8], mtime: Time) -> Result<(), UnpackError> {
        if self.directories.insert(path.to_vec(), mtime).is_none() {
            self.directory_bytes += path.len() + size_of::<Time>();
        }
        match self.directory_bytes > MAX_DIRECTORY_NAMES_BYTES {
            true => Err(UnpackError::TooMany),
            false => Ok(()),
        }
    }

    /// Something was removed; directories under it are gone.
    fn forget_below(&mut self, path: &[u8]) {
        let inside = [path, b"/"].concat();
        let gone: Vec<Vec<u8>> = self
            .directories
            .range(path.to_vec()..)
            .map(|(known, _)| known)
            .take_while(|known| known.starts_with(path))
            .filter(|known| *known == path || known.starts_with(&inside))
            .cloned()
            .collect();
        for path in gone {
            self.directory_bytes -= path.len() + size_of::<Time>();
            self.directories.remove(&path);
        }
        self.parent = None;
    }

    /// Sets the directories' times.
    fn finish(self) -> Result<(), UnpackError> {
        for (path, mtime) in &self.directories {
            let parts: Vec<Name> = path
                .split(|b| *b == b'/')
                .filter(|p| !p.is_empty())
                .collect();
            let set = walk(&self.root, &parts).and_then(|dir| dir.set_time(*mtime));
            set.map_err(|e| disk(path, e))?;
        }
        Ok(())
    }
}

fn walk(root: &Dir, parts: &[Name]) -> nix::Result<Dir> {
    let mut here = root.open_same()?;
    for part in parts {
        here = here.child(part)?;
    }
    Ok(here)
}

enum Found {
    Directory(Attributes),
    Hidden,
    Nothing,
}

/// Looks for a directory in one lower layer, as overlayfs would.
fn look_up(layer: &Path, parts: &[Name]) -> Found {
    let Ok(mut here) = Dir::open(layer) else {
        return Found::Nothing;
    };
    let mut opaque = false;
    for part in parts {
        opaque |= here.is_opaque().unwrap_or(false);
        here = match here.child(part) {
            Ok(child) => child,
            Err(Errno::ENOENT) if !opaque => return Found::Nothing,
            Err(_) => return Found::Hidden,
        };
    }
    match here.stat_self() {
        Ok(stat) => Found::Directory(Attributes {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Time {
                seconds: stat.st_mtime,
                nanos: stat.st_mtime_nsec as u32,
            },
        }),
        Err(_) => Found::Nothing,
    }
}

fn attributes(entry: &Entry) -> Result<Attributes, Problem> {
    let (uid, gid) = (entry.uid, entry.gid);
    let id = |id: u64| match u32::try_from(id) {
        // The highest number means "leave as it is" to the kernel.
        Ok(u32::MAX) | Err(_) => Err(Problem::Owner { uid, gid }),
        Ok(id) => Ok(id),
    };
    Ok(Attributes {
        mode: entry.mode,
        uid: id(uid)?,
        gid: id(gid)?,
        mtime: entry.mtime,
    })
}

fn write_parts<R: Read>(
    file: &std::fs::File,
    parts: &[Part],
    reader: &mut Reader<R>,
    buffer: &mut [u8],
    path: &[u8],
) -> Result<(), Failure> {
    for part in parts {
        let mut at = part.offset;
        let end = part.offset + part.length;
        while at < end {
            let room = buffer
                .len()
                .min(usize::try_from(end - at).unwrap_or(usize::MAX));
            let count = reader.read(&mut buffer[..room]).map_err(Failure::Tar)?;
            if count == 0 {
                return Err(Failure::Tar(TarError::Truncated));
            }
            file.write_all_at(&buffer[..count], at)
                .map_err(|source| UnpackError::Disk {
                    path: show(path),
                    source,
                })?;
            at += count as u64;
        }
    }
    Ok(())
}

/// Sets those extended attributes that an image may have.
fn set_xattrs(
    path: &[u8],
    xattrs: &[(Vec<u8>, Vec<u8>)],
    set: impl Fn(&[u8], &[u8]) -> nix::Result<()>,
) -> Result<(), UnpackError> {
    let total: usize = xattrs
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    if total > MAX_XATTR_BYTES {
        return Err(refused(path, Problem::XattrSize));
    }
    for (name, value) in xattrs {
        if name.contains(&0) {
            return Err(refused(path, Problem::Nul));
        }
        let capability = name == b"security.capability";
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
            return Err(refused(path, Problem::Xattr(show(name))));
        }
        if name.starts_with(b"security.") && !capability {
            continue;
        }
        match set(name, value) {
            Ok(()) => {}
            // A name space that this file system does not have. A program
            // without its capabilities would fail later and in the dark.
            Err(Errno::ENOTSUP) if !capability => {}
            Err(error) => return Err(disk(path, error)),
        }
    }
    Ok(())
}
