//! The card: four partitions of a master boot record.
//!
//! | | what | where |
//! |---|---|---|
//! | 1 | FAT `SKERRY`: `autoboot.txt`, `skerry/agent.yaml` | 1 MiB |
//! | 2 | slot A: FAT with kernel, initramfs, root | 4 MiB, 48 MiB long |
//! | 3 | slot B, made at the first start | the last 48 MiB |
//! | 4 | data, ext4, grown at the first start | 52 MiB up to slot B |
//!
//! `cross/image/build` writes it so. The table is one sector, so a change of it
//! is the old one or the new one, whenever the power goes.

use super::replay::{self, Journal};
use super::sys::{self, LoopUse, PartitionChange};
use crate::chain::chain;
use nix::mount::{MsFlags, mount, umount2};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The signature by which a card of ours is known: "SKRY".
pub const DISK_ID: [u8; 4] = *b"SKRY";
/// Bytes of a sector.
const SECTOR: u64 = 512;
/// Partitions begin at multiples of this: 1 MiB, an erase block's usual size.
const ALIGN: u64 = (1 << 20) / SECTOR;
/// The slots' partitions.
pub const SLOTS: [u32; 2] = [2, 3];
/// The data partition.
pub const DATA: u32 = 4;
/// Type of a slot: FAT16 with LBA.
const TYPE_FAT16_LBA: u8 = 0x0e;
/// A data partition is not made smaller than this by a slot B, in sectors.
const MIN_DATA: u64 = (8 << 20) / SECTOR;

/// One entry of the table, in sectors; no length where there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// First sector.
    pub start: u64,
    /// Sectors.
    pub length: u64,
}

/// A master boot record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    sector: [u8; SECTOR as usize],
}

impl Table {
    /// Reads that of a disk; `None` if it has none.
    pub fn read(disk: &mut File) -> io::Result<Option<Self>> {
        let mut sector = [0; SECTOR as usize];
        disk.seek(SeekFrom::Start(0))?;
        disk.read_exact(&mut sector)?;
        Ok((sector[510..] == [0x55, 0xaa]).then_some(Self { sector }))
    }

    /// Whether the card is one of ours.
    pub fn is_ours(&self) -> bool {
        self.sector[440..444] == DISK_ID
    }

    /// Partition 1 to 4.
    pub fn entry(&self, number: u32) -> Entry {
        let at = Self::at(number);
        let word = |at: usize| {
            let bytes = self.sector[at..at + 4].try_into().expect("four bytes");
            u64::from(u32::from_le_bytes(bytes))
        };
        Entry {
            start: word(at + 8),
            length: word(at + 12),
        }
    }

    fn at(number: u32) -> usize {
        debug_assert!((1..=4).contains(&number));
        446 + 16 * (number as usize - 1)
    }

    fn set(&mut self, number: u32, kind: u8, entry: Entry) {
        let at = Self::at(number);
        let bytes = &mut self.sector[at..at + 16];
        bytes[0] = 0;
        // Cylinders and heads mean nothing: "beyond what they can say".
        bytes[1..4].copy_from_slice(&[0xfe, 0xff, 0xff]);
        bytes[4] = kind;
        bytes[5..8].copy_from_slice(&[0xfe, 0xff, 0xff]);
        bytes[8..12].copy_from_slice(&(entry.start as u32).to_le_bytes());
        bytes[12..16].copy_from_slice(&(entry.length as u32).to_le_bytes());
    }

