//! Headers, one after the other, and the content between them.

use super::entry::{BLOCK, Entry, Kind, MAX_EXTENSION_BYTES, MAX_SPARSE_PARTS, Part, TarError};
use super::number::{decimal, header_time, number};
use super::pax::{Pax, SparseMap, check_parts};
use std::io::{self, Read};

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

    /// Leaves the current entry. A stream may end right behind its last
    /// content: some tools leave the padding out, and others read that.
    fn skip_content(&mut self) -> Result<(), TarError> {
        let (content, padding) = (self.content, self.padding);
        (self.content, self.padding) = (0, 0);
        if self.skip(content)? < content {
            return Err(TarError::Truncated);
        }
        match self.skip(padding)? {
            skipped if skipped == padding || skipped == 0 => Ok(()),
            _ => Err(TarError::Truncated),
        }
    }

    /// Passes over `count` bytes, or over what is left.
    fn skip(&mut self, count: u64) -> Result<u64, TarError> {
        let skipped = io::copy(&mut self.inner.by_ref().take(count), &mut io::sink())?;
        self.position = self.position.saturating_add(skipped);
        Ok(skipped)
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
            0 if path.ends_with(b"/") => Kind::Directory,
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
