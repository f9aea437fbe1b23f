//! Has a file system met errors, or was the one that we need taken read-only?

use super::{Finding, Verdict};
use crate::facts::Host;
use crate::init::replay;
use std::path::Path;

const KIND: &str = "FileSystemErrors";

/// A line of mountinfo (proc(5)).
struct Mount {
    point: String,
    source: String,
    read_only: bool,
}

fn mount(line: &str) -> Option<Mount> {
    let (head, tail) = line.split_once(" - ")?;
    let head: Vec<&str> = head.split(' ').collect();
    let tail: Vec<&str> = tail.split(' ').collect();
    let (point, options) = (head.get(4)?, head.get(5)?);
    let (source, of_disk) = (tail.get(1)?, tail.get(2)?);
    // The second since Linux 6.15: ext4 after an error is not mounted otherwise,
    // and takes no writes all the same.
    let of_read_only = ["ro", "emergency_ro"];
    let is_read_only = |options: &str| options.split(',').any(|o| of_read_only.contains(&o));
    Some(Mount {
        point: point.replace("\\040", " "),
        source: (*source).to_string(),
        read_only: is_read_only(options) || is_read_only(of_disk),
    })
}

/// The mount that holds `dir`: of those on the way to it the deepest, and of
/// those at one place the last.
fn mount_of(host: &Host, dir: &Path) -> Option<Mount> {
    let text = host.text("proc/self/mountinfo");
    let mounts = text.lines().filter_map(mount);
    mounts
        .filter(|mount| dir.starts_with(&mount.point))
        .max_by_key(|mount| Path::new(&mount.point).components().count())
}

/// The partition below the device in which our image replays a journal; any
/// other disk is what it is.
fn below_replay(host: &Host, disk: String) -> String {
    let dir = format!("sys/class/block/{disk}");
    if host.line(&format!("{dir}/dm/name")) != replay::NAME {
        return disk;
    }
    // The other one is the memory.
    let below = host.names(&format!("{dir}/slaves"));
    let mut cards = below.into_iter().filter(|name| !name.starts_with("loop"));
    cards.next().unwrap_or(disk)
}

