//! What an app's pod is, in Kubernetes' words: field names and meaning are
//! those of its PodSpec, units are in the names here. Where a field says
//! something else than in Kubernetes, or is ours, its comment says so.
//!
//! Fields that most apps leave out cost one byte each.

use crate::config::ConfigKind;
use crate::id::{ConfigName, ContainerName, Digest};
use crate::probe::{Hook, Probe};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// Containers that belong together on one device. `Image` is how images are
/// named: a text in a manifest, an [`ImageRef`] on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec<Image = ImageRef> {
    /// Run one after the other before all others, each to its end; those with
    /// [`ContainerSpec::sidecar`] keep running beside what follows.
    pub init_containers: Vec<ContainerSpec<Image>>,
    /// At least one. Names are unique over these and the init containers.
    pub containers: Vec<ContainerSpec<Image>>,
    /// What the containers' mounts refer to by name.
    pub volumes: Vec<Volume>,
    /// When an ended container starts again.
    pub restart_policy: RestartPolicy,
    /// Seconds between the stop signal and the kill.
    pub termination_grace_secs: u32,
    /// Which network the pod lives in.
    pub network: Network,
    /// The host name inside; the device's own when absent.
    pub hostname: Option<String>,
    /// Lines of `/etc/hosts` besides our own.
    pub host_aliases: Vec<HostAlias>,
    /// How names are looked up; the device's own way when absent.
    pub dns: Option<DnsConfig>,
    /// Use the host's System V IPC and POSIX queues. Only where the device's
    /// own configuration allows it.
    pub host_ipc: bool,
    /// See all processes of the host. Only where the device's own
    /// configuration allows it.
    pub host_pid: bool,
    /// The containers of the pod see each other's processes.
    pub share_process_namespace: bool,
    /// Run in a user namespace of its own (Kubernetes' `hostUsers: false`).
    pub user_namespace: bool,
    /// Owns volumes of the pod that can be owned, and is a supplementary group
    /// of every process.
    pub fs_group: Option<u32>,
    /// When volumes are given to that group.
    pub fs_group_change: FsGroupChange,
    /// Further groups of every process.
    pub supplemental_groups: Vec<u32>,
    /// Kernel settings of the pod's own namespaces.
    pub sysctls: Vec<Sysctl>,
}

impl<Image> PodSpec<Image> {
    /// Kubernetes' default of [`PodSpec::termination_grace_secs`].
    pub const DEFAULT_GRACE_SECS: u32 = 30;

    /// A pod of these containers with nothing else said.
    pub fn new(containers: Vec<ContainerSpec<Image>>) -> Self {
        Self {
            init_containers: Vec::new(),
            containers,
            volumes: Vec::new(),
            restart_policy: RestartPolicy::default(),
            termination_grace_secs: Self::DEFAULT_GRACE_SECS,
            network: Network::default(),
            hostname: None,
            host_aliases: Vec::new(),
            dns: None,
            host_ipc: false,
            host_pid: false,
            share_process_namespace: false,
            user_namespace: false,
            fs_group: None,
            fs_group_change: FsGroupChange::default(),
            supplemental_groups: Vec::new(),
            sysctls: Vec::new(),
        }
    }

    /// All containers in the order in which they start: init containers first.
    /// A container's index is its place in this order.
    pub fn all_containers(&self) -> impl DoubleEndedIterator<Item = &ContainerSpec<Image>> {
        self.init_containers.iter().chain(&self.containers)
    }

    /// The container with this index in [`PodSpec::all_containers`].
    pub fn container(&self, index: usize) -> Option<&ContainerSpec<Image>> {
        match index.checked_sub(self.init_containers.len()) {
            None => self.init_containers.get(index),
            Some(index) => self.containers.get(index),
        }
    }

    /// What the container with this index is in its pod.
    pub fn role(&self, index: usize) -> Role {
        match self.init_containers.get(index) {
            Some(container) if container.sidecar => Role::Sidecar,
            Some(_) => Role::Init,
            None => Role::Main,
        }
    }

    /// The same pod with its images named another way; the first name that
    /// cannot be changed is the error.
    pub fn map_images<Other, E>(
        self,
        mut rename: impl FnMut(Image) -> Result<Other, E>,
    ) -> Result<PodSpec<Other>, E> {
        let mut all = |containers: Vec<ContainerSpec<Image>>| {
            let containers = containers.into_iter();
            containers
                .map(|c| c.map_image(&mut rename))
                .collect::<Result<_, E>>()
        };
        Ok(PodSpec {
            init_containers: all(self.init_containers)?,
            containers: all(self.containers)?,
            volumes: self.volumes,
            restart_policy: self.restart_policy,
            termination_grace_secs: self.termination_grace_secs,
            network: self.network,
            hostname: self.hostname,
            host_aliases: self.host_aliases,
            dns: self.dns,
            host_ipc: self.host_ipc,
            host_pid: self.host_pid,
            share_process_namespace: self.share_process_namespace,
            user_namespace: self.user_namespace,
            fs_group: self.fs_group,
            fs_group_change: self.fs_group_change,
            supplemental_groups: self.supplemental_groups,
            sysctls: self.sysctls,
        })
    }
}

