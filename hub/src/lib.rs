//! The Skerry hub and its command line.
#![forbid(unsafe_code)]

pub mod api;
pub mod core;
pub mod manifest;
pub mod model;
