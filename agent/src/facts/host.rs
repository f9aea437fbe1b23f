//! The files in which a kernel tells of its machine, below a root.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Characters of one line that is told on.
const MAX_CHARS: usize = 120;
/// Bytes read of one file: `/proc/cpuinfo` of many cores, mounts of many
/// containers.
const MAX_BYTES: u64 = 256 * 1024;

/// A machine's `/proc`, `/sys`, `/etc` and `/boot`.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
}

impl Host {
    /// This machine.
    pub fn machine() -> Self {
        Self::below("/")
    }

    /// The machine whose files are below `root`.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a file is; `path` has no slash at its start.
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Whether it is there.
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Its bytes; none when it cannot be read.
    pub fn bytes(&self, path: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Ok(file) = File::open(self.path(path)) {
            // What was read before a failure is all that can be told.
            let _ = file.take(MAX_BYTES).read_to_end(&mut bytes);
        }
        bytes
    }

    /// The whole text; empty when it cannot be read.
    pub fn text(&self, path: &str) -> String {
        String::from_utf8_lossy(&self.bytes(path)).into_owned()
    }

    /// The text without what surrounds it, as strings of device trees end in a
    /// zero; empty when it cannot be read.
    pub fn line(&self, path: &str) -> String {
        let text = self.text(path);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
        let plain = text.chars().filter(|c| !c.is_control());
        plain.take(MAX_CHARS).collect()
    }

    /// A decimal number, or a hexadecimal one behind `0x`.
    pub fn number(&self, path: &str) -> Option<i64> {
        let line = self.line(path);
        match line.strip_prefix("0x") {
            Some(hex) => i64::from_str_radix(hex, 16).ok(),
            None => line.parse().ok(),
        }
    }

    /// A cell of the device tree: 32 bits, the highest byte first.
    pub fn cell(&self, path: &str) -> Option<u32> {
        let bytes = self.bytes(path);
        bytes.get(..4)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// The names in a directory, sorted; none when there is none.
    pub fn names(&self, dir: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(dir)).into_iter().flatten();
        let mut names: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// `path` of this host, from the path that a link led to.
    pub fn inside(&self, path: &Path) -> Option<String> {
        let root = fs::canonicalize(&self.root).ok()?;
        let inside = path.strip_prefix(root).ok()?;
        inside.to_str().map(str::to_string)
    }

    /// `PRETTY_NAME` of os-release.
    pub fn os_name(&self) -> String {
        let text = self.text("etc/os-release");
        let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
        let name = name.unwrap_or_default().trim_matches('"');
        name.chars().take(MAX_CHARS).collect()
    }
}
