//! The logs that are being written, each open once however many containers
//! write to it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::super::logs::{LineSplitter, LogWriter, Origin, stamp_now};
use super::super::spec::LogPolicy;
use super::complain;

/// Open logs by directory.
#[derive(Debug, Default)]
pub struct LogBook {
    open: BTreeMap<PathBuf, Entry>,
    /// Entries on their way to a file; given back when it has grown.
    batch: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    writer: LogWriter,
    users: u32,
    /// Whether the last write failed: said once, not for every line.
    failing: bool,
}

/// The batch is written when it is this long, and its memory given back when
/// it has become much longer.
const BATCH: usize = 32 * 1024;

impl LogBook {
    /// Opens a log for one more user.
    pub fn open(&mut self, dir: &Path, policy: LogPolicy) -> io::Result<()> {
        if let Some(entry) = self.open.get_mut(dir) {
            entry.users += 1;
            entry.writer.set_policy(policy);
            return Ok(());
        }
        let writer = LogWriter::open(dir, policy)?;
        self.open.insert(
            dir.to_owned(),
            Entry {
                writer,
                users: 1,
                failing: false,
            },
        );
        Ok(())
    }

    /// One user less.
    pub fn close(&mut self, dir: &Path) {
        if let Some(entry) = self.open.get_mut(dir) {
            entry.users -= 1;
            if entry.users == 0 {
                self.open.remove(dir);
            }
        }
    }

    /// Whether someone writes to it.
    pub fn is_open(&self, dir: &Path) -> bool {
        self.open.contains_key(dir)
    }

    /// Writes what came from one stream; `None` when the stream has ended.
    pub fn write(
        &mut self,
        dir: &Path,
        origin: Origin,
        splitter: &mut LineSplitter,
        bytes: Option<&[u8]>,
    ) {
        let Some(entry) = self.open.get_mut(dir) else {
            return;
        };
        let (writer, batch) = (&mut entry.writer, &mut self.batch);
        let stamp = stamp_now();
        let mut result = Ok(());
        let mut add = |partial: bool, text: [&[u8]; 2]| {
            let mut added = writer.add(batch, &stamp, origin, partial, text);
            if batch.len() >= BATCH {
                added = added.and(writer.flush(batch));
            }
            if added.is_err() {
                result = added;
            }
        };
        match bytes {
            Some(bytes) => splitter.feed(bytes, &mut add),
            None => splitter.finish(&mut add),
        }
        let flushed = writer.flush(batch);
        if batch.capacity() > 2 * BATCH {
            *batch = Vec::new();
        }
        // What cannot be written is dropped: a full disk stops no container.
        let result: io::Result<()> = result.and(flushed);
        if let Err(error) = &result
            && !entry.failing
        {
            complain(format_args!(
                "log {}: lines are lost: {error}",
                entry.writer.dir().display()
            ));
        }
        entry.failing = result.is_err();
    }
}
