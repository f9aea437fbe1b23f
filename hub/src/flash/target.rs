//! Where an image goes: a new file, or a whole block device that nothing uses.
//!
//! A device is refused when anything of it is mounted, swap, or held by
//! another device (LVM, dm-crypt, RAID), and unless it looks removable. The
//! kernel is asked too: it is opened exclusively, which fails for whatever
//! this module does not know.

use super::FlashError;
use rustix::fs::{Advice, FileType, OFlags};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Mount points of a system that runs.
const SYSTEM_MOUNTS: [&str; 6] = ["/", "/boot", "/boot/efi", "/boot/firmware", "/usr", "/var"];

/// What an image goes to.
#[derive(Debug)]
pub struct Target {
    /// As given.
    pub path: PathBuf,
    /// Open for reading and writing.
    pub file: File,
    /// Its size, for a device.
    pub device_bytes: Option<u64>,
    /// For people: `SanDisk SD card, 31.9 GB`.
    pub about: Option<String>,
    /// The file under its temporary name; renamed when all is well.
    part: Option<PathBuf>,
    finished: bool,
}

/// What a target may be.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allow {
    /// A disk that does not look removable.
    pub fixed_disk: bool,
    /// A file that is there already.
    pub overwrite: bool,
}

impl Target {
    /// Opens a block device, or makes the file. `in_place` is an existing
    /// file or device whose content stays.
    pub fn open(path: &Path, allow: Allow, in_place: bool) -> Result<Self, FlashError> {
        let error = |source| FlashError::OpenTarget {
            path: path.to_owned(),
            source,
        };
        let refuse = |why: String| FlashError::Refused {
            path: path.to_owned(),
            why,
        };
        let meta = match fs::metadata(path) {
            Ok(meta) => Some(meta),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(e) => return Err(error(e)),
        };
        match meta {
            Some(meta) if meta.file_type().is_block_device() => device(path, meta.rdev(), allow),
            Some(meta) if meta.is_file() => {
                if let Some(device) = loop_of(path) {
                    return Err(refuse(format!(
                        "it is in use as {device}: detach it with 'losetup -d {device}', or give {device}"
                    )));
                }
                if in_place {
                    let file = OpenOptions::new()
                        .read(true)
                        .write(true)
                        .open(path)
                        .map_err(error)?;
                    return Ok(Self::of_file(path, file, None));
                }
                if !allow.overwrite {
                    return Err(refuse(
                        "it is there already: give another name, or --overwrite".into(),
                    ));
                }
                new_file(path)
            }
            None if in_place => Err(refuse("it is not there".into())),
            None if path.starts_with("/dev") => {
                Err(refuse("there is no such device: 'lsblk' lists them".into()))
            }
            None => new_file(path),
            Some(_) => Err(refuse(
                "it is neither a block device nor a file: an image can only go to one of these"
                    .into(),
            )),
        }
    }

    fn of_file(path: &Path, file: File, part: Option<PathBuf>) -> Self {
        Self {
            path: path.to_owned(),
            file,
            device_bytes: None,
            about: None,
            part,
            finished: false,
        }
    }

    /// Where the bytes are, for programs that take a path.
    pub fn real_path(&self) -> &Path {
        self.part.as_deref().unwrap_or(&self.path)
    }

    /// Whether the target is a device.
    pub fn is_device(&self) -> bool {
        self.device_bytes.is_some()
    }

    /// Makes sure that everything is on the medium, and that the next read
    /// comes from there and not from memory.
    pub fn settle(&self) -> io::Result<()> {
        self.file.sync_all()?;
        Ok(rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?)
    }

    /// All is well: gives the file its name.
    pub fn finish(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        if let Some(part) = &self.part {
            fs::rename(part, &self.path)?;
            let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty());
            File::open(dir.unwrap_or(Path::new(".")))?.sync_all()?;
        }
        self.finished = true;
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let (false, Some(part)) = (self.finished, &self.part) {
            // Half an image helps nobody; if it cannot go, it says .part.
            let _ = fs::remove_file(part);
        }
    }
}

fn new_file(path: &Path) -> Result<Target, FlashError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".part");
    let part = PathBuf::from(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        // It holds a join token.
        .mode(0o600)
        .open(&part)
        .map_err(|source| FlashError::OpenTarget {
            path: part.clone(),
            source,
        })?;
    Ok(Target::of_file(path, file, Some(part)))
}

/// The loop device that shows this file, if one does.
fn loop_of(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    fs::read_dir("/sys/block")
        .ok()?
        .flatten()
        .find_map(|entry| {
            let backing = fs::read_to_string(entry.path().join("loop/backing_file")).ok()?;
            let same = Path::new(backing.trim_end()) == real;
            same.then(|| format!("/dev/{}", entry.file_name().to_string_lossy()))
        })
}

