//! Whether only the device's administrator can have written a file: what is run
//! as root, or says what is run as root, must be nobody else's to change.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Others than owner and group may write.
const WRITE_OTHER: u32 = 0o002;
/// The group may write.
const WRITE_GROUP: u32 = 0o020;
/// In such a directory nobody can rename or remove another's file.
const STICKY: u32 = 0o1000;

/// Fails if a file or directory, or a directory above it, can be changed by
/// anybody but root and who runs this process. Links are followed. The text
/// says what to do. Blocks.
pub fn only_root_writes(path: &Path) -> Result<(), String> {
    let real = fs::canonicalize(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let own = nix::unistd::geteuid().as_raw();
    for (depth, part) in real.ancestors().enumerate() {
        let data = fs::metadata(part).map_err(|error| format!("{}: {error}", part.display()))?;
        let shown = part.display();
        if data.uid() != 0 && data.uid() != own {
            return Err(format!(
                "{shown} belongs to user {}, who could have root run anything by it: 'chown root:root {shown}'",
                data.uid()
            ));
        }
        let mode = data.mode();
        let by_others = mode & WRITE_OTHER != 0 || mode & WRITE_GROUP != 0 && data.gid() != 0;
        // Who may add to a directory above can exchange nothing of root's there.
        let is_sticky_above = depth > 0 && mode & STICKY != 0;
        if by_others && !is_sticky_above {
            return Err(format!(
                "{shown} can be written by others than root, who could have root run anything by it: 'chmod go-w {shown}'"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_others_can_write_is_not_trusted() {
        let dir = tempfile::tempdir().expect("a directory");
        let (open, file) = (dir.path().join("open"), dir.path().join("open/file"));
        fs::create_dir(&open).expect("made");
        fs::write(&file, "").expect("written");
        let mode = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        };
        mode(&open, 0o755);
        mode(&file, 0o644);
        assert_eq!(only_root_writes(&file), Ok(()));
        mode(&file, 0o646);
        let why = only_root_writes(&file).expect_err("others may write");
        assert!(
            why.contains("chmod go-w") && why.contains("open/file"),
            "{why}"
        );
        mode(&file, 0o644);
        // Whoever may write the directory may exchange the file.
        mode(&open, 0o777);
        let why = only_root_writes(&file).expect_err("others may exchange it");
        assert!(why.contains("/open can be written"), "{why}");
        mode(&open, 0o1777);
        assert_eq!(only_root_writes(&file), Ok(()), "as /tmp");
        assert!(only_root_writes(&open).is_err(), "others may add a file");
        mode(&open, 0o755);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        mode(&file, 0o666);
        assert!(only_root_writes(&link).is_err(), "the link's target");
        mode(&file, 0o644);
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&file, Some(65_534), None).expect("given");
            let why = only_root_writes(&file).expect_err("another's");
            assert!(why.contains("chown root:root"), "{why}");
        }
        assert!(only_root_writes(&dir.path().join("none")).is_err());
    }
}
