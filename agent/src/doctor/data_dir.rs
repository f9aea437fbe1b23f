//! Can the data directory be written?

use super::{Finding, Verdict, disk};
use crate::volatile;
use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use std::fs;
use std::io::{self, Write};
use std::path::Path;

/// What it is called, as a condition and as an event.
pub const KIND: &str = "DataDirUnwritable";

/// Writes a small file and takes it away.
pub fn find(dir: &Path) -> Finding {
    if let Some(finding) = lost_with_the_power(dir) {
        return finding;
    }
    let shown = dir.display();
    let probe = dir.join(".doctor");
    let written = fs::create_dir_all(dir)
        .and_then(|()| fs::File::create(&probe))
        .and_then(|mut file| file.write_all(b"ok"));
    let _ = fs::remove_file(&probe);
    match written {
        Ok(()) => Finding::good(KIND, format!("{shown} can be written")),
        Err(error) => bad(dir, &error),
    }
}

/// The same without writing: sees a disk that was mounted read-only, as
/// kernels do with one that fails.
pub fn look(dir: &Path) -> Finding {
    if let Some(finding) = lost_with_the_power(dir) {
        return finding;
    }
    match access(dir, AccessFlags::W_OK) {
        Ok(()) => Finding::good(KIND, format!("{} can be written", dir.display())),
        Err(errno) => bad(dir, &errno.into()),
    }
}

/// Memory is used instead: on our minimal image from the start, anywhere else
/// from when the disk took no more writes.
fn lost_with_the_power(dir: &Path) -> Option<Finding> {
    if let Some(text) = volatile::told_by_init() {
        let remedy = "replace the card: skerry flash, with a new one".to_string();
        return Some(Finding::new(KIND, Verdict::Bad, text, remedy));
    }
    let laid = volatile::is_laid(dir);
    laid.then(|| Finding::new(KIND, Verdict::Bad, volatile::words(dir), volatile::remedy()))
}

fn bad(dir: &Path, error: &io::Error) -> Finding {
    let shown = dir.display();
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let errno = error.raw_os_error().map(Errno::from_raw);
    let remedy = match errno {
        Some(Errno::EACCES | Errno::EPERM) if !nix::unistd::geteuid().is_root() => {
            let text = format!("only root can tell whether {shown} can be written");
            return Finding::unknown(KIND, text);
        }
        Some(Errno::ENOSPC | Errno::EDQUOT) => disk::what_takes_room(existing, ""),
        Some(_) | None => format!(
            "mount -o remount,rw \"$(stat -c %m {})\" && mkdir -p {shown}   # if that fails: dmesg | tail; reboot",
            existing.display()
        ),
    };
    let text = format!("{shown} cannot be written: {error}");
    Finding::new(KIND, Verdict::Bad, text, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_that_of_the_error() {
        let of = |errno: Errno| bad(Path::new("/var/lib/x"), &errno.into());
        assert!(of(Errno::ENOSPC).remedy.starts_with("du -xh --max-depth=2"));
        assert!(of(Errno::EROFS).remedy.starts_with("mount -o remount,rw"));
        let denied = of(Errno::EACCES);
        match nix::unistd::geteuid().is_root() {
            true => assert_eq!(denied.verdict, Verdict::Bad),
            false => assert_eq!(denied.verdict, Verdict::Unknown),
        }
    }
}
