//! Limits are cgroups. Raspberry Pi OS boots with the memory controller off.

use super::Finding;
use std::fs;
use std::path::Path;

/// What limits of ours need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// What a look at the machine gave.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// cgroup v2 is mounted at the root, with these controllers.
    unified: Option<String>,
    /// `/proc/cgroups`: the controllers that the kernel has, and whether on.
    kernel: String,
    /// Hierarchies of v1 that are mounted.
    mounted_v1: Vec<String>,
    /// The kernel's command line is the Raspberry Pi firmware's.
    raspberry_pi: bool,
}

pub(super) fn diagnose() -> Vec<Finding> {
    let root = Path::new("/sys/fs/cgroup");
    let names = fs::read_dir(root).into_iter().flatten().flatten();
    let model = fs::read_to_string("/proc/device-tree/model").unwrap_or_default();
    judge(&Seen {
        unified: fs::read_to_string(root.join("cgroup.controllers")).ok(),
        kernel: fs::read_to_string("/proc/cgroups").unwrap_or_default(),
        mounted_v1: names
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect(),
        raspberry_pi: model.contains("Raspberry Pi"),
    })
}

fn judge(seen: &Seen) -> Vec<Finding> {
    let version = match &seen.unified {
        Some(_) => "v2",
        None => "v1",
    };
    let present = |controller: &str| match &seen.unified {
        Some(list) => list.split_whitespace().any(|c| c == controller),
        None => seen
            .mounted_v1
            .iter()
            .any(|c| c.split(',').any(|c| c == controller)),
    };
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|c| !present(c)).collect();
    if missing.is_empty() {
        return vec![Finding::good(
            "cgroup",
            format!("cgroup {version} with cpu, memory and pids"),
        )];
    }
    missing
        .into_iter()
        .map(|controller| absent(controller, seen))
        .collect()
}

fn absent(controller: &str, seen: &Seen) -> Finding {
    // Subsystem, hierarchy, cgroups, enabled (cgroups(7)).
    let enabled = seen.kernel.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(controller) && words.last() == Some("1")
    });
    let message = format!(
        "the {controller} controller is off: apps run, but their {controller} limits hold nothing"
    );
    let remedy = match (enabled, seen.raspberry_pi) {
        (false, true) => format!(
            "sed -i '1 s/$/ cgroup_enable={controller}/' /boot/firmware/cmdline.txt && reboot"
        ),
        (false, false) => {
            format!("add cgroup_enable={controller} to the kernel's command line, and reboot")
        }
        (true, _) if seen.unified.is_some() => {
            format!("echo +{controller} > /sys/fs/cgroup/cgroup.subtree_control")
        }
        (true, _) => format!(
            "mkdir -p /sys/fs/cgroup/{controller} && mount -t cgroup -o {controller} {controller} /sys/fs/cgroup/{controller}"
        ),
    };
    Finding::problem("cgroup", message, remedy)
}

#[cfg(test)]
mod tests {
    use super::super::Severity;
    use super::*;

    fn seen() -> Seen {
        Seen {
            unified: Some("cpuset cpu io memory pids\n".into()),
            kernel:
                "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t0\t9\t1\nmemory\t0\t9\t1\n"
                    .into(),
            mounted_v1: vec![],
            raspberry_pi: false,
        }
    }

    #[test]
    fn all_controllers_are_good_on_either_version() {
        assert_eq!(judge(&seen())[0].severity, Severity::Good);
        let v1 = Seen {
            unified: None,
            mounted_v1: ["cpu,cpuacct", "memory", "pids"].map(String::from).to_vec(),
            ..seen()
        };
        assert_eq!(judge(&v1)[0].severity, Severity::Good);
    }

    #[test]
    fn a_raspberry_pi_without_memory_limits_is_told_the_line() {
        let pi = Seen {
            unified: Some("cpuset cpu io pids".into()),
            kernel: "memory\t0\t9\t0\n".into(),
            raspberry_pi: true,
            ..seen()
        };
        let findings = judge(&pi);
        assert_eq!(findings.len(), 1);
        assert!(
            findings[0].remedy.contains("cgroup_enable=memory"),
            "{findings:?}"
        );
        assert!(findings[0].remedy.contains("/boot/firmware/cmdline.txt"));
    }
}
