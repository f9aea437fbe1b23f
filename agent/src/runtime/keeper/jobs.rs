//! Helpers: started, heard, reaped, and killed when they hang.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, process};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::AsRawFd;

use super::super::proto::{self, FailureKind, Operation, Progress, RequestId, Response};
use super::super::seqpacket;
use super::super::spec::{ContainerId, ExecSpec, ExitStatus};
use super::{Asker, Keeper, Serial, Token, complain};

/// Helpers at once. More would only wait for each other: what they do is CPU
/// and kernel locks.
const MAX_HELPERS: usize = 4;
/// Operations that may wait for a helper. Beyond that the engine is told.
const MAX_WAITING: usize = 1024;
/// The keeper's own log is begun anew when it is longer.
const MAX_OWN_LOG: i64 = 256 * 1024;
/// How long a helper may take. Removing a large writable layer from an SD card
/// is the longest that it does.
const PATIENCE: Duration = Duration::from_secs(120);

/// An operation that waits for its helper.
#[derive(Debug)]
pub struct WaitingJob {
    kind: JobKind,
    operation: Operation,
    fds: Vec<OwnedFd>,
}

/// An operation under way.
#[derive(Debug)]
pub struct Job {
    kind: JobKind,
    /// The container that no other job may touch meanwhile.
    target: Option<ContainerId>,
    helper: i32,
    socket: OwnedFd,
    deadline: Option<Instant>,
    reported: bool,
}

/// What an operation is for.
#[derive(Debug)]
pub enum JobKind {
    /// The container of this serial is being created.
    Create {
        /// Which.
        container: Serial,
        /// For whom.
        asker: Asker,
    },
    /// A further process is being started.
    Exec {
        /// For whom.
        asker: Asker,
        /// Its process id, once it has one.
        pid: Option<i32>,
    },
    /// A container is being taken down.
    Delete {
        /// Which.
        id: ContainerId,
        /// For whom.
        askers: Vec<Asker>,
    },
    /// A sandbox is being made.
    Sandbox {
        /// Which.
        id: ContainerId,
    },
}

/// A process started by `Exec`.
#[derive(Debug)]
pub struct ExecProcess {
    asker: Asker,
}

impl Job {
    /// Whether this process is its helper.
    pub fn is_of(&self, pid: i32) -> bool {
        self.helper == pid
    }

    /// When the helper is late.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}

impl Keeper {
    /// Starts the operation now or when its turn comes. False if too many
    /// wait already.
    pub(super) fn submit(
        &mut self,
        kind: JobKind,
        operation: Operation,
        fds: Vec<OwnedFd>,
    ) -> bool {
        if self.waiting.len() >= MAX_WAITING {
            return false;
        }
        self.waiting.push_back(WaitingJob {
            kind,
            operation,
            fds,
        });
        true
    }

    pub(super) fn start_waiting_jobs(&mut self) {
        while self.jobs.len() < MAX_HELPERS {
            // One after the other for each container: making it and taking it
            // down must not meet.
            let next = self.waiting.iter().position(|one| {
                let target = target(&one.operation);
                target.is_none() || self.jobs.values().all(|job| job.target.as_ref() != target)
            });
            let Some(waiting) = next.and_then(|at| self.waiting.remove(at)) else {
                break;
            };
            let WaitingJob {
                kind,
                operation,
                fds,
            } = waiting;
            bound_own_log();
            match self.spawn(&operation, &fds) {
                Ok((helper, socket)) => {
                    let serial = self.next_serial();
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, Token::Job(serial).pack());
                    if let Err(error) = self.epoll.add(&socket, event) {
                        complain(format_args!("cannot watch a helper: {error}"));
                    }
                    let deadline = Some(Instant::now() + PATIENCE);
                    let target = target(&operation).cloned();
                    let job = Job {
                        kind,
                        target,
                        helper,
                        socket,
                        deadline,
                        reported: false,
                    };
                    self.jobs.insert(serial, job);
                }
                Err(error) => {
                    let text = format!("cannot start a helper: {error}");
                    self.job_failed(kind, FailureKind::Failed, text);
                }
            }
        }
        if self.waiting.is_empty() {
            self.waiting.shrink_to_fit();
        }
    }

    /// Operations that have not been answered.
    pub(super) fn unfinished_jobs(&self) -> usize {
        self.waiting.len() + self.jobs.values().filter(|job| !job.reported).count()
    }

