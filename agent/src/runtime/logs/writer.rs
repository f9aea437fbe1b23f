//! The writing end of one log, used by the keeper only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::super::spec::{LogPolicy, Timestamp};
use super::line::{self, Origin};

/// Appends entries to a log's newest file and begins new files. Holds no
/// buffer of its own: the caller lends one.
#[derive(Debug)]
pub struct LogWriter {
    dir: PathBuf,
    policy: LogPolicy,
    file: Option<Current>,
}

#[derive(Debug)]
struct Current {
    file: File,
    size: u64,
}

impl LogWriter {
    /// Opens the log in `dir`, which is made when missing, and goes on where
    /// the newest file ends.
    pub fn open(dir: &Path, policy: LogPolicy) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let file = match super::files(dir)?.last() {
            Some(number) => append_to(dir, *number)?,
            None => None,
        };
        Ok(Self {
            dir: dir.to_owned(),
            policy,
            file,
        })
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on the files are bounded by `policy`.
    pub fn set_policy(&mut self, policy: LogPolicy) {
        self.policy = policy;
    }

    /// Adds one entry to `batch`, writing what is in it first when the entry
    /// belongs into a new file.
    pub fn add(
        &mut self,
        batch: &mut Vec<u8>,
        stamp: &str,
        origin: Origin,
        partial: bool,
        text: [&[u8]; 2],
    ) -> io::Result<()> {
        let before = batch.len();
        line::format(batch, stamp, origin, partial, text);
        let size = self.file.as_ref().map_or(0, |current| current.size);
        let full = size + batch.len() as u64 > self.policy.max_file_bytes;
        if full && size + before as u64 > 0 {
            let entry = batch.split_off(before);
            self.flush(batch)?;
            *batch = entry;
            self.begin_file()?;
        }
        Ok(())
    }

    /// Writes the batch and empties it, even when it cannot be written: a
    /// full disk must never stop a container.
    pub fn flush(&mut self, batch: &mut Vec<u8>) -> io::Result<()> {
        let result = self.write(batch);
        batch.clear();
        result
    }

    fn write(&mut self, batch: &[u8]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        if self.file.is_none() {
            self.begin_file()?;
        }
        let Some(current) = &mut self.file else {
            return Ok(());
        };
        match current.file.write_all(batch) {
            Ok(()) => {
                current.size += batch.len() as u64;
                Ok(())
            }
            Err(error) => {
                // Perhaps a torn line is at the end now. A new file keeps the
                // next entry apart from it.
                self.file = None;
                Err(error)
            }
        }
    }

    /// Begins a new file and deletes the oldest beyond the policy.
    fn begin_file(&mut self) -> io::Result<()> {
        self.file = None;
        let mut numbers = super::files(&self.dir)?;
        let number = numbers
            .last()
            .map_or(Timestamp::now().0, |last| last.saturating_add(1));
        let keep = self.policy.max_files.saturating_sub(1) as usize;
        let surplus = numbers.len().saturating_sub(keep);
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(super::file(&self.dir, number))?;
        self.file = Some(Current { file, size: 0 });
        for old in numbers.drain(..surplus) {
            fs::remove_file(super::file(&self.dir, old))?;
        }
        Ok(())
    }
}

/// Opens a file to go on with; `None` if a power cut left half a line at its
/// end, because then the next entry belongs into a new one.
fn append_to(dir: &Path, number: u64) -> io::Result<Option<Current>> {
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(super::file(dir, number))?;
    let size = file.metadata()?.len();
    if size > 0 {
        let mut last = [0];
        file.seek(SeekFrom::End(-1))?;
        file.read_exact(&mut last)?;
        if last != *b"\n" {
            return Ok(None);
        }
    }
    Ok(Some(Current { file, size }))
}

#[cfg(test)]
mod tests {
    use super::super::{origin, stamp};
    use super::*;

    fn write_line(writer: &mut LogWriter, text: &str) {
        let mut batch = Vec::new();
        let stamp = stamp::format(Timestamp(1));
        writer
            .add(
                &mut batch,
                &stamp,
                origin("a.1"),
                false,
                [text.as_bytes(), b""],
            )
            .and_then(|()| writer.flush(&mut batch))
            .expect("written");
    }

    #[test]
    fn files_are_bounded_and_a_torn_end_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let policy = LogPolicy {
            persist: false,
            max_file_bytes: 100,
            max_files: 2,
        };
        let mut writer = LogWriter::open(dir.path(), policy).expect("opened");
        for n in 0..10 {
            write_line(&mut writer, &format!("line {n}"));
        }
        let files = || super::super::files(dir.path()).expect("listed");
        let numbers = files();
        assert_eq!(numbers.len(), 2);
        assert_eq!(numbers[1], numbers[0] + 1, "no number is left out");
        for number in &numbers {
            let size = fs::metadata(super::super::file(dir.path(), *number))
                .expect("there")
                .len();
            assert!(size > 0 && size <= 100, "{size}");
        }
        let newest = super::super::file(dir.path(), numbers[1]);
        let text = fs::read(&newest).expect("read");
        fs::write(&newest, &text[..text.len() - 3]).expect("torn");
        writer = LogWriter::open(dir.path(), policy).expect("opened");
        write_line(&mut writer, "after the cut");
        assert_eq!(
            files(),
            [numbers[1], numbers[1] + 1],
            "a torn file is not gone on with"
        );
        writer = LogWriter::open(dir.path(), policy).expect("opened");
        write_line(&mut writer, "goes on");
        assert_eq!(files().len(), 2, "a whole file is gone on with");
    }
}
