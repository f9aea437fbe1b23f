//! The `skerry` program as an operator types it: against a real hub with a
//! device on its real broker, and against servers that misbehave.

#[path = "../common/mod.rs"]
mod common;

mod apply;
mod backup;
mod connect;
mod fleet;
mod images;
mod program;
mod questions;
mod shell;
mod streams;
