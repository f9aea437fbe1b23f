//! Partition tables: MBR (with logical partitions) and GPT, as far as finding
//! partitions needs them. Nothing is ever written here.
//!
//! Source: UEFI specification 2.10, chapter 5; "sector" is 512 bytes, as in
//! every image that is made for cards and USB sticks.

use std::io::{self, Read, Seek, SeekFrom};

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Entries of a GPT that are looked at; the usual number is 128.
const MAX_GPT_ENTRIES: u32 = 256;
/// Logical partitions that are looked at.
const MAX_LOGICAL: usize = 32;
/// MBR types of a partition that holds further ones.
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// Which kind of table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Master boot record.
    Mbr,
    /// GUID partition table.
    Gpt,
}

/// One partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// As Linux numbers it, from 1.
    pub number: u32,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// What a table says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// Which kind.
    pub kind: Kind,
    /// In the table's order.
    pub partitions: Vec<Partition>,
}

impl Table {
    /// First byte that any partition has.
    pub fn first_byte(&self) -> u64 {
        self.partitions.iter().map(|p| p.start).min().unwrap_or(0)
    }

    /// Bytes that a device must have to hold all partitions.
    pub fn needed_bytes(&self) -> u64 {
        let end = |p: &Partition| p.start.saturating_add(p.len);
        self.partitions.iter().map(end).max().unwrap_or(0)
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word).into()
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn sector(disk: &mut (impl Read + Seek), number: u64) -> io::Result<[u8; SECTOR as usize]> {
    let mut bytes = [0; SECTOR as usize];
    disk.seek(SeekFrom::Start(number.saturating_mul(SECTOR)))?;
    disk.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Reads the table; `None` when there is none, or none that makes sense.
/// A GPT's checksum is not asked: whoever boots from it asks.
pub fn read(disk: &mut (impl Read + Seek)) -> io::Result<Option<Table>> {
    let mbr = match sector(disk, 0) {
        Ok(mbr) => mbr,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    if mbr[510..] != [0x55, 0xaa] {
        return Ok(None);
    }
    let entries = || (0..4).map(|n| &mbr[446 + 16 * n..446 + 16 * (n + 1)]);
    let table = if entries().any(|e| e[4] == 0xee) {
        gpt(disk)?
    } else {
        mbr_table(disk, entries())?
    };
    Ok(table.filter(|t| !t.partitions.is_empty()))
}

fn gpt(disk: &mut (impl Read + Seek)) -> io::Result<Option<Table>> {
    let header = sector(disk, 1)?;
    let (size, count) = (u32_at(&header, 84), u32_at(&header, 80));
    if &header[..8] != b"EFI PART" || !(128..=SECTOR).contains(&size) || SECTOR % size != 0 {
        return Ok(None);
    }
    let first = u64_at(&header, 72);
    let in_sector = SECTOR / size;
    let mut partitions = Vec::new();
    let mut bytes = [0; SECTOR as usize];
    for index in 0..(count as u32).min(MAX_GPT_ENTRIES) {
        let (at, within) = (u64::from(index) / in_sector, u64::from(index) % in_sector);
        if within == 0 {
            bytes = sector(disk, first.saturating_add(at))?;
        }
        let entry = &bytes[(within * size) as usize..];
        let (from, to) = (u64_at(entry, 32), u64_at(entry, 40));
        if entry[..16].iter().all(|b| *b == 0) || to < from {
            continue;
        }
        partitions.extend(partition(index + 1, from, to - from + 1));
    }
    Ok(Some(Table {
        kind: Kind::Gpt,
        partitions,
    }))
}

fn partition(number: u32, first: u64, sectors: u64) -> Option<Partition> {
    let (start, len) = (first.checked_mul(SECTOR)?, sectors.checked_mul(SECTOR)?);
    start.checked_add(len)?;
    Some(Partition { number, start, len })
}

fn mbr_table<'a>(
    disk: &mut (impl Read + Seek),
    entries: impl Iterator<Item = &'a [u8]>,
) -> io::Result<Option<Table>> {
    let mut partitions = Vec::new();
    for (index, entry) in (1..).zip(entries) {
        let (kind, first, count) = (entry[4], u32_at(entry, 8), u32_at(entry, 12));
        // A FAT's boot sector has the same last two bytes and text here.
        if entry[0] & 0x7f != 0 {
            return Ok(None);
        }
        if kind == 0 || count == 0 {
            continue;
        }
        if EXTENDED.contains(&kind) {
            logical(disk, first, &mut partitions)?;
        } else {
            partitions.extend(partition(index, first, count));
        }
    }
    Ok(Some(Table {
        kind: Kind::Mbr,
        partitions,
    }))
}

/// Follows the chain of logical partitions, which are numbered from 5.
fn logical(
    disk: &mut (impl Read + Seek),
    base: u64,
    partitions: &mut Vec<Partition>,
) -> io::Result<()> {
    let mut at = base;
    for number in (5..).take(MAX_LOGICAL) {
        let record = match sector(disk, at) {
            Ok(record) if record[510..] == [0x55, 0xaa] => record,
            // The chain may lie beyond what of an image is at hand.
            Ok(_) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let (first, count) = (u32_at(&record, 454), u32_at(&record, 458));
        if count > 0 {
            partitions.extend(partition(number, at.saturating_add(first), count));
        }
        match u32_at(&record, 470) {
            0 => return Ok(()),
            next => at = base.saturating_add(next),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    fn entry(disk: &mut [u8], index: usize, kind: u8, first: u32, count: u32) {
        let at = 446 + 16 * index;
        disk[at + 4] = kind;
        disk[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        disk[at + 12..at + 16].copy_from_slice(&count.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    }

    #[test]
    fn an_mbr_gives_its_partitions() {
        let mut disk = vec![0; 4096];
        entry(&mut disk, 0, 0x0c, 8192, 100);
        entry(&mut disk, 1, 0x83, 9000, 50);
        let table = read(&mut Cursor::new(&disk)).unwrap().unwrap();
        assert_eq!(table.kind, Kind::Mbr);
        assert_eq!(table.first_byte(), 8192 * 512);
        assert_eq!(table.needed_bytes(), 9050 * 512);
        assert_eq!(table.partitions[1].number, 2);
    }

    #[test]
    fn no_table_is_no_error() {
        assert_eq!(read(&mut Cursor::new(vec![0; 4096])).unwrap(), None);
        assert_eq!(read(&mut Cursor::new(vec![0; 10])).unwrap(), None);
        // A FAT without a table: the boot sector's text is where entries are.
        let mut fat = vec![0x4e; 4096];
        fat[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert_eq!(read(&mut Cursor::new(fat)).unwrap(), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(mut bytes in prop::collection::vec(any::<u8>(), 1024..4096), gpt: bool) {
            bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
            if gpt {
                bytes[446] = 0;
                bytes[450] = 0xee;
                bytes[512..520].copy_from_slice(b"EFI PART");
                bytes[596..600].copy_from_slice(&128u32.to_le_bytes());
                bytes[584..592].copy_from_slice(&2u64.to_le_bytes());
            }
            let _ = read(&mut Cursor::new(bytes));
        }
    }
}
