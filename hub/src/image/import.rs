//! Images from files: what `docker save`, `podman save`, skopeo, BuildKit,
//! umoci and others write.
//!
//! Three forms: an OCI image layout (image spec, `image-layout.md`) as a tar or
//! a directory, `docker save`'s tar with `manifest.json`, and the one that is
//! both. The tar may itself be compressed. It is read once, front to back, so
//! it may come from a network; its members become nameless blobs in the blob
//! store's `tmp`, never files under names of the archive's choosing. Only when
//! every image in it is whole are they kept, so a broken archive leaves nothing.

use super::assemble::{ImageError, Source, assemble, check_size};
use super::blob::{BlobError, BlobStore, Staged};
use super::document::{
    AnyManifest, CONTAINERD_NAME, Descriptor, MAX_DOCUMENT_BYTES, MAX_LAYERS, NewIndex,
    NewManifest, OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, REF_NAME,
};
use super::member::{Budgeted, MAX_HEADER_BYTES, blob_name, clean, link_target};
use super::{Reference, ReferenceError};
use crate::model::Image;
use serde::Deserialize;
use skerry_layer::Plain;
use skerry_wire::{Digest, Timestamp};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Most members of an archive.
const MAX_MEMBERS: usize = 20_000;
/// Most images and names in one archive.
const MAX_IMAGES: usize = 1000;

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// What to call the image; the file must hold only one then. Without it
    /// the file must say.
    pub name: Option<Reference>,
    /// When it comes, for the records.
    pub now: Timestamp,
    /// Most bytes that the members may have together.
    pub max_bytes: u64,
}

/// Why a file cannot be imported. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("the archive is broken or cut off after {after:?}")]
    Archive {
        /// The last good member, empty at the start.
        after: String,
        /// Why.
        source: io::Error,
    },
    /// A file or directory to import from.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A member that no image archive has.
    #[error("the archive's member {name:?} {problem}")]
    Member {
        /// Its name, cut.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// Over a bound.
    #[error("the archive has more than {limit} {what}")]
    Bound {
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// Neither form.
    #[error(
        "this is no image archive: it has neither index.json with oci-layout nor manifest.json; write one with docker save, or skopeo copy to oci-archive:FILE"
    )]
    NoImage,
    /// One of the documents that say what is in the archive.
    #[error("the archive's {name} cannot be read")]
    Document {
        /// `index.json` or `manifest.json`.
        name: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A member that is named but not there.
    #[error("image {image}: the archive has no {name:?}")]
    Absent {
        /// The image.
        image: String,
        /// The member.
        name: String,
    },
    /// A blob that is not what its name says.
    #[error("the archive's blob {wanted} is damaged: its content is {got}")]
    Damaged {
        /// What it should be.
        wanted: Digest,
        /// What it is.
        got: Digest,
    },
    /// An image that is not usable.
    #[error("image {image} cannot be imported")]
    Image {
        /// Which one.
        image: String,
        /// Why.
        source: Box<ImageError>,
    },
    /// The archive's name for an image.
    #[error("the archive's name for an image is not usable; name it with --name")]
    Name(#[source] ReferenceError),
    /// Nobody says what the image is called.
    #[error("the archive does not say what its image is called{}; name it with --name", .tag.as_ref().map(|t| format!(", only {t:?}")).unwrap_or_default())]
    Nameless {
        /// What it does say.
        tag: Option<String>,
    },
    /// A name for several.
    #[error(
        "the archive has {0} images, so one name cannot do for all; leave out --name or take the archive apart"
    )]
    Several(usize),
    /// The hub's own disk.
    #[error("the image cannot be kept")]
    Blob(#[from] BlobError),
    /// Used while images are looked at; becomes [`ImportError::Image`].
    #[doc(hidden)]
    #[error(transparent)]
    Unnamed(Box<ImageError>),
}

impl From<ImageError> for ImportError {
    fn from(error: ImageError) -> Self {
        Self::Unnamed(Box::new(error))
    }
}

