//! The Skerry hub and its command line.
#![forbid(unsafe_code)]

pub mod manifest;
pub mod model;
