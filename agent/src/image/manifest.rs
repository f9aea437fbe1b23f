//! Image manifest and image config (OCI image spec 1.1, `manifest.md` and
//! `config.md`; Docker's schema 2 is the same with other media types).

use serde::Deserialize;
use skerry_wire::Digest;
use std::collections::BTreeMap;

/// Longest manifest and longest config, in bytes: what registries must accept
/// (OCI distribution spec, "Pushing Manifests").
pub const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// Most layers: what overlayfs mounts within one page of options, and Docker's
/// own limit.
pub const MAX_LAYERS: usize = 127;
/// Largest compressed layer, in bytes.
const MAX_LAYER_BYTES: u64 = 64 << 30;

/// Why a manifest or config is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not JSON, or not of this shape.
    #[error("its {what} cannot be read")]
    Json {
        /// Manifest or config.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Another version.
    #[error(
        "its manifest has schemaVersion {0}; only 2 is supported, so push the image again with a current tool"
    )]
    Schema(u64),
    /// More than [`MAX_LAYERS`].
    #[error(
        "it has {0} layers, at most 127 can be mounted; build it with fewer steps or squash it"
    )]
    Layers(usize),
    /// A blob larger than can be.
    #[error("its manifest says that {digest} has {size} bytes, which is more than {limit} allowed")]
    Size {
        /// Which blob.
        digest: Digest,
        /// What the manifest says.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
    /// The config names another number of layers than the manifest.
    #[error("its config names {diff_ids} layers (rootfs.diff_ids), its manifest {layers}")]
    Mismatch {
        /// Layers in the config.
        diff_ids: usize,
        /// Layers in the manifest.
        layers: usize,
    },
    /// Not for Linux.
    #[error("it is for the system '{0}', not for linux")]
    System(String),
}

/// A blob that a manifest names.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Descriptor {
    /// Of the blob as it travels.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// An image of one platform.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    /// How to run it.
    pub config: Descriptor,
    /// What it holds, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Manifest =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
                what: "manifest",
                source,
            })?;
        if manifest.schema_version != 2 {
            return Err(ManifestError::Schema(manifest.schema_version));
        }
        if manifest.layers.len() > MAX_LAYERS {
            return Err(ManifestError::Layers(manifest.layers.len()));
        }
        let bounded = |blob: &Descriptor, limit: u64| match blob.size > limit {
            true => Err(ManifestError::Size {
                digest: blob.digest,
                size: blob.size,
                limit,
            }),
            false => Ok(()),
        };
        bounded(&manifest.config, MAX_DOCUMENT_BYTES)?;
        manifest
            .layers
            .iter()
            .try_for_each(|layer| bounded(layer, MAX_LAYER_BYTES))?;
        Ok(manifest)
    }
}

/// How an image wants to be run. Texts are as the image's author wrote them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that an app's own replace; the program when there is no
    /// entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Empty means `/`.
    pub working_dir: String,
    /// `uid`, `uid:gid`, `name` or `name:group`; empty means root.
    pub user: String,
    /// Paths where the image wants volumes.
    pub volumes: Vec<String>,
    /// `SIGTERM` or a number; empty means `SIGTERM`.
    pub stop_signal: String,
    /// `80/tcp`.
    pub exposed_ports: Vec<String>,
    /// The image's own labels.
    pub labels: BTreeMap<String, String>,
}

/// An image config: how to run it, and what its layers unpack to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How to run it.
    pub run: ImageConfig,
    /// The digests of the layers' plain tars, lowest first.
    pub diff_ids: Vec<Digest>,
}

// What tools write: any field may be missing or null.
#[derive(Deserialize)]
struct RawConfig {
    os: Option<String>,
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
    labels: Option<BTreeMap<String, String>>,
}

