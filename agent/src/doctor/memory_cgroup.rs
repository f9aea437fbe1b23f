//! Can memory be limited? Raspberry Pi's kernels have that switched off: their
//! device trees say so, and what `cmdline.txt` says goes after it.

use super::{Finding, Verdict};
use crate::facts::{Host, is_raspberry_pi};

const KIND: &str = "NoMemoryLimits";
/// What switches it on, with Raspberry Pi's own kernels only.
const SWITCH: &str = "cgroup_enable=memory";
/// What switches it off, with any kernel.
const OFF: &str = "cgroup_disable=memory";
/// Command lines of a Raspberry Pi: Ubuntu's since 25.10, which keeps an older
/// one beside it; the others' since 2023; those before, whose place has a hint
/// of a few words where a newer one is used.
const FILES: [&str; 3] = [
    "boot/firmware/current/cmdline.txt",
    "boot/firmware/cmdline.txt",
    "boot/cmdline.txt",
];

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
    let says = |path: &str, word: &str| host.text(path).split_whitespace().any(|w| w == word);
    let is_off = says("proc/cmdline", OFF);
    if says("proc/cmdline", SWITCH) {
        return match is_off {
            // Raspberry Pi's firmware brings the one, and a kernel that is not
            // Raspberry Pi's does not know the other.
            true => format!(
                "this kernel does not know {SWITCH}: start a kernel of Raspberry Pi OS or Ubuntu, or take '{OFF}' out of the device tree's bootargs"
            ),
            false => "this kernel was built without it: install one with CONFIG_MEMCG=y".into(),
        };
    }
    if (is_raspberry_pi(host) || host.has(FILES[1]))
        && let Some(file) = FILES.into_iter().find(|file| host.has(file))
    {
        if says(file, SWITCH) {
            return format!("reboot   # /{file} asks for it already");
        }
        return format!("sed -i '1s/$/ {SWITCH}/' /{file} && reboot");
    }
    if is_off && host.has("etc/default/grub") {
        return format!("sed -i 's/{OFF}//' /etc/default/grub && update-grub && reboot");
    }
    if is_off {
        return format!(
            "take '{OFF}' off the kernel's command line in this machine's boot loader, then: reboot"
        );
    }
    if host.has("sys/fs/cgroup/cgroup.controllers") {
        return "install a kernel with CONFIG_MEMCG=y".into();
    }
    if host.has("sys/fs/cgroup/pids") {
        return "mkdir -p /sys/fs/cgroup/memory && mount -t cgroup -o memory none /sys/fs/cgroup/memory   # if that fails: install a kernel with CONFIG_MEMCG=y".into();
    }
    "mount -t cgroup2 none /sys/fs/cgroup".into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    const PI: (&str, &[u8]) = (
        "proc/device-tree/model",
        b"Raspberry Pi 5 Model B Rev 1.0\0",
    );

    #[test]
    fn the_remedy_is_a_line_for_the_boot_loader_that_is_there() {
        let on = |files: &[(&str, &[u8])]| remedy(&Tree::new(files).host());
        assert_eq!(
            on(&[PI, ("boot/firmware/cmdline.txt", b"quiet\n")]),
            "sed -i '1s/$/ cgroup_enable=memory/' /boot/firmware/cmdline.txt && reboot"
        );
        let older = on(&[PI, ("boot/cmdline.txt", b"")]);
        assert!(older.ends_with(" /boot/cmdline.txt && reboot"), "{older}");
        let ubuntu = on(&[
            PI,
            ("boot/firmware/cmdline.txt", b""),
            ("boot/firmware/current/cmdline.txt", b"quiet\n"),
        ]);
        assert!(
            ubuntu.ends_with(" /boot/firmware/current/cmdline.txt && reboot"),
            "{ubuntu}"
        );
        let asked = b"quiet cgroup_enable=memory\n";
        assert!(on(&[PI, ("boot/firmware/cmdline.txt", asked)]).starts_with("reboot"));
        assert!(on(&[("proc/cmdline", asked)]).contains("CONFIG_MEMCG=y"));
        let both = b"cgroup_disable=memory quiet cgroup_enable=memory\n";
        let foreign = on(&[PI, ("proc/cmdline", both)]);
        assert!(
            foreign.starts_with("this kernel does not know"),
            "{foreign}"
        );
    }

    /// Kernels of others know only how to switch it off.
    #[test]
    fn elsewhere_it_is_on_unless_somebody_switched_it_off() {
        let on = |files: &[(&str, &[u8])]| remedy(&Tree::new(files).host());
        let off: (&str, &[u8]) = ("proc/cmdline", b"ro cgroup_disable=memory quiet\n");
        let grub = on(&[off, ("etc/default/grub", b"")]);
        assert!(
            grub.starts_with("sed -i 's/cgroup_disable=memory//' /etc/default/grub"),
            "{grub}"
        );
        assert!(on(&[off]).starts_with("take 'cgroup_disable=memory' off"));
        let older = on(&[("sys/fs/cgroup/pids/x", b""), ("etc/default/grub", b"")]);
        assert!(older.contains("mount -t cgroup -o memory"), "{older}");
        let newer = on(&[("sys/fs/cgroup/cgroup.controllers", b"pids\n")]);
        assert!(newer.contains("CONFIG_MEMCG=y"), "{newer}");
    }
}
