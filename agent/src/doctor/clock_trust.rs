//! Does something vouch for the wall clock? Only CronJobs ask: they do not start
//! from a clock that somebody only guessed, as a board without a battery does
//! after a power cut.

use super::adjtimex;
use super::clock::FIRST_SECS;
use crate::core::Now;
use crate::facts::Host;
use crate::whole_file::replace;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

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

/// A clock that was believed once, in this boot. The kernel forgets within hours
/// that somebody kept it; a clock that has not been set since is still right,
/// for a device that is offline for long. Kept in the run directory, so that
/// the next agent knows it too.
///
/// ```text
/// <run dir>/clock     boot id, and milliseconds that the wall clock is ahead of the boot clock
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Believed {
    boot_id: String,
    ahead_ms: i128,
}

/// What a crystal is off by in some weeks, and a clock that was set is by more:
/// as much as for a clock chip.
const DRIFT_MS: u128 = CHIP_AGREES_SECS as u128 * 1_000;
/// Longest such file, in bytes: a boot id and a number.
const MAX_BELIEVED_BYTES: u64 = 128;

impl Believed {
    /// The file's name in the run directory.
    pub const FILE: &str = "clock";

    /// The clock as it is now, which is believed.
    pub fn new(boot_id: &str, now: Now) -> Self {
        Self {
            boot_id: boot_id.to_string(),
            ahead_ms: i128::from(now.wall.0) - i128::from(now.boot_ms),
        }
    }

    /// Whether the clock has not been set since.
    pub fn holds(&self, boot_id: &str, now: Now) -> bool {
        let is = Self::new(boot_id, now);
        !boot_id.is_empty()
            && is.boot_id == self.boot_id
            && is.ahead_ms.abs_diff(self.ahead_ms) <= DRIFT_MS
    }

    /// What an agent before this one left; `None` where there is nothing that
    /// can be read.
    pub fn read(run_dir: &Path) -> Option<Self> {
        let mut text = String::new();
        let file = File::open(run_dir.join(Self::FILE)).ok()?;
        file.take(MAX_BELIEVED_BYTES)
            .read_to_string(&mut text)
            .ok()?;
        let (boot_id, ahead_ms) = text.trim().split_once(' ')?;
        Some(Self {
            boot_id: boot_id.to_string(),
            ahead_ms: ahead_ms.parse().ok()?,
        })
    }

    /// Leaves it for the next one. Lost, that one waits for the time.
    pub fn write(&self, run_dir: &Path) -> io::Result<()> {
        let text = format!("{} {}\n", self.boot_id, self.ahead_ms);
        replace(&run_dir.join(Self::FILE), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;
    use skerry_wire::Timestamp;

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

    #[test]
    fn what_was_believed_in_this_boot_is_until_somebody_sets_the_clock() {
        let dir = tempfile::tempdir().unwrap();
        let at = |boot_ms: u64, wall_ms: u64| Now {
            boot_ms,
            wall: Timestamp(NOW * 1_000 + wall_ms),
        };
        assert_eq!(Believed::read(dir.path()), None);
        let believed = Believed::new("this", at(5_000, 0));
        believed.write(dir.path()).unwrap();
        assert_eq!(Believed::read(dir.path()), Some(believed.clone()));
        let (month_ms, minute_ms) = (30 * 24 * 3_600_000, 60_000);
        let after = |ms: u64| at(5_000 + month_ms, ms);
        assert!(believed.holds("this", after(month_ms)));
        assert!(believed.holds("this", after(month_ms + minute_ms)), "drift");
        assert!(!believed.holds("this", after(month_ms + 3_600_000)), "set");
        assert!(!believed.holds("this", after(0)), "it stood still");
        assert!(!believed.holds("other", after(month_ms)), "a power cut");
        assert!(!Believed::new("", at(0, 0)).holds("", at(0, 0)));
        for text in ["", "this", "this x", "this 5 6"] {
            std::fs::write(dir.path().join(Believed::FILE), text).unwrap();
            assert_eq!(Believed::read(dir.path()), None, "{text}");
        }
    }
}
