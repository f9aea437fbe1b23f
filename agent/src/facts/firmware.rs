//! What the firmware of a Raspberry Pi says of its power and heat.

use super::{Host, vcio};

/// The bits of [`Vitals::throttled`](skerry_wire::report::Vitals), from
/// whichever door there is, the best first:
/// 1. the firmware's own answer as `vcgencmd` has it: what is so now, and what
///    was so since it started;
/// 2. the mailbox's: the driver of the voltage sensor asks there every two
///    seconds and has the past forgotten each time, so it tells little of that;
/// 3. that sensor's alarm, where kernels have no mailbox: bit 0 only;
/// 4. the firmware driver's own file, whose reading the kernel answers with a
///    warning and a stack in its log, once.
pub fn throttled(host: &Host) -> Option<u32> {
    // The first since 2026, for programs that are not root.
    let doors = ["dev/vcio_gencmd", "dev/vcio"];
    doors
        .iter()
        .find_map(|door| vcio::throttled_since_start(&host.path(door)))
        .or_else(|| vcio::throttled(&host.path("dev/vcio")))
        .or_else(|| by_alarm(host))
        .or_else(|| by_file(host))
}

/// Milliamperes that the supply of a Raspberry Pi 5 said it can give, where
/// that is so little that the board holds its USB ports down to 600 mA in all.
pub fn weak_supply_milliamps(host: &Host) -> Option<u32> {
    /// What the ports need to be let free.
    const ENOUGH: u32 = 5_000;
    let power = "proc/device-tree/chosen/power";
    let most = host.cell(&format!("{power}/max_current"))?;
    // Somebody may have said that it is enough all the same.
    let forced = host.cell(&format!("{power}/usb_max_current_enable")) == Some(1);
    (most > 0 && most < ENOUGH && !forced).then_some(most)
}

fn by_file(host: &Host) -> Option<u32> {
    let socs = host.names("sys/devices/platform");
    let socs = socs.iter().filter(|name| name.starts_with("soc"));
    socs.into_iter().find_map(|soc| {
        let line = host.line(&format!(
            "sys/devices/platform/{soc}/{soc}:firmware/get_throttled"
        ));
        u32::from_str_radix(line.trim_start_matches("0x"), 16).ok()
    })
}

fn by_alarm(host: &Host) -> Option<u32> {
    let chips = host.names("sys/class/hwmon");
    let volt = chips
        .iter()
        .find(|chip| host.line(&format!("sys/class/hwmon/{chip}/name")) == "rpi_volt")?;
    let alarm = host.number(&format!("sys/class/hwmon/{volt}/in0_lcrit_alarm"))?;
    Some(u32::from(alarm != 0))
}
