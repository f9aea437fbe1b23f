//! From an assignment and an image to what the runtime runs.

use super::network::Place;
use super::users::UserPool;
use crate::core::CreateContainer;
use crate::device_api;
use crate::image::UnpackedImage;
use crate::runtime::{
    ContainerId, ContainerSpec, Device, LogPolicy, Mount, Network, Resources, SandboxSpec,
    Security, Sharing, Tmpfs, find_devices,
};
use skerry_wire::pod::{DeviceSource, HostPathKind, Network as PodNetwork, Profile};
use skerry_wire::{AppRef, Digest, VolumeSource};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files that a log is kept in.
const LOG_FILES: u32 = 4;
/// Least bytes of one of them; the runtime's own bound.
const MIN_LOG_FILE_BYTES: u64 = 64 * 1024;

/// Where volumes are, and what apps may mount.
#[derive(Debug, Clone)]
pub struct Places {
    /// Named volumes: `<data dir>/volumes/<namespace>/<claim>`.
    pub data_dir: PathBuf,
    /// Empty-dir volumes: `<run dir>/scratch/<app>/<revision>/<volume>`.
    pub run_dir: PathBuf,
    /// Host paths that may be mounted; `None` is any.
    pub host_paths: Option<Vec<PathBuf>>,
    /// Whether apps may be given what is as good as root on this device.
    pub allow_privileged: bool,
    /// Where the ids of user namespaces come from.
    pub users: UserPool,
    /// Bytes of log of a container that says nothing else.
    pub log_max_bytes: u64,
    /// The device's name: host name of pods that name none.
    pub device: String,
}

impl Places {
    /// Where the empty-dir volumes of a revision are.
    pub fn scratch(&self, app: &AppRef, revision: &str) -> PathBuf {
        let app = &Digest::of(app.to_string().as_bytes()).hex()[..16];
        self.run_dir.join("scratch").join(app).join(revision)
    }

    /// The host name that a container sees.
    pub fn hostname<'a>(&'a self, create: &'a CreateContainer) -> &'a str {
        let own = create.assignment.pod.hostname.as_deref();
        own.unwrap_or(&self.device)
    }

    fn may_mount(&self, path: &Path) -> bool {
        match &self.host_paths {
            None => true,
            Some(allowed) => allowed.iter().any(|dir| path.starts_with(dir)),
        }
    }

    /// Finds or makes what a volume is. Blocks.
    fn volume(&self, create: &CreateContainer, name: &str) -> Result<PathBuf, String> {
        let assignment = &create.assignment;
        let volume = assignment.pod.volumes.iter().find(|v| v.name == name);
        let volume = volume.ok_or_else(|| format!("the app has no volume {name}"))?;
        let made = |path: PathBuf| match make_dir(&path) {
            Ok(()) => Ok(path),
            Err(error) => Err(format!("{} cannot be made: {error}", path.display())),
        };
        match &volume.source {
            VolumeSource::HostPath { path, kind } => {
                let path = PathBuf::from(path);
                let up = |p: std::path::Component| p == std::path::Component::ParentDir;
                if !path.is_absolute() || path.components().any(up) {
                    return Err(format!(
                        "host path {} must be absolute, without '..'",
                        path.display()
                    ));
                }
                if !self.may_mount(&path) {
                    return Err(format!(
                        "host path {} is not allowed on this device: add it to hostPaths in the agent's configuration",
                        path.display()
                    ));
                }
                host_path(path, *kind)
            }
            VolumeSource::Named { claim, .. } => {
                let namespace = assignment.app.namespace.as_str();
                let dir = self.data_dir.join("volumes").join(namespace);
                made(dir.join(plain("claim", claim)?))
            }
            VolumeSource::Config { name, .. } => {
                Err(format!("{name} cannot be mounted by this agent: update it"))
            }
            VolumeSource::EmptyDir { .. } => {
                let dir = self.scratch(&assignment.app, &assignment.revision.short());
                made(dir.join(plain("volume", name)?))
            }
        }
    }
}

