//! What goes wrong in a helper, as it is told to the keeper.

use crate::chain::chain;
use crate::runtime::proto::FailureKind;
use std::error::Error;

/// What goes wrong in a helper, as it is told to the keeper.
#[derive(Debug)]
pub(super) struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(FailureKind::Failed, plain(chain(&error)))
    }
}

/// What libcontainer puts before and after what our executor says.
const AROUND_OUR_WORDS: [&str; 2] = ["error in executing process : ", ". error during cleanup: "];

/// Of a program that cannot be run, our own words alone. What libcontainer
/// could not clean up at once is cleaned up by us.
fn plain(text: String) -> String {
    let [before, after] = AROUND_OUR_WORDS;
    match text.split_once(before) {
        Some((_, ours)) if ours.starts_with("program ") => {
            let end = ours.find(after).unwrap_or(ours.len());
            ours[..end].to_owned()
        }
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_program_that_cannot_be_run_our_own_words_are_told() {
        let around = "failed to create container: exec process failed with error error in \
                      executing process : program \"x\" is not in the image, or not in its PATH";
        let ours = "program \"x\" is not in the image, or not in its PATH";
        assert_eq!(plain(around.into()), ours);
        let more = format!("{around}. error during cleanup: failed to cleanup container: io error");
        assert_eq!(plain(more), ours);
        assert_eq!(plain("no space left".into()), "no space left");
    }
}
