//! The agent as our child: started, watched, started again. Its keeper and the
//! containers are not ours to touch.

use super::{AGENT, DATA_DIR, RUN_DIR, say};
use crate::chain::chain;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the agent says that it lives. No abstract socket: every app on the
/// device's own network could say so in its place, and that a new system is
/// well.
const NOTIFY: &str = "/run/skerry-init/notify";
/// The agent says so twice in this time, or it is killed.
pub const WATCHDOG_MS: u64 = 60_000;
/// First wait before it is started again; it doubles.
const FIRST_WAIT_MS: u64 = 200;
/// Longest wait.
const MAX_WAIT_MS: u64 = 30_000;
/// One that lived so long was well: the next wait is the first one.
const WELL_MS: u64 = 60_000;

/// When the agent is to be started again. Pure.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backoff {
    deaths: u32,
}

impl Backoff {
    /// It died after so long. How long to wait.
    pub fn died(&mut self, lived_ms: u64) -> u64 {
        if lived_ms >= WELL_MS {
            self.deaths = 0;
        }
        let wait = FIRST_WAIT_MS << self.deaths.min(16);
        self.deaths = self.deaths.saturating_add(1);
        wait.min(MAX_WAIT_MS)
    }

    /// How often it died soon, one after the other.
    pub fn deaths(&self) -> u32 {
        self.deaths
    }
}

/// What the agent says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It plans and listens.
    Ready,
    /// It lives.
    Alive,
    /// How its start goes on.
    Phase(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// `heard_ms` is when it last said that it lives; before it does so the
    /// first time, nothing is asked of it.
    Running {
        pid: Pid,
        since_ms: u64,
        heard_ms: Option<u64>,
    },
    Waiting {
        until_ms: u64,
    },
}

/// The agent.
#[derive(Debug)]
pub struct Child {
    notify: UnixDatagram,
    config: Option<String>,
    state: State,
    backoff: Backoff,
}

impl Child {
    /// One that is to be started at once. `config` is its file, if that can be
    /// used.
    pub fn new(config: Option<String>, now_ms: u64) -> io::Result<Self> {
        Ok(Self {
            notify: listen(Path::new(NOTIFY))?,
            config,
            state: State::Waiting { until_ms: now_ms },
            backoff: Backoff::default(),
        })
    }

    /// Its process, if it runs.
    pub fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Running { pid, .. } => Some(pid),
            State::Waiting { .. } => None,
        }
    }

    /// How often it died soon, one after the other.
    pub fn deaths(&self) -> u32 {
        self.backoff.deaths()
    }

    /// When [`Child::wake`] is due.
    pub fn wake_at(&self) -> u64 {
        match self.state {
            State::Running { heard_ms, .. } => heard_ms.map_or(u64::MAX, |at| at + WATCHDOG_MS),
            State::Waiting { until_ms } => until_ms,
        }
    }

    /// Starts it if it is time, and kills one that hangs.
    pub fn wake(&mut self, now_ms: u64) {
        match self.state {
            State::Waiting { until_ms } if now_ms >= until_ms => match self.spawn() {
                Ok(pid) => {
                    say::news("agent starts");
                    self.state = State::Running {
                        pid,
                        since_ms: now_ms,
                        heard_ms: None,
                    };
                }
                Err(error) => {
                    say::trouble(&format!("the agent cannot be started: {error}"));
                    let until_ms = now_ms + self.backoff.died(0);
                    self.state = State::Waiting { until_ms };
                }
            },
            State::Running {
                pid,
                heard_ms: Some(at),
                ..
            } if now_ms >= at + WATCHDOG_MS => {
                say::trouble("the agent hangs and is killed; containers go on");
                // It is reaped like any other; until then, not again.
                let _ = kill(pid, Signal::SIGKILL);
                self.lives(now_ms);
            }
            State::Waiting { .. } | State::Running { .. } => {}
        }
    }

    fn lives(&mut self, now_ms: u64) {
        if let State::Running { heard_ms, .. } = &mut self.state {
            *heard_ms = Some(now_ms);
        }
    }

    /// It ended.
    pub fn ended(&mut self, how: &str, now_ms: u64) {
        if let State::Running { since_ms, .. } = self.state {
            let wait = self.backoff.died(now_ms.saturating_sub(since_ms));
            say::trouble(&format!(
                "the agent ended ({how}); it starts again in {wait} ms"
            ));
            self.state = State::Waiting {
                until_ms: now_ms + wait,
            };
        }
    }

    /// The next thing it says, if there is one now.
    pub fn notice(&mut self, now_ms: u64) -> Option<Notice> {
        let mut bytes = [0; 512];
        loop {
            let count = self.notify.recv(&mut bytes).ok()?;
            let text = String::from_utf8_lossy(&bytes[..count]);
            match parse(&text) {
                Some(Notice::Alive) => self.lives(now_ms),
                Some(notice) => return Some(notice),
                None => {}
            }
        }
    }

    fn spawn(&self) -> io::Result<Pid> {
        let kmsg = || File::options().write(true).open("/dev/kmsg");
        let output = || kmsg().map_or_else(|_| Stdio::null(), Stdio::from);
        let mut command = Command::new("/bin/skerry-agent");
        command
            .arg("run")
            .args(["--data", &format!("{DATA_DIR}/{AGENT}")])
            .args(["--run", "/run/skerry-agent"]);
        if let Some(config) = &self.config {
            command.args(["--config", config]);
        }
        command
            .env_clear()
            .env("PATH", "/bin:/sbin")
            .env("HOME", "/")
            .env("BLOCKING_MAX_THREADS", "4")
            .env("NOTIFY_SOCKET", NOTIFY)
            .env("WATCHDOG_USEC", (WATCHDOG_MS * 1000).to_string())
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .current_dir("/");
        // Signals are blocked here, for the loop to read; the agent has its own
        // way with them.
        // SAFETY: sigprocmask is safe to call between fork and exec.
        unsafe {
            command.pre_exec(|| {
                nix::sys::signal::SigSet::all()
                    .thread_unblock()
                    .map_err(io::Error::from)?;
                nix::unistd::setsid().map(drop).map_err(io::Error::from)
            });
        }
        Ok(Pid::from_raw(command.spawn()?.id() as i32))
    }
}

