//! The reading end of a log, for the agent: from a point in the past, over
//! rotations, and on to what is yet to come.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::spec::Timestamp;
use super::inotify::Watch;
use super::line::{self, LogEntry};

/// Read at once. Larger than the longest entry, so that each read makes
/// progress.
const BLOCK: usize = 64 * 1024;

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogStart {
    /// At the oldest entry that is kept.
    Beginning,
    /// So many full lines before the end.
    Tail(u64),
    /// At the first entry that is not older.
    Since(Timestamp),
    /// Where an earlier reader stood.
    Cursor(LogCursor),
}

/// A position between two entries. Stays valid over rotations and restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct LogCursor {
    /// Number of the file.
    pub file: u64,
    /// Bytes into it.
    pub offset: u64,
}

/// What a reader finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogItem {
    /// The next entry.
    Entry(LogEntry),
    /// Entries that stood here have been deleted by rotation, or a line was
    /// damaged by a power cut or a full disk.
    Gap,
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("log {} cannot be read", dir.display())]
pub struct LogError {
    dir: PathBuf,
    #[source]
    source: io::Error,
}

/// Reads one log in order, each entry once.
#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    open: Option<Open>,
    /// Where the next unread entry begins.
    at: LogCursor,
    since: Option<Timestamp>,
    ready: VecDeque<(LogItem, LogCursor)>,
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Open {
    number: u64,
    file: File,
    /// Bytes read that are not yet an entry; they begin at `offset`.
    buffer: Vec<u8>,
    offset: u64,
}

impl LogReader {
    /// Opens the log in `dir` (see `Runtime::log_reader`). A log that does not
    /// exist yet reads as empty.
    pub fn open(dir: &Path, start: LogStart) -> Result<Self, LogError> {
        let mut reader = Self {
            dir: dir.to_owned(),
            open: None,
            at: LogCursor::default(),
            since: None,
            ready: VecDeque::new(),
            watch: None,
        };
        match start {
            LogStart::Beginning => {}
            LogStart::Since(at) => reader.since = Some(at),
            LogStart::Cursor(at) => reader.at = at,
            LogStart::Tail(lines) => {
                reader.at = reader.wrap(tail(dir, lines))?;
            }
        }
        Ok(reader)
    }

    /// Where the next item begins: hand it to [`LogStart::Cursor`] to go on.
    pub fn cursor(&self) -> LogCursor {
        match self.ready.front() {
            Some((_, begins)) => *begins,
            None => self.at,
        }
    }

    /// The next item; `None` when there is none yet.
    pub fn try_next(&mut self) -> Result<Option<LogItem>, LogError> {
        loop {
            if let Some((item, _)) = self.ready.pop_front() {
                let skip = match (&item, self.since) {
                    (LogItem::Entry(entry), Some(since)) => entry.at < since,
                    _ => false,
                };
                if !skip {
                    return Ok(Some(item));
                }
                continue;
            }
            let more = self.read_on();
            if !self.wrap(more)? {
                return Ok(None);
            }
        }
    }

    /// The next item, waiting for it.
    pub async fn next(&mut self) -> Result<LogItem, LogError> {
        loop {
            if let Some(item) = self.try_next()? {
                return Ok(item);
            }
            // The watch must be there before the last look, or what is written
            // between the two would not wake us.
            if self.watch.is_none() {
                let watch = self.begin_watch();
                self.watch = Some(self.wrap(watch)?);
                continue;
            }
            if let Some(watch) = &self.watch {
                let changed = watch.changed().await;
                if changed.is_err() || !self.dir.exists() {
                    self.watch = None;
                }
            }
        }
    }

    /// A log may be followed before it exists: its directory is made.
    fn begin_watch(&self) -> io::Result<Watch> {
        std::fs::create_dir_all(&self.dir)?;
        Watch::new(&self.dir)
    }

    fn wrap<T>(&self, result: io::Result<T>) -> Result<T, LogError> {
        result.map_err(|source| LogError {
            dir: self.dir.clone(),
            source,
        })
    }

    /// Reads a block and makes items of it. False when the end is reached.
    fn read_on(&mut self) -> io::Result<bool> {
        let Some(mut open) = self.open.take() else {
            return self.open_next(None);
        };
        let progress = open.read_block()?;
        if progress {
            self.take_entries(&mut open);
            self.open = Some(open);
            return Ok(true);
        }
        // The end of this file. Only if a newer one exists is it complete, and
        // what came between our read and that file must be read first.
        let newer = super::files(&self.dir)?
            .into_iter()
            .any(|number| number > open.number);
        if !newer {
            self.open = Some(open);
            return Ok(false);
        }
        if open.read_block()? {
            self.take_entries(&mut open);
            self.open = Some(open);
            return Ok(true);
        }
        if !open.buffer.is_empty() {
            self.ready.push_back((LogItem::Gap, self.at));
        }
        self.open_next(Some(open.number))
    }

