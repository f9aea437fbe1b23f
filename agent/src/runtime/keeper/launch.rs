//! The keeper's start: alone, detached, and with its tools in hand.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{ForkResult, dup2, fork, pipe2, setsid};

use super::super::cgroup::Hierarchies;
use super::super::exe::ProtectedExe;
use super::super::exits;
use super::super::guard;
use super::super::paths::Layout;
use super::super::seqpacket;
use super::book::LogBook;
use super::{Keeper, QUIET, READ_AT_ONCE};

/// Exit code of the launch when another keeper already runs: connect to it.
pub const ALREADY_RUNS: u8 = 3;
/// What the launched keeper says when it listens.
const READY: &str = "ready";
const TAKEN: &str = "taken";

/// The process behind `skerry-agent keeper --run-dir R --data-dir D
/// --cgroup-parent C [--apps-memory BYTES]`. Returns as soon as the keeper listens, in the
/// background, or says on standard error why it does not.
///
/// It listens in the run directory and keeps nothing but the two directories,
/// so that a hand at three in the morning may start it too.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let (layout, apps_memory) = match parse(args) {
        Ok(options) => options,
        Err(text) => {
            eprintln!("skerry-agent keeper: {text}");
            return ExitCode::FAILURE;
        }
    };
    match launch(layout, apps_memory) {
        Ok(answer) if answer == READY => ExitCode::SUCCESS,
        Ok(answer) if answer == TAKEN => ExitCode::from(ALREADY_RUNS),
        Ok(answer) => {
            eprintln!("skerry-agent keeper: {answer}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("skerry-agent keeper: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(Layout, Option<u64>), String> {
    let (mut run_dir, mut data_dir, mut cgroup_parent) = (None, None, None);
    let mut apps_memory = None;
    while let Some(name) = args.next() {
        let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--run-dir" => run_dir = Some(PathBuf::from(value)),
            "--data-dir" => data_dir = Some(PathBuf::from(value)),
            "--cgroup-parent" => cgroup_parent = Some(value),
            "--apps-memory" => match value.parse() {
                Ok(bytes) => apps_memory = Some(bytes),
                Err(_) => return Err(format!("{name} {value}: a number of bytes is needed")),
            },
            _ => return Err(format!("unknown option {name}")),
        }
    }
    let (Some(run_dir), Some(data_dir), Some(cgroup_parent)) = (run_dir, data_dir, cgroup_parent)
    else {
        return Err("--run-dir, --data-dir and --cgroup-parent are needed".into());
    };
    let inside = |part: &str| !part.is_empty() && part != "." && part != "..";
    if !cgroup_parent.split('/').all(inside) {
        return Err(format!(
            "cgroup parent {cgroup_parent:?} must be relative, as skerry/device"
        ));
    }
    if !run_dir.is_absolute() || !data_dir.is_absolute() {
        return Err("the directories must be absolute paths".into());
    }
    let layout = Layout {
        run_dir,
        data_dir,
        cgroup_parent,
    };
    Ok((layout, apps_memory))
}

/// Forks the keeper and waits for its word.
fn launch(layout: Layout, apps_memory: Option<u64>) -> io::Result<String> {
    close_inherited();
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: this process has a single thread, so the child may do anything.
    match unsafe { fork() }? {
        ForkResult::Parent { .. } => {
            drop(writer);
            let mut answer = String::new();
            File::from(reader).read_to_string(&mut answer)?;
            if answer.is_empty() {
                answer = "it ended without a word".into();
            }
            Ok(answer)
        }
        ForkResult::Child => {
            drop(reader);
            let code = match detached(layout, apps_memory, writer) {
                Ok(()) => 0,
                Err(()) => 1,
            };
            std::process::exit(code)
        }
    }
}

/// The child's life.
fn detached(layout: Layout, apps_memory: Option<u64>, parent: OwnedFd) -> Result<(), ()> {
    let mut parent = File::from(parent);
    let mut say = |text: &str| {
        // If nobody listens any more, the keeper runs all the same.
        let _ = parent.write_all(text.as_bytes());
    };
    let lock = match lock(&layout) {
        Ok(Some(lock)) => lock,
        Ok(None) => {
            say(TAKEN);
            return Ok(());
        }
        Err(error) => {
            say(&format!("{}: {error}", layout.run_dir.display()));
            return Err(());
        }
    };
    let mut keeper = match prepare(layout, apps_memory) {
        Ok(keeper) => keeper,
        Err(error) => {
            say(&error);
            return Err(());
        }
    };
    say(READY);
    drop(parent);
    let result = keeper.run();
    let _ = fs::remove_file(keeper.layout.socket());
    drop(lock);
    result.map_err(|error| super::complain(format_args!("the keeper ends: {error}")))
}

/// The lock that makes it the only one; `None` if another holds it.
fn lock(layout: &Layout) -> io::Result<Option<Flock<File>>> {
    for dir in [
        &layout.run_dir,
        &layout.data_dir,
        &layout.exits(),
        &layout.bundles(),
    ] {
        private_dirs(dir)?;
    }
    let options = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .to_owned();
    let file = options.open(layout.lock())?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

fn prepare(layout: Layout, apps_memory: Option<u64>) -> Result<Keeper, String> {
    let at = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    detach(&layout).map_err(at("cannot detach"))?;
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|error| format!("cannot become a subreaper: {error}"))?;
    // A name that `ps` shows; what it is called by is not ours to fail on.
    let _ = nix::sys::prctl::set_name(c"skerry-keeper");
    let hierarchies = Hierarchies::detect().map_err(|error| error.to_string())?;
    hierarchies
        .enter(&layout.keeper_cgroup())
        .map_err(at("own cgroup"))?;
    for (path, error) in guard::set(&hierarchies, &layout, apps_memory) {
        super::complain(format_args!("guard: {}: {error}", path.display()));
    }
    // First processes of process namespaces whose keeper has died: the
    // containers in them are lost, and would be killed one by one.
    hierarchies.kill_all(&layout.pods_cgroup());
    shield();
    let exe = ProtectedExe::of_this_process().map_err(at("own binary"))?;
    let signals = own_signals().map_err(at("signals"))?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .map_err(|error| format!("poll set: {error}"))?;
    exits::sweep(&layout.exits()).map_err(at("records of ends"))?;
    // We hold the lock: a socket that is there belongs to a dead keeper.
    match fs::remove_file(layout.socket()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("{}: {error}", layout.socket().display()));
        }
        _ => {}
    }
    let listener = listen(&layout).map_err(at("own socket"))?;
    Ok(Keeper {
        layout,
        hierarchies,
        exe,
        epoll,
        listener,
        signals,
        last_serial: 0,
        clients: BTreeMap::new(),
        containers: BTreeMap::new(),
        jobs: BTreeMap::new(),
        strays: false,
        waiting: VecDeque::new(),
        execs: BTreeMap::new(),
        sandboxes: BTreeMap::new(),
        lists: Vec::new(),
        unwritten: BTreeMap::new(),
        unsynced: BTreeMap::new(),
        logs: LogBook::default(),
        block: vec![0; READ_AT_ONCE].into(),
        give_back_at: Some(Instant::now() + QUIET),
        ending: false,
    })
}

