//! Is there room on the disk?

use super::{Finding, Verdict};
use crate::facts::Space;
use std::path::Path;

const KIND: &str = "DiskPressure";
/// Below this, a new image is unlikely to fit.
const LOW_BYTES: u64 = 512 << 20;
/// Below this, even the store may not be written.
const BAD_BYTES: u64 = 32 << 20;
/// Files that one image may well have.
const LOW_FILES: u64 = 20_000;

/// Looks at the file system of the data directory.
pub fn find(dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let shown = dir.display();
    let Some(Space { bytes, files }) = Space::around(dir) else {
        let text = format!("the disk of {shown} cannot be looked at");
        return Finding::new(KIND, Verdict::Poor, text, format!("df {shown}"));
    };
    let (verdict, text, what) = judged(bytes, files);
    let text = format!("{text} for {shown}");
    if verdict == Verdict::Good {
        return Finding::good(KIND, text);
    }
    Finding::new(KIND, verdict, text, what_takes_room(existing, what))
}

/// The line that shows it: all of the file system, for logs of the system and
/// packages take the same room. What takes none of ours can be had back at once.
pub(super) fn what_takes_room(existing: &Path, what: &str) -> String {
    format!(
        "du -xh {what}--max-depth=2 \"$(stat -c %m {})\" | sort -h | tail -n 20; journalctl --vacuum-size=50M; apt-get clean",
        existing.display()
    )
}

/// How bad it is, in words, and what `du` shall count.
fn judged(free: u64, files: Option<u64>) -> (Verdict, String, &'static str) {
    let room = format!("{} MiB free", free >> 20);
    if let Some(files) = files.filter(|files| *files < LOW_FILES && free >= BAD_BYTES) {
        let verdict = match files {
            0 => Verdict::Bad,
            _ => Verdict::Poor,
        };
        return (
            verdict,
            format!("{room}, but only {files} more files"),
            "--inodes ",
        );
    }
    let verdict = match free {
        free if free < BAD_BYTES => Verdict::Bad,
        free if free < LOW_BYTES => Verdict::Poor,
        _ => Verdict::Good,
    };
    (verdict, room, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_files_may_run_out() {
        let verdict = |free, files| judged(free, files).0;
        assert_eq!(verdict(10 << 30, None), Verdict::Good);
        assert_eq!(verdict(10 << 30, Some(1_000_000)), Verdict::Good);
        assert_eq!(verdict(10 << 30, Some(5)), Verdict::Poor);
        assert_eq!(verdict(10 << 30, Some(0)), Verdict::Bad);
        assert_eq!(verdict(100 << 20, None), Verdict::Poor);
        assert_eq!(verdict(1 << 20, Some(0)), Verdict::Bad);
    }
}