fn device(path: &Path, rdev: u64, allow: Allow) -> Result<Target, FlashError> {
    let refuse = |why: String| FlashError::Refused {
        path: path.to_owned(),
        why,
    };
    let disk = Disk::find(rdev).map_err(|source| FlashError::OpenTarget {
        path: path.to_owned(),
        source,
    })?;
    if let Some(why) = disk.in_use(&Tables::of_system()) {
        return Err(refuse(why));
    }
    if !disk.removable && !allow.fixed_disk {
        return Err(refuse(format!(
            "{} is not removable, so it may be a disk of this machine; if you are sure, give --allow-fixed-disk",
            disk.about()
        )));
    }
    if disk.attribute("ro").as_deref() == Some("1") {
        return Err(refuse(
            "it is write-protected: look at the switch on the card".into(),
        ));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlags::EXCL.bits().cast_signed())
        .open(path)
        .map_err(|source| match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => refuse(
                "the kernel says that something uses it: unmount it, here and in containers".into(),
            ),
            Some(code) if code == rustix::io::Errno::NOMEDIUM.raw_os_error() => {
                refuse("there is no card in it".into())
            }
            _ => FlashError::OpenTarget {
                path: path.to_owned(),
                source,
            },
        })?;
    let fail = |source| FlashError::OpenTarget {
        path: path.to_owned(),
        source,
    };
    let stat = rustix::fs::fstat(&file).map_err(|e| fail(e.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice || stat.st_rdev != rdev {
        return Err(refuse(
            "it became another device while it was looked at: try again".into(),
        ));
    }
    let bytes = (&file).seek(SeekFrom::End(0)).map_err(fail)?;
    if bytes == 0 {
        return Err(refuse("it has no size: there is no card in it".into()));
    }
    Ok(Target {
        path: path.to_owned(),
        file,
        device_bytes: Some(bytes),
        about: Some(disk.about()),
        part: None,
        finished: false,
    })
}

/// A block device as sysfs shows it.
#[derive(Debug)]
struct Disk {
    sysfs: PathBuf,
    whole: bool,
    removable: bool,
    /// `major:minor` and name, of itself and of its partitions.
    parts: Vec<(String, String)>,
    holders: Vec<String>,
}

impl Disk {
    fn find(rdev: u64) -> io::Result<Self> {
        let number = number(rdev);
        let sysfs = fs::canonicalize(format!("/sys/dev/block/{number}"))?;
        let whole = !sysfs.join("partition").exists();
        let mut parts = vec![(number, name_of(&sysfs))];
        let mut holders = names_in(&sysfs.join("holders"));
        for entry in fs::read_dir(&sysfs)?.flatten() {
            let dir = entry.path();
            if dir.join("partition").exists() {
                let dev = fs::read_to_string(dir.join("dev"))?;
                parts.push((dev.trim().into(), name_of(&dir)));
                holders.extend(names_in(&dir.join("holders")));
            }
        }
        let name = name_of(&sysfs);
        let text = sysfs.to_string_lossy().into_owned();
        // Card readers on a board's own bus call their cards fixed. eMMC is
        // soldered on, so not every mmcblk is a card.
        let kind = fs::read_to_string(sysfs.join("device/type")).unwrap_or_default();
        let removable = fs::read_to_string(sysfs.join("removable")).is_ok_and(|r| r.trim() == "1")
            || text.contains("/usb")
            || name.starts_with("loop")
            || name.starts_with("mmcblk") && kind.trim() == "SD";
        Ok(Self {
            sysfs,
            whole,
            removable,
            parts,
            holders,
        })
    }

    fn attribute(&self, name: &str) -> Option<String> {
        let text = fs::read_to_string(self.sysfs.join(name)).ok()?;
        Some(text.trim().to_string()).filter(|t| !t.is_empty())
    }

    /// `/dev/sdb (SanDisk Ultra, 32 GB)`.
    fn about(&self) -> String {
        let sectors: u64 = self
            .attribute("size")
            .and_then(|s| s.parse().ok())
            .unwrap_or(0);
        let words = ["device/vendor", "device/model", "device/name"].map(|a| self.attribute(a));
        let mut words: Vec<String> = words.into_iter().flatten().collect();
        words.push(super::gigabytes(
            sectors.saturating_mul(super::table::SECTOR),
        ));
        format!("/dev/{} ({})", name_of(&self.sysfs), words.join(", "))
    }

    /// Why it must not be written to, with the remedy.
    fn in_use(&self, tables: &Tables) -> Option<String> {
        if !self.whole {
            let parent = self.sysfs.parent().map(name_of).unwrap_or_default();
            return Some(format!(
                "it is a partition, and an image is of a whole disk: give /dev/{parent}"
            ));
        }
        for (number, name) in &self.parts {
            let mut mounts: Vec<&str> = tables.mounts_of(number, name).collect();
            mounts.sort();
            if let Some(point) = mounts.iter().find(|m| SYSTEM_MOUNTS.contains(m)) {
                return Some(format!(
                    "/dev/{name} is mounted at {point}: this disk holds the system that runs here"
                ));
            }
            if let Some(point) = mounts.first() {
                return Some(format!(
                    "/dev/{name} is mounted at {point}: 'umount {point}' first"
                ));
            }
            if tables.is_swap(number, name) {
                return Some(format!("/dev/{name} is swap: 'swapoff /dev/{name}' first"));
            }
        }
        let holder = self.holders.first()?;
        Some(format!(
            "/dev/{holder} is made from it (LVM, encryption or RAID): it holds data that is in use"
        ))
    }
}

fn number(rdev: u64) -> String {
    format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev))
}

