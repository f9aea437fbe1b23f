//! `skerry-agent keeper`: the containers' parent, one small process a device.
//!
//! It is a child subreaper with a single thread and one poll loop. It owns the
//! containers' output and writes their logs, reaps them and records how they
//! ended, and starts a helper for each operation that an agent asks for. It
//! lives on when the agent is restarted, crashes or is replaced: a container's
//! life depends on the keeper only.
//!
//! ```text
//! agent ──seqpacket──▶ keeper ──spawns──▶ helper ──libcontainer──▶ container
//!                        ▲                   │                        │
//!                        └── progress ───────┘                        │
//!                        └── stdout, stderr, SIGCHLD ─────────────────┘
//! ```
//!
//! What it must not do is wait: not for an agent that does not read (it is
//! disconnected), not for a container that floods (it is read in turn with the
//! others), not for a helper that hangs (it is killed). The one thing that it
//! does wait for is the disk: a log file, and the record of an end.
//!
//! It leaves the agent's session and cgroup, so that nothing that stops the
//! agent stops it; the agent's systemd unit says `KillMode=process` besides.
//! It ignores SIGTERM and its like and ends on `Shutdown` only.

mod book;
mod clients;
mod containers;
mod jobs;
mod launch;
mod sandboxes;
mod strays;

pub use launch::{ALREADY_RUNS, main};

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signalfd::SignalFd;

use super::cgroup::Hierarchies;
use super::exe::ProtectedExe;
use super::paths::Layout;
use super::proto::RequestId;
use super::spec::{ContainerId, Exit};
use crate::pages;

use book::LogBook;
use clients::Client;
use containers::Container;
use jobs::{ExecProcess, Job, WaitingJob};
use sandboxes::Sandbox;

/// Events taken from the kernel at once.
const EVENTS: usize = 32;
/// Read from one pipe in its turn; as much as a pipe holds by default.
const READ_AT_ONCE: usize = 64 * 1024;
/// Without work for so long, what work needs is given back.
const QUIET: Duration = Duration::from_secs(30);

/// Names a client, container or job within the keeper; never used twice.
type Serial = u32;

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Listener,
    Signals,
    Client(Serial),
    Job(Serial),
    Stdout(Serial),
    Stderr(Serial),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, serial) = match self {
            Self::Listener => (0, 0),
            Self::Signals => (1, 0),
            Self::Client(serial) => (2, serial),
            Self::Job(serial) => (3, serial),
            Self::Stdout(serial) => (4, serial),
            Self::Stderr(serial) => (5, serial),
        };
        kind << 32 | u64::from(serial)
    }

    fn unpack(data: u64) -> Option<Self> {
        let serial = data as u32;
        Some(match data >> 32 {
            0 => Self::Listener,
            1 => Self::Signals,
            2 => Self::Client(serial),
            3 => Self::Job(serial),
            4 => Self::Stdout(serial),
            5 => Self::Stderr(serial),
            _ => return None,
        })
    }
}

/// Who asked: a connection and its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asker {
    client: Serial,
    request: RequestId,
}

/// All that the keeper knows.
struct Keeper {
    layout: Layout,
    hierarchies: Hierarchies,
    exe: ProtectedExe,
    epoll: Epoll,
    listener: OwnedFd,
    signals: SignalFd,
    last_serial: Serial,
    clients: BTreeMap<Serial, Client>,
    containers: BTreeMap<Serial, Container>,
    jobs: BTreeMap<Serial, Job>,
    /// A helper was killed, and what it left may still be there.
    strays: bool,
    waiting: VecDeque<WaitingJob>,
    /// Processes started by `Exec`, by process id.
    execs: BTreeMap<i32, ExecProcess>,
    /// Namespaces that containers share.
    sandboxes: BTreeMap<ContainerId, Sandbox>,
    /// `List` requests that wait for creations under way.
    lists: Vec<Asker>,
    /// Ends that could not be written to the disk.
    unwritten: BTreeMap<ContainerId, Exit>,
    /// Ends that are written but may not be on the disk yet, and when they
    /// must be.
    unsynced: BTreeMap<ContainerId, Instant>,
    logs: LogBook,
    /// The one buffer that all output goes through.
    block: Box<[u8]>,
    /// When to give back what the last work needed.
    give_back_at: Option<Instant>,
    ending: bool,
}

impl Keeper {
    /// Runs until `Shutdown`.
    fn run(&mut self) -> io::Result<()> {
        self.watch(Token::Listener)?;
        self.watch(Token::Signals)?;
        let mut events = [EpollEvent::empty(); EVENTS];
        // The last helpers are still to be reaped when all their work is done.
        while !(self.ending && self.jobs.is_empty() && self.unsynced.is_empty()) {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => 0,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                if let Some(token) = Token::unpack(event.data()) {
                    self.handle(token, event.events());
                }
            }
            self.kill_late_helpers();
            self.sync_late_records();
            self.start_waiting_jobs();
            self.answer_lists();
            self.give_back_code();
        }
        Ok(())
    }

    /// Some time after the last work, what only work needs is given back.
    fn give_back_code(&mut self) {
        let now = Instant::now();
        if !self.jobs.is_empty() {
            self.give_back_at = Some(now + QUIET);
        } else if self.give_back_at.is_some_and(|at| now >= at) {
            self.give_back_at = None;
            if let Err(error) = pages::give_back_code() {
                complain(format_args!(
                    "code that is not used cannot be given back: {error}"
                ));
            }
        }
    }

    fn handle(&mut self, token: Token, flags: EpollFlags) {
        match token {
            Token::Listener => self.accept_clients(),
            Token::Signals => self.reap(),
            Token::Client(serial) => self.serve(serial, flags),
            Token::Job(serial) => self.hear(serial),
            Token::Stdout(serial) | Token::Stderr(serial) => self.read_output(serial, token),
        }
    }

    fn watch(&self, token: Token) -> io::Result<()> {
        let fd = match token {
            Token::Listener => self.listener.as_fd(),
            Token::Signals => self.signals.as_fd(),
            _ => return Ok(()),
        };
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))?;
        Ok(())
    }

    /// Until the next thing is due; for ever if there is none, so that an idle
    /// keeper costs nothing.
    fn timeout(&self) -> EpollTimeout {
        let helpers = self.jobs.values().filter_map(Job::deadline);
        let due = helpers
            .chain(self.unsynced.values().copied())
            .chain(self.give_back_at);
        let Some(next) = due.min() else {
            return EpollTimeout::NONE;
        };
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return EpollTimeout::ZERO;
        }
        // Rounded up, or the loop would spin through the last millisecond.
        EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
    }

    fn next_serial(&mut self) -> Serial {
        self.last_serial = self.last_serial.wrapping_add(1);
        self.last_serial
    }
}

/// Says something in the keeper's own log. If that cannot be written, nobody
/// can be told, and it must be no reason to stop.
fn complain(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{} {text}", super::logs::stamp_now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_packed_and_unpacked() {
        for token in [
            Token::Listener,
            Token::Signals,
            Token::Client(7),
            Token::Job(u32::MAX),
            Token::Stdout(1),
            Token::Stderr(2),
        ] {
            assert_eq!(Token::unpack(token.pack()), Some(token));
        }
        assert_eq!(Token::unpack(u64::MAX), None);
    }
}
