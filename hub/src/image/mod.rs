//! Images on the hub: where they come from, what is kept, what a name means.
//!
//! All of it is synchronous and belongs into `smol::unblock`. An image comes
//! from a file ([`import`]) or a registry ([`registry`]); its blobs are in a
//! [`BlobStore`], and what is known of it is an [`ImageRecord`], for the caller
//! to keep. A record is only made when every blob that it names is whole,
//! verified and on the disk; every layer was also decompressed once and is what
//! the config says, so that a broken image fails here and not on each device.

mod address;
pub mod assemble;
pub mod blob;
mod challenge;
pub mod credentials;
pub mod document;
pub mod import;
mod member;
pub mod pull;
pub mod reference;
pub mod registry;

pub use assemble::ImageError;
pub use blob::{BlobError, BlobStore};
pub use credentials::Credentials;
pub use import::{ImportError, ImportOptions, import_archive, import_path};
pub use pull::{Progress, PullError};
pub use reference::{Reference, ReferenceError};
pub use registry::{Registry, RegistryOptions};

use serde::{Deserialize, Serialize};
use skerry_wire::Digest;
use std::fmt;
use std::str::FromStr;

/// An image that the hub holds, by one of its names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The name in full, `docker.io/library/nginx:1.27`.
    pub reference: String,
    /// What the name means: the index, or the manifest when there is no index.
    pub digest: Digest,
    /// What the hub holds of it, best first where several suit a machine.
    pub platforms: Vec<PlatformImage>,
    /// Milliseconds since 1970 when it came, by the caller's clock.
    pub imported_at: u64,
}

/// The image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformImage {
    /// Always `linux`.
    pub os: String,
    /// `amd64`, `arm64`, `arm`, `riscv64`, ...
    pub arch: String,
    /// `v7`, or empty.
    pub variant: String,
    /// The image manifest: what devices are given.
    pub manifest: Digest,
    /// Bytes of the manifest.
    pub manifest_size: u64,
    /// The image config.
    pub config: Digest,
    /// Bytes of the config.
    pub config_size: u64,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Bytes of the layers without compression: about what a device needs.
    pub unpacked_bytes: u64,
}

/// A layer as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layer {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// As the manifest says.
    pub media_type: String,
}

impl PlatformImage {
    /// What it runs on.
    pub fn platform(&self) -> Platform {
        Platform {
            arch: self.arch.clone(),
            variant: self.variant.clone(),
        }
    }

    /// Config and layers with their bytes: what a device may fetch besides the
    /// manifest.
    pub fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> + '_ {
        let layers = self.layers.iter().map(|layer| (layer.digest, layer.size));
        std::iter::once((self.config, self.config_size)).chain(layers)
    }
}

/// What an image runs on; the system is always Linux.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, ...
    pub arch: String,
    /// `v7`, or empty.
    pub variant: String,
}

impl Platform {
    /// From the words of OCI or of `uname -m`.
    pub fn new(arch: &str, variant: &str) -> Self {
        let (arch, variant) = match (arch, variant) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("aarch64", v) => ("arm64", v),
            ("armhf" | "armv7l", "") => ("arm", "v7"),
            ("armel" | "armv6l", "") => ("arm", "v6"),
            other => other,
        };
        Self {
            arch: arch.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// Which instruction set of its kind: 0 without one. A variant left out
    /// means the one that containerd assumes.
    fn level(&self) -> Option<u32> {
        match (self.variant.strip_prefix('v'), self.arch.as_str()) {
            (_, "arm") if self.variant.is_empty() => Some(7),
            (_, "arm64") if self.variant.is_empty() => Some(8),
            (_, "amd64") if self.variant.is_empty() => Some(1),
            _ if self.variant.is_empty() => Some(0),
            (Some(number), _) => number.parse().ok(),
            (None, _) => None,
        }
    }

    /// How well an image for `self` runs on `machine`: `None` when it does not,
    /// else the higher the better.
    pub fn suits(&self, machine: &Platform) -> Option<u32> {
        if self.arch != machine.arch {
            return None;
        }
        match (self.level(), machine.level()) {
            (Some(image), Some(has)) if image <= has => Some(image),
            (None, None) if self.variant == machine.variant => Some(0),
            _ => None,
        }
    }
}

/// `linux/arm/v7`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.arch)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    /// Takes `linux/arm64`, `linux/arm/v7` and `arm64`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match parts.as_slice() {
            parts if !parts.iter().all(word) => {}
            ["linux", arch] | [arch] if *arch != "linux" => return Ok(Self::new(arch, "")),
            ["linux", arch, variant] => return Ok(Self::new(arch, variant)),
            _ => {}
        }
        let shown: String = text.chars().take(60).collect();
        Err(format!(
            "'{shown}' is not a platform; write one as in linux/arm64 or linux/arm/v7"
        ))
    }
}

