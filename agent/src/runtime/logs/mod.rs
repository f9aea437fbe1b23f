//! Logs of containers: bounded text files that an operator can read with `cat`.
//!
//! A log is a directory of files `<20 digits>.log`. Only the newest is written.
//! When it has reached its size it is left as it is, the next one (its number
//! plus one) begun, and the oldest deleted: nothing is ever renamed, so "file
//! number and offset" stays a valid position. The first file of an empty
//! directory takes the clock's nanoseconds as its number, so that positions
//! from before a reboot do not fit the files after it.
//!
//! One line of output is one line in the file, in the form that Kubernetes'
//! CRI uses:
//!
//! ```text
//! 2026-11-21T02:03:04.123456789Z stdout F:1f0c9a2e the text
//! ```
//!
//! `F` is a full line, or the last piece of one; `P` a piece that goes on in
//! the next entry of the same stream. Behind it, where CRI has room for tags,
//! stands which start of a container wrote it ([`StartMark`]): the log is one
//! over restarts, and whoever wants to know what the one before said gets only
//! that ([`Earlier`]).

mod inotify;
mod line;
mod reader;
mod section;
mod stamp;
mod writer;

pub use line::{LogEntry, StartMark, Stream};
pub use reader::{LogCursor, LogError, LogItem, LogReader, LogStart};
pub use section::{Earlier, Section};

pub(super) use line::{LineSplitter, Origin};
pub(super) use section::find as find_section;
pub(super) use writer::LogWriter;

use std::io;
use std::path::{Path, PathBuf};

use super::spec::Timestamp;

use super::exits::names;

/// The time now, as it stands in front of an entry.
pub(super) fn stamp_now() -> String {
    stamp::format(Timestamp::now())
}

/// The numbers of a log's files, rising; none if the log does not exist.
fn files(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found: Vec<u64> = names(dir)?.filter_map(|name| number(&name)).collect();
    found.sort_unstable();
    Ok(found)
}

fn number(name: &str) -> Option<u64> {
    name.strip_suffix(".log")?.parse().ok()
}

fn file(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:020}.log"))
}

/// What this container writes to its standard output.
#[cfg(test)]
fn origin(id: &str) -> Origin {
    Origin {
        stream: Stream::Stdout,
        start: StartMark::of(&super::spec::ContainerId::new(id).expect("a name")),
    }
}