/// When a volume is given to the pod's group: Kubernetes'
/// `fsGroupChangePolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsGroupChange {
    /// Whatever is in it and is not the group's yet, at each start.
    #[default]
    Always,
    /// Only if its root directory is not the group's yet.
    OnRootMismatch,
}

/// What a container is in its pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// What the pod is for.
    #[default]
    Main,
    /// Runs to its end before the main ones.
    Init,
    /// Starts before the main ones and stops after them.
    Sidecar,
}

/// When an ended container starts again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartPolicy {
    /// Whenever it ended.
    #[default]
    Always,
    /// When it ended with a code other than 0 or by a signal.
    OnFailure,
    /// Not at all.
    Never,
}

/// Which network a pod lives in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The device's own (Kubernetes' `hostNetwork: true`).
    #[default]
    Host,
    /// Nothing but a loopback of its own.
    None,
    /// An address of its own on the bridge of its namespace.
    Bridge,
}

/// A line of `/etc/hosts`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostAlias {
    /// The address.
    pub ip: IpAddr,
    /// Its names.
    pub hostnames: Vec<String>,
}

/// What is in `/etc/resolv.conf`. Kubernetes' `dnsPolicy: None` with this
/// `dnsConfig`; an empty list of servers leaves those of the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsConfig {
    /// In place of the default ones, unless empty.
    pub nameservers: Vec<IpAddr>,
    /// In place of the default ones, unless empty.
    pub searches: Vec<String>,
    /// As in resolv.conf(5): `ndots:2`.
    pub options: Vec<String>,
}

/// A kernel setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctl {
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub name: String,
    /// What is written to it.
    pub value: String,
}

/// One container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec<Image = ImageRef> {
    /// Unique in the pod.
    pub name: ContainerName,
    /// What it is made from.
    pub image: Image,
    /// In place of the image's entrypoint, unless empty.
    pub command: Vec<String>,
    /// In place of the image's cmd, unless empty.
    pub args: Vec<String>,
    /// Whole configs and secrets whose files become variables, before those
    /// of `env`.
    pub env_from: Vec<EnvFrom>,
    /// Added to the image's environment; the same name replaces.
    pub env: Vec<EnvVar>,
    /// In place of the image's working directory.
    pub working_dir: Option<String>,
    /// `uid`, `uid:gid`, `name` or `name:group`, in place of the image's user.
    pub user: Option<String>,
    /// What listens inside, and where it is reached from outside.
    pub ports: Vec<Port>,
    /// What it may use, and what is kept for it.
    pub resources: Resources,
    /// Where the pod's volumes appear.
    pub volume_mounts: Vec<VolumeMount>,
    /// An init container with `restartPolicy: Always`: it keeps running beside
    /// what comes after it, and stops after the main containers.
    pub sidecar: bool,
    /// As long as it has not succeeded once, the others are not run.
    pub startup_probe: Option<Box<Probe>>,
    /// When it fails, the container is stopped, and its restart policy counts.
    pub liveness_probe: Option<Box<Probe>>,
    /// Whether the container is ready for its users.
    pub readiness_probe: Option<Box<Probe>>,
    /// Done right after the start; a failure stops the container.
    pub post_start: Option<Box<Hook>>,
    /// Done before the stop signal, within the same grace.
    pub pre_stop: Option<Box<Hook>>,
    /// Number of the signal that tells it to stop, in place of the image's.
    pub stop_signal: Option<u8>,
    /// What it may do beyond or below the usual.
    pub security: Security,
    /// The root file system refuses writes.
    pub read_only_root: bool,
    /// Devices of the host that it may use. Ours.
    pub devices: Vec<DeviceRequest>,
    /// Logs go to the disk instead of memory. Ours.
    pub log_persist: bool,
    /// Bytes of log kept; 0 means the device's default. Ours.
    pub log_max_bytes: u64,
}

impl<Image> ContainerSpec<Image> {
    /// A container of this image with nothing else said.
    pub fn new(name: ContainerName, image: Image) -> Self {
        Self {
            name,
            image,
            command: Vec::new(),
            args: Vec::new(),
            env_from: Vec::new(),
            env: Vec::new(),
            working_dir: None,
            user: None,
            ports: Vec::new(),
            resources: Resources::default(),
            volume_mounts: Vec::new(),
            sidecar: false,
            startup_probe: None,
            liveness_probe: None,
            readiness_probe: None,
            post_start: None,
            pre_stop: None,
            stop_signal: None,
            security: Security::default(),
            read_only_root: false,
            devices: Vec::new(),
            log_persist: false,
            log_max_bytes: 0,
        }
    }

