//! Labels and selectors, as Kubernetes writes them:
//! `site=berlin,role in (gateway,kiosk),tier!=test,gpu,!retired`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Labels on one device; more than anybody needs.
pub const MAX_LABELS: usize = 64;
/// Longest value, and longest name after an optional prefix, in bytes.
pub const MAX_LABEL_BYTES: usize = 63;
/// Longest prefix of a key (`example.com/`), in bytes.
const MAX_PREFIX_BYTES: usize = 253;
/// Longest selector, in bytes.
const MAX_SELECTOR_BYTES: usize = 4096;

/// A device's labels, by key.
pub type Labels = BTreeMap<String, String>;

/// Why a label or a selector is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A key that is not `name` or `prefix/name`.
    #[error(
        "'{0}' is not a label key: use letters, digits, '-', '_' and '.', as in site or example.com/site"
    )]
    Key(String),
    /// A value with characters that have no place there.
    #[error("'{0}' is not a label value: use up to 63 letters, digits, '-', '_' and '.'")]
    Value(String),
    /// A label without `=`.
    #[error("'{0}' is not a label: write key=value")]
    NotALabel(String),
    /// A selector that cannot be read.
    #[error("in selector '{selector}': {problem}")]
    Selector {
        /// The selector, cut to 200 characters.
        selector: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// Checks a key as Kubernetes does.
pub fn check_key(key: &str) -> Result<(), LabelError> {
    let wrong = || LabelError::Key(key.chars().take(80).collect());
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            let part = |p: &str| {
                !p.is_empty()
                    && p.bytes()
                        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !p.starts_with('-')
                    && !p.ends_with('-')
            };
            if prefix.len() > MAX_PREFIX_BYTES || !prefix.split('.').all(part) {
                return Err(wrong());
            }
            name
        }
        None => key,
    };
    if name.is_empty() || !is_label_text(name) {
        return Err(wrong());
    }
    Ok(())
}

/// Checks a value as Kubernetes does; it may be empty.
pub fn check_value(value: &str) -> Result<(), LabelError> {
    if is_label_text(value) {
        Ok(())
    } else {
        Err(LabelError::Value(value.chars().take(80).collect()))
    }
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |b: Option<&u8>| b.is_none_or(u8::is_ascii_alphanumeric);
    bytes.len() <= MAX_LABEL_BYTES
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

/// Reads `key=value`.
pub fn parse_label(text: &str) -> Result<(String, String), LabelError> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| LabelError::NotALabel(text.chars().take(80).collect()))?;
    check_key(key)?;
    check_value(value)?;
    Ok((key.into(), value.into()))
}

/// Which devices: those that meet every requirement. The empty selector
/// matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

/// One condition of a selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Requirement {
    /// `key=value`, `key in (a,b)`: the label is there with one of the values.
    In(String, Vec<String>),
    /// `key!=value`, `key notin (a,b)`: the label is absent or has another.
    NotIn(String, Vec<String>),
    /// `key`: the label is there.
    Exists(String),
    /// `!key`: the label is absent.
    Absent(String),
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        match self {
            Requirement::In(key, values) => labels.get(key).is_some_and(|v| values.contains(v)),
            Requirement::NotIn(key, values) => labels.get(key).is_none_or(|v| !values.contains(v)),
            Requirement::Exists(key) => labels.contains_key(key),
            Requirement::Absent(key) => !labels.contains_key(key),
        }
    }
}

impl Selector {
    /// The selector with these requirements; keys and values must be valid.
    pub fn new(requirements: Vec<Requirement>) -> Self {
        Self { requirements }
    }

