//! The JSON documents that make an image: index, manifest and config (OCI image
//! spec 1.1; Docker's are the same with other media types).

use crate::model::Platform;
use serde::{Deserialize, Serialize};
use skerry_wire::Digest;
use std::collections::BTreeMap;

/// Longest document, in bytes: what registries must accept (OCI distribution
/// spec, "Pushing Manifests").
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Most layers: what a device can mount.
pub const MAX_LAYERS: usize = 127;
/// Most entries in one index.
pub const MAX_INDEX_ENTRIES: usize = 1000;

/// The media type of OCI image manifests.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of OCI image indexes.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of Docker's image manifests.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// The media type of Docker's manifest lists.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The media type of OCI image configs.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The annotation with an image's tag, sometimes its whole name.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation with an image's whole name that containerd and Docker write.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// The annotation of BuildKit's attestations, which stand beside the images.
pub const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// A blob that another document names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the blob claims to be.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<RawPlatform>,
    /// Names and more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
}

impl Descriptor {
    /// One annotation.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations
            .as_ref()?
            .get(name)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }
}

/// A platform as an index has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RawPlatform {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl RawPlatform {
    /// The platform, if it is a Linux one.
    pub fn linux(&self) -> Option<Platform> {
        let variant = self.variant.as_deref().unwrap_or_default();
        (self.os == "linux").then(|| Platform::new(&self.architecture, variant))
    }
}

/// An index or manifest, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnyManifest {
    /// 2.
    #[serde(default)]
    pub schema_version: u64,
    /// Sometimes absent.
    #[serde(default)]
    pub media_type: String,
    /// An index has these.
    pub manifests: Option<Vec<Descriptor>>,
    /// A manifest has this.
    pub config: Option<Descriptor>,
    /// And these, lowest first.
    pub layers: Option<Vec<Descriptor>>,
}

/// A config, as far as it matters here.
#[derive(Debug, Clone, Deserialize)]
pub struct Config {
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// `v8`.
    pub variant: Option<String>,
    /// The layers.
    pub rootfs: Rootfs,
}

/// The layers of a config.
#[derive(Debug, Clone, Deserialize)]
pub struct Rootfs {
    /// Digests of the plain tars, lowest first.
    pub diff_ids: Option<Vec<Digest>>,
}

/// A manifest that is made here, for images that came without.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewManifest {
    /// 2.
    pub schema_version: u64,
    /// [`OCI_MANIFEST`].
    pub media_type: &'static str,
    /// The config.
    pub config: Descriptor,
    /// Lowest first.
    pub layers: Vec<Descriptor>,
}

/// An index that is made here, for images that came in several entries.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NewIndex {
    /// 2.
    pub schema_version: u64,
    /// [`OCI_INDEX`].
    pub media_type: &'static str,
    /// One for each platform.
    pub manifests: Vec<Descriptor>,
}
