//! The line of progress.

use crate::cli::human;
use crate::cli::output::Out;
use crate::flash::{Step, gigabytes};
use std::time::{Duration, Instant};

/// Cells of the progress bar.
const BAR: u64 = 30;
/// How often it is drawn.
const REDRAW: Duration = Duration::from_millis(200);
/// Before that, nothing can be said of how fast it goes.
const SETTLED: Duration = Duration::from_secs(1);

/// The line of progress.
pub(super) struct Bar {
    started: Instant,
    drawn: Option<Instant>,
    phase: &'static str,
}

impl Bar {
    /// One that nothing is drawn of yet.
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            drawn: None,
            phase: "",
        }
    }

    /// Draws it, unless that was a moment ago.
    pub(super) fn draw(&mut self, out: &mut Out, step: Step) {
        let now = Instant::now();
        if self.phase != step.phase {
            (self.phase, self.started, self.drawn) = (step.phase, now, None);
        }
        if self.drawn.is_some_and(|then| now - then < REDRAW) && step.done < step.of {
            return;
        }
        self.drawn = Some(now);
        out.progress(&line(step, now - self.started));
    }
}

fn line(step: Step, took: Duration) -> String {
    let of = step.of.max(1);
    let done = step.done.min(of);
    let cells = (u128::from(done) * u128::from(BAR) / u128::from(of)) as usize;
    let bar: String = "#".repeat(cells) + &".".repeat(BAR as usize - cells);
    let percent = u128::from(done) * 100 / u128::from(of);
    let far = format!(
        "{:<13}[{bar}] {percent:>3}%  {}",
        step.phase,
        gigabytes(step.bytes)
    );
    if took < SETTLED {
        return far;
    }
    let millis = took.as_millis();
    let speed = u128::from(step.bytes) / millis / 1000;
    let left = millis * u128::from(of - done) / u128::from(done.max(1)) / 1000;
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(u64::MAX));
    format!("{far}  {speed} MB/s  {} left", human::span(left))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_progress_says_how_far_how_fast_and_how_long_still() {
        let step = Step {
            phase: "writing",
            done: 50,
            of: 100,
            bytes: 300_000_000,
        };
        assert_eq!(
            line(step, Duration::from_secs(10)),
            "writing      [###############...............]  50%  300 MB  30 MB/s  10s left"
        );
        let empty = Step {
            phase: "writing",
            done: 0,
            of: 0,
            bytes: 0,
        };
        assert_eq!(
            line(empty, Duration::ZERO),
            "writing      [..............................]   0%  0 MB"
        );
    }
}
