//! What a board says on its serial line.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of console kept; a board that says more is mad, and the rest is
/// dropped.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// A board's serial output, read as it comes. Clones see the same.
#[derive(Debug, Clone, Default)]
pub struct Console {
    shared: Arc<(Mutex<Said>, Condvar)>,
}

#[derive(Debug, Default)]
struct Said {
    text: String,
    ended: bool,
}

impl Console {
    /// Reads from `source` in a thread of its own until it ends.
    pub fn read_from(mut source: impl Read + Send + 'static) -> Self {
        let console = Self::default();
        let writer = console.clone();
        std::thread::spawn(move || {
            let mut block = [0; 4096];
            loop {
                let count = source.read(&mut block).unwrap_or(0);
                let mut said = writer.said();
                if count == 0 {
                    said.ended = true;
                } else if said.text.len() < MAX_BYTES {
                    let text = String::from_utf8_lossy(&block[..count]);
                    said.text.extend(text.chars().filter(|c| *c != '\r'));
                }
                writer.shared.1.notify_all();
                if count == 0 {
                    return;
                }
            }
        });
        console
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // A string is whole in any case.
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All so far.
    pub fn text(&self) -> String {
        self.said().text.clone()
    }

    /// The line that has `wanted` in it, at or after byte `from`, once it is
    /// whole; and where the next one begins. `None` when it does not come in
    /// time, or can't come any more.
    pub fn wait_from(
        &self,
        from: usize,
        wanted: &str,
        patience: Duration,
    ) -> Option<(String, usize)> {
        let deadline = Instant::now() + patience;
        let mut said = self.said();
        loop {
            let tail = said.text.get(from..).unwrap_or_default();
            if let Some(at) = tail.find(wanted) {
                let start = tail[..at].rfind('\n').map_or(0, |n| n + 1);
                if let Some(length) = tail[at..].find('\n') {
                    return Some((tail[start..at + length].to_string(), from + at + length + 1));
                }
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            if said.ended {
                return None;
            }
            said = match self.shared.1.wait_timeout(said, left) {
                Ok((said, _)) => said,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// The same from the beginning.
    pub fn wait_for(&self, wanted: &str, patience: Duration) -> Option<String> {
        self.wait_from(0, wanted, patience).map(|(line, _)| line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_whole_lines_only_and_notices_the_end() {
        let console = Console::read_from(&b"one\r\ntwo half"[..]);
        assert_eq!(
            console.wait_for("on", Duration::from_secs(30)).as_deref(),
            Some("one")
        );
        assert_eq!(console.wait_for("two", Duration::from_secs(30)), None);
        assert_eq!(console.text(), "one\ntwo half");
    }
}
