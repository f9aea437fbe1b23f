//! The Skerry agent: runs containers on one device.

pub mod agent;
pub mod clock;
pub mod config;
pub mod control;
pub mod core;
pub mod doctor;
pub mod engine;
pub mod facts;
pub mod image;
pub mod line;
pub mod machine;
pub mod notify;
pub mod runtime;
pub mod store;
pub mod update;

/// The agent's release.
pub fn release() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
