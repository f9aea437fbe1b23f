//! From an assignment and an image to what the runtime runs.

use super::config_files::{ConfigFiles, Layout, Owner};
use super::devices::MachineDevices;
use super::env::{self, Environment};
use super::fs_group;
use super::mounts;
use super::network::Place;
use super::security;
use super::users::UserPool;
use super::volumes::Volumes;
use crate::core::{Configs, CreateContainer};
use crate::device_api;
use crate::image::UnpackedImage;
use crate::runtime::host_path::{self, Made};
use crate::runtime::{
    ContainerId, ContainerSpec, LogPolicy, Mount, Network, Resources, SandboxSpec, Sharing, USERS,
};
use skerry_wire::pod::{self, HostPathKind, Network as PodNetwork};
use skerry_wire::{AppRef, Assignment, Digest, VolumeSource};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files that a log is kept in.
const LOG_FILES: u32 = 4;
/// With one alone nothing would be left whenever the next is begun.
const MIN_LOG_FILES: u32 = 2;
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
    /// Files of configs and secrets.
    pub config_files: Arc<ConfigFiles>,
    /// Named volumes.
    pub volumes: Arc<Volumes>,
    /// The machine's devices, and who has which.
    pub devices: Arc<MachineDevices>,
}

impl Places {
    /// Where the empty-dir volumes of a revision are.
    pub fn scratch(&self, app: &AppRef, revision: &str) -> PathBuf {
        let app = &Digest::of(app.to_string().as_bytes()).hex()[..16];
        self.run_dir.join("scratch").join(app).join(revision)
    }

    /// Where the config volumes of a revision are, in memory.
    pub fn config_dir(&self, app: &AppRef, revision: &str) -> PathBuf {
        let app = &Digest::of(app.to_string().as_bytes()).hex()[..16];
        ConfigFiles::root(&self.run_dir).join(app).join(revision)
    }

    /// The host name that a container sees.
    pub fn hostname<'a>(&'a self, create: &'a CreateContainer) -> &'a str {
        let own = create.assignment.pod.hostname.as_deref();
        own.unwrap_or(&self.device)
    }

    /// The allowed directory that a path is in: `Some(None)` where any path is
    /// allowed, `None` where this one is not.
    fn allowed(&self, path: &Path) -> Option<Option<&Path>> {
        let Some(allowed) = &self.host_paths else {
            return Some(None);
        };
        let dir = allowed.iter().find(|dir| path.starts_with(dir));
        dir.map(|dir| Some(dir.as_path()))
    }

    /// Whether apps may be given the device at a path. What is below `/dev` is
    /// where the kernel and udev have put it; elsewhere apps may have made a
    /// link to a disk, or its node.
    fn may_use_device(&self, path: &Path) -> bool {
        match self.allowed(path) {
            None => false,
            Some(None) => true,
            Some(Some(_)) if path.starts_with("/dev") => true,
            Some(Some(_)) => fs::canonicalize(path).is_ok_and(|real| {
                real.starts_with("/dev") && matches!(self.allowed(&real), Some(Some(_)))
            }),
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
                match self.allowed(&path) {
                    None => Err(format!(
                        "host path {} is not allowed on this device: add it to hostPaths in the agent's configuration",
                        path.display()
                    )),
                    Some(beneath) => host_path(path, beneath, *kind),
                }
            }
            VolumeSource::Named {
                claim,
                size_limit_bytes,
            } => {
                let namespace = assignment.app.namespace.as_str();
                let dir = self.data_dir.join("volumes").join(namespace);
                let dir = dir.join(plain("claim", claim)?);
                self.volumes.refuse(&dir)?;
                let dir = made(dir)?;
                let what = format!("volume {namespace}/{claim}");
                self.volumes.limit(&dir, &what, *size_limit_bytes);
                self.give_to_group(assignment, dir)
            }
            VolumeSource::Config { .. } => {
                let dir = self.config_dir(&assignment.app, &assignment.revision.short());
                let dir = dir.join(plain("volume", name)?);
                let layout = layout(assignment, &create.configs, &volume.source, self)?;
                let generation = create.configs.generation;
                let files = &self.config_files;
                files.write(&self.run_dir, &dir, &layout, generation, false)?;
                Ok(dir)
            }
            VolumeSource::EmptyDir {
                memory,
                size_limit_bytes,
            } => {
                let dir = self.scratch(&assignment.app, &assignment.revision.short());
                let dir = dir.join(plain("volume", name)?);
                if *memory {
                    mounts::volume_memory(&dir, *size_limit_bytes)?;
                    return self.give_to_group(assignment, dir);
                }
                let dir = made(dir)?;
                let what = format!("volume {name} of {}", assignment.app);
                self.volumes.limit(&dir, &what, *size_limit_bytes);
                self.give_to_group(assignment, dir)
            }
        }
    }

    /// What no link on the way to a volume may leave.
    fn beneath(&self, create: &CreateContainer, name: &str) -> Option<PathBuf> {
        let mut volumes = create.assignment.pod.volumes.iter();
        match &volumes.find(|volume| volume.name == name)?.source {
            VolumeSource::HostPath { path, .. } => {
                self.allowed(Path::new(path)).flatten().map(Path::to_owned)
            }
            VolumeSource::Named { .. }
            | VolumeSource::Config { .. }
            | VolumeSource::EmptyDir { .. } => None,
        }
    }

    /// A volume that is the pod's group's, if it has one. Blocks.
    fn give_to_group(&self, assignment: &Assignment, dir: PathBuf) -> Result<PathBuf, String> {
        let pod = &assignment.pod;
        if let Some(group) = pod.fs_group {
            let first = self.first_user(assignment)?;
            fs_group::give(&dir, group, first, pod.fs_group_change)?;
        }
        Ok(dir)
    }

    /// Root of the app's user namespace on the device, if it has one. Blocks
    /// for the first time.
    fn first_user(&self, assignment: &Assignment) -> Result<Option<u32>, String> {
        let pod = &assignment.pod;
        if !pod.user_namespace {
            return Ok(None);
        }
        // Counted from the first, it would be another app's.
        if let Some(group) = pod.fs_group.filter(|group| *group >= USERS) {
            return Err(format!(
                "fsGroup {group} is not in a user namespace, which has ids below {USERS}: choose another, or leave 'hostUsers: false' out"
            ));
        }
        self.users
            .first_of(&assignment.app, &self.data_dir)
            .map(Some)
    }
}

