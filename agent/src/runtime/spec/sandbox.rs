//! Namespaces that the containers of a pod share.

use serde::{Deserialize, Serialize};

use super::check::at_most;
use super::{ContainerId, SpecError};

/// Most kernel settings of one sandbox.
pub const MAX_SYSCTLS: usize = 64;
/// Longest value of a kernel setting in bytes; the longest in use are lists of
/// ports.
const MAX_SYSCTL_VALUE: usize = 1024;

/// User and group ids of one user namespace.
pub const USERS: u32 = 65_536;

/// Namespaces that several containers share: always IPC, the network and the
/// process namespace as told. They live until the sandbox is removed or the
/// keeper ends, over restarts of all containers in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Its name, unique on the device; not that of a container.
    pub id: ContainerId,
    /// A network namespace of its own, with nothing but `lo` in it, that is up.
    pub own_network: bool,
    /// One process namespace for all: its first process is one of ours.
    pub share_pid: bool,
    /// Kernel settings of these namespaces, `net.ipv4.ip_forward` to `1`.
    pub sysctls: Vec<(String, String)>,
    /// A user namespace of its own, whose [`USERS`] ids are these and the
    /// following ones on the host. It needs a network of its own: the host's
    /// belongs to the host's root.
    pub first_user: Option<u32>,
}

impl SandboxSpec {
    /// Checks every bound that can be checked without touching the machine.
    pub fn validate(&self) -> Result<(), SpecError> {
        if let Some(first) = self.first_user
            && (first < USERS || first.checked_add(USERS).is_none() || !self.own_network)
        {
            return Err(SpecError::Users { first });
        }
        at_most("kernel settings", self.sysctls.len(), MAX_SYSCTLS)?;
        for (name, value) in &self.sysctls {
            let refuse = |reason| SpecError::Sysctl {
                name: name.chars().take(128).collect(),
                reason,
            };
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if !name.bytes().all(plain) || name.contains("..") {
                return Err(refuse("that is no name of a setting"));
            }
            if value.len() > MAX_SYSCTL_VALUE || value.contains('\0') {
                return Err(refuse("its value is too long or has a NUL byte"));
            }
            let ipc = ["kernel.msg", "kernel.shm", "fs.mqueue."];
            let of_ipc = ipc.iter().any(|begin| name.starts_with(begin)) || name == "kernel.sem";
            if name.starts_with("net.") && !self.own_network {
                return Err(refuse(
                    "it would change the device's own network; give the app one of its own",
                ));
            }
            if !of_ipc && !name.starts_with("net.") {
                return Err(refuse(
                    "it would change the whole device; those of a pod are net.*, kernel.msg*, \
                     kernel.sem, kernel.shm* and fs.mqueue.*",
                ));
            }
        }
        Ok(())
    }
}

/// Which network a container lives in. Grows at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Network {
    /// The host's.
    #[default]
    Host,
    /// That of its sandbox.
    Sandbox,
}

/// Whose IPC or process namespace a container lives in. Grows at its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sharing {
    /// One of its own.
    #[default]
    Own,
    /// The host's. The caller has asked the device's configuration whether
    /// this is allowed.
    Host,
    /// That of its sandbox.
    Sandbox,
}
