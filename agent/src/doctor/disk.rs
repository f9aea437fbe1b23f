//! Is there room on the disk?

use super::{Finding, Verdict};
use nix::sys::statvfs::statvfs;
use std::path::Path;

const KIND: &str = "DiskPressure";
/// Below this, a new image is unlikely to fit.
const LOW_BYTES: u64 = 512 << 20;
/// Below this, even the store may not be written.
const BAD_BYTES: u64 = 32 << 20;

/// Looks at the file system of the data directory.
pub fn find(dir: &Path) -> Finding {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    let shown = dir.display();
    let Ok(stat) = statvfs(existing) else {
        let text = format!("the disk of {shown} cannot be looked at");
        return Finding::new(KIND, Verdict::Poor, text, format!("df {shown}"));
    };
    #[allow(
        clippy::unnecessary_cast,
        reason = "a C long has 32 bits on 32-bit Arm"
    )]
    let unit = stat.fragment_size() as u64;
    let free = stat.blocks_available().saturating_mul(unit);
    let text = format!("{} MiB free for {shown}", free >> 20);
    let verdict = match free {
        free if free < BAD_BYTES => Verdict::Bad,
        free if free < LOW_BYTES => Verdict::Poor,
        _ => return Finding::good(KIND, text),
    };
    Finding::new(
        KIND,
        verdict,
        text,
        format!(
            "du -xh --max-depth=2 {} | sort -h | tail",
            existing.display()
        ),
    )
}