/// Looks at the mount of the data directory, and at what ext4 counted on every
/// disk.
pub fn find(host: &Host, dir: &Path) -> Finding {
    if let Some(mount) = mount_of(host, dir).filter(|mount| mount.read_only) {
        let Mount { point, source, .. } = mount;
        let text = format!(
            "{point}, which holds {}, is mounted read-only, as kernels do with a disk that fails",
            dir.display()
        );
        // What the system runs from cannot be taken away while it does.
        let remedy = match point.as_str() {
            "/" => "dmesg | grep -iE 'i/o error|ext4|mmc'; reboot   # it is checked as it starts; if it comes back read-only, the disk fails: change it".to_string(),
            _ => format!(
                "dmesg | grep -iE 'i/o error|ext4|mmc'; umount {point} && {{ fsck -y {source}; mount {point}; }}   # if it is in use: reboot"
            ),
        };
        return Finding::new(KIND, Verdict::Bad, text, remedy);
    }
    let mut wrong = Vec::new();
    for disk in host.names("sys/fs/ext4") {
        let count = host.number(&format!("sys/fs/ext4/{disk}/errors_count"));
        if let Some(count) = count.filter(|count| *count > 0) {
            wrong.push((below_replay(host, disk), count));
        }
    }
    if wrong.is_empty() {
        return Finding::good(KIND, "no file system has counted errors");
    }
    let disks: Vec<String> = wrong
        .iter()
        .map(|(disk, count)| format!("/dev/{disk} ({count})"))
        .collect();
    let marks: Vec<String> = wrong
        .iter()
        .map(|(disk, _)| format!("tune2fs -E force_fsck /dev/{disk}"))
        .collect();
    Finding::new(
        KIND,
        Verdict::Poor,
        format!("ext4 has counted errors on {}", disks.join(", ")),
        format!(
            "{} && reboot   # checks at the next start",
            marks.join(" && ")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    const MOUNTS: &str = "\
25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
26 25 179:3 / /var/lib rw,noatime shared:2 - ext4 /dev/mmcblk0p3 ro,errors=remount-ro
27 25 0:22 / /run rw - tmpfs tmpfs rw,size=1k
28 25 179:1 / /boot/my\\040card ro - vfat /dev/mmcblk0p1 ro
";

    #[test]
    fn a_disk_that_was_taken_read_only_is_seen() {
        let tree = Tree::new(&[("proc/self/mountinfo", MOUNTS.as_bytes())]);
        let of = |dir: &str| find(&tree.host(), Path::new(dir));
        let bad = of("/var/lib/skerry-agent");
        assert_eq!(bad.verdict, Verdict::Bad);
        assert!(
            bad.remedy
                .contains("umount /var/lib && { fsck -y /dev/mmcblk0p3; mount /var/lib; }")
        );
        assert_eq!(of("/srv").verdict, Verdict::Good);
        assert_eq!(of("/var/library").verdict, Verdict::Good);
        assert_eq!(of("/boot/my card/x").verdict, Verdict::Bad);
    }

    #[test]
    fn the_root_is_checked_as_the_machine_starts() {
        let mounts = MOUNTS.replace("ext4 /dev/mmcblk0p2 rw", "ext4 /dev/mmcblk0p2 ro");
        let tree = Tree::new(&[("proc/self/mountinfo", mounts.as_bytes())]);
        let found = find(&tree.host(), Path::new("/srv"));
        assert_eq!(found.verdict, Verdict::Bad);
        assert!(
            found.remedy.contains("reboot   # it is checked"),
            "{found:?}"
        );
        assert!(!found.remedy.contains("umount"), "{found:?}");
    }

    #[test]
    fn so_is_one_that_linux_6_15_still_calls_writable() {
        let mounts = MOUNTS.replace("ro,errors=remount-ro", "rw,errors=remount-ro,emergency_ro");
        let tree = Tree::new(&[("proc/self/mountinfo", mounts.as_bytes())]);
        let found = find(&tree.host(), Path::new("/var/lib/skerry-agent"));
        assert_eq!(found.verdict, Verdict::Bad);
    }

    #[test]
    fn errors_that_ext4_counted_are_told() {
        let tree = Tree::new(&[
            ("sys/fs/ext4/mmcblk0p2/errors_count", b"3\n"),
            ("sys/fs/ext4/sda1/errors_count", b"0\n"),
            ("sys/fs/ext4/features/lazy_itable_init", b"supported\n"),
        ]);
        let found = find(&tree.host(), Path::new("/"));
        assert_eq!(found.verdict, Verdict::Poor);
        assert_eq!(found.text, "ext4 has counted errors on /dev/mmcblk0p2 (3)");
        assert!(
            found
                .remedy
                .starts_with("tune2fs -E force_fsck /dev/mmcblk0p2 && reboot")
        );
    }

    #[test]
    fn errors_below_a_replayed_journal_are_the_cards() {
        let tree = Tree::new(&[
            ("sys/fs/ext4/dm-0/errors_count", b"2\n"),
            ("sys/fs/ext4/dm-1/errors_count", b"1\n"),
            ("sys/class/block/dm-0/dm/name", b"skerry-replay\n"),
            ("sys/class/block/dm-0/slaves/loop1/x", b""),
            ("sys/class/block/dm-0/slaves/mmcblk0p4/x", b""),
            ("sys/class/block/dm-1/dm/name", b"vg-root\n"),
            ("sys/class/block/dm-1/slaves/sda2/x", b""),
        ]);
        let found = find(&tree.host(), Path::new("/"));
        assert_eq!(
            found.text,
            "ext4 has counted errors on /dev/mmcblk0p4 (2), /dev/dm-1 (1)"
        );
    }
}
