//! How long to wait before a runtime that was lost is reached again.

use std::time::Duration;

/// The second wait; doubles. The first is none: a keeper that was killed once
/// is replaced at once.
const FIRST: Duration = Duration::from_millis(500);
/// The longest wait. Each try costs a process, and perhaps a commit.
const CAP: Duration = Duration::from_secs(30);
/// A runtime that lived for so many milliseconds was lost for another reason
/// than the one before.
const STEADY_MS: u64 = 60_000;

/// Grows while the runtime does not stay.
#[derive(Debug, Default)]
pub(super) struct Pause {
    next: Duration,
    reached_ms: Option<u64>,
}

impl Pause {
    /// It answers.
    pub(super) fn reached(&mut self, now_ms: u64) {
        self.reached_ms = Some(now_ms);
    }

    /// It is lost, or did not answer: how long to wait.
    pub(super) fn lost(&mut self, now_ms: u64) -> Duration {
        let reached = self.reached_ms.take();
        if reached.is_some_and(|at| now_ms >= at.saturating_add(STEADY_MS)) {
            self.next = Duration::ZERO;
        }
        let pause = self.next;
        self.next = (pause * 2).clamp(FIRST, CAP);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_that_dies_again_and_again_is_not_started_in_a_hot_loop() {
        let mut pause = Pause::default();
        let mut waits = Vec::new();
        for now in 0..10 {
            pause.reached(now);
            waits.push(pause.lost(now).as_millis());
        }
        assert_eq!(waits[..4], [0, 500, 1_000, 2_000]);
        assert_eq!(waits[9], 30_000);
        // One that did not even answer waits as long.
        assert_eq!(pause.lost(20), CAP);
        pause.reached(100);
        assert_eq!(pause.lost(100 + STEADY_MS), Duration::ZERO);
    }
}
