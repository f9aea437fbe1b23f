//! What a container is, in plain values: what the engine hands to the runtime.
//!
//! These types travel from the agent to the keeper and on to a helper (see
//! [`proto`](super::proto)), which may be of an older release than the agent.
//! A released struct is therefore frozen; growth is a new request variant.
//! Enums grow at their end only.

mod limits;
mod sandbox;
mod security;

pub use limits::Resources;
pub use sandbox::{Network, SandboxSpec, Sharing, USERS};
pub use security::{Device, Security, capability};

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Longest container id and log name in bytes. It becomes a directory name, a
/// cgroup name and part of socket paths.
pub const MAX_NAME: usize = 128;
/// Most image layers of one container: what OCI tools allow, and what fits
/// into the one page of options that overlayfs takes.
pub const MAX_LAYERS: usize = 127;
/// Most volumes of one container: those of a manifest, and what the agent adds
/// (its API, `/etc/hosts`, shared memory, files of CDI).
pub const MAX_MOUNTS: usize = 128;
/// Most arguments, and most environment variables, of one process.
pub const MAX_WORDS: usize = 4096;
/// Longest hostname (`HOST_NAME_MAX` of Linux).
pub const MAX_HOSTNAME: usize = 64;
/// Smallest log file before rotation: two lines of the greatest length.
pub const MIN_LOG_FILE_BYTES: u64 = 64 * 1024;
/// Most files kept of one log.
pub const MAX_LOG_FILES: u32 = 100;
/// Most further groups of one container's user.
pub const MAX_GROUPS: usize = 64;
/// Longest path in a volume, in bytes.
pub const MAX_SUB_PATH: usize = 1024;

/// Why a specification is refused. The text is for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// An id or log name that cannot be a file name and a cgroup name.
    #[error(
        "{what} {name:?} is not valid: 1 to {MAX_NAME} of a-z, 0-9, '.' and '-', \
         starting with a letter or digit"
    )]
    Name {
        /// Which name it is.
        what: &'static str,
        /// The name as given.
        name: String,
    },
    /// Too many of something.
    #[error("{count} {what}, at most {max} are possible")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many were given.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// A value out of its range.
    #[error("{what} is {value}, the least possible is {min}")]
    TooSmall {
        /// Which value it is.
        what: &'static str,
        /// The value as given.
        value: u64,
        /// The least possible.
        min: u64,
    },
    /// A path that must be absolute and free of `..`.
    #[error("{what} {path:?} must be an absolute path without '..'")]
    Path {
        /// Which path it is.
        what: &'static str,
        /// The path as given.
        path: String,
    },
    /// A mount over something that the runtime provides itself.
    #[error("a volume cannot be mounted at {target:?}: the runtime provides it")]
    ReservedTarget {
        /// The target as given.
        target: String,
    },
    /// Swap makes sense beside a memory limit only.
    #[error("a swap limit needs a memory limit beside it: add limits.memory")]
    SwapWithoutMemory,
    /// A list of CPUs that cannot be read.
    #[error("{cpus:?} is no list of cpus: write it as in '0-1,3'")]
    Cpus {
        /// The list as given.
        cpus: String,
    },
    /// A size that no huge page has.
    #[error("{bytes} bytes is no size of a huge page")]
    HugePage {
        /// The size as given.
        bytes: u64,
    },
    /// A capability that Linux does not have.
    #[error("{name:?} is no capability: write it as in 'NET_ADMIN', or 'ALL'")]
    Capability {
        /// The name as given.
        name: String,
    },
    /// A device would be made outside of `/dev`.
    #[error("a device cannot be at {target:?}: its path inside must be below /dev")]
    DeviceTarget {
        /// The target as given.
        target: String,
    },
    /// A kernel setting that is not a pod's own.
    #[error("the kernel setting {name:?} cannot be set: {reason}")]
    Sysctl {
        /// The setting's name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A user namespace that would have the host's own users in it, or whose
    /// network is the host's.
    #[error(
        "a user namespace from id {first} on is not possible: it begins at {USERS} or later, and \
         its pod needs a network of its own"
    )]
    Users {
        /// The first id on the host.
        first: u32,
    },
    /// A namespace of a sandbox without a sandbox.
    #[error("a container without a sandbox cannot live in one's namespaces")]
    NoSandbox,
    /// Nothing to run.
    #[error("no command: neither the app nor the image names one")]
    NoCommand,
    /// No file system.
    #[error("no image layers")]
    NoLayers,
    /// A text with a NUL byte, or an environment variable with a bad name.
    #[error("{what} {value:?} cannot be passed to a process")]
    Text {
        /// Which text it is.
        what: &'static str,
        /// The text as given.
        value: String,
    },
}

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

