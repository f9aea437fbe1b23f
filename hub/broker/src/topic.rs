//! Topic names and topic filters (MQTT 5, section 4.7). Pure.

use std::fmt;
use std::str::FromStr;

/// Levels of a topic or filter, at most. Skerry's own have six.
pub const MAX_LEVELS: usize = 32;
/// Bytes of a topic or filter, at most.
pub const MAX_TOPIC_BYTES: usize = 512;

/// A valid topic filter: levels of text, `+` for any one level, `#` at the end
/// for any rest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicFilter(Box<str>);

/// Why a text is no topic or filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum TopicError {
    #[error("it is empty")]
    Empty,
    #[error("it is longer than {MAX_TOPIC_BYTES} bytes")]
    TooLong,
    #[error("it has more than {MAX_LEVELS} levels")]
    TooDeep,
    #[error("it holds a control character")]
    Control,
    #[error("+ and # stand for whole levels, and # only for the last")]
    Wildcard,
    #[error("it starts with $, and this broker has no such topics")]
    Reserved,
}

impl TopicFilter {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for more than one topic.
    pub fn has_wildcards(&self) -> bool {
        self.0.contains(['+', '#'])
    }

    /// Whether it stands for this topic.
    pub fn matches(&self, topic: &str) -> bool {
        // A topic has no wildcards, so it is a filter for itself alone.
        self.covers_text(topic)
    }

    /// Whether every topic of `narrower` is one of ours.
    pub fn covers(&self, narrower: &TopicFilter) -> bool {
        self.covers_text(&narrower.0)
    }

    fn covers_text(&self, narrower: &str) -> bool {
        let mut theirs = narrower.split('/');
        for own in self.0.split('/') {
            if own == "#" {
                return true;
            }
            match theirs.next() {
                None | Some("#") => return false,
                Some(their) if own == "+" || own == their => {}
                // `+` against a text is not covered: the check above has it.
                Some(_) => return false,
            }
        }
        theirs.next().is_none()
    }
}

impl FromStr for TopicFilter {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check_text(text)?;
        let mut levels = text.split('/').peekable();
        while let Some(level) = levels.next() {
            match level {
                "+" => {}
                "#" if levels.peek().is_none() => {}
                _ if level.contains(['+', '#']) => return Err(TopicError::Wildcard),
                _ => {}
            }
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Checks a topic that a message is published to.
pub fn check_topic(topic: &str) -> Result<(), TopicError> {
    check_text(topic)?;
    if topic.contains(['+', '#']) {
        return Err(TopicError::Wildcard);
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > MAX_TOPIC_BYTES {
        return Err(TopicError::TooLong);
    }
    if text.starts_with('$') {
        return Err(TopicError::Reserved);
    }
    if text.chars().any(char::is_control) {
        return Err(TopicError::Control);
    }
    if text.split('/').count() > MAX_LEVELS {
        return Err(TopicError::TooDeep);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(text: &str) -> TopicFilter {
        text.parse().unwrap()
    }

    #[test]
    fn matching() {
        for (pattern, topic, is) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/c", false),
            ("a/b", "a", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+/c", "a/b/c", true),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("+", "a", true),
            ("+", "a/b", false),
            ("/+", "/a", true),
        ] {
            assert_eq!(filter(pattern).matches(topic), is, "{pattern} {topic}");
        }
    }

    #[test]
    fn covering() {
        for (wide, narrow, does) in [
            ("a/+", "a/b", true),
            ("a/+", "a/+", true),
            ("a/+", "a/#", false),
            ("a/b", "a/+", false),
            ("a/#", "a/+/c", true),
            ("a/#", "a/#", true),
            ("a/#", "a", true),
            ("a/#", "#", false),
            ("a/+/c", "a/b/c", true),
            ("a/+/c", "a/+/+", false),
            ("#", "#", true),
            ("a", "a/#", false),
        ] {
            assert_eq!(
                filter(wide).covers(&filter(narrow)),
                does,
                "{wide} {narrow}"
            );
        }
    }

    #[test]
    fn bad_texts() {
        for (text, error) in [
            (String::new(), TopicError::Empty),
            ("a/#/b".into(), TopicError::Wildcard),
            ("a#".into(), TopicError::Wildcard),
            ("a/b+".into(), TopicError::Wildcard),
            ("++".into(), TopicError::Wildcard),
            ("$SYS/x".into(), TopicError::Reserved),
            ("$share/g/a".into(), TopicError::Reserved),
            ("a\0b".into(), TopicError::Control),
            ("a".repeat(513), TopicError::TooLong),
            ("a/".repeat(32), TopicError::TooDeep),
        ] {
            assert_eq!(text.parse::<TopicFilter>(), Err(error), "{text:?}");
        }
        assert_eq!(check_topic("a/+"), Err(TopicError::Wildcard));
        assert_eq!(check_topic("a//b"), Ok(()));
    }
}
