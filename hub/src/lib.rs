//! The Skerry hub and its command line.
//!
//! `core` decides and does nothing else; `shell` is the one loop around it;
//! `server` puts everything together. `api` is what operators reach, `cli`
//! what they type.
#![forbid(unsafe_code)]

pub mod api;
pub mod authority;
pub mod backup;
pub mod chain;
pub mod cli;
pub mod core;
pub mod demo;
pub mod flash;
pub mod image;
pub mod images;
pub mod keys;
pub mod manifest;
pub mod model;
pub mod options;
pub mod release;
pub mod server;
pub mod shell;
pub mod store;
pub mod zone;
