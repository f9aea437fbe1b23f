//! From the blob that a name means to the images of its platforms: indexes are
//! followed, manifests and configs read, layers checked. Where the blobs come
//! from is the caller's.

use super::BlobError;
use super::document::{
    AnyManifest, Config, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, MAX_DOCUMENT_BYTES,
    MAX_INDEX_ENTRIES, MAX_LAYERS, OCI_INDEX, OCI_MANIFEST, REFERENCE_TYPE,
};
use crate::model::{Platform, PlatformImage};
use sha2::{Digest as _, Sha256};
use skerry_layer::Plain;
use skerry_wire::Digest;
use std::cmp::Reverse;
use std::fs::File;
use std::io::{self, Read};

/// Most indexes in each other.
const MAX_NESTING: usize = 4;
/// Most indexes of one image.
const MAX_INDEXES: usize = 100;
/// Most bytes that one layer may unpack to.
const MAX_PLAIN_BYTES: u64 = 256 << 30;

/// Why something is not an image that devices can run.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Another kind of artifact.
    #[error("it is not a container image but '{0}'")]
    NotAnImage(String),
    /// The first version of Docker's format.
    #[error("it has the old manifest format 'schema 1'; push it again with a current tool")]
    Schema1,
    /// A document that is not what it should be.
    #[error("its {what} {digest} cannot be read")]
    Document {
        /// Index, manifest or config.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A document or number over its bound.
    #[error("{0}")]
    Bound(&'static str),
    /// A blob that it names is not there.
    #[error("its {what} {digest} is missing")]
    Missing {
        /// Manifest, config or layer.
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// A blob has another length than its descriptor says.
    #[error("its {what} {digest} should have {wanted} bytes and has {got}")]
    Size {
        /// Manifest, config or layer.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// What was said.
        wanted: u64,
        /// What it has.
        got: u64,
    },
    /// Config and manifest disagree.
    #[error("its config names {diff_ids} layers (rootfs.diff_ids), its manifest {layers}")]
    LayerCount {
        /// In the config.
        diff_ids: usize,
        /// In the manifest.
        layers: usize,
    },
    /// A layer that cannot be decompressed.
    #[error("its layer {number} of {count} ({digest}) is broken")]
    Layer {
        /// From 1, lowest first.
        number: usize,
        /// How many.
        count: usize,
        /// Which.
        digest: Digest,
        /// Why.
        source: io::Error,
    },
    /// A layer that is not what the config says.
    #[error(
        "its layer {number} of {count} ({digest}) unpacks to {got}, but its config says {wanted}"
    )]
    DiffId {
        /// From 1, lowest first.
        number: usize,
        /// How many.
        count: usize,
        /// Which.
        digest: Digest,
        /// What the config says.
        wanted: Digest,
        /// What it is.
        got: Digest,
    },
    /// Nothing for the platforms that were asked for.
    #[error("it has no image for {wanted}, only for {available}")]
    NoPlatform {
        /// What was asked for.
        wanted: String,
        /// What there is.
        available: String,
    },
}

/// Where blobs come from.
pub trait Source {
    /// Why one cannot be had.
    type Error: From<ImageError> + From<BlobError>;

    /// An index, manifest or config, verified; `None` when it is not there.
    /// At most [`MAX_DOCUMENT_BYTES`].
    fn document(
        &mut self,
        what: &'static str,
        blob: &Descriptor,
    ) -> Result<Option<Vec<u8>>, Self::Error>;

    /// A layer, verified, for reading; `None` when it is not there.
    fn layer(&mut self, blob: &Descriptor) -> Result<Option<File>, Self::Error>;
}

struct Candidate {
    manifest: Descriptor,
    platform: Option<Platform>,
}

