//! Limits of a container, written into its cgroup: when it is made, and again
//! when they are changed while it runs. Knows both versions of cgroups.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::cgroup::Hierarchies;
use super::spec::Resources;

/// Which cpus can be used, as in `0-3`.
const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";
/// Length of the kernel's CPU accounting period in microseconds.
const CPU_PERIOD: u64 = 100_000;
/// What a cgroup of v1 weighs that says nothing: one CPU's worth.
const USUAL_SHARES: u64 = 1024;
/// What a cgroup of v2 weighs that says nothing.
const USUAL_WEIGHT: u64 = 100;

/// Why a limit cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The kernel cannot limit this.
    #[error(
        "a {what} limit needs the {controller} cgroup controller, which this machine does not \
         have; {remedy}, or leave the limit out"
    )]
    Missing {
        /// What cannot be limited.
        what: &'static str,
        /// What the kernel lacks.
        controller: &'static str,
        /// How to get it.
        remedy: &'static str,
    },
    /// It could, but nobody has mounted what it does so by.
    #[error(
        "a {what} limit needs the {controller} cgroup controller, which is not mounted: \
         mkdir -p /sys/fs/cgroup/{controller} && mount -t cgroup -o {controller} cgroup \
         /sys/fs/cgroup/{controller}, or leave the limit out"
    )]
    NotMounted {
        /// What cannot be limited.
        what: &'static str,
        /// What is not mounted.
        controller: &'static str,
    },
    /// This machine has other cpus.
    #[error(
        "the cpuset {wanted:?} names a cpu that this device does not have: it has {here}; name \
         some of these, or leave cpuset out"
    )]
    NoSuchCpu {
        /// What was asked for.
        wanted: String,
        /// What there is, as the kernel writes it.
        here: String,
    },
    /// The kernel refuses the value.
    #[error("the {what} limit {value:?} is refused ({})", file_name(path))]
    Refused {
        /// Which limit.
        what: &'static str,
        /// What was written.
        value: String,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It would be killed.
    #[error(
        "the container uses {used} bytes of memory now, which is more than the new limit of \
         {limit}; restart it with the new limit instead"
    )]
    InUse {
        /// What it uses.
        used: u64,
        /// What it should be held to.
        limit: u64,
    },
}

/// One value for one file.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    what: &'static str,
    controller: &'static str,
    file: String,
    value: String,
    /// Somebody has asked for it; otherwise it is as if nobody ever had, and
    /// a kernel that lacks it is as good.
    wanted: bool,
}

