//! A container to run, and a further process in it.

use super::bounds::{
    MAX_GROUPS, MAX_HOSTNAME, MAX_LAYERS, MAX_LOG_FILES, MAX_MOUNTS, MAX_SUB_PATH, MAX_WORDS,
    MIN_LOG_FILE_BYTES,
};
use super::check::{at_least, at_most, check_name, check_path, check_target, check_text};
use super::hook::MAX_HOOKS;
use super::security::MAX_DEVICES;
use super::{Device, Hook, Network, Resources, Security, Sharing, SpecError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// Name of one incarnation of a container, unique on the device. Also the name
/// of its directories and its cgroup: `[a-z0-9][a-z0-9.-]{0,127}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// Checks and wraps a name.
    pub fn new(name: impl Into<String>) -> Result<Self, SpecError> {
        let name = name.into();
        check_name("container id", &name)?;
        Ok(Self(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ContainerId {
    type Error = SpecError;

    fn try_from(name: String) -> Result<Self, SpecError> {
        Self::new(name)
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> String {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One container to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// This incarnation. A restart is a new id: its writable layer is empty.
    pub id: ContainerId,
    /// Name of the log that its output is appended to, the same over restarts
    /// of one workload. Same characters as an id.
    pub log_name: String,
    /// Unpacked layers in overlayfs form (whiteouts as character devices 0/0),
    /// lowest first.
    pub layers: Vec<PathBuf>,
    /// Command and arguments; the first is searched in `PATH`.
    pub args: Vec<String>,
    /// Environment. `PATH` and `HOME` are added where missing.
    pub env: Vec<(String, String)>,
    /// Working directory inside, made when missing. Empty means `/`.
    pub cwd: String,
    /// `""` (root), `1000`, `1000:1000`, `name` or `name:group`; names are
    /// looked up in the image's own `/etc/passwd` and `/etc/group`.
    pub user: String,
    /// Further groups of that user, besides those of the image.
    pub groups: Vec<u32>,
    /// Host paths to mount inside.
    pub mounts: Vec<Mount>,
    /// File systems in memory.
    pub tmpfs: Vec<Tmpfs>,
    /// Devices that it may open.
    pub devices: Vec<Device>,
    /// What the device runs for it, in order.
    pub hooks: Vec<Hook>,
    /// Limits.
    pub resources: Resources,
    /// Name that the container sees as its own. Empty means the id, shortened.
    pub hostname: String,
    /// Whether `/` is read-only for the container.
    pub read_only_root: bool,
    /// What it may do.
    pub security: Security,
    /// Whose namespaces it may share.
    pub sandbox: Option<ContainerId>,
    /// Which network it lives in.
    pub network: Network,
    /// Whose IPC namespace it lives in.
    pub ipc: Sharing,
    /// Whose process namespace it lives in.
    pub pid: Sharing,
    /// What is kept of its output.
    pub log: LogPolicy,
}

/// A host path mounted into a container, with everything mounted below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// An existing file or directory on the host.
    pub source: PathBuf,
    /// A directory above `source` that no link on the way may leave: what is
    /// below it may be the apps' own to change.
    pub beneath: Option<PathBuf>,
    /// Absolute path inside; made when missing.
    pub target: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// A file or directory in `source` that is mounted in its place: relative,
    /// without `..`, and never out of `source`, whatever links are there.
    pub sub_path: Option<String>,
    /// Whether programs in it cannot be run.
    pub no_exec: bool,
}

impl Mount {
    /// All of `source`, to be read and written, and with programs that run.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            beneath: None,
            target: target.into(),
            read_only: false,
            sub_path: None,
            no_exec: false,
        }
    }
}

/// A file system in memory, empty at each start. What is in it counts as the
/// container's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tmpfs {
    /// Absolute path inside; made when missing.
    pub target: String,
    /// Most bytes in it.
    pub size_bytes: Option<u64>,
    /// Whether programs in it may be run.
    pub exec: bool,
}

/// What is kept of a container's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPolicy {
    /// In the data directory (survives a power cut, wears flash) instead of
    /// the run directory (memory).
    pub persist: bool,
    /// Size at which a new file is begun.
    pub max_file_bytes: u64,
    /// Files kept, the one being written included.
    pub max_files: u32,
}

impl Default for LogPolicy {
    /// In memory, 1 MiB in all.
    fn default() -> Self {
        Self {
            persist: false,
            max_file_bytes: 256 * 1024,
            max_files: 4,
        }
    }
}

/// A further process in a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Command and arguments; the first is searched in `PATH`.
    pub args: Vec<String>,
    /// Added to the container's own environment.
    pub env: Vec<(String, String)>,
    /// Working directory inside; empty means the container's own.
    pub cwd: String,
    /// As in [`ContainerSpec::user`]; empty means the container's own.
    pub user: String,
    /// A terminal of so many columns and rows instead of three pipes.
    pub tty: Option<(u16, u16)>,
}

