//! From a volume to a tar stream.

use super::CHUNK;
use super::error::{Result, VolumeTarError, at};
use crate::openat2::{open_in_root, open_without_links, way_to};
use nix::fcntl::OFlag;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes that headers and contents are padded to.
const BLOCK: usize = 512;

/// Packs what is at `path` in `root`: a directory as `.` and what is below it,
/// a file under its own name.
pub fn pack(root: &File, path: &Path, out: &mut impl Write) -> Result<()> {
    let cannot = "cannot read";
    let start = open_in_root(root, path, OFlag::O_PATH).map_err(at(cannot, path))?;
    let meta = start.metadata().map_err(at(cannot, path))?;
    let mut links = BTreeMap::new();
    if meta.is_dir() {
        pack_dir(&start, &meta, &mut links, out)?;
    } else {
        let name = path.file_name().unwrap_or(OsStr::new("file"));
        let Some(file) = read_again(&start).map_err(at(cannot, path))? else {
            return Err(VolumeTarError::Refused {
                what: "neither a file nor a directory",
                path: path.to_path_buf(),
            });
        };
        header(out, Path::new(name), b'0', &meta, meta.len(), None)?;
        content(&file, meta.len(), out)?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(out.flush()?)
}

/// Without recursion: volumes may be as deep as they like.
fn pack_dir(
    root: &File,
    meta: &fs::Metadata,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
    out: &mut impl Write,
) -> Result<()> {
    header(out, Path::new("./"), b'5', meta, 0, None)?;
    let mut ahead = vec![PathBuf::new()];
    while let Some(dir) = ahead.pop() {
        let open = match open_without_links(root, &dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(open) => open,
            // An app removed it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(at("cannot read", &dir)(error)),
        };
        let entries = fs::read_dir(way_to(&open)).map_err(at("cannot read", &dir))?;
        let mut names: Vec<OsString> = entries
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()
            .map_err(at("cannot read", &dir))?;
        names.sort();
        for name in names {
            let inside = dir.join(&name);
            match pack_entry(&open, &name, &inside, links, out) {
                Ok(true) => ahead.push(inside),
                Ok(false) => {}
                Err(VolumeTarError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Packs one entry; whether it is a directory, whose content follows.
fn pack_entry(
    dir: &File,
    name: &OsStr,
    inside: &Path,
    links: &mut BTreeMap<(u64, u64), PathBuf>,
    out: &mut impl Write,
) -> Result<bool> {
    let cannot = "cannot read";
    let path = way_to(dir).join(name);
    let meta = fs::symlink_metadata(&path).map_err(at(cannot, inside))?;
    let kind = meta.file_type();
    let shown = Path::new(".").join(inside);
    if kind.is_dir() {
        let mut with_slash = shown.into_os_string();
        with_slash.push("/");
        header(out, Path::new(&with_slash), b'5', &meta, 0, None)?;
        return Ok(true);
    }
    if kind.is_symlink() {
        let target = fs::read_link(&path).map_err(at(cannot, inside))?;
        header(out, &shown, b'2', &meta, 0, Some(&target))?;
        return Ok(false);
    }
    if kind.is_fifo() {
        header(out, &shown, b'6', &meta, 0, None)?;
        return Ok(false);
    }
    if !kind.is_file() {
        // A socket means nothing without its program; a device is not kept.
        return Ok(false);
    }
    let key = (meta.dev(), meta.ino());
    if let Some(first) = links.get(&key) {
        header(out, &shown, b'1', &meta, 0, Some(first))?;
        return Ok(false);
    }
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
    let found = open_without_links(dir, Path::new(name), flags).map_err(at(cannot, inside))?;
    // Of what was opened: an app may have put another one there.
    let Some(file) = read_again(&found).map_err(at(cannot, inside))? else {
        return Ok(false);
    };
    let meta = file.metadata().map_err(at(cannot, inside))?;
    header(out, &shown, b'0', &meta, meta.len(), None)?;
    content(&file, meta.len(), out)?;
    if meta.nlink() > 1 {
        links.insert((meta.dev(), meta.ino()), shown);
    }
    Ok(false)
}

/// Opens a file (`O_PATH`) for reading, if it is one. A device would be opened
/// by the host's root, whatever rules hold its app: a watchdog begins to count
/// by that alone, a serial line changes its signals.
fn read_again(found: &File) -> io::Result<Option<File>> {
    match found.metadata()?.is_file() {
        true => File::open(way_to(found)).map(Some),
        false => Ok(None),
    }
}

/// So many bytes: zeros where the file became shorter meanwhile.
fn content(file: &File, length: u64, out: &mut impl Write) -> Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = length;
    let mut reader = file.take(length);
    while left > 0 {
        let room = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
        let count = match reader.read(&mut buffer[..room]) {
            Ok(0) => {
                buffer[..room].fill(0);
                room
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(at("cannot read", Path::new("a file"))(error)),
        };
        out.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    let over = usize::try_from(length % BLOCK as u64).unwrap_or(0);
    if over > 0 {
        out.write_all(&[0; BLOCK][..BLOCK - over])?;
    }
    Ok(())
}

/// A header, with a PAX one before it for what does not fit (POSIX.1-2001,
/// `pax`, "Interchange Format").
fn header(
    out: &mut impl Write,
    path: &Path,
    kind: u8,
    meta: &fs::Metadata,
    size: u64,
    link: Option<&Path>,
) -> Result<()> {
    let path = path.as_os_str().as_bytes();
    let link = link.map_or(&b""[..], |link| link.as_os_str().as_bytes());
    let mut records = Vec::new();
    // The records are the truth for every name that is not plain and short:
    // readers disagree about the bytes of a header.
    let plain = |text: &[u8]| text.len() < 100 && text.is_ascii();
    if !plain(path) {
        record(&mut records, "path", path);
    }
    if !plain(link) {
        record(&mut records, "linkpath", link);
    }
    if size >= 1 << 33 {
        record(&mut records, "size", size.to_string().as_bytes());
    }
    for (name, id) in [("uid", meta.uid()), ("gid", meta.gid())] {
        if id >= 1 << 21 {
            record(&mut records, name, id.to_string().as_bytes());
        }
    }
    if meta.mtime() < 0 || meta.mtime_nsec() != 0 {
        let whole = meta.mtime();
        let text = match (whole < 0, meta.mtime_nsec()) {
            (_, 0) | (true, _) => whole.to_string(),
            (false, nanos) => format!("{whole}.{nanos:09}"),
        };
        record(&mut records, "mtime", text.as_bytes());
    }
    if !records.is_empty() {
        let numbers = Numbers {
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: records.len() as u64,
            mtime: 0,
        };
        out.write_all(&block(b"././@PaxHeader", b'x', &numbers, b""))?;
        out.write_all(&records)?;
        let over = records.len() % BLOCK;
        if over > 0 {
            out.write_all(&[0; BLOCK][..BLOCK - over])?;
        }
    }
    let numbers = Numbers {
        mode: meta.mode() & 0o7777,
        uid: meta.uid().min((1 << 21) - 1),
        gid: meta.gid().min((1 << 21) - 1),
        size: size.min((1 << 33) - 1),
        mtime: meta.mtime().clamp(0, (1 << 33) - 1) as u64,
    };
    Ok(out.write_all(&block(path, kind, &numbers, link))?)
}

/// `length key=value\n`, the length with itself.
fn record(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend(format!("{length} {key}=").as_bytes());
    out.extend(value);
    out.push(b'\n');
}

struct Numbers {
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: u64,
}

fn block(path: &[u8], kind: u8, numbers: &Numbers, link: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8], room: usize| {
        let bytes = &bytes[..bytes.len().min(room)];
        block[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(0, path, 100);
    put(100, format!("{:07o}", numbers.mode).as_bytes(), 8);
    put(108, format!("{:07o}", numbers.uid).as_bytes(), 8);
    put(116, format!("{:07o}", numbers.gid).as_bytes(), 8);
    put(124, format!("{:011o}", numbers.size).as_bytes(), 12);
    put(136, format!("{:011o}", numbers.mtime).as_bytes(), 12);
    put(148, b"        ", 8);
    put(156, &[kind], 1);
    put(157, link, 100);
    put(257, b"ustar\x0000", 8);
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}