    fn map_image<Other, E>(
        self,
        rename: &mut impl FnMut(Image) -> Result<Other, E>,
    ) -> Result<ContainerSpec<Other>, E> {
        Ok(ContainerSpec {
            image: rename(self.image)?,
            name: self.name,
            command: self.command,
            args: self.args,
            env_from: self.env_from,
            env: self.env,
            working_dir: self.working_dir,
            user: self.user,
            ports: self.ports,
            resources: self.resources,
            volume_mounts: self.volume_mounts,
            sidecar: self.sidecar,
            startup_probe: self.startup_probe,
            liveness_probe: self.liveness_probe,
            readiness_probe: self.readiness_probe,
            post_start: self.post_start,
            pre_stop: self.pre_stop,
            stop_signal: self.stop_signal,
            security: self.security,
            read_only_root: self.read_only_root,
            devices: self.devices,
            log_persist: self.log_persist,
            log_max_bytes: self.log_max_bytes,
        })
    }
}

/// An image: for a person by name, for the machine by digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// What the manifest said, `nginx:1.27`: only shown.
    pub reference: String,
    /// The OCI image manifest of this device's platform.
    pub manifest: Digest,
    /// Bytes of that manifest.
    pub manifest_size: u64,
}

/// A config or secret whose files all become environment variables. Later
/// ones replace the variables of earlier ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvFrom {
    /// Which of the two.
    pub kind: ConfigKind,
    /// Its name, in the app's namespace.
    pub name: ConfigName,
    /// Put before each variable's name.
    pub prefix: String,
    /// Start without it when there is none.
    pub optional: bool,
}

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Without `=`.
    pub name: String,
    /// What it is set to.
    pub value: EnvValue,
}

/// What an environment variable is set to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EnvValue {
    /// Any text.
    Text(String),
    /// A file of a config or secret, as it is when the container starts.
    Config {
        /// Which of the two.
        kind: ConfigKind,
        /// Its name, in the app's namespace.
        name: ConfigName,
        /// The file's name in it.
        key: String,
        /// Leave the variable out when there is none.
        optional: bool,
    },
    /// Something of the pod or its device.
    Field(Field),
}

impl EnvValue {
    /// The text, if it is one that is known from the start.
    pub fn text(&self) -> Option<&str> {
        match self {
            EnvValue::Text(text) => Some(text),
            EnvValue::Config { .. } | EnvValue::Field(_) => None,
        }
    }
}

impl PodSpec {
    /// Whether a container of it is told a label of its device.
    pub fn reads_labels(&self) -> bool {
        let mut values = self.all_containers().flat_map(|one| &one.env);
        values.any(|one| matches!(one.value, EnvValue::Field(Field::DeviceLabel(_))))
    }
}

impl<T: Into<String>> From<T> for EnvValue {
    fn from(text: T) -> Self {
        EnvValue::Text(text.into())
    }
}

/// What a container may be told of itself: Kubernetes' `fieldRef`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Field {
    /// `metadata.name`: the app's name.
    AppName,
    /// `metadata.namespace`.
    Namespace,
    /// `spec.nodeName`: the device's name.
    DeviceName,
    /// `status.podIP`.
    PodIp,
    /// `status.hostIP`.
    HostIp,
    /// `status.podIPs`: all of them, with commas.
    PodIps,
    /// `device.labels['KEY']`, ours: a label of the device; empty if it has none
    /// of this key.
    DeviceLabel(String),
}

/// A port that a container listens on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// What probes and services may call it.
    pub name: Option<String>,
    /// Inside, from 1.
    pub container_port: u16,
    /// The device's port that leads to it, from 1.
    pub host_port: Option<u16>,
    /// At which of the device's addresses; all when absent.
    pub host_ip: Option<IpAddr>,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// A port's protocol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

/// Limits, and what is kept for the container. Absent limits mean unlimited,
/// absent requests mean nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Limit, in thousandths of a cpu, as in Kubernetes' `500m`.
    pub cpu_millis: Option<u32>,
    /// Limit, in bytes.
    pub memory_bytes: Option<u64>,
    /// Limit of processes and threads. Ours.
    pub pids: Option<u32>,
    /// Kept, in thousandths of a cpu: its weight when cpus are scarce.
    pub cpu_request_millis: Option<u32>,
    /// Kept, in bytes: what is not taken away when memory is scarce.
    pub memory_request_bytes: Option<u64>,
    /// Limit of swap besides memory, in bytes; 0 is none. Ours.
    pub swap_bytes: Option<u64>,
    /// The cpus that it may run on, as the kernel writes them: `0-1,3`. Ours.
    pub cpus: Option<String>,
    /// Huge pages that it may use, one entry for each size.
    pub huge_pages: Vec<HugePages>,
    /// Share of the disks' time, from 1 to 1000 with 100 as usual. Ours.
    pub io_weight: Option<u16>,
    /// Resources that devices name themselves: `example.com/camera`.
    pub extended: Vec<ExtendedResource>,
}

