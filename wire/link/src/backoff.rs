//! How long to wait before the next attempt. Pure.

use std::time::Duration;

/// A connection that held this long counts as a good one: the next failure
/// starts again with the first, short wait. Shorter ones do not, so that two
/// clients which throw each other out slow down instead of fighting.
pub const STABLE_AFTER: Duration = Duration::from_secs(30);

/// Waits that double up to a cap, each shortened by up to half at random, so
/// that a fleet does not come back in one wave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// `first` is the longest first wait and `cap` the longest of all; a cap
    /// below `first` is raised to it.
    pub fn new(first: Duration, cap: Duration) -> Self {
        let cap = cap.max(first);
        Self {
            first,
            cap,
            next: first,
        }
    }

    /// The wait before the next attempt, between a half and the whole of the
    /// current step. `random` is any random number.
    pub fn wait(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.cap);
        let half = whole / 2;
        let share = random % 1024;
        half + half.saturating_mul(share as u32) / 1024
    }

    /// Tells how long the last connection held.
    pub fn held(&mut self, up_for: Duration) {
        if up_for >= STABLE_AFTER {
            self.next = self.first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_cap_and_stay_there() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut last = Duration::ZERO;
        for _ in 0..10_000 {
            last = backoff.wait(u64::MAX);
            assert!(last <= Duration::from_secs(60));
            assert!(last >= Duration::from_millis(500));
        }
        assert!(last > Duration::from_secs(59), "{last:?}");
    }

    #[test]
    fn the_random_part_is_at_most_half() {
        let backoff = Backoff::new(Duration::from_secs(8), Duration::from_secs(60));
        assert_eq!(backoff.clone().wait(0), Duration::from_secs(4));
        assert!(backoff.clone().wait(1023) < Duration::from_secs(8));
    }

    #[test]
    fn only_a_connection_that_held_resets() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for _ in 0..20 {
            backoff.wait(0);
        }
        backoff.held(Duration::from_secs(29));
        assert_eq!(backoff.wait(0), Duration::from_secs(30));
        backoff.held(Duration::from_secs(30));
        assert_eq!(backoff.wait(0), Duration::from_millis(500));
    }

    #[test]
    fn absurd_values_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        for random in [0, 1023, u64::MAX] {
            assert!(backoff.wait(random) <= Duration::MAX);
        }
    }
}
