//! Boards without a battery wake up in 1970. Nothing of ours depends on the
//! clock, but times in logs do, and so may apps.

use super::Finding;
use std::time::{Duration, SystemTime};

/// 2026-01-01: older than any release of ours.
const PLAUSIBLE: Duration = Duration::from_secs(1_767_225_600);

pub(super) fn diagnose() -> Finding {
    #[expect(clippy::disallowed_methods, reason = "the clock is what is examined")]
    let now = SystemTime::now();
    judge(
        now.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// Judges a time since 1970.
fn judge(since_1970: Duration) -> Finding {
    if since_1970 >= PLAUSIBLE {
        return Finding::good("clock", "the clock is set");
    }
    Finding::warning(
        "clock",
        "the clock is not set: apps run all the same, but times in logs are wrong",
        "timedatectl set-ntp true\nwithout a network: fit a clock with a battery (dtoverlay=i2c-rtc on a Raspberry Pi)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seventies_are_noticed() {
        assert!(!judge(Duration::from_secs(100)).remedy.is_empty());
        assert!(judge(PLAUSIBLE).remedy.is_empty());
    }
}
