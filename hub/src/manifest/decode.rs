//! Taking fields out of a tree by hand, with an error for everything that is
//! left or wrong. Decoding goes on after an error, so that all are found.

use super::error::ManifestError;
use super::scalar::{Meaning, decimal, meaning};
use super::tree::{Entry, Node, Position, Scalar, Value, is_null};
use super::unsupported;
use std::fmt;
use std::ops::RangeInclusive;

/// Errors told of one file; more help nobody.
const MAX_ERRORS: usize = 50;

/// Where in a document we are, for the field paths of errors.
#[derive(Clone, Copy)]
pub(super) enum Path<'p> {
    Root,
    Field(&'p Path<'p>, &'p str),
    Index(&'p Path<'p>, usize),
}

impl<'p> Path<'p> {
    pub fn field(&'p self, name: &'p str) -> Path<'p> {
        Path::Field(self, name)
    }

    pub fn index(&'p self, index: usize) -> Path<'p> {
        Path::Index(self, index)
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// The errors of one file, while it is read.
pub(super) struct Decoder<'f> {
    file: &'f str,
    errors: Vec<ManifestError>,
    untold: usize,
}

impl<'f> Decoder<'f> {
    pub fn new(file: &'f str) -> Self {
        Self {
            file,
            errors: Vec::new(),
            untold: 0,
        }
    }

    /// What was read, if nothing was wrong.
    pub fn finish<T>(mut self, value: T) -> Result<T, Vec<ManifestError>> {
        if self.errors.is_empty() {
            return Ok(value);
        }
        self.errors.sort_by_key(|e| (e.line, e.column));
        if self.untold > 0 {
            self.errors.push(ManifestError::at_start(
                self.file,
                format!("there are {} more errors", self.untold),
                "mend these first",
            ));
        }
        Err(self.errors)
    }

    /// How many errors there are so far: to tell whether a part was sound.
    pub fn count(&self) -> usize {
        self.errors.len() + self.untold
    }

    /// Whether further errors are only counted.
    fn is_full(&self) -> bool {
        self.errors.len() >= MAX_ERRORS
    }

    /// Something is wrong with a field.
    pub fn error(
        &mut self,
        at: Position,
        path: &Path<'_>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.is_full() {
            self.untold += 1;
            return;
        }
        self.errors.push(ManifestError {
            file: self.file.into(),
            line: at.line,
            column: at.column,
            field: path.to_string(),
            message: message.into(),
            remedy: remedy.into(),
        });
    }

    /// Something is wrong with the file itself.
    pub fn file_error(&mut self, at: Position, message: String, remedy: &str) {
        self.error(at, &Path::Root, message, remedy);
    }

    /// An object is there twice; `before` says where it was first.
    pub fn duplicate(&mut self, at: Position, name: &str, before: &str) {
        let path = Path::Root;
        self.error(
            at,
            &path.field("metadata"),
            format!("{name} is declared twice, first in {before}"),
            "give one of them another name or namespace, or remove it",
        );
    }

    /// A mapping's fields; an empty value (`metadata:`) has none.
    pub fn mapping<'n>(&mut self, node: &'n Node, path: &Path<'_>) -> Option<Fields<'n>> {
        let entries = match &node.value {
            Value::Mapping(entries) => entries.as_slice(),
            Value::Scalar(_) if is_null(node) => &[],
            Value::Scalar(_) | Value::Sequence(_) => {
                self.wrong_type(node, path, "fields (key: value)");
                return None;
            }
        };
        Some(Fields {
            at: node.at,
            left: entries.iter().collect(),
            known: Vec::new(),
        })
    }

    /// A list's items; an empty value (`env:`) has none.
    pub fn sequence<'n>(&mut self, node: &'n Node, path: &Path<'_>) -> Option<&'n [Node]> {
        match &node.value {
            Value::Sequence(items) => Some(items),
            Value::Scalar(_) if is_null(node) => Some(&[]),
            Value::Scalar(_) | Value::Mapping(_) => {
                self.wrong_type(node, path, "a list (- item)");
                None
            }
        }
    }

    /// A list with at most `max` items.
    pub fn bounded_sequence<'n>(
        &mut self,
        node: &'n Node,
        path: &Path<'_>,
        max: usize,
    ) -> Option<&'n [Node]> {
        let items = self.sequence(node, path)?;
        if items.len() > max {
            self.error(
                node.at,
                path,
                format!("has {} items, more than {max}", items.len()),
                "split the app into several",
            );
            return None;
        }
        Some(items)
    }

    fn scalar<'n>(&mut self, node: &'n Node, path: &Path<'_>, wanted: &str) -> Option<&'n Scalar> {
        match &node.value {
            Value::Scalar(scalar) => Some(scalar),
            Value::Sequence(_) | Value::Mapping(_) => {
                self.wrong_type(node, path, wanted);
                None
            }
        }
    }

    /// Text. Without quotes only what every YAML reader takes for text.
    pub fn text(&mut self, node: &Node, path: &Path<'_>) -> Option<String> {
        let scalar = self.scalar(node, path, "text")?;
        let text = &scalar.text;
        if text.contains('\0') {
            self.error(
                node.at,
                path,
                "has a zero byte",
                "remove \\0: no program can be given one",
            );
            return None;
        }
        if !scalar.plain {
            return Some(text.clone());
        }
        let read_as = match meaning(text) {
            Meaning::Text => return Some(text.clone()),
            Meaning::Null => {
                self.error(
                    node.at,
                    path,
                    "expects text, but there is none",
                    "write \"\" for an empty text, or remove the field",
                );
                return None;
            }
            Meaning::Bool(_) => format!("expects text, but YAML reads {text} as a truth value"),
            Meaning::OldBool(value) => {
                format!("expects text, but many YAML readers take {text} for {value}")
            }
            Meaning::Number => format!("expects text, but YAML reads {text} as a number"),
        };
        self.error(node.at, path, read_as, format!("quote it: \"{text}\""));
        None
    }

    /// A truth value: `true` or `false`.
    pub fn boolean(&mut self, node: &Node, path: &Path<'_>) -> Option<bool> {
        let scalar = self.scalar(node, path, "true or false")?;
        let shown = shown(&scalar.text);
        let (message, remedy) = match (scalar.plain, meaning(&scalar.text)) {
            (true, Meaning::Bool(value)) => return Some(value),
            (true, Meaning::OldBool(value)) => (
                format!("expects true or false, not {shown}"),
                format!("write {value}"),
            ),
            (false, Meaning::Bool(value)) => (
                "expects true or false, but it is quoted text".into(),
                format!("remove the quotes: {value}"),
            ),
            _ => (
                format!("expects true or false, not '{shown}'"),
                "write true or false".into(),
            ),
        };
        self.error(node.at, path, message, remedy);
        None
    }

    /// A whole number in decimal, inside `range`.
    pub fn integer(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let (low, high) = (*range.start(), *range.end());
        let scalar = self.scalar(node, path, "a whole number")?;
        let text = &scalar.text;
        let number = decimal(text);
        let (message, remedy) = match number {
            Some(n) if scalar.plain && range.contains(&n) => return Some(n),
            Some(n) if !scalar.plain && range.contains(&n) => (
                "expects a number, but it is quoted text".into(),
                format!("remove the quotes: {n}"),
            ),
            Some(n) => (
                format!("{n} is out of range"),
                format!("write a number from {low} to {high}"),
            ),
            None if scalar.plain && text.len() > 1 && text.starts_with('0') => (
                format!("YAML readers disagree about {}", shown(text)),
                "write the number in decimal, without a leading zero".into(),
            ),
            None => (
                format!("expects a whole number, not '{}'", shown(text)),
                format!("write a number from {low} to {high}"),
            ),
        };
        self.error(node.at, path, message, remedy);
        None
    }

    /// A quantity's text: a number or text, `0.5` or `500m`.
    pub fn quantity_text<'n>(&mut self, node: &'n Node, path: &Path<'_>) -> Option<&'n str> {
        let scalar = self.scalar(node, path, "a quantity")?;
        if scalar.plain && meaning(&scalar.text) == Meaning::Null {
            self.error(
                node.at,
                path,
                "expects a quantity, but there is none",
                "write one, as in 500m or 64Mi, or remove the field",
            );
            return None;
        }
        Some(&scalar.text)
    }

    /// An identifier of the wire's, by its own rules.
    pub fn name<T, E: fmt::Display>(
        &mut self,
        node: &Node,
        path: &Path<'_>,
        read: impl FnOnce(String) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(node, path)?;
        match read(text) {
            Ok(name) => Some(name),
            Err(error) => {
                self.error(
                    node.at,
                    path,
                    error.to_string(),
                    "choose another name, as in web or kiosk-2",
                );
                None
            }
        }
    }

    fn wrong_type(&mut self, node: &Node, path: &Path<'_>, wanted: &str) {
        let (found, remedy) = match &node.value {
            Value::Mapping(_) => ("fields (key: value)", "check the indentation"),
            Value::Sequence(_) => ("a list", "remove the brackets or the dash"),
            Value::Scalar(_) if wanted.starts_with("a list") => {
                ("a single value", "put a dash before it, or brackets around")
            }
            Value::Scalar(_) => ("a single value", "check the indentation"),
        };
        self.error(
            node.at,
            path,
            format!("expects {wanted}, but there is {found}"),
            remedy,
        );
    }
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The fields of one mapping. What is not taken is unknown.
pub(super) struct Fields<'n> {
    /// Where the mapping starts.
    pub at: Position,
    left: Vec<&'n Entry>,
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// The value of a field, if it is there.
    pub fn take(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        let at = self.left.iter().position(|entry| entry.key == name)?;
        Some(&self.left.remove(at).value)
    }

    /// The value of a field that has to be there.
    pub fn require(
        &mut self,
        decoder: &mut Decoder<'_>,
        path: &Path<'_>,
        name: &'static str,
        remedy: &str,
    ) -> Option<&'n Node> {
        let node = self.take(name);
        if node.is_none() {
            decoder.error(self.at, &path.field(name), "is missing", remedy);
        }
        node
    }

    /// Whether a field is there, without taking it.
    pub fn has(&self, name: &str) -> bool {
        self.left.iter().any(|entry| entry.key == name)
    }

    /// Which fields nobody took.
    pub fn left(&self) -> impl Iterator<Item = &'n Entry> + '_ {
        self.left.iter().copied()
    }

    /// Takes every field whose name fits.
    pub fn take_where(&mut self, fits: impl Fn(&str) -> bool) -> Vec<&'n Entry> {
        let all = std::mem::take(&mut self.left);
        let (taken, left) = all.into_iter().partition(|entry| fits(&entry.key));
        self.left = left;
        taken
    }

    /// Takes every field that is left, for mappings with keys of their own.
    pub fn take_all(&mut self) -> Vec<&'n Entry> {
        std::mem::take(&mut self.left)
    }

    /// Says of every field that nobody took that it is not supported, and what
    /// to use instead, or that it is unknown.
    pub fn finish(self, decoder: &mut Decoder<'_>, path: &Path<'_>, place: unsupported::Place) {
        for entry in &self.left {
            if decoder.is_full() {
                // Not worth looking for what was meant.
                decoder.untold += 1;
                continue;
            }
            let field = path.field(&entry.key);
            if let Some(remedy) = unsupported::remedy(place, &entry.key) {
                decoder.error(entry.at, &field, "is not supported", remedy);
                continue;
            }
            let remedy = match closest(&entry.key, &self.known) {
                Some(known) => format!("did you mean '{known}'?"),
                None => format!("remove it; known here: {}", self.known.join(", ")),
            };
            decoder.error(entry.at, &field, "unknown field", remedy);
        }
    }
}

