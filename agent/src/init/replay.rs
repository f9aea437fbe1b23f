//! The journal of a card that takes no writes: replayed in memory.
//!
//! After a power cut an ext4 is whole only with what its journal holds, and
//! bringing that to its place writes. So memory takes what is written:
//!
//! ```text
//! ext4, mounted read-only         replays into what it believes a disk
//!   └─ device mapper's "snapshot" writes go to the second, each block once
//!        ├─ the card's partition  opened for reading alone
//!        └─ a loop device over a file in memory, as long as is needed
//! ```
//!
//! A snapshot whose memory is full gives errors to every reader, so there is
//! room for more than a replay writes, and whether it is whole is asked before
//! it is used. Nothing is written afterwards. All of it goes with the mount.
//!
//! The kernel's Documentation/admin-guide/device-mapper/snapshot.rst and
//! linux/dm-ioctl.h say how to talk to it, Documentation/filesystems/ext4 what
//! a superblock looks like.

use super::disk;
use super::modules::Modules;
use super::sys::{self, DM_HEADER_BYTES, DmCommand, LoopUse};
use nix::mount::{MntFlags, MsFlags, umount2};
use nix::sys::memfd::{MemFdCreateFlag, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// What the device mapper calls the device; nobody else uses it on our image.
pub const NAME: &str = "skerry-replay";
/// Bytes of a sector, in which the device mapper counts.
const SECTOR: u64 = 512;
/// A replay brings each block in the journal to its place, and may write the
/// journal's own: that is twice its length at most. Then files are taken away
/// that were deleted while they were open, which needs no more than this, in
/// bytes.
const MARGIN_BYTES: u64 = 16 << 20;
/// No more memory than that, whatever a superblock says of its journal: an
/// eighth of what the smallest board has. Our image's is 4 MiB long.
const MAX_MEMORY_BYTES: u64 = 64 << 20;

/// What became of what only the journal had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Journal {
    /// It had nothing.
    Empty,
    /// It is there.
    Replayed {
        /// What it took of memory.
        bytes: u64,
    },
    /// It is missing. Why.
    Left(String),
}

