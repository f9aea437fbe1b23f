//! What a container uses, read through cgroups-rs.

use std::path::Path;

use cgroups_rs::fs::cpu::CpuController;
use cgroups_rs::fs::cpuacct::CpuAcctController;
use cgroups_rs::fs::memory::MemController;
use cgroups_rs::fs::pid::PidController;
use cgroups_rs::fs::{Cgroup, hierarchies};

use super::cgroup::Hierarchies;

/// What a container uses now, and has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time since it was started, in microseconds.
    pub cpu_usec: u64,
    /// Memory now, page cache included.
    pub memory_bytes: u64,
    /// Processes and threads now.
    pub pids: u64,
    /// How much it waits, if the kernel tells: cgroup v2 with CONFIG_PSI.
    pub pressure: Option<Pressure>,
}

/// The share of the last 10 seconds in which some of its processes had to wait
/// for something, in hundredths of a percent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: u32,
    /// For memory.
    pub memory: u32,
    /// For a disk.
    pub io: u32,
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
        pressure: pressure(found, cgroup),
    })
}

/// cgroups-rs does not read these files.
fn pressure(found: &Hierarchies, cgroup: &str) -> Option<Pressure> {
    if !found.is_v2() {
        return None;
    }
    let dir = found.directory_of("", cgroup)?;
    let read = |kind: &str| {
        let text = std::fs::read_to_string(dir.join(format!("{kind}.pressure"))).ok()?;
        some_avg10(&text)
    };
    Some(Pressure {
        cpu: read("cpu")?,
        memory: read("memory")?,
        io: read("io")?,
    })
}

/// `some avg10=1.25 avg60=…` in hundredths.
fn some_avg10(text: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let word = line
        .split(' ')
        .find_map(|word| word.strip_prefix("avg10="))?;
    let (whole, part) = word.split_once('.')?;
    Some(whole.parse::<u32>().ok()?.checked_mul(100)? + part.parse::<u32>().ok()?)
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
    fn pressure_of_v2() {
        let text = "some avg10=1.25 avg60=0.07 avg300=0.01 total=23\nfull avg10=0.00 avg60=0.00";
        assert_eq!(some_avg10(text), Some(125));
        assert_eq!(some_avg10("some avg60=0.07"), None);
    }

    #[test]
    fn cpu_time_of_v2() {
        assert_eq!(usage_usec("usage_usec 123\nuser_usec 100\n"), Some(123));
        assert_eq!(usage_usec("nr_periods 0\n"), None);
    }
}
