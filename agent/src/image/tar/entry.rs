//! What an archive has in it, and what can be wrong with it.

use std::io;

/// Bytes that headers and contents are padded to.
pub(super) const BLOCK: usize = 512;

/// Longest PAX header or long name, in bytes; as in Go.
pub const MAX_EXTENSION_BYTES: u64 = 1 << 20;
/// Most stretches of data in one sparse file.
pub const MAX_SPARSE_PARTS: usize = 1 << 16;

/// Why a stream is not a tar that can be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The bytes below could not be read.
    #[error("it cannot be read")]
    Read(#[from] io::Error),
    /// It ends inside an entry.
    #[error("it ends in the middle of an entry")]
    Truncated,
    /// The header's checksum is wrong.
    #[error("it is not a tar: the header at byte {0} has a wrong checksum")]
    Checksum(u64),
    /// A number in a header or PAX record is malformed or out of range.
    #[error("its header field '{0}' is not a valid number")]
    Number(&'static str),
    /// A PAX header is malformed.
    #[error("it has a malformed PAX header: {0}")]
    Pax(&'static str),
    /// A PAX header or long name over [`MAX_EXTENSION_BYTES`].
    #[error("it has a name or PAX header of {0} bytes, at most 1 MiB is allowed")]
    Extension(u64),
    /// A sparse file's map is malformed.
    #[error("it has a sparse file with a malformed map: {0}")]
    Sparse(&'static str),
    /// An entry of a type that layers do not have.
    #[error("it has an entry of the unknown type '{}'", char::from(*.0).escape_default())]
    Type(u8),
}

/// A point in time as files have it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds, below 10^9.
    pub nanos: u32,
}

/// A stretch of a sparse file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where in the file.
    pub offset: u64,
    /// How many bytes.
    pub length: u64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A file. Its stretches of data follow each other in [`Reader::read`].
    File {
        /// In order and apart; one for a file that is not sparse.
        parts: Vec<Part>,
        /// The file's length.
        length: u64,
    },
    /// A directory.
    Directory,
    /// A symbolic link to this text.
    Symlink(Vec<u8>),
    /// Another name of this path.
    HardLink(Vec<u8>),
    /// A character device.
    Character(u32, u32),
    /// A block device.
    Block(u32, u32),
    /// A named pipe.
    Fifo,
}

/// One entry's header. Texts are bytes as they stand in the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it belongs.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Last change.
    pub mtime: Time,
    /// Extended attributes (`SCHILY.xattr.` records).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