impl AsFd for Child {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.notify.as_fd()
    }
}

/// A socket that root alone can say something to.
fn listen(path: &Path) -> io::Result<UnixDatagram> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn parse(text: &str) -> Option<Notice> {
    text.lines().find_map(|line| match line.split_once('=')? {
        ("READY", "1") => Some(Notice::Ready),
        ("WATCHDOG", "1") => Some(Notice::Alive),
        ("X_SKERRY_PHASE", phase) => Some(Notice::Phase(phase.to_string())),
        _ => None,
    })
}

/// The configuration from the card, if the agent can use it. A device whose
/// file was damaged by hand runs its apps without it.
pub fn usable_config() -> (Option<String>, Option<String>) {
    let file = Path::new(RUN_DIR).join("agent.yaml");
    if !file.exists() {
        return (None, None);
    }
    let overrides = crate::config::Overrides {
        file: Some(file.clone()),
        ..Default::default()
    };
    match crate::config::Config::load(overrides) {
        Ok(config) => {
            let name = config.name.map(|name| name.to_string());
            (Some(file.display().to_string()), name)
        }
        Err(error) => {
            say::trouble(&format!(
                "skerry/agent.yaml on the card is not used: {}",
                chain(&error)
            ));
            (None, None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_longer_until_it_is_well() {
        let mut backoff = Backoff::default();
        let waits: Vec<u64> = (0..12).map(|_| backoff.died(10)).collect();
        assert_eq!(waits[..4], [200, 400, 800, 1600]);
        assert_eq!(waits[11], MAX_WAIT_MS);
        assert_eq!(backoff.deaths(), 12);
        assert_eq!(backoff.died(WELL_MS), FIRST_WAIT_MS);
        assert_eq!(backoff.deaths(), 1);
    }

    #[test]
    fn its_socket_has_a_place_that_containers_do_not_share() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("notify");
        let first = listen(&path).expect("bound");
        drop(first);
        // As after a crash: the name is still there.
        let socket = listen(&path).expect("bound again");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let sender = UnixDatagram::unbound().expect("made");
        sender.send_to(b"READY=1", &path).expect("sent");
        let mut bytes = [0; 16];
        assert_eq!(socket.recv(&mut bytes).expect("heard"), 7);
        // An abstract one is seen by all in the same network namespace.
        let address = socket.local_addr().expect("bound");
        assert_eq!(address.as_pathname(), Some(path.as_path()));
        assert!(Path::new(NOTIFY).is_absolute());
    }

    #[test]
    fn hears_what_systemd_hears_and_phases() {
        assert_eq!(parse("READY=1\n"), Some(Notice::Ready));
        assert_eq!(parse("WATCHDOG=1"), Some(Notice::Alive));
        let phase = Notice::Phase("store open".into());
        assert_eq!(parse("X_SKERRY_PHASE=store open"), Some(phase));
        assert_eq!(parse("STATUS=x"), None);
    }
}
