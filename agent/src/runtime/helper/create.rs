//! Makes a container and starts its first process.

use super::failure::Failure;
use super::operation::{complain, hook_failed, private_dir, report, write_json};
use super::rights::{filter, machine};
use super::user_namespace::{Reached, check_ids, own_by, refuse_with_users};
use crate::chain::chain;
use crate::runtime::apparmor;
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::devices::{DeviceFilter, apply_v1};
use crate::runtime::executor::ContainedExecutor;
use crate::runtime::hooks::{self, OwnHooks};
use crate::runtime::limits;
use crate::runtime::nodes::{self, Node};
use crate::runtime::oci;
use crate::runtime::paths::Layout;
use crate::runtime::proto::{FailureKind, Namespaces, Progress};
use crate::runtime::rootfs::{
    make_dirs_in, mount_overlay, real_path_in, remove_link_in, unshare_mounts,
};
use crate::runtime::spec::{ContainerSpec, check_target};
use crate::runtime::stage;
use crate::runtime::stamps::stamp;
use crate::runtime::teardown::teardown;
use crate::runtime::user;
use crate::runtime::users;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use nix::mount::{MntFlags, umount2};
use std::fs::{self, File};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

pub(super) fn create(
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

/// Where something is mounted by the app's wish.
fn targets(spec: &ContainerSpec) -> impl Iterator<Item = &str> {
    let mounts = spec.mounts.iter().map(|one| one.target.as_str());
    mounts.chain(spec.tmpfs.iter().map(|one| one.target.as_str()))
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
