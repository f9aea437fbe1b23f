//! The Skerry agent: runs containers on one device.

pub mod doctor;
pub mod image;
pub mod runtime;
