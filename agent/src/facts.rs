//! What the machine is.

use crate::release;
use skerry_wire::report::Facts;
use std::fs;
use std::path::Path;

/// Characters of one fact.
const MAX_CHARS: usize = 120;

fn line(path: &str) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    text.chars().take(MAX_CHARS).collect()
}

/// This boot of the machine, from the kernel.
pub fn boot_id() -> String {
    line("/proc/sys/kernel/random/boot_id")
}

fn os() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.unwrap_or_default()
        .trim_matches('"')
        .chars()
        .take(MAX_CHARS)
        .collect()
}

fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|l| l.strip_prefix("MemTotal:"));
    let kib = total.and_then(|t| t.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// OCI's names for the architecture and its variant.
fn arch() -> (&'static str, &'static str) {
    match std::env::consts::ARCH {
        "x86_64" => ("amd64", ""),
        "aarch64" => ("arm64", "v8"),
        "arm" => ("arm", "v7"),
        "riscv64" => ("riscv64", ""),
        "x86" => ("386", ""),
        other => (other, ""),
    }
}

/// 2 when the unified hierarchy is the only one.
pub fn cgroup_version() -> u8 {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        2
    } else {
        1
    }
}

/// Reads them all. What cannot be read is empty or 0.
pub fn read() -> Facts {
    let (arch, variant) = arch();
    let model = match line("/proc/device-tree/model") {
        text if text.is_empty() => line("/sys/class/dmi/id/product_name"),
        text => text,
    };
    Facts {
        arch: arch.into(),
        variant: variant.into(),
        kernel: line("/proc/sys/kernel/osrelease"),
        os: os(),
        model,
        hostname: line("/proc/sys/kernel/hostname"),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory_bytes(),
        agent_version: release().into(),
        cgroup_version: cgroup_version(),
        boot_id: boot_id(),
        ..Facts::default()
    }
}