/// The platform's image of `record` that suits a machine best.
pub fn resolve_platform<'a>(
    record: &'a ImageRecord,
    arch: &str,
    variant: &str,
) -> Option<&'a PlatformImage> {
    let machine = Platform::new(arch, variant);
    let suiting = record
        .platforms
        .iter()
        .filter_map(|image| image.platform().suits(&machine).map(|score| (score, image)));
    // The first of equals.
    suiting
        .rev()
        .max_by_key(|(score, _)| *score)
        .map(|(_, image)| image)
}

/// Which record `name` means: with a digest any that is or holds it, first
/// those of the same name; else the newest of that name and tag.
pub fn resolve_name<'a>(
    records: impl IntoIterator<Item = &'a ImageRecord>,
    name: &Reference,
) -> Option<&'a ImageRecord> {
    let rank = |record: &ImageRecord| -> Option<(bool, u64)> {
        let own = record.reference.parse::<Reference>().ok()?;
        let same = own.registry() == name.registry() && own.path() == name.path();
        let meant = match name.digest() {
            Some(digest) => {
                record.digest == digest || record.platforms.iter().any(|p| p.manifest == digest)
            }
            None => same && own.tag() == name.tag(),
        };
        meant.then_some((same, record.imported_at))
    };
    let ranked = records
        .into_iter()
        .filter_map(|record| rank(record).map(|rank| (rank, record)));
    ranked
        .max_by_key(|(rank, _)| *rank)
        .map(|(_, record)| record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(arch: &str, variant: &str) -> PlatformImage {
        PlatformImage {
            os: "linux".into(),
            arch: arch.into(),
            variant: variant.into(),
            manifest: Digest::of(format!("{arch}{variant}").as_bytes()),
            manifest_size: 1,
            config: Digest::of(b"config"),
            config_size: 1,
            layers: Vec::new(),
            unpacked_bytes: 0,
        }
    }

    fn record(reference: &str, imported_at: u64) -> ImageRecord {
        let platforms = vec![
            image("amd64", ""),
            image("arm", "v6"),
            image("arm", "v7"),
            image("arm64", "v8"),
        ];
        let digest = Digest::of(format!("{reference}{imported_at}").as_bytes());
        ImageRecord {
            reference: reference.into(),
            digest,
            platforms,
            imported_at,
        }
    }

    #[test]
    fn each_machine_gets_the_best_that_it_can_run() {
        let record = record("docker.io/library/a:latest", 1);
        let manifest =
            |arch, variant| resolve_platform(&record, arch, variant).map(|p| p.variant.as_str());
        assert_eq!(manifest("amd64", ""), Some(""));
        assert_eq!(manifest("x86_64", ""), Some(""));
        assert_eq!(manifest("amd64", "v3"), Some(""));
        assert_eq!(manifest("arm", "v7"), Some("v7"));
        assert_eq!(manifest("arm", "v6"), Some("v6"));
        assert_eq!(manifest("arm", "v5"), None);
        assert_eq!(manifest("armv7l", ""), Some("v7"));
        assert_eq!(manifest("aarch64", ""), Some("v8"));
        assert_eq!(manifest("riscv64", ""), None);
    }

    #[test]
    fn a_name_means_the_newest_a_digest_always_the_same() {
        let records = [
            record("docker.io/library/a:latest", 1),
            record("docker.io/library/a:latest", 5),
            record("docker.io/library/b:1", 9),
        ];
        let find =
            |name: &str| resolve_name(&records, &name.parse().unwrap()).map(|r| r.imported_at);
        assert_eq!(find("a"), Some(5));
        assert_eq!(find("a:2"), None);
        assert_eq!(find("team/a"), None);
        assert_eq!(find(&format!("a@{}", records[0].digest)), Some(1));
        assert_eq!(find(&format!("other@{}", records[0].digest)), Some(1));
        let manifest = records[2].platforms[1].manifest;
        assert_eq!(find(&format!("b@{manifest}")), Some(9));
        assert_eq!(find(&format!("a@{}", Digest::of(b"none"))), None);
    }

    #[test]
    fn platforms_are_read_as_people_write_them() {
        let shown = |text: &str| text.parse::<Platform>().map(|p| p.to_string());
        assert_eq!(shown("arm64").as_deref(), Ok("linux/arm64"));
        assert_eq!(shown("linux/arm/v7").as_deref(), Ok("linux/arm/v7"));
        for bad in [
            "",
            "linux",
            "windows/amd64",
            "linux/",
            "a/b/c/d",
            "li nux/arm",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }

    #[test]
    fn records_survive_both_encodings() {
        let record = record("docker.io/library/a:latest", 1);
        let bytes = postcard::to_stdvec(&record).unwrap();
        assert_eq!(postcard::from_bytes::<ImageRecord>(&bytes).unwrap(), record);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<ImageRecord>(&text).unwrap(), record);
    }
}
