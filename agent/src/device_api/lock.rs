//! Whether somebody has locked a file, seen without disturbing who tries to:
//! the kernel lists all locks in `/proc/locks` (proc_locks(5)), those that
//! were taken in containers as well. A lock ends with its process, so none is
//! left behind.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The kernel's list.
const LOCKS: &str = "/proc/locks";
/// Bytes of it that are read: some ten thousand locks.
const MAX_BYTES: u64 = 1024 * 1024;

/// Whether this file is locked, by flock(2) or fcntl(2).
pub fn is_locked(path: &Path) -> bool {
    let (Ok(metadata), Ok(locks)) = (fs::metadata(path), File::open(LOCKS)) else {
        return false;
    };
    let lines = BufReader::new(locks.take(MAX_BYTES)).lines();
    let file = (device(metadata.dev()), metadata.ino());
    lines
        .map_while(Result::ok)
        .any(|line| locked(&line) == Some(file))
}

/// Major and minor number.
fn device(dev: u64) -> (u64, u64) {
    (nix::sys::stat::major(dev), nix::sys::stat::minor(dev))
}

/// The file that this line says is locked: its device's numbers, its own.
/// `None` for who waits for a lock.
fn locked(line: &str) -> Option<((u64, u64), u64)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, kind, _, _, _, file, ..] = words[..] else {
        return None;
    };
    if !["FLOCK", "POSIX", "OFDLCK"].contains(&kind) {
        return None;
    }
    let mut parts = file.split(':');
    let major = u64::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u64::from_str_radix(parts.next()?, 16).ok()?;
    Some(((major, minor), parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{Flock, FlockArg};

    #[test]
    fn lines_of_the_kernel_are_read() {
        let line = "1: FLOCK  ADVISORY  WRITE 4242 00:1a:5678 0 EOF";
        assert_eq!(locked(line), Some(((0, 0x1a), 5678)));
        assert_eq!(
            locked("1: -> FLOCK  ADVISORY  WRITE 4242 00:1a:5678 0 EOF"),
            None
        );
        assert_eq!(locked("2: LEASE  ACTIVE    READ 1 00:1a:5678 0 EOF"), None);
        assert_eq!(locked(""), None);
    }

    #[test]
    fn a_lock_is_seen_as_long_as_it_is_held() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(!is_locked(file.path()));
        // Open for reading, as in a container.
        let open = File::open(file.path()).unwrap();
        let lock = Flock::lock(open, FlockArg::LockExclusive).unwrap();
        assert!(is_locked(file.path()));
        drop(lock);
        assert!(!is_locked(file.path()));
    }
}
