//! What the firmware of a Raspberry Pi says of its power and heat.

use super::{Host, vcio};

/// The bits of [`Vitals::throttled`](skerry_wire::report::Vitals), from
/// whichever door there is: the firmware driver's own file, the mailbox, or
/// the voltage alarm of kernels that have neither, which is bit 0 only.
pub fn throttled(host: &Host) -> Option<u32> {
    by_file(host)
        .or_else(|| vcio::throttled(&host.path("dev/vcio")))
        .or_else(|| by_alarm(host))
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
