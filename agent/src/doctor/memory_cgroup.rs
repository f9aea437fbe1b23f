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
    let files = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
    let remedy = match files.into_iter().find(|file| Path::new(file).exists()) {
        Some(file) => {
            format!("sed -i '1s/$/ cgroup_enable=memory cgroup_memory=1/' {file} && reboot")
        }
        None => "add 'cgroup_enable=memory' to the kernel's command line and reboot".into(),
    };
    let text = "the kernel's memory controller is off: apps with a memory limit do not start";
    Finding::new(KIND, Verdict::Bad, text, remedy)
}
