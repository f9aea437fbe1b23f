//! Is the clock anywhere near right? Nothing hangs on it but what people read
//! and certificates of brokers that are not pinned.

use super::{Finding, Verdict, clock_source};
use crate::facts::Host;
use std::time::{SystemTime, UNIX_EPOCH};

const KIND: &str = "ClockWrong";
/// 2024-01-01: before there was any Skerry.
pub(super) const FIRST_SECS: u64 = 1_704_067_200;

/// Looks at the wall clock.
pub fn find(host: &Host) -> Finding {
    let secs = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |t| t.as_secs());
    judged(host, secs)
}

fn judged(host: &Host, secs: u64) -> Finding {
    if secs >= FIRST_SECS {
        return Finding::good(KIND, "the clock is plausible");
    }
    Finding::new(
        KIND,
        Verdict::Poor,
        "the clock stands before 2024: apps run all the same, but times in logs and events are wrong",
        clock_source::remedy(host),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::tests::Tree;

    #[test]
    fn a_board_without_a_clock_stands_in_1970() {
        let unit = "usr/lib/systemd/system/systemd-timesyncd.service";
        let system = ("run/systemd/system/x", &b""[..]);
        let tree = Tree::new(&[("usr/bin/timedatectl", b""), (unit, b""), system]);
        let host = tree.host();
        assert_eq!(judged(&host, 40).remedy, "timedatectl set-ntp true");
        assert_eq!(judged(&host, FIRST_SECS).verdict, Verdict::Good);
    }
}
