//! Can image layers be stacked?

use super::{Finding, Verdict};
use std::fs;

const KIND: &str = "NoOverlayfs";

/// Looks at the file systems that the kernel knows.
pub fn find() -> Finding {
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known
        .lines()
        .any(|line| line.trim_start_matches("nodev").trim() == "overlay")
    {
        return Finding::good(KIND, "overlayfs is there");
    }
    Finding::new(
        KIND,
        Verdict::Bad,
        "the kernel does not know overlayfs: containers cannot run",
        "modprobe overlay && echo overlay > /etc/modules-load.d/overlay.conf",
    )
}
