//! What an image is: its partitions looked into, and from that the way to
//! reach its first boot.

use super::FlashError;
use super::elf::Machine;
use super::table::{Partition, Table};
use ext4_view::{Ext4, Ext4Read};
use fatfs::{FileSystem, FsOptions};
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// Bytes of an entry of a FAT's directory.
const DIR_ENTRY: usize = 32;
/// Label of the boot partition of our own minimal image.
const OWN_LABEL: &str = "SKERRY";
/// Longest text file that is read from an image.
pub const MAX_TEXT_BYTES: u64 = 1024 * 1024;
/// Where the boot partition of a Raspberry Pi is mounted since 2023 (Raspberry
/// Pi OS 12), and always was in Ubuntu and Debian.
const USUAL_MOUNT: &str = "/boot/firmware";

/// A part of a file or device, as a file of its own.
pub struct Window<'a> {
    file: &'a File,
    start: u64,
    len: u64,
    at: u64,
    cleared: Rc<Cell<Cleared>>,
}

/// Where zeros were written last, in bytes of the partition.
#[derive(Debug, Clone, Copy, Default)]
struct Cleared {
    from: u64,
    to: u64,
}

impl<'a> Window<'a> {
    /// The bytes of a partition.
    pub fn new(file: &'a File, partition: &Partition) -> Self {
        Self {
            file,
            start: partition.start,
            len: partition.len,
            at: 0,
            cleared: Rc::default(),
        }
    }

    fn note_zeros(&self, bytes: &[u8]) {
        // Fields of entries are smaller than an entry.
        if bytes.len() > DIR_ENTRY && bytes.iter().all(|b| *b == 0) {
            let mut cleared = self.cleared.get();
            if cleared.to != self.at {
                cleared.from = self.at;
            }
            cleared.to = self.at + bytes.len() as u64;
            self.cleared.set(cleared);
        }
    }

    fn room(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at)).map_or(wanted, |room| room.min(wanted))
    }
}

impl Read for Window<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buffer.len());
        let count = self
            .file
            .read_at(&mut buffer[..room], self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Window<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room(bytes.len());
        let count = self.file.write_at(&bytes[..room], self.start + self.at)?;
        self.note_zeros(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Window<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

/// A FAT file system within a target.
pub type Fat<'a> = FileSystem<Window<'a>>;

/// Opens a FAT.
pub fn fat<'a>(file: &'a File, partition: &Partition) -> io::Result<Fat<'a>> {
    FileSystem::new(Window::new(file, partition), FsOptions::new())
}

/// Makes a directory in the root of a FAT.
///
/// fatfs 0.3.6 gives `.` and `..` long names, which Linux overlooks and a check
/// at boot "repairs" by renaming them. So the two are written anew, where the
/// directory's first cluster was cleared, if what is there is exactly that.
pub fn make_dir(file: &File, partition: &Partition, name: &str) -> io::Result<()> {
    let window = Window::new(file, partition);
    let cleared = window.cleared.clone();
    let fat = FileSystem::new(window, FsOptions::new())?;
    fat.root_dir().create_dir(name)?;
    // Now: unmounting writes zeros elsewhere.
    let place = partition.start + cleared.get().from;
    fat.unmount()?;
    let mut entries = [0; 4 * DIR_ENTRY];
    file.read_exact_at(&mut entries, place)?;
    let (long, short) = (0x0f, 0x10);
    let entry = |n: usize| &entries[n * DIR_ENTRY..(n + 1) * DIR_ENTRY];
    let is = |n: usize, name: &[u8; 11]| entry(n)[..11] == *name && entry(n)[11] == short;
    if is(0, b".          ") && is(1, b"..         ") {
        return Ok(());
    }
    let as_known = entry(0)[11] == long
        && is(1, b".          ")
        && entry(2)[11] == long
        && is(3, b"..         ");
    if !as_known {
        return Err(io::Error::other(
            "the new directory is not where it was made",
        ));
    }
    let fixed = [entry(1), entry(3), &[0; 2 * DIR_ENTRY]].concat();
    file.write_all_at(&fixed, place)
}

