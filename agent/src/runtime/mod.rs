//! Running containers: everything between "run this" and the kernel.
//!
//! Three processes of one binary share the work:
//!
//! - the agent holds a [`Runtime`], an async handle that asks and listens;
//! - the [`keeper`] (one per device, tiny, outlives the agent) is the
//!   containers' parent: it writes logs, reaps, and records ends;
//! - a [`helper`] (one per operation, short-lived, single-threaded) is where
//!   libcontainer runs.
//!
//! What holds: a container's life depends on the keeper only. Its end is
//! recorded in a file before anyone is told, and that file is on the disk at
//! most a second later unless the engine has committed the end itself. Nothing of a container is left after
//! [`Runtime::remove`], whoever crashed before; and nothing is ever mounted in
//! the host's own mount namespace.
//!
//! Needs Linux 5.12 (mount_setattr, which libcontainer uses too), overlayfs,
//! seccomp, and cgroups v1 or v2 at `/sys/fs/cgroup`.

mod apparmor;
mod beneath;
mod cgroup;
mod devices;
mod exe;
mod executor;
mod exits;
mod find;
mod guard;
mod handle;
pub mod helper;
pub mod hooks;
pub mod host_path;
pub mod keeper;
mod limits;
mod link;
mod logs;
mod nodes;
mod oci;
mod paths;
mod proto;
mod rootfs;
mod sandbox;
mod seccomp;
mod seqpacket;
mod session;
mod spec;
mod stage;
pub mod stamps;
mod sub_path;
mod teardown;
mod trust;
mod usage;
mod user;
mod users;

pub use apparmor::{
    DEFAULT_PROFILE as DEFAULT_APP_ARMOR, UNCONFINED as NO_APP_ARMOR,
    confines as app_armor_confines, mode_of as app_armor_mode,
};
pub use find::find_devices;
pub use guard::apps_memory;
pub use handle::{
    Events, Runtime, RuntimeConfig, RuntimeError, RuntimeEvent, Sandbox, Started, launch_ahead,
};
pub use logs::{
    Earlier, LogCursor, LogEntry, LogError, LogItem, LogReader, LogStart, Section, StartMark,
    Stream,
};
pub use nix::sys::signal::Signal;
pub use proto::FailureKind;
pub use session::{ExecInput, ExecOutput, ExecSession};
pub use spec::{
    Access, ContainerId, ContainerSpec, ContainerState, Device, ExecSpec, Exit, ExitStatus, Hook,
    HookStage, LogPolicy, MAX_HOOK_SECS, MAX_LAYERS, MAX_NAME, Mount, Network, Owner, Resources,
    SandboxSpec, Security, Sharing, SpecError, Status, Timestamp, Tmpfs, USERS,
};
pub use trust::only_root_writes;
pub use usage::{Pressure, Usage};
