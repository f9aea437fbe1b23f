//! `skerry-agent helper`: one operation on one container, and out.
//!
//! libcontainer forks its caller and expects a single thread, so it runs here
//! and nowhere else: in a process that does one thing. The helper's standard
//! input is a socket to the keeper; it reads one [`Operation`] from it, tells
//! its [`Progress`], and exits. The container's first process is then the
//! keeper's child (the keeper is a child subreaper).
//!
//! The helper works in a mount namespace of its own. What it mounts is seen by
//! the container and by nobody else, and is gone when both are: the host's
//! mount table stays clean whoever crashes.

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::openat2::way_to;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::oci_spec::runtime::{
    Capabilities, Capability, LinuxNamespaceType, Process, Spec,
};
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, setns};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};

use super::apparmor;
use super::cgroup::Hierarchies;
use super::devices::{DeviceFilter, apply_v1};
use super::executor::ContainedExecutor;
use super::hooks::{self, HookError, OwnHooks};
use super::limits;
use super::logs::stamp_now;
use super::nodes::{self, Node};
use super::oci::{self, Machine, Rights};
use super::paths::Layout;
use super::proto::{self, FailureKind, Namespaces, Operation, Progress};
use super::rootfs::{
    make_dirs_in, mount_overlay, real_path_in, remove_all, remove_link_in, unshare_mounts,
};
use super::sandbox;
use super::seccomp::Filter;
use super::seqpacket;
use super::spec::{
    ContainerId, ContainerSpec, ExecSpec, HookStage, Network, SandboxSpec, Sharing, USERS,
    check_target,
};
use super::stage;
use super::stamps::{self, stamp};
use super::teardown::teardown;
use super::user::{self, Identity};
use super::users;

/// Longest report of a failure, in bytes.
const MAX_REPORT: usize = 4096;

/// What goes wrong in a helper, as it is told to the keeper.
#[derive(Debug)]
struct Failure {
    kind: FailureKind,
    message: String,
}

impl Failure {
    fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(FailureKind::Failed, plain(chain(&error)))
    }
}

/// What libcontainer puts before and after what our executor says.
const AROUND_OUR_WORDS: [&str; 2] = ["error in executing process : ", ". error during cleanup: "];

/// Of a program that cannot be run, our own words alone. What libcontainer
/// could not clean up at once is cleaned up by us.
fn plain(text: String) -> String {
    let [before, after] = AROUND_OUR_WORDS;
    match text.split_once(before) {
        Some((_, ours)) if ours.starts_with("program ") => {
            let end = ours.find(after).unwrap_or(ours.len());
            ours[..end].to_owned()
        }
        _ => text,
    }
}

/// The process behind `skerry-agent helper`.
pub fn main() -> ExitCode {
    let began_nanos = stamps::now_nanos();
    let Ok(keeper) = take_stdin() else {
        complain("is started by the keeper, not by hand");
        return ExitCode::FAILURE;
    };
    nix::sys::stat::umask(Mode::from_bits_truncate(0o022));
    let result = match seqpacket::receive(keeper.as_fd()) {
        Ok(Some((bytes, fds))) => match proto::decode(&bytes) {
            Ok(operation) => perform(operation, fds, keeper.as_fd(), began_nanos),
            Err(error) => Err(error.into()),
        },
        Ok(None) => return ExitCode::FAILURE,
        Err(error) => Err(error.into()),
    };
    match result {
        Ok(fds) => {
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            report(keeper.as_fd(), &Progress::Done, &fds);
            stamp("done");
            ExitCode::SUCCESS
        }
        Err(Failure { kind, mut message }) => {
            let end = message
                .char_indices()
                .map(|(at, _)| at)
                .find(|at| *at >= MAX_REPORT);
            message.truncate(end.unwrap_or(message.len()));
            report(keeper.as_fd(), &Progress::Failed { kind, message }, &[]);
            ExitCode::FAILURE
        }
    }
}

/// The socket that is our standard input, out of the container's reach, and
/// /dev/null in its place.
fn take_stdin() -> io::Result<OwnedFd> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(socket.as_raw_fd())?;
    let null = File::open("/dev/null")?;
    nix::unistd::dup2(null.as_raw_fd(), 0)?;
    Ok(socket)
}

