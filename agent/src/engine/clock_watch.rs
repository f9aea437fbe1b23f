//! Notices that the wall clock was set, or that the machine slept: the timers
//! of a process stand still meanwhile, and CronJobs go by the wall clock.

use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};
use nix::unistd::read;
use smol::{Async, future};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
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
        let timer = self.timer.get_ref();
        loop {
            if self.timer.readable().await.is_err() {
                return future::pending().await;
            }
            match read(timer.as_fd().as_raw_fd(), &mut [0; 8]) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                // Called off; set again, it is watched anew.
                Err(Errno::ECANCELED) if arm(timer).is_ok() => return,
                // One that has run out would do so again at once, for ever.
                Ok(_) | Err(_) => return future::pending().await,
            }
        }
    }
}

/// Since 1970: some 5,000 years; where a time has 32 bits, its last moment, in
/// 2038: what is more wraps around to a time before 1970, which is refused.
const NEVER: Duration = match size_of::<libc::c_long>() {
    4 => Duration::from_secs(i32::MAX as u64),
    _ => Duration::from_secs(5_000 * 365 * 24 * 3_600),
};
const _: () = assert!(NEVER.as_secs() <= libc::c_long::MAX as u64);

fn arm(timer: &TimerFd) -> nix::Result<()> {
    let never = Expiration::OneShot(TimeSpec::from_duration(NEVER));
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    loop {
        // Says so if the clock was set meanwhile, and does so only once.
        match timer.set(never, flags) {
            Err(Errno::ECANCELED) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::adjtimex::shift_nanos;

    /// As a 32-bit machine's does in 2038, and nobody may spin then.
    #[test]
    fn a_watch_that_has_run_out_is_quiet() {
        let watch = ClockWatch::new().expect("a timer");
        let begun = Expiration::OneShot(TimeSpec::from_duration(Duration::from_secs(1)));
        let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME;
        watch.timer.get_ref().set(begun, flags).expect("it is set");
        smol::block_on(watch.timer.readable()).expect("it runs out");
        let ended = future::poll_once(watch.set());
        assert!(smol::block_on(ended).is_none());
    }

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
