//! What went wrong, said so that an operator knows what to do.

use super::output::Out;
use crate::api::types::ApiError;
use crate::chain::chain;
use std::error::Error;
use std::io;
use std::process::ExitCode;

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// The words on the command line make no sense together.
    #[error("{0}")]
    Usage(String),
    /// Nobody answers there.
    #[error(
        "cannot reach the hub at {url}: {problem}; start it with 'skerry hub' or name another with --hub"
    )]
    Unreachable {
        /// Where we looked.
        url: String,
        /// What came instead of an answer.
        problem: String,
    },
    /// The hub said no.
    #[error("{}", .error.message)]
    Refused {
        /// The answer's HTTP status.
        status: u16,
        /// What it said.
        error: ApiError,
    },
    /// The hub's answer makes no sense to us.
    #[error(
        "the hub at {url} gave an answer that this skerry does not understand ({problem}); use the hub's own version"
    )]
    Answer {
        /// Whose answer.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A file could not be read or written.
    #[error("cannot {what}: {source}")]
    Io {
        /// `read web.yaml`.
        what: String,
        /// Why not.
        source: io::Error,
    },
    /// Anything else, with its remedy.
    #[error("{message}; {remedy}")]
    Failed {
        /// What went wrong.
        message: String,
        /// What to do.
        remedy: String,
    },
    /// A whole sentence, remedy included, in somebody else's words.
    #[error("{0}")]
    Told(String),
    /// A whole sentence, and the exit code that scripts know it by.
    #[error("{message}")]
    ToldAs {
        /// The sentence.
        message: String,
        /// The exit code.
        code: u8,
    },
    /// Whoever read our output has gone: nothing to say, nobody to say it to.
    #[error("output closed")]
    Closed,
    /// All was said; this is the exit code.
    #[error("exit code {0}")]
    Exit(u8),
}

/// An error of a part of ours, with its causes.
pub(super) fn told(error: impl Error) -> CliError {
    CliError::Told(chain(&error))
}

impl CliError {
    pub(super) fn failed(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        CliError::Failed {
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        CliError::Io {
            what: what.into(),
            source,
        }
    }

    /// Whether the hub said that the thing is not there.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, CliError::Refused { status: 404, .. })
    }

    /// Says it on stderr and gives the exit code; `failed` is that of failing.
    pub(super) fn report(&self, out: &mut Out, failed: u8) -> ExitCode {
        match self {
            CliError::Usage(_) => {
                out.error(&self.to_string());
                ExitCode::from(2)
            }
            // As a shell shows it for a process that SIGPIPE ended.
            CliError::Closed => ExitCode::from(141),
            CliError::Exit(code) => ExitCode::from(*code),
            CliError::ToldAs { code, .. } => {
                out.error(&self.to_string());
                ExitCode::from(*code)
            }
            CliError::Refused { error, .. } if !error.details.is_empty() => {
                for line in details(error) {
                    out.error(&line);
                }
                ExitCode::from(failed)
            }
            _ => {
                out.error(&self.to_string());
                ExitCode::from(failed)
            }
        }
    }
}

/// One text for each mistake: its place and message, and the remedy below.
fn details(error: &ApiError) -> Vec<String> {
    let one = |detail: &crate::api::types::ErrorDetail| {
        let mut text = String::new();
        if let Some(file) = &detail.file {
            text.push_str(file);
            for number in [detail.line, detail.column].into_iter().flatten() {
                text.push_str(&format!(":{number}"));
            }
            text.push_str(": ");
        }
        if let Some(field) = detail.field.as_ref().filter(|f| !f.is_empty()) {
            text.push_str(&format!("{field}: "));
        }
        text.push_str(&detail.message);
        if let Some(remedy) = detail.remedy.as_ref().filter(|r| !r.is_empty()) {
            text.push_str(&format!("\n       {remedy}"));
        }
        text
    };
    error.details.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ErrorDetail;

    #[test]
    fn errors_of_a_manifest_have_place_and_remedy() {
        let error = ApiError {
            reason: "InvalidManifest".into(),
            message: "1 error".into(),
            details: vec![ErrorDetail {
                file: Some("web.yaml".into()),
                line: Some(12),
                column: Some(9),
                field: Some("spec.template".into()),
                message: "unknown field".into(),
                remedy: Some("did you mean 'x'?".into()),
            }],
        };
        assert_eq!(
            details(&error),
            ["web.yaml:12:9: spec.template: unknown field\n       did you mean 'x'?"]
        );
    }
}
