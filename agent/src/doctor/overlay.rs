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
    let remedy = match modules_are_gone(host) {
        true => MODULES_ARE_GONE,
        false => "modprobe overlay && echo overlay > /etc/modules-load.d/overlay.conf",
    };
    Finding::new(
        KIND,
        Verdict::Bad,
        "the kernel does not know overlayfs: containers cannot run",
        remedy,
    )
}

/// What helps then.
pub(super) const MODULES_ARE_GONE: &str =
    "reboot   # the running kernel's modules are gone, as after an upgrade of the kernel";

/// Whether there are modules, but none for the kernel that runs: an upgrade
/// replaced them, and until the next start nothing can be loaded.
pub(super) fn modules_are_gone(host: &Host) -> bool {
    let running = host.line("proc/sys/kernel/osrelease");
    let there = host.names("lib/modules");
    !running.is_empty() && !there.is_empty() && !there.contains(&running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn after_an_upgrade_of_the_kernel_only_a_restart_helps() {
        let on = |modules: &str| {
            let tree = Tree::new(&[
                ("proc/filesystems", b"nodev\tproc\n"),
                ("proc/sys/kernel/osrelease", b"6.12.25+rpt-rpi-v8\n"),
                (modules, b"kernel/fs/fuse/fuse.ko.xz:\n"),
            ]);
            find(&tree.host()).remedy
        };
        let older = on("lib/modules/6.12.25+rpt-rpi-v8/modules.dep");
        assert!(older.starts_with("modprobe overlay"), "{older}");
        let gone = on("lib/modules/6.12.34+rpt-rpi-v8/modules.dep");
        assert!(gone.starts_with("reboot"), "{gone}");
    }
}
