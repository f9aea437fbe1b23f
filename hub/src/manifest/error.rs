//! What is wrong with a manifest, where, and what to do about it.

use std::fmt;

/// One error of one file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    /// As the operator knows it.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1, in characters.
    pub column: u32,
    /// `spec.template.spec.containers[0].image`; empty when it is about the
    /// whole file or its syntax.
    pub field: String,
    /// What is wrong.
    pub message: String,
    /// What to do: never empty.
    pub remedy: String,
}

impl ManifestError {
    pub(super) fn at_start(file: &str, message: String, remedy: &str) -> Self {
        Self {
            file: file.into(),
            line: 1,
            column: 1,
            field: String::new(),
            message,
            remedy: remedy.into(),
        }
    }
}

/// `web.yaml:12:9: spec.template.spec: unknown field 'volume': did you mean 'volumes'?`
impl fmt::Display for ManifestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}: {}", self.message, self.remedy)
    }
}

/// One sentence for all of them: the first, and how many more there are.
pub fn summary(errors: &[ManifestError]) -> String {
    match errors {
        [] => "no error".into(),
        [one] => one.to_string(),
        [first, rest @ ..] => format!("{first} (and {} more)", rest.len()),
    }
}
