//! What documents and messages tell an operator to type is there.

use clap::error::ErrorKind;
use clap::{CommandFactory, error::ContextKind, error::ContextValue};
use skerry_hub::cli::Cli;
use skerry_test_documents::{Named, commands};

/// What stands for a value that the reader has: NAME, {}, 'skerry rollout
/// undo {subject}'.
fn is_placeholder(value: &str) -> bool {
    let is_name = |c: char| c.is_ascii_uppercase() || matches!(c, '_' | '-');
    value.contains('{') || value.chars().all(is_name)
}

fn fault(named: &Named) -> Option<String> {
    let mut words = named.words.clone();
    if !named.is_whole {
        // What is still to be put in: the rest is as good as what stands before.
        let is_open = |word: &String| word.contains('{') || word == "VERB";
        let open = words.iter().position(is_open);
        words.truncate(open.unwrap_or(words.len()));
    }
    let error = Cli::command().try_get_matches_from(&words).err()?;
    let value = match error.get(ContextKind::InvalidValue) {
        Some(ContextValue::String(value)) => value.as_str(),
        _ => "",
    };
    let is_fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            is_placeholder(value) && (!value.is_empty() || !named.is_whole)
        }
        // Only spoken of: `skerry flash` needs no image to be.
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !named.is_whole,
        _ => false,
    };
    (!is_fine).then(|| format!("{}: {}: {error}", named.at, named.words.join(" ")))
}

#[test]
fn every_command_that_is_named_is_one() {
    let faults: Vec<String> = commands("skerry").iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn one_that_is_not_there_is_found() {
    for (line, is_whole) in [
        ("skerry frobnicate", false),
        ("skerry flash --to-the-moon", false),
        ("skerry get devices -o paper", false),
        ("skerry logs", true),
    ] {
        let words = line.split(' ').map(Into::into).collect();
        let at = "here:1".into();
        let named = Named {
            at,
            words,
            is_whole,
        };
        assert!(fault(&named).is_some(), "{line}");
    }
}
