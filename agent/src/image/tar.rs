//! A reader for tar streams: one entry after the other, everything bounded.
//!
//! The formats are those of layers: ustar and PAX (POSIX.1-2001, `pax`,
//! "Interchange Format"), GNU's long names, base-256 numbers and sparse files
//! (GNU tar manual, "Standard Format", "Sparse Formats"), and V7. Where parsers
//! disagree this one reads as Go's `archive/tar` does, and so as containerd,
//! umoci and Docker do: PAX records win over the header, GNU long names over
//! both, links and directories have no content whatever their size field says,
//! global PAX headers are skipped, and the first block of zeros is the end.
//! Unlike the crate `tar` it takes PAX values that hold line breaks, as file
//! capabilities do.

use std::io::{self, Read};

const BLOCK: usize = 512;

/// Longest PAX header or long name, in bytes; as in Go.
pub const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Most stretches of data in one sparse file.
pub const MAX_SPARSE_PARTS: usize = 1 << 16;

/// Why a stream is not a tar that can be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes below could not be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It ends inside an entry.
    #[error("it ends in the middle of an entry")]
    Truncated,
    /// The header's checksum is wrong.
    #[error("it is not a tar: the header at byte {0} has a wrong checksum")]
    Checksum(u64),
    /// A number in a header or PAX record is malformed or out of range.
    #[error("its header field '{0}' is not a valid number")]
    Number(&'static str),
    /// A PAX header is malformed.
    #[error("it has a malformed PAX header: {0}")]
    Pax(&'static str),
    /// A PAX header or long name over [`MAX_EXTENSION_BYTES`].
    #[error("it has a name or PAX header of {0} bytes, at most 1 MiB is allowed")]
    Extension(u64),
    /// A sparse file's map is malformed.
    #[error("it has a sparse file with a malformed map: {0}")]
    Sparse(&'static str),
    /// An entry of a type that layers do not have.
    #[error("it has an entry of the unknown type '{}'", char::from(*.0).escape_default())]
    Type(u8),
}

/// A point in time as files have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds, below 10^9.
    pub nanos: u32,
}

/// A stretch of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file. Its stretches of data follow each other in [`Reader::read`].
    File {
        /// In order and apart; one for a file that is not sparse.
        parts: Vec<Part>,
        /// The file's length.
        length: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this text.
    Symlink(Vec<u8>),
    /// Another name of this path.
    HardLink(Vec<u8>),
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry's header. Texts are bytes as they stand in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it belongs.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last change.
    pub mtime: Time,
    /// Extended attributes (`SCHILY.xattr.` records).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads entries from `inner`, which should be buffered.
pub struct Reader<R> {
    inner: R,
    position: u64,
    /// Content of the current entry that was not read yet.
    content: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Starts at the first header.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            position: 0,
            content: 0,
            padding: 0,
            ended: false,
        }
    }

    /// What remains after the end, to be read by who needs all bytes.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry; what is left of the one before is skipped.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax: Option<Pax> = None;
        let mut long_path: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                let dangling = pax.is_some() || long_path.is_some() || long_link.is_some();
                return if dangling {
                    Err(TarError::Truncated)
                } else {
                    Ok(None)
                };
            };
            let size = number("size", &header[124..136])?;
            match header[156] {
                b'x' if pax.is_none() => pax = Some(Pax::parse(&self.extension(size)?)?),
                b'x' => return Err(TarError::Pax("two of them for one entry")),
                b'L' => long_path = Some(until_nul(self.extension(size)?)),
                b'K' => long_link = Some(until_nul(self.extension(size)?)),
                b'g' => drop(self.extension(size)?),
                _ => {
                    let pax = pax.unwrap_or_default();
                    return self
                        .entry(&header, size, pax, long_path, long_link)
                        .map(Some);
                }
            }
        }
    }

    /// Reads content of the current entry; 0 at its end.
    pub fn read(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let room = buffer
            .len()
            .min(usize::try_from(self.content).unwrap_or(usize::MAX));
        if room == 0 {
            return Ok(0);
        }
        let count = read_some(&mut self.inner, &mut buffer[..room])?;
        if count == 0 {
            return Err(TarError::Truncated);
        }
        self.content -= count as u64;
        self.position += count as u64;
        Ok(count)
    }

    fn read_exact(&mut self, mut buffer: &mut [u8]) -> Result<(), TarError> {
        while !buffer.is_empty() {
            match self.read(buffer)? {
                0 => return Err(TarError::Truncated),
                count => buffer = &mut buffer[count..],
            }
        }
        Ok(())
    }

    fn skip_content(&mut self) -> Result<(), TarError> {
        let left = self
            .content
            .checked_add(self.padding)
            .ok_or(TarError::Number("size"))?;
        (self.content, self.padding) = (0, 0);
        let skipped = io::copy(&mut self.inner.by_ref().take(left), &mut io::sink())?;
        self.position = self.position.saturating_add(skipped);
        if skipped < left {
            Err(TarError::Truncated)
        } else {
            Ok(())
        }
    }

    /// The next header block with a right checksum; `None` at the end.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        if self.ended {
            return Ok(None);
        }
        let start = self.position;
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match read_some(&mut self.inner, &mut block[filled..])? {
                0 if filled == 0 => break,
                0 => return Err(TarError::Truncated),
                count => filled += count,
            }
        }
        self.position += filled as u64;
        if block.iter().all(|b| *b == 0) {
            self.ended = true;
            return Ok(None);
        }
        let byte = |at: usize| {
            if (148..156).contains(&at) {
                b' '
            } else {
                block[at]
            }
        };
        let unsigned: u64 = (0..BLOCK).map(|at| u64::from(byte(at))).sum();
        // Some old tools summed signed bytes.
        let signed: i64 = (0..BLOCK).map(|at| i64::from(byte(at) as i8)).sum();
        let stated = number("checksum", &block[148..156])?;
        if stated != unsigned && i64::try_from(stated) != Ok(signed) {
            return Err(TarError::Checksum(start));
        }
        Ok(Some(block))
    }

    fn start_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION_BYTES {
            return Err(TarError::Extension(size));
        }
        self.start_content(size);
        let mut bytes = vec![0; size as usize];
        self.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &[u8; BLOCK],
        size: u64,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let path = long_path
            .or(pax.path)
            .unwrap_or_else(|| header_path(header));
        let link = long_link
            .or(pax.link)
            .unwrap_or_else(|| text(&header[157..257]));
        let size = pax.size.unwrap_or(size);
        let device = || -> Result<(u32, u32), TarError> {
            let part = |name, range| {
                u32::try_from(number(name, range)?).map_err(|_| TarError::Number(name))
            };
            Ok((
                part("devmajor", &header[329..337])?,
                part("devminor", &header[337..345])?,
            ))
        };
        let kind = match header[156] {
            // V7 had no type for directories but a slash at the end.
            0 | b'0' if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' => {
                self.start_content(size);
                match pax.sparse.map(size)? {
                    SparseMap::None => Kind::File {
                        parts: vec![Part {
                            offset: 0,
                            length: size,
                        }],
                        length: size,
                    },
                    SparseMap::Given { parts, length } => Kind::File { parts, length },
                    SparseMap::InContent { length } => {
                        let parts = self.content_map()?;
                        check_parts(&parts, length, self.content)?;
                        Kind::File { parts, length }
                    }
                }
            }
            b'S' => self.gnu_sparse(header, size)?,
            b'1' => Kind::HardLink(link),
            b'2' => Kind::Symlink(link),
            b'3' => device().map(|(major, minor)| Kind::Character(major, minor))?,
            b'4' => device().map(|(major, minor)| Kind::Block(major, minor))?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => return Err(TarError::Type(other)),
        };
        Ok(Entry {
            path: pax.sparse_name.unwrap_or(path),
            kind,
            mode: (number("mode", &header[100..108])? & 0o7777) as u32,
            uid: pax
                .uid
                .map_or_else(|| number("uid", &header[108..116]), Ok)?,
            gid: pax
                .gid
                .map_or_else(|| number("gid", &header[116..124]), Ok)?,
            mtime: pax
                .mtime
                .map_or_else(|| header_time(&header[136..148]), Ok)?,
            xattrs: pax.xattrs,
        })
    }

    /// GNU's old sparse format: four parts in the header, more in blocks after.
    fn gnu_sparse(&mut self, header: &[u8; BLOCK], size: u64) -> Result<Kind, TarError> {
        let mut parts = Vec::new();
        let mut take = |bytes: &[u8]| -> Result<(), TarError> {
            for pair in bytes.chunks_exact(24) {
                // An empty field ends the list.
                if pair[0] == 0 || pair[12] == 0 {
                    break;
                }
                parts.push(Part {
                    offset: number("sparse offset", &pair[..12])?,
                    length: number("sparse length", &pair[12..])?,
                });
            }
            if parts.len() > MAX_SPARSE_PARTS {
                return Err(TarError::Sparse("too many parts"));
            }
            Ok(())
        };
        take(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.inner
                .read_exact(&mut block)
                .map_err(|e| match e.kind() {
                    io::ErrorKind::UnexpectedEof => TarError::Truncated,
                    _ => TarError::Read(e),
                })?;
            self.position += BLOCK as u64;
            take(&block[..504])?;
            more = block[504] != 0;
        }
        let length = number("realsize", &header[483..495])?;
        check_parts(&parts, length, size)?;
        self.start_content(size);
        Ok(Kind::File { parts, length })
    }

    /// PAX sparse 1.0: the map stands before the data, as decimal lines padded
    /// to a block.
    fn content_map(&mut self) -> Result<Vec<Part>, TarError> {
        let mut lines = Lines {
            block: [0; BLOCK],
            at: BLOCK,
        };
        let count = lines.number(self)?;
        if count > MAX_SPARSE_PARTS as u64 {
            return Err(TarError::Sparse("too many parts"));
        }
        let mut parts = Vec::new();
        for _ in 0..count {
            parts.push(Part {
                offset: lines.number(self)?,
                length: lines.number(self)?,
            });
        }
        Ok(parts)
    }
}