/// Imports a file or a layout directory.
pub fn import_path(
    store: &BlobStore,
    path: &Path,
    options: &ImportOptions,
) -> Result<Vec<Image>, ImportError> {
    let read = |source| ImportError::Read {
        path: path.to_owned(),
        source,
    };
    if fs::metadata(path).map_err(read)?.is_dir() {
        Import::new(store, options).directory(path)?.finish()
    } else {
        import_archive(store, File::open(path).map_err(read)?, options)
    }
}

/// Imports an archive as it streams in.
pub fn import_archive(
    store: &BlobStore,
    archive: impl Read,
    options: &ImportOptions,
) -> Result<Vec<Image>, ImportError> {
    Import::new(store, options).archive(archive)?.finish()
}

enum Member {
    Blob(Staged),
    /// Old `docker save` files link layers that repeat.
    Link(String),
}

struct Import<'a> {
    store: &'a BlobStore,
    options: &'a ImportOptions,
    members: BTreeMap<String, Member>,
    bytes: u64,
    /// Documents that are made here.
    made: BTreeMap<Digest, Vec<u8>>,
}

/// An image of the archive before it has a name for sure.
struct Found {
    names: Vec<Reference>,
    /// What the archive says when that is not a whole name.
    tag: Option<String>,
    root: Descriptor,
}

impl<'a> Import<'a> {
    fn new(store: &'a BlobStore, options: &'a ImportOptions) -> Self {
        Self {
            store,
            options,
            members: BTreeMap::new(),
            bytes: 0,
            made: BTreeMap::new(),
        }
    }

    fn archive(mut self, archive: impl Read) -> Result<Self, ImportError> {
        let mut last = String::new();
        let broken = |after: &str, source| ImportError::Archive {
            after: after.to_owned(),
            source,
        };
        let plain = Plain::new(archive).map_err(|e| broken("", e))?;
        let budget = Rc::new(Cell::new(0));
        let mut tar = tar::Archive::new(Budgeted {
            inner: plain,
            left: budget.clone(),
        });
        let mut entries = tar.entries().map_err(|e| broken("", e))?;
        loop {
            budget.set(MAX_HEADER_BYTES);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(|e| broken(&last, e))?;
            budget.set(u64::MAX);
            let raw = entry.path_bytes().into_owned();
            let shown: String = String::from_utf8_lossy(&raw).chars().take(200).collect();
            let refuse = |problem| ImportError::Member {
                name: shown.clone(),
                problem,
            };
            let name = clean(&raw).map_err(refuse)?;
            last.clone_from(&shown);
            use tar::EntryType as T;
            let member = match entry.header().entry_type() {
                T::Regular | T::Continuous => {
                    let name_digest = blob_name(&name);
                    let size = entry.size();
                    let staged = self.stage(&mut entry, |e| broken(&shown, e))?;
                    if staged.len() != size {
                        return Err(broken(&shown, io::ErrorKind::UnexpectedEof.into()));
                    }
                    match name_digest {
                        Some(wanted) if wanted != staged.digest() => {
                            return Err(ImportError::Damaged {
                                wanted,
                                got: staged.digest(),
                            });
                        }
                        _ => Member::Blob(staged),
                    }
                }
                T::Symlink | T::Link => {
                    let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                    let hard = entry.header().entry_type() == T::Link;
                    Member::Link(link_target(&name, &target, hard).map_err(refuse)?)
                }
                T::Directory | T::XGlobalHeader => continue,
                _ => {
                    return Err(refuse(
                        "is a device or of a type that image archives do not have",
                    ));
                }
            };
            if name.is_empty() {
                return Err(refuse("has no name"));
            }
            self.add(name, member)?;
            // What is left counts as content, not as header.
            io::copy(&mut entry, &mut io::sink()).map_err(|e| broken(&shown, e))?;
        }
        Ok(self)
    }