/// A limit error and its cause in one line.
pub fn text(error: &LimitError) -> String {
    match error {
        LimitError::Refused { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    }
}

/// The same for every incarnation of a container, unlike the whole path.
fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Whether a list of cpus as in `0-1,3` has only such as are in the other one.
fn is_part_of(wanted: &str, here: &str) -> bool {
    let ranges = |list: &str| -> Vec<(u32, u32)> {
        let range = |item: &str| {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
        };
        list.split(',').filter_map(range).collect()
    };
    let here = ranges(here);
    let there = |cpu: u32| {
        here.iter()
            .any(|(first, last)| (*first..=*last).contains(&cpu))
    };
    ranges(wanted)
        .into_iter()
        .all(|(first, last)| there(first) && there(last))
}

fn check_cpus(resources: &Resources) -> Result<(), LimitError> {
    let Some(wanted) = &resources.cpus else {
        return Ok(());
    };
    // A machine that does not tell leaves it to the kernel to refuse.
    let Ok(here) = fs::read_to_string(ONLINE_CPUS) else {
        return Ok(());
    };
    let here = here.trim();
    match is_part_of(wanted, here) {
        true => Ok(()),
        false => Err(LimitError::NoSuchCpu {
            wanted: wanted.clone(),
            here: here.to_owned(),
        }),
    }
}

/// Refuses limits that this machine has no controller for.
pub fn check(hierarchies: &Hierarchies, resources: &Resources) -> Result<(), LimitError> {
    check_cpus(resources)?;
    let io = io_file(hierarchies, "");
    let settings = settings(resources, hierarchies.is_v2(), io);
    for one in settings.iter().filter(|one| one.wanted) {
        if !hierarchies.has_controller(one.controller) {
            return Err(missing(hierarchies, one.what, one.controller));
        }
    }
    Ok(())
}

/// Sets all limits of a cgroup that exists: what is `None` becomes unlimited.
pub fn apply(
    hierarchies: &Hierarchies,
    cgroup: &str,
    resources: &Resources,
) -> Result<(), LimitError> {
    check_cpus(resources)?;
    let v2 = hierarchies.is_v2();
    // On v1 the kernel refuses it, on v2 it would kill.
    if let (Some(limit), Some(used)) = (resources.memory_bytes, used(hierarchies, cgroup))
        && used > limit
    {
        return Err(LimitError::InUse { used, limit });
    }
    for setting in settings(resources, v2, io_file(hierarchies, cgroup)) {
        let dir = hierarchies.directory_of(setting.controller, cgroup);
        let path = dir.map(|dir| dir.join(&setting.file));
        match path.filter(|path| path.exists()) {
            Some(path) => {
                let value = match (setting.file.as_str(), setting.value.as_str()) {
                    // v1 takes no empty list: all that the parent has.
                    ("cpuset.cpus", "") if !v2 => parents_cpus(&path),
                    (_, value) => value.to_owned(),
                };
                // A line end, because the kernel ignores an empty write.
                let written = fs::write(&path, format!("{value}\n"));
                // Without a limit to lift there is nothing that can fail.
                if let Err(source) = written
                    && setting.wanted
                {
                    return Err(LimitError::Refused {
                        what: setting.what,
                        value,
                        path,
                        source,
                    });
                }
            }
            None if setting.wanted => {
                return Err(missing(hierarchies, setting.what, setting.controller));
            }
            None => {}
        }
    }
    Ok(())
}

/// The file of the disk weight: that of the bfq scheduler where it is in use.
fn io_file(hierarchies: &Hierarchies, cgroup: &str) -> (&'static str, &'static str) {
    let (controller, bfq, other) = match hierarchies.is_v2() {
        true => ("io", "io.bfq.weight", "io.weight"),
        false => ("blkio", "blkio.bfq.weight", "blkio.weight"),
    };
    let dir = hierarchies.directory_of(controller, cgroup);
    match dir.is_some_and(|dir| dir.join(bfq).exists()) {
        true => (controller, bfq),
        false => (controller, other),
    }
}

/// Memory that a cgroup uses now and would not give back, in bytes.
fn used(hierarchies: &Hierarchies, cgroup: &str) -> Option<u64> {
    let dir = hierarchies.directory_of("memory", cgroup)?;
    let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
    let (file, cache) = match hierarchies.is_v2() {
        true => ("memory.current", ["inactive_file ", "active_file "]),
        false => (
            "memory.usage_in_bytes",
            ["total_inactive_file ", "total_active_file "],
        ),
    };
    let used: u64 = read(file)?.trim().parse().ok()?;
    let stat = read("memory.stat").unwrap_or_default();
    let given_back = stat.lines().filter_map(|line| {
        let number = cache.iter().find_map(|name| line.strip_prefix(name))?;
        number.trim().parse::<u64>().ok()
    });
    Some(used.saturating_sub(given_back.sum()))
}

fn parents_cpus(path: &std::path::Path) -> String {
    let above = path
        .parent()
        .and_then(|dir| Some(dir.parent()?.join("cpuset.cpus")));
    let text = above.and_then(|path| fs::read_to_string(path).ok());
    text.unwrap_or_default().trim().to_owned()
}

fn missing(hierarchies: &Hierarchies, what: &'static str, controller: &'static str) -> LimitError {
    let table = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    if !hierarchies.has_controller(controller)
        && !hierarchies.is_v2()
        && is_unmounted(&table, controller)
    {
        return LimitError::NotMounted { what, controller };
    }
    let remedy = match controller {
        "cpu" => "build the kernel with CONFIG_CFS_BANDWIDTH and CONFIG_FAIR_GROUP_SCHED",
        "memory" => {
            "on a Raspberry Pi add 'cgroup_enable=memory' to cmdline.txt and reboot; 'skerry-agent doctor' has the line to type"
        }
        "pids" => "build the kernel with CONFIG_CGROUP_PIDS",
        "cpuset" => "build the kernel with CONFIG_CPUSETS",
        "hugetlb" => "build the kernel with CONFIG_CGROUP_HUGETLB and pages of that size",
        _ => "build the kernel with CONFIG_BLK_CGROUP and CONFIG_BFQ_GROUP_IOSCHED, and use bfq",
    };
    LimitError::Missing {
        what,
        controller,
        remedy,
    }
}

/// Whether the kernel has this controller of v1, enabled, and in no hierarchy.
/// `table` is /proc/cgroups: name, hierarchy, number of cgroups, enabled.
fn is_unmounted(table: &str, controller: &str) -> bool {
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        matches!(words.as_slice(), [name, "0", _, "1"] if *name == controller)
    })
}

