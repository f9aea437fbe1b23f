//! The system's two slots, for updates of the whole system.
//!
//! Which slot starts is one number in `autoboot.txt` on the card's first
//! partition, read by the Raspberry Pi's firmware; its other section is taken
//! once, after `reboot "0 tryboot"`. So a system on trial that crashes, hangs
//! or loses power is followed by the confirmed one without a line of code.
//!
//! What is on trial is remembered on the data partition, so that the system
//! that comes back can say what happened.

use super::disk::{self, Card, DATA, SLOTS};
use super::{KEPT_DIR, RUN_DIR, say};
use nix::mount::MsFlags;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What a restart tells the firmware for a trial.
pub const TRYBOOT: &str = "0 tryboot";
/// Bytes of `autoboot.txt`: one sector, so that writing it anew in place is the
/// old text or the new one, whenever the power goes.
const AUTOBOOT_BYTES: usize = 512;
/// Longest state file.
const MAX_STATE_BYTES: u64 = 16 * 1024;
/// Where the card's first partition is mounted while it is used.
const BOOT_DIR: &str = "/run/skerry-init/card";
/// The word for the restart, for [`super::system`].
pub const RESTART_WORD: &str = "restart-word";

/// What the board's own bootloader can do, as 32 bits; boards before the
/// Raspberry Pi 4 have none, theirs comes with our card.
const CAPABILITIES: &str = "/proc/device-tree/chosen/bootloader/capabilities";
/// The bit of "TRYBOOT_A_B", in bootloaders since October 2022.
const CAN_TRY: u32 = 1 << 2;
/// Whether this start is the one after `reboot "0 tryboot"`.
const IS_TRY: &str = "/proc/device-tree/chosen/bootloader/tryboot";

/// What the firmware says in a cell of its device tree; `None` where it says
/// nothing of the kind.
fn firmware_says(path: &str) -> Option<u32> {
    let cell = <[u8; 4]>::try_from(fs::read(path).ok()?).ok()?;
    Some(u32::from_be_bytes(cell))
}

/// Why this board would not take the other slot once, and come back by itself.
pub fn why_not_try() -> Option<&'static str> {
    why_not(firmware_says(CAPABILITIES))
}

fn why_not(capabilities: Option<u32>) -> Option<&'static str> {
    // Nothing at all is no answer.
    capabilities.filter(|bits| *bits != 0 && bits & CAN_TRY == 0).map(|_| {
        "this board's bootloader is older than October 2022 and cannot try a system once: start Raspberry Pi OS on it, 'sudo rpi-eeprom-update -a && sudo reboot', put this card back, and order it again"
    })
}

/// Whether the firmware was to try the other slot and took this one, which is
/// confirmed.
pub fn was_not_tried() -> bool {
    firmware_says(IS_TRY) == Some(1)
}

/// What is on trial or was, kept on the data partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrialRecord {
    /// The slot that is tried.
    pub slot: u32,
    /// What it should be.
    pub version: String,
    /// Seconds that it has to be confirmed.
    pub confirm_secs: u32,
    /// Whether [`Slots`](crate::update::slot::Slots) said to try it; before
    /// that it is installed only.
    pub tried: bool,
    /// Why it was given up, if somebody said so.
    pub reason: Option<String>,
}

/// Where this machine runs from, written by init for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Here {
    /// The card's disk.
    pub disk: PathBuf,
    /// The slot in use.
    pub slot: u32,
    /// The slot that starts when nobody says otherwise.
    pub confirmed: u32,
}

/// Replaces a file: the old one or the new one is there, whatever happens.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    fs::create_dir_all(dir)?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    File::open(dir)?.sync_all()
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = String::new();
    let file = File::open(path).ok()?;
    file.take(MAX_STATE_BYTES).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

/// The file that init leaves for the agent.
pub fn here_file() -> PathBuf {
    Path::new(RUN_DIR).join("slot.json")
}

fn record_file() -> PathBuf {
    Path::new(KEPT_DIR).join("os-trial.json")
}

/// Where this machine runs from; `None` if it is not our image.
pub fn here() -> Option<Here> {
    read_json(&here_file())
}

