//! The commands that documents and messages of this repository name, so that a
//! program's own grammar can be asked whether there are such verbs and flags.
//!
//! Taken from documents (`.md`): blocks of code and words between backquotes;
//! from sources: what messages have between single quotes, `'skerry status'`.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};

/// Documents and directories of them, below the repository.
const DOCUMENTS: [&str; 4] = ["README.md", "SECURITY.md", "CHANGELOG.md", "docs"];
/// Where messages are.
const SOURCES: [&str; 4] = ["hub/src", "agent/src", "wire/src", "cross/tar"];
/// Written to be true on their day.
const OF_THEIR_DAY: &str = "docs/decisions";

/// A command as somebody reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// File and line.
    pub at: String,
    /// The program and its arguments; of `get apps|devices` one of each.
    pub words: Vec<String>,
    /// To be typed as it stands: a line of a block of code. Others are only
    /// spoken of, and may leave out what they need.
    pub is_whole: bool,
}

/// All commands of this program, such as `skerry`.
///
/// # Panics
///
/// Where files cannot be read.
pub fn commands(program: &str) -> Vec<Named> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = Vec::new();
    for (places, kind) in [(DOCUMENTS, Kind::Document), (SOURCES, Kind::Source)] {
        for place in places {
            for path in files(&root.join(place)) {
                let name = path.strip_prefix(&root).unwrap_or(&path);
                if name.starts_with(OF_THEIR_DAY) {
                    continue;
                }
                let text = fs::read_to_string(&path)
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                found.extend(named(program, &name.display().to_string(), &text, kind));
            }
        }
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Document,
    Source,
}

fn files(place: &Path) -> Vec<PathBuf> {
    if place.is_file() {
        return vec![place.to_owned()];
    }
    let entries =
        fs::read_dir(place).unwrap_or_else(|error| panic!("{}: {error}", place.display()));
    let mut inside: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    inside.sort();
    let is_read = |path: &PathBuf| {
        let name = path.extension().and_then(|name| name.to_str());
        path.is_dir() || matches!(name, Some("md" | "rs" | "sh"))
    };
    inside
        .iter()
        .filter(|path| is_read(path))
        .flat_map(|path| files(path))
        .collect()
}

fn named(program: &str, name: &str, text: &str, kind: Kind) -> Vec<Named> {
    let mut found = Vec::new();
    let mut add = |line: usize, text: &str, is_whole: bool| {
        for words in shell_words(text) {
            let words: Vec<String> = words
                .into_iter()
                .skip_while(|word| is_before(word))
                .collect();
            if words.first().is_some_and(|word| word == program) {
                let at = format!("{name}:{line}");
                found.push(Named {
                    at,
                    words,
                    is_whole,
                });
            }
        }
    };
    let mut fenced = false;
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        let number = index + 1;
        if kind == Kind::Source {
            quoted(line, '\'').for_each(|text| add(number, text, false));
            continue;
        }
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if !fenced && !line.starts_with("    ") {
            quoted(line, '`').for_each(|text| add(number, &text.replace("\\|", "|"), false));
            continue;
        }
        let mut whole = line.to_owned();
        while whole.ends_with('\\') {
            whole.pop();
            let Some((_, next)) = lines.next() else { break };
            whole.push_str(next);
        }
        add(number, &whole, true);
    }
    found
}

/// What stands between two of these marks.
fn quoted(line: &str, mark: char) -> impl Iterator<Item = &str> {
    line.split(mark).skip(1).step_by(2)
}

/// Of a line, before its command.
fn is_before(word: &str) -> bool {
    let is_variable = word.split_once('=').is_some_and(|(name, _)| {
        name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_') && !name.is_empty()
    });
    matches!(word, "$" | "#" | "sudo" | "-E") || is_variable
}

/// The commands of a line, in their words, as a shell takes it apart; of
/// `a|b` one command for each.
fn shell_words(line: &str) -> Vec<Vec<String>> {
    let mut commands = vec![Vec::new()];
    let mut word = String::new();
    let (mut quote, mut is_word) = (None, false);
    let mut rest = line.chars().peekable();
    while let Some(c) = rest.next() {
        match (quote, c) {
            (Some(mark), c) if c == mark => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, is_word) = (Some(c), true),
            (None, '#') if !is_word => break,
            (None, '<' | '>' | ';' | '&') => break,
            // Between commands, not between words of one.
            (None, '|') if !is_word || rest.peek().is_none_or(|c| c.is_whitespace()) => break,
            (None, c) if c.is_whitespace() => {
                if std::mem::take(&mut is_word) {
                    add_word(&mut commands, &std::mem::take(&mut word));
                }
            }
            (None, c) => {
                word.push(c);
                is_word = true;
            }
        }
    }
    if is_word {
        add_word(&mut commands, &word);
    }
    commands
}

fn add_word(commands: &mut Vec<Vec<String>>, word: &str) {
    // "and so on"
    if matches!(word, "..." | "…") {
        return;
    }
    let before = std::mem::take(commands);
    for word in word.split('|') {
        commands.extend(before.iter().map(|words| {
            let mut words = words.clone();
            words.push(word.to_owned());
            words
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<(String, bool)> {
        let found = named("skerry", "x.md", text, Kind::Document);
        found
            .into_iter()
            .map(|n| (n.words[1..].join("/"), n.is_whole))
            .collect()
    }

    #[test]
    fn commands_are_found_as_people_read_them() {
        let text = "\
Say `skerry get apps\\|jobs` or `skerry-agent ps`, not skerry.

    sudo -E skerry flash a.img \\
        --name 'kiosk-{n}' # many
    skerry logs web | grep skerry

```sh
X=1 skerry exec -- sh -c \"a b\" > file
```
";
        let whole = |words: &str| (words.to_string(), true);
        assert_eq!(
            of(text),
            [
                ("get/apps".to_string(), false),
                ("get/jobs".to_string(), false),
                whole("flash/a.img/--name/kiosk-{n}"),
                whole("logs/web"),
                whole("exec/--/sh/-c/a b"),
            ]
        );
        let source = "bail!(\"first: 'skerry get devices -o wide'\") // skerry's own";
        let found = named("skerry", "x.rs", source, Kind::Source);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].words, ["skerry", "get", "devices", "-o", "wide"]);
    }

    #[test]
    fn this_repository_names_many() {
        let all = commands("skerry");
        assert!(
            all.iter().filter(|named| named.is_whole).count() > 20,
            "{all:#?}"
        );
        assert!(all.iter().filter(|named| !named.is_whole).count() > 100);
        assert!(commands("skerry-agent").len() > 20);
    }
}
