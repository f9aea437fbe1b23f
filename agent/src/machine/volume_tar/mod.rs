//! Volumes as tar streams. Apps own what is in a volume and may put links into
//! it that lead anywhere: every path is resolved by the kernel with the volume
//! as its root (see [`crate::openat2`]), and no last part of a path is ever
//! followed.

mod error;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;

pub use pack::pack;
pub use unpack::{Owners, unpack};

/// Read and written at once.
const CHUNK: usize = 64 * 1024;