/// Huge pages of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Bytes of one page.
    pub page_bytes: u64,
    /// Limit, in bytes.
    pub bytes: u64,
}

/// So many of a resource that the device named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedResource {
    /// `example.com/camera`.
    pub name: String,
    /// How many, from 1.
    pub count: u32,
}

/// What a container may do. The default is Docker's: its capabilities, its
/// seccomp profile, no new privileges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// Everything. Only where the device's own configuration allows it.
    pub privileged: bool,
    /// Let programs gain privileges by setuid and file capabilities. Ours:
    /// Kubernetes' default is true, this is false.
    pub allow_privilege_escalation: bool,
    /// Capabilities besides the usual ones, without `CAP_`; `ALL` is all.
    pub capabilities_add: Vec<String>,
    /// Capabilities taken away, before the above; `ALL` is all.
    pub capabilities_drop: Vec<String>,
    /// Which system calls are refused.
    pub seccomp: Profile,
    /// Which AppArmor profile confines it.
    pub app_armor: Profile,
    /// Show all of `/proc` (Kubernetes' `procMount: Unmasked`).
    pub unmasked_proc: bool,
    /// Do not start it if its user, or the image's, is root.
    pub run_as_non_root: bool,
}

/// A security profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Profile {
    /// The usual one.
    #[default]
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the device, by its name.
    Localhost(String),
}

/// A device of the host that a container uses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Which.
    pub source: DeviceSource,
    /// Its path inside; the same as on the host when absent.
    pub container_path: Option<String>,
    /// Refuse writes.
    pub read_only: bool,
}

/// Which device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeviceSource {
    /// By its path: `/dev/ttyUSB0`.
    Path(String),
    /// By what it is: `usb:0403:6001`, vendor and product.
    Match(String),
    /// By the name that a CDI file of the device gives it:
    /// `vendor.com/gpu=0`.
    Cdi(String),
}

/// A volume of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// What mounts refer to.
    pub name: String,
    /// What it is.
    pub source: VolumeSource,
}

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeSource {
    /// A directory or file of the device.
    HostPath {
        /// Absolute.
        path: String,
        /// What it has to be.
        kind: HostPathKind,
    },
    /// Kept by the device across restarts, updates and reboots, shared by the
    /// apps of a namespace that name it.
    Named {
        /// Unique in the namespace.
        claim: String,
        /// Most bytes in it, where the device's file system can limit that.
        size_limit_bytes: Option<u64>,
    },
    /// Empty at each start of the pod, gone with it.
    EmptyDir {
        /// In memory (a tmpfs) instead of on the disk.
        memory: bool,
        /// Most bytes in it.
        size_limit_bytes: Option<u64>,
    },
    /// The files of a config or secret; changed files appear all at once,
    /// without a restart.
    Config {
        /// Which of the two.
        kind: ConfigKind,
        /// Its name, in the app's namespace.
        name: ConfigName,
        /// Only these files; all under their own names when empty.
        items: Vec<KeyToPath>,
        /// Permission bits of the files, unless an item says otherwise.
        mode: u16,
        /// Start without it when there is none.
        optional: bool,
    },
}

/// Where a file of a config appears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyToPath {
    /// The file's name in the config.
    pub key: String,
    /// Relative path in the volume, without `..`.
    pub path: String,
    /// Permission bits; the volume's when absent.
    pub mode: Option<u16>,
}

/// What a host path has to be: Kubernetes' `hostPath.type`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostPathKind {
    /// Whatever is there.
    #[default]
    Any,
    /// A directory, made when missing.
    DirectoryOrCreate,
    /// A directory.
    Directory,
    /// A file, made when missing.
    FileOrCreate,
    /// A file.
    File,
    /// A Unix socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

/// Where a volume appears in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeMount {
    /// The volume's name.
    pub volume: String,
    /// Absolute path inside.
    pub mount_path: String,
    /// Refuse writes.
    pub read_only: bool,
    /// A file or directory in the volume that appears instead of all of it:
    /// relative, without `..`. A directory is made when nothing is there.
    pub sub_path: Option<SubPath>,
}

/// A path in a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SubPath {
    /// This one.
    Plain(String),
    /// With `$(NAME)` for variables of the container that are to be put in:
    /// Kubernetes' `subPathExpr`.
    Expr(String),
}