    /// Whether a device with these labels is meant.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether every device is meant.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => {
                    write!(f, "{key}={}", values[0])?
                }
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) if values.len() == 1 => {
                    write!(f, "{key}!={}", values[0])?
                }
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::Absent(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

impl FromStr for Selector {
    type Err = LabelError;
    fn from_str(text: &str) -> Result<Self, LabelError> {
        let wrong = |problem: String| LabelError::Selector {
            selector: text.chars().take(200).collect(),
            problem,
        };
        if text.len() > MAX_SELECTOR_BYTES {
            return Err(wrong("it is longer than 4096 bytes".into()));
        }
        let mut requirements = Vec::new();
        for part in split_outside_parentheses(text) {
            let part = part.trim();
            if part.is_empty() {
                if text.trim().is_empty() {
                    continue;
                }
                return Err(wrong("two commas without a requirement between".into()));
            }
            let requirement = parse_requirement(part).map_err(|p| wrong(p.to_string()))?;
            requirements.push(requirement);
        }
        Ok(Self { requirements })
    }
}

fn split_outside_parentheses(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0u32);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_requirement(part: &str) -> Result<Requirement, String> {
    let key = |text: &str| -> Result<String, String> {
        let text = text.trim();
        check_key(text).map_err(|e| e.to_string())?;
        Ok(text.to_string())
    };
    let value = |text: &str| -> Result<String, String> {
        let text = text.trim();
        check_value(text).map_err(|e| e.to_string())?;
        Ok(text.to_string())
    };
    if let Some((head, list)) = part.split_once('(')
        && matches!(head.split_whitespace().last(), Some("in" | "notin"))
        && !list.contains(')')
    {
        return Err(format!("'{part}' has a '(' without its ')'"));
    }
    if let Some(rest) = part.strip_suffix(')') {
        let (head, list) = rest
            .split_once('(')
            .ok_or_else(|| format!("')' without '(' in '{part}'"))?;
        let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(k), Some("in"), None) => Ok(Requirement::In(key(k)?, values)),
            (Some(k), Some("notin"), None) => Ok(Requirement::NotIn(key(k)?, values)),
            _ => Err(format!(
                "'{part}' should read 'key in (a,b)' or 'key notin (a,b)'"
            )),
        };
    }
    if let Some((k, v)) = part.split_once("!=") {
        return Ok(Requirement::NotIn(key(k)?, vec![value(v)?]));
    }
    if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement::In(key(k)?, vec![value(v)?]));
    }
    match part.strip_prefix('!') {
        Some(k) => Ok(Requirement::Absent(key(k)?)),
        None => Ok(Requirement::Exists(key(part)?)),
    }
}

impl Serialize for Selector {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str) -> Labels {
        text.split(',')
            .filter(|t| !t.is_empty())
            .map(|t| parse_label(t).unwrap())
            .collect()
    }

    #[test]
    fn selectors_match_as_in_kubernetes() {
        let berlin = labels("site=berlin,role=kiosk");
        let rome = labels("site=rome");
        for (selector, on_berlin, on_rome) in [
            ("", true, true),
            ("site=berlin", true, false),
            ("site==berlin", true, false),
            ("site!=berlin", false, true),
            ("role!=gateway", true, true),
            ("role", true, false),
            ("!role", false, true),
            ("role in (gateway, kiosk)", true, false),
            ("role notin (gateway,kiosk)", false, true),
            ("site=berlin,role in (gateway,kiosk)", true, false),
            (" site = berlin , !gpu ", true, false),
        ] {
            let parsed: Selector = selector.parse().unwrap();
            assert_eq!(parsed.matches(&berlin), on_berlin, "{selector}");
            assert_eq!(parsed.matches(&rome), on_rome, "{selector}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
    }

    #[test]
    fn bad_selectors_say_what_is_wrong() {
        for bad in [
            "a,,b",
            "a=(",
            "a in b",
            "a in (b",
            "in (a)",
            "a foo (b)",
            "=x",
            "a=b=c",
            "a b",
            "!",
        ] {
            assert!(bad.parse::<Selector>().is_err(), "{bad}");
        }
        for (bad, words) in [
            (
                "site in (berlin",
                "'site in (berlin' has a '(' without its ')'",
            ),
            (
                "a,site in (b, c",
                "'site in (b, c' has a '(' without its ')'",
            ),
            ("site in berlin)", "')' without '('"),
        ] {
            let error = bad.parse::<Selector>().unwrap_err().to_string();
            assert!(error.contains(words), "{bad}: {error}");
        }
    }
}