/// A text file of a FAT; `None` if it is not there.
pub fn fat_text(fat: &Fat<'_>, path: &str) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    match fat.root_dir().open_file(path) {
        Ok(file) => file.take(MAX_TEXT_BYTES).read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

struct Ext4Window {
    file: File,
    partition: Partition,
}

impl Ext4Read for Ext4Window {
    fn read(
        &mut self,
        start_byte: u64,
        dst: &mut [u8],
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync + 'static>> {
        let end = start_byte.checked_add(dst.len() as u64);
        if end.is_none_or(|end| end > self.partition.len) {
            return Err("beyond the partition's end".into());
        }
        Ok(self
            .file
            .read_exact_at(dst, self.partition.start + start_byte)?)
    }
}

/// An operating system in an ext4 partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Where.
    pub partition: Partition,
    /// `Debian GNU/Linux 13 (trixie)`.
    pub pretty_name: String,
    /// What its programs are for.
    pub machine: Option<Machine>,
    /// Whether systemd starts it.
    pub systemd: bool,
    /// Where it mounts its boot partition.
    boot_mount: Option<String>,
}

/// How the first boot of an image is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// Our own image: reads its settings from its boot partition.
    Minimal {
        /// The boot partition.
        boot: Partition,
    },
    /// A Raspberry Pi's boot partition with the kernel's command line.
    Pi {
        /// The boot partition.
        boot: Partition,
        /// The command line's file in it.
        cmdline: String,
        /// Where it is mounted on the board.
        mount: String,
        /// The system, where it is on ext4.
        root: Option<Root>,
    },
    /// A system on ext4 and a command line out of reach.
    Generic {
        /// The system.
        root: Root,
    },
}

impl Layout {
    /// For people.
    pub fn shown(&self) -> String {
        match self {
            Self::Minimal { .. } => "Skerry's own minimal image".into(),
            Self::Pi {
                root: Some(root), ..
            } => format!("{}, for Raspberry Pi", root.pretty_name),
            Self::Pi { root: None, .. } => "a system for Raspberry Pi".into(),
            Self::Generic { root } => root.pretty_name.clone(),
        }
    }

    /// What its programs are for, if that can be told.
    pub fn machine(&self) -> Option<Machine> {
        match self {
            Self::Minimal { .. } => None,
            Self::Pi { root, .. } => root.as_ref()?.machine,
            Self::Generic { root } => root.machine,
        }
    }

    /// Looks into the partitions of `file`.
    pub fn find(file: &File, table: &Table) -> Result<Self, FlashError> {
        let (mut boot, mut roots) = (None, Vec::new());
        for partition in &table.partitions {
            if is_ext4(file, partition) {
                roots.extend(root(file, partition));
            } else if boot.is_none() && is_fat(file, partition) {
                boot = look_into_fat(file, partition)?;
            }
        }
        let root = roots.into_iter().max_by_key(|r| r.partition.len);
        match (boot, root) {
            (Some(Boot::Own(boot)), _) => Ok(Self::Minimal { boot }),
            (_, Some(root)) if !root.systemd => Err(FlashError::NoSystemd {
                name: root.pretty_name,
            }),
            (Some(Boot::Pi(boot, cmdline)), root) => {
                let mount = root.as_ref().and_then(|r| r.boot_mount.clone());
                Ok(Self::Pi {
                    boot,
                    cmdline,
                    mount: mount.unwrap_or_else(|| USUAL_MOUNT.into()),
                    root,
                })
            }
            (None, Some(root)) => Ok(Self::Generic { root }),
            (None, None) => Err(FlashError::UnknownLayout),
        }
    }
}

fn first_bytes(file: &File, partition: &Partition, at: u64) -> Option<[u8; 512]> {
    let mut bytes = [0; 512];
    file.read_exact_at(&mut bytes, partition.start + at).ok()?;
    Some(bytes)
}

fn is_ext4(file: &File, partition: &Partition) -> bool {
    first_bytes(file, partition, 1024).is_some_and(|b| b[56..58] == [0x53, 0xef])
}

fn is_fat(file: &File, partition: &Partition) -> bool {
    first_bytes(file, partition, 0)
        .is_some_and(|b| b[510..] == [0x55, 0xaa] && (&b[54..57] == b"FAT" || &b[82..85] == b"FAT"))
}

enum Boot {
    Own(Partition),
    Pi(Partition, String),
}

