//! What a diagnosis of a device found, and the exact line that mends it.

use serde::{Deserialize, Serialize};

/// The outcome of one diagnosis.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The name of the condition that this would be, CamelCase, said of the
    /// trouble: `NoMemoryLimits`.
    pub kind: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found: a sentence for people.
    pub text: String,
    /// What to type on the device, or to do there; empty when nothing.
    pub remedy: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but less well.
    Poor,
    /// It does not work.
    Bad,
    /// This machine does not tell.
    Unknown,
}

impl Finding {
    /// Findings that a hub takes from one device; there are fewer diagnoses.
    pub const MAX: usize = 64;

    /// All is well.
    pub fn good(kind: &str, text: impl Into<String>) -> Self {
        Self::new(kind, Verdict::Good, text, "")
    }

    /// It cannot be told here, which is no trouble.
    pub fn unknown(kind: &str, text: impl Into<String>) -> Self {
        Self::new(kind, Verdict::Unknown, text, "")
    }

    /// Any verdict.
    pub fn new(
        kind: &str,
        verdict: Verdict,
        text: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            kind: kind.into(),
            verdict,
            text: text.into(),
            remedy: remedy.into(),
        }
    }
}