/// Leaves that for the agent, and for init.
pub fn tell(here: &Here) -> io::Result<()> {
    let text = serde_json::to_vec(here).map_err(io::Error::other)?;
    // In memory: it is written anew at every start.
    let new = here_file().with_extension("new");
    fs::write(&new, text)?;
    fs::rename(&new, here_file())
}

/// Asks init to end everything in order and to start the machine anew.
pub fn ask_for_restart() -> io::Result<()> {
    let init = nix::unistd::Pid::from_raw(1);
    Ok(nix::sys::signal::kill(
        init,
        nix::sys::signal::Signal::SIGTERM,
    )?)
}

/// What is or was on trial.
pub fn record() -> Option<TrialRecord> {
    read_json(&record_file())
}

/// Remembers it, or forgets it.
pub fn keep(record: Option<&TrialRecord>) -> io::Result<()> {
    match record {
        Some(record) => {
            let text = serde_json::to_vec(record).map_err(io::Error::other)?;
            replace(&record_file(), &text)
        }
        None => match fs::remove_file(record_file()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => File::open(KEPT_DIR)?.sync_all(),
        },
    }
}

/// The slot that a text of `autoboot.txt` starts without the flag.
pub fn confirmed_in(text: &str) -> Option<u32> {
    let mut open = true;
    let mut found = None;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            open = line == "[all]";
        } else if let (true, Some(number)) = (open, line.strip_prefix("boot_partition=")) {
            found = number.parse().ok().filter(|slot| SLOTS.contains(slot));
        }
    }
    found
}

/// `autoboot.txt` for a confirmed slot: as long as any other.
pub fn autoboot(confirmed: u32) -> [u8; AUTOBOOT_BYTES] {
    let other = other_slot(confirmed);
    let text = format!(
        "[all]\ntryboot_a_b=1\nboot_partition={confirmed}\n[tryboot]\nboot_partition={other}\n"
    );
    let mut bytes = [b'\n'; AUTOBOOT_BYTES];
    bytes[..text.len()].copy_from_slice(text.as_bytes());
    bytes
}

/// The one that is not this one.
pub fn other_slot(slot: u32) -> u32 {
    if slot == SLOTS[0] { SLOTS[1] } else { SLOTS[0] }
}

/// Does something with the card's first partition mounted.
pub fn with_boot_partition<T>(
    card: &Card,
    writable: bool,
    work: impl FnOnce(&Path) -> io::Result<T>,
) -> io::Result<T> {
    let place = Path::new(BOOT_DIR);
    let flags = MsFlags::MS_NOATIME
        | if writable {
            MsFlags::MS_SYNCHRONOUS
        } else {
            MsFlags::MS_RDONLY
        };
    disk::attach(&card.partition(1), place, "vfat", flags, "umask=077")?;
    let result = work(place);
    let taken = nix::mount::umount(place).map_err(io::Error::from);
    result.and_then(|value| taken.map(|()| value))
}

/// Makes a slot the one that starts, by one sector written in place.
pub fn confirm(card: &Card, slot: u32) -> io::Result<()> {
    with_boot_partition(card, true, |place| {
        let path = place.join("autoboot.txt");
        let mut file = File::options().read(true).write(true).open(&path)?;
        if file.metadata()?.len() != AUTOBOOT_BYTES as u64 {
            return Err(io::Error::other(
                "autoboot.txt is not the 512 bytes that it was made with: flash the card anew, or write it as in docs/decisions/0020",
            ));
        }
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&autoboot(slot))?;
        file.sync_all()
    })
}

/// Copies a system into a slot's partition and reads it back.
pub fn write_slot(card: &Card, slot: u32, artifact: &Path) -> io::Result<()> {
    let mut from = File::open(artifact)?;
    let path = card.partition(slot);
    let mut to = File::options().read(true).write(true).open(&path)?;
    let room = super::sys::device_bytes(&to)?;
    let bytes = from.metadata()?.len();
    if bytes > room {
        return Err(io::Error::other(format!(
            "the system has {bytes} bytes, a slot of this card {room}: flash the card anew"
        )));
    }
    // The first sector last: until then the slot is no file system, and the
    // firmware takes the other one.
    let mut first = vec![0; AUTOBOOT_BYTES];
    from.read_exact(&mut first)?;
    to.write_all(&vec![0; AUTOBOOT_BYTES])?;
    io::copy(&mut from, &mut to)?;
    to.sync_all()?;
    to.seek(SeekFrom::Start(0))?;
    to.write_all(&first)?;
    to.sync_all()?;
    same(&mut from, &mut to)
}

