//! A file or directory in a volume, mounted in place of all of it (`subPath`).
//!
//! What is in a volume is the apps' own, and may change while we look: a
//! directory may have become a link to the host's /etc. So the path is resolved
//! once, by the kernel, never out of the volume (openat2(2), `RESOLVE_BENEATH`),
//! and what was found is held open until it is mounted from that descriptor.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::beneath::{make_dirs_beneath, open_beneath};

/// Why a part of a volume cannot be mounted.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    /// A link in it leads elsewhere.
    #[error(
        "subPath '{}' leads out of its volume {}: an app has put a link there; remove it, or name \
         another path",
        sub_path.display(),
        volume.display()
    )]
    Leaves {
        /// The volume's directory on the host.
        volume: PathBuf,
        /// The path in it.
        sub_path: PathBuf,
    },
    /// A config or secret has no such file.
    #[error(
        "subPath '{}': there is no such file in the config: add it, or name another one",
        sub_path.display()
    )]
    Missing {
        /// The path in it.
        sub_path: PathBuf,
    },
    /// Something else.
    #[error("subPath '{}' of volume {}", sub_path.display(), volume.display())]
    Open {
        /// The volume's directory on the host.
        volume: PathBuf,
        /// The path in it.
        sub_path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Opens what is at `sub_path` in the volume. If nothing is there and it may be
/// `made`, it becomes a directory like the volume's own root: owner, group and
/// permissions. Follows links that stay in the volume.
///
/// `root` is the volume's directory, open; `volume` is how it is called.
pub fn open(root: &File, volume: &Path, sub_path: &Path, made: bool) -> Result<File, SubPathError> {
    let failed = |error: io::Error| match error.raw_os_error() {
        Some(libc::EXDEV | libc::ELOOP) => SubPathError::Leaves {
            volume: volume.to_owned(),
            sub_path: sub_path.to_owned(),
        },
        Some(libc::ENOENT) if !made => SubPathError::Missing {
            sub_path: sub_path.to_owned(),
        },
        _ => SubPathError::Open {
            volume: volume.to_owned(),
            sub_path: sub_path.to_owned(),
            source: error,
        },
    };
    match open_beneath(root, sub_path, OFlag::empty()) {
        Err(error) if made && error.kind() == io::ErrorKind::NotFound => {
            // The new ones are whose the volume is.
            let like = root.metadata().map_err(failed)?;
            let dress = |new: &Path| {
                chown(new, Some(like.uid()), Some(like.gid()))?;
                fs::set_permissions(new, fs::Permissions::from_mode(like.mode() & 0o7777))
            };
            make_dirs_beneath(root, sub_path, dress).map_err(failed)?;
            open_beneath(root, sub_path, OFlag::empty()).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn open(volume: &Path, sub_path: &Path, made: bool) -> Result<File, SubPathError> {
        let root = File::open(volume).expect("opened");
        super::open(&root, volume, sub_path, made)
    }

    #[test]
    fn nothing_leads_out_of_a_volume() {
        let dir = tempfile::tempdir().expect("a directory");
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir(&volume).expect("made");
        fs::create_dir_all(outside.join("sub")).expect("made");
        symlink(&outside, volume.join("absolute")).expect("linked");
        symlink("../outside", volume.join("relative")).expect("linked");
        symlink("/", volume.join("root")).expect("linked");
        symlink("loop", volume.join("loop")).expect("linked");
        symlink("/proc/self/root", volume.join("magic")).expect("linked");
        symlink("nowhere", volume.join("dangling")).expect("linked");
        for path in [
            "absolute",
            "absolute/sub",
            "absolute/new",
            "relative",
            "relative/new",
            "root/etc",
            "loop",
            "magic/etc",
            "../outside",
        ] {
            let error = open(&volume, Path::new(path), true).expect_err(path);
            assert!(matches!(error, SubPathError::Leaves { .. }), "{path}");
        }
        let error = open(&volume, Path::new("dangling"), true).expect_err("leads nowhere");
        assert!(matches!(error, SubPathError::Open { .. }), "{error}");
        let missing = open(&volume, Path::new("x"), false).expect_err("missing");
        assert!(matches!(missing, SubPathError::Missing { .. }), "{missing}");
        let left = fs::read_dir(&outside).expect("read").count();
        assert_eq!(left, 1, "made outside");

        // What stays inside is followed, and what is missing is like the root.
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o2775)).expect("set");
        open(&volume, Path::new("a/b"), true).expect("made");
        let mode = |path: &str| fs::metadata(volume.join(path)).expect("there").mode() & 0o7777;
        assert_eq!((mode("a"), mode("a/b")), (0o2775, 0o2775));
        symlink("a/b", volume.join("inside")).expect("linked");
        open(&volume, Path::new("inside/c"), true).expect("made");
        assert!(volume.join("a/b/c").is_dir());
        fs::write(volume.join("file"), "").expect("written");
        open(&volume, Path::new("file"), true).expect("opened");
        assert!(open(&volume, Path::new("file/x"), true).is_err());
    }
}