/// The images under `root` that suit the platforms `wanted`, or all Linux ones
/// when `wanted` is empty. Every document and layer of them was asked from
/// `source`.
pub fn assemble<S: Source>(
    root: &Descriptor,
    wanted: &[Platform],
    source: &mut S,
) -> Result<Vec<PlatformImage>, S::Error> {
    let mut candidates = Vec::new();
    let mut indexes = 0;
    follow(root, None, &mut indexes, 0, source, &mut candidates)?;
    // An index says what is for whom, a lone manifest leaves it to its config.
    let mut known: Vec<(Platform, Descriptor, AnyManifest, Config)> = Vec::new();
    let mut available: Vec<Platform> = candidates
        .iter()
        .filter_map(|candidate| candidate.platform.clone())
        .collect();
    let only_one = candidates.len() == 1;
    let asked = best_for(wanted, candidates.iter().map(|c| c.platform.as_ref()));
    for (at, candidate) in candidates.into_iter().enumerate() {
        if !wanted.is_empty() && candidate.platform.is_some() && !asked.contains(&at) {
            continue;
        }
        let Some((manifest, config)) = read_manifest(&candidate.manifest, source)? else {
            // Tools leave platforms out and the index as it was.
            if only_one {
                let digest = candidate.manifest.digest;
                return Err(ImageError::Missing {
                    what: "manifest",
                    digest,
                }
                .into());
            }
            continue;
        };
        let own = Platform::new(
            &config.architecture,
            config.variant.as_deref().unwrap_or_default(),
        );
        if config.os != "linux" && !config.os.is_empty() {
            let other = format!("image for {}/{}", config.os, config.architecture);
            return Err(ImageError::NotAnImage(other.chars().take(80).collect()).into());
        }
        let platform = candidate.platform.unwrap_or_else(|| {
            available.push(own.clone());
            own
        });
        if !known.iter().any(|(seen, ..)| *seen == platform) {
            known.push((platform, candidate.manifest, manifest, config));
        }
    }
    let chosen: Vec<usize> = match wanted {
        [] => (0..known.len()).collect(),
        wanted => best_for(wanted, known.iter().map(|(platform, ..)| Some(platform))),
    };
    if chosen.is_empty() {
        let list = |platforms: &[Platform], none: &str| match platforms {
            [] => none.to_owned(),
            some => some
                .iter()
                .take(20)
                .map(Platform::to_string)
                .collect::<Vec<_>>()
                .join(", "),
        };
        let (wanted, available) = (
            list(wanted, "Linux"),
            list(&available, "no platform of Linux"),
        );
        return Err(ImageError::NoPlatform { wanted, available }.into());
    }
    let mut images = Vec::new();
    for at in chosen {
        let (platform, descriptor, manifest, config) = &known[at];
        images.push(check_layers(
            platform, descriptor, manifest, config, source,
        )?);
    }
    Ok(images)
}

/// Which of `images` suit the machines best: one for each, the first of equals;
/// in order, each once.
fn best_for<'a>(
    machines: &[Platform],
    images: impl Iterator<Item = Option<&'a Platform>> + Clone,
) -> Vec<usize> {
    let best = |machine: &Platform| {
        let scores = images.clone().enumerate();
        let scores = scores.filter_map(|(at, image)| Some((image?.suits(machine)?, Reverse(at))));
        scores.max().map(|(_, Reverse(at))| at)
    };
    let mut out: Vec<usize> = machines.iter().filter_map(best).collect();
    out.sort_unstable();
    out.dedup();
    out
}

fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

fn follow<S: Source>(
    blob: &Descriptor,
    platform: Option<Platform>,
    indexes: &mut usize,
    depth: usize,
    source: &mut S,
    found: &mut Vec<Candidate>,
) -> Result<(), S::Error> {
    match blob.media_type.as_str() {
        media_type if is_index(media_type) || media_type.is_empty() => {}
        OCI_MANIFEST | DOCKER_MANIFEST => {
            found.push(Candidate {
                manifest: blob.clone(),
                platform,
            });
            return Ok(());
        }
        other if other.contains("manifest.v1+") && other.contains("docker") => {
            return Err(ImageError::Schema1.into());
        }
        other => return Err(ImageError::NotAnImage(other.chars().take(80).collect()).into()),
    }
    *indexes += 1;
    if depth > MAX_NESTING || *indexes > MAX_INDEXES {
        return Err(ImageError::Bound(
            "it has too many indexes: at most 100, 4 in each other, are allowed",
        )
        .into());
    }
    let Some(bytes) = source.document("index", blob)? else {
        return match depth {
            0 => Err(ImageError::Missing {
                what: "index",
                digest: blob.digest,
            }
            .into()),
            _ => Ok(()),
        };
    };
    let parsed = parse("index", &blob.digest, &bytes)?;
    let Some(entries) = parsed.manifests else {
        // A descriptor without a media type may name a manifest.
        found.push(Candidate {
            manifest: blob.clone(),
            platform,
        });
        return Ok(());
    };
    if entries.len() > MAX_INDEX_ENTRIES || found.len() > MAX_INDEX_ENTRIES {
        return Err(ImageError::Bound("its index has more than 1000 entries").into());
    }
    for entry in entries {
        if entry.annotation(REFERENCE_TYPE).is_some() {
            continue;
        }
        let platform = match &entry.platform {
            None => platform.clone(),
            Some(raw) => match raw.linux() {
                Some(platform) => Some(platform),
                None => continue,
            },
        };
        follow(&entry, platform, indexes, depth + 1, source, found)?;
    }
    Ok(())
}

fn parse(what: &'static str, digest: &Digest, bytes: &[u8]) -> Result<AnyManifest, ImageError> {
    let parsed: AnyManifest =
        serde_json::from_slice(bytes).map_err(|source| ImageError::Document {
            what,
            digest: *digest,
            source,
        })?;
    match parsed.schema_version {
        1 => Err(ImageError::Schema1),
        _ => Ok(parsed),
    }
}