    /// The table with slot B at the end of a disk of so many sectors and the
    /// data partition grown up to it; `None` when there is nothing to do.
    pub fn grown(&self, disk_sectors: u64) -> Option<Self> {
        let (slot, data) = (self.entry(SLOTS[0]), self.entry(DATA));
        // A record counts in 32 bits: 2 TiB.
        let end = disk_sectors.min(u64::from(u32::MAX)) / ALIGN * ALIGN;
        if slot.length == 0 || data.length == 0 || self.entry(SLOTS[1]).length != 0 {
            return None;
        }
        let second = end.checked_sub(slot.length)?;
        let length = second.checked_sub(data.start)?;
        if length < MIN_DATA || length < data.length {
            return None;
        }
        let mut table = self.clone();
        let kind = self.sector[Self::at(DATA) + 4];
        table.set(DATA, kind, Entry { length, ..data });
        let slot = Entry {
            start: second,
            length: slot.length,
        };
        table.set(SLOTS[1], TYPE_FAT16_LBA, slot);
        Some(table)
    }

    fn write(&self, disk: &mut File) -> io::Result<()> {
        disk.seek(SeekFrom::Start(0))?;
        disk.write_all(&self.sector)?;
        disk.sync_all()
    }
}

/// The card in its board.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The whole disk, `/dev/mmcblk0` for example.
    pub disk: PathBuf,
}

impl Card {
    /// A partition's device.
    pub fn partition(&self, number: u32) -> PathBuf {
        let name = self.disk.to_string_lossy();
        let digit = name.ends_with(|c: char| c.is_ascii_digit());
        format!("{name}{}{number}", if digit { "p" } else { "" }).into()
    }

    /// Its table.
    pub fn table(&self) -> io::Result<Option<Table>> {
        Table::read(&mut File::open(&self.disk)?)
    }

    /// Looks for a card of ours among the disks that are there now. An SD card
    /// goes before all others, for a stick left in the board may hold an image
    /// too.
    pub fn find() -> Option<Self> {
        let mut names: Vec<String> = fs::read_dir("/sys/class/block")
            .ok()?
            .flatten()
            .filter(|entry| !entry.path().join("partition").exists())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| {
                !["loop", "ram", "zram", "dm-"]
                    .iter()
                    .any(|no| name.starts_with(no))
            })
            .collect();
        names.sort_by_key(|name| (!name.starts_with("mmcblk"), name.clone()));
        let cards = names.into_iter().map(|name| Self {
            disk: Path::new("/dev").join(name),
        });
        cards
            .into_iter()
            .find(|card| matches!(card.table(), Ok(Some(table)) if table.is_ours()))
    }

    /// Makes slot B and lets the data partition grow, if that has not been
    /// done. Returns whether something changed.
    pub fn grow(&self) -> io::Result<bool> {
        let mut disk = File::options().read(true).write(true).open(&self.disk)?;
        let Some(table) = Table::read(&mut disk)? else {
            return Ok(false);
        };
        let sectors = sys::device_bytes(&disk)? / SECTOR;
        let grown = table.grown(sectors);
        if let Some(grown) = &grown {
            grown.write(&mut disk)?;
        }
        // Also when the power went between the table and the kernel.
        let now = grown.as_ref().unwrap_or(&table);
        let tell = |change, number| {
            let entry = now.entry(number);
            let (start, length) = (entry.start * SECTOR, entry.length * SECTOR);
            sys::tell_partition(&disk, change, number, start, length)
        };
        if grown.is_some() {
            tell(PartitionChange::Resize, DATA)?;
            tell(PartitionChange::Add, SLOTS[1])?;
        }
        Ok(grown.is_some())
    }
}

/// Mounts something somewhere; the directory is made if need be.
pub fn attach(
    what: &Path,
    place: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
) -> io::Result<()> {
    match fs::create_dir_all(place) {
        Err(error) if !place.is_dir() => return Err(error),
        _ => {}
    }
    mount(Some(what), place, Some(kind), flags, Some(options)).map_err(io::Error::from)
}

/// Takes a mount away; what is still used goes when it no longer is.
pub fn detach(place: &Path) -> io::Result<()> {
    umount2(place, nix::mount::MntFlags::MNT_DETACH).map_err(io::Error::from)
}

