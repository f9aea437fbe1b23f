//! Release bundles: one file with what a release's maker signed and all its
//! artifacts, made where the key is and carried to a hub.
//!
//! ```text
//! "skerry release 1\n" | u32 LE: bytes of the next | SignedRelease, postcard
//! | the artifacts, in the statement's order, each of its stated size
//! ```

use skerry_wire::update::{Release, ReleaseError, SignedRelease};
use skerry_wire::{Digest, decode, encode};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// How every bundle begins.
const MAGIC: &[u8] = b"skerry release 1\n";
/// Longest signed statement with key and signature, in bytes.
const MAX_SIGNED_BYTES: u32 = 2 * SignedRelease::MAX_STATEMENT_BYTES as u32;
/// Bytes moved at once.
const PIECE_BYTES: usize = 256 * 1024;
/// What goes before the version in an agent's program.
const VERSION_MARK: &[u8] = b"\0skerry-agent version=";

/// What can be wrong with a bundle or with what goes into one.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The disk, or a file that is shorter than it should be.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was done.
        what: &'static str,
        /// Which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something else was given.
    #[error("this is no release bundle: 'skerry release sign' makes them")]
    NotABundle,
    /// Cut short or changed.
    #[error("the bundle is damaged ({0}): copy it again")]
    Damaged(String),
    /// The statement.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A program that is not what its maker says.
    #[error("{} {problem}", path.display())]
    Program {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, and the remedy.
        problem: String,
    },
}

fn file_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> BundleError + 'a {
    move |source| BundleError::File {
        what,
        path: path.to_owned(),
        source,
    }
}

/// Reads up to the first artifact.
pub fn read_signed(bundle: &mut impl Read) -> Result<SignedRelease, BundleError> {
    let mut magic = [0; MAGIC.len()];
    let mut length = [0; 4];
    bundle
        .read_exact(&mut magic)
        .map_err(|_| BundleError::NotABundle)?;
    if magic != *MAGIC {
        return Err(BundleError::NotABundle);
    }
    let cut = |error: io::Error| BundleError::Damaged(error.to_string());
    bundle.read_exact(&mut length).map_err(cut)?;
    let length = u32::from_le_bytes(length);
    if length > MAX_SIGNED_BYTES {
        return Err(BundleError::Damaged("its statement is too long".into()));
    }
    let mut bytes = vec![0; length as usize];
    bundle.read_exact(&mut bytes).map_err(cut)?;
    decode("signed release", &bytes).map_err(|error| BundleError::Damaged(error.to_string()))
}

/// Writes a bundle of these files, in the order of the release's artifacts.
pub fn write(
    out: &mut impl Write,
    path: &Path,
    signed: &SignedRelease,
    files: &[PathBuf],
) -> Result<(), BundleError> {
    let statement = encode(signed);
    let length = (statement.len() as u32).to_le_bytes();
    for bytes in [MAGIC, &length, &statement] {
        out.write_all(bytes).map_err(file_error("write", path))?;
    }
    for file in files {
        let mut from = std::fs::File::open(file).map_err(file_error("read", file))?;
        io::copy(&mut from, out).map_err(file_error("write", path))?;
    }
    out.flush().map_err(file_error("write", path))
}

/// 32 bytes as 64 hexadecimal digits: a key or a pin.
pub fn parse_key(text: &str) -> Option<[u8; 32]> {
    let digest: Digest = format!("sha256:{}", text.trim().to_ascii_lowercase())
        .parse()
        .ok()?;
    Some(*digest.as_bytes())
}

/// A file's digest and bytes.
pub fn measure(path: &Path) -> Result<(Digest, u64), BundleError> {
    use sha2::{Digest as _, Sha256};
    let mut file = std::fs::File::open(path).map_err(file_error("read", path))?;
    let (mut hash, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = file.read(&mut piece).map_err(file_error("read", path))?;
        if read == 0 {
            return Ok((Digest::from_bytes(hash.finalize().into()), size));
        }
        hash.update(&piece[..read]);
        size += read as u64;
    }
}

