//! Why the store failed.

use std::io;
use std::path::{Path, PathBuf};

/// Why the store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory.
    #[error("{what} {} failed", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Opening, reading or writing the database.
    #[error("the store failed while {what}")]
    Database {
        /// What was done.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<redb::Error>,
    },
    /// A value that this program cannot read.
    #[error("the store holds a {what} that cannot be read: {text}")]
    Value {
        /// Which value.
        what: &'static str,
        /// Why.
        text: String,
    },
    /// Another process has it open.
    #[error("another agent uses this data directory: end it first, or give --data another one")]
    Locked,
    /// Its disk takes no writes, as after an error of the file system.
    #[error(
        "{} is on a disk that takes no writes, so no app can be started or watched over (what runs goes on): see 'dmesg | tail', check the file system with fsck, then: mount -o remount,rw \"$(stat -c %m {})\" && systemctl restart skerry-agent",
        dir.display(), dir.display()
    )]
    ReadOnly {
        /// The data directory.
        dir: PathBuf,
    },
    /// It was closed after an error and could not be opened again yet.
    #[error("the store is closed after an earlier error")]
    Closed,
    /// The file breaks redb itself.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

pub(super) fn database<E: Into<redb::Error>>(what: &'static str) -> impl FnOnce(E) -> StoreError {
    move |source| StoreError::Database {
        what,
        source: Box::new(source.into()),
    }
}

pub(super) fn file_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> StoreError + 'a {
    move |source| StoreError::File {
        what,
        path: path.to_owned(),
        source,
    }
}
