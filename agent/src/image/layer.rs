//! The directory that a layer becomes, entry by entry.

use super::dir::{Attributes, Dir, Name, set_file_attributes, set_xattr};
use super::tar::{Entry, Kind, Part, Reader, TarError, Time};
use super::unpack::{
    Failure, MAX_DEPTH, MAX_DIRECTORY_NAMES_BYTES, MAX_PATH_BYTES, MAX_XATTR_BYTES, Problem,
    UnpackError, WHITEOUT, WHITEOUT_META, WHITEOUT_OPAQUE, show,
};
use nix::errno::Errno;
use nix::sys::stat::{FileStat, SFlag};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A path of the archive, taken apart and checked.
pub(super) struct Parts<'a>(Vec<Name<'a>>);

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

pub(super) struct Layer<'a> {
    pub(super) root: Dir,
    pub(super) below: &'a [PathBuf],
    pub(super) quota: u64,
    /// Times of directories: set at the end, because making things inside
    /// changes them.
    pub(super) directories: BTreeMap<Vec<u8>, Time>,
    pub(super) directory_bytes: usize,
    /// The directory that the last entry was in: mostly the next one's, too.
    pub(super) parent: Option<(Vec<u8>, Dir)>,
    pub(super) buffer: Vec<u8>,
}

pub(super) fn refused(path: &[u8], problem: Problem) -> UnpackError {
    UnpackError::Refused {
        path: show(path),
        problem,
    }
}

pub(super) fn disk(path: &[u8], error: Errno) -> UnpackError {
    UnpackError::Disk {
        path: show(path),
        source: error.into(),
    }
}

pub(super) fn kind_of(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn is_whiteout(stat: &FileStat) -> bool {
    kind_of(stat) == SFlag::S_IFCHR && stat.st_rdev == 0
}

impl Layer<'_> {
    /// The root looks like that of the layer below until an entry says else.
    pub(super) fn start_root(&mut self) -> Result<(), UnpackError> {
        let attributes = self.inherited(&[]);
        self.root
            .set_owner_and_mode(&attributes)
            .map_err(|e| disk(b"/", e))?;
        self.remember(b"", attributes.mtime)
    }

    pub(super) fn take<R: Read>(
        &mut self,
        entry: Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), Failure> {
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
    pub(super) fn finish(self) -> Result<(), UnpackError> {
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

pub(super) fn walk(root: &Dir, parts: &[Name]) -> nix::Result<Dir> {
    let mut here = root.open_same()?;
    for part in parts {
        here = here.child(part)?;
    }
    Ok(here)
}

pub(super) enum Found {
    Directory(Attributes),
    Hidden,
    Nothing,
}

/// Looks for a directory in one lower layer, as overlayfs would.
#[allow(
    clippy::unnecessary_cast,
    reason = "a C long has 32 bits on 32-bit Arm"
)]
pub(super) fn look_up(layer: &Path, parts: &[Name]) -> Found {
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
                seconds: stat.st_mtime as i64,
                nanos: stat.st_mtime_nsec as u32,
            },
        }),
        Err(_) => Found::Nothing,
    }
}

pub(super) fn attributes(entry: &Entry) -> Result<Attributes, Problem> {
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
