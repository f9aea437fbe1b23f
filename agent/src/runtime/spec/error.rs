//! Why a specification is refused.

use super::bounds::MAX_NAME;
use super::sandbox::USERS;
use std::path::PathBuf;

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
    /// A mount from elsewhere than it says.
    #[error("the mount of {} is not from below {}", source_path.display(), dir.display())]
    NotBeneath {
        /// What is mounted.
        source_path: PathBuf,
        /// Where it must be.
        dir: PathBuf,
    },
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
