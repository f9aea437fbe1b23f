//! `exec`: a command inside a container, as if it ran here.
//!
//! Three threads, each blocking on one thing: standard input, the terminal's
//! signals, and what the agent answers. The last one ends the program.

use super::{Options, not_running};
use anyhow::{Context, bail};
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use skerry_agent::config::Config;
use skerry_agent::control::{self, Answer, Input, MAX_INPUT_BYTES, Request};
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A terminal's size when nobody knows it.
const DEFAULT_SIZE: (u16, u16) = (80, 24);
/// Longest command in bytes: with what JSON adds it fits into one line.
const MAX_COMMAND_BYTES: usize = 16 * 1024;

/// The terminal's settings from before; taken by whoever restores them.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Runs the command; its exit code becomes ours.
pub fn exec(config: &Config, options: Options) -> anyhow::Result<ExitCode> {
    let [app, args @ ..] = options.words.as_slice() else {
        bail!("usage: skerry-agent exec [-it] [-c CONTAINER] APP -- COMMAND [ARGS]");
    };
    if args.is_empty() {
        bail!("no command: skerry-agent exec -it {app} -- sh");
    }
    let length: usize = args.iter().map(String::len).sum();
    if length > MAX_COMMAND_BYTES {
        bail!(
            "the command has {length} bytes, more than {MAX_COMMAND_BYTES}: pipe a script in, as \
             in 'skerry-agent exec -i {app} -- sh < script'"
        );
    }
    let mut tty = options.tty;
    if tty && options.stdin && !io::stdin().is_terminal() {
        eprintln!("standard input is no terminal: going on without one (-t)");
        tty = false;
    }
    let request = Request::Exec {
        app: app.clone(),
        container: options.container,
        args: args.to_vec(),
        tty: tty.then(|| size().unwrap_or(DEFAULT_SIZE)),
        stdin: options.stdin,
    };
    // Before raw mode and before any other thread: a signal in between would
    // leave the terminal raw.
    let raw = tty && options.stdin;
    let signals = signals(raw);
    signals.thread_block().context("cannot wait for signals")?;
    let Some(stream) = control::begin(&config.run_dir, &request)? else {
        return Err(not_running(config));
    };
    if raw {
        make_raw().context("the terminal cannot be used")?;
    }
    let to = Arc::new(Mutex::new(stream.try_clone()?));
    if options.stdin {
        let to = to.clone();
        thread::spawn(move || feed(&to));
    }
    if tty {
        thread::spawn(move || watch(&signals, &to));
    }
    let code = show(stream);
    restore();
    code
}

/// Writes what the process writes, until it ends.
fn show(stream: UnixStream) -> anyhow::Result<ExitCode> {
    let mut ended = None;
    let mut closed = false;
    control::listen_to(stream, |answer| {
        let written = match answer {
            Answer::Output {
                stderr: true,
                bytes,
            } => whole(&mut io::stderr().lock(), &bytes),
            Answer::Output {
                stderr: false,
                bytes,
            } => whole(&mut io::stdout().lock(), &bytes),
            Answer::Exit(code) => {
                ended = Some(Ok(code));
                return false;
            }
            Answer::Failed(text) => {
                ended = Some(Err(text));
                return false;
            }
            Answer::Done(_) | Answer::Note(_) | Answer::Status(_) | Answer::Log { .. } => Ok(()),
        };
        // A reader that has gone (`| head`) ends the command.
        closed = written.is_err();
        !closed
    })?;
    match ended {
        Some(Ok(code)) => Ok(ExitCode::from((code & 0xff) as u8)),
        Some(Err(text)) => {
            restore();
            eprintln!("skerry-agent: {text}");
            Ok(ExitCode::from(code_of(&text)))
        }
        None if closed => Ok(ExitCode::from(128 + libc::SIGPIPE as u8)),
        None => bail!("the agent has ended meanwhile, and the command with it"),
    }
}

/// The exit code that a shell and docker give for a command that did not run.
fn code_of(problem: &str) -> u8 {
    let program = problem.contains("program \"");
    if program && problem.contains("is not in the image, or not in its PATH") {
        127
    } else if program && problem.contains("may not be executed by the container's user") {
        126
    } else {
        1
    }
}

fn whole(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}

fn say(to: &Mutex<UnixStream>, input: &Input) -> bool {
    let mut stream = to.lock().unwrap_or_else(PoisonError::into_inner);
    control::say(&mut stream, input).is_ok()
}

/// Sends standard input until it ends.
fn feed(to: &Mutex<UnixStream>) {
    let mut stdin = io::stdin().lock();
    let mut piece = vec![0; MAX_INPUT_BYTES];
    loop {
        match stdin.read(&mut piece) {
            Ok(0) => break,
            Ok(count) if say(to, &Input::Data(piece[..count].to_vec())) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // As with a terminal that went away: there is no more input.
            Ok(_) | Err(_) => break,
        }
    }
    say(to, &Input::Close);
}

/// The signals of a terminal, and those that ask us to go if it will be raw.
fn signals(raw: bool) -> SigSet {
    let mut set = SigSet::empty();
    set.add(Signal::SIGWINCH);
    if raw {
        set.add(Signal::SIGINT);
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGHUP);
        set.add(Signal::SIGQUIT);
    }
    set
}

/// Hands on each new size; goes when asked to.
fn watch(signals: &SigSet, to: &Mutex<UnixStream>) {
    while let Ok(signal) = signals.wait() {
        if signal != Signal::SIGWINCH {
            restore();
            std::process::exit(128 + signal as i32);
        }
        if let Some((columns, rows)) = size()
            && !say(to, &Input::Resize(columns, rows))
        {
            return;
        }
    }
}

/// Raw mode of standard input, until [`restore`].
fn make_raw() -> nix::Result<()> {
    let before = tcgetattr(io::stdin())?;
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
    // A panic's message should not run down the screen like a stair, and in a
    // release build no destructor runs after it.
    let inner = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        inner(info);
    }));
    tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)
}

/// The terminal as it was.
fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Columns and rows of the terminal at standard output, or at standard input.
fn size() -> Option<(u16, u16)> {
    let of = |fd: i32| {
        let mut size = libc::winsize {
            ws_row: 0,
            ws_col: 0,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: `size` is what this request fills, and lives over the call.
        let result = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
        (result == 0 && size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
    };
    of(io::stdout().as_fd().as_raw_fd()).or_else(|| of(io::stdin().as_fd().as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_cannot_run_has_its_own_exit_code() {
        let words = |tail: &str| format!("cannot start it: program \"/nothing\" {tail}");
        let missing = words("is not in the image, or not in its PATH");
        assert_eq!(code_of(&missing), 127);
        let denied = words("may not be executed by the container's user");
        assert_eq!(code_of(&denied), 126);
        assert_eq!(code_of("the container does not run now"), 1);
    }
}