impl Config {
    /// Reads and checks the config of an image with that many layers.
    pub fn parse(bytes: &[u8], layers: usize) -> Result<Self, ManifestError> {
        let raw: RawConfig =
            serde_json::from_slice(bytes).map_err(|source| ManifestError::Json {
                what: "config",
                source,
            })?;
        match raw.os.as_deref() {
            None | Some("" | "linux") => {}
            Some(other) => return Err(ManifestError::System(other.chars().take(40).collect())),
        }
        let diff_ids = raw.rootfs.diff_ids.unwrap_or_default();
        if diff_ids.len() != layers {
            return Err(ManifestError::Mismatch {
                diff_ids: diff_ids.len(),
                layers,
            });
        }
        let run = raw.config.unwrap_or_default();
        let names = |map: Option<BTreeMap<String, serde::de::IgnoredAny>>| {
            map.unwrap_or_default().into_keys().collect()
        };
        let run = ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            volumes: names(run.volumes),
            stop_signal: run.stop_signal.unwrap_or_default(),
            exposed_ports: names(run.exposed_ports),
            labels: run.labels.unwrap_or_default(),
        };
        Ok(Self { run, diff_ids })
    }

    /// What each layer is together with all below it (OCI image spec,
    /// `config.md`, "Layer ChainID"). Layers are kept under these: what a
    /// layer's missing parent directories look like depends on what is below.
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.diff_ids.len());
        for diff_id in &self.diff_ids {
            chain.push(match chain.last() {
                None => *diff_id,
                Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
            });
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u8) -> Digest {
        Digest::of(&[n])
    }

    #[test]
    fn reads_what_docker_writes() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"2024-01-01T00:00:00Z","config":
            {{"Env":["PATH=/bin"],"Entrypoint":null,"Cmd":["sh","-c","x"],"WorkingDir":"/srv","User":"1:2",
            "Volumes":{{"/data":{{}}}},"ExposedPorts":{{"80/tcp":{{}}}},"Labels":null,"StopSignal":"SIGQUIT","OnBuild":null}},
            "rootfs":{{"type":"layers","diff_ids":["{}","{}"]}},"history":[{{}}]}}"#,
            digest(1),
            digest(2)
        );
        let config = Config::parse(text.as_bytes(), 2).unwrap();
        assert_eq!(config.run.cmd, ["sh", "-c", "x"]);
        assert!(config.run.entrypoint.is_empty());
        assert_eq!(config.run.volumes, ["/data"]);
        assert_eq!(config.run.exposed_ports, ["80/tcp"]);
        assert_eq!(config.run.stop_signal, "SIGQUIT");
        let chain = config.chain_ids();
        assert_eq!(chain[0], digest(1));
        assert_eq!(
            chain[1],
            Digest::of(format!("{} {}", digest(1), digest(2)).as_bytes())
        );
        assert!(matches!(
            Config::parse(text.as_bytes(), 3),
            Err(ManifestError::Mismatch {
                diff_ids: 2,
                layers: 3
            })
        ));
    }

    #[test]
    fn refuses_what_cannot_be_run() {
        let layer = format!(r#"{{"digest":"{}","size":1}}"#, digest(1));
        let with = |layers: usize, size: u64| {
            format!(
                r#"{{"schemaVersion":2,"config":{{"digest":"{}","size":{size}}},"layers":[{}]}}"#,
                digest(0),
                vec![layer.as_str(); layers].join(",")
            )
        };
        assert_eq!(
            Manifest::parse(with(127, 1).as_bytes())
                .unwrap()
                .layers
                .len(),
            127
        );
        assert!(matches!(
            Manifest::parse(with(128, 1).as_bytes()),
            Err(ManifestError::Layers(128))
        ));
        assert!(matches!(
            Manifest::parse(with(1, 5 << 20).as_bytes()),
            Err(ManifestError::Size { .. })
        ));
        let schema1 = with(1, 1).replace("\"schemaVersion\":2", "\"schemaVersion\":1");
        assert!(matches!(
            Manifest::parse(schema1.as_bytes()),
            Err(ManifestError::Schema(1))
        ));
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        // Where nobody looks, depth costs nothing: it is skipped without recursion.
        let nested = with(0, 1).replacen('{', &format!(r#"{{"annotations":{deep},"#), 1);
        assert!(Manifest::parse(nested.as_bytes()).is_ok());
        let nested = with(0, 1).replace("\"layers\":[]", &format!(r#""layers":{deep}"#));
        for bad in ["", "{}", "[]", "nonsense", deep.as_str(), nested.as_str()] {
            assert!(matches!(
                Manifest::parse(bad.as_bytes()),
                Err(ManifestError::Json { .. })
            ));
            assert!(matches!(
                Config::parse(bad.as_bytes(), 0),
                Err(ManifestError::Json { .. })
            ));
        }
        assert!(matches!(
            Config::parse(br#"{"os":"windows","rootfs":{"diff_ids":[]}}"#, 0),
            Err(ManifestError::System(_))
        ));
    }
}