fn report(keeper: BorrowedFd<'_>, progress: &Progress, fds: &[BorrowedFd<'_>]) {
    let sent = proto::encode(0, progress)
        .map_err(io::Error::other)
        .and_then(|bytes| seqpacket::send(keeper, &bytes, fds));
    if let Err(error) = sent {
        complain(&format!("cannot report to the keeper: {error}"));
    }
}

fn perform(
    operation: Operation,
    fds: Vec<OwnedFd>,
    keeper: BorrowedFd<'_>,
    began_nanos: u64,
) -> Result<Vec<OwnedFd>, Failure> {
    stamps::open(&operation.layout().run_dir, began_nanos);
    stamp("asked");
    match operation {
        Operation::Create {
            spec,
            sandbox,
            layout,
        } => create(&spec, sandbox.as_ref(), &layout, fds, keeper).map(|()| Vec::new()),
        Operation::Exec { id, spec, layout } => {
            exec(&id, &spec, &layout, fds, keeper).map(|fd| fd.into_iter().collect())
        }
        Operation::MakeSandbox { spec, layout } => make_sandbox(&spec, &layout, keeper),
        Operation::Delete { id, layout } => {
            let hierarchies = Hierarchies::detect()?;
            let errors = teardown(&id, &layout, &hierarchies, hook_failed);
            stamp("removed");
            if errors.is_empty() {
                return Ok(Vec::new());
            }
            let texts: Vec<String> = errors.iter().map(|error| chain(error)).collect();
            Err(Failure::new(FailureKind::Failed, texts.join("; ")))
        }
    }
}

fn make_sandbox(
    spec: &SandboxSpec,
    layout: &Layout,
    keeper: BorrowedFd<'_>,
) -> Result<Vec<OwnedFd>, Failure> {
    spec.validate()
        .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    let hierarchies = Hierarchies::detect()?;
    let born = |pid| report(keeper, &Progress::Born { pid }, &[]);
    let cgroup = layout.pods_cgroup();
    let fds = sandbox::make(spec, &hierarchies, &cgroup, &layout.run_dir, born)?;
    Ok(fds)
}

fn create(
    spec: &ContainerSpec,
    sandbox: Option<&Namespaces>,
    layout: &Layout,
    fds: Vec<OwnedFd>,
    keeper: BorrowedFd<'_>,
) -> Result<(), Failure> {
    spec.validate()
        .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    let hierarchies = Hierarchies::detect()?;
    let bundle = layout.bundle(&spec.id);
    fs::create_dir_all(layout.bundles())?;
    if let Err(error) = private_dir(&bundle) {
        if error.kind() == io::ErrorKind::AlreadyExists {
            let message = format!(
                "something of container {} is left; remove it first",
                spec.id
            );
            return Err(Failure::new(FailureKind::AlreadyExists, message));
        }
        return Err(error.into());
    }
    build(spec, sandbox, layout, &bundle, &hierarchies, fds, keeper).inspect_err(|_| {
        // What was made so far goes again; what cannot go is found by the
        // engine as a lost container. The overlay is mounted for us alone.
        let _ = umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH);
        for error in teardown(&spec.id, layout, &hierarchies, hook_failed) {
            complain(&format!("after a failed create: {}", chain(&error)));
        }
    })
}

