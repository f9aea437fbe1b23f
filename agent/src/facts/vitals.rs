//! What changes by the minute. Read only when it is told: an idle agent looks
//! at nothing.

use super::{Disk, Host, Space, memory, throttled};
use skerry_wire::report::Vitals;
use std::path::Path;

/// Thousandths of a degree that a working sensor can say.
const SENSIBLE: std::ops::Range<i64> = -60_000..200_000;

/// How the machine is now; what it does not tell is absent or 0. Quick:
/// nothing is written, no disk is asked.
pub fn vitals(host: &Host, data_dir: &Path) -> Vitals {
    let space = Space::around(data_dir);
    let wear = Disk::below(host, data_dir).and_then(|disk| disk.wear(host));
    let uptime = host.line("proc/uptime");
    let uptime = uptime.split('.').next().and_then(|secs| secs.parse().ok());
    Vitals {
        uptime_secs: uptime.unwrap_or(0),
        temperature_millis: temperature_millis(host),
        throttled: throttled(host),
        disk_wear_percent: wear.and_then(|wear| wear.used_percent),
        disk_free_bytes: space.map_or(0, |space| space.bytes),
        memory_available_bytes: memory_available_bytes(host),
    }
}

/// Memory that programs could still get.
pub fn memory_available_bytes(host: &Host) -> u64 {
    memory(host, "MemAvailable:")
}

/// The processor's temperature in thousandths of a degree Celsius: that of its
/// thermal zone, else of its sensor chip.
pub fn temperature_millis(host: &Host) -> Option<i32> {
    let sensible = |path: String| {
        let millis = host
            .number(&path)
            .filter(|millis| SENSIBLE.contains(millis))?;
        i32::try_from(millis).ok()
    };
    let zones = host.names("sys/class/thermal");
    let zones = zones.iter().filter(|name| name.starts_with("thermal_zone"));
    let of_processor = zones.filter(|zone| {
        let kind = host.line(&format!("sys/class/thermal/{zone}/type"));
        ["cpu", "soc", "x86_pkg_temp", "bcm2835", "coretemp"]
            .iter()
            .any(|word| kind.to_ascii_lowercase().contains(word))
    });
    let hottest = of_processor
        .filter_map(|zone| sensible(format!("sys/class/thermal/{zone}/temp")))
        .max();
    hottest.or_else(|| {
        let chips = host.names("sys/class/hwmon");
        let chips = chips.iter().filter(|chip| {
            let name = host.line(&format!("sys/class/hwmon/{chip}/name"));
            ["coretemp", "k10temp", "zenpower", "cpu_thermal"].contains(&name.as_str())
        });
        chips
            .filter_map(|chip| sensible(format!("sys/class/hwmon/{chip}/temp1_input")))
            .max()
    })
}
