//! The Skerry hub and its command line.
#![forbid(unsafe_code)]

pub mod demo;
pub mod image;
pub mod model;
