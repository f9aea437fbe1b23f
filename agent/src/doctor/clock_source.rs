//! Where does the clock's time come from: the network, a chip with a battery,
//! or nowhere?

use super::{Finding, Verdict, adjtimex};
use crate::facts::Host;

const KIND: &str = "ClockUnsynchronised";

/// What makes the network keep the clock here. Where a client runs already, as
/// Raspberry Pi OS has it, it reaches no time server, and to switch it on does
/// nothing.
pub(super) fn remedy(host: &Host) -> &'static str {
    const UNIT: &str = "systemd/system/systemd-timesyncd.service";
    let has_unit = || host.has(&format!("usr/lib/{UNIT}")) || host.has(&format!("lib/{UNIT}"));
    if host.has("run/systemd/timesync") {
        "timedatectl timesync-status; ip route   # does it reach a time server (UDP port 123)?"
    } else if host.has("run/chrony") {
        "chronyc sources; ip route   # does it reach a time server (UDP port 123)?"
    } else if !host.has("run/systemd/system") {
        "start an NTP client, such as chrony"
    } else if host.has("usr/sbin/chronyd") {
        // Ubuntu has it since 25.10; the unit has this name there and in Debian.
        "systemctl enable --now chrony"
    } else if host.has("usr/bin/timedatectl") && has_unit() {
        "timedatectl set-ntp true"
    } else if host.has("usr/bin/timedatectl") && host.has("usr/bin/apt-get") {
        "apt-get install -y systemd-timesyncd && timedatectl set-ntp true"
    } else {
        "install and start an NTP client, such as chrony"
    }
}

/// Asks the kernel whether somebody keeps its clock, and looks for chips.
pub fn find(host: &Host) -> Finding {
    judged(host, adjtimex::is_synchronised())
}

fn judged(host: &Host, synchronised: Option<bool>) -> Finding {
    let chips = host.names("sys/class/rtc");
    let chip = chips.first().map(|chip| {
        let name = host.line(&format!("sys/class/rtc/{chip}/name"));
        let name = name.split_whitespace().next().unwrap_or(chip);
        name.to_string()
    });
    match (synchronised, chip) {
        (Some(true), Some(chip)) => Finding::good(
            KIND,
            format!("NTP keeps the clock, and {chip} while it is off"),
        ),
        (Some(true), None) => Finding::good(
            KIND,
            "NTP keeps the clock; no clock chip: after a start it stands still until the network is there",
        ),
        (Some(false), Some(chip)) => Finding::new(
            KIND,
            Verdict::Poor,
            format!("nobody corrects the clock: it has its time from {chip} and drifts"),
            remedy(host),
        ),
        (Some(false), None) => Finding::new(
            KIND,
            Verdict::Poor,
            "nobody sets the clock: there is no clock chip, and no NTP has set it since the start",
            remedy(host),
        ),
        (None, _) => Finding::unknown(KIND, "the kernel does not say who keeps its clock"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::{Tree, pi_3};

    #[test]
    fn the_remedy_fits_what_is_installed_and_what_runs() {
        let on = |files: &[&str]| {
            let files: Vec<(&str, &[u8])> = files.iter().map(|f| (*f, &b""[..])).collect();
            let tree = Tree::new(&files);
            let without = remedy(&tree.host());
            assert!(!without.starts_with("timedatectl set") && !without.starts_with("apt"));
            tree.put("run/systemd/system/x", b"");
            remedy(&tree.host())
        };
        let tool = "usr/bin/timedatectl";
        let unit = "usr/lib/systemd/system/systemd-timesyncd.service";
        assert_eq!(on(&[tool, unit]), "timedatectl set-ntp true");
        let runs = on(&[tool, unit, "run/systemd/timesync/synchronized"]);
        assert!(runs.starts_with("timedatectl timesync-status"), "{runs}");
        let bare = on(&[tool, "usr/bin/apt-get"]);
        assert!(bare.starts_with("apt-get install"), "{bare}");
        assert!(on(&["run/chrony/chronyd.pid"]).starts_with("chronyc"));
        let stopped = on(&[tool, "usr/bin/apt-get", "usr/sbin/chronyd"]);
        assert_eq!(stopped, "systemctl enable --now chrony");
        assert!(on(&[]).contains("chrony"));
    }

    #[test]
    fn the_clocks_source_is_named() {
        let board = pi_3();
        assert_eq!(judged(&board.host(), Some(true)).verdict, Verdict::Good);
        let alone = judged(&board.host(), Some(false));
        assert!(alone.text.contains("no clock chip"), "{}", alone.text);
        assert!(alone.remedy.contains("chrony"));
        let chip = Tree::new(&[("sys/class/rtc/rtc0/name", b"rtc-ds1307 1-0068\n")]);
        let drifts = judged(&chip.host(), Some(false));
        assert!(
            drifts.text.contains("rtc-ds1307 and drifts"),
            "{}",
            drifts.text
        );
        assert_eq!(judged(&chip.host(), None).verdict, Verdict::Unknown);
    }
}
