//! The Skerry agent: runs containers on one device.

pub mod image;
