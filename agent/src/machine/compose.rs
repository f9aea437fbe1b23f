//! From an assignment and an image to what the runtime runs.

use crate::core::CreateContainer;
use crate::image::UnpackedImage;
use crate::runtime::{ContainerSpec, LogPolicy, Mount, Network, Resources};
use skerry_wire::pod::HostPathKind;
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
            VolumeSource::Named { claim } => {
                let namespace = assignment.app.namespace.as_str();
                let dir = self.data_dir.join("volumes").join(namespace);
                made(dir.join(plain("claim", claim)?))
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

/// What the runtime is to run. Makes the volumes' directories. Blocks.
pub fn compose(
    create: &CreateContainer,
    image: &UnpackedImage,
    places: &Places,
) -> Result<ContainerSpec, String> {
    let pod = &create.assignment.pod;
    let container = create.spec();
    let mut mounts = Vec::new();
    for mount in &container.volume_mounts {
        mounts.push(Mount {
            source: places.volume(create, &mount.volume)?,
            target: mount.mount_path.clone(),
            read_only: mount.read_only,
        });
    }
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
        env.push((var.name.clone(), var.value.clone()));
    }
    let log_bytes = match container.log_max_bytes {
        0 => places.log_max_bytes,
        bytes => bytes,
    };
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
        mounts,
        resources: Resources {
            cpu_millis: container.resources.cpu_millis,
            memory_bytes: container.resources.memory_bytes,
            pids: container.resources.pids,
        },
        hostname: pod
            .hostname
            .clone()
            .unwrap_or_else(|| places.device.clone()),
        read_only_root: container.read_only_root,
        network: Network::Host,
        log: LogPolicy {
            persist: container.log_persist,
            max_file_bytes: (log_bytes / u64::from(LOG_FILES)).max(MIN_LOG_FILE_BYTES),
            max_files: LOG_FILES,
        },
    })
}
