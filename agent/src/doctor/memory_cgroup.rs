//! Can memory be limited? Raspberry Pi OS switches that off.

use super::{Finding, Verdict};
use crate::facts::Host;

const KIND: &str = "NoMemoryLimits";
/// What switches it on, in the order in which kernels want it.
const SWITCH: &str = "cgroup_enable=memory";

/// Looks at the controllers of either version.
pub fn find(host: &Host) -> Finding {
    let controllers = "sys/fs/cgroup/cgroup.controllers";
    let present = if host.has(controllers) {
        let text = host.text(controllers);
        text.split_whitespace().any(|c| c == "memory")
    } else {
        host.has("sys/fs/cgroup/memory/memory.limit_in_bytes")
            || host.has("sys/fs/cgroup/memory/memory.stat")
    };
    if present {
        return Finding::good(KIND, "memory limits work");
    }
    let text = "the kernel's memory controller is off: apps with a memory limit do not start";
    Finding::new(KIND, Verdict::Bad, text, remedy(host))
}

/// The line for this machine's boot loader.
fn remedy(host: &Host) -> String {
    let is_asked = |path: &str| host.text(path).split_whitespace().any(|w| w == SWITCH);
    if is_asked("proc/cmdline") {
        return "this kernel was built without it: install one with CONFIG_MEMCG=y".into();
    }
    // The older path is a hint of a few words where the newer one is used.
    let files = ["boot/firmware/cmdline.txt", "boot/cmdline.txt"];
    if let Some(file) = files.into_iter().find(|file| host.has(file)) {
        if is_asked(file) {
            return format!("reboot   # /{file} asks for it already");
        }
        return format!("sed -i '1s/$/ {SWITCH} cgroup_memory=1/' /{file} && reboot");
    }
    if host.has("etc/default/grub") {
        return format!(
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{SWITCH} /' /etc/default/grub && update-grub && reboot"
        );
    }
    format!(
        "add '{SWITCH}' to the kernel's command line in this machine's boot loader, then: reboot"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn the_remedy_is_a_line_for_the_boot_loader_that_is_there() {
        let on = |files: &[(&str, &[u8])]| remedy(&Tree::new(files).host());
        assert_eq!(
            on(&[("boot/firmware/cmdline.txt", b"quiet\n")]),
            "sed -i '1s/$/ cgroup_enable=memory cgroup_memory=1/' /boot/firmware/cmdline.txt && reboot"
        );
        assert!(on(&[("boot/cmdline.txt", b"")]).ends_with(" /boot/cmdline.txt && reboot"));
        assert!(on(&[("etc/default/grub", b"")]).contains("update-grub"));
        let asked = b"quiet cgroup_enable=memory cgroup_memory=1\n";
        assert!(on(&[("boot/firmware/cmdline.txt", asked)]).starts_with("reboot"));
        assert!(on(&[("proc/cmdline", asked)]).contains("CONFIG_MEMCG=y"));
    }
}
