//! What a container uses, read through cgroups-rs.

use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, hierarchies};

use super::cgroup::Hierarchies;

/// What a container uses now, and has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since it was started, in microseconds.
    pub cpu_usec: u64,
    /// Memory now, page cache included.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
}

/// Reads a cgroup, given relative to each hierarchy: with a leading slash,
/// cgroups-rs would read something else and find nothing without saying so.
/// `None` if there is no such cgroup.
pub fn read(found: &Hierarchies, cgroup: &str) -> Option<Usage> {
    debug_assert!(Path::new(cgroup).is_relative());
    if !found.directories(cgroup).iter().any(|dir| dir.exists()) {
        return None;
    }
    let group = Cgroup::load(hierarchies::auto(), cgroup);
    let cpu_usec = if found.is_v2() {
        let stat = group
            .controller_of::<CpuController>()
            .map(|one| one.cpu().stat);
        stat.as_deref().and_then(usage_usec).unwrap_or(0)
    } else {
        group
            .controller_of::<CpuAcctController>()
            .map_or(0, |one| one.cpuacct().usage / 1000)
    };
    let memory_bytes = group
        .controller_of::<MemController>()
        .map_or(0, |one| one.memory_stat().usage_in_bytes);
    let pids = group
        .controller_of::<PidController>()
        .and_then(|one| one.get_pid_current().ok());
    Some(Usage {
        cpu_usec,
        memory_bytes,
        pids: pids.unwrap_or(0),
    })
}

/// The kernel's `cpu.stat` of cgroup v2.
fn usage_usec(stat: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix("usage_usec "))?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_of_v2() {
        assert_eq!(usage_usec("usage_usec 123\nuser_usec 100\n"), Some(123));
        assert_eq!(usage_usec("nr_periods 0\n"), None);
    }
}