/// Refuses what cannot be a file name, a cgroup name and a log name.
pub(super) fn check_name(what: &'static str, name: &str) -> Result<(), SpecError> {
    let bytes = name.as_bytes();
    let plain = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ok = bytes.len() <= MAX_NAME
        && bytes.first().is_some_and(plain)
        && bytes.iter().all(|b| plain(b) || *b == b'.' || *b == b'-');
    if ok {
        Ok(())
    } else {
        let name = name.chars().take(MAX_NAME + 1).collect();
        Err(SpecError::Name { what, name })
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
    /// Absolute path inside; made when missing.
    pub target: String,
    /// Whether the container may only read it.
    pub read_only: bool,
    /// A file or directory in `source` that is mounted in its place: relative,
    /// without `..`, and never out of `source`, whatever links are there.
    pub sub_path: Option<String>,
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

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// It was ended by this signal.
    Signal(i32),
}

impl ExitStatus {
    /// The code a shell would show: 128 + n for signal n.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }
}

/// A container's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// How its first process ended.
    pub status: ExitStatus,
    /// Whether the kernel killed something in it for want of memory, and it
    /// then ended unhappily.
    pub oom_killed: bool,
    /// When, by the wall clock.
    pub at: Timestamp,
}

/// Nanoseconds since 1970 by the wall clock, which may be wrong on a device
/// without a battery: for showing, never for deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The clock now; 0 when it stands before 1970.
    pub fn now() -> Self {
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX))
    }

    /// As the standard library's type.
    pub fn system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.0)
    }
}

/// What the runtime knows of one container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// Which one.
    pub id: ContainerId,
    /// How it stands.
    pub status: Status,
}