struct Lines {
    block: [u8; BLOCK],
    at: usize,
}

impl Lines {
    fn number<R: Read>(&mut self, reader: &mut Reader<R>) -> Result<u64, TarError> {
        let mut digits = Vec::new();
        loop {
            if self.at == BLOCK {
                reader.read_exact(&mut self.block)?;
                self.at = 0;
            }
            let byte = self.block[self.at];
            self.at += 1;
            match byte {
                b'\n' => return decimal(&digits).ok_or(TarError::Sparse("not a number")),
                _ if digits.len() < 20 => digits.push(byte),
                _ => return Err(TarError::Sparse("not a number")),
            }
        }
    }
}

/// The parts must be in order, apart, inside the file, and fill the content.
fn check_parts(parts: &[Part], length: u64, content: u64) -> Result<(), TarError> {
    let mut end = 0;
    let mut sum: u64 = 0;
    for part in parts {
        let part_end = part
            .offset
            .checked_add(part.length)
            .ok_or(TarError::Sparse("too large"))?;
        if part.offset < end || part_end > length {
            return Err(TarError::Sparse("parts overlap or pass the end"));
        }
        end = part_end;
        sum = sum
            .checked_add(part.length)
            .ok_or(TarError::Sparse("too large"))?;
    }
    if sum != content {
        return Err(TarError::Sparse("parts and content differ in size"));
    }
    Ok(())
}

