//! The one artifact that is being had: a file that grows, and its final name
//! once its digest is right.
//!
//! ```text
//! <data dir>/agent/fetch/<hex>.part   bytes so far; a power cut may shorten it
//! <data dir>/agent/fetch/<hex>        whole and verified
//! ```

use sha2::{Digest as _, Sha256};
use skerry_wire::Digest;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Bytes that stay free on the data disk: apps need some too.
const SPARE_BYTES: u64 = 8 * 1024 * 1024;
/// Bytes hashed at a time.
const PIECE_BYTES: usize = 64 * 1024;

/// Where artifacts come.
#[derive(Debug)]
pub struct ArtifactDir {
    dir: PathBuf,
}

fn words<'a>(what: &'a str, path: &'a Path) -> impl FnOnce(io::Error) -> String + 'a {
    move |error| format!("{what} {}: {error}", path.display())
}

impl ArtifactDir {
    /// Inside a data directory; made when it is needed.
    pub fn new(data_dir: &Path) -> Self {
        Self {
            dir: data_dir.join("agent").join("fetch"),
        }
    }

    /// Where a verified one lies.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    fn part(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}.part", digest.hex()))
    }

    /// Bytes that are here, and whether they are all and verified. Removes
    /// every other artifact. The error says why it cannot come here, with the
    /// remedy.
    pub fn look(&self, digest: &Digest, size: u64) -> Result<(u64, bool), String> {
        fs::create_dir_all(&self.dir).map_err(words("making", &self.dir))?;
        let (whole, part) = (self.path(digest), self.part(digest));
        for entry in fs::read_dir(&self.dir).map_err(words("reading", &self.dir))? {
            let path = entry.map_err(words("reading", &self.dir))?.path();
            if path != whole && path != part {
                fs::remove_file(&path).map_err(words("removing", &path))?;
            }
        }
        if fs::metadata(&whole).is_ok_and(|m| m.len() == size) {
            return Ok((size, true));
        }
        let have = fs::metadata(&part).map_or(0, |m| m.len()).min(size);
        // Here, and once more in its slot.
        let needed = (size - have)
            .saturating_add(size)
            .saturating_add(SPARE_BYTES);
        let disk = nix::sys::statvfs::statvfs(&self.dir)
            .map_err(|e| format!("the free space of {}: {e}", self.dir.display()))?;
        // Both have 32 bits on 32-bit machines.
        #[allow(clippy::useless_conversion)]
        let (blocks, bytes) = (
            u64::from(disk.blocks_available()),
            u64::from(disk.fragment_size()),
        );
        let free = blocks.saturating_mul(bytes);
        if free < needed {
            return Err(format!(
                "it needs {} MiB free in {}, and {} MiB are: remove images or logs that nothing needs",
                needed.div_ceil(1 << 20),
                self.dir.display(),
                free >> 20
            ));
        }
        Ok((have, false))
    }

    /// Bytes behind those that are here.
    pub fn write(&self, digest: &Digest, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let path = self.part(digest);
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .open(&path)?;
            file.seek(SeekFrom::Start(offset))?;
            file.write_all(bytes)
        };
        write().map_err(words("writing", &path))
    }

    /// Gives it its name, if it is what it should be; else it is gone.
    pub fn finish(&self, digest: &Digest) -> Result<(), String> {
        let (whole, part) = (self.path(digest), self.part(digest));
        let mut file = File::open(&part).map_err(words("opening", &part))?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let read = file.read(&mut piece).map_err(words("reading", &part))?;
            if read == 0 {
                break;
            }
            hash.update(&piece[..read]);
        }
        let found: [u8; 32] = hash.finalize().into();
        if Digest::from_bytes(found) != *digest {
            fs::remove_file(&part).map_err(words("removing", &part))?;
            return Err("its bytes are not those that were signed; it is fetched anew".into());
        }
        file.sync_all().map_err(words("syncing", &part))?;
        fs::rename(&part, &whole).map_err(words("renaming", &part))?;
        let synced = File::open(&self.dir).and_then(|d| d.sync_all());
        synced.map_err(words("syncing", &self.dir))
    }

    /// Nothing is needed any more.
    pub fn clear(&self) {
        // What is left goes with the next look.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_resumes_and_only_the_right_bytes_get_its_name() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = b"the new agent";
        let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
        let artifacts = ArtifactDir::new(dir.path());
        assert_eq!(artifacts.look(&digest, size), Ok((0, false)));
        artifacts.write(&digest, 0, &bytes[..4]).unwrap();
        // Another process goes on.
        let artifacts = ArtifactDir::new(dir.path());
        assert_eq!(artifacts.look(&digest, size), Ok((4, false)));
        artifacts.write(&digest, 4, &bytes[4..]).unwrap();
        artifacts.finish(&digest).unwrap();
        assert_eq!(artifacts.look(&digest, size), Ok((size, true)));
        assert_eq!(fs::read(artifacts.path(&digest)).unwrap(), bytes);

        let other = Digest::of(b"another");
        assert_eq!(artifacts.look(&other, 7), Ok((0, false)));
        assert!(!artifacts.path(&digest).exists(), "one at a time");
        artifacts.write(&other, 0, b"forged!").unwrap();
        assert!(artifacts.finish(&other).is_err());
        assert_eq!(artifacts.look(&other, 7), Ok((0, false)));
        assert!(
            artifacts
                .look(&other, 1 << 60)
                .unwrap_err()
                .contains("MiB free")
        );
    }
}
