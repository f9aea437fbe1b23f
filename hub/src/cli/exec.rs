//! `exec`: a command inside a container, as if it ran here.
//!
//! One poll loop over the connection, stdin and the terminal's signals. Input
//! waits while [`MAX_QUEUED`] bytes of it have not been sent.

use super::args::ExecArgs;
use super::client::{Client, encode, io_problem, with_query};
use super::error::CliError;
use super::frames::{self, Frame, Frames};
use super::get::{clean, device_path, devices};
use super::line::Line;
use super::output::{Out, written};
use super::terminal::{RawMode, Signals, size};
use crate::api::types::{DeviceState, channel};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::AsFd;

/// Input read but not sent yet, in bytes.
const MAX_QUEUED: usize = 256 * 1024;
/// Longest command, in bytes: it travels in the request's address.
const MAX_COMMAND_BYTES: usize = 32 * 1024;
/// A terminal's size when nobody knows it.
const DEFAULT_SIZE: (u16, u16) = (80, 24);

/// Runs the command; its exit code becomes ours.
pub(super) fn exec(out: &mut Out, client: &Client, args: ExecArgs) -> Result<(), CliError> {
    let mut tty = args.tty;
    if tty && args.stdin && !io::stdin().is_terminal() {
        out.note("standard input is no terminal: going on without one (-t)");
        tty = false;
    }
    let length: usize = args.command.iter().map(String::len).sum();
    if length > MAX_COMMAND_BYTES {
        return Err(CliError::failed(
            format!("the command has {length} bytes, more than {MAX_COMMAND_BYTES}"),
            "pipe a script in, as in 'skerry exec -i DEVICE/APP -- sh < script'",
        ));
    }
    let (device, app) = target(client, &args)?;
    let path = exec_path(&args, &device, &app, tty);
    let (line, first) = Line::upgrade(client, &path, "skerry-exec")?;
    let raw = tty && args.stdin;
    // Before raw mode: a signal in between would leave the terminal raw.
    let signals = Signals::take(raw).map_err(|e| CliError::io("take signals", e))?;
    let mode = match raw {
        true => Some(RawMode::enable().map_err(|e| CliError::io("use the terminal", e))?),
        false => None,
    };
    let session = Session {
        line,
        signals,
        tty,
        input: match args.stdin {
            true => Some(stdin().map_err(|e| CliError::io("read standard input", e))?),
            false => None,
        },
        frames: Frames::default(),
    };
    let ended = session.run(&first);
    drop(mode);
    match ended? {
        Ended::Exit(0) => Ok(()),
        Ended::Exit(code) => Err(CliError::Exit((code & 0xff) as u8)),
        Ended::Failed(problem) => Err(match code_of(&problem) {
            Some(code) => CliError::ToldAs {
                message: problem,
                code,
            },
            None => CliError::Told(problem),
        }),
        Ended::Signal(number) => Err(CliError::Exit(128u8.saturating_add(number as u8))),
    }
}

/// The exit code that a shell, docker and kubectl give for it. The device's
/// words are all there is to tell by: other words only cost the code.
fn code_of(problem: &str) -> Option<u8> {
    let program = problem.contains("program \"");
    if program && problem.contains("is not in the image, or not in its PATH") {
        Some(127)
    } else if program && problem.contains("may not be executed by the container's user") {
        Some(126)
    } else {
        None
    }
}

fn target(client: &Client, args: &ExecArgs) -> Result<(String, String), CliError> {
    match args.target.split_once('/') {
        Some((device, app)) if !device.is_empty() && !app.is_empty() => {
            return Ok((device.into(), app.into()));
        }
        Some(_) => {
            return Err(CliError::Usage(format!(
                "'{}' is not DEVICE/APP",
                args.target
            )));
        }
        None => {}
    }
    let (app, namespace) = (&args.target, &args.namespace.namespace);
    let all = devices(client, None)?;
    let having: Vec<&str> = all
        .iter()
        .filter(|d| d.state == DeviceState::Online)
        .filter(|d| {
            d.apps
                .iter()
                .any(|a| a.name == *app && a.namespace == *namespace)
        })
        .map(|d| d.name.as_str())
        .collect();
    match having.as_slice() {
        [device] => Ok(((*device).into(), app.clone())),
        [] => Err(CliError::failed(
            format!("app {namespace}/{app} is on no device that is online"),
            format!("see where it is with 'skerry describe app {app} -n {namespace}'"),
        )),
        several => Err(CliError::Usage(format!(
            "app {namespace}/{app} is on {} devices; name one, as in {}/{app}",
            several.len(),
            several[0]
        ))),
    }
}

fn exec_path(args: &ExecArgs, device: &str, app: &str, tty: bool) -> String {
    let path = format!(
        "{}/apps/{}/{}/exec",
        device_path(device),
        encode(&args.namespace.namespace),
        encode(app)
    );
    let (columns, rows) = size().unwrap_or(DEFAULT_SIZE);
    let mut queries = vec![
        ("container", args.container.clone()),
        ("tty", tty.then(|| format!("{columns}x{rows}"))),
        ("stdin", args.stdin.then(|| "true".to_string())),
    ];
    queries.extend(args.command.iter().map(|arg| ("arg", Some(arg.clone()))));
    with_query(&path, &queries)
}

