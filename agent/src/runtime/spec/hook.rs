//! Programs of the device that run while a container is made and taken down.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::bounds::MAX_WORDS;
use super::check::{at_most, check_path, check_text};

/// Most hooks of one container: a graphics card needs about six.
pub const MAX_HOOKS: usize = 64;
/// Longest time a hook may be given, in seconds: what one start of a container
/// may take for all of them.
pub const MAX_HOOK_SECS: u32 = 90;

/// When a hook runs, and where: OCI runtime specification, POSIX-platform
/// hooks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HookStage {
    /// As `CreateRuntime`, and before it: its older name.
    Prestart,
    /// On the device, when the namespaces are there.
    CreateRuntime,
    /// In the container's namespaces, with the device's files still in sight.
    CreateContainer,
    /// In the container, as its user, before its program.
    StartContainer,
    /// On the device, after the program was started.
    Poststart,
    /// On the device, after the last process is gone.
    Poststop,
}

impl HookStage {
    /// All of them, in their order.
    pub const ALL: [HookStage; 6] = [
        HookStage::Prestart,
        HookStage::CreateRuntime,
        HookStage::CreateContainer,
        HookStage::StartContainer,
        HookStage::Poststart,
        HookStage::Poststop,
    ];

    /// As the specification writes it.
    pub fn name(self) -> &'static str {
        match self {
            HookStage::Prestart => "prestart",
            HookStage::CreateRuntime => "createRuntime",
            HookStage::CreateContainer => "createContainer",
            HookStage::StartContainer => "startContainer",
            HookStage::Poststart => "poststart",
            HookStage::Poststop => "poststop",
        }
    }
}

/// One program. It gets the container's state (OCI, JSON) on standard input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// When and where.
    pub stage: HookStage,
    /// Absolute.
    pub path: PathBuf,
    /// Its words, the name that it is called by first.
    pub args: Vec<String>,
    /// Its environment, all of it: `NAME=value`.
    pub env: Vec<String>,
    /// How long it may take, from 1 to [`MAX_HOOK_SECS`]; absent is the usual
    /// time.
    pub timeout_secs: Option<u32>,
    /// The file of the device that names it, for whoever has to mend it.
    pub file: PathBuf,
}

impl Hook {
    pub(super) fn validate(&self) -> Result<(), SpecError> {
        check_path("hook", &self.path.to_string_lossy())?;
        at_most("arguments of a hook", self.args.len(), MAX_WORDS)?;
        at_most("variables of a hook", self.env.len(), MAX_WORDS)?;
        let mut words = self.args.iter().chain(&self.env);
        words.try_for_each(|word| check_text("word of a hook", word))
    }
}