    fn spawn(&self, operation: &Operation, fds: &[OwnedFd]) -> io::Result<(i32, OwnedFd)> {
        let bytes = proto::encode(0, operation).map_err(io::Error::other)?;
        let (ours, theirs) = seqpacket::pair()?;
        let child = Command::new(self.exe.path())
            .arg("helper")
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
        let sent = seqpacket::send(ours.as_fd(), &bytes, &fds).and_then(|()| {
            fcntl(ours.as_raw_fd(), FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(io::Error::from)
        });
        // Dropping a Child neither kills nor reaps it; `reap` does.
        sent.map(|_| (pid, ours))
    }

    /// Takes what a helper says.
    pub(super) fn hear(&mut self, serial: Serial) {
        loop {
            let Some(job) = self.jobs.get(&serial) else {
                return;
            };
            match seqpacket::receive(job.socket.as_fd()) {
                Ok(Some((bytes, fds))) => match proto::decode(&bytes) {
                    Ok(progress) => self.progress(serial, progress, fds),
                    Err(error) => complain(format_args!("a helper cannot be understood: {error}")),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(None) | Err(_) => {
                    // It has gone; what comes next is its death.
                    let _ = self.epoll.delete(&job.socket);
                    return;
                }
            }
        }
    }

    fn progress(&mut self, serial: Serial, progress: Progress, mut fds: Vec<OwnedFd>) {
        let Some(job) = self.jobs.get_mut(&serial) else {
            return;
        };
        match progress {
            Progress::Born { pid } => match &mut job.kind {
                JobKind::Create { container, .. } => {
                    let container = *container;
                    self.born(container, pid);
                }
                JobKind::Exec { pid: known, asker } => {
                    *known = Some(pid);
                    let asker = *asker;
                    self.execs.insert(pid, ExecProcess { asker });
                }
                JobKind::Sandbox { id } => {
                    let id = id.clone();
                    self.sandbox_born(&id, pid);
                }
                JobKind::Delete { .. } => {}
            },
            Progress::Done => {
                job.reported = true;
                match &job.kind {
                    JobKind::Create { container, asker } => {
                        let (container, asker) = (*container, *asker);
                        if let Some(pid) = self.started(container) {
                            self.answer(asker, &Response::Created { pid });
                        }
                    }
                    JobKind::Exec { asker, pid } => {
                        let (asker, pid) = (*asker, pid.unwrap_or_default());
                        self.answer_with(asker, &Response::ExecStarted { pid }, fds.pop());
                        if !self.clients.contains_key(&asker.client) {
                            self.kill_execs_of(asker.client);
                        }
                    }
                    JobKind::Delete { askers, .. } => {
                        for asker in askers.clone() {
                            self.answer(asker, &Response::Done);
                        }
                    }
                    JobKind::Sandbox { id } => {
                        let id = id.clone();
                        self.sandbox_made(&id, fds);
                    }
                }
            }
            Progress::Failed { kind, message } => {
                job.reported = true;
                let failed = std::mem::replace(&mut job.kind, JobKind::nothing());
                self.job_failed(failed, kind, message);
            }
        }
    }

    fn job_failed(&mut self, kind: JobKind, failure: FailureKind, message: String) {
        match kind {
            JobKind::Create { container, asker } => {
                self.abandon(container);
                self.fail(asker, failure, message);
            }
            JobKind::Exec { asker, pid } => {
                if let Some(pid) = pid
                    && self.execs.remove(&pid).is_some()
                {
                    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
                }
                self.fail(asker, failure, message);
            }
            JobKind::Delete { id, askers } => {
                if askers.is_empty() && !message.is_empty() {
                    complain(format_args!("container {id} cannot be removed: {message}"));
                }
                for asker in askers {
                    self.fail(asker, failure, message.clone());
                }
            }
            JobKind::Sandbox { id } => self.sandbox_failed(&id, failure, &message),
        }
    }

    /// Reaps every child that has ended.
    pub(super) fn reap(&mut self) {
        while let Ok(Some(_)) = self.signals.read_signal() {}
        // A helper says what it has begotten before it dies, and its child
        // becomes ours only then: so hear first, and no end is unknown.
        let serials: Vec<Serial> = self.jobs.keys().copied().collect();
        for serial in serials {
            self.hear(serial);
        }
        loop {
            let (pid, status) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid.as_raw(), ExitStatus::Code(code)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => {
                    (pid.as_raw(), ExitStatus::Signal(signal as i32))
                }
                Ok(WaitStatus::StillAlive) | Err(nix::Error::ECHILD) => return,
                Ok(_) | Err(nix::Error::EINTR) => continue,
                Err(error) => return complain(format_args!("cannot reap: {error}")),
            };
            let helper = self.jobs.iter().find(|(_, job)| job.helper == pid);
            if let Some(serial) = helper.map(|(serial, _)| *serial) {
                self.hear(serial);
                self.helper_ended(serial, status);
            } else if let Some(exec) = self.execs.remove(&pid) {
                self.answer(exec.asker, &Response::ExecExited { status });
            } else {
                // Anyone else's end tells nothing: what a killed helper left.
                self.sandbox_ended(pid);
                self.container_ended(pid, status);
            }
            self.strays = self.strays && self.kill_strays();
        }
    }

    fn helper_ended(&mut self, serial: Serial, status: ExitStatus) {
        let Some(job) = self.jobs.remove(&serial) else {
            return;
        };
        let _ = self.epoll.delete(&job.socket);
        if job.reported {
            return;
        }
        // Killed from outside, or by itself: what it had begun is without it.
        self.strays = true;
        let why = match status {
            ExitStatus::Code(code) => format!("the helper ended with code {code}"),
            ExitStatus::Signal(signal) => format!("the helper was killed by signal {signal}"),
        };
        let text = format!("{why}; see {}", self.layout.keeper_log().display());
        // What it has made so far goes again.
        if let JobKind::Create { container, .. } = &job.kind
            && let Some(id) = self.containers.get(container).map(|one| one.id().clone())
        {
            self.submit_delete(id, Vec::new());
        }
        self.job_failed(job.kind, FailureKind::Failed, text);
    }

    pub(super) fn kill_late_helpers(&mut self) {
        let now = Instant::now();
        for job in self.jobs.values_mut() {
            if job.deadline.is_some_and(|deadline| deadline <= now) {
                job.deadline = None;
                complain(format_args!("helper {} hangs: killed", job.helper));
                let _ = kill(Pid::from_raw(job.helper), Signal::SIGKILL);
            }
        }
    }

    pub(super) fn submit_delete(&mut self, id: ContainerId, askers: Vec<Asker>) {
        let operation = Operation::Delete {
            id: id.clone(),
            layout: self.layout.clone(),
        };
        let kind = JobKind::Delete {
            id,
            askers: askers.clone(),
        };
        if !self.submit(kind, operation, Vec::new()) {
            for asker in askers {
                self.too_busy(asker);
            }
        }
    }

    pub(super) fn too_busy(&mut self, asker: Asker) {
        let text = format!("{MAX_WAITING} operations wait already; try again");
        self.fail(asker, FailureKind::Busy, text);
    }

    pub(super) fn exec(
        &mut self,
        asker: Asker,
        id: ContainerId,
        spec: ExecSpec,
        fds: Vec<OwnedFd>,
    ) {
        if let Err(error) = spec.validate() {
            return self.fail(asker, FailureKind::Invalid, error.to_string());
        }
        if self
            .find(&id)
            .and_then(|serial| self.running_pid(serial))
            .is_none()
        {
            let text = format!("container {id} does not run");
            return self.fail(asker, FailureKind::NotFound, text);
        }
        let operation = Operation::Exec {
            id,
            spec,
            layout: self.layout.clone(),
        };
        if !self.submit(JobKind::Exec { asker, pid: None }, operation, fds) {
            self.too_busy(asker);
        }
    }

    pub(super) fn signal_exec(&mut self, asker: Asker, exec: RequestId, signal: i32) {
        let wanted = Asker {
            client: asker.client,
            request: exec,
        };
        let found = self
            .execs
            .iter()
            .find(|(_, process)| process.asker == wanted);
        // Not reaped, so the number is still this process's.
        match found.map(|(pid, _)| send_signal(*pid, signal)) {
            Some(Ok(())) => self.answer(asker, &Response::Done),
            Some(Err(error)) => self.fail(asker, FailureKind::Failed, error.to_string()),
            None => self.fail(asker, FailureKind::NotFound, "no such process"),
        }
    }

    /// Ends what a connection that is gone had started interactively.
    pub(super) fn kill_execs_of(&mut self, client: Serial) {
        for (pid, process) in &self.execs {
            if process.asker.client == client {
                let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
            }
        }
    }
}

impl JobKind {
    /// What is left of a job that has failed: nobody waits for it.
    fn nothing() -> Self {
        let asker = Asker {
            client: 0,
            request: 0,
        };
        Self::Exec { asker, pid: None }
    }
}

/// The container that an operation must have for itself.
fn target(operation: &Operation) -> Option<&ContainerId> {
    match operation {
        Operation::Create { spec, .. } => Some(&spec.id),
        Operation::Delete { id, .. } => Some(id),
        Operation::Exec { .. } | Operation::MakeSandbox { .. } => None,
    }
}

/// Begins the keeper's own log anew when it has grown: helpers write to it
/// too. It is open for appending, so that writing goes on at the new end.
fn bound_own_log() {
    let log = io::stderr();
    let size = nix::sys::stat::fstat(log.as_raw_fd()).map_or(0, |data| data.st_size);
    if size > MAX_OWN_LOG {
        let _ = nix::unistd::ftruncate(&log, 0);
    }
}

/// Sends a signal by number.
pub fn send_signal(pid: i32, signal: i32) -> nix::Result<()> {
    debug_assert!(pid > 1 && pid as u32 != process::id());
    kill(Pid::from_raw(pid), Signal::try_from(signal)?)
}
