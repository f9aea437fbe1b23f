//! A tree of fields as YAML text, for people: blocks instead of braces, quotes
//! only where a reader would need them.

use super::scalar::{Meaning, meaning};
use std::fmt::Write;

/// What stands behind a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Out {
    /// A text, quoted where some reader would take it for something else.
    Text(String),
    /// A number, a truth value or a quantity.
    Bare(String),
    /// At least one item.
    List(Vec<Out>),
    /// Fields in the order in which they are written.
    Map(Vec<(String, Out)>),
}

/// The text of a document.
pub(super) fn render(fields: &[(String, Out)]) -> String {
    let mut writer = Writer::default();
    for (name, value) in fields {
        writer.field(0, name, value);
    }
    writer.text
}

#[derive(Default)]
struct Writer {
    text: String,
}

impl Writer {
    fn line(&mut self, indent: usize, text: &str) {
        let _ = writeln!(self.text, "{:indent$}{text}", "");
    }

    fn field(&mut self, indent: usize, name: &str, value: &Out) {
        let head = format!("{:indent$}{name}:", "");
        self.text.push_str(&head);
        self.value(indent, value);
    }

    /// What comes after a colon, and the end of its line. Items of a list stand
    /// as deep as their field, all else two deeper.
    fn value(&mut self, indent: usize, value: &Out) {
        match value {
            Out::Text(text) => {
                self.text.push(' ');
                self.scalar(indent, text);
            }
            Out::Bare(text) => self.text.push_str(&format!(" {text}\n")),
            Out::Map(fields) if fields.is_empty() => self.text.push_str(" {}\n"),
            Out::Map(fields) => {
                self.text.push('\n');
                for (name, value) in fields {
                    self.field(indent + 2, name, value);
                }
            }
            Out::List(items) => {
                self.text.push('\n');
                for item in items {
                    self.item(indent, item);
                }
            }
        }
    }

    fn item(&mut self, indent: usize, item: &Out) {
        let head = format!("{:indent$}-", "");
        self.text.push_str(&head);
        let Out::Map(fields) = item else {
            return self.value(indent, item);
        };
        let mut fields = fields.iter();
        if let Some((name, value)) = fields.next() {
            self.text.push_str(&format!(" {name}:"));
            self.value(indent + 2, value);
        }
        for (name, value) in fields {
            self.field(indent + 2, name, value);
        }
    }

    /// A text and the end of its line. Lines of a block stand two deeper than
    /// `indent`.
    fn scalar(&mut self, indent: usize, value: &str) {
        if is_plain(value) {
            self.text.push_str(value);
            self.text.push('\n');
        } else if is_block(value) {
            let body = value.strip_suffix('\n');
            self.text
                .push_str(if body.is_some() { "|\n" } else { "|-\n" });
            for line in body.unwrap_or(value).split('\n') {
                if line.is_empty() {
                    self.text.push('\n');
                } else {
                    self.line(indent + 2, line);
                }
            }
        } else {
            self.text.push_str(&quoted(value));
            self.text.push('\n');
        }
    }
}

/// Whether a text may stand without quotes: only what looks like a word to
/// everybody.
fn is_plain(text: &str) -> bool {
    let inner = |b: u8| {
        b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-' | b':' | b'=' | b'@')
    };
    let first = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'/' | b'.');
    text.bytes().next().is_some_and(first)
        && text.bytes().all(inner)
        && !text.ends_with(':')
        && !text.starts_with("...")
        && meaning(text) == Meaning::Text
}

/// Whether a text of several lines can stand as it is, below its field.
fn is_block(text: &str) -> bool {
    let body = text.strip_suffix('\n').unwrap_or(text);
    body.contains('\n')
        && !body.ends_with('\n')
        && !body.starts_with([' ', '\t', '\n'])
        && body.split('\n').all(|line| {
            !line.ends_with([' ', '\t'])
                && !line.starts_with('\t')
                && line.chars().all(is_printable)
        })
}

fn is_printable(c: char) -> bool {
    c == '\t' || (!c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{feff}'))
}

/// In double quotes, with the escapes that YAML and JSON share.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_printable(c) => out.push(c),
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        }
    }
    out.push('"');
    out
}
