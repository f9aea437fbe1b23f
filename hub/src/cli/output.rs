//! Where output goes: stdout for what was asked, stderr for what is said
//! besides. Colour and progress only where somebody looks, and never against
//! NO_COLOR (no-color.org).

use super::error::CliError;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// How often progress is drawn anew.
const SECOND: Duration = Duration::from_secs(1);

/// Stdout and stderr of this process.
pub(super) struct Out {
    /// Stdout may have colour.
    pub colour: bool,
    /// Somebody looks at stderr: progress may be drawn there.
    pub progress: bool,
    error_colour: bool,
    drawn: bool,
}

/// A colour of sixteen, so that the terminal's own theme decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Style {
    /// As it is.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// On its way, or waiting.
    Busy,
    /// Somebody should look.
    Bad,
    /// Not of interest now.
    Dim,
    /// Headings.
    Bold,
    /// One of several sources.
    Source(u8),
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Good => "32",
            Style::Busy => "33",
            Style::Bad => "31",
            Style::Dim => "2",
            Style::Bold => "1",
            Style::Source(n) => ["36", "35", "34", "32", "33", "96"][usize::from(n) % 6],
        }
    }

    /// The text in this colour, if colour is wanted.
    pub fn paint(self, text: &str, colour: bool) -> String {
        match self.code() {
            "" => text.to_string(),
            _ if !colour || text.is_empty() => text.to_string(),
            code => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }
}

impl Out {
    /// The process' own, by what stdout and stderr are and NO_COLOR and TERM
    /// say.
    pub fn of_process() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        let (stdout, stderr) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            colour: stdout && wanted,
            error_colour: stderr && wanted,
            progress: stderr && std::env::var_os("TERM").is_none_or(|t| t != "dumb"),
            drawn: false,
        }
    }

    /// Writes to stdout, all of it, now.
    pub fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.print_bytes(text.as_bytes())
    }

    /// Writes bytes to stdout, all of them, now.
    pub fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.wipe();
        let mut stdout = io::stdout().lock();
        written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
    }

    /// Says something besides, on stderr. Nobody listening is no error.
    pub fn note(&mut self, text: &str) {
        self.wipe();
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says what went wrong, on stderr.
    pub fn error(&mut self, text: &str) {
        let head = Style::Bad.paint("error:", self.error_colour);
        self.note(&format!("{head} {text}"));
    }

    /// Draws one line of progress over the last one, on a terminal only.
    pub fn progress(&mut self, text: &str) {
        if self.progress {
            let text: String = text.chars().take(100).collect();
            let _ = write!(io::stderr().lock(), "\r\x1b[K{text}");
            let _ = io::stderr().flush();
            self.drawn = true;
        }
    }

    /// Does something that takes long, and shows for how long already.
    pub fn progress_while<T: Send>(&mut self, text: &str, work: impl FnOnce() -> T + Send) -> T {
        if !self.progress {
            return work();
        }
        let started = Instant::now();
        self.progress(&format!("{text}..."));
        std::thread::scope(|scope| {
            let (done, ended) = mpsc::channel();
            let worker = scope.spawn(move || {
                let result = work();
                // Whoever waits waits until this.
                let _ = done.send(());
                result
            });
            while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(SECOND) {
                let secs = started.elapsed().as_secs();
                self.progress(&format!("{text}... {secs} s"));
            }
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Takes the line of progress away.
    pub fn wipe(&mut self) {
        if self.drawn {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
            let _ = io::stderr().flush();
            self.drawn = false;
        }
    }
}

/// A closed pipe ends us quietly; anything else is an error.
pub(super) fn written(result: io::Result<()>) -> Result<(), CliError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(CliError::Closed),
        Err(error) => Err(CliError::io("write to standard output", error)),
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        self.wipe();
    }
}
