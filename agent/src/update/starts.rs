//! Counts how often the agent was started in a row, each time soon after the
//! time before: one that was confirmed can still begin to end by itself, on a
//! day or for a manifest that nobody had tried it with, and then no order
//! reaches it any more.
//!
//! ```text
//! <run dir>/starts    "COUNT MILLIS-SINCE-BOOT", in memory: the flash is spared
//! ```
//!
//! A machine that starts anew counts from the beginning, and so does an agent
//! that was ready and then [asked to end](super::stop): `systemctl restart` as
//! often as somebody likes gives nothing up.

use super::stop;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A start so soon after the one before belongs to it: longer than systemd, or
/// our init, waits for one that hangs (90 s).
const SOON: Duration = Duration::from_secs(180);
/// More starts in a row than this are no accident. An agent that lives for
/// [`SOON`] has talked to the hub, if there is a way to it.
pub const MAX_IN_A_ROW: u32 = 10;
/// Longest file, in bytes.
const MAX_BYTES: usize = 64;

/// The count of one run directory.
#[derive(Debug)]
pub struct Starts {
    path: PathBuf,
}

impl Starts {
    /// That of this run directory. Nothing is counted before an agent has made
    /// it.
    pub fn new(run_dir: &Path) -> Self {
        Self {
            path: run_dir.join("starts"),
        }
    }

    /// Notes a start at this time since the machine's; how many it makes in a
    /// row. Trouble with the file counts as the first: nothing is given up
    /// because of it.
    pub fn note(&self, now: Duration) -> u32 {
        let before = fs::read_to_string(&self.path).ok();
        let count = next(before.as_deref(), now);
        let text = format!("{count} {}", now.as_millis());
        fs::write(&self.path, text).map_or(1, |()| count)
    }

    /// Another program has its own count.
    pub fn forget(&self) {
        // What is left is too old soon.
        let _ = fs::remove_file(&self.path);
    }

    /// This process is ready, and stays until somebody asks it to end: then
    /// nothing is counted.
    pub fn forget_when_asked_to_end(&self) {
        stop::forget_when_asked_to_end(&self.path);
    }
}

fn next(before: Option<&str>, now: Duration) -> u32 {
    let known = before
        .filter(|text| text.len() <= MAX_BYTES)
        .and_then(|text| {
            let (count, millis) = text.trim().split_once(' ')?;
            let at = Duration::from_millis(millis.parse().ok()?);
            Some((count.parse::<u32>().ok()?, at))
        });
    match known {
        Some((count, at)) if now >= at && now - at < SOON => count.saturating_add(1),
        Some(_) | None => 1,
    }
}

/// Whether this program can read the store, tried in a process of its own. A
/// device without one has nothing to lose.
pub fn reads_store(program: &Path, store: &Path) -> bool {
    if !store.exists() {
        return true;
    }
    let ended = Command::new(program)
        .arg("probe-store")
        .arg(store)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    ended.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn only_starts_one_soon_after_the_other_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = Starts::new(&dir.path().join("run"));
        assert_eq!([1, 2].map(|secs| none.note(at(secs))), [1, 1]);
        let starts = Starts::new(dir.path());
        assert_eq!([1, 2, 3].map(|secs| starts.note(at(secs))), [1, 2, 3]);
        assert_eq!(starts.note(at(182)), 4);
        assert_eq!(starts.note(at(182 + 180)), 1, "it lived for a while");
        assert_eq!(starts.note(at(363)), 2);
        starts.forget();
        assert_eq!(starts.note(at(364)), 1);
        for nonsense in ["", "x", "7", "7 x", "-1 3", &"9".repeat(100)] {
            assert_eq!(next(Some(nonsense), at(5)), 1, "{nonsense}");
        }
        // A machine that started anew, where the file was kept all the same.
        assert_eq!(next(Some("9 4000"), at(3)), 1);
    }

    #[test]
    fn a_program_that_is_none_reads_no_store() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = dir.path().join("agent.redb");
        assert!(reads_store(Path::new("/bin/false"), &store));
        fs::write(&store, "a store").expect("written");
        assert!(reads_store(Path::new("/bin/true"), &store));
        assert!(!reads_store(Path::new("/bin/false"), &store));
        assert!(!reads_store(Path::new("/no/such/program"), &store));
    }
}
