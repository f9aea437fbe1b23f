//! What a device shall run. The hub resolves everything first (names of images
//! to digests of this device's platform, volumes to kinds), so a device needs
//! nobody to understand its desired state.

use crate::id::{AppRef, ContainerName, Digest, Generation, RevisionId};
use crate::update::UpdateOrder;
use serde::{Deserialize, Serialize};

/// All that one device shall run, whole: what is not in it shall stop.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// Only rises; see [`Generation`].
    pub generation: Generation,
    /// At most [`Desired::MAX_ASSIGNMENTS`], ordered by app, each app once.
    pub assignments: Vec<Assignment>,
    /// Changes of the device itself, at most one of each kind.
    pub updates: Vec<UpdateOrder>,
}

impl Desired {
    /// More apps than any device of ours can hold.
    pub const MAX_ASSIGNMENTS: usize = 512;
    /// Longest encoded desired state, in bytes: 512 apps of 4 KiB.
    pub const MAX_BYTES: usize = 2 * 1024 * 1024;
}

/// One message's share of an encoded [`Desired`]. Nearly always the only one;
/// a state longer than [`DesiredPart::MAX_BYTES`] comes in several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredPart {
    /// The generation that the whole has.
    pub generation: Generation,
    /// The digest of the whole: parts of different wholes never mix.
    pub whole: Digest,
    /// From 0.
    pub index: u16,
    /// How many parts there are, at least 1.
    pub count: u16,
    /// This part's bytes.
    pub bytes: Vec<u8>,
}

impl DesiredPart {
    /// Bytes in one part: a message stays under the 128 KiB that hosted
    /// brokers allow.
    pub const MAX_BYTES: usize = 96 * 1024;

    /// Cuts an encoded desired state into parts.
    pub fn split(generation: Generation, encoded: &[u8]) -> Vec<DesiredPart> {
        let whole = Digest::of(encoded);
        let chunks: Vec<&[u8]> = encoded.chunks(Self::MAX_BYTES).collect();
        let count = chunks.len() as u16;
        let part = |(index, bytes): (usize, &&[u8])| DesiredPart {
            generation,
            whole,
            index: index as u16,
            count,
            bytes: bytes.to_vec(),
        };
        chunks.iter().enumerate().map(part).collect()
    }
}

/// This device runs this revision of this app.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Which app.
    pub app: AppRef,
    /// Which version of it.
    pub revision: RevisionId,
    /// What to run.
    pub pod: PodSpec,
}

/// Containers that belong together on one device. Field names follow
/// Kubernetes' PodSpec. `Image` is how images are named: a text in a manifest,
/// an [`ImageRef`] on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec<Image = ImageRef> {
    /// At least one, names unique.
    pub containers: Vec<ContainerSpec<Image>>,
    /// What the containers' mounts refer to by name.
    pub volumes: Vec<Volume>,
    /// When an ended container starts again.
    pub restart_policy: RestartPolicy,
    /// Seconds between the stop signal and the kill.
    pub termination_grace_secs: u32,
    /// The host name inside; the device's own when absent.
    pub hostname: Option<String>,
}

impl<Image> PodSpec<Image> {
    /// The same pod with its images named another way; the first name that
    /// cannot be changed is the error.
    pub fn map_images<Other, E>(
        self,
        mut rename: impl FnMut(Image) -> Result<Other, E>,
    ) -> Result<PodSpec<Other>, E> {
        let containers = self.containers.into_iter().map(|c| {
            Ok(ContainerSpec {
                image: rename(c.image)?,
                name: c.name,
                command: c.command,
                args: c.args,
                env: c.env,
                working_dir: c.working_dir,
                user: c.user,
                resources: c.resources,
                volume_mounts: c.volume_mounts,
                read_only_root: c.read_only_root,
                log_persist: c.log_persist,
                log_max_bytes: c.log_max_bytes,
            })
        });
        Ok(PodSpec {
            containers: containers.collect::<Result<_, E>>()?,
            volumes: self.volumes,
            restart_policy: self.restart_policy,
            termination_grace_secs: self.termination_grace_secs,
            hostname: self.hostname,
        })
    }
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
    /// Added to the image's environment; the same name replaces.
    pub env: Vec<EnvVar>,
    /// In place of the image's working directory.
    pub working_dir: Option<String>,
    /// `uid`, `uid:gid`, `name` or `name:group`, in place of the image's user.
    pub user: Option<String>,
    /// What it may use.
    pub resources: Resources,
    /// Where the pod's volumes appear.
    pub volume_mounts: Vec<VolumeMount>,
    /// The root file system refuses writes.
    pub read_only_root: bool,
    /// Logs go to the disk instead of memory.
    pub log_persist: bool,
    /// Bytes of log kept; 0 means the device's default.
    pub log_max_bytes: u64,
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

/// One environment variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvVar {
    /// Without `=`.
    pub name: String,
    /// Any text.
    pub value: String,
}

/// Limits; absent means unlimited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Thousandths of a cpu, as in Kubernetes' `500m`.
    pub cpu_millis: Option<u32>,
    /// Bytes.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
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
        /// Make the directory when it is missing (Kubernetes'
        /// `DirectoryOrCreate`).
        create: bool,
    },
    /// Kept by the device across restarts, updates and reboots, shared by the
    /// apps of a namespace that name it.
    Named {
        /// Unique in the namespace.
        claim: String,
    },
    /// Empty at each start of the pod, gone with it.
    EmptyDir,
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
}