/// The records of a PAX header that matter here.
#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Sparse,
    sparse_name: Option<Vec<u8>>,
}

#[derive(Default)]
struct Sparse {
    major: Option<u64>,
    real_size: Option<u64>,
    numbers: Vec<u64>,
    mapped: bool,
}

enum SparseMap {
    None,
    Given { parts: Vec<Part>, length: u64 },
    InContent { length: u64 },
}

impl Sparse {
    fn map(self, content: u64) -> Result<SparseMap, TarError> {
        let length = self
            .real_size
            .ok_or(TarError::Sparse("the file's size is missing"));
        match (self.major, self.mapped) {
            (Some(1), _) => Ok(SparseMap::InContent { length: length? }),
            (_, true) => {
                if self.numbers.len() % 2 != 0 || self.numbers.len() > 2 * MAX_SPARSE_PARTS {
                    return Err(TarError::Sparse("an odd or too large number of entries"));
                }
                let part = |pair: &[u64]| Part {
                    offset: pair[0],
                    length: pair[1],
                };
                let parts: Vec<Part> = self.numbers.chunks_exact(2).map(part).collect();
                let length = length?;
                check_parts(&parts, length, content)?;
                Ok(SparseMap::Given { parts, length })
            }
            (None | Some(0), false) => Ok(SparseMap::None),
            (Some(_), false) => Err(TarError::Sparse("an unknown version")),
        }
    }
}

