//! Has the kernel met errors of the disk? Of an SD card, which cannot tell its
//! wear, that is the first sign of its end.

use super::{Finding, Verdict};
use crate::facts::{Disk, Host};
use nix::errno::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

const KIND: &str = "DiskErrors";
/// Longest record of the kernel's log, in bytes (linux/kernel/printk,
/// PRINTKRB_RECORD_MAX and what it puts before it).
const RECORD_BYTES: usize = 8 * 1024;
/// Records that are looked at: a log of 2 MiB of short ones, which is more than
/// what kernels have.
const MAX_RECORDS: usize = 32 * 1024;

/// Reads what the kernel still has of its log.
pub fn find(host: &Host, dir: &Path) -> Finding {
    let disk = Disk::below(host, dir).map(|disk| disk.name);
    let log = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(host.path("dev/kmsg"));
    judged(disk.as_deref(), log.map(errors))
}

/// The disks that records of errors name, one for each.
fn errors(mut log: File) -> Vec<String> {
    let mut names = Vec::new();
    let mut record = vec![0; RECORD_BYTES];
    for _ in 0..MAX_RECORDS {
        match log.read(&mut record) {
            Ok(0) => break,
            Ok(count) => names.extend(disk_of(&String::from_utf8_lossy(&record[..count]))),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                // Overwritten meanwhile: the next one is there.
                Some(Errno::EPIPE | Errno::EINTR) => {}
                // The end.
                Some(_) | None => break,
            },
        }
    }
    names
}

/// The disk that an error is about: of the block layer, or of a file system that
/// could not read or write it. That something cannot be discarded is none.
fn disk_of(record: &str) -> Option<String> {
    let (_, text) = record.split_once(';')?;
    let text = text.lines().next()?;
    if text.contains("(DISCARD)") || text.contains("(WRITE_ZEROES)") {
        return None;
    }
    let places = [
        "I/O error, dev ",
        "medium error, dev ",
        "timeout error, dev ",
        "I/O error on dev ",
    ];
    let after = places
        .iter()
        .find_map(|place| Some(text.split_once(place)?.1))?;
    let name: String = after
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    (!name.is_empty()).then_some(name)
}

fn judged(disk: Option<&str>, named: io::Result<Vec<String>>) -> Finding {
    let Some(disk) = disk else {
        return Finding::unknown(
            KIND,
            "the data directory is on no disk of this machine's own",
        );
    };
    let Ok(named) = named else {
        return Finding::unknown(
            KIND,
            "only root can read in the kernel's log whether the disk had errors",
        );
    };
    // Of the disk itself, and of its partitions.
    let count = named.iter().filter(|name| name.starts_with(disk)).count();
    match count {
        0 => Finding::good(KIND, format!("the kernel's log has no error of {disk}")),
        _ => Finding::new(
            KIND,
            Verdict::Poor,
            format!(
                "the kernel met {count} errors of {disk}, as far as its log goes back: it may be about to fail"
            ),
            format!(
                "dmesg -T | grep -E 'error.* dev {disk}'; copy what matters from /dev/{disk} and change it (or its cable and power)"
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_the_rest_of_the_log() {
        let of = |text: &str| disk_of(&format!("3,1042,99887766,-;{text}\n SUBSYSTEM=block\n"));
        let card = "I/O error, dev mmcblk0, sector 26624 op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2";
        assert_eq!(of(card).as_deref(), Some("mmcblk0"));
        let older = "blk_update_request: I/O error, dev sda, sector 8 op 0x1:(WRITE) flags 0x0";
        assert_eq!(of(older).as_deref(), Some("sda"));
        let medium = "critical medium error, dev nvme0n1, sector 1 op 0x0:(READ)";
        assert_eq!(of(medium).as_deref(), Some("nvme0n1"));
        let buffer =
            "Buffer I/O error on dev mmcblk0p2, logical block 131072, lost async page write";
        assert_eq!(of(buffer).as_deref(), Some("mmcblk0p2"));
        let discard = "I/O error, dev sda, sector 0 op 0x3:(DISCARD) flags 0x0";
        for text in [
            discard,
            "EXT4-fs (mmcblk0p2): mounted filesystem",
            "I/O error, dev ",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(disk_of("nothing"), None);
    }

    #[test]
    fn only_the_disk_that_we_need_counts() {
        let named = |names: &[&str]| Ok(names.iter().map(|n| n.to_string()).collect());
        let bad = judged(Some("mmcblk0"), named(&["mmcblk0", "sda", "mmcblk0p2"]));
        assert_eq!(bad.verdict, Verdict::Poor);
        assert!(bad.text.contains("2 errors of mmcblk0"), "{}", bad.text);
        let good = judged(Some("mmcblk0"), named(&["sda"]));
        assert_eq!(good.verdict, Verdict::Good);
        assert_eq!(judged(None, named(&[])).verdict, Verdict::Unknown);
        let denied = Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(judged(Some("sda"), denied).verdict, Verdict::Unknown);
    }

    /// The log's end is found: whoever waits there waits for ever.
    #[test]
    fn this_machines_log_is_read_to_its_end() {
        let found = find(&Host::machine(), Path::new("/"));
        assert_ne!(found.verdict, Verdict::Bad);
    }
}