fn build(
    spec: &ContainerSpec,
    sandbox: Option<&Namespaces>,
    layout: &Layout,
    bundle: &Path,
    hierarchies: &Hierarchies,
    fds: Vec<OwnedFd>,
    keeper: BorrowedFd<'_>,
) -> Result<(), Failure> {
    let [stdout, stderr] = <[OwnedFd; 2]>::try_from(fds)
        .map_err(|_| Failure::new(FailureKind::Invalid, "two descriptors are needed"))?;
    for mount in &spec.mounts {
        if let Err(error) = fs::metadata(&mount.source) {
            let message = format!("volume source {}: {error}", mount.source.display());
            return Err(Failure::new(FailureKind::Invalid, message));
        }
    }
    let invalid = |text: String| Failure::new(FailureKind::Invalid, text);
    let unfit = |error: stage::StageError| invalid(chain(&error));
    limits::check(hierarchies, &spec.resources).map_err(|error| invalid(error.to_string()))?;
    apparmor::check(&spec.security).map_err(invalid)?;
    hooks::check(&spec.hooks).map_err(|error| invalid(error.to_string()))?;
    let mut nodes = nodes::resolve(&spec.devices).map_err(invalid)?;
    if spec.security.privileged {
        let mut all = nodes::all();
        all.retain(|one| nodes.iter().all(|asked| asked.target != one.target));
        nodes.extend(all);
    }
    stamp("checked");
    unshare_mounts()?;
    let sandbox = sandbox.map(Reached::open).transpose()?;
    let users = sandbox.as_ref().and_then(Reached::users);
    let mut spec = spec.clone();
    let usual_root = bundle.join("rootfs");
    private_dir(&usual_root)?;
    let root = match users {
        None => {
            spec.mounts = stage::build_parts(&spec, layout).map_err(unfit)?;
            usual_root.clone()
        }
        Some(users) => {
            refuse_with_users(&spec).map_err(invalid)?;
            let stage = stage::build(&spec, layout, users, &mut nodes).map_err(unfit)?;
            (spec.layers, spec.mounts) = (stage.layers, stage.mounts);
            stage.root
        }
    };
    let scratch = layout.scratch(&spec.id);
    let mounted = mount_overlay(&spec.layers, &scratch, &bundle.join("layers"), &root);
    mounted.map_err(|error| match users {
        None => error.into(),
        Some(_) => invalid(format!(
            "{}; a user namespace (hostUsers: false) needs Linux 5.19 or later",
            chain(&error)
        )),
    })?;
    let root_dir = File::open(&root)?;
    let identity = user::resolve(&root_dir, &spec.user)
        .map_err(|error| Failure::new(FailureKind::Invalid, error.to_string()))?;
    if let Some((_, first)) = users {
        check_ids(&identity, &spec.groups).map_err(invalid)?;
        own_by(&root, &[&stdout, &stderr], first, &identity).map_err(invalid)?;
    }
    nodes::give(&mut nodes, identity.uid, identity.gid);
    if let Some((_, first)) = users {
        stage::own_nodes(first, &nodes).map_err(unfit)?;
    }
    for target in targets(&spec) {
        // A link of the image may lead where nothing may be mounted.
        let real = real_path_in(&root_dir, target)?;
        check_target(&real).map_err(|error| invalid(format!("{target}: {error}")))?;
    }
    match users {
        None => make_dirs_in(&root_dir, &spec.cwd)?,
        Some((_, first)) => {
            users::as_root_inside(first, || make_dirs_in(&root_dir, &spec.cwd))?;
        }
    }
    for file in oci::HOST_FILES {
        // An image of a whole system may have a link that leads nowhere, on
        // which nothing can be mounted.
        remove_link_in(&root_dir, file)?;
    }
    drop(root_dir);
    stamp("root");
    let cgroup = layout.cgroup(&spec.id);
    let devices = match spec.security.privileged {
        true => None,
        false => device_filter(hierarchies, &nodes),
    };
    let rules = match hierarchies.is_v2() {
        true => devices.is_some(),
        false => hierarchies.has_controller("devices"),
    };
    let mut machine = machine(hierarchies, rules || spec.security.privileged)?;
    machine.app_armor = apparmor::profile(&spec.security);
    let shared = sandbox.as_ref().map(|sandbox| &sandbox.namespaces);
    let mut config = oci::spec(&spec, &identity, &root, &cgroup, shared, &nodes, &machine)?;
    config.set_hooks(hooks::prepare(&spec.hooks, bundle)?);
    write_json(&bundle.join("config.json"), &config)?;
    let state = bundle.join("state");
    private_dir(&state)?;
    stamp("spec");

    let executor = ContainedExecutor {
        filter: filter(&config)?,
        window: None,
        hooks: OwnHooks::of(&spec.hooks, &spec.id, bundle),
    };
    stamp("seccomp");
    // Before libcontainer makes it, so that the limits below find their files
    // in place.
    hierarchies.make(&cgroup)?;
    stamp("cgroup");
    let mut container = ContainerBuilder::new(spec.id.to_string(), SyscallType::default())
        .with_executor(executor)
        .with_root_path(&state)?
        .with_stdin(File::open("/dev/null")?)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .as_init(bundle)
        .with_systemd(false)
        .with_detach(true)
        .build()
        // Of a hook, libcontainer only says that it failed.
        .map_err(|error| match hooks::failure(bundle) {
            Some(why) => Failure::new(FailureKind::Failed, why),
            None => error.into(),
        })?;
    stamp("made");
    if root != usual_root {
        // Ours alone, and gone with us; libcontainer looks for it again when a
        // further process is started.
        let mut found = config.root().clone();
        if let Some(found) = &mut found {
            found.set_path(usual_root);
        }
        config.set_root(found);
        write_json(&bundle.join("config.json"), &config)?;
    }
    let pid = container
        .pid()
        .ok_or_else(|| Failure::new(FailureKind::Failed, "the container has no first process"))?;
    limits::apply(hierarchies, &cgroup, &spec.resources)
        .map_err(|error| Failure::new(FailureKind::Invalid, limits::text(&error)))?;
    if let Some(filter) = devices {
        for dir in hierarchies.directories(&cgroup) {
            filter.attach(&dir)?;
        }
    }
    if !hierarchies.is_v2()
        && !spec.security.privileged
        && let Some(dir) = hierarchies.directory_of("devices", &cgroup)
    {
        apply_v1(&dir, &nodes)?;
    }
    stamp("limits");
    // Before the start: however short the container's life, the keeper knows
    // whose end it sees.
    report(keeper, &Progress::Born { pid: pid.as_raw() }, &[]);
    container.start()?;
    stamp("started");
    hooks::after_start(&spec.hooks, &spec.id, bundle, pid.as_raw())?;
    Ok(())
}

