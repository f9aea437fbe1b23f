//! The containers' side of the keeper: lives, output, ends.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, pipe2, read};

use super::super::exits;
use super::super::limits;
use super::super::logs::{LineSplitter, Origin, StartMark, Stream};
use super::super::proto::{FailureKind, Operation, Response};
use super::super::spec::{
    ContainerId, ContainerSpec, ContainerState, Exit, ExitStatus, Resources, Sharing, Status,
    Timestamp,
};
use super::jobs::{JobKind, send_signal};
use super::{Asker, Keeper, READ_AT_ONCE, Serial, Token, complain};

/// Containers at once. Each costs three descriptors of the keeper.
const MAX_CONTAINERS: usize = 1000;
/// How long an agent that has been told of an end may take to commit it, before
/// the keeper brings its own record to the disk.
///
/// An agent that is there commits the end in its own store before it acts on
/// it, and then lets the record be forgotten: syncing it as well would wear the
/// flash twice for every end, and hold up all output meanwhile (measured on a
/// busy disk: 60 ms). A power cut within this time may lose an end that nobody
/// has acted on.
const AGENT_COMMITS: Duration = Duration::from_secs(1);
/// Read from a pipe after its last writer has ended: what Linux lets an
/// ordinary user make a pipe hold at most, so that an end is always reached.
const MAX_LEFT: usize = 1 << 20;

/// One container that the keeper owns.
#[derive(Debug)]
pub struct Container {
    id: ContainerId,
    log: PathBuf,
    /// Tells what it writes there from what others do.
    start: StartMark,
    stage: Stage,
    stdout: Option<Output>,
    stderr: Option<Output>,
    /// Whose namespaces it shares.
    sandbox: Option<ContainerId>,
    /// Its first process is not the init of a process namespace of its own:
    /// the others do not end with it.
    loose: bool,
    /// Those who wait for it to be gone.
    removers: Vec<Asker>,
}

/// How far it has come.
#[derive(Debug)]
enum Stage {
    /// A helper makes it.
    Making {
        /// Someone wants it dead as soon as it lives.
        doomed: bool,
    },
    /// Its first process exists and waits to be let go.
    Born { pid: i32, started_at: Timestamp },
    /// It runs.
    Running { pid: i32, started_at: Timestamp },
}

/// The reading end of one of its outputs.
#[derive(Debug)]
struct Output {
    fd: OwnedFd,
    splitter: LineSplitter,
}

impl Container {
    /// Its name.
    pub fn id(&self) -> &ContainerId {
        &self.id
    }

    /// Whether it lives in this sandbox.
    pub fn is_in(&self, sandbox: &ContainerId) -> bool {
        self.sandbox.as_ref() == Some(sandbox)
    }

    /// Whether its creation is under way.
    pub fn is_starting(&self) -> bool {
        match self.stage {
            Stage::Making { .. } | Stage::Born { .. } => true,
            Stage::Running { .. } => false,
        }
    }

    pub(super) fn pid(&self) -> Option<i32> {
        match self.stage {
            Stage::Making { .. } => None,
            Stage::Born { pid, .. } | Stage::Running { pid, .. } => Some(pid),
        }
    }
}