/// How a container stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It runs and the keeper owns it.
    Running {
        /// Its first process, as the host sees it.
        pid: i32,
        /// Since when.
        started_at: Timestamp,
    },
    /// It ended, and the record waits for `forget_exit`.
    Exited(Exit),
    /// Something of it is left on the machine, but the keeper that owned it is
    /// gone and how it ended is not known: kill it and remove it.
    Lost,
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
        at_most("devices", self.devices.len(), security::MAX_DEVICES)?;
        for device in &self.devices {
            device.validate()?;
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

/// Refuses what the runtime mounts or makes by itself.
pub fn check_target(target: &str) -> Result<(), SpecError> {
    let clean = target.trim_end_matches('/');
    // What checks of libcontainer rely on, too: masking uses /dev/null.
    let reserved = [
        "",
        "/dev",
        "/dev/console",
        "/dev/fd",
        "/dev/full",
        "/dev/mqueue",
        "/dev/null",
        "/dev/ptmx",
        "/dev/pts",
        "/dev/random",
        "/dev/stderr",
        "/dev/stdin",
        "/dev/stdout",
        "/dev/tty",
        "/dev/urandom",
        "/dev/zero",
        "/proc",
        "/sys",
    ];
    let inside = ["/proc/", "/sys/", "/dev/pts/"];
    // However it is written: `//dev/./null` is the same.
    let clean: String = Path::new(clean)
        .components()
        .filter_map(|part| match part {
            std::path::Component::Normal(name) => Some(format!("/{}", name.to_string_lossy())),
            _ => None,
        })
        .collect();
    if reserved.contains(&clean.as_str()) || inside.iter().any(|dir| clean.starts_with(dir)) {
        return Err(SpecError::ReservedTarget {
            target: target.to_owned(),
        });
    }
    Ok(())
}

fn check_path(what: &'static str, path: &str) -> Result<(), SpecError> {
    check_text(what, path)?;
    if path.starts_with('/') && !path.split('/').any(|part| part == "..") {
        Ok(())
    } else {
        Err(SpecError::Path {
            what,
            path: path.to_owned(),
        })
    }
}

fn check_text(what: &'static str, value: &str) -> Result<(), SpecError> {
    if value.contains('\0') {
        Err(SpecError::Text {
            what,
            value: value.to_owned(),
        })
    } else {
        Ok(())
    }
}

fn at_most(what: &'static str, count: usize, max: usize) -> Result<(), SpecError> {
    if count > max {
        Err(SpecError::TooMany { what, count, max })
    } else {
        Ok(())
    }
}

fn at_least(what: &'static str, value: u64, min: u64) -> Result<(), SpecError> {
    if value < min {
        Err(SpecError::TooSmall { what, value, min })
    } else {
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn sample() -> ContainerSpec {
        ContainerSpec {
            id: ContainerId::new("web-1").expect("a valid name"),
            log_name: "web".into(),
            layers: vec!["/layers/a".into(), "/layers/b".into()],
            args: vec!["/bin/web".into(), "-v".into()],
            env: vec![("PORT".into(), "80".into())],
            cwd: "/srv".into(),
            user: "1000:1000".into(),
            groups: vec![20],
            mounts: vec![Mount {
                source: "/var/lib/web".into(),
                target: "/data".into(),
                read_only: true,
                sub_path: Some("web/data".into()),
            }],
            tmpfs: vec![Tmpfs {
                target: "/tmp".into(),
                size_bytes: Some(1 << 20),
                exec: false,
            }],
            devices: vec![Device {
                source: "/dev/ttyUSB0".into(),
                target: "/dev/modem".into(),
                read_only: false,
            }],
            resources: Resources {
                cpu_millis: Some(500),
                memory_bytes: Some(64 << 20),
                pids: Some(32),
                cpu_request_millis: Some(100),
                memory_request_bytes: Some(32 << 20),
                swap_bytes: Some(0),
                cpus: Some("0-1".into()),
                huge_pages: vec![(2 << 20, 4 << 20)],
                io_weight: Some(100),
            },
            hostname: "web".into(),
            read_only_root: false,
            security: Security {
                capabilities_add: vec!["NET_ADMIN".into()],
                ..Security::default()
            },
            sandbox: Some(ContainerId::new("pod").expect("a valid name")),
            network: Network::Sandbox,
            ipc: Sharing::Sandbox,
            pid: Sharing::Own,
            log: LogPolicy::default(),
        }
    }

    #[test]
    fn only_a_pods_own_kernel_settings_are_set() {
        let refused = |own_network, name: &str| {
            let spec = SandboxSpec {
                id: ContainerId::new("pod").expect("a valid name"),
                own_network,
                share_pid: false,
                sysctls: vec![(name.into(), "1".into())],
                first_user: None,
            };
            spec.validate().is_err()
        };
        for good in [
            "net.ipv4.ip_forward",
            "kernel.shmmax",
            "kernel.sem",
            "fs.mqueue.msg_max",
        ] {
            assert!(!refused(true, good), "{good}");
        }
        for bad in [
            "kernel.core_pattern",
            "vm.swappiness",
            "net.../kernel/x",
            "net./../kernel/core_pattern",
            "kernel.semx",
            "",
            "fs.mqueue",
            "net.ipv4 x",
        ] {
            assert!(refused(true, bad), "{bad}");
        }
        assert!(refused(false, "net.ipv4.ip_forward"), "the device's own");
        assert!(!refused(false, "kernel.msgmax"));
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "0", "web-1.2", &"a".repeat(MAX_NAME)] {
            assert!(ContainerId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            ".",
            "..",
            "a/b",
            "A",
            "a b",
            "a\0",
            &"a".repeat(MAX_NAME + 1),
        ] {
            assert!(ContainerId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sample_is_valid_and_each_fault_is_named() {
        let good = sample();
        good.validate().expect("the sample is valid");
        let refused = |change: fn(&mut ContainerSpec), text: &str| {
            let mut spec = sample();
            change(&mut spec);
            let error = spec
                .validate()
                .expect_err("the change makes it invalid")
                .to_string();
            assert!(error.contains(text), "{error}");
        };
        refused(|s| s.layers.clear(), "no image layers");
        refused(|s| s.layers = vec!["/x".into(); 128], "at most 127");
        refused(|s| s.args.clear(), "no command");
        refused(|s| s.args = vec![String::new()], "no command");
        refused(|s| s.cwd = "srv".into(), "working directory");
        refused(
            |s| s.mounts[0].target = "/a/../../etc".into(),
            "volume target",
        );
        refused(
            |s| s.mounts[0].target = "/proc/sys".into(),
            "runtime provides",
        );
        refused(|s| s.mounts[0].target = "//".into(), "runtime provides");
        refused(
            |s| s.mounts[0].target = "//dev/./null/".into(),
            "runtime provides",
        );
        refused(|s| s.mounts[0].source = "rel".into(), "volume source");
        refused(|s| s.env[0].0 = "A=B".into(), "environment variable");
        refused(|s| s.args[1] = "a\0b".into(), "argument");
        refused(|s| s.resources.cpu_millis = Some(1), "cpu limit");
        refused(|s| s.resources.memory_bytes = Some(1), "memory limit");
        refused(|s| s.resources.pids = Some(0), "process limit");
        refused(|s| s.resources.memory_bytes = None, "swap limit");
        refused(|s| s.resources.io_weight = Some(1001), "disk weight");
        refused(|s| s.resources.huge_pages[0].0 = 3, "huge page");
        for bad in ["", "a", "1-", "3-1", "0,,1", " 1"] {
            let mut spec = sample();
            spec.resources.cpus = Some(bad.into());
            assert!(spec.validate().is_err(), "{bad:?}");
        }
        let add =
            |s: &mut ContainerSpec, name: &str| s.security.capabilities_add = vec![name.into()];
        let mut spec = sample();
        for name in ["ALL", "CAP_SYS_TIME", "SYS_TIME"] {
            add(&mut spec, name);
            spec.validate().expect("a capability");
        }
        refused(
            |s| s.security.capabilities_add = vec!["FLY".into()],
            "no capability",
        );
        refused(|s| s.devices[0].target = "/etc/x".into(), "below /dev");
        refused(|s| s.tmpfs[0].target = "/proc".into(), "runtime provides");
        refused(|s| s.sandbox = None, "without a sandbox");
        refused(|s| s.log_name = "../x".into(), "log name");
        refused(|s| s.log.max_files = 0, "log files");
        refused(|s| s.log.max_file_bytes = 1, "log file size");
    }
}