/// Whether this file is an agent of this version for this architecture, as far
/// as it can be told without running it.
pub fn check_agent(path: &Path, arch: &str, version: &str) -> Result<(), BundleError> {
    let bytes = std::fs::read(path).map_err(file_error("read", path))?;
    let problem = match elf_arch(&bytes) {
        None => Some("is no program for Linux (no ELF file)".to_string()),
        Some(is) if is != arch => Some(format!(
            "is a program for {is}, not for {arch}: write {is}=FILE, or build it for {arch}"
        )),
        Some(_) => match agent_version(&bytes) {
            None => Some("is no skerry-agent: it does not hold its version".to_string()),
            Some(is) if is != version => Some(format!(
                "is skerry-agent {is}, not {version}: sign it as --version {is}, or build it with SKERRY_VERSION={version}"
            )),
            Some(_) => None,
        },
    };
    match problem {
        None => Ok(()),
        Some(problem) => Err(BundleError::Program {
            path: path.to_owned(),
            problem,
        }),
    }
}

/// OCI's name of the machine that an ELF file is for; `e_machine` as in elf(5).
fn elf_arch(bytes: &[u8]) -> Option<&'static str> {
    let head = bytes.get(..20)?;
    // 32 or 64 bits, little-endian: all that we build for.
    if head[..4] != *b"\x7fELF" || head[5] != 1 {
        return None;
    }
    match (head[4], u16::from_le_bytes([head[18], head[19]])) {
        (2, 0x3e) => Some("amd64"),
        (2, 0xb7) => Some("arm64"),
        (1, 0x28) => Some("arm"),
        (2, 0xf3) => Some("riscv64"),
        (_, _) => Some("another machine"),
    }
}

/// The version in an agent's program.
fn agent_version(bytes: &[u8]) -> Option<String> {
    let at = bytes
        .windows(VERSION_MARK.len())
        .rposition(|window| window == VERSION_MARK)?;
    let rest = &bytes[at + VERSION_MARK.len()..];
    let end = rest
        .iter()
        .take(Release::MAX_VERSION_BYTES + 1)
        .position(|b| *b == 0)?;
    String::from_utf8(rest[..end].to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_wire::update::{Artifact, ReleaseKind};

    fn program(machine: u8, version: &str) -> Vec<u8> {
        let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1];
        bytes.resize(18, 0);
        bytes.extend([machine, 0]);
        bytes.extend(VERSION_MARK);
        bytes.extend(version.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn a_bundle_comes_back_as_it_went_in() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("agent");
        std::fs::write(&file, b"the program").unwrap();
        let (digest, size) = measure(&file).unwrap();
        assert_eq!((digest, size), (Digest::of(b"the program"), 11));
        let artifact = Artifact {
            arch: "amd64".into(),
            variant: String::new(),
            digest,
            size,
        };
        let release = Release {
            kind: ReleaseKind::Agent,
            version: "1".into(),
            artifacts: vec![artifact],
        };
        let signed = SignedRelease::sign(&release, &[7; 32]).unwrap();
        let mut bundle = Vec::new();
        write(&mut bundle, &file, &signed, std::slice::from_ref(&file)).unwrap();
        let mut rest = &bundle[..];
        assert_eq!(read_signed(&mut rest).unwrap(), signed);
        assert_eq!(rest, b"the program");
        for length in 0..bundle.len() - 11 {
            assert!(read_signed(&mut &bundle[..length]).is_err());
        }
    }

    #[test]
    fn a_program_that_is_something_else_is_not_signed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent");
        let check = |bytes: Vec<u8>| {
            std::fs::write(&path, bytes).unwrap();
            check_agent(&path, "arm64", "0.2.0").map_err(|e| e.to_string())
        };
        assert_eq!(check(program(0xb7, "0.2.0")), Ok(()));
        let says = |bytes, words: &str| {
            let error = check(bytes).unwrap_err();
            assert!(error.contains(words), "{error}");
        };
        says(program(0x3e, "0.2.0"), "for amd64, not for arm64");
        says(program(0xb7, "0.3.0"), "--version 0.3.0");
        says(b"#!/bin/sh".to_vec(), "no ELF");
        says(program(0xb7, "")[..20].to_vec(), "no skerry-agent");
    }
}