fn same(from: &mut File, to: &mut File) -> io::Result<()> {
    // What is read must come from the card, not from memory.
    // The advice drops clean pages; where it is not taken, the comparison is
    // only weaker.
    let _ = nix::fcntl::posix_fadvise(
        std::os::fd::AsRawFd::as_raw_fd(to),
        0,
        0,
        nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED,
    );
    from.seek(SeekFrom::Start(0))?;
    to.seek(SeekFrom::Start(0))?;
    let (mut a, mut b) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        let count = from.read(&mut a)?;
        if count == 0 {
            return Ok(());
        }
        to.read_exact(&mut b[..count])?;
        if a[..count] != b[..count] {
            return Err(io::Error::other(
                "what was written to the card does not read back: the card is worn out, replace it",
            ));
        }
    }
}

/// For init at its start: where we are, and what became of a trial. Returns
/// the seconds that this system has to be confirmed, if it is on trial.
pub fn look(card: &Card, slot: u32, autoboot: Option<&str>) -> Option<u32> {
    let confirmed = autoboot.and_then(confirmed_in).unwrap_or(slot);
    let here = Here {
        disk: card.disk.clone(),
        slot,
        confirmed,
    };
    if let Err(error) = tell(&here) {
        say::trouble(&format!("{}: {error}", here_file().display()));
    }
    if slot == confirmed {
        return None;
    }
    let secs = record().filter(|r| r.tried && r.slot == slot);
    Some(secs.map_or(DEFAULT_CONFIRM_SECS, |r| r.confirm_secs))
}

/// A trial that nobody said a time for: somebody wrote the slot by hand.
const DEFAULT_CONFIRM_SECS: u32 = 600;

/// The data partition is not a slot.
const _: () = assert!(DATA != SLOTS[0] && DATA != SLOTS[1]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn autoboot_says_what_was_confirmed() {
        for slot in SLOTS {
            let bytes = autoboot(slot);
            let text = std::str::from_utf8(&bytes).expect("text");
            assert_eq!(confirmed_in(text), Some(slot));
            assert!(text.contains("tryboot_a_b=1"));
            let tried = format!("[tryboot]\nboot_partition={}\n", other_slot(slot));
            assert!(text.contains(&tried));
        }
        let shipped = include_str!("../../../cross/image/files/autoboot.txt");
        let fresh = autoboot(SLOTS[0]);
        assert!(
            std::str::from_utf8(&fresh)
                .expect("text")
                .starts_with(shipped)
        );
    }

    #[test]
    fn a_bootloader_that_cannot_try_is_known_before() {
        // None; nothing; of 2023, as it says so itself; and before tryboot_a_b.
        for can in [None, Some(0), Some(0x7f), Some(CAN_TRY)] {
            assert_eq!(why_not(can), None, "{can:?}");
        }
        for cannot in [0x3, 0x1b] {
            let reason = why_not(Some(cannot)).expect("a reason");
            assert!(reason.contains("rpi-eeprom-update"), "{reason}");
        }
    }

    #[test]
    fn a_file_that_says_nothing_confirms_nothing() {
        for text in [
            "",
            "[tryboot]\nboot_partition=3\n",
            "boot_partition=7\n",
            "boot_partition=x",
        ] {
            assert_eq!(confirmed_in(text), None, "{text}");
        }
    }

    #[test]
    fn a_slot_is_written_whole_or_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, vec![7; 100_000]).expect("written");
        fs::write(&b, vec![7; 100_000]).expect("written");
        let open = |path: &Path| {
            File::options()
                .read(true)
                .write(true)
                .open(path)
                .expect("opens")
        };
        same(&mut open(&a), &mut open(&b)).expect("the same");
        let mut other = vec![7; 100_000];
        other[70_000] = 8;
        fs::write(&b, other).expect("written");
        assert!(same(&mut open(&a), &mut open(&b)).is_err());
        replace(&dir.path().join("x/file"), b"text").expect("replaced");
        assert_eq!(fs::read(dir.path().join("x/file")).expect("read"), b"text");
    }
}
