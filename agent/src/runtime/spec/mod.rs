//! What a container is, in plain values: what the engine hands to the runtime.
//!
//! These types travel from the agent to the keeper and on to a helper (see
//! [`proto`](super::proto)), which may be of an older release than the agent.
//! A released struct is therefore frozen; growth is a new request variant.
//! Enums grow at their end only.

mod bounds;
mod check;
mod container;
mod error;
mod hook;
mod limits;
mod sandbox;
mod security;
mod status;
#[cfg(test)]
pub(super) mod tests;

pub use bounds::{MAX_HOSTNAME, MAX_LAYERS, MAX_NAME};
pub(super) use check::check_name;
pub use check::check_target;
pub use container::{ContainerId, ContainerSpec, ExecSpec, LogPolicy, Mount, Tmpfs};
pub use error::SpecError;
pub use hook::{Hook, HookStage, MAX_HOOK_SECS};
pub use limits::Resources;
pub use sandbox::{Network, SandboxSpec, Sharing, USERS};
pub use security::{Access, Device, Owner, Security, capability};
pub use status::{ContainerState, Exit, ExitStatus, Status, Timestamp};