    /// Only the files that a layout has are looked at.
    fn directory(mut self, path: &Path) -> Result<Self, ImportError> {
        let mut names: Vec<(String, PathBuf)> = ["oci-layout", "index.json"]
            .map(|name| (name.to_owned(), path.join(name)))
            .into();
        let blobs = path.join("blobs/sha256");
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| ImportError::Read { path, source }
        };
        if let Ok(entries) = fs::read_dir(&blobs) {
            for entry in entries {
                let entry = entry.map_err(failed(&blobs))?;
                if let Some(hex) = entry.file_name().to_str() {
                    names.push((format!("blobs/sha256/{hex}"), entry.path()));
                }
            }
        }
        for (name, path) in names {
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {}
                _ => continue,
            }
            let mut file = File::open(&path).map_err(failed(&path))?;
            let staged = self.stage(&mut file, failed(&path))?;
            match blob_name(&name) {
                Some(wanted) if wanted != staged.digest() => {
                    return Err(ImportError::Damaged {
                        wanted,
                        got: staged.digest(),
                    });
                }
                _ => self.add(name, Member::Blob(staged))?,
            }
        }
        Ok(self)
    }

    fn stage(
        &mut self,
        content: &mut impl Read,
        failed: impl FnOnce(io::Error) -> ImportError,
    ) -> Result<Staged, ImportError> {
        let mut writer = self.store.writer(u64::MAX)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(failed(error)),
            };
            self.bytes += count as u64;
            if self.bytes > self.options.max_bytes {
                let limit = self.options.max_bytes;
                return Err(ImportError::Bound {
                    what: "bytes",
                    limit,
                });
            }
            writer.write(&buffer[..count])?;
        }
        Ok(writer.finish()?)
    }

    fn add(&mut self, name: String, member: Member) -> Result<(), ImportError> {
        self.members.insert(name, member);
        match self.members.len() > MAX_MEMBERS {
            true => Err(ImportError::Bound {
                what: "members",
                limit: MAX_MEMBERS as u64,
            }),
            false => Ok(()),
        }
    }

    /// A member, through links.
    fn member(&self, name: &str) -> Option<&Staged> {
        let mut name = name;
        for _ in 0..8 {
            match self.members.get(name)? {
                Member::Blob(staged) => return Some(staged),
                Member::Link(target) => name = target,
            }
        }
        None
    }

    fn small(&self, name: &str) -> Result<Option<Vec<u8>>, ImportError> {
        let Some(staged) = self.member(name) else {
            return Ok(None);
        };
        if staged.len() > MAX_DOCUMENT_BYTES {
            return Err(ImportError::Bound {
                what: "bytes in a document",
                limit: MAX_DOCUMENT_BYTES,
            });
        }
        let mut bytes = Vec::new();
        staged
            .open()?
            .read_to_end(&mut bytes)
            .map_err(|source| ImportError::Archive {
                after: name.to_owned(),
                source,
            })?;
        Ok(Some(bytes))
    }

    fn finish(mut self) -> Result<Vec<Image>, ImportError> {
        let mut found = match self.small("oci-layout")? {
            Some(_) => self.layout()?,
            None => Vec::new(),
        };
        // docker save writes both; names may only be in its own.
        let nameless = found.iter().all(|image| image.names.is_empty());
        if nameless && let Some(bytes) = self.small("manifest.json")? {
            found = self.docker(&bytes)?;
        }
        if found.is_empty() {
            return Err(ImportError::NoImage);
        }
        if let Some(name) = &self.options.name {
            let [image] = found.as_mut_slice() else {
                return Err(ImportError::Several(found.len()));
            };
            image.names = vec![name.clone()];
        }
        let mut records = Vec::new();
        for image in &found {
            if image.names.is_empty() {
                return Err(ImportError::Nameless {
                    tag: image.tag.clone(),
                });
            }
            let shown = image.names[0].familiar();
            let platforms = assemble(&image.root, &[], &mut self).map_err(|error| match error {
                ImportError::Unnamed(source) => ImportError::Image {
                    image: shown,
                    source,
                },
                other => other,
            })?;
            for name in &image.names {
                records.push(Image {
                    reference: name.to_string(),
                    digest: image.root.digest,
                    platforms: platforms.clone(),
                    added: self.options.now,
                });
            }
        }
        self.keep(&records)?;
        Ok(records)
    }

    /// Everything was checked: layers and configs first, so that whoever finds
    /// a manifest in the store finds all that it names.
    fn keep(&self, records: &[Image]) -> Result<(), ImportError> {
        let platforms = || records.iter().flat_map(|record| &record.platforms);
        let blobs = platforms().flat_map(|p| p.blobs.iter().map(|(digest, _)| *digest));
        let documents = platforms()
            .map(|p| p.manifest)
            .chain(records.iter().map(|r| r.digest));
        let mut done = BTreeSet::new();
        for digest in blobs.chain(documents) {
            if !done.insert(digest) {
                continue;
            }
            match self.made.get(&digest) {
                Some(bytes) => self.store.put(bytes)?,
                None => {
                    let staged = self.by_digest(&digest).ok_or(BlobError::Missing(digest))?;
                    self.store.keep(staged)?
                }
            };
        }
        Ok(())
    }

    fn by_digest(&self, digest: &Digest) -> Option<&Staged> {
        self.member(&format!("blobs/sha256/{}", digest.hex()))
            .or_else(|| {
                // docker save's old form names files otherwise.
                let staged = self.members.values().filter_map(|member| match member {
                    Member::Blob(staged) => Some(staged),
                    Member::Link(_) => None,
                });
                staged.into_iter().find(|staged| staged.digest() == *digest)
            })
    }

    /// The images of `index.json`. Entries of one name are its platforms.
    fn layout(&mut self) -> Result<Vec<Found>, ImportError> {
        let Some(bytes) = self.small("index.json")? else {
            return Ok(Vec::new());
        };
        let index: AnyManifest =
            serde_json::from_slice(&bytes).map_err(|source| ImportError::Document {
                name: "index.json",
                source,
            })?;
        let entries = index.manifests.unwrap_or_default();
        if entries.len() > MAX_IMAGES {
            return Err(ImportError::Bound {
                what: "images",
                limit: MAX_IMAGES as u64,
            });
        }
        let mut groups: Vec<(Option<Reference>, Option<String>, Vec<Descriptor>)> = Vec::new();
        for entry in entries {
            let (name, tag) = entry_name(&entry)?;
            let known = groups
                .iter_mut()
                .find(|(known, other, _)| (known, other) == (&name, &tag));
            match known {
                Some((_, _, group)) => group.push(entry),
                None => groups.push((name, tag, vec![entry])),
            }
        }
        let mut found = Vec::new();
        for (name, tag, mut entries) in groups {
            let root = match entries.len() {
                1 => entries.remove(0),
                _ => {
                    for entry in &mut entries {
                        entry.annotations = None;
                    }
                    let index = NewIndex {
                        schema_version: 2,
                        media_type: OCI_INDEX,
                        manifests: entries,
                    };
                    self.make(OCI_INDEX, &index)
                }
            };
            found.push(Found {
                names: name.into_iter().collect(),
                tag,
                root,
            });
        }
        Ok(found)
    }

    /// The images of `manifest.json`, each with an OCI manifest made here. It
    /// depends on the archive's content only, so importing twice changes
    /// nothing.
    fn docker(&mut self, bytes: &[u8]) -> Result<Vec<Found>, ImportError> {
        let entries: Vec<DockerEntry> =
            serde_json::from_slice(bytes).map_err(|source| ImportError::Document {
                name: "manifest.json",
                source,
            })?;
        let names: usize = entries
            .iter()
            .map(|e| e.repo_tags.as_ref().map_or(1, Vec::len))
            .sum();
        if names > MAX_IMAGES {
            return Err(ImportError::Bound {
                what: "images",
                limit: MAX_IMAGES as u64,
            });
        }
        let mut found = Vec::new();
        for entry in entries {
            let tags = entry.repo_tags.unwrap_or_default();
            let shown = tags.first().unwrap_or(&entry.config).clone();
            if entry.layers.len() > MAX_LAYERS {
                let source = Box::new(ImageError::Bound(
                    "it has more than 127 layers, which no device can mount; build it with fewer steps or squash it",
                ));
                return Err(ImportError::Image {
                    image: shown,
                    source,
                });
            }
            let descriptor = |name: &str, config: bool| -> Result<Descriptor, ImportError> {
                let absent = || ImportError::Absent {
                    image: shown.clone(),
                    name: name.chars().take(200).collect(),
                };
                let clean_name = clean(name.as_bytes()).map_err(|_| absent())?;
                let staged = self.member(&clean_name).ok_or_else(absent)?;
                let media_type = match config {
                    true => OCI_CONFIG.to_owned(),
                    false => layer_type(staged)?.to_owned(),
                };
                let (digest, size) = (staged.digest(), staged.len());
                Ok(Descriptor {
                    media_type,
                    digest,
                    size,
                    platform: None,
                    annotations: None,
                })
            };
            let layers: Result<Vec<_>, _> = entry
                .layers
                .iter()
                .map(|name| descriptor(name, false))
                .collect();
            let manifest = NewManifest {
                schema_version: 2,
                media_type: OCI_MANIFEST,
                config: descriptor(&entry.config, true)?,
                layers: layers?,
            };
            let root = self.make(OCI_MANIFEST, &manifest);
            let names: Result<Vec<Reference>, _> = tags.iter().map(|tag| tag.parse()).collect();
            found.push(Found {
                names: names.map_err(ImportError::Name)?,
                tag: None,
                root,
            });
        }
        Ok(found)
    }

    fn make(&mut self, media_type: &str, document: &impl serde::Serialize) -> Descriptor {
        let bytes = serde_json::to_vec(document).expect("plain data is always written");
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.made.insert(digest, bytes);
        let media_type = media_type.to_owned();
        Descriptor {
            media_type,
            digest,
            size,
            platform: None,
            annotations: None,
        }
    }
}

