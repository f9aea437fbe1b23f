//! Notices that the wall clock was set, or that the machine slept: the timers
//! of a process stand still meanwhile, and CronJobs go by the wall clock.

use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use smol::{Async, future};
use std::io;
use std::time::Duration;

/// A kernel timer that is called off whenever the clock is set
/// (timerfd_create(2), `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub(super) struct ClockWatch {
    timer: Async<TimerFd>,
}

impl ClockWatch {
    /// Watches from now on.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_REALTIME, flags)?;
        arm(&timer)?;
        Ok(Self {
            timer: Async::new(timer)?,
        })
    }

    /// Waits until the clock is set.
    pub async fn set(&self) {
        if self.timer.readable().await.is_err() {
            return future::pending().await;
        }
        // Says that it was called off; set again, it is watched anew.
        let _ = self.timer.get_ref().wait();
        if arm(self.timer.get_ref()).is_err() {
            future::pending::<()>().await;
        }
    }
}

/// Since 1970: some 5,000 years.
const NEVER: Duration = Duration::from_secs(5_000 * 365 * 24 * 3_600);

fn arm(timer: &TimerFd) -> nix::Result<()> {
    let never = Expiration::OneShot(TimeSpec::from_duration(NEVER));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    timer.set(never, flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::adjtimex::shift_nanos;

    /// By a nanosecond and back: nobody else minds.
    #[test]
    fn a_clock_that_is_set_is_noticed_each_time_and_one_that_is_not_is_not() {
        let watch = ClockWatch::new().expect("a timer");
        let quiet = || smol::block_on(future::poll_once(watch.set())).is_none();
        // Another process may set it at any time, as this test in another
        // checkout does, but not all the time.
        let soon_quiet = || (0..1_000).any(|_| quiet());
        assert!(soon_quiet(), "nobody has set it");
        for nanos in [1, -1] {
            if let Err(error) = shift_nanos(nanos) {
                eprintln!("SKIPPED: this process may not set the clock: {error}");
                return;
            }
            let late = async {
                smol::Timer::after(Duration::from_secs(30)).await;
                false
            };
            let seen = async {
                watch.set().await;
                true
            };
            assert!(smol::block_on(future::or(seen, late)), "{nanos}");
        }
        assert!(soon_quiet(), "that it was seen is over");
    }
}
