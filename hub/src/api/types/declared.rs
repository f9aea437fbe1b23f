//! What operators declare, and what that did.

use super::AppCounts;
use serde::{Deserialize, Serialize};

/// `POST /v1/apply`, `/v1/diff` and `/v1/delete`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifests {
    /// The files; each may hold several documents.
    pub files: Vec<ManifestFile>,
    /// Only say what would happen. Only for apply and delete.
    #[serde(default)]
    pub dry_run: bool,
}

/// One manifest file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestFile {
    /// What errors call it.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// What an apply or delete did to one thing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// `App`, `Job` or `CronJob`; `App` of what was not there.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What was done.
    pub action: Action,
    /// The app's revision now; absent when it is gone.
    pub revision: Option<String>,
}

/// What an apply did, and what may still be wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedList {
    /// What was done to each thing.
    pub items: Vec<Applied>,
    /// Sentences for people; none when all is well.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// What was done to a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It was not there.
    Created,
    /// It was changed.
    Configured,
    /// It was so already.
    Unchanged,
    /// It is gone.
    Deleted,
    /// It was not there to be deleted.
    Absent,
}

/// A config or secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// `Config` or `Secret`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// A secret's type.
    #[serde(rename = "type")]
    pub secret_type: Option<String>,
    /// It may be deleted, but not changed.
    pub immutable: bool,
    /// Its files, without what is in them.
    pub files: Vec<ConfigFile>,
    /// Apps that name it, as `NAMESPACE/NAME`; empty in a list.
    pub apps: Vec<String>,
    /// When it was last changed.
    pub changed_ms: u64,
    /// The manifest as JSON, a secret's values as stars; absent in a list.
    pub manifest: Option<serde_json::Value>,
}

/// A file of a config or secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Its name.
    pub name: String,
    /// Its size.
    pub bytes: u64,
}

/// One thing of `POST /v1/diff`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// `App`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// YAML of what is there; absent when nothing is.
    pub current: Option<String>,
    /// YAML of what was sent, in the same form.
    pub proposed: String,
    /// What its images' names mean now.
    pub images: Vec<PinnedImage>,
}

/// An image name and what it means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedImage {
    /// As in the manifest.
    pub reference: String,
    /// `sha256:...`; absent when nobody has resolved it yet (a diff does not
    /// pull).
    pub digest: Option<String>,
}

/// One app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// `App`, `Job` or `CronJob`.
    #[serde(default)]
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its revision.
    pub revision: String,
    /// On which devices.
    pub selector: String,
    /// Its images.
    pub images: Vec<PinnedImage>,
    /// How it fares.
    pub devices: AppCounts,
    /// When it was last changed.
    pub changed_ms: u64,
    /// The manifest as JSON, in canonical form.
    pub manifest: serde_json::Value,
    /// The network it lives in: `host`, `bridge` or `none`.
    #[serde(default)]
    pub network: String,
    /// Ports of its devices that lead to it, as `8080->80/tcp` or
    /// `10.0.0.1:8080->80/tcp`.
    #[serde(default)]
    pub ports: Vec<String>,
    /// Services that it is behind, as `web` or `web:80->8080/tcp,81/udp`.
    #[serde(default)]
    pub services: Vec<String>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// `nginx:1.27`.
    pub reference: String,
    /// Its index or manifest.
    pub digest: String,
    /// When it came here.
    pub added_ms: u64,
    /// What it can run on.
    pub platforms: Vec<ImagePlatform>,
}

/// One platform's manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImagePlatform {
    /// `linux/arm64/v8`.
    pub platform: String,
    /// The manifest.
    pub digest: String,
    /// Bytes of manifest, config and layers as they travel.
    pub size_bytes: u64,
}

/// `POST /v1/images/pull`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pull {
    /// `registry.example/team/app:1`.
    pub reference: String,
    /// `linux/arm64`; those of the fleet's devices when empty.
    #[serde(default)]
    pub platforms: Vec<String>,
}
