//! What must hold after every event, in words, and how breaking it is told.

/// A law was broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{law}: {what}")]
pub struct Broken {
    /// The law.
    pub law: &'static str,
    /// What was seen.
    pub what: String,
}

/// Nothing was broken.
pub type Lawful<T = ()> = Result<T, Broken>;

/// Says that a law was broken.
pub fn broken<T>(law: &'static str, what: impl Into<String>) -> Lawful<T> {
    Err(Broken {
        law,
        what: what.into(),
    })
}
