//! Are there control groups, and which version?

use super::{Finding, Verdict};
use crate::facts::Host;

const KIND: &str = "NoCgroups";

/// Looks at `/sys/fs/cgroup`.
pub fn find(host: &Host) -> Finding {
    if host.has("sys/fs/cgroup/cgroup.controllers") {
        Finding::good(KIND, "cgroup version 2")
    } else if host.has("sys/fs/cgroup/memory") || host.has("sys/fs/cgroup/pids") {
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
