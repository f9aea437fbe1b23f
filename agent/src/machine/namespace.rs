//! Work in the keeper's mount namespace, where it is another than ours: the
//! keeper outlives the agent, and whoever starts the agent may give each start
//! a namespace of its own (systemd does, for a unit with `PrivateTmp=`). What
//! is mounted has to be seen by the containers, whose parent the keeper is.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::os::unix::fs::MetadataExt;

/// Does it there. Blocks.
pub fn in_mounts_of<T: Send>(
    keeper_pid: i32,
    work: impl FnOnce() -> Result<T, String> + Send,
) -> Result<T, String> {
    let path = format!("/proc/{keeper_pid}/ns/mnt");
    let failed = |error: &dyn std::fmt::Display| {
        format!("the mounts of the containers' keeper cannot be reached: {error}")
    };
    let theirs = File::open(path).map_err(|e| failed(&e))?;
    let same = |file: &File| -> std::io::Result<bool> {
        let (theirs, ours) = (file.metadata()?, std::fs::metadata("/proc/self/ns/mnt")?);
        Ok((theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()))
    };
    if same(&theirs).map_err(|e| failed(&e))? {
        return work();
    }
    // A thread of its own, which goes with what it has changed of itself.
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS)
                .and_then(|()| setns(&theirs, CloneFlags::CLONE_NEWNS))
                .map_err(|e| failed(&e))?;
            work()
        });
        inside
            .join()
            .unwrap_or_else(|_| Err("the work broke off".into()))
    })
}
