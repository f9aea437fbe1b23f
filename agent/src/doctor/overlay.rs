//! Root file systems are overlays of image layers.

use super::Finding;
use std::fs;

pub(super) fn diagnose() -> Finding {
    judge(&fs::read_to_string("/proc/filesystems").unwrap_or_default())
}

/// Judges the text of `/proc/filesystems`.
fn judge(filesystems: &str) -> Finding {
    if filesystems.split_whitespace().any(|word| word == "overlay") {
        return Finding::good("overlay", "the kernel has overlayfs");
    }
    Finding::problem(
        "overlay",
        "the kernel has no overlayfs loaded, so no container can start",
        "modprobe overlay && echo overlay > /etc/modules-load.d/skerry.conf",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlayfs_is_looked_for_by_its_whole_name() {
        assert!(judge("nodev\ttmpfs\nnodev\toverlay\n").remedy.is_empty());
        assert!(!judge("nodev\toverlayish\n").remedy.is_empty());
    }
}