    /// Opens the file of the cursor, or the next after it. False if there is
    /// none.
    fn open_next(&mut self, finished: Option<u64>) -> io::Result<bool> {
        let numbers = super::files(&self.dir)?;
        let wanted = |number: &u64| match finished {
            Some(last) => *number > last,
            None => *number >= self.at.file,
        };
        let Some(&oldest) = numbers.first() else {
            return Ok(false);
        };
        // A cursor beyond every file comes from before the clock was set back
        // or the log was removed: begin again.
        let found = numbers.iter().copied().find(wanted);
        let Some(number) = found.or(finished.is_none().then_some(oldest)) else {
            return Ok(false);
        };
        let mut file = match File::open(super::file(&self.dir, number)) {
            Ok(file) => file,
            // Rotated away since it was listed: look again.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let here = number == self.at.file && finished.is_none();
        let offset = if here {
            self.at.offset.min(file.metadata()?.len())
        } else {
            0
        };
        file.seek(SeekFrom::Start(offset))?;
        let lost = match finished {
            Some(last) => number != last.saturating_add(1),
            None => self.at != LogCursor::default() && !here,
        };
        self.at = LogCursor {
            file: number,
            offset,
        };
        if lost {
            self.ready.push_back((LogItem::Gap, self.at));
        }
        self.open = Some(Open {
            number,
            file,
            buffer: Vec::new(),
            offset,
        });
        Ok(true)
    }

    fn take_entries(&mut self, open: &mut Open) {
        let mut used = 0;
        while let Some(length) = open.buffer[used..].iter().position(|byte| *byte == b'\n') {
            let begins = LogCursor {
                file: open.number,
                offset: open.offset + used as u64,
            };
            let item = match line::parse(&open.buffer[used..used + length]) {
                Some(entry) => LogItem::Entry(entry),
                None => LogItem::Gap,
            };
            self.ready.push_back((item, begins));
            used += length + 1;
        }
        open.buffer.drain(..used);
        open.offset += used as u64;
        self.at = LogCursor {
            file: open.number,
            offset: open.offset,
        };
    }
}

impl Open {
    /// False at the end of the file.
    fn read_block(&mut self) -> io::Result<bool> {
        let start = self.buffer.len();
        self.buffer.resize(start + BLOCK, 0);
        let result = self.file.read(&mut self.buffer[start..]);
        let count = *result.as_ref().unwrap_or(&0);
        self.buffer.truncate(start + count);
        result.map(|count| count > 0)
    }
}

/// The position from which `lines` full lines follow. Counts file by file from
/// the newest; holds one line at a time, however large the files are.
fn tail(dir: &Path, lines: u64) -> io::Result<LogCursor> {
    let numbers = super::files(dir)?;
    let mut wanted = lines;
    for &file in numbers.iter().rev() {
        let path = super::file(dir, file);
        let mut found = 0;
        let last = match full_lines(&path, || {
            found += 1;
            true
        }) {
            // Rotated away since it was listed: so is all that is older.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            other => other?,
        };
        if wanted == 0 {
            return Ok(LogCursor { file, offset: last });
        }
        if found > wanted {
            let mut skip = found - wanted;
            let offset = full_lines(&path, || {
                skip -= 1;
                skip > 0
            })?;
            return Ok(LogCursor { file, offset });
        }
        wanted -= found;
    }
    // All of it: begin at the oldest.
    Ok(LogCursor {
        file: numbers.first().copied().unwrap_or(0),
        offset: 0,
    })
}

/// Calls `each` for each full line until it says that it has seen enough; the
/// offset behind the last one.
fn full_lines(path: &Path, mut each: impl FnMut() -> bool) -> io::Result<u64> {
    let mut last = 0;
    each_line(path, |span, text| {
        if line::parse(text).is_some_and(|entry| entry.partial) {
            return true;
        }
        last = span.end;
        each()
    })?;
    Ok(last)
}

/// Calls `each` for each line that is ended, with where it stands and without
/// its newline, until it says that it has seen enough.
pub(super) fn each_line(
    path: &Path,
    mut each: impl FnMut(Range<u64>, &[u8]) -> bool,
) -> io::Result<()> {
    let mut file = BufReader::with_capacity(BLOCK, File::open(path)?);
    let (mut line, mut offset) = (Vec::new(), 0);
    loop {
        line.clear();
        // A damaged file may hold anything, so the length is bounded.
        let count = file
            .by_ref()
            .take(BLOCK as u64)
            .read_until(b'\n', &mut line)?;
        if count == 0 {
            return Ok(());
        }
        let begin = offset;
        offset += count as u64;
        if let Some(text) = line.strip_suffix(b"\n")
            && !each(begin..offset, text)
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::LogPolicy;
    use super::super::{LogWriter, origin, stamp};
    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        writer: LogWriter,
        clock: u64,
    }

    impl Fixture {
        fn new(max_file_bytes: u64, max_files: u32) -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            let policy = LogPolicy {
                persist: false,
                max_file_bytes,
                max_files,
            };
            let writer = LogWriter::open(dir.path(), policy).expect("opened");
            Self {
                dir,
                writer,
                clock: 0,
            }
        }

        fn line(&mut self, partial: bool, text: &str) {
            self.clock += 1;
            let mut batch = Vec::new();
            let stamp = stamp::format(Timestamp(self.clock));
            self.writer
                .add(
                    &mut batch,
                    &stamp,
                    origin("a.1"),
                    partial,
                    [text.as_bytes(), b""],
                )
                .and_then(|()| self.writer.flush(&mut batch))
                .expect("written");
        }

        fn reader(&self, start: LogStart) -> LogReader {
            LogReader::open(self.dir.path(), start).expect("opened")
        }
    }

