//! Why the machine started last.
//!
//! `/dev/watchdog` is never opened for it: opening starts the watchdog, and
//! closing it the wrong way resets the machine. What its driver knows is in
//! sysfs too.

use super::Host;

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

/// The file that a kernel wrote as it died, if it is still there.
pub fn panic_record(host: &Host) -> Option<String> {
    let names = host.names("sys/fs/pstore");
    names.into_iter().find(|name| name.starts_with("dmesg-"))
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
    // Boards before the Pi 4 have it one step higher.
    let bits = host
        .cell("proc/device-tree/chosen/bootloader/rsts")
        .or_else(|| host.cell("proc/device-tree/chosen/pm_rsts"))?;
    match bits {
        bits if bits & RSTS_WATCHDOG != 0 => Some("reboot or watchdog"),
        bits if bits & RSTS_SOFTWARE != 0 => Some("reboot"),
        bits if bits & RSTS_POWER_ON != 0 => Some("power on"),
        _ => None,
    }
}

/// The reason in words, or nothing where the machine does not tell.
pub(super) fn last_reset(host: &Host) -> &'static str {
    if panic_record(host).is_some() {
        return "kernel panic";
    }
    by_watchdog(host)
        .or_else(|| by_firmware(host))
        .unwrap_or_default()
}
