//! Room in a file system.

use nix::sys::statvfs::statvfs;
use std::path::Path;

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes.
    pub bytes: u64,
    /// Files; nothing where the file system makes room for them as they come.
    pub files: Option<u64>,
}

impl Space {
    /// Where `path` is, or its nearest parent that is there.
    // These numbers have 32 bits on some machines.
    #[allow(clippy::unnecessary_cast)]
    pub fn around(path: &Path) -> Option<Self> {
        let existing = path.ancestors().find(|dir| dir.exists())?;
        let stat = statvfs(existing).ok()?;
        let (blocks, block) = (stat.blocks_available() as u64, stat.fragment_size() as u64);
        let files = stat.files_available() as u64;
        Some(Self {
            bytes: blocks.saturating_mul(block),
            files: (stat.files() > 0).then_some(files),
        })
    }
}
