//! Why the machine started last.
//!
//! `/dev/watchdog` is never opened for it: opening starts the watchdog, and
//! closing it the wrong way resets the machine. What its driver knows is in
//! sysfs too.

use super::Host;
use std::fs;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// A watchdog driver's `bootstatus` (linux/watchdog.h, WDIOF_*).
const WATCHDOG_BITS: [(i64, &str); 4] = [
    (0x20, "watchdog"),
    (0x01, "overheating"),
    (0x10, "under-voltage"),
    (0x40, "over-voltage"),
];

/// What the power chip of a Raspberry Pi 5 says of its own reset.
const POWER_CHIP_BITS: [(i64, &str); 4] = [
    (1 << 4, "watchdog"),
    (1 << 2, "overheating"),
    (1 << 1, "under-voltage"),
    (1, "over-voltage"),
];

/// PM_RSTS of the BCM283x: full reset by its watchdog, which `reboot` uses
/// too. Its neighbours hold the partition to boot from and tell nothing.
const RSTS_WATCHDOG: u32 = 0x20;
/// Full reset by software.
const RSTS_SOFTWARE: u32 = 0x200;
/// Power on. Stays set over later resets, so it is looked at last.
const RSTS_POWER_ON: u32 = 0x1000;

fn named(bits: i64, names: &[(i64, &'static str)]) -> Option<&'static str> {
    let found = names.iter().find(|(bit, _)| bits & bit != 0);
    found.map(|(_, name)| *name)
}

/// Where a kernel's last words are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanicNote {
    /// The file or directory, below the root.
    pub path: String,
    /// Whether it is of the start before this one: the kernel's own memory for
    /// it is emptied by whoever keeps its notes.
    pub is_new: bool,
}

/// Where `systemd-pstore` moves the kernel's notes to, as it does at each start
/// of Debian, Raspberry Pi OS and Ubuntu.
const KEPT: &str = "var/lib/systemd/pstore";
/// What a clock may be off by between two files of one start, in seconds.
const SAME_START_SECS: u64 = 60;

/// What a kernel wrote as it died, if it is still there.
pub fn panic_record(host: &Host) -> Option<PanicNote> {
    let is_note = |name: &String| name.starts_with("dmesg");
    let names = host.names("sys/fs/pstore");
    if let Some(name) = names.into_iter().find(is_note) {
        let path = format!("sys/fs/pstore/{name}");
        return Some(PanicNote { path, is_new: true });
    }
    let kept = host.names(KEPT);
    let mut notes = kept.into_iter().filter_map(|name| {
        let path = format!("{KEPT}/{name}");
        let has = is_note(&name) || host.names(&path).iter().any(is_note);
        has.then(|| (modified_secs(&host.path(&path)), path))
    });
    let first = notes.next()?;
    let (secs, path) = notes.fold(first, |a, b| if b.0 > a.0 { b } else { a });
    let is_new =
        started_secs(host).is_some_and(|started| secs.saturating_add(SAME_START_SECS) >= started);
    Some(PanicNote { path, is_new })
}

fn modified_secs(path: &Path) -> u64 {
    let modified = fs::metadata(path).and_then(|of| of.modified());
    let since = modified
        .ok()
        .and_then(|t| t.duration_since(UNIX_EPOCH).ok());
    since.map_or(0, |since| since.as_secs())
}

/// When the kernel started, by its wall clock.
fn started_secs(host: &Host) -> Option<u64> {
    let text = host.text("proc/stat");
    let line = text.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|secs| secs.trim().parse().ok())
}

fn by_watchdog(host: &Host) -> Option<&'static str> {
    let dogs = host.names("sys/class/watchdog");
    dogs.iter().find_map(|dog| {
        let bits = host.number(&format!("sys/class/watchdog/{dog}/bootstatus"))?;
        named(bits, &WATCHDOG_BITS)
    })
}

fn by_firmware(host: &Host) -> Option<&'static str> {
    let chip = host.cell("proc/device-tree/chosen/power/power_reset");
    if let Some(reason) = named(i64::from(chip.unwrap_or(0)), &POWER_CHIP_BITS) {
        return Some(reason);
    }
    let paths = ["bootloader/rsts", "bootloader/pm_rsts", "pm_rsts"];
    let mut cells = paths
        .iter()
        .filter_map(|path| host.cell(&format!("proc/device-tree/chosen/{path}")));
    let bits = cells.next()?;
    match bits {
        bits if bits & RSTS_WATCHDOG != 0 => Some("reboot or watchdog"),
        bits if bits & RSTS_SOFTWARE != 0 => Some("reboot"),
        bits if bits & RSTS_POWER_ON != 0 => Some("power on"),
        _ => None,
    }
}

/// The reason in words, or nothing where the machine does not tell.
pub(super) fn last_reset(host: &Host) -> &'static str {
    if panic_record(host).is_some_and(|note| note.is_new) {
        return "kernel panic";
    }
    by_watchdog(host)
        .or_else(|| by_firmware(host))
        .unwrap_or_default()
}
