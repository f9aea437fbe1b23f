//! What a container may do, and which devices it may open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{SpecError, at_most, check_path, check_text};

/// Most devices of one container.
pub const MAX_DEVICES: usize = 64;
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

/// A device node of the host that a container may open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// A character or block device on the host; a link to one is followed.
    pub source: PathBuf,
    /// Absolute path inside, below `/dev`.
    pub target: String,
    /// Refuse writes.
    pub read_only: bool,
}

impl Device {
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
