//! When a helper was how far, for whoever wants to know why starts are slow:
//! while the file `helper-times` is in the run directory, each helper appends
//! its phases to it. Make the file, start an app, read it:
//!
//! ```text
//! 4711 main 8123456789     process id, phase that is over, CLOCK_MONOTONIC in ns
//! ```
//!
//! Without the file this costs one look for it, and no descriptor. With it, the
//! container's first process holds the file, closed when it becomes the image's
//! program.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::OnceLock;

use nix::time::{ClockId, clock_gettime};

/// The file's name in the run directory.
pub const FILE: &str = "helper-times";

static TIMES: OnceLock<File> = OnceLock::new();

/// Nanoseconds of CLOCK_MONOTONIC.
pub fn now_nanos() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let (secs, nanos) = (time.tv_sec() as u64, time.tv_nsec() as u64);
        secs.saturating_mul(1_000_000_000).saturating_add(nanos)
    })
}

/// Opens the file, if it is there, and says when this process began.
pub fn open(run_dir: &Path, began_nanos: u64) {
    let file = OpenOptions::new()
        .append(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open(run_dir.join(FILE));
    if let Ok(file) = file
        && TIMES.set(file).is_ok()
    {
        write("main", began_nanos);
    }
}

/// A phase is over.
pub fn stamp(phase: &str) {
    if TIMES.get().is_some() {
        write(phase, now_nanos());
    }
}

fn write(phase: &str, at_nanos: u64) {
    if let Some(mut file) = TIMES.get() {
        // One write, so that lines of several helpers stay whole. If it fails,
        // somebody knows a little less.
        let line = format!("{} {phase} {at_nanos}\n", std::process::id());
        let _ = file.write_all(line.as_bytes());
    }
}
