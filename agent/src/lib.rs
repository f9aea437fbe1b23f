//! The Skerry agent: runs containers on one device.

pub mod runtime;
