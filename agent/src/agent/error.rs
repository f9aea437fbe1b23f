//! Why the agent ended.

use crate::engine::EngineError;
use crate::line::LineError;
use crate::store::StoreError;
use std::path::PathBuf;

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The store.
    #[error("the store cannot be used")]
    Store(#[from] StoreError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The line while joining.
    #[error("no line to the broker")]
    Line(#[from] LineError),
    /// The image store.
    #[error("the image store cannot be used")]
    Images(#[source] Box<crate::image::StoreError>),
    /// The pool of addresses.
    #[error(transparent)]
    Pool(crate::network::lease::PoolError),
    /// The control socket.
    #[error("the control socket in {} cannot be made", dir.display())]
    Control {
        /// The run directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The token.
    #[error(transparent)]
    Token(#[from] skerry_wire::token::TokenError),
    /// The hub said no.
    #[error("the hub refused this device: {0}")]
    Refused(String),
    /// The disk would not keep it.
    #[error("{0}")]
    NotForGood(String),
    /// The stored key.
    #[error("the stored identity is damaged: 'skerry-agent reset', then join again")]
    Identity,
}
