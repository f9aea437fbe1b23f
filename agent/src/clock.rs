//! The two clocks of the shell. Everything is decided by the boot clock but the
//! starts of CronJobs; the wall clock is shown, and they go by it.

use crate::core::Now;
use crate::facts::Host;
use nix::time::{ClockId, clock_gettime};
use skerry_wire::Timestamp;
use std::time::{SystemTime, UNIX_EPOCH};

/// Names the wall clock that the agent shall believe in, in milliseconds since
/// 1970 at its start: shows that nothing hangs on it.
pub const FAKE_CLOCK: &str = "SKERRY_FAKE_CLOCK";

/// Tells the time.
#[derive(Debug, Clone, Copy, Default)]
pub struct Clock {
    /// Wall clock minus boot clock, if it is made up.
    fake: Option<u64>,
}

/// Milliseconds since the machine started, sleep included.
fn boot_ms() -> u64 {
    let time =
        clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had this clock since 2.6.39");
    let (secs, nanos) = (time.tv_sec().max(0) as u64, time.tv_nsec().max(0) as u64);
    secs.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

impl Clock {
    /// The machine's clock.
    pub fn machine() -> Self {
        Self::default()
    }

    /// A wall clock that stands at `wall_ms` now.
    pub fn fake(wall_ms: u64) -> Self {
        Self {
            fake: Some(wall_ms.wrapping_sub(boot_ms())),
        }
    }

    /// Whether the wall clock can be right at all.
    pub fn is_plausible(&self) -> bool {
        crate::doctor::is_plausible(self.now().wall.0 / 1_000)
    }

    /// Whether something vouches for the wall clock.
    pub fn is_trusted(&self) -> bool {
        let secs = self.now().wall.0 / 1_000;
        match self.fake {
            Some(_) => crate::doctor::is_plausible(secs),
            None => crate::doctor::is_clock_trusted(&Host::machine(), secs),
        }
    }

    /// What the time is.
    pub fn now(&self) -> Now {
        let boot_ms = boot_ms();
        let wall = match self.fake {
            Some(offset) => boot_ms.wrapping_add(offset),
            None => {
                let since = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            }
        };
        Now {
            boot_ms,
            wall: Timestamp(wall),
        }
    }
}
