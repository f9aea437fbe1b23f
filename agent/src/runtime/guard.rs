//! What apps cannot take from the agent and the keeper.
//!
//! All containers live below one cgroup, which may not use up the machine:
//! some memory and some process ids are left for everything else, the agent
//! and the keeper in it. The keeper's own cgroup stands beside that one, weighs
//! ten times as much when CPUs are scarce, and its memory is not reclaimed.
//! What the agent needs of the CPU it has by the kernel's fair sharing between
//! the cgroups at the top.

use std::fs;
use std::io;
use std::path::PathBuf;

use super::cgroup::Hierarchies;
use super::paths::Layout;

/// Least memory in bytes left beside the apps: kernel, system and agent.
const LEAST_LEFT: u64 = 48 << 20;
/// Most memory left beside them.
const MOST_LEFT: u64 = 512 << 20;
/// Memory in bytes of the keeper that is never reclaimed.
const KEEPERS_MEMORY: u64 = 8 << 20;

/// Memory that all apps together may use on a machine with so much, in bytes:
/// all but a tenth, within bounds.
pub fn apps_memory(total: u64) -> u64 {
    total - (total / 10).clamp(LEAST_LEFT, MOST_LEFT).min(total / 2)
}

/// Sets the guard; `memory` in place of what is computed. Does what it can:
/// all that it could not do.
pub fn set(
    hierarchies: &Hierarchies,
    layout: &Layout,
    memory: Option<u64>,
) -> Vec<(PathBuf, io::Error)> {
    let mut errors = Vec::new();
    let apps = layout.apps_cgroup();
    let keeper = layout.keeper_cgroup();
    for cgroup in [&apps, &keeper] {
        if let Err(error) = hierarchies.make(cgroup) {
            errors.push((cgroup.into(), error));
        }
    }
    let mut write = |controller: &str, cgroup: &str, file: &str, value: u64| {
        let dir = hierarchies.directory_of(controller, cgroup);
        let path = dir.map(|dir| dir.join(file)).filter(|path| path.exists());
        if let Some(path) = path
            && let Err(error) = fs::write(&path, value.to_string())
        {
            errors.push((path, error));
        }
    };
    let memory = memory.or_else(|| total_memory().map(apps_memory));
    let pids = process_ids().map(|all| all / 10 * 9);
    if hierarchies.is_v2() {
        if let Some(memory) = memory {
            write("memory", &apps, "memory.max", memory);
        }
        for cgroup in [&layout.cgroup_parent, &keeper] {
            write("memory", cgroup, "memory.min", KEEPERS_MEMORY);
        }
        write("cpu", &keeper, "cpu.weight", 1000);
    } else {
        if let Some(memory) = memory {
            write("memory", &apps, "memory.limit_in_bytes", memory);
        }
        write("cpu", &keeper, "cpu.shares", 10 * 1024);
    }
    if let Some(pids) = pids {
        write("pids", &apps, "pids.max", pids);
    }
    errors
}

fn total_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// How many processes and threads there can be.
fn process_ids() -> Option<u64> {
    let read = |name: &str| -> Option<u64> {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse().ok()
    };
    Some(read("pid_max")?.min(read("threads-max")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_on_every_size() {
        let mib = |number: u64| number << 20;
        assert_eq!(apps_memory(mib(64)), mib(32));
        assert_eq!(apps_memory(mib(256)), mib(208));
        assert_eq!(apps_memory(mib(1000)), mib(900));
        assert_eq!(apps_memory(mib(16 << 10)), mib((16 << 10) - 512));
    }
}
