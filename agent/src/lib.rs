//! The Skerry agent: runs containers on one device.

pub mod core;
pub mod image;
pub mod runtime;
