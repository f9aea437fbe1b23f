//! The engine's handle on the keeper.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::openat2::way_to;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

use super::cgroup::{CgroupError, Hierarchies};
use super::keeper::ALREADY_RUNS;
use super::link::{Link, Lost};
use super::logs::{Earlier, LogError, LogReader, LogStart, Section, find_section};
use super::paths::Layout;
use super::proto::{FailureKind, PROTOCOL, ProtoError, Request, Response};
use super::seqpacket;
use super::session::ExecSession;
use super::spec::{
    ContainerId, ContainerSpec, ContainerState, ExecSpec, Exit, Resources, SandboxSpec, SpecError,
};
use super::teardown::pidfd;
use super::usage::{self, Usage};

/// How long a keeper that was started, or is being started by someone else,
/// may take until it listens.
const LAUNCH: Duration = Duration::from_secs(10);
/// Pause between attempts to connect while another starts it.
const LAUNCH_PAUSE: Duration = Duration::from_millis(10);
/// How long a keeper may take to end after it has said that it will.
const ENDING: Duration = Duration::from_secs(10);

/// Where the runtime works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Files that may go at reboot: `/run/skerry`. Made when missing.
    pub run_dir: PathBuf,
    /// Files that stay: `/var/lib/skerry`. Made when missing.
    pub data_dir: PathBuf,
    /// Parent of all cgroups, relative to each hierarchy: `skerry/dev1`.
    pub cgroup_parent: String,
    /// The `skerry-agent` binary, which is also the keeper.
    pub exe: PathBuf,
    /// Memory in bytes that all containers together may use; `None` leaves a
    /// tenth of the machine's to everything else. Taken by a keeper that is
    /// started, not by one that lives.
    pub apps_memory: Option<u64>,
}

/// Why the runtime could not do something.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The keeper could not be started.
    #[error("the keeper cannot be started: {0}")]
    Launch(String),
    /// The keeper could not be reached.
    #[error("the keeper cannot be reached at {}", path.display())]
    Connect {
        /// Its socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The keeper has gone. Connect again.
    #[error("the keeper has gone")]
    KeeperLost,
    /// It answered what was not asked.
    #[error("the keeper gave an answer that does not fit the question")]
    Confused,
    /// The specification cannot be run.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The request is too large.
    #[error(transparent)]
    Message(#[from] ProtoError),
    /// The keeper refused or failed.
    #[error("{message}")]
    Refused {
        /// What sort of failure.
        kind: FailureKind,
        /// Why, for the operator.
        message: String,
    },
    /// The machine has no usable cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// A pipe or terminal for an exec could not be made.
    #[error("no pipe for the process")]
    Pipe(#[source] io::Error),
}

impl RuntimeError {
    /// Whether the runtime itself is in trouble, so that this says nothing of
    /// the container.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Launch(_)
            | Self::Connect { .. }
            | Self::KeeperLost
            | Self::Confused
            | Self::Cgroup(_)
            | Self::Pipe(_) => true,
            Self::Spec(_) | Self::Message(_) => false,
            Self::Refused { kind, .. } => match kind {
                FailureKind::Busy | FailureKind::Unsupported | FailureKind::NotFound => true,
                FailureKind::AlreadyExists | FailureKind::Invalid | FailureKind::Failed => false,
            },
        }
    }
}

impl From<Lost> for RuntimeError {
    fn from(_: Lost) -> Self {
        Self::KeeperLost
    }
}

/// Namespaces that the keeper holds for containers to share.
#[derive(Debug)]
pub struct Sandbox {
    /// Whether it was made just now: then nothing is in its network but `lo`.
    pub new: bool,
    /// Its network namespace, if it has its own. The keeper keeps it alive,
    /// also after this descriptor is closed.
    pub network: Option<OwnedFd>,
}

/// A container that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Its first process, as the host sees it.
    pub pid: i32,
}

/// What happens without being asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// A container ended. Commit it, then call `forget_exit`: until then it is
    /// listed, and the keeper brings it to the disk itself a second from now.
    Exited {
        /// Which.
        id: ContainerId,
        /// How.
        exit: Exit,
    },
    /// The keeper has gone, or this connection to it: connect again and list.
    /// Nothing comes after it.
    KeeperLost,
}

/// A connection to the keeper of one device. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Runtime {
    link: Arc<Link>,
    layout: Layout,
    hierarchies: Arc<Hierarchies>,
    keeper_pid: i32,
}

