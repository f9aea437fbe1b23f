//! What a container may do, and which devices it may open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::check::{at_most, check_path, check_text};

/// Most devices of one container: a board with several graphics cards has about
/// a hundred nodes for them.
pub const MAX_DEVICES: usize = 256;
/// Most names of capabilities in one list: there are 41.
const MAX_CAPABILITIES: usize = 64;

/// What a container may do. The default is Docker's default container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// All capabilities, all devices, no seccomp filter, nothing masked. The
    /// caller has asked the device's configuration whether this is allowed.
    pub privileged: bool,
    /// Let programs gain privileges by setuid and file capabilities.
    pub allow_privilege_escalation: bool,
    /// Besides the usual capabilities, without `CAP_`; `ALL` is all.
    pub capabilities_add: Vec<String>,
    /// Taken away before the above are added; `ALL` is all.
    pub capabilities_drop: Vec<String>,
    /// No seccomp filter.
    pub seccomp_unconfined: bool,
    /// Name of an AppArmor profile that the kernel has loaded; `unconfined` is
    /// none, absent is the usual one if it is loaded.
    pub app_armor: Option<String>,
    /// Nothing in `/proc` is masked or read-only.
    pub unmasked_proc: bool,
}

impl Security {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        for names in [&self.capabilities_add, &self.capabilities_drop] {
            at_most("capabilities", names.len(), MAX_CAPABILITIES)?;
            for name in names {
                if name != "ALL" && capability(name).is_none() {
                    let name = name.chars().take(64).collect();
                    return Err(SpecError::Capability { name });
                }
            }
        }
        match &self.app_armor {
            Some(profile) => check_text("AppArmor profile", profile),
            None => Ok(()),
        }
    }
}

/// A capability by its name with or without `CAP_`, in capitals.
pub fn capability(name: &str) -> Option<oci_spec::runtime::Capability> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    // The names in the specification are those of the kernel.
    let full = serde_json::Value::String(format!("CAP_{name}"));
    serde_json::from_value(full).ok()
}

/// What may be done with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// All.
    ReadWrite,
    /// Reading.
    Read,
    /// Writing.
    Write,
    /// Its node is there, and cannot be opened.
    None,
}

impl Access {
    /// Of what is allowed.
    pub fn of(read: bool, write: bool) -> Self {
        match (read, write) {
            (true, true) => Access::ReadWrite,
            (true, false) => Access::Read,
            (false, true) => Access::Write,
            (false, false) => Access::None,
        }
    }

    /// Whether reading is allowed.
    pub fn reads(self) -> bool {
        matches!(self, Access::ReadWrite | Access::Read)
    }

    /// Whether writing is allowed.
    pub fn writes(self) -> bool {
        matches!(self, Access::ReadWrite | Access::Write)
    }
}

/// Whose the node inside is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owner {
    /// As on the host.
    Host,
    /// These; what is not said is the container's user or group, or as on the
    /// host where that is root: what CDI wants.
    Said {
        /// User id inside.
        uid: Option<u32>,
        /// Group id inside.
        gid: Option<u32>,
    },
}

/// A device node of the host that a container may open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// A character or block device on the host; a link to one is followed.
    pub source: PathBuf,
    /// Absolute path inside, below `/dev`.
    pub target: String,
    /// What is allowed.
    pub access: Access,
    /// Permissions of the node inside; absent is those of the host's.
    pub mode: Option<u32>,
    /// Its owner.
    pub owner: Owner,
}

impl Device {
    /// One with permissions and owner of the host's node.
    pub fn new(source: impl Into<PathBuf>, target: impl Into<String>, read_only: bool) -> Self {
        Self {
            source: source.into(),
            target: target.into(),
            access: Access::of(true, !read_only),
            mode: None,
            owner: Owner::Host,
        }
    }

    pub(super) fn validate(&self) -> Result<(), SpecError> {
        check_path("device", &self.source.to_string_lossy())?;
        check_path("device path inside", &self.target)?;
        // The rest of the root file system may be read-only, and belongs to
        // the image.
        if !self.target.starts_with("/dev/") || self.target.ends_with('/') {
            let target = self.target.clone();
            return Err(SpecError::DeviceTarget { target });
        }
        super::check_target(&self.target)
    }
}
