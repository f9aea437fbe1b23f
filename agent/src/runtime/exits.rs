//! Records of how containers ended: one small file each, which survives the
//! keeper, the agent and, once synced, a power cut, until the engine has
//! committed it.
//!
//! A record is one line: `1 code 0 oom 0 at 1700000000000000000`. The first
//! field is the format's version. A file without the whole line, as a power
//! cut may leave it, is no record: so none is ever half there, and no rename is
//! needed, which would cost one more commit of the file system's journal.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::spec::{ContainerId, Exit, ExitStatus, Timestamp};

/// Longest record that is read: more is damage, not a record.
const MAX_RECORD: u64 = 256;

/// Writes the record of one end. From now on it survives this process, but not
/// yet a power cut.
pub fn write(dir: &Path, id: &ContainerId, exit: &Exit) -> io::Result<()> {
    fs::write(dir.join(id.as_str()), format(exit))
}

/// Brings records to the disk: when this returns, they survive a power cut.
/// Those that have been forgotten meanwhile are fine.
pub fn sync<'a>(dir: &Path, ids: impl Iterator<Item = &'a ContainerId>) -> io::Result<()> {
    for id in ids {
        match File::open(dir.join(id.as_str())) {
            Ok(file) => file.sync_all()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // The names. Where a file's own sync has carried its name along, as on
    // ext4, this finds nothing to do.
    File::open(dir)?.sync_all()
}

/// Removes what a power cut has left half written.
pub fn sweep(dir: &Path) -> io::Result<()> {
    for id in list(dir)? {
        if read(dir, &id).is_none() {
            forget(dir, &id)?;
        }
    }
    Ok(())
}

/// Removes the record, if it is there. Not synced: a record that comes back
/// after a power cut is told to the engine a second time, which is harmless.
pub fn forget(dir: &Path, id: &ContainerId) -> io::Result<()> {
    absent_is_fine(fs::remove_file(dir.join(id.as_str())))
}

/// The record of one container; `None` if there is none or it is damaged.
pub fn read(dir: &Path, id: &ContainerId) -> Option<Exit> {
    let path = dir.join(id.as_str());
    if fs::metadata(&path).ok()?.len() > MAX_RECORD {
        return None;
    }
    parse(&fs::read_to_string(path).ok()?)
}

/// The containers that have a record.
pub fn list(dir: &Path) -> io::Result<Vec<ContainerId>> {
    Ok(names(dir)?
        .filter_map(|name| ContainerId::new(name).ok())
        .collect())
}

/// The names in a directory that are text; none if it is not there.
pub fn names(dir: &Path) -> io::Result<impl Iterator<Item = String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => Some(entries),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(entries
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()))
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn format(exit: &Exit) -> String {
    let (how, number) = match exit.status {
        ExitStatus::Code(code) => ("code", code),
        ExitStatus::Signal(signal) => ("signal", signal),
    };
    format!(
        "1 {how} {number} oom {} at {}\n",
        u8::from(exit.oom_killed),
        exit.at.0
    )
}

fn parse(text: &str) -> Option<Exit> {
    let line = text.strip_suffix('\n')?;
    let mut words = line.split(' ');
    let mut next = || words.next();
    if next()? != "1" {
        return None;
    }
    let how = next()?;
    let number = next()?.parse().ok()?;
    let status = match how {
        "code" => ExitStatus::Code(number),
        "signal" => ExitStatus::Signal(number),
        _ => return None,
    };
    let oom_killed = match (next()?, next()?) {
        ("oom", "0") => false,
        ("oom", "1") => true,
        _ => return None,
    };
    if next()? != "at" {
        return None;
    }
    let at = Timestamp(next()?.parse().ok()?);
    Some(Exit {
        status,
        oom_killed,
        at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_back_listed_and_forgotten() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = ContainerId::new("web-1").expect("valid");
        let exit = Exit {
            status: ExitStatus::Code(-1),
            oom_killed: true,
            at: Timestamp(9),
        };
        assert_eq!(read(dir.path(), &id), None);
        write(dir.path(), &id, &exit).expect("written");
        let gone = ContainerId::new("gone").expect("valid");
        sync(dir.path(), [&id, &gone].into_iter()).expect("synced");
        assert_eq!(read(dir.path(), &id), Some(exit));
        assert_eq!(list(dir.path()).expect("listed"), vec![id.clone()]);
        forget(dir.path(), &id).expect("forgotten");
        forget(dir.path(), &id).expect("forgotten twice");
        assert_eq!(read(dir.path(), &id), None);
        assert_eq!(list(&dir.path().join("absent")).expect("listed"), vec![]);
    }

    #[test]
    fn half_a_record_is_swept_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let exit = Exit {
            status: ExitStatus::Signal(9),
            oom_killed: false,
            at: Timestamp(12),
        };
        let [whole, half] = ["whole", "half"].map(|name| ContainerId::new(name).expect("valid"));
        write(dir.path(), &whole, &exit).expect("written");
        fs::write(dir.path().join("half"), "1 signal 9 oo").expect("written");
        assert_eq!(read(dir.path(), &half), None);
        sweep(dir.path()).expect("swept");
        assert_eq!(list(dir.path()).expect("listed"), vec![whole]);
    }

    #[test]
    fn damage_is_no_record() {
        let good = "1 signal 9 oom 0 at 12\n";
        assert!(parse(good).is_some());
        for cut in 0..good.len() {
            assert_eq!(parse(&good[..cut]), None, "cut at {cut}");
        }
        for bad in [
            "2 code 0 oom 0 at 1\n",
            "1 code x oom 0 at 1\n",
            "1 code 0 oom 2 at 1\n",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