    fn rest(reader: &mut LogReader) -> Vec<String> {
        let mut out = Vec::new();
        while let Some(item) = reader.try_next().expect("read") {
            out.push(match item {
                LogItem::Entry(entry) => String::from_utf8(entry.text).expect("text"),
                LogItem::Gap => "GAP".into(),
            });
        }
        out
    }

    #[test]
    fn over_rotations_nothing_is_lost_or_doubled() {
        let mut log = Fixture::new(100, 50);
        let mut reader = log.reader(LogStart::Beginning);
        let mut seen = Vec::new();
        for n in 0..40 {
            log.line(false, &n.to_string());
            if n % 3 == 0 {
                seen.extend(rest(&mut reader));
                reader = log.reader(LogStart::Cursor(reader.cursor()));
            }
        }
        seen.extend(rest(&mut reader));
        let all: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        assert_eq!(seen, all);
    }

    #[test]
    fn each_cursor_between_items_is_exact() {
        let mut log = Fixture::new(100, 50);
        for n in 0..10 {
            log.line(false, &n.to_string());
        }
        let mut reader = log.reader(LogStart::Beginning);
        for n in 0..10 {
            let mut other = log.reader(LogStart::Cursor(reader.cursor()));
            let from_n: Vec<String> = (n..10).map(|n| n.to_string()).collect();
            assert_eq!(rest(&mut other), from_n);
            reader.try_next().expect("read").expect("an entry");
        }
    }

    #[test]
    fn what_rotation_took_is_told_as_a_gap() {
        let mut log = Fixture::new(100, 2);
        log.line(false, "0");
        let cursor = {
            let mut reader = log.reader(LogStart::Beginning);
            assert_eq!(rest(&mut reader), ["0"]);
            reader.cursor()
        };
        for n in 1..20 {
            log.line(false, &n.to_string());
        }
        let seen = rest(&mut log.reader(LogStart::Cursor(cursor)));
        assert_eq!(seen.first().map(String::as_str), Some("GAP"));
        assert_eq!(seen.last().map(String::as_str), Some("19"));
    }

    #[test]
    fn tail_counts_full_lines() {
        let mut log = Fixture::new(100, 50);
        for n in 0..10 {
            log.line(true, &format!("{n}a"));
            log.line(false, &format!("{n}b"));
        }
        assert_eq!(
            rest(&mut log.reader(LogStart::Tail(0))),
            Vec::<String>::new()
        );
        assert_eq!(
            rest(&mut log.reader(LogStart::Tail(2))),
            ["8a", "8b", "9a", "9b"]
        );
        assert_eq!(rest(&mut log.reader(LogStart::Tail(100))).len(), 20);
        let since = rest(&mut log.reader(LogStart::Since(Timestamp(19))));
        assert_eq!(since, ["9a", "9b"]);
    }

    #[test]
    fn a_reader_waits_for_what_is_written_later() {
        smol::block_on(async {
            let mut log = Fixture::new(100, 50);
            let mut reader = log.reader(LogStart::Tail(0));
            let write = async {
                for n in 0..20 {
                    log.line(false, &n.to_string());
                    smol::future::yield_now().await;
                }
                smol::future::pending::<()>().await;
            };
            let read = async {
                for n in 0..20 {
                    let LogItem::Entry(entry) = reader.next().await.expect("read") else {
                        panic!("a gap");
                    };
                    assert_eq!(entry.text, n.to_string().as_bytes());
                }
            };
            smol::future::or(read, write).await;
        });
    }
}
