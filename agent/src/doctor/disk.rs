//! State and images need room, and a file system that takes writes.

use super::Finding;
use nix::sys::statvfs::{FsFlags, statvfs};
use std::path::Path;

/// Below this an image of ordinary size does not fit.
const LOW_BYTES: u64 = 512 << 20;
/// Below this even our own state is at risk.
const FULL_BYTES: u64 = 32 << 20;

pub(super) fn diagnose(data_dir: &Path) -> Finding {
    // Before the first start the directory is not there yet: look at the
    // nearest one above it.
    let Some(existing) = data_dir.ancestors().find(|dir| dir.is_dir()) else {
        return missing(data_dir);
    };
    let Ok(stat) = statvfs(existing) else {
        return missing(data_dir);
    };
    if stat.flags().contains(FsFlags::ST_RDONLY) {
        return Finding::problem(
            "disk",
            format!(
                "{} is on a file system that is read-only",
                data_dir.display()
            ),
            "dmesg | grep -i -e ext4 -e mmc\nmount -o remount,rw the file system, or name another directory with --data",
        );
    }
    let free = stat.blocks_available() as u64 * stat.fragment_size() as u64;
    let free_inodes = (stat.files() > 0).then(|| stat.files_available() as u64);
    judge(data_dir, free, free_inodes)
}

fn missing(data_dir: &Path) -> Finding {
    Finding::problem(
        "disk",
        format!("{} cannot be looked at", data_dir.display()),
        format!("mkdir -p {}", data_dir.display()),
    )
}

fn judge(data_dir: &Path, free_bytes: u64, free_inodes: Option<u64>) -> Finding {
    let place = data_dir.display();
    let mebibytes = free_bytes >> 20;
    let remedy = format!("du -xsh {place}/* | sort -h\njournalctl --vacuum-size=50M");
    if free_inodes.is_some_and(|n| n < 1000) {
        let message = format!("the file system of {place} has hardly any inodes left");
        Finding::problem("disk", message, remedy)
    } else if free_bytes < FULL_BYTES {
        let message = format!("the file system of {place} is full ({mebibytes} MiB free)");
        Finding::problem("disk", message, remedy)
    } else if free_bytes < LOW_BYTES {
        let message = format!("only {mebibytes} MiB are free at {place}: new images may not fit");
        Finding::warning("disk", message, remedy)
    } else {
        Finding::good("disk", format!("{mebibytes} MiB are free at {place}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    #[test]
    fn room_is_judged_by_bytes_and_inodes() {
        let place = Path::new("/var/lib/skerry-agent");
        assert_eq!(
            judge(place, 4 << 30, Some(100_000)).severity,
            Severity::Good
        );
        assert_eq!(judge(place, 100 << 20, None).severity, Severity::Warning);
        assert_eq!(judge(place, 1 << 20, None).severity, Severity::Problem);
        assert_eq!(judge(place, 4 << 30, Some(3)).severity, Severity::Problem);
    }
}