/// Every limit as a value for a file, in the order of writing.
fn settings(resources: &Resources, v2: bool, io: (&'static str, &str)) -> Vec<Setting> {
    let mut all = Vec::new();
    let mut set = |what, controller, file: &str, value: Option<String>, otherwise: &str| {
        all.push(Setting {
            what,
            controller,
            file: file.to_owned(),
            wanted: value.is_some(),
            value: value.unwrap_or_else(|| otherwise.to_owned()),
        });
    };
    let text = |number: u64| number.to_string();
    let quota = resources
        .cpu_millis
        .map(|millis| u64::from(millis) * CPU_PERIOD / 1000);
    let shares = resources
        .cpu_request_millis
        .map(|millis| (u64::from(millis) * USUAL_SHARES / 1000).clamp(2, 262_144));
    let memory = resources.memory_bytes;
    let kept = resources.memory_request_bytes.map(text);
    // Swap beyond a memory limit would wear out the flash: none, unless asked
    // for. v1 counts memory and swap together, v2 swap alone.
    let swap = memory.map(|_| resources.swap_bytes.unwrap_or(0));
    let swap_asked = resources.swap_bytes.is_some_and(|bytes| bytes > 0);
    if v2 {
        let max = quota.map(|quota| format!("{quota} {CPU_PERIOD}"));
        set("cpu", "cpu", "cpu.max", max, &format!("max {CPU_PERIOD}"));
        let weight = shares.map(|shares| text(weight(shares)));
        set("cpu", "cpu", "cpu.weight", weight, &text(USUAL_WEIGHT));
        set("memory", "memory", "memory.max", memory.map(text), "max");
        set("memory", "memory", "memory.low", kept, "0");
        set("swap", "memory", "memory.swap.max", swap.map(text), "max");
    } else {
        set("cpu", "cpu", "cpu.cfs_period_us", None, &text(CPU_PERIOD));
        set("cpu", "cpu", "cpu.cfs_quota_us", quota.map(text), "-1");
        let shares = shares.map(text);
        set("cpu", "cpu", "cpu.shares", shares, &text(USUAL_SHARES));
        // Memory must stay below memory with swap at each step.
        set("swap", "memory", "memory.memsw.limit_in_bytes", None, "-1");
        let file = "memory.limit_in_bytes";
        set("memory", "memory", file, memory.map(text), "-1");
        let file = "memory.soft_limit_in_bytes";
        set("memory", "memory", file, kept, "-1");
        let both = swap.and_then(|swap| memory?.checked_add(swap)).map(text);
        set("swap", "memory", "memory.memsw.limit_in_bytes", both, "-1");
    }
    let pids = resources.pids.map(u64::from).map(text);
    set("process", "pids", "pids.max", pids, "max");
    set(
        "cpu list",
        "cpuset",
        "cpuset.cpus",
        resources.cpus.clone(),
        "",
    );
    // The same scale everywhere: 100 is usual.
    let weight = resources.io_weight.map(u64::from).map(text);
    set("disk", io.0, io.1, weight, "100");
    for (page, bytes) in &resources.huge_pages {
        let file = match v2 {
            true => format!("hugetlb.{}.max", page_name(*page)),
            false => format!("hugetlb.{}.limit_in_bytes", page_name(*page)),
        };
        set("huge page", "hugetlb", &file, Some(text(*bytes)), "");
    }
    for one in &mut all {
        // A kernel that does not count swap has no such file, and then there
        // is nothing to forbid.
        one.wanted &= one.what != "swap" || swap_asked;
    }
    all
}

/// The kernel's name for pages of a size: `64KB`, `2MB`, `1GB`.
fn page_name(bytes: u64) -> String {
    match bytes {
        kb if kb < 1 << 20 => format!("{}KB", kb >> 10),
        mb if mb < 1 << 30 => format!("{}MB", mb >> 20),
        gb => format!("{}GB", gb >> 30),
    }
}

/// Shares of v1 (2 to 262144) as a weight of v2 (1 to 10000), as all OCI
/// runtimes do it.
fn weight(shares: u64) -> u64 {
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(resources: &Resources, v2: bool) -> Vec<String> {
        let io = if v2 {
            ("io", "io.weight")
        } else {
            ("blkio", "blkio.weight")
        };
        let wanted = settings(resources, v2, io)
            .into_iter()
            .filter(|one| one.wanted);
        wanted
            .map(|one| format!("{}={}", one.file, one.value))
            .collect()
    }

    #[test]
    fn every_limit_has_its_file_in_both_versions() {
        let all = Resources {
            cpu_millis: Some(250),
            memory_bytes: Some(64 << 20),
            pids: Some(9),
            cpu_request_millis: Some(500),
            memory_request_bytes: Some(1 << 20),
            swap_bytes: Some(1 << 20),
            cpus: Some("0".into()),
            huge_pages: vec![(2 << 20, 4 << 20), (1 << 30, 0)],
            io_weight: Some(50),
        };
        let v1 = [
            "cpu.cfs_quota_us=25000",
            "cpu.shares=512",
            "memory.limit_in_bytes=67108864",
            "memory.soft_limit_in_bytes=1048576",
            "memory.memsw.limit_in_bytes=68157440",
            "pids.max=9",
            "cpuset.cpus=0",
            "blkio.weight=50",
            "hugetlb.2MB.limit_in_bytes=4194304",
            "hugetlb.1GB.limit_in_bytes=0",
        ];
        assert_eq!(lines(&all, false), v1);
        let v2 = [
            "cpu.max=25000 100000",
            "cpu.weight=20",
            "memory.max=67108864",
            "memory.low=1048576",
            "memory.swap.max=1048576",
            "pids.max=9",
            "cpuset.cpus=0",
            "io.weight=50",
            "hugetlb.2MB.max=4194304",
            "hugetlb.1GB.max=0",
        ];
        assert_eq!(lines(&all, true), v2);
        assert!(lines(&Resources::default(), true).is_empty());
    }

    #[test]
    fn a_list_of_cpus_is_held_against_those_that_there_are() {
        for (wanted, here, fits) in [
            ("0", "0-3", true),
            ("0-1,3", "0-3", true),
            ("2", "0-1,3", false),
            ("3-4", "0-3", false),
            ("7", "0-1", false),
        ] {
            assert_eq!(is_part_of(wanted, here), fits, "{wanted} of {here}");
        }
        let everything = Resources {
            cpus: Some("0-99999".into()),
            ..Resources::default()
        };
        let error = check_cpus(&everything).expect_err("nobody has so many");
        assert!(
            error
                .to_string()
                .contains("this device does not have: it has 0")
        );
    }

    #[test]
    fn a_controller_that_is_only_not_mounted_is_told_from_one_that_is_not_there() {
        let table = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n\
                     memory\t4\t28\t1\nhugetlb\t0\t13\t1\npids\t0\t1\t0\n";
        assert!(is_unmounted(table, "hugetlb"));
        for other in ["memory", "pids", "misc"] {
            assert!(!is_unmounted(table, other), "{other}");
        }
    }

    #[test]
    fn swap_is_forbidden_beside_a_memory_limit() {
        let limited = Resources {
            memory_bytes: Some(1 << 20),
            ..Resources::default()
        };
        let value = |v2: bool, file: &str| {
            let all = settings(&limited, v2, ("io", "io.weight"));
            let last = all.into_iter().rfind(|one| one.file == file);
            last.map(|one| one.value)
        };
        assert_eq!(value(true, "memory.swap.max").as_deref(), Some("0"));
        let both = value(false, "memory.memsw.limit_in_bytes");
        assert_eq!(both.as_deref(), Some("1048576"));
    }
}
