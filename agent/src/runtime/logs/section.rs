//! What one start of a container wrote into a log that others write to as well.

use std::io;
use std::path::Path;

use super::super::spec::ContainerId;
use super::line::{self, StartMark};
use super::reader::{LogCursor, each_line};

/// Which start's output is wanted, of those that have begun to write before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Earlier {
    /// The one before this container's.
    Than(ContainerId),
    /// The newest.
    Newest,
    /// The one before the newest.
    ThanNewest,
}

/// Where the output of one start stands. Others' may stand between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Whose it is.
    pub start: StartMark,
    /// Where its first entry begins.
    pub first: LogCursor,
    /// Behind its last entry.
    pub end: LogCursor,
    /// Its full lines.
    pub lines: u64,
}

/// Finds it; `None` when nothing is kept of it. Reads file by file from the
/// newest, and no further back than it must. Blocks.
pub fn find(dir: &Path, wanted: &Earlier) -> io::Result<Option<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    for &file in super::files(dir)?.iter().rev() {
        let older = match of_file(dir, file) {
            // Rotated away since it was listed: so is all that is older.
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            other => other?,
        };
        let newer = std::mem::replace(&mut sections, older);
        for section in newer {
            match sections.iter_mut().find(|s| s.start == section.start) {
                Some(begun) => {
                    begun.end = section.end;
                    begun.lines += section.lines;
                }
                None => sections.push(section),
            }
        }
        // What is the first here may have begun in an older file.
        if choose(&sections, wanted).is_some_and(|index| index > 0) {
            break;
        }
    }
    Ok(choose(&sections, wanted).map(|index| sections[index]))
}

/// Which of them, in the order in which they began.
fn choose(sections: &[Section], wanted: &Earlier) -> Option<usize> {
    let newest = sections.len().checked_sub(1);
    match wanted {
        Earlier::Newest => newest,
        Earlier::ThanNewest => newest?.checked_sub(1),
        Earlier::Than(id) => {
            let mark = StartMark::of(id);
            match sections.iter().position(|s| s.start == mark) {
                Some(index) => index.checked_sub(1),
                // It has written nothing yet.
                None => newest,
            }
        }
    }
}

fn of_file(dir: &Path, file: u64) -> io::Result<Vec<Section>> {
    let mut sections: Vec<Section> = Vec::new();
    each_line(&super::file(dir, file), |span, text| {
        let Some(entry) = line::parse(text) else {
            return true;
        };
        let at = |offset| LogCursor { file, offset };
        let lines = u64::from(!entry.partial);
        match sections.iter_mut().find(|s| s.start == entry.start) {
            Some(section) => {
                section.end = at(span.end);
                section.lines += lines;
            }
            None => sections.push(Section {
                start: entry.start,
                first: at(span.start),
                end: at(span.end),
                lines,
            }),
        }
        true
    })?;
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::super::super::spec::LogPolicy;
    use super::super::{LogItem, LogReader, LogStart, LogWriter, origin, stamp};
    use super::*;

    fn id(name: &str) -> ContainerId {
        ContainerId::new(name).expect("a name")
    }

    /// Each word is an entry: who wrote it, and the text.
    fn log(dir: &Path, max_files: u32, words: &[(&str, &str)]) {
        let policy = LogPolicy {
            persist: false,
            max_file_bytes: 120,
            max_files,
        };
        let mut writer = LogWriter::open(dir, policy).expect("opened");
        let mut batch = Vec::new();
        for (of, text) in words {
            let stamp = stamp::format(super::super::Timestamp(1));
            writer
                .add(&mut batch, &stamp, origin(of), false, [text.as_bytes(), b""])
                .and_then(|()| writer.flush(&mut batch))
                .expect("written");
        }
    }

    fn text(dir: &Path, section: &Section) -> Vec<String> {
        let mut reader = LogReader::open(dir, LogStart::Cursor(section.first)).expect("opened");
        let mut out = Vec::new();
        while reader.cursor() < section.end {
            match reader.try_next().expect("read").expect("not at the end") {
                LogItem::Entry(entry) if entry.start == section.start => {
                    out.push(String::from_utf8(entry.text).expect("text"));
                }
                LogItem::Entry(_) | LogItem::Gap => {}
            }
        }
        out
    }

    fn found(dir: &Path, wanted: Earlier) -> Option<Vec<String>> {
        let section = find(dir, &wanted).expect("read")?;
        let text = text(dir, &section);
        assert_eq!(section.lines, text.len() as u64);
        Some(text)
    }

    #[test]
    fn the_start_before_is_found_over_files() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path();
        assert_eq!(found(dir, Earlier::Newest), None, "there is no log");
        log(dir, 50, &[("a.1", "0"), ("a.1", "1"), ("a.1", "2")]);
        assert_eq!(found(dir, Earlier::Than(id("a.1"))), None);
        assert_eq!(found(dir, Earlier::ThanNewest), None);
        let first = Some(vec!["0".into(), "1".into(), "2".into()]);
        assert_eq!(found(dir, Earlier::Newest), first);
        assert_eq!(found(dir, Earlier::Than(id("a.2"))), first, "it is silent");
        log(dir, 50, &[("a.2", "3"), ("a.2", "4"), ("a.2", "5")]);
        assert_eq!(found(dir, Earlier::Than(id("a.2"))), first);
        assert_eq!(found(dir, Earlier::ThanNewest), first);
        assert_eq!(found(dir, Earlier::Than(id("a.1"))), None);
    }

    #[test]
    fn two_that_write_at_once_are_told_apart() {
        let dir = tempfile::tempdir().expect("a directory");
        let words = [("a.1", "old"), ("b.1", "new"), ("a.1", "older"), ("b.1", "newer")];
        log(dir.path(), 50, &words);
        let old = Some(vec!["old".into(), "older".into()]);
        assert_eq!(found(dir.path(), Earlier::Than(id("b.1"))), old);
    }

    #[test]
    fn what_has_made_room_is_not_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut words = vec![("a.1", "first")];
        words.extend(std::iter::repeat_n(("a.2", "flood"), 20));
        log(dir.path(), 2, &words);
        assert_eq!(found(dir.path(), Earlier::Than(id("a.2"))), None);
    }
}