impl Keeper {
    pub(super) fn create(&mut self, asker: Asker, spec: Box<ContainerSpec>) {
        if let Err(error) = spec.validate() {
            return self.fail(asker, FailureKind::Invalid, error.to_string());
        }
        let id = spec.id.clone();
        let recorded = exits::read(&self.layout.exits(), &id).is_some();
        let ended = recorded || self.unwritten.contains_key(&id);
        if self.find(&id).is_some() || ended {
            let text = format!("container {id} is there already");
            return self.fail(asker, FailureKind::AlreadyExists, text);
        }
        if self.containers.len() >= MAX_CONTAINERS {
            let text = format!("{MAX_CONTAINERS} containers are the most");
            return self.fail(asker, FailureKind::Busy, text);
        }
        let sandbox = match &spec.sandbox {
            None => None,
            Some(sandbox) => match self.namespaces(sandbox, &spec) {
                Ok(namespaces) => Some(namespaces),
                Err(text) => return self.fail(asker, FailureKind::NotFound, text),
            },
        };
        let log = self.layout.log(&spec.log_name, spec.log.persist);
        if let Err(error) = self.logs.open(&log, spec.log) {
            let text = format!("log {}: {error}", log.display());
            return self.fail(asker, FailureKind::Failed, text);
        }
        let container = self.next_serial();
        let pipes = self
            .output(Token::Stdout(container))
            .and_then(|stdout| Ok((stdout, self.output(Token::Stderr(container))?)));
        let ((stdout, stdout_writer), (stderr, stderr_writer)) = match pipes {
            Ok(pipes) => pipes,
            Err(error) => {
                self.logs.close(&log);
                return self.fail(asker, FailureKind::Failed, format!("no pipe: {error}"));
            }
        };
        let one = Container {
            start: StartMark::of(&id),
            id,
            log,
            stage: Stage::Making { doomed: false },
            stdout: Some(stdout),
            stderr: Some(stderr),
            sandbox: spec.sandbox.clone(),
            loose: spec.pid != Sharing::Own,
            removers: Vec::new(),
        };
        self.containers.insert(container, one);
        let operation = Operation::Create {
            spec,
            sandbox,
            layout: self.layout.clone(),
        };
        let fds = vec![stdout_writer, stderr_writer];
        if !self.submit(JobKind::Create { container, asker }, operation, fds) {
            self.abandon(container);
            self.too_busy(asker);
        }
    }