fn look_into_fat(file: &File, partition: &Partition) -> Result<Option<Boot>, FlashError> {
    let error = |source| FlashError::BootPartition {
        what: "read".into(),
        source,
    };
    let fat = fat(file, partition).map_err(error)?;
    let label = fat.read_volume_label_from_root_dir().map_err(error)?;
    if label.unwrap_or_else(|| fat.volume_label()).trim() == OWN_LABEL {
        return Ok(Some(Boot::Own(*partition)));
    }
    let config = fat_text(&fat, "config.txt")
        .map_err(error)?
        .unwrap_or_default();
    let cmdline = cmdline_of(&config);
    let there = fat_text(&fat, &cmdline).map_err(error)?.is_some();
    Ok(there.then_some(Boot::Pi(*partition, cmdline)))
}

/// The command line's file as the firmware finds it: `os_prefix` and `cmdline`
/// of config.txt, outside of a section for one model.
fn cmdline_of(config: &str) -> String {
    let (mut prefix, mut name, mut for_all) = ("", "cmdline.txt", true);
    for line in config.lines().map(str::trim) {
        if line.starts_with('[') {
            for_all = line == "[all]";
        } else if let Some((key, value)) = line.split_once('=').filter(|_| for_all) {
            match key.trim() {
                "os_prefix" => prefix = value.trim(),
                "cmdline" => name = value.trim(),
                _ => {}
            }
        }
    }
    format!("{prefix}{name}")
}

/// Opens an ext4 file system, for reading.
pub fn ext4(file: &File, partition: &Partition) -> io::Result<Ext4> {
    let window = Ext4Window {
        file: file.try_clone()?,
        partition: *partition,
    };
    Ext4::load(Box::new(window)).map_err(io::Error::other)
}

/// `None` when there is no system in it: a data or boot partition.
fn root(file: &File, partition: &Partition) -> Option<Root> {
    let ext4 = ext4(file, partition).ok()?;
    let text = |path: &str| {
        let size = ext4.metadata(path).ok()?.len();
        (size <= MAX_TEXT_BYTES).then(|| ext4.read_to_string(path).ok())?
    };
    let release = text("/etc/os-release").or_else(|| text("/usr/lib/os-release"))?;
    let named = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    let start = |path: &str| {
        let mut bytes = [0; 64];
        let count = ext4.open(path).ok()?.read_bytes(&mut bytes).ok()?;
        Machine::of(&bytes[..count]).ok()
    };
    let exists = |path: &str| ext4.exists(path).unwrap_or(false);
    Some(Root {
        partition: *partition,
        pretty_name: named
            .unwrap_or("an unnamed system")
            .trim_matches('"')
            .into(),
        machine: ["/bin/sh", "/usr/bin/dash", "/bin/busybox"]
            .into_iter()
            .find_map(start),
        systemd: exists("/usr/lib/systemd/systemd") || exists("/lib/systemd/systemd"),
        boot_mount: text("/etc/fstab").and_then(|fstab| boot_mount(&fstab)),
    })
}

/// Where fstab mounts a FAT below /boot; EFI's own aside.
fn boot_mount(fstab: &str) -> Option<String> {
    fstab.lines().find_map(|line| {
        let mut words = line
            .split_whitespace()
            .filter(|_| !line.trim_start().starts_with('#'));
        let (point, kind) = (words.nth(1)?, words.next()?);
        let ours = point == "/boot" || point == USUAL_MOUNT;
        (ours && matches!(kind, "vfat" | "auto")).then(|| point.to_string())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_where_the_firmware_looks() {
        assert_eq!(cmdline_of("# nothing\narm_64bit=1\n"), "cmdline.txt");
        let prefixed = "[all]\nos_prefix=current/\ncmdline=cmdline.txt\n[pi4]\ncmdline=other.txt\n";
        assert_eq!(cmdline_of(prefixed), "current/cmdline.txt");
    }

    #[test]
    fn fstab_says_where_the_boot_partition_is_on_the_board() {
        let fstab = "#/dev/x /boot vfat\nPARTUUID=1-01  /boot/firmware  vfat  defaults 0 2\nPARTUUID=1-02 / ext4 defaults 0 1\n";
        assert_eq!(boot_mount(fstab), Some("/boot/firmware".into()));
        assert_eq!(
            boot_mount("UUID=1 /boot/efi vfat umask=0077 0 1\nproc /boot ext4\n"),
            None
        );
    }
}