/// Stdin without a buffer of its own: what is read here is sent.
fn stdin() -> io::Result<File> {
    Ok(File::from(io::stdin().as_fd().try_clone_to_owned()?))
}

enum Ended {
    Exit(i32),
    Failed(String),
    Signal(u32),
}

struct Session {
    line: Line,
    signals: Signals,
    tty: bool,
    /// While it is open.
    input: Option<File>,
    frames: Frames,
}

impl Session {
    fn run(mut self, first: &[u8]) -> Result<Ended, CliError> {
        self.frames.push(first);
        loop {
            if let Some(ended) = self.deliver()? {
                return Ok(ended);
            }
            let ready = self
                .wait()
                .map_err(|e| CliError::io("wait for the hub", e))?;
            if ready.signal
                && let Some(ended) = self.on_signal()
            {
                return Ok(ended);
            }
            if ready.input {
                self.read_input();
            }
            let lost = |e: io::Error| {
                CliError::failed(
                    format!("the connection broke: {}", io_problem(&e)),
                    "the command may still run: look with 'skerry exec ... -- ps'",
                )
            };
            self.line.flush().map_err(lost)?;
            if ready.line {
                let mut bytes = Vec::new();
                let open = self.line.receive(&mut bytes).map_err(lost)?;
                self.frames.push(&bytes);
                if let Some(ended) = self.deliver()? {
                    return Ok(ended);
                }
                if !open {
                    return Err(lost(ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    }

    /// Hands on every frame that is whole.
    fn deliver(&mut self) -> Result<Option<Ended>, CliError> {
        loop {
            let next = self.frames.next().map_err(|e| {
                CliError::failed(
                    format!("the hub sent {e}"),
                    "use the hub's own version of skerry",
                )
            })?;
            let Some(Frame { channel, bytes }) = next else {
                return Ok(None);
            };
            match channel {
                channel::STDOUT => write_whole(&mut io::stdout().lock(), &bytes)?,
                channel::STDERR => write_whole(&mut io::stderr().lock(), &bytes)?,
                channel::EXIT => {
                    let code: [u8; 4] = bytes.try_into().unwrap_or([0, 0, 0, 1]);
                    return Ok(Some(Ended::Exit(i32::from_be_bytes(code))));
                }
                channel::ERROR => {
                    let text = clean(&String::from_utf8_lossy(&bytes));
                    return Ok(Some(Ended::Failed(text)));
                }
                _ => {}
            }
        }
    }

    fn wait(&mut self) -> io::Result<Ready> {
        let buffered = self.line.has_buffered();
        let mut line_events = PollFlags::POLLIN;
        if self.line.wants_write() {
            line_events |= PollFlags::POLLOUT;
        }
        let mut fds = vec![
            PollFd::new(self.line.as_fd(), line_events),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(input) = &self.input
            && self.line.queued() < MAX_QUEUED
        {
            fds.push(PollFd::new(input.as_fd(), PollFlags::POLLIN));
        }
        let timeout = match buffered {
            true => PollTimeout::ZERO,
            false => PollTimeout::NONE,
        };
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let any = |index: usize, flags: PollFlags| {
            let found = fds.get(index).and_then(|fd| fd.revents());
            found.is_some_and(|r| r.intersects(flags))
        };
        let readable = PollFlags::POLLIN | PollFlags::POLLHUP | PollFlags::POLLERR;
        Ok(Ready {
            line: buffered || any(0, readable),
            signal: any(1, readable),
            input: any(2, readable),
        })
    }

    fn on_signal(&mut self) -> Option<Ended> {
        while let Ok(Some(number)) = self.signals.read() {
            if number != Signal::SIGWINCH as u32 {
                return Some(Ended::Signal(number));
            }
            if let Some((columns, rows)) = size().filter(|_| self.tty) {
                let bytes = [columns.to_be_bytes(), rows.to_be_bytes()].concat();
                self.line.queue(&frames::encode(channel::RESIZE, &bytes));
            }
        }
        None
    }

    /// Sends what is at stdin, or that it ended.
    fn read_input(&mut self) {
        let Some(input) = &mut self.input else {
            return;
        };
        let mut chunk = [0; 16 * 1024];
        match input.read(&mut chunk) {
            Ok(0) => {
                self.input = None;
                self.line.queue(&frames::encode(channel::STDIN, &[]));
            }
            Ok(count) => {
                let frame = frames::encode(channel::STDIN, &chunk[..count]);
                self.line.queue(&frame);
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            // As with a terminal that went away: there is no more input.
            Err(_) => {
                self.input = None;
                self.line.queue(&frames::encode(channel::STDIN, &[]));
            }
        }
    }
}

/// What can be done without waiting.
struct Ready {
    line: bool,
    signal: bool,
    input: bool,
}

fn write_whole(target: &mut impl Write, bytes: &[u8]) -> Result<(), CliError> {
    written(target.write_all(bytes).and_then(|()| target.flush()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_run_has_its_own_exit_code() {
        let words = |tail: &str| format!("cannot start it: program \"/nothing\" {tail}");
        assert_eq!(
            code_of(&words("is not in the image, or not in its PATH")),
            Some(127)
        );
        let denied = words("may not be executed by the container's user");
        assert_eq!(code_of(&denied), Some(126));
        assert_eq!(code_of("the device went away: try again"), None);
    }
}