/// The known name that somebody who typed `wrong` most likely meant.
pub(crate) fn closest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    if wrong.len() > 64 {
        return None;
    }
    let lower = wrong.to_lowercase();
    let distance = |name: &str| edit_distance(&lower, &name.to_lowercase());
    let (best, name) = known.iter().map(|name| (distance(name), *name)).min()?;
    let tolerated = (wrong.chars().count() / 3).clamp(1, 3);
    (best <= tolerated).then_some(name)
}

/// Levenshtein's, with a swap of neighbours as one step.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let change = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = change.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_word() {
        let known = ["image", "command", "args", "env", "volumeMounts", "name"];
        assert_eq!(closest("imagee", &known), Some("image"));
        assert_eq!(closest("iamge", &known), Some("image"));
        assert_eq!(closest("volumemounts", &known), Some("volumeMounts"));
        assert_eq!(closest("volume_mounts", &known), Some("volumeMounts"));
        assert_eq!(closest("evn", &known), Some("env"));
        assert_eq!(closest("replicas", &known), None);
        assert_eq!(closest(&"x".repeat(1000), &known), None);
    }

    #[test]
    fn paths_read_like_code() {
        let root = Path::Root;
        let spec = root.field("spec");
        let list = spec.field("containers");
        let first = list.index(0);
        assert_eq!(first.field("image").to_string(), "spec.containers[0].image");
    }
}
