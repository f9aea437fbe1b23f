//! What a killed helper leaves: processes that it has begun for a container
//! and that are in no container's cgroup yet, so that nobody finds them there.
//! They have become the keeper's children, and wait for a helper that is gone.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

use super::Keeper;

impl Keeper {
    /// Kills those that are there now. Each that dies may leave children of its
    /// own: to be called again when one has been reaped. False when there was
    /// none.
    pub(super) fn kill_strays(&self) -> bool {
        let Ok(own_cgroup) = fs::read("/proc/self/cgroup") else {
            return false;
        };
        let parent = Pid::this().as_raw();
        let mut found = false;
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            let of = entry.path();
            let stat = fs::read_to_string(of.join("stat")).unwrap_or_default();
            if parent_of(&stat) != Some(parent) || self.is_known(pid) {
                continue;
            }
            // An orphan of an app that sees the host's processes is in the
            // app's cgroup, and the app's own affair.
            if fs::read(of.join("cgroup")).is_ok_and(|cgroup| cgroup == own_cgroup) {
                found |= kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok();
            }
        }
        found
    }

    fn is_known(&self, pid: i32) -> bool {
        self.jobs.values().any(|job| job.is_of(pid))
            || self.execs.contains_key(&pid)
            || self.containers.values().any(|one| one.pid() == Some(pid))
            || self.sandboxes.values().any(|one| one.is_of(pid))
    }
}

/// The parent in a line of `/proc/<pid>/stat`; none of what has ended and is
/// only to be reaped.
fn parent_of(stat: &str) -> Option<i32> {
    // The name before may have any characters.
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut words = rest.split(' ');
    let state = words.next()?;
    (state != "Z").then(|| words.next()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::parent_of;

    #[test]
    fn a_parent_is_read_whatever_the_name() {
        assert_eq!(parent_of("7 (a) b) S 3 1 1"), Some(3));
        assert_eq!(parent_of("7 (a) Z 3 1 1"), None);
        assert_eq!(parent_of(""), None);
    }
}