impl Source for Import<'_> {
    type Error = ImportError;

    fn document(
        &mut self,
        what: &'static str,
        blob: &Descriptor,
    ) -> Result<Option<Vec<u8>>, ImportError> {
        if let Some(bytes) = self.made.get(&blob.digest) {
            return Ok(Some(bytes.clone()));
        }
        let Some(staged) = self.by_digest(&blob.digest) else {
            return Ok(None);
        };
        check_size(what, blob, staged.len())?;
        let mut bytes = Vec::new();
        let read = staged.open()?.read_to_end(&mut bytes);
        read.map_err(|source| ImportError::Archive {
            after: blob.digest.to_string(),
            source,
        })?;
        Ok(Some(bytes))
    }

    fn layer(&mut self, blob: &Descriptor) -> Result<Option<File>, ImportError> {
        let Some(staged) = self.by_digest(&blob.digest) else {
            return Ok(None);
        };
        if staged.len() != blob.size {
            let (digest, wanted, got) = (blob.digest, blob.size, staged.len());
            return Err(ImageError::Size {
                what: "layer",
                digest,
                wanted,
                got,
            }
            .into());
        }
        Ok(Some(staged.open()?))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// An entry's whole name, or else what it says instead: often only a tag.
fn entry_name(entry: &Descriptor) -> Result<(Option<Reference>, Option<String>), ImportError> {
    if let Some(name) = entry.annotation(CONTAINERD_NAME) {
        return Ok((Some(name.parse().map_err(ImportError::Name)?), None));
    }
    match entry.annotation(REF_NAME) {
        None => Ok((None, None)),
        Some(name) if name.contains(['/', ':']) => {
            Ok((Some(name.parse().map_err(ImportError::Name)?), None))
        }
        Some(tag) => Ok((None, Some(tag.chars().take(128).collect()))),
    }
}

fn layer_type(staged: &Staged) -> Result<&'static str, ImportError> {
    let mut start = [0; 4];
    let count = staged.open()?.read(&mut start).unwrap_or(0);
    Ok(match &start[..count] {
        [0x1f, 0x8b, ..] => "application/vnd.oci.image.layer.v1.tar+gzip",
        [0x28, 0xb5, 0x2f, 0xfd] => "application/vnd.oci.image.layer.v1.tar+zstd",
        _ => "application/vnd.oci.image.layer.v1.tar",
    })
}