/// The namespaces of a sandbox, opened by us: root in a user namespace may not
/// look into the keeper's descriptors, but finds ours among its own.
struct Reached {
    namespaces: Namespaces,
    /// What the paths lead to.
    _held: Vec<File>,
    users: Option<(File, u32)>,
}

impl Reached {
    fn open(sandbox: &Namespaces) -> Result<Self, Failure> {
        let Some((path, first)) = &sandbox.users else {
            return Ok(Self {
                namespaces: sandbox.clone(),
                _held: Vec::new(),
                users: None,
            });
        };
        let mut held = Vec::new();
        let mut reach = |path: &Path| -> io::Result<PathBuf> {
            let file = File::open(path)?;
            let way = way_to(&file);
            held.push(file);
            Ok(way)
        };
        let mut maybe = |path: &Option<PathBuf>| path.as_deref().map(&mut reach).transpose();
        let (network, pid) = (maybe(&sandbox.network)?, maybe(&sandbox.pid)?);
        Ok(Self {
            namespaces: Namespaces {
                network,
                pid,
                ipc: reach(&sandbox.ipc)?,
                users: Some((reach(path)?, *first)),
            },
            users: Some((File::open(path)?, *first)),
            _held: held,
        })
    }

    /// The user namespace, and who is root in it.
    fn users(&self) -> Option<(BorrowedFd<'_>, u32)> {
        let (file, first) = self.users.as_ref()?;
        Some((file.as_fd(), *first))
    }
}

/// What does not go together with a user namespace.
fn refuse_with_users(spec: &ContainerSpec) -> Result<(), String> {
    let what = if spec.security.privileged {
        "'privileged: true'"
    } else if spec.network == Network::Host {
        "the host's network"
    } else if spec.pid == Sharing::Host {
        "'hostPID: true'"
    } else if spec.ipc == Sharing::Host {
        "'hostIPC: true'"
    } else if spec
        .hooks
        .iter()
        .any(|hook| hook.stage == HookStage::CreateContainer)
    {
        // It would run with the host's files in sight, where others of the pod
        // are as much root as it is, and cannot read what it needs.
        "a CDI device with createContainer hooks"
    } else {
        return Ok(());
    };
    Err(format!(
        "a container in a user namespace (hostUsers: false) cannot have {what}: leave one of them out"
    ))
}

/// Refuses users and groups that a user namespace does not have.
fn check_ids(identity: &Identity, groups: &[u32]) -> Result<(), String> {
    let refuse = |what: &str, id: u32, remedy: &str| {
        Err(format!(
            "the image's or the app's {what} {id} is not in a user namespace, which has ids below \
             {USERS}: choose another {remedy}, or leave 'hostUsers: false' out"
        ))
    };
    let mut ids = [identity.uid, identity.gid].into_iter();
    if let Some(id) = ids.find(|id| *id >= USERS) {
        return refuse("user", id, "with 'runAsUser'");
    }
    let mut all = identity.groups.iter().chain(groups);
    match all.find(|id| **id >= USERS) {
        Some(id) => refuse("group", *id, "('fsGroup', 'supplementalGroups')"),
        None => Ok(()),
    }
}

