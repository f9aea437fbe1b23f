//! Does something vouch for the wall clock? Only CronJobs ask: they do not start
//! from a clock that somebody only guessed, as a board without a battery does
//! after a power cut.

use super::adjtimex;
use super::clock::FIRST_SECS;
use crate::facts::Host;

/// A clock chip that is off by more has been without power, in seconds.
const CHIP_AGREES_SECS: u64 = 10 * 60;

/// Whether this can be the time at all.
pub fn is_plausible(secs: u64) -> bool {
    secs >= FIRST_SECS
}

/// Whether this machine's clock, which says so many seconds since 1970, can be
/// believed: NTP keeps it, a clock chip says the same, or it is a virtual
/// machine's, which has it from its host.
pub fn is_clock_trusted(host: &Host, secs: u64) -> bool {
    judged(host, secs, adjtimex::is_synchronised())
}

fn judged(host: &Host, secs: u64, synchronised: Option<bool>) -> bool {
    if !is_plausible(secs) {
        return false;
    }
    let chip_agrees = || {
        let chips = host.names("sys/class/rtc");
        chips.iter().any(|chip| {
            let said = host.line(&format!("sys/class/rtc/{chip}/since_epoch"));
            let said = said.trim().parse::<u64>();
            said.is_ok_and(|said| said.abs_diff(secs) <= CHIP_AGREES_SECS)
        })
    };
    let is_virtual = || {
        let cpus = host.text("proc/cpuinfo");
        let flags = cpus.lines().find(|line| line.starts_with("flags"));
        flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
    };
    synchronised == Some(true) || chip_agrees() || is_virtual()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    const NOW: u64 = 1_800_000_000;

    #[test]
    fn a_clock_is_believed_if_something_vouches_for_it() {
        let none = Tree::new(&[("proc/cpuinfo", b"flags\t\t: fpu vme\n")]);
        assert!(judged(&none.host(), NOW, Some(true)));
        assert!(!judged(&none.host(), NOW, Some(false)), "guessed");
        assert!(!judged(&none.host(), NOW, None));
        assert!(!judged(&none.host(), 40, Some(true)), "1970");
        let chip = Tree::new(&[("sys/class/rtc/rtc0/since_epoch", b"1800000003\n")]);
        assert!(judged(&chip.host(), NOW, Some(false)));
        let no_battery = Tree::new(&[("sys/class/rtc/rtc0/since_epoch", b"42\n")]);
        assert!(!judged(&no_battery.host(), NOW, Some(false)));
        let guest = Tree::new(&[("proc/cpuinfo", b"flags\t\t: fpu hypervisor lm\n")]);
        assert!(judged(&guest.host(), NOW, Some(false)));
    }
}