/// The files that a volume of a config shall have.
fn layout(
    assignment: &Assignment,
    configs: &Configs,
    source: &VolumeSource,
    places: &Places,
) -> Result<Layout, String> {
    let VolumeSource::Config {
        kind,
        name,
        items,
        mode,
        optional,
    } = source
    else {
        return Err("this volume is no config".into());
    };
    let namespace = &assignment.app.namespace;
    let config = env::find(namespace, configs, *kind, name);
    if config.is_none() && !optional {
        return Err(env::missing(namespace, *kind, name));
    }
    let owner = Owner {
        group: assignment.pod.fs_group,
        first: places.first_user(assignment)?,
    };
    Layout::of(config, items, *mode, *optional, owner)
}

/// Writes the files of an app's configs anew, where it was given some. Does
/// all it can. Blocks.
pub fn rewrite_configs(
    assignment: &Assignment,
    configs: &Configs,
    places: &Places,
) -> Result<(), String> {
    let dir = places.config_dir(&assignment.app, &assignment.revision.short());
    let mut first = Ok(());
    for volume in &assignment.pod.volumes {
        if !matches!(volume.source, VolumeSource::Config { .. }) {
            continue;
        }
        let done = plain("volume", &volume.name).and_then(|name| {
            let layout = layout(assignment, configs, &volume.source, places)?;
            let generation = configs.generation;
            let files = &places.config_files;
            files.write(&places.run_dir, &dir.join(name), &layout, generation, true)
        });
        first = first.and(done);
    }
    first.map_err(|why| format!("{} keeps the files that it has: {why}", assignment.app))
}