/// The host path, made or checked as its kind says.
fn host_path(path: PathBuf, kind: HostPathKind) -> Result<PathBuf, String> {
    use std::os::unix::fs::FileTypeExt;
    let made = match kind {
        HostPathKind::DirectoryOrCreate => make_dir(&path),
        // Empty, and its directory has to be there: as in Kubernetes.
        HostPathKind::FileOrCreate if !path.exists() => fs::File::create_new(&path).map(drop),
        _ => Ok(()),
    };
    if let Err(error) = made {
        return Err(format!("{} cannot be made: {error}", path.display()));
    }
    let Ok(metadata) = fs::metadata(&path) else {
        return Err(format!(
            "host path {} does not exist on this device: make it there, or use 'type: DirectoryOrCreate'",
            path.display()
        ));
    };
    let of = metadata.file_type();
    let (fits, wanted) = match kind {
        HostPathKind::Any => (true, "anything"),
        HostPathKind::Directory | HostPathKind::DirectoryOrCreate => (of.is_dir(), "a directory"),
        HostPathKind::File | HostPathKind::FileOrCreate => (of.is_file(), "a file"),
        HostPathKind::Socket => (of.is_socket(), "a socket"),
        HostPathKind::CharDevice => (of.is_char_device(), "a character device"),
        HostPathKind::BlockDevice => (of.is_block_device(), "a block device"),
    };
    match fits {
        true => Ok(path),
        false => Err(format!(
            "host path {} is not {wanted} on this device: change it there, or its type in the manifest",
            path.display()
        )),
    }
}

/// A directory that programs of any user in a container may use.
fn make_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

/// A name that is one part of a path.
fn plain<'a>(what: &str, name: &'a str) -> Result<&'a str, String> {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(good) {
        return Err(format!(
            "the {what} name '{name}' may only use letters, digits, '-', '_' and '.'"
        ));
    }
    Ok(name)
}

/// The name of the namespaces that the containers of a revision share.
pub fn sandbox_id(app: &AppRef, revision: &str) -> ContainerId {
    let app = &Digest::of(app.to_string().as_bytes()).hex()[..16];
    ContainerId::new(format!("pod-{app}-{revision}")).expect("a name of digests")
}

/// The namespaces that the containers of this pod share: none if it is a
/// single one on the host's network. Blocks for the first time that an app
/// has a user namespace.
pub fn sandbox(create: &CreateContainer, places: &Places) -> Result<Option<SandboxSpec>, String> {
    let pod = &create.assignment.pod;
    let own_network = match pod.network {
        PodNetwork::Host => false,
        PodNetwork::None | PodNetwork::Bridge => true,
    };
    let several = pod.all_containers().nth(1).is_some() && !pod.host_ipc;
    let share_pid = pod.share_process_namespace;
    if pod.user_namespace && !own_network {
        return Err(
            "'hostUsers: false' needs a network of the app's own: the host's belongs to the host's users; set 'network: bridge' or 'network: none', or leave it out"
                .into(),
        );
    }
    if !(own_network || several || share_pid || !pod.sysctls.is_empty()) {
        return Ok(None);
    }
    let sysctls = pod.sysctls.iter();
    let app = &create.assignment.app;
    let first_user = match pod.user_namespace {
        true => Some(places.users.first_of(app, &places.data_dir)?),
        false => None,
    };
    Ok(Some(SandboxSpec {
        first_user,
        id: sandbox_id(&create.assignment.app, &create.assignment.revision.short()),
        own_network,
        share_pid,
        sysctls: sysctls
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect(),
    }))
}

/// Capabilities that are as good as root on the device.
const AS_GOOD_AS_ROOT: [&str; 11] = [
    "ALL",
    "BPF",
    "DAC_READ_SEARCH",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "PERFMON",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_PTRACE",
    "SYS_RAWIO",
];

