//! A disk that takes no writes, as a worn-out card, or ext4 after an error:
//! memory is laid over our data directory, so that what is on the disk goes on
//! being used and what is new goes to memory, until the machine starts anew.
//!
//! ```text
//! <place>                 an overlay: what is on the disk below, memory above
//!   containers/           memory alone: writable layers cannot be on an overlay
//! <memory>/upper, work, containers
//! ```
//!
//! Our image's init does so for the whole data partition, of which the agent's
//! directory is a part; what is said of a place below holds for it, too.
//!
//! Whatever is here is lost with the power, the count of the agent's starts
//! among it: the hub then says where to go on
//! ([`CountOn`](skerry_wire::message::CommandBody::CountOn)).

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{AccessFlags, access};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// What the kernel's table of mounts calls it.
const SOURCE: &str = "skerry-memory";
/// Of the machine's memory, for all that is written: what is taken here is
/// taken from the apps that run.
const OPTIONS: &str = "size=25%,mode=0700";
/// Writable layers of containers.
const CONTAINERS: &str = "containers";
/// Written and taken away, to see what the disk says to it.
const PROBE: &str = ".written";

/// Whether memory was laid over this directory, or over one that it is in.
pub fn is_laid(place: &Path) -> bool {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    fs::canonicalize(place).is_ok_and(|place| is_laid_in(&table, &place))
}

fn is_laid_in(table: &str, place: &Path) -> bool {
    let above = mounts(table).filter(|(point, _)| place.starts_with(point));
    // The nearest, and of those at one point the last.
    let nearest = above.max_by_key(|(point, _)| point.components().count());
    nearest.is_some_and(|(_, tail)| tail.starts_with(&format!("overlay {SOURCE} ")))
}

/// Points of a table of mounts, each with its file system and what follows.
fn mounts(table: &str) -> impl Iterator<Item = (PathBuf, &str)> {
    table.lines().filter_map(|line| {
        let (head, tail) = line.split_once(" - ")?;
        let point = crate::machine::unescape(head.split(' ').nth(4)?);
        Some((point, tail))
    })
}

/// Whether the disk is mounted read-only: seen without writing.
pub fn is_read_only(dir: &Path) -> bool {
    access(dir, AccessFlags::W_OK) == Err(Errno::EROFS)
}

/// Why the disk of a directory takes no writes; `None` where it does, and
/// where it only has no room. To be asked after a failure, for it writes.
pub fn refusal(dir: &Path) -> Option<io::Error> {
    let path = dir.join(PROBE);
    let written = File::create(&path).and_then(|mut file| {
        file.write_all(b"?")?;
        file.sync_all()
    });
    let _ = fs::remove_file(&path);
    written.err().filter(is_of_the_disk)
}

/// Whether a disk that works never says so. ext4 says the first (since Linux
/// 6.15 without being mounted read-only) and the second of one that fails, the
/// others are of one that is gone or whose metadata make no sense.
fn is_of_the_disk(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::EROFS
                | Errno::EIO
                | Errno::EUCLEAN
                | Errno::ENXIO
                | Errno::ENODEV
                | Errno::ENOMEDIUM
                | Errno::EREMOTEIO
        )
    )
}

/// What people are told of it.
pub fn words(place: &Path) -> String {
    format!(
        "the disk of {} takes no writes: apps run from what is on it, and WHAT IS NEW IS IN MEMORY AND LOST AT THE NEXT POWER CUT",
        place.display()
    )
}

/// What people can do about it.
pub fn remedy() -> String {
    "dmesg | grep -i error   # then replace the card, or fsck it in another machine, and restart this one".into()
}

/// Both, in one line.
pub fn told(place: &Path) -> String {
    format!("{}; {}", words(place), remedy())
}

/// What init says of our image's data partition where it is not used as it
/// should be: memory over it, or in its place.
pub fn told_by_init() -> Option<String> {
    fs::read_to_string(Path::new(crate::init::RUN_DIR).join("data-condition")).ok()
}

/// Why what is meant for good is not done now; `None` where the disk keeps it.
pub fn why_not_for_good(place: &Path) -> Option<String> {
    let why = told_by_init().or_else(|| is_laid(place).then(|| told(place)))?;
    Some(format!("the next start would undo it: {why}"))
}

