//! PAX headers: `length key=value\n`, again and again.

use super::entry::{MAX_SPARSE_PARTS, Part, TarError, Time};
use super::number::{decimal, pax_time};

/// The parts must be in order, apart, inside the file, and fill the content.
pub(super) fn check_parts(parts: &[Part], length: u64, content: u64) -> Result<(), TarError> {
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
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) mtime: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
    pub(super) sparse_name: Option<Vec<u8>>,
}

#[derive(Default)]
pub(super) struct Sparse {
    major: Option<u64>,
    real_size: Option<u64>,
    numbers: Vec<u64>,
    mapped: bool,
}

pub(super) enum SparseMap {
    None,
    Given { parts: Vec<Part>, length: u64 },
    InContent { length: u64 },
}

impl Sparse {
    pub(super) fn map(self, content: u64) -> Result<SparseMap, TarError> {
        let length = self
            .real_size
            .ok_or(TarError::Sparse("the file's size is missing"));
        match (self.major, self.mapped) {
            (Some(1), _) => Ok(SparseMap::InContent { length: length? }),
            (_, true) => {
                if !self.numbers.len().is_multiple_of(2)
                    || self.numbers.len() > 2 * MAX_SPARSE_PARTS
                {
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
    pub(super) fn parse(mut bytes: &[u8]) -> Result<Self, TarError> {
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