/// What the container may do, as far as this device allows it.
fn security(create: &CreateContainer, places: &Places) -> Result<Security, String> {
    let pod = &create.assignment.pod;
    let wanted = &create.spec().security;
    let unconfined = |profile: &Profile| *profile == Profile::Unconfined;
    let capability = wanted.capabilities_add.iter().find(|name| {
        let plain = name.strip_prefix("CAP_").unwrap_or(name);
        AS_GOOD_AS_ROOT.contains(&plain)
    });
    let what = [
        (wanted.privileged, "'privileged: true'".to_owned()),
        (pod.host_pid, "'hostPID: true'".to_owned()),
        (pod.host_ipc, "'hostIPC: true'".to_owned()),
        (
            unconfined(&wanted.seccomp),
            "an unconfined seccomp profile".to_owned(),
        ),
        (
            unconfined(&wanted.app_armor),
            "an unconfined AppArmor profile".to_owned(),
        ),
        (wanted.unmasked_proc, "'procMount: Unmasked'".to_owned()),
        (
            capability.is_some(),
            format!("the capability {}", capability.map_or("", String::as_str)),
        ),
    ];
    if let Some((_, what)) = what.iter().find(|(asked, _)| *asked)
        && !places.allow_privileged
    {
        return Err(format!(
            "{what} is not allowed on this device: leave it out, or set 'allowPrivileged: true' in the agent's configuration"
        ));
    }
    let filtered = !wanted.privileged && !unconfined(&wanted.seccomp);
    if wanted.allow_privilege_escalation && filtered {
        return Err(
            "'allowPrivilegeEscalation: true' works with 'seccompProfile: {type: Unconfined}' only: leave it out, or start the program as the user that it needs"
                .into(),
        );
    }
    if let Profile::Localhost(name) = &wanted.seccomp {
        return Err(format!(
            "the seccomp profile {name} cannot be used: only RuntimeDefault and Unconfined are supported"
        ));
    }
    Ok(Security {
        privileged: wanted.privileged,
        allow_privilege_escalation: wanted.allow_privilege_escalation,
        capabilities_add: wanted.capabilities_add.clone(),
        capabilities_drop: wanted.capabilities_drop.clone(),
        seccomp_unconfined: unconfined(&wanted.seccomp),
        app_armor: match &wanted.app_armor {
            Profile::RuntimeDefault => None,
            Profile::Unconfined => Some("unconfined".into()),
            Profile::Localhost(name) => Some(name.clone()),
        },
        unmasked_proc: wanted.unmasked_proc,
    })
}

/// The host's devices that the container is given.
fn devices(create: &CreateContainer, places: &Places) -> Result<Vec<Device>, String> {
    let mut all = Vec::new();
    for wanted in &create.spec().devices {
        let found = match &wanted.source {
            DeviceSource::Path(path) => vec![PathBuf::from(path)],
            DeviceSource::Match(name) => find_devices(name)?,
            DeviceSource::Cdi(name) => {
                return Err(format!(
                    "the CDI device {name} cannot be used: CDI files are not supported; name the device's path below /dev"
                ));
            }
        };
        for source in found {
            if !places.may_mount(&source) {
                return Err(format!(
                    "the device {} is not allowed on this device: add it to hostPaths in the agent's configuration",
                    source.display()
                ));
            }
            let same = source.to_string_lossy().into_owned();
            // One name cannot be that of several.
            let target = match (
                &wanted.container_path,
                all.iter()
                    .any(|one: &Device| Some(&one.target) == wanted.container_path.as_ref()),
            ) {
                (Some(path), false) => path.clone(),
                _ => same,
            };
            all.push(Device {
                target,
                source,
                read_only: wanted.read_only,
            });
        }
    }
    Ok(all)
}

/// The size of a volume in memory that only this container mounts, once: it is
/// a file system of the container's own. `None` if it is a directory.
fn in_memory(create: &CreateContainer, volume: &str) -> Option<Option<u64>> {
    let pod = &create.assignment.pod;
    let source = &pod.volumes.iter().find(|one| one.name == volume)?.source;
    let VolumeSource::EmptyDir {
        memory: true,
        size_limit_bytes,
    } = source
    else {
        return None;
    };
    let mounts = pod.all_containers().flat_map(|one| &one.volume_mounts);
    let count = mounts.filter(|mount| mount.volume == volume).count();
    (count == 1).then_some(*size_limit_bytes)
}