/// Puts a file behind a loop device, read-only. The device lets go of the file
/// when nobody has it open or mounted any more: keep the one returned here
/// until it is.
pub fn loop_device(file: &Path) -> io::Result<(PathBuf, File)> {
    let file = File::open(file)?;
    // Reading around the cache below saves holding each page twice; where the
    // file system below can't, it is held twice.
    put_behind_loop(&file, &[LoopUse::ReadDirect, LoopUse::Read])
}

/// The same for an open file, by the first of these ways that the kernel takes.
pub(super) fn put_behind_loop(file: &File, ways: &[LoopUse]) -> io::Result<(PathBuf, File)> {
    let control = File::open("/dev/loop-control")?;
    let number = sys::free_loop(&control)?;
    let path = PathBuf::from(format!("/dev/loop{number}"));
    let device = File::options().read(true).write(true).open(&path)?;
    let mut done = Err(io::ErrorKind::InvalidInput.into());
    for used in ways {
        done = sys::configure_loop(&device, file, *used);
        if done.is_ok() {
            break;
        }
    }
    done.map(|()| (path, device))
}

/// How the data partition was mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// As it should be.
    Disk,
    /// It takes no writes: what is on it is used, what is new is lost with the
    /// power.
    ReadOnly {
        /// Why.
        why: String,
        /// What became of what only the journal had.
        journal: Journal,
    },
    /// Not at all: everything is lost with the power. Why.
    Memory(String),
}

impl Data {
    /// What people are told of it; `None` where all is well.
    pub fn condition(&self) -> Option<String> {
        let told = match self {
            Self::Disk => return None,
            Self::ReadOnly {
                why,
                journal: Journal::Empty | Journal::Replayed { .. },
            } => format!(
                "{why}. It is used as it was; WHAT IS NEW IS LOST AT THE NEXT POWER CUT. Replace the card."
            ),
            Self::ReadOnly {
                why,
                journal: Journal::Left(reason),
            } => format!(
                "{why}. It is used without what its journal holds ({reason}), so the files written last may be missing, old or damaged; WHAT IS NEW IS LOST AT THE NEXT POWER CUT. Replace the card."
            ),
            Self::Memory(why) => format!(
                "{why}. Data is in memory; ALL OF IT IS LOST AT THE NEXT POWER CUT. Replace the card."
            ),
        };
        Some(told)
    }
}

/// Mounts the data partition, replaying its journal, and lets its file system
/// grow to the partition. A device whose card is worn out still runs its apps:
/// from what can be read, or from memory.
pub fn mount_data(card: &Card, place: &Path) -> Data {
    let device = card.partition(DATA);
    let flags = MsFlags::MS_NOATIME | MsFlags::MS_NODEV | MsFlags::MS_NOSUID;
    // noinit_itable: tables of new groups are written when used, not at once.
    let usual = "errors=remount-ro,commit=30,noinit_itable";
    let why = match attach(&device, place, "ext4", flags, usual) {
        Ok(()) => {
            if let Err(error) = grow_file_system(&device, place) {
                super::say::trouble(&format!("the data partition did not grow: {error}"));
            }
            return Data::Disk;
        }
        Err(error) => format!("{} cannot be mounted: {error}", device.display()),
    };
    match read_only_data(&device, place) {
        Ok(journal) => Data::ReadOnly { why, journal },
        Err(_) => {
            // Nothing can be done about it where not even this works.
            let _ = attach(
                Path::new("tmpfs"),
                place,
                "tmpfs",
                MsFlags::empty(),
                "size=50%,mode=755",
            );
            Data::Memory(why)
        }
    }
}

/// What is on the partition below, and memory for what changes.
fn read_only_data(device: &Path, place: &Path) -> io::Result<Journal> {
    let base = Path::new(super::RUN_DIR).join("data");
    let (lower, memory) = (base.join("disk"), base.join("memory"));
    let journal =
        replay::mount(device, &lower).unwrap_or_else(|error| Journal::Left(chain(&error)));
    if !matches!(journal, Journal::Replayed { .. }) {
        attach(device, &lower, "ext4", MsFlags::MS_RDONLY, "noload")?;
    }
    fs::create_dir_all(place)?;
    crate::volatile::lay(&lower, &memory, place, &place.join(super::AGENT))?;
    Ok(journal)
}