fn name_of(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn names_in(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

/// What the kernel says is in use.
#[derive(Debug, Default)]
struct Tables {
    /// `major:minor`, source, mount point.
    mounts: Vec<(String, String, String)>,
    /// `major:minor` or empty, path.
    swaps: Vec<(String, String)>,
}

impl Tables {
    fn of_system() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let dev = |path: &str| {
            let meta = fs::metadata(path).ok()?;
            meta.file_type()
                .is_block_device()
                .then(|| number(meta.rdev()))
        };
        Self::parse(&read("/proc/self/mountinfo"), &read("/proc/swaps"), dev)
    }

    fn parse(mountinfo: &str, swaps: &str, dev: impl Fn(&str) -> Option<String>) -> Self {
        let mount = |line: &str| {
            let (head, tail) = line.split_once(" - ")?;
            let mut head = head.split(' ').skip(2);
            let (number, point) = (head.next()?, head.nth(1)?);
            let source = tail.split(' ').nth(1)?;
            // btrfs shows a number of its own: the source knows better.
            let number = dev(source).unwrap_or_else(|| number.into());
            Some((number, source.into(), unescaped(point)))
        };
        let swap = |line: &str| {
            let path = line.split_whitespace().next()?;
            path.starts_with('/')
                .then(|| (dev(path).unwrap_or_default(), path.into()))
        };
        Self {
            mounts: mountinfo.lines().filter_map(mount).collect(),
            swaps: swaps.lines().skip(1).filter_map(swap).collect(),
        }
    }

    fn mounts_of<'a>(&'a self, number: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
        let path = format!("/dev/{name}");
        self.mounts
            .iter()
            .filter(move |(n, source, _)| n == number || *source == path)
            .map(|(_, _, point)| point.as_str())
    }

    fn is_swap(&self, number: &str, name: &str) -> bool {
        let path = format!("/dev/{name}");
        self.swaps.iter().any(|(n, p)| n == number || *p == path)
    }
}

/// Spaces in a mount point are octal there.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:2 / / rw,relatime shared:1 - ext4 /dev/sda2 rw
23 22 8:1 / /boot/efi rw - vfat /dev/sda1 rw
40 22 0:55 /@ /mnt/my\\040card rw shared:9 - btrfs /dev/sdc1 rw
";
    const SWAPS: &str =
        "Filename Type Size Used Priority\n/dev/sda3 partition 1 0 -2\n/swapfile file 1 0 -3\n";

    fn dev(path: &str) -> Option<String> {
        match path {
            "/dev/sda2" => Some("8:2".into()),
            "/dev/sda3" => Some("8:3".into()),
            "/dev/sdc1" => Some("8:33".into()),
            _ => None,
        }
    }

    fn disk(whole: bool, parts: &[(&str, &str)], holders: &[&str]) -> Disk {
        Disk {
            sysfs: "/sys/block/sda".into(),
            whole,
            removable: true,
            parts: parts
                .iter()
                .map(|(n, p)| (n.to_string(), p.to_string()))
                .collect(),
            holders: holders.iter().map(|h| h.to_string()).collect(),
        }
    }

    #[test]
    fn whatever_is_used_is_refused_and_says_by_what() {
        let tables = Tables::parse(MOUNTS, SWAPS, dev);
        for (disk, expected) in [
            (
                disk(true, &[("8:0", "sda"), ("8:2", "sda2")], &[]),
                Some("mounted at /: this disk holds the system"),
            ),
            (
                disk(true, &[("8:0", "sda"), ("8:3", "sda3")], &[]),
                Some("is swap"),
            ),
            // Known by its source, as its number is btrfs's own.
            (
                disk(true, &[("8:32", "sdc"), ("8:33", "sdc1")], &[]),
                Some("/mnt/my card"),
            ),
            (
                disk(true, &[("8:48", "sdd")], &["dm-0"]),
                Some("/dev/dm-0 is made from it"),
            ),
            (
                disk(false, &[("8:49", "sdd1")], &[]),
                Some("it is a partition"),
            ),
            (disk(true, &[("8:48", "sdd"), ("8:49", "sdd1")], &[]), None),
        ] {
            let said = disk.in_use(&tables);
            match expected {
                Some(text) => assert!(said.as_ref().is_some_and(|s| s.contains(text)), "{said:?}"),
                None => assert_eq!(said, None),
            }
        }
    }
}
