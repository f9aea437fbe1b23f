//! Are there control groups, and which version?

use super::{Finding, Verdict};
use std::path::Path;

const KIND: &str = "NoCgroups";

/// Looks at `/sys/fs/cgroup`.
pub fn find() -> Finding {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        Finding::good(KIND, "cgroup version 2")
    } else if root.join("memory").is_dir() || root.join("pids").is_dir() {
        Finding::good(KIND, "cgroup version 1")
    } else {
        Finding::new(
            KIND,
            Verdict::Bad,
            "no control groups at /sys/fs/cgroup: containers cannot run",
            "mount -t cgroup2 none /sys/fs/cgroup",
        )
    }
}