fn grow_file_system(device: &Path, place: &Path) -> io::Result<()> {
    let bytes = sys::device_bytes(&File::open(device)?)?;
    let now = nix::sys::statfs::statfs(place)?;
    let block = now.block_size() as u64;
    let Some(wanted) = bytes.checked_div(block) else {
        return Ok(());
    };
    // The rest of a group too small for its tables is left out by the kernel,
    // and asking again changes nothing: a group is 128 MiB.
    if now.blocks() + now.blocks() / 16 + 4096 > wanted {
        return Ok(());
    }
    sys::grow_ext4(&File::open(place)?, wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = (1 << 20) / SECTOR;

    fn fresh() -> Table {
        let mut table = Table {
            sector: [0; SECTOR as usize],
        };
        table.sector[440..444].copy_from_slice(&DISK_ID);
        let entry = |start, length| Entry {
            start: start * MIB,
            length: length * MIB,
        };
        table.set(1, TYPE_FAT16_LBA, entry(1, 3));
        table.set(2, TYPE_FAT16_LBA, entry(4, 48));
        table.set(4, 0x83, entry(52, 9));
        table
    }

    #[test]
    fn the_first_start_makes_slot_b_and_gives_the_rest_to_data() {
        let grown = fresh().grown(256 * MIB).expect("grows");
        assert_eq!(
            grown.entry(3),
            Entry {
                start: 208 * MIB,
                length: 48 * MIB
            }
        );
        assert_eq!(
            grown.entry(4),
            Entry {
                start: 52 * MIB,
                length: 156 * MIB
            }
        );
        assert_eq!(grown.entry(2), fresh().entry(2));
        assert!(grown.is_ours());
        // And only once, whatever the disk's size is then.
        assert_eq!(grown.grown(256 * MIB), None);
        assert_eq!(grown.grown(512 * MIB), None);
    }

    #[test]
    fn a_card_without_room_stays_as_it_is() {
        for mib in [61, 100, 108] {
            assert_eq!(fresh().grown(mib * MIB), None, "{mib}");
        }
        // And one beyond what a record can say is cut there.
        let end = u64::from(u32::MAX) / ALIGN * ALIGN;
        let grown = fresh().grown(u64::from(u32::MAX) * 4).expect("grows");
        assert_eq!(grown.entry(3).start + grown.entry(3).length, end);
    }

    #[test]
    fn a_card_that_takes_no_writes_is_told_of_as_it_is() {
        let told = |journal| {
            let why = "/dev/x cannot be mounted: EROFS".to_string();
            Data::ReadOnly { why, journal }.condition().expect("told")
        };
        let whole = told(Journal::Replayed { bytes: 4096 });
        assert!(whole.contains("It is used as it was; WHAT IS NEW IS LOST AT THE NEXT POWER CUT"));
        assert_eq!(whole, told(Journal::Empty));
        let left = told(Journal::Left("no module".into()));
        assert!(
            left.contains("without what its journal holds (no module)"),
            "{left}"
        );
        assert!(
            left.contains("WHAT IS NEW IS LOST AT THE NEXT POWER CUT"),
            "{left}"
        );
        assert_eq!(Data::Disk.condition(), None);
    }

    #[test]
    fn partitions_of_names_with_a_digit_have_a_p() {
        let card = |disk: &str| Card { disk: disk.into() };
        assert_eq!(
            card("/dev/mmcblk0").partition(4),
            Path::new("/dev/mmcblk0p4")
        );
        assert_eq!(card("/dev/vda").partition(2), Path::new("/dev/vda2"));
    }
}
