//! Can memory be limited? Raspberry Pi OS switches that off.

use super::{Finding, Verdict};
use std::fs;
use std::path::Path;

const KIND: &str = "NoMemoryLimits";

/// Looks at the controllers of either version.
pub fn find() -> Finding {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers");
    let present = match v2 {
        Ok(controllers) => controllers.split_whitespace().any(|c| c == "memory"),
        Err(_) => {
            Path::new("/sys/fs/cgroup/memory/memory.limit_in_bytes").exists()
                || Path::new("/sys/fs/cgroup/memory/memory.stat").exists()
        }
    };
    if present {
        return Finding::good(KIND, "memory limits work");
    }
    let remedy = remedy(|file| Path::new(file).exists());
    let text = "the kernel's memory controller is off: apps with a memory limit do not start";
    Finding::new(KIND, Verdict::Bad, text, remedy)
}

/// The line for this machine's boot loader.
fn remedy(exists: impl Fn(&str) -> bool) -> String {
    // The older path is a hint of a few words where the newer one is used.
    let files = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
    if let Some(file) = files.into_iter().find(|file| exists(file)) {
        return format!("sed -i '1s/$/ cgroup_enable=memory cgroup_memory=1/' {file} && reboot");
    }
    if exists("/etc/default/grub") {
        return "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&cgroup_enable=memory /' /etc/default/grub && update-grub && reboot".into();
    }
    "add 'cgroup_enable=memory' to the kernel's command line in this machine's boot loader, then: reboot".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_a_line_for_the_boot_loader_that_is_there() {
        let on = |file: &'static str| remedy(move |other| other == file);
        assert_eq!(
            on("/boot/firmware/cmdline.txt"),
            "sed -i '1s/$/ cgroup_enable=memory cgroup_memory=1/' /boot/firmware/cmdline.txt && reboot"
        );
        assert!(on("/boot/cmdline.txt").ends_with(" /boot/cmdline.txt && reboot"));
        assert!(on("/etc/default/grub").contains("update-grub"));
    }
}