/// The events of one connection. They wait for at most one reader.
#[derive(Debug, Clone)]
pub struct Events {
    link: Arc<Link>,
}

impl Events {
    /// The next event. Safe to drop and call again.
    pub async fn next(&self) -> RuntimeEvent {
        loop {
            match self.link.event().await {
                Ok(Response::Exited { id, exit }) => return RuntimeEvent::Exited { id, exit },
                // An event of a newer keeper.
                Ok(_) => {}
                Err(Lost) => return RuntimeEvent::KeeperLost,
            }
        }
    }
}

impl Runtime {
    /// Connects to the keeper that lives, or starts one. Containers that a
    /// dead keeper left behind are then listed as `Lost`.
    pub async fn connect(config: RuntimeConfig) -> Result<Self, RuntimeError> {
        let RuntimeConfig {
            run_dir,
            data_dir,
            cgroup_parent,
            exe,
            apps_memory,
        } = config;
        let layout = Layout {
            run_dir,
            data_dir,
            cgroup_parent,
        };
        let hierarchies = Arc::new(Hierarchies::detect()?);
        let (socket, layout) =
            smol::unblock(move || reach(&layout, &exe, apps_memory).map(|socket| (socket, layout)))
                .await?;
        let keeper_pid = getsockopt(&socket, PeerCredentials).map_or(0, |peer| peer.pid());
        let path = layout.socket();
        let link = Link::new(socket).map_err(|source| RuntimeError::Connect { path, source })?;
        let hello = link
            .request(&Request::Hello { protocol: PROTOCOL }, &[])
            .await?;
        match hello.answer().await? {
            // Older than ours where the agent was updated since.
            (Response::Welcome { version, .. }, _) => {
                tracing::debug!("the keeper is of release {version}, process {keeper_pid}");
            }
            other => return Err(unexpected(other.0)),
        }
        drop(hello);
        Ok(Self {
            link: Arc::new(link),
            layout,
            hierarchies,
            keeper_pid,
        })
    }

    /// The keeper's process id.
    pub fn keeper_pid(&self) -> i32 {
        self.keeper_pid
    }

    /// The events of this connection. Whoever holds a `Runtime` must read
    /// them.
    pub fn events(&self) -> Events {
        Events {
            link: Arc::clone(&self.link),
        }
    }

    /// Makes a container and starts it. On failure nothing of it is left.
    pub async fn create(&self, spec: ContainerSpec) -> Result<Started, RuntimeError> {
        spec.validate()?;
        match self.ask(&Request::Create(Box::new(spec))).await? {
            Response::Created { pid } => Ok(Started { pid }),
            other => Err(unexpected(other)),
        }
    }

    /// Sends a signal to a container's first process.
    pub async fn signal(&self, id: &ContainerId, signal: Signal) -> Result<(), RuntimeError> {
        let signal = signal as i32;
        self.done(&Request::Signal {
            id: id.clone(),
            signal,
        })
        .await
    }

    /// Kills every process of a container, known to the keeper or lost. Its
    /// end comes as an event if the keeper owned it.
    pub async fn kill(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.done(&Request::Kill { id: id.clone() }).await
    }