/// Why a journal was not replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Not even the superblock.
    #[error("the superblock cannot be read")]
    Superblock(#[source] io::Error),
    /// Something else.
    #[error("there is no ext4")]
    NoExt4,
    /// A file in memory, or the loop device over it.
    #[error("there is no memory to replay it in")]
    Memory(#[source] io::Error),
    /// The module is missing.
    #[error("the kernel has no device mapper (module dm_snapshot)")]
    NoDeviceMapper(#[source] io::Error),
    /// A call of the device mapper.
    #[error("the device mapper does not {step}")]
    DeviceMapper {
        /// What it was asked.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
    /// ext4 does not like what it sees.
    #[error("it cannot be replayed")]
    Mount(#[source] io::Error),
    /// Then the snapshot cannot be read any more.
    #[error("replaying it needs more than {} MiB of memory", .0 >> 20)]
    Full(u64),
}

/// What matters here of an ext4.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Superblock {
    /// Bytes of a block: 1 KiB to 64 KiB.
    block_bytes: u64,
    /// Bytes of the journal; 0 where it is not told.
    journal_bytes: u64,
    /// Whether it was not unmounted.
    needs_replay: bool,
}

impl Superblock {
    /// Where it is on its disk, and what is read of it, in bytes.
    const AT: u64 = 1024;
    const BYTES: usize = 1024;
    const MAGIC: u16 = 0xef53;
    /// `EXT4_FEATURE_INCOMPAT_RECOVER`.
    const NEEDS_RECOVERY: u32 = 4;

    fn parse(bytes: &[u8; Self::BYTES]) -> Option<Self> {
        let word = |at: usize| {
            let four = bytes[at..at + 4].try_into().expect("four bytes");
            u32::from_le_bytes(four)
        };
        let magic = u16::from_le_bytes([bytes[0x38], bytes[0x39]]);
        let log_block = word(0x18);
        if magic != Self::MAGIC || log_block > 6 {
            return None;
        }
        // The journal's inode is kept here, too: its 15 words of blocks, then
        // its length, the higher half first.
        let is_kept = bytes[0xfd] == 1;
        let length = u64::from(word(0x148)) << 32 | u64::from(word(0x14c));
        Some(Self {
            block_bytes: 1024 << log_block,
            journal_bytes: if is_kept { length } else { 0 },
            needs_replay: word(0x60) & Self::NEEDS_RECOVERY != 0,
        })
    }

    fn read(device: &File) -> Result<Self, ReplayError> {
        let mut bytes = [0; Self::BYTES];
        let read = device.read_exact_at(&mut bytes, Self::AT);
        read.map_err(ReplayError::Superblock)?;
        Self::parse(&bytes).ok_or(ReplayError::NoExt4)
    }

    /// How much may be written while the journal is replayed.
    fn memory_bytes(&self) -> u64 {
        let wanted = self.journal_bytes.saturating_mul(2);
        wanted.saturating_add(MARGIN_BYTES).min(MAX_MEMORY_BYTES)
    }
}

/// A `struct dm_ioctl` for our device and what follows it.
fn message(flags: u32, targets: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; DM_HEADER_BYTES];
    let mut put = |at: usize, number: u32| {
        bytes[at..at + 4].copy_from_slice(&number.to_ne_bytes());
    };
    // The interface's version, 4.0.0: what every kernel of today knows. The
    // message's length is set by who sends it.
    put(0, 4);
    put(16, DM_HEADER_BYTES as u32);
    put(20, targets);
    put(28, flags);
    bytes[48..48 + NAME.len()].copy_from_slice(NAME.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Bytes of `struct dm_target_spec`, which its parameters follow.
const TARGET_BYTES: usize = 40;

/// A table of one target: the whole of `origin`, so many sectors, what is
/// written going to `memory` in pieces of `chunk` sectors and not kept (`N`).
fn table(origin: &Path, sectors: u64, memory: &Path, chunk: u64) -> Vec<u8> {
    let parameters = format!("{} {} N {chunk}\0", origin.display(), memory.display());
    let length = (TARGET_BYTES + parameters.len()).next_multiple_of(8);
    let mut bytes = vec![0; TARGET_BYTES];
    bytes[8..16].copy_from_slice(&sectors.to_ne_bytes());
    bytes[20..24].copy_from_slice(&(length as u32).to_ne_bytes());
    let kind = b"snapshot";
    bytes[24..24 + kind.len()].copy_from_slice(kind);
    bytes.extend_from_slice(parameters.as_bytes());
    bytes.resize(length, 0);
    bytes
}

/// What an answer has after the header and the one target: text up to a zero.
fn status(answer: &[u8]) -> &str {
    let start = answer.get(16..20).and_then(|b| b.try_into().ok());
    let start = start.map_or(0, u32::from_ne_bytes) as usize;
    let text = answer.get(start.saturating_add(TARGET_BYTES)..);
    let text = text.unwrap_or_default();
    let end = text.iter().position(|b| *b == 0).unwrap_or(text.len());
    std::str::from_utf8(&text[..end]).unwrap_or_default()
}

/// Bytes written to a snapshot, by its status ("80/49152 0": sectors used, of
/// how many, for its own books); `None` of one that cannot be read any more.
fn written(status: &str) -> Option<u64> {
    let (used, _) = status.split_once('/')?;
    used.parse::<u64>().ok()?.checked_mul(SECTOR)
}

/// The device. Dropped it goes, at once or with the last that has it mounted.
struct Snapshot {
    control: File,
    path: PathBuf,
}

impl Snapshot {
    /// `DM_DEFERRED_REMOVE`.
    const WHEN_UNUSED: u32 = 1 << 17;
    /// Room for an answer.
    const ANSWER_BYTES: usize = 1024;

    fn create(origin: &Path, sectors: u64, memory: &Path, chunk: u64) -> Result<Self, ReplayError> {
        let control = File::options()
            .read(true)
            .write(true)
            .open("/dev/mapper/control")
            .map_err(ReplayError::NoDeviceMapper)?;
        let failed = |step| move |source| ReplayError::DeviceMapper { step, source };
        let mut answer = message(0, 0, &[]);
        sys::device_mapper(&control, DmCommand::Create, &mut answer)
            .map_err(failed("make a device"))?;
        let number = u64::from_ne_bytes(answer[40..48].try_into().expect("eight bytes"));
        let path = format!("/dev/dm-{}", nix::sys::stat::minor(number)).into();
        let snapshot = Self { control, path };
        let table = table(origin, sectors, memory, chunk);
        snapshot
            .ask(DmCommand::Load, &mut message(0, 1, &table))
            .map_err(failed("take the card and the memory over it"))?;
        snapshot
            .ask(DmCommand::Resume, &mut message(0, 0, &[]))
            .map_err(failed("start"))?;
        Ok(snapshot)
    }

    fn ask(&self, command: DmCommand, message: &mut [u8]) -> io::Result<()> {
        sys::device_mapper(&self.control, command, message)
    }

    /// Bytes written to it; `None` when it cannot be read any more.
    fn written(&self) -> Result<Option<u64>, ReplayError> {
        let mut answer = message(0, 0, &[0; Self::ANSWER_BYTES]);
        self.ask(DmCommand::Status, &mut answer)
            .map_err(|source| ReplayError::DeviceMapper {
                step: "say how it is",
                source,
            })?;
        Ok(written(status(&answer)))
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut words = message(Self::WHEN_UNUSED, 0, &[]);
        if let Err(error) = self.ask(DmCommand::Remove, &mut words) {
            super::say::trouble(&format!("{} stays: {error}", self.path.display()));
        }
    }
}

/// Memory as a disk of so many bytes: taken when it is written, given back when
/// the device is no longer used.
fn memory_disk(bytes: u64) -> io::Result<(PathBuf, File)> {
    let memory: File = memfd_create(c"skerry-replay", MemFdCreateFlag::MFD_CLOEXEC)?.into();
    memory.set_len(bytes)?;
    disk::put_behind_loop(&memory, &[LoopUse::Write])
}

/// Mounts the ext4 of a device read-only with what its journal holds, writing
/// nothing to the device. Mounts nothing where the journal is
/// [`Empty`](Journal::Empty), and when it fails.
pub fn mount(device: &Path, place: &Path) -> Result<Journal, ReplayError> {
    let partition = File::open(device).map_err(ReplayError::Superblock)?;
    let superblock = Superblock::read(&partition)?;
    if !superblock.needs_replay {
        return Ok(Journal::Empty);
    }
    let sectors = sys::device_bytes(&partition).map_err(ReplayError::Superblock)? / SECTOR;
    drop(partition);
    let mut modules = Modules::of_this_kernel().map_err(ReplayError::NoDeviceMapper)?;
    modules.load("dm_snapshot");
    let room = superblock.memory_bytes();
    let (memory, open) = memory_disk(room).map_err(ReplayError::Memory)?;
    let chunk = superblock.block_bytes / SECTOR;
    let snapshot = Snapshot::create(device, sectors, &memory, chunk)?;
    drop(open);
    let mounted = disk::attach(&snapshot.path, place, "ext4", MsFlags::MS_RDONLY, "");
    let whole = snapshot
        .written()
        .and_then(|bytes| bytes.ok_or(ReplayError::Full(room)));
    match (mounted, whole) {
        (Ok(()), Ok(bytes)) => Ok(Journal::Replayed { bytes }),
        (Ok(()), Err(error)) => {
            // Nobody has seen it yet, so nobody holds it.
            let _ = umount2(place, MntFlags::empty());
            Err(error)
        }
        (Err(_), Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(ReplayError::Mount(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As mke2fs makes them: a magic number, 4 KiB blocks, a journal of 4 MiB
    /// whose inode is kept.
    fn ext4(incompatible: u32) -> [u8; Superblock::BYTES] {
        let mut bytes = [0; Superblock::BYTES];
        let mut put = |at: usize, word: u32| bytes[at..at + 4].copy_from_slice(&word.to_le_bytes());
        put(0x18, 2);
        put(0x60, incompatible);
        put(0x14c, 4 << 20);
        bytes[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        bytes[0xfd] = 1;
        bytes
    }

    #[test]
    fn a_superblock_says_whether_its_journal_is_needed_and_how_long_it_is() {
        // extents, 64bit, flex_bg, as after an unmount; then with `recover`.
        let clean = Superblock::parse(&ext4(0x2c2)).expect("an ext4");
        assert!(!clean.needs_replay);
        assert_eq!(clean.block_bytes, 4096);
        assert_eq!(clean.journal_bytes, 4 << 20);
        assert_eq!(clean.memory_bytes(), 24 << 20);
        let cut = Superblock::parse(&ext4(0x2c6)).expect("an ext4");
        assert!(cut.needs_replay);
        let mut other = ext4(0x2c6);
        other[0x39] = 0;
        assert_eq!(Superblock::parse(&other), None);
        let mut other = ext4(0x2c6);
        other[0x18] = 7;
        assert_eq!(Superblock::parse(&other), None);
    }

    #[test]
    fn memory_is_bounded_whatever_a_superblock_says() {
        let mut huge = ext4(4);
        huge[0x148..0x150].fill(0xff);
        let huge = Superblock::parse(&huge).expect("an ext4");
        assert_eq!(huge.memory_bytes(), MAX_MEMORY_BYTES);
        // One that does not keep the inode has room for a small journal.
        let mut unknown = ext4(4);
        unknown[0xfd] = 0;
        let unknown = Superblock::parse(&unknown).expect("an ext4");
        assert_eq!(unknown.memory_bytes(), MARGIN_BYTES);
    }

    #[test]
    fn messages_have_the_kernels_layout() {
        let table = table(Path::new("/dev/vda4"), 1000, Path::new("/dev/loop1"), 8);
        assert_eq!(table.len() % 8, 0);
        assert_eq!(table[..8], [0; 8], "from the first sector");
        assert_eq!(table[8..16], 1000_u64.to_ne_bytes());
        assert_eq!(table[20..24], (table.len() as u32).to_ne_bytes());
        assert_eq!(table[24..33], *b"snapshot\0");
        let text = b"/dev/vda4 /dev/loop1 N 8\0";
        assert_eq!(table[TARGET_BYTES..TARGET_BYTES + text.len()], *text);
        let message = message(Snapshot::WHEN_UNUSED, 1, &table);
        assert_eq!(message.len(), DM_HEADER_BYTES + table.len());
        assert_eq!(message[..12], [4_u32, 0, 0].map(u32::to_ne_bytes).concat());
        assert_eq!(message[16..20], 312_u32.to_ne_bytes());
        assert_eq!(message[20..24], 1_u32.to_ne_bytes());
        assert_eq!(message[28..32], 0x20000_u32.to_ne_bytes());
        assert_eq!(message[48..62], *b"skerry-replay\0");
        assert_eq!(message[DM_HEADER_BYTES..], table);
    }

    #[test]
    fn a_snapshot_that_cannot_be_read_is_none() {
        let answer = |text: &str| {
            let payload = [&[0; TARGET_BYTES], text.as_bytes(), b"\0rest"].concat();
            message(0, 1, &payload)
        };
        assert_eq!(written(status(&answer("80/49152 0"))), Some(40960));
        for text in ["Invalid", "Overflow", "Unknown", "", "x/1 0"] {
            assert_eq!(written(status(&answer(text))), None, "{text}");
        }
        assert_eq!(status(&[]), "");
        let mut beyond = answer("80/49152 0");
        beyond[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(status(&beyond), "");
    }
}
