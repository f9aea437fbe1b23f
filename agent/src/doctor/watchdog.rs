//! Does something start the machine again when it hangs? Only looked at: who
//! opens `/dev/watchdog` starts it.

use super::{Finding, Verdict};
use crate::facts::{Host, is_raspberry_pi};

const KIND: &str = "NoWatchdog";

/// Looks for a watchdog, and whether somebody feeds it.
pub fn find(host: &Host) -> Finding {
    let dogs = host.names("sys/class/watchdog");
    let Some(dog) = dogs.first() else {
        // What stands below a filter such as [cm5] is for that board alone.
        let remedy = match is_raspberry_pi(host) {
            true if host.has("boot/firmware/config.txt") => {
                "printf '\\n[all]\\ndtparam=watchdog=on\\n' >> /boot/firmware/config.txt && reboot"
            }
            true => "printf '\\n[all]\\ndtparam=watchdog=on\\n' >> /boot/config.txt && reboot",
            false => "modprobe softdog && echo softdog > /etc/modules-load.d/softdog.conf",
        };
        let text = "no watchdog: if the machine hangs, it stays so";
        return Finding::new(KIND, Verdict::Poor, text, remedy);
    };
    let of = |file: &str| host.line(&format!("sys/class/watchdog/{dog}/{file}"));
    let name = match of("identity") {
        name if name.is_empty() => dog.clone(),
        name => name,
    };
    if of("state") != "inactive" {
        return Finding::good(KIND, format!("watchdog: {name}"));
    }
    let remedy = match host.has("run/systemd/system") {
        true => {
            "mkdir -p /etc/systemd/system.conf.d && printf '[Manager]\\nRuntimeWatchdogSec=15\\n' > /etc/systemd/system.conf.d/watchdog.conf && systemctl daemon-reexec"
        }
        false => "start a watchdog daemon (busybox: watchdog -T 15 /dev/watchdog)",
    };
    let text = format!("nobody uses the watchdog ({name}): if the machine hangs, it stays so");
    Finding::new(KIND, Verdict::Poor, text, remedy)
}
