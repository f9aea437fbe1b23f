//! The image onto the target, block by block, and back again to compare.
//!
//! The first bytes, where the partition table is, are held back: until all is
//! written, read back and set up, the target has zeros there, and nothing
//! boots from it. A card that lost power half-way is empty, not half a system.

use super::FlashError;
use super::source::{Source, fill};
use super::table::{self, Table};
use super::target::Target;
use sha2::{Digest as _, Sha256};
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of a block: one write, one digest (32 bytes each are kept, so 32 GB
/// of image cost 1 MiB of memory).
pub const BLOCK_BYTES: usize = 1 << 20;
/// Bytes at a device's end that are cleared.
const TAIL_BYTES: u64 = 1 << 20;
/// Largest image, in bytes: what a digest for each block is kept for.
const MAX_IMAGE_BYTES: u64 = 1 << 40;

/// How far a phase is.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// What is being done: `writing`, `reading back`.
    pub phase: &'static str,
    /// Bytes done, in the unit of `of`.
    pub done: u64,
    /// Of so many; not known when 0.
    pub of: u64,
    /// Bytes of the target touched so far, for the speed.
    pub bytes: u64,
}

/// Hears how it goes.
pub type Progress<'a> = &'a mut dyn FnMut(Step);

/// The beginning of an image, before anything is written.
pub struct Head {
    bytes: Vec<u8>,
    /// Its partition table, if it has one.
    pub table: Option<Table>,
}

impl Head {
    /// Reads the first block.
    pub fn read(source: &mut Source, path: &Path) -> Result<Self, FlashError> {
        let mut bytes = vec![0; BLOCK_BYTES];
        let count = fill(source, &mut bytes).map_err(|source| FlashError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        bytes.truncate(count);
        // POSIX pax: the magic of a tar's header; Debian packs disks so.
        if bytes.get(257..262) == Some(b"ustar") {
            return Err(FlashError::NotAnImage {
                path: path.to_owned(),
                why: "it is a tar archive: unpack it (tar xf) and give the disk inside, such as disk.raw".into(),
            });
        }
        let table =
            table::read(&mut Cursor::new(&bytes)).map_err(|source| FlashError::ReadImage {
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { bytes, table })
    }

    /// Bytes that are held back: whole sectors, and nothing of a partition.
    fn held_bytes(&self) -> usize {
        let first = self.table.as_ref().map_or(u64::MAX, Table::first_byte);
        usize::try_from(first)
            .unwrap_or(usize::MAX)
            .min(self.bytes.len())
    }
}

/// An image that is written but for its first bytes.
pub struct Written {
    /// Bytes of the image.
    pub bytes: u64,
    /// SHA-256 of the whole image, unpacked, in hexadecimal.
    pub sha256: String,
    held: Vec<u8>,
    blocks: Vec<[u8; 32]>,
}

fn at(target: &Target, position: u64) -> io::Result<&std::fs::File> {
    let mut file = &target.file;
    file.seek(SeekFrom::Start(position))?;
    Ok(&target.file)
}

/// Writes all but the first bytes, which become zeros.
pub fn write(
    mut head: Head,
    source: &mut Source,
    path: &Path,
    target: &Target,
    progress: Progress<'_>,
) -> Result<Written, FlashError> {
    let put_error = |source| FlashError::Write {
        path: target.path.clone(),
        source,
    };
    let held_bytes = head.held_bytes();
    let held = head.bytes[..held_bytes].to_vec();
    // Whatever was there before is gone from here on.
    head.bytes[..held_bytes].fill(0);
    at(target, 0).map_err(put_error)?;
    let mut block = head.bytes;
    let (mut whole, mut blocks, mut position) = (Sha256::new(), Vec::new(), 0u64);
    whole.update(&held);
    whole.update(&block[held_bytes..]);
    loop {
        let end = position + block.len() as u64;
        if end > MAX_IMAGE_BYTES {
            return Err(FlashError::TooLarge {
                needed: end,
                has: MAX_IMAGE_BYTES,
                path: target.path.clone(),
            });
        }
        if let Some(has) = target.device_bytes.filter(|has| end > *has) {
            return Err(FlashError::TooLarge {
                needed: end,
                has,
                path: target.path.clone(),
            });
        }
        blocks.push(Sha256::digest(&block).into());
        put(target, position, &block).map_err(put_error)?;
        if position == 0 {
            target.file.sync_all().map_err(put_error)?;
        }
        position = end;
        progress(Step {
            phase: "writing",
            done: source.taken_bytes(),
            of: source.file_bytes,
            bytes: position,
        });
        if block.len() < BLOCK_BYTES {
            break;
        }
        let count = fill(source, &mut block).map_err(|source| FlashError::Damaged {
            path: path.to_owned(),
            source,
        })?;
        block.truncate(count);
        if count == 0 {
            break;
        }
        whole.update(&block);
    }
    match target.device_bytes {
        None => target.file.set_len(position).map_err(put_error)?,
        // What an earlier system has there, a second partition table or a
        // member of a RAID, would still be found, and the card taken for that.
        Some(has) => {
            let from = has.saturating_sub(TAIL_BYTES).max(position);
            let zeros = vec![0; usize::try_from(has - from).unwrap_or(0)];
            at(target, from)
                .and_then(|mut file| file.write_all(&zeros))
                .map_err(put_error)?;
        }
    }
    target.settle().map_err(put_error)?;
    let sha256 = super::hex(&whole.finalize());
    Ok(Written {
        bytes: position,
        sha256,
        held,
        blocks,
    })
}

/// A file is not given blocks of zeros: it has none there already.
fn put(target: &Target, position: u64, block: &[u8]) -> io::Result<()> {
    if !target.is_device() && block.iter().all(|b| *b == 0) {
        return Ok(());
    }
    at(target, position)?.write_all(block)
}

/// Reads everything back and compares.
pub fn verify(
    written: &Written,
    target: &Target,
    progress: Progress<'_>,
) -> Result<(), FlashError> {
    let error = |source| FlashError::ReadBack {
        path: target.path.clone(),
        source,
    };
    let mut file = at(target, 0).map_err(error)?;
    let (mut position, mut block) = (0u64, vec![0; BLOCK_BYTES]);
    for digest in &written.blocks {
        let len =
            usize::try_from(written.bytes - position).map_or(BLOCK_BYTES, |l| l.min(BLOCK_BYTES));
        file.read_exact(&mut block[..len]).map_err(error)?;
        if <[u8; 32]>::from(Sha256::digest(&block[..len])) != *digest {
            return Err(FlashError::Mismatch {
                path: target.path.clone(),
                at: position,
            });
        }
        position += len as u64;
        progress(Step {
            phase: "reading back",
            done: position,
            of: written.bytes,
            bytes: position,
        });
    }
    Ok(())
}

/// Writes the first bytes, and reads them back.
pub fn complete(written: &Written, target: &Target) -> Result<(), FlashError> {
    let put_error = |source| FlashError::Write {
        path: target.path.clone(),
        source,
    };
    let mut file = at(target, 0).map_err(put_error)?;
    file.write_all(&written.held).map_err(put_error)?;
    target.settle().map_err(put_error)?;
    let error = |source| FlashError::ReadBack {
        path: target.path.clone(),
        source,
    };
    let mut back = vec![0; written.held.len()];
    let mut file = at(target, 0).map_err(error)?;
    file.read_exact(&mut back).map_err(error)?;
    if back != written.held {
        return Err(FlashError::Mismatch {
            path: target.path.clone(),
            at: 0,
        });
    }
    Ok(())
}