impl Pax {
    fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let malformed = TarError::Pax("a record is malformed");
            let Some(space) = bytes.iter().take(20).position(|b| *b == b' ') else {
                return Err(malformed);
            };
            let length = decimal(&bytes[..space]).and_then(|n| usize::try_from(n).ok());
            let Some(length) = length.filter(|n| (space + 2..=bytes.len()).contains(n)) else {
                return Err(malformed);
            };
            let (record, rest) = bytes.split_at(length);
            let Some(record) = record[space + 1..].strip_suffix(b"\n") else {
                return Err(malformed);
            };
            let Some(equals) = record.iter().position(|b| *b == b'=') else {
                return Err(malformed);
            };
            pax.take(&record[..equals], &record[equals + 1..])?;
            bytes = rest;
        }
        Ok(pax)
    }

    /// Later records win; an empty value takes an earlier one back.
    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), TarError> {
        let whole = |name: &'static str| match value {
            [] => Ok(None),
            digits => decimal(digits).map(Some).ok_or(TarError::Number(name)),
        };
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link = bytes(),
            b"size" => self.size = whole("size")?,
            b"uid" => self.uid = whole("uid")?,
            b"gid" => self.gid = whole("gid")?,
            b"mtime" if value.is_empty() => self.mtime = None,
            b"mtime" => self.mtime = Some(pax_time(value).ok_or(TarError::Number("mtime"))?),
            b"GNU.sparse.major" => self.sparse.major = whole("GNU.sparse.major")?,
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = whole("GNU.sparse.size")?;
            }
            b"GNU.sparse.name" => self.sparse_name = bytes(),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.sparse.mapped = true;
                self.sparse
                    .numbers
                    .push(decimal(value).ok_or(TarError::Number("GNU.sparse.offset"))?);
            }
            b"GNU.sparse.map" => {
                self.sparse.mapped = true;
                for digits in value.split(|b| *b == b',').filter(|part| !part.is_empty()) {
                    self.sparse
                        .numbers
                        .push(decimal(digits).ok_or(TarError::Number("GNU.sparse.map"))?);
                }
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(known, _)| known != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match source.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    bytes
}

fn text(field: &[u8]) -> Vec<u8> {
    until_nul(field.to_vec())
}

fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = text(&header[..100]);
    // Only POSIX headers have a prefix; GNU keeps other things there.
    let prefix = match &header[257..263] {
        b"ustar\0" => text(&header[345..500]),
        _ => Vec::new(),
    };
    if prefix.is_empty() {
        name
    } else {
        [prefix, name].join(&b'/')
    }
}

fn header_time(field: &[u8]) -> Result<Time, TarError> {
    // Base-256 and negative: before 1970.
    if field[0] == 0xff {
        let tail: [u8; 8] = field[4..12].try_into().expect("eight bytes");
        return Ok(Time {
            seconds: i64::from_be_bytes(tail),
            nanos: 0,
        });
    }
    let seconds = i64::try_from(number("mtime", field)?).map_err(|_| TarError::Number("mtime"))?;
    Ok(Time { seconds, nanos: 0 })
}

