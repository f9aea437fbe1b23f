//! Opening the store: in a copy of this process first, once the agent before
//! this one has ended, and in memory where the disk takes no writes.

use crate::apart::{Ended, run_apart};
use crate::chain::chain;
use crate::config::Config;
use crate::store::{self, Reopened, StoreDir, StoreError};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What the child that opens the store says when another process holds it.
const PROBE_LOCKED: u8 = 3;

/// How long an agent that was killed may still hold the store: its threads end
/// one after the other, one that waits for a slow disk only when that answers,
/// and a process that it was about to start holds its files for a moment more.
const LOCK_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries meanwhile.
const LOCK_AGAIN: Duration = Duration::from_millis(20);

/// Opens the store, with another process looking at it first: redb may panic
/// on a file that is damaged enough.
pub(super) fn open_store(config: &Config, exe: &Path) -> Result<StoreDir, StoreError> {
    unlocked(|| StoreDir::open(&config.data_dir, probe_with(exe)))
}

/// Where memory is mounted that takes the place of a disk.
pub(super) fn memory_place(config: &Config) -> PathBuf {
    config.run_dir.join("memory")
}

/// The same for the agent of a device: if its disk takes no writes, what is on
/// it is used, and memory for the rest.
pub(super) fn open_store_or_memory(config: &Config, exe: &Path) -> Result<StoreDir, StoreError> {
    let memory = memory_place(config);
    let error = match open_store(config, exe) {
        Ok(store) => return Ok(store.or_memory(memory)),
        Err(error @ StoreError::Locked) => return Err(error),
        Err(error) => error,
    };
    match store::lay_memory(&config.data_dir, &memory) {
        Ok(Reopened::Memory) => open_store(config, exe).map(|store| store.or_memory(memory)),
        Ok(Reopened::Same) => Err(error),
        Err(why) => {
            tracing::error!("{}", chain(&why));
            Err(error)
        }
    }
}

/// Tries again for a while what another agent keeps from being opened, which
/// may be about to end.
pub(super) fn unlocked<T>(
    mut open: impl FnMut() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    let begun = std::time::Instant::now();
    let mut waited = false;
    loop {
        match open() {
            Err(StoreError::Locked) if begun.elapsed() < LOCK_WITHIN => {
                waited = true;
                wait_for_lock();
            }
            other => {
                if waited {
                    let millis = begun.elapsed().as_millis();
                    tracing::info!("waited {millis} ms for the agent before this one to end");
                }
                return other;
            }
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "redb takes the lock itself, and only tries to"
)]
fn wait_for_lock() {
    std::thread::sleep(LOCK_AGAIN);
}

/// Opens a store in another process: a copy of this one as long as it has no
/// further threads, as at the start.
pub(super) fn probe_with(exe: &Path) -> impl Fn(&Path) -> Result<(), StoreError> + '_ {
    move |path| {
        let ended = run_apart(|| probe(path)).or_else(|_| {
            let output = Command::new(exe)
                .arg("probe-store")
                .arg(path)
                .stdin(Stdio::null())
                .output()?;
            Ok::<_, std::io::Error>(Ended {
                code: output.status.code(),
                text: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        });
        // No other process is not the store's fault: open it without looking.
        let Ok(ended) = ended else { return Ok(()) };
        match ended.code {
            Some(0) => Ok(()),
            Some(code) if code == i32::from(PROBE_LOCKED) => Err(StoreError::Locked),
            Some(_) | None => {
                let last = ended.text.lines().next_back().unwrap_or("it crashed");
                Err(StoreError::Damaged(last.to_string()))
            }
        }
    }
}

/// Opens a store where a crash does no harm: the exit code of that process.
pub fn probe(path: &Path) -> u8 {
    match store::probe(path) {
        Ok(()) => 0,
        Err(StoreError::Locked) => PROBE_LOCKED,
        Err(error) => {
            eprintln!("{}", chain(&error));
            1
        }
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_waited_for_that_an_ending_agent_holds() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = || StoreDir::open(dir.path(), store::probe);
        let held = open().expect("a new store");
        assert!(matches!(open(), Err(StoreError::Locked)));
        let mut held = Some(held);
        let mut tries = 0;
        let opened = unlocked(|| {
            tries += 1;
            if tries == 3 {
                drop(held.take());
            }
            open()
        });
        assert!(opened.is_ok_and(|store| store.broken.is_none()));
        assert_eq!(tries, 3);
        // One that stays is told of, and nothing is moved aside.
        let held = open().expect("it is whole");
        assert!(matches!(unlocked(open), Err(StoreError::Locked)));
        drop(held);
    }
}
