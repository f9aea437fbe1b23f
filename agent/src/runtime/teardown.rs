//! Taking down everything of one container. Does all it can, as often as it
//! is asked, and then says all that went wrong.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};

use super::cgroup::Hierarchies;
use super::hooks::{self, HookError};
use super::paths::Layout;
use super::rootfs::remove_all;
use super::spec::ContainerId;

/// How long killed processes may take to go: they may sit in the kernel on a
/// slow disk.
const DEATH: Duration = Duration::from_secs(10);
/// A cgroup is busy for a moment after its last process.
const CGROUP_TRIES: u32 = 50;
const CGROUP_PAUSE: Duration = Duration::from_millis(4);

/// What could not be taken down.
#[derive(Debug, thiserror::Error)]
pub enum TeardownError {
    /// Processes do not die.
    #[error("process {pid} of container {id} is still there {} s after SIGKILL", DEATH.as_secs())]
    Alive {
        /// Whose.
        id: ContainerId,
        /// Which.
        pid: i32,
    },
    /// A cgroup stays.
    #[error("cgroup {} cannot be removed", path.display())]
    Cgroup {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Files stay.
    #[error("{} cannot be removed", path.display())]
    Files {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Kills what is left of a container, waits for it to go, runs the hooks for its
/// end, and removes its cgroups and files. Its log and the record of its end
/// stay. Hooks that fail are told to `complain`, and hinder nothing.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when a cgroup of v1 is no longer busy"
)]
pub fn teardown(
    id: &ContainerId,
    layout: &Layout,
    hierarchies: &Hierarchies,
    complain: impl Fn(&HookError),
) -> Vec<TeardownError> {
    let mut errors = Vec::new();
    let cgroup = layout.cgroup(id);
    if let Some(pid) = kill_and_wait(hierarchies, &cgroup) {
        errors.push(TeardownError::Alive {
            id: id.clone(),
            pid,
        });
    }
    for failed in hooks::after_stop(id, &layout.bundle(id)) {
        complain(&failed);
    }
    let mut left = hierarchies.remove(&cgroup);
    for _ in 0..CGROUP_TRIES {
        if left.is_empty() {
            break;
        }
        std::thread::sleep(CGROUP_PAUSE);
        left = hierarchies.remove(&cgroup);
    }
    errors.extend(
        left.into_iter()
            .map(|(path, source)| TeardownError::Cgroup { path, source }),
    );
    // The bundle last: as long as it is there, the container counts as lost
    // and is taken down again.
    for path in [layout.scratch(id), layout.bundle(id)] {
        if let Err(source) = remove_all(&path) {
            errors.push(TeardownError::Files { path, source });
        }
    }
    errors
}

/// Kills every process of a cgroup and waits until all are gone; the one that
/// is not, if any.
fn kill_and_wait(hierarchies: &Hierarchies, cgroup: &str) -> Option<i32> {
    let deadline = Instant::now() + DEATH;
    loop {
        let processes = hierarchies.processes(cgroup);
        let first = *processes.first()?;
        // Opened before the kill, so that each is one of the processes killed.
        let watched: Vec<OwnedFd> = processes
            .iter()
            .filter_map(|pid| pidfd(*pid).ok())
            .collect();
        hierarchies.kill_all(cgroup);
        for fd in watched {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(first);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }
}

/// A descriptor that becomes readable when the process ends (Linux 5.3).
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel made this descriptor just now; it is close-on-exec.
    let file = unsafe { File::from_raw_fd(fd) };
    debug_assert!(file.as_raw_fd() >= 0);
    Ok(file.into())
}
