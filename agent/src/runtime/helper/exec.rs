//! A further process in a container that runs.

use super::failure::Failure;
use super::operation::{private_dir, report, write_json};
use super::rights::{bounding, filter, machine};
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::executor::ContainedExecutor;
use crate::runtime::hooks::OwnHooks;
use crate::runtime::oci::{self, Rights};
use crate::runtime::paths::Layout;
use crate::runtime::proto::{FailureKind, Progress};
use crate::runtime::rootfs::remove_all;
use crate::runtime::seqpacket;
use crate::runtime::spec::{ContainerId, ExecSpec};
use crate::runtime::user::{self, Identity};
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use libcontainer::syscall::syscall::SyscallType;
use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

pub(super) fn exec(
    id: &ContainerId,
    spec: &ExecSpec,
    layout: &Layout,
    fds: Vec<OwnedFd>,
    keeper: BorrowedFd<'_>,
) -> Result<Option<OwnedFd>, Failure> {
    spec.validate()
        .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    let bundle = layout.bundle(id);
    let config = Spec::load(bundle.join("config.json"))?;
    // libcontainer leaves sockets and links in the directory of the container
    // that it enters; so it gets a copy of its state in one that we throw away.
    let scratch = Scratch::new(bundle.join(format!("exec-{}", std::process::id())))?;
    let state = scratch.path.join(id.as_str());
    private_dir(&state)?;
    for file in ["state.json", "youki_config.json"] {
        let original = bundle.join("state").join(id.as_str()).join(file);
        if original.exists() {
            fs::copy(original, state.join(file))?;
        }
    }
    let process = exec_process(spec, &config, &state)?;
    let ids = (process.user().uid(), process.user().gid());
    let process_file = scratch.path.join("process.json");
    write_json(&process_file, &process)?;

    let executor = ContainedExecutor {
        filter: filter(&config)?,
        window: spec.tty,
        hooks: OwnHooks::default(),
    };
    let console = match spec.tty {
        None => None,
        Some(_) => {
            let path = scratch.path.join("console.sock");
            Some((bind_short(&path)?, path))
        }
    };
    enter_users(&config, &state, &layout.cgroup(id), &fds, ids)?;
    let mut builder = ContainerBuilder::new(id.to_string(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&scratch.path)?;
    let console = match console {
        None => {
            let [stdin, stdout, stderr] = <[OwnedFd; 3]>::try_from(fds)
                .map_err(|_| Failure::new(FailureKind::Invalid, "three descriptors are needed"))?;
            builder = builder
                .with_stdin(stdin)
                .with_stdout(stdout)
                .with_stderr(stderr);
            None
        }
        Some((listener, path)) => {
            builder = builder.with_console_socket(Some(path));
            Some(listener)
        }
    };
    let pid = builder
        .as_tenant()
        .with_detach(true)
        .with_process(Some(process_file))
        .build()?;
    report(keeper, &Progress::Born { pid: pid.as_raw() }, &[]);
    match console {
        None => Ok(None),
        Some(listener) => Ok(Some(receive_terminal(&listener)?)),
    }
}

/// Moves this process into the container's user namespace, if it has one:
/// libcontainer does not, and what it starts would be the host's root. What
/// needs more than that comes first: the cgroup, and the descriptors' owner.
///
/// From here on it has no right on the host but those of the files' owner. The
/// container's root, which may trace what is in its user namespace, may not
/// trace this process nor those that libcontainer forks, until they become the
/// image's program.
fn enter_users(
    config: &Spec,
    state: &Path,
    cgroup: &str,
    fds: &[OwnedFd],
    (uid, gid): (u32, u32),
) -> Result<(), Failure> {
    let namespaces = config
        .linux()
        .as_ref()
        .and_then(|it| it.namespaces().as_ref());
    let mut kinds = namespaces.into_iter().flatten().map(|one| one.typ());
    if !kinds.any(|kind| kind == LinuxNamespaceType::User) {
        return Ok(());
    }
    let process = first_process(state)?;
    let map = fs::read_to_string(process.join("uid_map"))?;
    let first: Option<u32> = map.split_whitespace().nth(1).and_then(|it| it.parse().ok());
    let first = first.ok_or_else(|| {
        Failure::new(
            FailureKind::Failed,
            "the container's user namespace has no ids",
        )
    })?;
    for fd in fds {
        let (user, group) = (Uid::from_raw(first + uid), Gid::from_raw(first + gid));
        nix::unistd::fchown(fd.as_raw_fd(), Some(user), Some(group))?;
    }
    let namespace = File::open(process.join("ns/user"))?;
    Hierarchies::detect()?.enter(cgroup)?;
    nix::sys::prctl::set_dumpable(false)?;
    setns(namespace, CloneFlags::CLONE_NEWUSER)?;
    Ok(())
}

/// The process to run: the container's own one with other words.
fn exec_process(spec: &ExecSpec, config: &Spec, state: &Path) -> Result<Process, Failure> {
    let own = config
        .process()
        .as_ref()
        .ok_or_else(|| Failure::new(FailureKind::Failed, "the container has no process"))?;
    let env = own
        .env()
        .iter()
        .flatten()
        .filter_map(|word| word.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let (identity, env): (Identity, Vec<(String, String)>) = if spec.user.is_empty() {
        let user = own.user();
        let groups = user.additional_gids().clone().unwrap_or_default();
        let identity = Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups,
            home: String::new(),
        };
        (identity, env.collect())
    } else {
        let root = File::open(container_root(state)?)?;
        let identity = user::resolve(&root, &spec.user)
            .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
        // Another user has another home.
        (identity, env.filter(|(name, _)| name != "HOME").collect())
    };
    let home = if identity.home.is_empty() {
        "/"
    } else {
        &identity.home
    };
    let env = oci::environment(env.into_iter().chain(spec.env.iter().cloned()), home);
    let cwd = if spec.cwd.is_empty() {
        own.cwd().to_string_lossy()
    } else {
        (&spec.cwd).into()
    };
    // What the container's own process may do, another one may as well.
    let rights = Rights {
        capabilities: bounding(config),
        may_gain: own.no_new_privileges() != Some(true),
        app_armor: own.apparmor_profile().clone(),
    };
    let machine = machine(&Hierarchies::detect()?, true)?;
    Ok(oci::process(
        &spec.args,
        env,
        &cwd,
        &identity,
        &rights,
        &machine,
        spec.tty.is_some(),
    )?)
}

/// The container's root directory, seen through its first process.
fn container_root(state: &Path) -> Result<PathBuf, Failure> {
    Ok(first_process(state)?.join("root"))
}

/// Where `/proc` shows the container's first process.
fn first_process(state: &Path) -> Result<PathBuf, Failure> {
    let container = libcontainer::container::Container::load(state.to_owned())?;
    let pid = container
        .pid()
        .ok_or_else(|| Failure::new(FailureKind::NotFound, "the container does not run"))?;
    Ok(format!("/proc/{pid}").into())
}

/// A listening socket at a path that may be longer than a socket address.
fn bind_short(path: &Path) -> io::Result<UnixListener> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    std::env::set_current_dir(dir)?;
    let listener = UnixListener::bind(name);
    std::env::set_current_dir("/")?;
    listener
}

/// The master end that the container's process has sent. It has connected
/// already, or `build` would have failed, so nothing here waits.
fn receive_terminal(listener: &UnixListener) -> Result<OwnedFd, Failure> {
    listener.set_nonblocking(true)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    let received = seqpacket::receive_stream(stream.as_fd())?;
    received.ok_or_else(|| Failure::new(FailureKind::Failed, "no terminal was sent"))
}

/// A directory that goes away with this value.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn new(path: PathBuf) -> io::Result<Self> {
        remove_all(&path)?;
        private_dir(&path)?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Below the container's directory: what is left goes with that.
        let _ = remove_all(&self.path);
    }
}