/// Binds by a short name, because a socket's address holds 107 bytes only.
fn listen(layout: &Layout) -> io::Result<OwnedFd> {
    let path = layout.socket();
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    std::env::set_current_dir(&layout.run_dir)?;
    let listener = seqpacket::listen_at(Path::new(name));
    std::env::set_current_dir("/")?;
    listener
}

/// Leaves the agent's session, terminal and working directory.
fn detach(layout: &Layout) -> io::Result<()> {
    setsid()?;
    umask(Mode::from_bits_truncate(0o077));
    std::env::set_current_dir("/")?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(layout.keeper_log())?;
    let null = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    dup2(null.as_raw_fd(), 0)?;
    dup2(null.as_raw_fd(), 1)?;
    dup2(log.as_raw_fd(), 2)?;
    Ok(())
}

/// Marks whatever the agent left open as ours no longer.
fn close_inherited() {
    // SAFETY: nothing in this process has opened a descriptor of its own yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
}

/// Room for many containers, and last in line for the out-of-memory killer.
/// Both are wishes: without the privilege it works all the same.
fn shield() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    let _ = fs::write("/proc/self/oom_score_adj", "-999");
}

/// Blocks every signal that would end the keeper or that it handles; SIGCHLD
/// comes through a descriptor. Blocked before the first child exists, so that
/// no end is ever missed.
fn own_signals() -> io::Result<SignalFd> {
    let mut blocked = SigSet::empty();
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        blocked.add(signal);
    }
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    blocked.add(Signal::SIGCHLD);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&blocked), None)?;
    Ok(SignalFd::with_flags(
        &children,
        SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
    )?)
}

fn private_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> impl Iterator<Item = String> {
        text.split(' ').map(str::to_owned)
    }

    #[test]
    fn options_are_checked() {
        let good = "--run-dir /r --data-dir /d --cgroup-parent skerry/dev1";
        assert!(parse(words(good)).is_ok());
        for bad in [
            "--run-dir",
            "--what /r",
            "--run-dir /r --data-dir /d",
            "--run-dir r --data-dir /d --cgroup-parent a",
            "--run-dir /r --data-dir /d --cgroup-parent /a",
            "--run-dir /r --data-dir /d --cgroup-parent a/../b",
        ] {
            assert!(parse(words(bad)).is_err(), "{bad}");
        }
    }
}
