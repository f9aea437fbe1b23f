//! Can image layers be stacked?

use super::{Finding, Verdict};
use crate::facts::Host;

const KIND: &str = "NoOverlayfs";

/// Looks at the file systems that the kernel knows, and at those that it can
/// load when one is mounted.
pub fn find(host: &Host) -> Finding {
    let known = host.text("proc/filesystems");
    let is_overlay = |line: &str| line.trim_start_matches("nodev").trim() == "overlay";
    if known.lines().any(is_overlay) {
        return Finding::good(KIND, "overlayfs is there");
    }
    let modules = format!("lib/modules/{}", host.line("proc/sys/kernel/osrelease"));
    let has_module = |list: &str| {
        let text = host.text(&format!("{modules}/{list}"));
        text.contains("/overlay.ko")
    };
    if has_module("modules.dep") {
        return Finding::good(
            KIND,
            "overlayfs is a module that loads itself when it is needed",
        );
    }
    Finding::new(
        KIND,
        Verdict::Bad,
        "the kernel does not know overlayfs: containers cannot run",
        "modprobe overlay && echo overlay > /etc/modules-load.d/overlay.conf",
    )
}