/// Lays memory over what `lower` holds, seen at `place`, which may be the same
/// directory. `data_dir` is the agent's: `place` or below. `memory` is where that
/// memory is mounted. What other disks hold below `place` stays in sight. All of
/// it is there when it returns, or nothing.
pub fn lay(lower: &Path, memory: &Path, place: &Path, data_dir: &Path) -> io::Result<()> {
    for path in [lower, memory] {
        if path.to_string_lossy().contains([',', ':', '\\']) {
            let text = format!("an overlay cannot be made of {}", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    fs::create_dir_all(memory)?;
    attach(SOURCE, memory, "tmpfs", MsFlags::empty(), OPTIONS)?;
    let laid = lay_on(lower, memory, place, data_dir);
    if laid.is_err() {
        let _ = umount2(memory, MntFlags::MNT_DETACH);
    }
    laid
}

fn lay_on(lower: &Path, memory: &Path, place: &Path, data_dir: &Path) -> io::Result<()> {
    let [upper, work, containers] = ["upper", "work", CONTAINERS].map(|name| memory.join(name));
    for dir in [&upper, &work, &containers] {
        fs::create_dir(dir)?;
    }
    // The root of an overlay looks as the upper one does.
    fs::set_permissions(&upper, fs::metadata(lower)?.permissions())?;
    let below = mounts_below(place)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    attach(SOURCE, place, "overlay", MsFlags::empty(), &options)?;
    let inside = data_dir.join(CONTAINERS);
    let mut filled = fs::create_dir_all(&inside).and_then(|()| bind(&containers, &inside));
    for (point, dir) in below {
        let again = || {
            bind(
                Path::new(&format!("/proc/self/fd/{}", dir.as_raw_fd())),
                &point,
            )
        };
        filled = filled.and_then(|()| again());
    }
    if filled.is_err() {
        let _ = umount2(place, MntFlags::MNT_DETACH);
    }
    filled
}

/// What is mounted below a directory: the uppermost of each.
fn mounts_below(place: &Path) -> io::Result<Vec<(PathBuf, File)>> {
    let place = fs::canonicalize(place)?;
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    let mut points: Vec<PathBuf> = mounts(&table)
        .map(|(point, _)| point)
        .filter(|point| point.starts_with(&place) && *point != place)
        .collect();
    points.sort();
    points.dedup_by(|later, first| later.starts_with(first));
    let opened = points.into_iter().map(|point| {
        let dir = File::open(&point)?;
        Ok((point, dir))
    });
    opened.collect()
}

fn attach(source: &str, place: &Path, kind: &str, flags: MsFlags, options: &str) -> io::Result<()> {
    mount(Some(source), place, Some(kind), flags, Some(options)).map_err(io::Error::from)
}

fn bind(from: &Path, to: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(from), to, None::<&str>, flags, None::<&str>).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
25 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw
31 25 0:40 / /var/lib/my\\040agent rw shared:4 - overlay skerry-memory rw,lowerdir=/x
32 31 0:39 /containers /var/lib/my\\040agent/containers rw - tmpfs skerry-memory rw
33 25 0:41 / /srv rw - overlay skerry-memory rw,lowerdir=/srv
34 33 0:42 / /srv rw - ext4 /dev/sda1 rw
";

    #[test]
    fn only_the_uppermost_mount_counts() {
        let is = |place: &str| is_laid_in(TABLE, Path::new(place));
        assert!(is("/var/lib/my agent"));
        assert!(is("/var/lib/my agent/volumes/a"), "it is in one");
        assert!(!is("/var/lib/my agent/containers"));
        assert!(!is("/var/lib/my agent 2"));
        assert!(!is("/srv/agent"));
        assert!(!is("/var/lib"));
        assert!(!is("/srv"));
    }

    #[test]
    fn a_full_disk_is_none_that_takes_no_writes() {
        for errno in [Errno::ENOSPC, Errno::EDQUOT, Errno::EFBIG, Errno::EACCES] {
            assert!(!is_of_the_disk(&errno.into()), "{errno}");
        }
        for errno in [Errno::EROFS, Errno::EIO] {
            assert!(is_of_the_disk(&errno.into()), "{errno}");
        }
        let dir = tempfile::tempdir().expect("a directory");
        assert!(refusal(dir.path()).is_none());
        assert!(!dir.path().join(PROBE).exists());
        assert!(!is_laid(dir.path()));
    }
}
