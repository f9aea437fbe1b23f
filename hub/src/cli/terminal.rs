//! This process' terminal: raw while a remote one is shown in it, and as it
//! was again on every way out (return, error, signal, panic).

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Mutex;

/// The terminal's settings from before; taken by whoever restores them.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of stdin, until it is dropped.
pub(super) struct RawMode(());

impl RawMode {
    /// Fails when stdin is no terminal.
    pub fn enable() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *BEFORE.lock().unwrap_or_else(|e| e.into_inner()) = Some(before);
        // A panic's message should not run down the screen like a stair, and
        // in a release build no destructor runs after it.
        let inner = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore();
            inner(info);
        }));
        tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(|e| e.into_inner()).take();
    if let Some(before) = before {
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Columns and rows of the terminal at stdout, or at stdin.
pub(super) fn size() -> Option<(u16, u16)> {
    let of = |fd: BorrowedFd<'_>| rustix::termios::tcgetwinsize(fd).ok();
    let size = of(io::stdout().as_fd()).or_else(|| of(io::stdin().as_fd()))?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col, size.ws_row))
}

/// The signals of a terminal as something to read instead of something that
/// ends us: a new size, and those that ask us to go.
pub(super) struct Signals(SignalFd);

impl Signals {
    /// From here on, this thread gets these signals only by reading them.
    pub fn take(ending: bool) -> io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGWINCH);
        if ending {
            for signal in [
                Signal::SIGINT,
                Signal::SIGTERM,
                Signal::SIGHUP,
                Signal::SIGQUIT,
            ] {
                set.add(signal);
            }
        }
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self(fd))
    }

    /// The next signal's number, if there is one.
    pub fn read(&mut self) -> io::Result<Option<u32>> {
        Ok(self.0.read_signal()?.map(|info| info.ssi_signo))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