    /// A pipe whose reading end is in the poll set.
    fn output(&self, token: Token) -> io::Result<(Output, OwnedFd)> {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        // Ours only: the container's end must block, as programs expect.
        fcntl(reader.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.epoll
            .add(&reader, EpollEvent::new(EpollFlags::EPOLLIN, token.pack()))?;
        Ok((
            Output {
                fd: reader,
                splitter: LineSplitter::default(),
            },
            writer,
        ))
    }

    /// Its first process exists.
    pub(super) fn born(&mut self, container: Serial, pid: i32) {
        let Some(one) = self.containers.get_mut(&container) else {
            return;
        };
        if let Stage::Making { doomed: true } = one.stage {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        one.stage = Stage::Born {
            pid,
            started_at: Timestamp::now(),
        };
    }

    /// It runs: its process id.
    pub(super) fn started(&mut self, container: Serial) -> Option<i32> {
        let one = self.containers.get_mut(&container)?;
        if let Stage::Born { pid, started_at } = one.stage {
            one.stage = Stage::Running { pid, started_at };
        }
        one.pid()
    }

    /// Its creation has failed; the helper has taken down what it had made.
    pub(super) fn abandon(&mut self, container: Serial) {
        let Some(mut one) = self.containers.remove(&container) else {
            return;
        };
        if let Some(pid) = one.pid() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        self.close_outputs(&mut one);
        for asker in std::mem::take(&mut one.removers) {
            self.remove(asker, one.id.clone());
        }
    }

    /// How many containers live in a sandbox.
    pub(super) fn count_in(&self, sandbox: &ContainerId) -> usize {
        self.containers
            .values()
            .filter(|one| one.is_in(sandbox))
            .count()
    }

    pub(super) fn running_pid(&self, container: Serial) -> Option<i32> {
        self.containers.get(&container).and_then(Container::pid)
    }

    pub(super) fn signal(&mut self, asker: Asker, id: &ContainerId, signal: i32) {
        // Not reaped, so the number is still this process's.
        match self.find(id).and_then(|serial| self.running_pid(serial)) {
            None => {
                let text = format!("container {id} does not run");
                self.fail(asker, FailureKind::NotFound, text);
            }
            Some(pid) => match send_signal(pid, signal) {
                Ok(()) => self.answer(asker, &Response::Done),
                Err(error) => {
                    let text = format!("signal {signal} to container {id}: {}", error.desc());
                    self.fail(asker, FailureKind::Failed, text);
                }
            },
        }
    }

    pub(super) fn kill(&mut self, asker: Asker, id: &ContainerId) {
        self.kill_container(id);
        self.answer(asker, &Response::Done);
    }

    /// Kills all of a container. Its first process is the init of its process
    /// namespace, and the kernel kills the others with it; unless that
    /// namespace is shared: then all in its cgroup are killed.
    fn kill_container(&mut self, id: &ContainerId) {
        match self
            .find(id)
            .and_then(|serial| self.containers.get_mut(&serial))
        {
            Some(one) => match &mut one.stage {
                Stage::Making { doomed } => *doomed = true,
                Stage::Born { pid, .. } | Stage::Running { pid, .. } => {
                    let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
                    if one.loose {
                        self.hierarchies.kill_all(&self.layout.cgroup(id));
                    }
                }
            },
            None => self.hierarchies.kill_all(&self.layout.cgroup(id)),
        }
    }

    pub(super) fn remove(&mut self, asker: Asker, id: ContainerId) {
        self.kill_container(&id);
        match self
            .find(&id)
            .and_then(|serial| self.containers.get_mut(&serial))
        {
            Some(one) => one.removers.push(asker),
            None => self.submit_delete(id, vec![asker]),
        }
    }

    /// Changes the limits of a container that runs. A kernel that refuses one
    /// of them has taken those before it; asking again is right.
    pub(super) fn resize(&mut self, asker: Asker, id: &ContainerId, resources: &Resources) {
        if let Err(error) = resources.validate() {
            return self.fail(asker, FailureKind::Invalid, error.to_string());
        }
        if self
            .find(id)
            .and_then(|serial| self.running_pid(serial))
            .is_none()
        {
            let text = format!("container {id} does not run");
            return self.fail(asker, FailureKind::NotFound, text);
        }
        match limits::apply(&self.hierarchies, &self.layout.cgroup(id), resources) {
            Ok(()) => self.answer(asker, &Response::Done),
            Err(error) => self.fail(asker, FailureKind::Failed, limits::text(&error)),
        }
    }

    pub(super) fn forget_exit(&mut self, asker: Asker, id: &ContainerId) {
        self.unwritten.remove(id);
        self.unsynced.remove(id);
        match exits::forget(&self.layout.exits(), id) {
            Ok(()) => self.answer(asker, &Response::Done),
            Err(error) => {
                let text = format!("record of container {id}: {error}");
                self.fail(asker, FailureKind::Failed, text);
            }
        }
    }

    /// Takes its turn's worth from one output.
    pub(super) fn read_output(&mut self, container: Serial, token: Token) {
        let Some(one) = self.containers.get_mut(&container) else {
            return;
        };
        let (slot, stream) = match token {
            Token::Stdout(_) => (&mut one.stdout, Stream::Stdout),
            _ => (&mut one.stderr, Stream::Stderr),
        };
        let Some(output) = slot else { return };
        let start = one.start;
        let origin = Origin { stream, start };
        match read(output.fd.as_raw_fd(), &mut self.block[..READ_AT_ONCE]) {
            Ok(count) if count > 0 => {
                let bytes = &self.block[..count];
                self.logs
                    .write(&one.log, origin, &mut output.splitter, Some(bytes));
            }
            Err(nix::Error::EAGAIN | nix::Error::EINTR) => {}
            // Every writer has closed it, long before its end perhaps.
            Ok(_) | Err(_) => {
                self.logs
                    .write(&one.log, origin, &mut output.splitter, None);
                let _ = self.epoll.delete(&output.fd);
                *slot = None;
            }
        }
    }

    /// Takes all that is left in the pipes, writes it, and closes the log.
    fn close_outputs(&mut self, one: &mut Container) {
        let outputs = [
            (one.stdout.take(), Stream::Stdout),
            (one.stderr.take(), Stream::Stderr),
        ];
        for (output, stream) in outputs {
            let Some(mut output) = output else { continue };
            let start = one.start;
            let origin = Origin { stream, start };
            let mut left = MAX_LEFT;
            while left > 0 {
                match read(output.fd.as_raw_fd(), &mut self.block[..READ_AT_ONCE]) {
                    Ok(count) if count > 0 => {
                        let bytes = &self.block[..count];
                        self.logs
                            .write(&one.log, origin, &mut output.splitter, Some(bytes));
                        left = left.saturating_sub(count);
                    }
                    Err(nix::Error::EINTR) => {}
                    Ok(_) | Err(_) => break,
                }
            }
            self.logs
                .write(&one.log, origin, &mut output.splitter, None);
            let _ = self.epoll.delete(output.fd.as_fd());
        }
        self.logs.close(&one.log);
    }

    /// A child that is neither helper nor exec has ended.
    pub(super) fn container_ended(&mut self, pid: i32, status: ExitStatus) {
        let found = self
            .containers
            .iter()
            .find(|(_, one)| one.pid() == Some(pid));
        let Some(serial) = found.map(|(serial, _)| *serial) else {
            return;
        };
        let Some(mut one) = self.containers.remove(&serial) else {
            return;
        };
        if one.loose {
            self.hierarchies.kill_all(&self.layout.cgroup(&one.id));
        }
        // Its output first: whoever hears of the end finds the log complete.
        self.close_outputs(&mut one);
        // The kernel kills with SIGKILL, or a child, which the program may tell by
        // its exit code. Another signal says that somebody else ended it.
        let unhappy = match status {
            ExitStatus::Code(code) => code != 0,
            ExitStatus::Signal(number) => number == libc::SIGKILL,
        };
        let oom_killed = unhappy && self.hierarchies.oom_kills(&self.layout.cgroup(&one.id)) > 0;
        let exit = Exit {
            status,
            oom_killed,
            at: Timestamp::now(),
        };
        self.record(&one.id, exit);
        self.announce(&Response::Exited {
            id: one.id.clone(),
            exit,
        });
        if !one.removers.is_empty() {
            self.submit_delete(one.id, one.removers);
        }
    }

    /// Records an end. What the disk does not take now is kept in memory and
    /// tried again with the next end.
    fn record(&mut self, id: &ContainerId, exit: Exit) {
        self.unwritten.insert(id.clone(), exit);
        let dir = self.layout.exits();
        let deadline = match self.has_agent() {
            true => Instant::now() + AGENT_COMMITS,
            false => Instant::now(),
        };
        for (id, exit) in std::mem::take(&mut self.unwritten) {
            match exits::write(&dir, &id, &exit) {
                Ok(()) => {
                    self.unsynced.insert(id, deadline);
                }
                Err(error) => {
                    complain(format_args!(
                        "end of container {id} cannot be recorded: {error}"
                    ));
                    self.unwritten.insert(id, exit);
                }
            }
        }
    }

    /// Brings the records to the disk that no agent has committed in time.
    pub(super) fn sync_late_records(&mut self) {
        let now = Instant::now();
        if self.unsynced.values().all(|deadline| *deadline > now) {
            return;
        }
        // All of them, since the directory is synced anyway.
        let records = std::mem::take(&mut self.unsynced);
        if let Err(error) = exits::sync(&self.layout.exits(), records.keys()) {
            complain(format_args!("ends of containers cannot be synced: {error}"));
        }
    }

    /// All that is known of all containers.
    pub(super) fn states(&self) -> Vec<ContainerState> {
        let mut known = BTreeSet::new();
        let mut states = Vec::new();
        for one in self.containers.values() {
            if let Stage::Running { pid, started_at } = one.stage {
                known.insert(one.id.clone());
                let status = Status::Running { pid, started_at };
                states.push(ContainerState {
                    id: one.id.clone(),
                    status,
                });
            }
        }
        let dir = self.layout.exits();
        let recorded = exits::list(&dir).unwrap_or_default();
        let recorded = recorded
            .into_iter()
            .filter_map(|id| Some((exits::read(&dir, &id)?, id)));
        let unwritten = self.unwritten.iter().map(|(id, exit)| (*exit, id.clone()));
        for (exit, id) in recorded.chain(unwritten) {
            if known.insert(id.clone()) {
                states.push(ContainerState {
                    id,
                    status: Status::Exited(exit),
                });
            }
        }
        for id in self.traces() {
            if !known.contains(&id) {
                states.push(ContainerState {
                    id,
                    status: Status::Lost,
                });
            }
        }
        states
    }

    /// Every container of which something is on the machine.
    fn traces(&self) -> BTreeSet<ContainerId> {
        let dirs = [self.layout.bundles(), self.layout.scratches()];
        let mut names: BTreeSet<String> = self.hierarchies.children(&self.layout.apps_cgroup());
        for dir in dirs {
            names.extend(exits::names(&dir).into_iter().flatten());
        }
        names
            .into_iter()
            .filter_map(|name| ContainerId::new(name).ok())
            .collect()
    }
}
