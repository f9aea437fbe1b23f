//! A volume that belongs to a pod's group (`fsGroup`): as in Kubernetes, all in
//! it is the group's, which may read and write it, and what is made in a
//! directory later is the group's, too.
//!
//! What is in a volume is the apps' own and changes while we look: each entry is
//! opened once, never through a link that leads out of the volume, and changed
//! by its descriptor.

use crate::openat2::{open_in_root, way_to};
use crate::runtime::USERS;
use nix::fcntl::OFlag;
use skerry_wire::pod::FsGroupChange;
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// What the group may do: with files, and with directories, whose bit 2000
/// hands the group on.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// Gives a volume to a group, where it is not the group's already. `first` is
/// root of the app's user namespace: in a volume that belongs to users of that
/// one on the disk, so does the group. Blocks: looks at every entry, but writes
/// only what is not so yet.
pub fn give(
    volume: &Path,
    group: u32,
    first: Option<u32>,
    change: FsGroupChange,
) -> Result<(), String> {
    let given = walk(volume, group, first, change);
    given.map_err(|(path, error)| {
        format!(
            "{} cannot be given to the group {group} (fsGroup): {error}; leave fsGroup out, or \
             have the volume on a file system with owners",
            volume.join(path).display()
        )
    })
}

fn walk(
    volume: &Path,
    group: u32,
    first: Option<u32>,
    change: FsGroupChange,
) -> Result<(), (PathBuf, io::Error)> {
    let at = |path: &Path| {
        let path = path.to_path_buf();
        move |error| (path, error)
    };
    let top = Path::new("");
    let root = File::open(volume).map_err(at(top))?;
    let data = root.metadata().map_err(at(top))?;
    let is_theirs = |first: &u32| (*first..first.saturating_add(USERS)).contains(&data.uid());
    let group = match first.filter(is_theirs) {
        Some(first) => first.saturating_add(group),
        None => group,
    };
    if change == FsGroupChange::OnRootMismatch && wanted(&data, group).is_none() {
        return Ok(());
    }
    let mut ahead = vec![PathBuf::new()];
    while let Some(dir) = ahead.pop() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let open = match open_in_root(&root, &dir, flags) {
            Err(error) if has_gone(&error) => continue,
            other => other.map_err(at(&dir))?,
        };
        let names = fs::read_dir(way_to(&open));
        for entry in names.map_err(at(&dir))? {
            let path = dir.join(entry.map_err(at(&dir))?.file_name());
            let entry = match open_in_root(&root, &path, OFlag::O_PATH | OFlag::O_NOFOLLOW) {
                Err(error) if has_gone(&error) => continue,
                other => other.map_err(at(&path))?,
            };
            let data = entry.metadata().map_err(at(&path))?;
            if data.is_dir() {
                // Its turn is before what is in it.
                ahead.push(path);
            } else {
                set(&entry, &data, group).map_err(at(&path))?;
            }
        }
        // The root is the last of all: it says that the rest is done, if the
        // power fails in between.
        if !dir.as_os_str().is_empty() {
            let data = open.metadata().map_err(at(&dir))?;
            set(&open, &data, group).map_err(at(&dir))?;
        }
    }
    set(&root, &data, group).map_err(at(top))
}

/// Removed, or replaced by a link or a file, since its directory was read.
fn has_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ELOOP | libc::ENOTDIR)
    )
}

/// The permissions that it shall have; `None` if it is as it shall be, or is
/// nothing that has an owner for us: a link, or a device.
fn wanted(data: &Metadata, group: u32) -> Option<u32> {
    let kind = data.file_type();
    if kind.is_symlink() || kind.is_char_device() || kind.is_block_device() {
        return None;
    }
    let more = if kind.is_dir() { DIRECTORY } else { FILE };
    let mode = data.mode() & 0o7777;
    (data.gid() != group || mode & more != more).then_some(mode | more)
}

fn set(file: &File, data: &Metadata, group: u32) -> io::Result<()> {
    let Some(mode) = wanted(data, group) else {
        return Ok(());
    };
    // By the descriptor: names may mean something else by now.
    let path = way_to(file);
    // Programs do not become another's by running them.
    let mode = match data.is_dir() {
        true => mode,
        false => mode & 0o777,
    };
    if data.gid() != group {
        chown(&path, None, Some(group))?;
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn state(path: &Path) -> (u32, u32) {
        let data = fs::symlink_metadata(path).expect("there");
        (data.gid(), data.mode() & 0o7777)
    }

    #[test]
    fn all_of_a_volume_is_the_groups_and_nothing_else() {
        if !nix::unistd::geteuid().is_root() {
            let may_skip = std::env::var("SKERRY_TESTS_MAY_SKIP");
            assert_eq!(may_skip.as_deref(), Ok("1"), "needs root");
            eprintln!("SKIPPED: needs root");
            return;
        }
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("volume");
        let outside = dir.path().join("outside");
        fs::create_dir_all(volume.join("a/b")).expect("made");
        fs::create_dir(&outside).expect("made");
        fs::write(outside.join("file"), "").expect("written");
        let before = (state(&outside), state(&outside.join("file")));
        fs::write(volume.join("a/b/file"), "").expect("written");
        let program = volume.join("program");
        fs::write(&program, "").expect("written");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o4700)).expect("set");
        symlink(&outside, volume.join("a/out")).expect("linked");
        symlink("../../outside/file", volume.join("file")).expect("linked");
        for path in ["", "a", "a/b"] {
            let mode = fs::Permissions::from_mode(0o700);
            fs::set_permissions(volume.join(path), mode).expect("set");
        }

        give(&volume, 2000, None, FsGroupChange::OnRootMismatch).expect("given");
        for path in ["", "a", "a/b"] {
            assert_eq!(state(&volume.join(path)), (2000, 0o2770), "{path}");
        }
        assert_eq!(state(&volume.join("a/b/file")), (2000, 0o664));
        assert_eq!(state(&program), (2000, 0o760), "set-user-id is taken away");
        let after = (state(&outside), state(&outside.join("file")));
        assert_eq!(before, after, "not through links");

        // What came later is given by one policy and left by the other.
        let later = volume.join("a/later");
        fs::write(&later, "").expect("written");
        chown(&later, None, Some(0)).expect("given");
        give(&volume, 2000, None, FsGroupChange::OnRootMismatch).expect("given");
        assert_eq!(state(&later).0, 0);
        give(&volume, 2000, None, FsGroupChange::Always).expect("given");
        assert_eq!(state(&later), (2000, 0o664));

        // A volume of the users of a namespace is of the group there.
        let first = 1_900_000_000;
        give(&volume, 2001, Some(first), FsGroupChange::Always).expect("given");
        assert_eq!(state(&later).0, 2001, "the volume is the host's");
        chown(&volume, Some(first), Some(first)).expect("given");
        give(&volume, 2001, Some(first), FsGroupChange::Always).expect("given");
        assert_eq!(state(&later).0, first + 2001);
    }
}