/// What the runtime is to run. Makes the volumes' directories. Blocks.
pub fn compose(
    create: &CreateContainer,
    image: &UnpackedImage,
    places: &Places,
    place: &Place,
) -> Result<ContainerSpec, String> {
    let pod = &create.assignment.pod;
    let container = create.spec();
    let (mut mounts, mut tmpfs) = (Vec::new(), Vec::new());
    mounts.extend(device_api::mount(create, &places.run_dir)?);
    for mount in &container.volume_mounts {
        if let Some(size_bytes) = in_memory(create, &mount.volume) {
            tmpfs.push(Tmpfs {
                target: mount.mount_path.clone(),
                size_bytes,
                exec: true,
            });
            continue;
        }
        mounts.push(Mount {
            source: places.volume(create, &mount.volume)?,
            target: mount.mount_path.clone(),
            read_only: mount.read_only,
        });
    }
    mounts.extend(place.files.iter().cloned());
    // As in Kubernetes: a command replaces entrypoint and cmd, arguments alone
    // replace cmd.
    let config = &image.config;
    let mut args = if container.command.is_empty() {
        config.entrypoint.clone()
    } else {
        container.command.clone()
    };
    if !container.args.is_empty() {
        args.extend(container.args.clone());
    } else if container.command.is_empty() {
        args.extend(config.cmd.clone());
    }
    let mut env: Vec<(String, String)> = config
        .env
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    for var in &container.env {
        env.retain(|(name, _)| *name != var.name);
        let value = var.value.text();
        let value = value.ok_or_else(|| format!("the value of {} is not known here", var.name))?;
        env.push((var.name.clone(), value.to_owned()));
    }
    let log_bytes = match container.log_max_bytes {
        0 => places.log_max_bytes,
        bytes => bytes,
    };
    let sandbox = sandbox(create, places)?;
    let in_sandbox = |yes: bool| match yes {
        true => Sharing::Sandbox,
        false => Sharing::Own,
    };
    let limits = &container.resources;
    Ok(ContainerSpec {
        id: create.id.clone(),
        log_name: create.log_name.clone(),
        layers: image.layers.clone(),
        args,
        env,
        cwd: container
            .working_dir
            .clone()
            .unwrap_or_else(|| config.working_dir.clone()),
        user: container
            .user
            .clone()
            .unwrap_or_else(|| config.user.clone()),
        groups: pod
            .supplemental_groups
            .iter()
            .chain(&pod.fs_group)
            .copied()
            .collect(),
        mounts,
        tmpfs,
        devices: devices(create, places)?,
        resources: Resources {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            cpu_request_millis: limits.cpu_request_millis,
            memory_request_bytes: limits.memory_request_bytes,
            swap_bytes: limits.swap_bytes,
            cpus: limits.cpus.clone(),
            huge_pages: limits
                .huge_pages
                .iter()
                .map(|one| (one.page_bytes, one.bytes))
                .collect(),
            io_weight: limits.io_weight,
        },
        hostname: places.hostname(create).to_owned(),
        read_only_root: container.read_only_root,
        security: security(create, places)?,
        network: match sandbox.as_ref().is_some_and(|one| one.own_network) {
            true => Network::Sandbox,
            false => Network::Host,
        },
        ipc: match pod.host_ipc {
            true => Sharing::Host,
            false => in_sandbox(sandbox.is_some()),
        },
        pid: match pod.host_pid {
            true => Sharing::Host,
            false => in_sandbox(pod.share_process_namespace),
        },
        sandbox: sandbox.map(|one| one.id),
        log: LogPolicy {
            persist: container.log_persist,
            max_file_bytes: (log_bytes / u64::from(LOG_FILES)).max(MIN_LOG_FILE_BYTES),
            max_files: LOG_FILES,
        },
    })
}