    /// Takes down everything of a container, killing it first if need be,
    /// except its log and the record of its end. Returns when all is gone;
    /// one that never was is gone. Errors name everything that stayed.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.done(&Request::Remove { id: id.clone() }).await
    }

    /// Every container of which something is on this machine.
    pub async fn list(&self) -> Result<Vec<ContainerState>, RuntimeError> {
        let pending = self.link.request(&Request::List, &[]).await?;
        let mut all = Vec::new();
        loop {
            match pending.answer().await?.0 {
                Response::List { containers, last } => {
                    all.extend(containers);
                    if last {
                        return Ok(all);
                    }
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    /// Removes the record of an end, which the engine has committed.
    pub async fn forget_exit(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.done(&Request::ForgetExit { id: id.clone() }).await
    }

    /// Removes a log with all its files. Refused while it is being written.
    pub async fn remove_log(&self, log_name: &str) -> Result<(), RuntimeError> {
        self.done(&Request::RemoveLog {
            log_name: log_name.to_owned(),
        })
        .await
    }

    /// Of the logs `<group>.<number>.<anything>`, removes those of other numbers
    /// than these; one that is being written stays.
    pub async fn keep_logs(&self, group: &str, numbers: Vec<u32>) -> Result<(), RuntimeError> {
        self.done(&Request::KeepLogs {
            group: group.to_owned(),
            numbers,
        })
        .await
    }

    /// Runs a further process in a container that runs.
    pub async fn exec(
        &self,
        id: &ContainerId,
        spec: ExecSpec,
    ) -> Result<ExecSession, RuntimeError> {
        spec.validate()?;
        let tty = spec.tty.is_some();
        let (ours, theirs) = if tty {
            (Vec::new(), Vec::new())
        } else {
            super::session::pipes().map_err(RuntimeError::Pipe)?
        };
        let fds: Vec<_> = theirs.iter().map(AsFd::as_fd).collect();
        let pending = self
            .link
            .request(
                &Request::Exec {
                    id: id.clone(),
                    spec,
                },
                &fds,
            )
            .await?;
        drop(fds);
        drop(theirs);
        let (pid, mut fds) = match pending.answer().await? {
            (Response::ExecStarted { pid }, fds) => (pid, fds),
            (other, _) => return Err(unexpected(other)),
        };
        let (request, answers) = pending.detach();
        let ends = if tty {
            fds.pop().into_iter().collect()
        } else {
            ours
        };
        ExecSession::new(Arc::clone(&self.link), request, answers, pid, ends)
            .map_err(RuntimeError::Pipe)
    }

    /// Makes namespaces for containers to share, or finds those that were made
    /// by the same words. They stay over restarts of the agent and of the
    /// containers, until [`Self::remove_sandbox`] or the keeper's end.
    pub async fn make_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, RuntimeError> {
        spec.validate()?;
        let request = Request::MakeSandbox(spec);
        self.sandbox(&request).await
    }

    /// A sandbox that is there; `None` if it is not.
    pub async fn find_sandbox(&self, id: &ContainerId) -> Result<Option<Sandbox>, RuntimeError> {
        let request = Request::FindSandbox { id: id.clone() };
        match self.sandbox(&request).await {
            Err(RuntimeError::Refused {
                kind: FailureKind::NotFound,
                ..
            }) => Ok(None),
            found => found.map(Some),
        }
    }

    async fn sandbox(&self, request: &Request) -> Result<Sandbox, RuntimeError> {
        let pending = self.link.request(request, &[]).await?;
        match pending.answer().await? {
            (Response::Sandbox { new }, mut fds) => Ok(Sandbox {
                new,
                network: fds.pop(),
            }),
            (other, _) => Err(unexpected(other)),
        }
    }

    /// Lets go of a sandbox. Refused while containers live in it; one that
    /// never was is gone.
    pub async fn remove_sandbox(&self, id: &ContainerId) -> Result<(), RuntimeError> {
        self.done(&Request::RemoveSandbox { id: id.clone() }).await
    }

    /// All sandboxes that the keeper holds.
    pub async fn sandboxes(&self) -> Result<Vec<ContainerId>, RuntimeError> {
        match self.ask(&Request::ListSandboxes).await? {
            Response::Sandboxes { ids } => Ok(ids),
            other => Err(unexpected(other)),
        }
    }

    /// Changes all limits of a container that runs; what is `None` becomes
    /// unlimited. Refused if it uses more memory now than it may from then on.
    pub async fn resize(&self, id: &ContainerId, resources: Resources) -> Result<(), RuntimeError> {
        resources.validate()?;
        let id = id.clone();
        self.done(&Request::Resize { id, resources }).await
    }

    /// What a container uses now.
    pub async fn usage(&self, id: &ContainerId) -> Result<Usage, RuntimeError> {
        usage::read(&self.hierarchies, &self.layout.cgroup(id)).ok_or_else(|| {
            RuntimeError::Refused {
                kind: FailureKind::NotFound,
                message: format!("container {id} has no cgroup"),
            }
        })
    }

    /// Opens a log. One that does not exist yet reads as empty.
    pub fn log_reader(
        &self,
        log_name: &str,
        persist: bool,
        start: LogStart,
    ) -> Result<LogReader, LogError> {
        LogReader::open(&self.layout.log(log_name, persist), start)
    }

    /// Where the output of an earlier start stands in a log; `None` when
    /// nothing of it is kept. Reads the log back to there.
    pub async fn find_section(
        &self,
        log_name: &str,
        persist: bool,
        earlier: Earlier,
    ) -> io::Result<Option<Section>> {
        let dir = self.layout.log(log_name, persist);
        smol::unblock(move || find_section(&dir, &earlier)).await
    }

    /// Ends the keeper, which must own no container any more, and removes its
    /// cgroup. The handle is of no use afterwards.
    pub async fn shutdown(self) -> Result<(), RuntimeError> {
        // Opened first, so that it cannot be another process's number later.
        let process = pidfd(self.keeper_pid);
        self.done(&Request::Shutdown).await?;
        let (layout, hierarchies) = (self.layout, self.hierarchies);
        smol::unblock(move || {
            if let Ok(process) = process {
                let timeout = PollTimeout::try_from(ENDING).unwrap_or(PollTimeout::MAX);
                let _ = poll(
                    &mut [PollFd::new(process.as_fd(), PollFlags::POLLIN)],
                    timeout,
                );
            }
            for cgroup in [
                layout.keeper_cgroup(),
                layout.pods_cgroup(),
                layout.apps_cgroup(),
            ] {
                hierarchies.remove(&cgroup);
            }
            hierarchies.remove_empty_parents(&layout.cgroup_parent);
        })
        .await;
        Ok(())
    }

    async fn ask(&self, request: &Request) -> Result<Response, RuntimeError> {
        let pending = self.link.request(request, &[]).await?;
        Ok(pending.answer().await?.0)
    }

    async fn done(&self, request: &Request) -> Result<(), RuntimeError> {
        match self.ask(request).await? {
            Response::Done => Ok(()),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(response: Response) -> RuntimeError {
    match response {
        Response::Failed { kind, message } => RuntimeError::Refused { kind, message },
        _ => RuntimeError::Confused,
    }
}

/// Connects, starting the keeper if there is none. Blocks.
#[expect(
    clippy::disallowed_methods,
    reason = "nothing tells when another process begins to listen"
)]
fn reach(layout: &Layout, exe: &Path, apps_memory: Option<u64>) -> Result<OwnedFd, RuntimeError> {
    let deadline = Instant::now() + LAUNCH;
    loop {
        let source = match connect(layout) {
            Ok(socket) => return Ok(socket),
            Err(error) => error,
        };
        let dead = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        let is_dead = dead.contains(&source.kind());
        // It lives, but many connect at once.
        let is_busy = source.kind() == io::ErrorKind::WouldBlock;
        if !(is_dead || is_busy) || Instant::now() > deadline {
            return Err(RuntimeError::Connect {
                path: layout.socket(),
                source,
            });
        }
        // Another one that holds the lock will listen in a moment.
        let launched = is_dead && launch(layout, exe, apps_memory)?;
        if !launched {
            std::thread::sleep(LAUNCH_PAUSE);
        }
    }
}

/// Connects by a short way, because a socket's address holds 107 bytes only.
fn connect(layout: &Layout) -> io::Result<OwnedFd> {
    let dir = std::fs::File::open(&layout.run_dir)?;
    seqpacket::connect_to(&way_to(&dir).join("keeper.sock"))
}

/// Starts the keeper if none answers, without waiting for it: on a machine with
/// a second processor it comes while this one does something else. Whoever then
/// wants to connect waits for the process first; what went wrong shows there.
pub fn launch_ahead(config: &RuntimeConfig) -> Option<Child> {
    let layout = Layout {
        run_dir: config.run_dir.clone(),
        data_dir: config.data_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
    };
    if connect(&layout).is_ok() {
        return None;
    }
    let mut command = keeper(&layout, &config.exe, config.apps_memory);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().ok()
}

fn keeper(layout: &Layout, exe: &Path, apps_memory: Option<u64>) -> Command {
    let apps_memory = apps_memory.map(|bytes| ["--apps-memory".to_owned(), bytes.to_string()]);
    let mut command = Command::new(exe);
    command
        .arg("keeper")
        .arg("--run-dir")
        .arg(&layout.run_dir)
        .arg("--data-dir")
        .arg(&layout.data_dir)
        .args(["--cgroup-parent", &layout.cgroup_parent])
        .args(apps_memory.into_iter().flatten())
        .stdin(Stdio::null());
    command
}

/// False if another keeper runs already.
fn launch(layout: &Layout, exe: &Path, apps_memory: Option<u64>) -> Result<bool, RuntimeError> {
    let output = keeper(layout, exe, apps_memory)
        .output()
        .map_err(|error| RuntimeError::Launch(format!("{}: {error}", exe.display())))?;
    if output.status.success() {
        return Ok(true);
    }
    if output.status.code() == Some(ALREADY_RUNS.into()) {
        return Ok(false);
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(RuntimeError::Launch(if text.is_empty() {
        output.status.to_string()
    } else {
        text
    }))
}