fn read_manifest<S: Source>(
    blob: &Descriptor,
    source: &mut S,
) -> Result<Option<(AnyManifest, Config)>, S::Error> {
    let Some(bytes) = source.document("manifest", blob)? else {
        return Ok(None);
    };
    let manifest = parse("manifest", &blob.digest, &bytes)?;
    let (Some(config_blob), Some(layers)) = (&manifest.config, &manifest.layers) else {
        let kind = "a manifest without config and layers".to_owned();
        return Err(ImageError::NotAnImage(kind).into());
    };
    let known_config = matches!(
        config_blob.media_type.as_str(),
        "" | super::document::OCI_CONFIG | "application/vnd.docker.container.image.v1+json"
    );
    if !known_config {
        return Err(
            ImageError::NotAnImage(config_blob.media_type.chars().take(80).collect()).into(),
        );
    }
    if layers.len() > MAX_LAYERS {
        return Err(ImageError::Bound("it has more than 127 layers, which no device can mount; build it with fewer steps or squash it").into());
    }
    let strange = layers.iter().find(|layer| !is_layer(&layer.media_type));
    if let Some(strange) = strange {
        return Err(ImageError::NotAnImage(strange.media_type.chars().take(80).collect()).into());
    }
    let digest = config_blob.digest;
    let Some(bytes) = source.document("config", config_blob)? else {
        return Err(ImageError::Missing {
            what: "config",
            digest,
        }
        .into());
    };
    let config: Config = serde_json::from_slice(&bytes).map_err(|source| ImageError::Document {
        what: "config",
        digest,
        source,
    })?;
    let diff_ids = config.rootfs.diff_ids.as_ref().map_or(0, Vec::len);
    if diff_ids != layers.len() {
        return Err(ImageError::LayerCount {
            diff_ids,
            layers: layers.len(),
        }
        .into());
    }
    Ok(Some((manifest, config)))
}

fn is_layer(media_type: &str) -> bool {
    media_type.is_empty()
        || media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

fn check_layers<S: Source>(
    platform: &Platform,
    descriptor: &Descriptor,
    manifest: &AnyManifest,
    config: &Config,
    source: &mut S,
) -> Result<PlatformImage, S::Error> {
    let blobs = manifest.layers.as_deref().unwrap_or_default();
    let diff_ids = config.rootfs.diff_ids.as_deref().unwrap_or_default();
    let config_blob = manifest.config.as_ref().expect("read_manifest checked it");
    let count = blobs.len();
    let mut travels = Vec::with_capacity(1 + count);
    travels.push((config_blob.digest, config_blob.size));
    for (index, (blob, wanted)) in blobs.iter().zip(diff_ids).enumerate() {
        let (number, digest) = (index + 1, blob.digest);
        let Some(file) = source.layer(blob)? else {
            return Err(ImageError::Missing {
                what: "layer",
                digest,
            }
            .into());
        };
        let got = plain_digest(file).map_err(|source| ImageError::Layer {
            number,
            count,
            digest,
            source,
        })?;
        if got != *wanted {
            return Err(ImageError::DiffId {
                number,
                count,
                digest,
                wanted: *wanted,
                got,
            }
            .into());
        }
        travels.push((digest, blob.size));
    }
    Ok(PlatformImage {
        platform: platform.clone(),
        manifest: descriptor.digest,
        manifest_size: descriptor.size,
        blobs: travels,
    })
}

/// The digest of a layer without its compression.
fn plain_digest(layer: impl Read) -> io::Result<Digest> {
    let mut plain = Plain::new(layer)?.take(MAX_PLAIN_BYTES + 1);
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 64 << 10];
    let mut total = 0;
    loop {
        match plain.read(&mut buffer)? {
            0 if total > MAX_PLAIN_BYTES => {
                return Err(io::Error::other("it unpacks to more than 256 GiB"));
            }
            0 => return Ok(Digest::from_bytes(hash.finalize().into())),
            count => {
                hash.update(&buffer[..count]);
                total += count as u64;
            }
        }
    }
}

/// Checks that a document has the length that its descriptor says.
pub fn check_size(what: &'static str, blob: &Descriptor, got: u64) -> Result<(), ImageError> {
    if blob.size > MAX_DOCUMENT_BYTES || got > MAX_DOCUMENT_BYTES {
        return Err(ImageError::Bound(
            "one of its documents is longer than 4 MiB",
        ));
    }
    match got == blob.size {
        true => Ok(()),
        false => Err(ImageError::Size {
            what,
            digest: blob.digest,
            wanted: blob.size,
            got,
        }),
    }
}
