//! Members of an archive: what their names may be, and how long their headers.

use skerry_wire::Digest;
use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

/// Bytes that the headers before one member may have: long names, PAX.
pub(super) const MAX_HEADER_BYTES: u64 = 1 << 20;

/// `blobs/sha256/<hex>` as a digest.
pub(super) fn blob_name(name: &str) -> Option<Digest> {
    format!("sha256:{}", name.strip_prefix("blobs/sha256/")?)
        .parse()
        .ok()
}

/// A member's name without `.` parts and leading slashes.
pub(super) fn clean(name: &[u8]) -> Result<String, &'static str> {
    let text = std::str::from_utf8(name).map_err(|_| "has a name that is not UTF-8")?;
    let mut parts = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => return Err("has '..' in its name"),
            _ => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// What a link member means; it may go up, but not out of the archive.
pub(super) fn link_target(name: &str, target: &[u8], hard: bool) -> Result<String, &'static str> {
    let target =
        std::str::from_utf8(target).map_err(|_| "is a link to a name that is not UTF-8")?;
    let mut parts: Vec<&str> = match hard || target.starts_with('/') {
        true => Vec::new(),
        false => name.split('/').collect(),
    };
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts
                    .pop()
                    .ok_or("is a link that leads out of the archive")?;
            }
            _ => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

/// Stops a reader that was given a budget and spent it: the crate `tar` reads
/// long names and PAX headers of any size into memory.
pub(super) struct Budgeted<R> {
    pub(super) inner: R,
    pub(super) left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Budgeted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.get() == 0 && !buffer.is_empty() {
            return Err(io::Error::other("a member's header is longer than 1 MiB"));
        }
        let room = buffer
            .len()
            .min(usize::try_from(self.left.get()).unwrap_or(usize::MAX));
        let count = self.inner.read(&mut buffer[..room])?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}
