//! A reader for tar streams: one entry after the other, everything bounded.
//!
//! The formats are those of layers: ustar and PAX (POSIX.1-2001, `pax`,
//! "Interchange Format"), GNU's long names, base-256 numbers and sparse files
//! (GNU tar manual, "Standard Format", "Sparse Formats"), and V7. Where parsers
//! disagree this one reads as Go's `archive/tar` does, and so as containerd,
//! umoci and Docker do: PAX records win over the header, GNU long names over
//! both, links and directories have no content whatever their size field says,
//! global PAX headers are skipped, and the first block of zeros is the end.
//! Unlike the crate `tar` it takes PAX values that hold line breaks, as file
//! capabilities do.

mod entry;
mod number;
mod pax;
mod reader;
#[cfg(test)]
mod tests;

pub use entry::{Entry, Kind, MAX_EXTENSION_BYTES, MAX_SPARSE_PARTS, Part, TarError, Time};
pub use reader::Reader;