/// Gives the root directory, and what output is written to, to the users
/// inside.
fn own_by(
    root: &Path,
    outputs: &[&OwnedFd],
    first: u32,
    identity: &Identity,
) -> Result<(), String> {
    let text = |error: nix::Error| format!("the container's files cannot be given to it: {error}");
    let id = |inside: u32| (Uid::from_raw(first + inside), Gid::from_raw(first + inside));
    let (user, group) = id(0);
    nix::unistd::chown(root, Some(user), Some(group)).map_err(text)?;
    let (user, group) = (id(identity.uid).0, id(identity.gid).1);
    for output in outputs {
        // Images open /dev/stdout anew, which only its owner may.
        nix::unistd::fchown(output.as_raw_fd(), Some(user), Some(group)).map_err(text)?;
    }
    Ok(())
}

/// Where something is mounted by the app's wish.
fn targets(spec: &ContainerSpec) -> impl Iterator<Item = &str> {
    let mounts = spec.mounts.iter().map(|one| one.target.as_str());
    mounts.chain(spec.tmpfs.iter().map(|one| one.target.as_str()))
}

fn exec(
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

/// All that the processes of a container may ever be capable of.
fn bounding(config: &Spec) -> Capabilities {
    let own = config.process().as_ref();
    let sets = own.and_then(|own| own.capabilities().as_ref());
    sets.and_then(|sets| sets.bounding().clone())
        .unwrap_or_default()
}

/// What the processes of a container may call; `None` is everything.
fn filter(config: &Spec) -> Result<Option<Filter>, Failure> {
    let notes = config.annotations().as_ref();
    if notes.is_some_and(|notes| notes.contains_key(oci::UNCONFINED)) {
        return Ok(None);
    }
    let capabilities: Vec<Capability> = bounding(config).into_iter().collect();
    Ok(Some(Filter::default_profile(&capabilities)?))
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

/// The device rules of cgroup v2. `None` on v1, which has others, and on a
/// kernel that cannot: then no container may make nodes.
fn device_filter(hierarchies: &Hierarchies, nodes: &[Node]) -> Option<DeviceFilter> {
    if !hierarchies.is_v2() {
        return None;
    }
    DeviceFilter::load(nodes)
        .inspect_err(|error| complain(&format!("no device filter: {error}")))
        .ok()
}

fn machine(hierarchies: &Hierarchies, device_rules: bool) -> Result<Machine, Failure> {
    let (_, open_files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let cgroup_v2 = hierarchies.is_v2();
    Ok(Machine {
        cgroup_v2,
        mknod: device_rules,
        open_files,
        capable: capable()?,
        app_armor: None,
        masked: thermal_throttle(),
    })
}

/// The capabilities that this process has, as bits.
fn capable() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let bits = text.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.ok_or_else(|| io::Error::other("no capabilities in /proc/self/status"))
}

/// Counters from which programs can tell what others compute.
fn thermal_throttle() -> Vec<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu");
    let dirs = cpus.into_iter().flatten().flatten();
    dirs.map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect()
}

fn private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> Result<(), Failure> {
    fs::write(path, serde_json::to_vec(value)?)?;
    Ok(())
}

fn hook_failed(error: &HookError) {
    complain(&error.to_string());
}

/// Says something in the keeper's own log, which is our standard error.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{} skerry-agent helper: {text}", stamp_now());
}

/// An error and its causes in one line, each said once.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_program_that_cannot_be_run_our_own_words_are_told() {
        let around = "failed to create container: exec process failed with error error in \
                      executing process : program \"x\" is not in the image, or not in its PATH";
        let ours = "program \"x\" is not in the image, or not in its PATH";
        assert_eq!(plain(around.into()), ours);
        let more = format!("{around}. error during cleanup: failed to cleanup container: io error");
        assert_eq!(plain(more), ours);
        assert_eq!(plain("no space left".into()), "no space left");
    }
}