/// The host path, made or checked as its kind says, never out of the directory
/// that it must be in.
fn host_path(path: PathBuf, beneath: Option<&Path>, kind: HostPathKind) -> Result<PathBuf, String> {
    use std::os::unix::fs::FileTypeExt;
    let made = match (beneath, kind) {
        (Some(dir), HostPathKind::DirectoryOrCreate) => {
            host_path::make(dir, &path, Made::Dir).map_err(|error| error.to_string())
        }
        (None, HostPathKind::DirectoryOrCreate) => {
            make_dir(&path).map_err(|error| error.to_string())
        }
        // Empty, and its directory has to be there: as in Kubernetes.
        (Some(dir), HostPathKind::FileOrCreate)
            if host_path::open(dir, &path).is_err_and(|error| error.is_missing()) =>
        {
            host_path::make(dir, &path, Made::File).map_err(|error| error.to_string())
        }
        (None, HostPathKind::FileOrCreate) if !path.exists() => {
            let made = fs::File::create_new(&path).map(drop);
            made.map_err(|error| error.to_string())
        }
        _ => Ok(()),
    };
    if let Err(why) = made {
        return Err(format!("{} cannot be made: {why}", path.display()));
    }
    let metadata = match beneath {
        None => fs::metadata(&path).ok(),
        Some(dir) => match host_path::open(dir, &path) {
            Ok(open) => open.metadata().ok(),
            Err(error) if error.is_missing() => None,
            Err(error) => return Err(error.to_string()),
        },
    };
    let Some(metadata) = metadata else {
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
pub(super) fn make_dir(path: &Path) -> io::Result<()> {
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
    Ok(Some(SandboxSpec {
        first_user: places.first_user(&create.assignment)?,
        id: sandbox_id(&create.assignment.app, &create.assignment.revision.short()),
        own_network,
        share_pid,
        sysctls: sysctls
            .map(|one| (one.name.clone(), one.value.clone()))
            .collect(),
    }))
}

/// Where programs share memory by name (shm_open(3)).
const SHM: &str = "/dev/shm";

/// `/dev/shm` of a pod whose containers share their IPC, as in Kubernetes;
/// `None` where a container has its own, or a volume there. Blocks.
fn shared_memory(create: &CreateContainer, places: &Places) -> Result<Option<Mount>, String> {
    let assignment = &create.assignment;
    let pod = &assignment.pod;
    let several = pod.all_containers().nth(1).is_some();
    let mut volumes = create.spec().volume_mounts.iter();
    if volumes.any(|volume| Path::new(&volume.mount_path) == Path::new(SHM)) {
        return Ok(None);
    }
    let source = match (pod.host_ipc, several) {
        (true, _) => PathBuf::from(SHM),
        (false, false) => return Ok(None),
        (false, true) => {
            let dir = places.scratch(&assignment.app, &assignment.revision.short());
            // No volume's name begins with a dot.
            let dir = dir.join(".shm");
            mounts::shared_memory(&dir)?;
            dir
        }
    };
    Ok(Some(Mount::new(source, SHM)))
}

/// A container's limits as the runtime has them.
pub fn limits(limits: &pod::Resources) -> Resources {
    Resources {
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
    }
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
    let config = &image.config;
    let env = Environment::of(create, &config.env, places, place)?;
    let mut mounts = Vec::new();
    mounts.extend(device_api::mount(create, &places.run_dir)?);
    for mount in &container.volume_mounts {
        let is_config = |volume: &skerry_wire::Volume| {
            volume.name == mount.volume && matches!(volume.source, VolumeSource::Config { .. })
        };
        mounts.push(Mount {
            source: places.volume(create, &mount.volume)?,
            beneath: places.beneath(create, &mount.volume),
            target: mount.mount_path.clone(),
            // As in Kubernetes: what is written there would be lost.
            read_only: mount.read_only || pod.volumes.iter().any(is_config),
            sub_path: match &mount.sub_path {
                None => None,
                Some(path) => Some(env.sub_path(path)?),
            },
            no_exec: false,
        });
    }
    mounts.extend(shared_memory(create, places)?);
    mounts.extend(place.files.iter().cloned());
    let given = places
        .devices
        .give(create, |path| places.may_use_device(path))?;
    // What a CDI file says comes last and goes before all else, as it does in
    // every runtime: a device that is only half there works in the wrong way.
    mounts.retain(|own| given.mounts.iter().all(|one| one.target != own.target));
    let mut given_mounts = given.mounts;
    // A file in a directory that is mounted, too, comes after that.
    given_mounts.sort_by_key(|mount| Path::new(&mount.target).components().count());
    mounts.extend(given_mounts);
    // As in Kubernetes: a command replaces entrypoint and cmd, arguments alone
    // replace cmd.
    let mut args = if container.command.is_empty() {
        config.entrypoint.clone()
    } else {
        env.words(&container.command)?
    };
    if !container.args.is_empty() {
        args.extend(env.words(&container.args)?);
    } else if container.command.is_empty() {
        args.extend(config.cmd.clone());
    }
    let log_bytes = match container.log_max_bytes {
        0 => places.log_max_bytes,
        bytes => bytes,
    };
    let log_bytes = log_bytes / u64::from(create.log_shares.max(1));
    // A small share has fewer files, or their least size would make it large.
    let log_files = u32::try_from(log_bytes / MIN_LOG_FILE_BYTES).unwrap_or(LOG_FILES);
    let log_files = match create.log_shares {
        0 | 1 => LOG_FILES,
        _ => log_files.clamp(MIN_LOG_FILES, LOG_FILES),
    };
    let sandbox = sandbox(create, places)?;
    let in_sandbox = |yes: bool| match yes {
        true => Sharing::Sandbox,
        false => Sharing::Own,
    };
    Ok(ContainerSpec {
        id: create.id.clone(),
        log_name: create.log_name.clone(),
        layers: image.layers.clone(),
        args,
        // The last of a name counts.
        env: env.all.into_iter().chain(given.env).collect(),
        cwd: container
            .working_dir
            .clone()
            .unwrap_or_else(|| config.working_dir.clone()),
        user: security::user(create, &config.user)?,
        groups: pod
            .supplemental_groups
            .iter()
            .chain(&pod.fs_group)
            .copied()
            .chain(given.groups)
            .collect(),
        mounts,
        tmpfs: Vec::new(),
        devices: given.devices,
        hooks: given.hooks,
        resources: limits(&container.resources),
        hostname: places.hostname(create).to_owned(),
        read_only_root: container.read_only_root,
        security: security::security(create, places.allow_privileged)?,
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
            max_file_bytes: (log_bytes / u64::from(log_files)).max(MIN_LOG_FILE_BYTES),
            max_files: log_files,
        },
    })
}