impl ContainerSpec {
    /// Checks every bound that can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_name("log name", &self.log_name)?;
        if self.layers.is_empty() {
            return Err(SpecError::NoLayers);
        }
        at_most("image layers", self.layers.len(), MAX_LAYERS)?;
        for layer in &self.layers {
            check_path("layer", &layer.to_string_lossy())?;
        }
        check_process(&self.args, &self.env, &self.cwd)?;
        at_most("volumes", self.mounts.len(), MAX_MOUNTS)?;
        for mount in &self.mounts {
            check_path("volume source", &mount.source.to_string_lossy())?;
            if let Some(dir) = &mount.beneath
                && !mount.source.starts_with(dir)
            {
                return Err(SpecError::NotBeneath {
                    source_path: mount.source.clone(),
                    dir: dir.clone(),
                });
            }
            check_path("volume target", &mount.target)?;
            check_target(&mount.target)?;
            if let Some(path) = &mount.sub_path {
                at_most("bytes of a path in a volume", path.len(), MAX_SUB_PATH)?;
                check_path("path in a volume", &format!("/{path}"))?;
            }
        }
        at_most("bytes of hostname", self.hostname.len(), MAX_HOSTNAME)?;
        check_text("hostname", &self.hostname)?;
        check_text("user", &self.user)?;
        self.resources.validate()?;
        self.security.validate()?;
        at_most("further groups", self.groups.len(), MAX_GROUPS)?;
        at_most("volumes in memory", self.tmpfs.len(), MAX_MOUNTS)?;
        for tmpfs in &self.tmpfs {
            check_path("volume target", &tmpfs.target)?;
            check_target(&tmpfs.target)?;
        }
        at_most("devices", self.devices.len(), MAX_DEVICES)?;
        for device in &self.devices {
            device.validate()?;
        }
        at_most("hooks", self.hooks.len(), MAX_HOOKS)?;
        for hook in &self.hooks {
            hook.validate()?;
        }
        let shares =
            self.network == Network::Sandbox || [self.ipc, self.pid].contains(&Sharing::Sandbox);
        if shares && self.sandbox.is_none() {
            return Err(SpecError::NoSandbox);
        }
        at_least(
            "the log file size in bytes",
            self.log.max_file_bytes,
            MIN_LOG_FILE_BYTES,
        )?;
        at_least("the number of log files", self.log.max_files.into(), 1)?;
        at_most(
            "log files",
            self.log.max_files as usize,
            MAX_LOG_FILES as usize,
        )
    }
}

impl ExecSpec {
    /// Checks every bound that can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), SpecError> {
        check_text("user", &self.user)?;
        check_process(&self.args, &self.env, &self.cwd)
    }
}

fn check_process(args: &[String], env: &[(String, String)], cwd: &str) -> Result<(), SpecError> {
    if args.first().is_none_or(|arg| arg.is_empty()) {
        return Err(SpecError::NoCommand);
    }
    at_most("arguments", args.len(), MAX_WORDS)?;
    at_most("environment variables", env.len(), MAX_WORDS)?;
    for arg in args {
        check_text("argument", arg)?;
    }
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(SpecError::Text {
                what: "environment variable",
                value: name.clone(),
            });
        }
        check_text("environment variable", name)?;
        check_text("value of an environment variable", value)?;
    }
    if cwd.is_empty() {
        Ok(())
    } else {
        check_path("working directory", cwd)
    }
}
