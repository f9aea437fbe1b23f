//! Tar on the operator's machine: packing what goes to a device, unpacking
//! what comes from one, and backups as files, compressed or not.

use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, FrameCompressor};
use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

/// How a backup is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// As the file's name says.
    pub fn of(file: &Path) -> Self {
        match file.extension().and_then(|e| e.to_str()) {
            Some("zst" | "tzst" | "zstd") => Self::Zstd,
            Some("gz" | "tgz") => Self::Gzip,
            _ => Self::None,
        }
    }
}

/// A stream on its way into a file.
pub(super) struct Compressed;

impl Compressed {
    /// Writes all of `source`; the file, with all of it.
    pub fn write(mut source: impl Read, file: File, how: Compression) -> io::Result<File> {
        match how {
            Compression::None => {
                let mut file = file;
                io::copy(&mut source, &mut file)?;
                Ok(file)
            }
            Compression::Gzip => {
                let mut encoder = GzEncoder::new(file, flate2::Compression::default());
                io::copy(&mut source, &mut encoder)?;
                encoder.finish()
            }
            Compression::Zstd => {
                let trouble = Rc::new(RefCell::new(None));
                let mut encoder = FrameCompressor::new(CompressionLevel::Fastest);
                encoder.set_source(Calm(source, trouble.clone()));
                encoder.set_drain(Calm(BufWriter::new(file), trouble.clone()));
                encoder.compress();
                let drain = encoder.take_drain();
                if let Some(error) = trouble.take() {
                    return Err(error);
                }
                let drain = drain.ok_or_else(|| io::Error::other("the encoder kept the file"))?;
                drain.0.into_inner().map_err(|error| error.into_error())
            }
        }
    }
}

/// The encoder takes no errors: the first is kept here, and it sees an end, or
/// a write that went well.
struct Calm<T>(T, Rc<RefCell<Option<io::Error>>>);

impl<R: Read> Read for Calm<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer) {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.1.borrow_mut().get_or_insert(error);
                Ok(0)
            }
        }
    }
}

impl<W: Write> Write for Calm<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.1.borrow().is_none()
            && let Err(error) = self.0.write_all(bytes)
        {
            self.1.borrow_mut().get_or_insert(error);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Packs a file, or a directory with all below it, under another name.
pub(super) fn send_tree(
    writer: impl Write,
    from: &Path,
    whole: bool,
    name: &Path,
) -> io::Result<()> {
    let mut tar = tar::Builder::new(BufWriter::with_capacity(64 * 1024, writer));
    tar.follow_symlinks(false);
    // Sockets and the like have no content to copy.
    tar.sparse(false);
    match whole {
        true => tar.append_dir_all(name, from)?,
        // The file itself, also where a link leads to it.
        false => tar.append_file(name, &mut File::open(from)?)?,
    }
    tar.into_inner()?.flush()
}

/// Unpacks what a device sent, as `target`: a directory for a tar that begins
/// with `.`, else a file. Nothing is ever written outside of it. How many
/// files it were.
pub(super) fn unpack(source: impl Read, target: &Path) -> io::Result<usize> {
    let mut archive = tar::Archive::new(source);
    archive.set_preserve_permissions(true);
    archive.set_preserve_mtime(true);
    archive.set_overwrite(true);
    let mut count = 0;
    let mut directory = false;
    // Directories last: one may refuse writes.
    let mut modes: Vec<(PathBuf, u32)> = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        if count == 0 && !directory {
            if !kind.is_dir() {
                entry.unpack(target)?;
                count = 1;
                continue;
            }
            std::fs::create_dir_all(target)?;
            directory = true;
        }
        let plain: PathBuf = path
            .components()
            .filter(|part| matches!(part, Component::Normal(_)))
            .collect();
        if kind.is_dir() {
            let dir = target.join(&plain);
            make_dirs(target, &plain)?;
            modes.push((dir, entry.header().mode()?));
            continue;
        }
        if !directory || !entry.unpack_in(target)? {
            return Err(io::Error::other(format!(
                "the device sent {}, which leads out of the copy",
                path.display()
            )));
        }
        count += 1;
    }
    drop(archive);
    for (dir, mode) in modes.into_iter().rev() {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode & 0o777));
    }
    Ok(count)
}

/// Makes the directories of a path below `target`, through no link.
fn make_dirs(target: &Path, plain: &Path) -> io::Result<()> {
    let mut dir = target.to_path_buf();
    for part in plain {
        dir.push(part);
        match std::fs::symlink_metadata(&dir) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => {
                return Err(io::Error::other(format!(
                    "{} is there and is no directory",
                    dir.display()
                )));
            }
            Err(_) => std::fs::create_dir(&dir)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_layer::Plain;

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..500_000u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        for name in ["a.tar", "a.tar.gz", "a.tar.zst"] {
            let path = dir.path().join(name);
            let file = File::create(&path).unwrap();
            Compressed::write(&bytes[..], file, Compression::of(&path)).unwrap();
            let mut back = Vec::new();
            let file = File::open(&path).unwrap();
            Plain::new(file).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{name}");
        }
        assert!(
            std::fs::metadata(dir.path().join("a.tar.zst"))
                .unwrap()
                .len()
                < 1_000_000
        );
    }

    #[test]
    fn an_error_on_the_way_is_no_backup() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("broken"))
            }
        }
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let file = tempfile::tempfile().unwrap();
            let result = Compressed::write((&b"abc"[..]).chain(Broken), file, how);
            assert_eq!(result.unwrap_err().to_string(), "broken");
        }
    }

    #[test]
    fn copies_keep_odd_names_and_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir_all(from.join("sub dir")).unwrap();
        std::fs::write(from.join("sub dir/\u{e9}\n\"x"), b"1").unwrap();
        std::fs::write(from.join("-rf"), b"2").unwrap();
        std::os::unix::fs::symlink("-rf", from.join("link")).unwrap();
        let mut bytes = Vec::new();
        send_tree(&mut bytes, &from, true, Path::new(".")).unwrap();
        let to = dir.path().join("to");
        unpack(&bytes[..], &to).unwrap();
        assert_eq!(std::fs::read(to.join("sub dir/\u{e9}\n\"x")).unwrap(), b"1");
        assert_eq!(
            std::fs::read_link(to.join("link")).unwrap(),
            Path::new("-rf")
        );

        let mut evil = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(0o755);
        header.set_size(0);
        evil.append_data(&mut header, ".", &[][..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_entry_type(tar::EntryType::Symlink);
        link.set_size(0);
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        evil.append_link(&mut link, "out", &outside).unwrap();
        let mut file = tar::Header::new_gnu();
        file.set_size(1);
        file.set_mode(0o644);
        evil.append_data(&mut file, "out/file", &b"x"[..]).unwrap();
        let bytes = evil.into_inner().unwrap();
        assert!(unpack(&bytes[..], &dir.path().join("evil")).is_err());
        assert!(!outside.join("file").exists());
    }
}
