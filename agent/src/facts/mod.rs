//! What the machine is ([`Facts`]), and how it is now ([`vitals`]). Everything
//! is read below a root, so that tests can lay out other machines.

mod board;
mod cpu;
mod disk;
mod firmware;
mod host;
mod reset;
mod space;
#[cfg(test)]
pub(crate) mod tests;
mod vcio;
mod vitals;

pub use board::is_raspberry_pi;
pub use disk::{Disk, Wear};
pub use firmware::{throttled, weak_supply_milliamps};
pub use host::Host;
pub use reset::{PanicNote, panic_record};
pub use space::Space;
pub use vitals::{memory_available_bytes, temperature_millis, vitals};

use crate::release;
use skerry_wire::report::{Allocatable, Facts};

/// 2 when the unified hierarchy is the only one.
pub fn cgroup_version(host: &Host) -> u8 {
    if host.has("sys/fs/cgroup/cgroup.controllers") {
        2
    } else {
        1
    }
}

/// Bytes of a line of `/proc/meminfo`; 0 when it is not there.
fn memory(host: &Host, name: &str) -> u64 {
    let text = host.text("proc/meminfo");
    let value = text.lines().find_map(|l| l.strip_prefix(name));
    let kib = value.and_then(|t| t.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Those of this machine.
pub fn read() -> Facts {
    read_below(&Host::machine())
}

/// Reads them all. What cannot be read is empty or 0; so is the count of
/// boots, which the agent's store keeps.
pub fn read_below(host: &Host) -> Facts {
    let (arch, variant) = cpu::arch(host);
    Facts {
        arch: arch.into(),
        variant: variant.into(),
        kernel: host.line("proc/sys/kernel/osrelease"),
        os: host.os_name(),
        model: board::model(host),
        hostname: host.line("proc/sys/kernel/hostname"),
        cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as u32),
        memory_bytes: memory(host, "MemTotal:"),
        agent_version: release().into(),
        cgroup_version: cgroup_version(host),
        boot_id: host.line("proc/sys/kernel/random/boot_id"),
        serial: board::serial(host),
        boot_count: 0,
        reset_reason: reset::last_reset(host).into(),
        allocatable: Allocatable::default(),
    }
}