/// A header's number: octal text, or big-endian with the top bit set.
fn number(name: &'static str, field: &[u8]) -> Result<u64, TarError> {
    let wrong = TarError::Number(name);
    if field[0] & 0x80 != 0 {
        if field[0] & 0x40 != 0 {
            return Err(wrong); // Negative.
        }
        let mut value = u64::from(field[0] & 0x3f);
        for byte in &field[1..] {
            if value >> 56 != 0 {
                return Err(wrong);
            }
            value = value << 8 | u64::from(*byte);
        }
        return Ok(value);
    }
    let blank = |b: &u8| matches!(b, b' ' | 0);
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = &field[start..];
    let end = digits.iter().position(blank).unwrap_or(digits.len());
    let mut value: u64 = 0;
    for digit in &digits[..end] {
        if !(b'0'..=b'7').contains(digit) || value >> 61 != 0 {
            return Err(wrong);
        }
        value = value << 3 | u64::from(digit - b'0');
    }
    Ok(value)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `[-]seconds[.fraction]`.
fn pax_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let mut halves = value.splitn(2, |b| *b == b'.');
    let seconds = i64::try_from(decimal(halves.next()?)?).ok()?;
    let fraction = halves.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |at: usize| fraction.get(at).map_or(0, |b| u32::from(b - b'0'));
    let nanos = (0..9).fold(0, |sum, at| sum * 10 + digit(at));
    Some(match (negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: -seconds,
            nanos,
        },
        (true, _) => Time {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(bytes: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
        let mut reader = Reader::new(bytes);
        let mut out = Vec::new();
        while let Some(entry) = reader.next_entry()? {
            let mut content = Vec::new();
            let mut buffer = [0; 700];
            loop {
                match reader.read(&mut buffer)? {
                    0 => break,
                    count => content.extend_from_slice(&buffer[..count]),
                }
            }
            out.push((entry, content));
        }
        Ok(out)
    }

    fn builder() -> ::tar::Builder<Vec<u8>> {
        ::tar::Builder::new(Vec::new())
    }

    fn file(path: &str, bytes: &[u8], pax: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = builder();
        builder.append_pax_extensions(pax.iter().copied()).unwrap();
        let mut header = ::tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o4755);
        header.set_uid(7);
        header.set_mtime(1234);
        builder.append_data(&mut header, path, bytes).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn pax_records_win_over_the_header() {
        let cap: &[u8] = b"\x01\x00\x00\x02\x0a\x00=\n\x00";
        let pax: &[(&str, &[u8])] = &[
            ("path", b"caf\xc3\xa9/\nx"),
            ("uid", b"4000000000"),
            ("mtime", b"-1.25"),
            ("SCHILY.xattr.security.capability", cap),
        ];
        let entries = all(&file("short", b"hello", pax)).unwrap();
        let (entry, content) = &entries[0];
        assert_eq!(content, b"hello");
        assert_eq!(entry.path, "caf\u{e9}/\nx".as_bytes());
        assert_eq!(
            (entry.mode, entry.uid, entry.gid),
            (0o4755, 4_000_000_000, 0)
        );
        assert_eq!(
            entry.mtime,
            Time {
                seconds: -2,
                nanos: 750_000_000
            }
        );
        assert_eq!(
            entry.xattrs,
            [(b"security.capability".to_vec(), cap.to_vec())]
        );
    }

    #[test]
    fn a_pax_size_is_the_size() {
        // The header says 5, PAX says 3: the rest of the block is padding.
        let entries = all(&file("a", b"hello", &[("size", b"3")])).unwrap();
        assert_eq!(entries[0].1, b"hel");
        // PAX says more than there is.
        assert!(matches!(
            all(&file("a", b"hello", &[("size", b"99999")])),
            Err(TarError::Truncated)
        ));
        for wrong in ["-1", "1e3", "99999999999999999999999"] {
            let error = all(&file("a", b"", &[("size", wrong.as_bytes())])).unwrap_err();
            assert!(matches!(error, TarError::Number("size")), "{error}");
        }
    }

    #[test]
    fn long_names_of_both_kinds() {
        let long = "d/".repeat(200) + "end";
        let mut gnu = builder();
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::Symlink);
        header.set_size(0);
        gnu.append_link(&mut header, &long, &long).unwrap();
        let entries = all(&gnu.into_inner().unwrap()).unwrap();
        assert_eq!(entries[0].0.path, long.as_bytes());
        assert_eq!(entries[0].0.kind, Kind::Symlink(long.clone().into_bytes()));
        let entries = all(&file("x", b"", &[("path", long.as_bytes())])).unwrap();
        assert_eq!(entries[0].0.path, long.as_bytes());
    }

    #[test]
    fn every_sparse_form() {
        let sparse =
            |pax: &[(&str, &[u8])], content: &[u8]| all(&file("GNUSparseFile.0/f", content, pax));
        let expected = Kind::File {
            parts: vec![
                Part {
                    offset: 512,
                    length: 3,
                },
                Part {
                    offset: 1024,
                    length: 2,
                },
            ],
            length: 2000,
        };
        let v0: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"2000"),
            ("GNU.sparse.offset", b"512"),
            ("GNU.sparse.numbytes", b"3"),
            ("GNU.sparse.offset", b"1024"),
            ("GNU.sparse.numbytes", b"2"),
        ];
        let v01: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"2000"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.map", b"512,3,1024,2"),
        ];
        for pax in [v0, v01] {
            let entries = sparse(pax, b"abcde").unwrap();
            assert_eq!(
                (&entries[0].0.kind, entries[0].1.as_slice()),
                (&expected, b"abcde".as_slice())
            );
        }
        let v1: &[(&str, &[u8])] = &[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"f"),
            ("GNU.sparse.realsize", b"2000"),
        ];
        let mut content = b"2\n512\n3\n1024\n2\n".to_vec();
        content.resize(512, 0);
        content.extend_from_slice(b"abcde");
        let entries = sparse(v1, &content).unwrap();
        assert_eq!(
            (&entries[0].0.kind, entries[0].1.as_slice()),
            (&expected, b"abcde".as_slice())
        );
        assert_eq!(entries[0].0.path, b"f");
        let overlapping: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"2000"),
            ("GNU.sparse.map", b"512,3,513,2"),
        ];
        assert!(matches!(
            sparse(overlapping, b"abcde"),
            Err(TarError::Sparse(_))
        ));
        let endless: &[(&str, &[u8])] = &[
            ("GNU.sparse.size", b"9"),
            ("GNU.sparse.map", b"18446744073709551615,5"),
        ];
        assert!(matches!(
            sparse(endless, b"abcde"),
            Err(TarError::Sparse(_))
        ));
    }

    #[test]
    fn extensions_are_bounded_before_they_are_read() {
        let mut header = ::tar::Header::new_gnu();
        header.set_entry_type(::tar::EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let error = all(header.as_bytes()).unwrap_err();
        assert!(matches!(error, TarError::Extension(_)), "{error}");
    }

    #[test]
    fn noise_is_not_a_tar() {
        assert!(matches!(
            all(&[b'x'; 512]),
            Err(TarError::Number(_) | TarError::Checksum(0))
        ));
        assert!(matches!(all(&[b'7'; 512]), Err(TarError::Checksum(0))));
        assert!(matches!(all(b"short"), Err(TarError::Truncated)));
        assert!(all(b"").unwrap().is_empty());
    }

    proptest! {
        /// Whatever is wrong with a tar, reading it ends and does not panic.
        #[test]
        fn any_damage_is_survived(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
            fix in any::<bool>(),
        ) {
            let pax: &[(&str, &[u8])] = &[("path", b"p"), ("GNU.sparse.map", b"0,3"), ("GNU.sparse.size", b"3")];
            let mut bytes = [file("a", b"abc", pax), file("b/c", &[7; 600], &[])].concat();
            for (at, value) in flips {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if fix {
                // Right checksums let damaged headers get further.
                for block in bytes.chunks_exact_mut(512) {
                    if block[257..262] == *b"ustar" {
                        block[148..156].fill(b' ');
                        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
                        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                    }
                }
            }
            let _ = all(&bytes);
        }

        /// Undamaged ones are read as the crate `tar` reads them.
        #[test]
        fn agrees_with_the_crate(
            files in proptest::collection::vec(("[a-z]{1,90}(/[a-z]{1,60}){0,4}", proptest::collection::vec(any::<u8>(), 0..1500)), 0..6)
        ) {
            let mut builder = builder();
            for (path, bytes) in &files {
                let mut header = ::tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                builder.append_data(&mut header, path, bytes.as_slice()).unwrap();
            }
            let ours = all(&builder.into_inner().unwrap()).unwrap();
            prop_assert_eq!(ours.len(), files.len());
            for ((entry, content), (path, bytes)) in ours.iter().zip(&files) {
                prop_assert_eq!(&entry.path, path.as_bytes());
                prop_assert_eq!(content, bytes);
            }
        }
    }
}
