//! Images on the device's disk.
//!
//! ```text
//! blobs/<hex>        manifest, config, and layers that wait for being unpacked
//! blobs/<hex>.part   what came of a blob so far
//! layers/<hex>/      an unpacked layer, named by its chain id
//! marks/<hex>        what that directory held when it was new
//! tmp/               layers being unpacked or removed
//! aside/<boot>.*     damaged layers that containers of that boot may run from
//! unneeded           images that nobody needs, and since when
//! ```
//!
//! What has its final name is whole and was verified; `tmp` is emptied at open,
//! and `aside` of what other boots left there; a `.part` is continued. A layer's
//! digest is checked as it comes, and its diff id as it is unpacked; then the
//! compressed blob is dropped. [`collect`](super::collect) removes what nobody
//! needs.
//!
//! What the disk loses later is found out when a container cannot be started
//! from it ([`ImageStore::examine`]). A damaged layer stays in use until
//! another one has been unpacked beside it: it may still be good enough for
//! who runs from it, and there may be no hub for a long time.

use super::blob::BlobWriter;
use super::collect::Pass;
use super::dir::Dir;
use super::error::{LayerName, StoreError, disk};
use super::files::{exists, remove_dir, remove_file, sync_dir};
use super::manifest::{Config, ImageConfig, MAX_DOCUMENT_BYTES, Manifest, ManifestError};
use super::tree;
use super::unpack::{UnpackError, unpack};
use skerry_wire::{Digest, ImageRef};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
/// What an image may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that one layer may unpack to.
    pub layer_bytes: u64,
}

impl Default for Limits {
    /// 16 GiB: more than any image for such a device, less than its disk.
    fn default() -> Self {
        Self {
            layer_bytes: 16 << 30,
        }
    }
}

/// A blob that must be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Which.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it is.
    pub kind: NeedKind,
}

/// What a missing blob is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NeedKind {
    /// The image manifest.
    Manifest,
    /// The image config.
    Config,
    /// The layer of this number, from 0, lowest first.
    Layer(usize),
}

/// How far an image is.
// There is one at a time, so its size does not matter.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// These blobs must be fetched, in this order; others may follow then. One
    /// or more.
    Missing(Vec<Need>),
    /// All is here; [`ImageStore::unpack`] must be called.
    Fetched,
    /// It can be run, and needs nobody.
    Ready(UnpackedImage),
}

/// An image that can be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackedImage {
    /// Its manifest.
    pub manifest: Digest,
    /// Directories for overlayfs, lowest first; at least one.
    pub layers: Vec<PathBuf>,
    /// How it wants to be run.
    pub config: ImageConfig,
}

/// The images of one device. Share it; all calls may come from any thread.
#[derive(Debug)]
pub struct ImageStore {
    pub(super) root: PathBuf,
    limits: Limits,
    /// One layer at a time: bounds memory, and lets images share layers.
    unpacking: Mutex<()>,
    /// Manifests that the desired state and rollbacks need, once that is known.
    pub(super) needed: Mutex<Option<BTreeSet<Digest>>>,
    /// What the newest look for images that nobody needs has seen.
    pub(super) pass: Mutex<Pass>,
    /// Chain ids of layers that the disk damaged. In memory only: a start
    /// that fails again finds it out again.
    damaged: Mutex<BTreeSet<Digest>>,
}

/// A manifest with its config, and where its layers belong.
struct Plan {
    manifest: Manifest,
    config: Config,
    chain: Vec<Digest>,
}

impl Plan {
    fn layer_dirs<'a>(&'a self, store: &'a ImageStore) -> impl Iterator<Item = PathBuf> + 'a {
        self.chain.iter().map(|id| store.layer(id))
    }

    fn layer_name(&self, image: &ImageRef, index: usize) -> LayerName {
        LayerName {
            image: image.reference.clone(),
            number: index + 1,
            count: self.manifest.layers.len(),
            digest: self.manifest.layers[index].digest,
        }
    }
}

enum Documents {
    Missing(Need),
    Here(Box<Plan>),
}

impl ImageStore {
    /// Opens the store in `root`, making it when it is not there, and sweeps
    /// what an interrupted run left.
    pub fn open(root: impl Into<PathBuf>, limits: Limits) -> Result<Self, StoreError> {
        let root = root.into();
        let mut made_any = false;
        for dir in ["", "blobs", "layers", "marks", "tmp", "aside"] {
            let dir = root.join(dir);
            if !exists(&dir)? {
                let made = fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&dir);
                made.map_err(disk(&dir))?;
                made_any = true;
            }
        }
        // A start that finds everything in order writes nothing.
        if made_any {
            sync_dir(&root)?;
        }
        let tmp = root.join("tmp");
        for left in fs::read_dir(&tmp).map_err(disk(&tmp))? {
            let path = left.map_err(disk(&tmp))?.path();
            remove_dir(&path)?;
        }
        // No container of an earlier boot runs.
        let (aside, boot) = (root.join("aside"), boot_id());
        for left in fs::read_dir(&aside).map_err(disk(&aside))? {
            let left = left.map_err(disk(&aside))?;
            if !left.file_name().to_string_lossy().starts_with(&boot) {
                remove_dir(&left.path())?;
            }
        }
        Ok(Self {
            root,
            limits,
            unpacking: Mutex::new(()),
            needed: Mutex::new(None),
            pass: Mutex::new(Pass::default()),
            damaged: Mutex::new(BTreeSet::new()),
        })
    }

    fn is_damaged(&self, chain: &Digest) -> bool {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.contains(chain)
    }

    /// Compares the layers of an image with what they held when they were new.
    /// Those that are damaged are missing from now on, as far as
    /// [`ImageStore::status`] goes, and named here. Looks at every name in
    /// them: for when a container cannot be started.
    pub fn examine(&self, image: &ImageRef) -> Result<Vec<LayerName>, StoreError> {
        let Documents::Here(plan) = self.documents(image)? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for (index, chain) in plan.chain.iter().enumerate() {
            let dir = self.layer(chain);
            // One from before there were marks cannot be judged.
            let Ok(mark) = fs::read_to_string(self.mark(chain)) else {
                continue;
            };
            if !exists(&dir)? || tree::digest_of(&dir).is_ok_and(|now| now.hex() == mark) {
                continue;
            }
            found.push(plan.layer_name(image, index));
            let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
            damaged.insert(*chain);
        }
        Ok(found)
    }

    /// The image, if a container can be made from what is here, damaged or
    /// not.
    pub fn usable(&self, image: &ImageRef) -> Result<Option<UnpackedImage>, StoreError> {
        let Documents::Here(plan) = self.documents(image)? else {
            return Ok(None);
        };
        for dir in plan.layer_dirs(self) {
            if !exists(&dir)? {
                return Ok(None);
            }
        }
        self.ready(image, *plan).map(Some)
    }

    /// How far `image` is. Looks only; cheap when it is ready.
    pub fn status(&self, image: &ImageRef) -> Result<Status, StoreError> {
        let plan = match self.documents(image)? {
            Documents::Missing(need) => return Ok(Status::Missing(vec![need])),
            Documents::Here(plan) => plan,
        };
        let mut needs: Vec<Need> = Vec::new();
        let mut ready = true;
        for ((number, layer), chain) in plan.manifest.layers.iter().enumerate().zip(&plan.chain) {
            if exists(&self.layer(chain))? && !self.is_damaged(chain) {
                continue;
            }
            ready = false;
            let known = needs.iter().any(|need| need.digest == layer.digest);
            if !known && !exists(&self.blob(&layer.digest))? {
                let kind = NeedKind::Layer(number);
                needs.push(Need {
                    digest: layer.digest,
                    size: layer.size,
                    kind,
                });
            }
        }
        match (ready, needs.is_empty()) {
            (true, _) => self.ready(image, *plan).map(Status::Ready),
            (false, true) => Ok(Status::Fetched),
            (false, false) => Ok(Status::Missing(needs)),
        }
    }

    /// Starts or continues the fetching of a blob. The caller sends what
    /// follows [`BlobWriter::offset`].
    pub fn begin(&self, need: &Need) -> Result<BlobWriter, StoreError> {
        let part = self
            .root
            .join("blobs")
            .join(format!("{}.part", need.digest.hex()));
        BlobWriter::open(need, part, self.blob(&need.digest))
    }

    /// Unpacks what layers of `image` are here, lowest first, and says how far
    /// it is then. A layer that cannot be unpacked is dropped.
    pub fn unpack(&self, image: &ImageRef) -> Result<Status, StoreError> {
        let plan = match self.documents(image)? {
            Documents::Missing(need) => return Ok(Status::Missing(vec![need])),
            Documents::Here(plan) => plan,
        };
        let guard = self.unpacking.lock();
        let mut below: Vec<PathBuf> = Vec::new();
        for (number, dir) in plan.layer_dirs(self).enumerate() {
            let digest = plan.manifest.layers[number].digest;
            let blob = self.blob(&digest);
            if !exists(&dir)? || self.is_damaged(&plan.chain[number]) {
                if !exists(&blob)? {
                    break;
                }
                self.unpack_layer(image, &plan, number, &blob, &below, &dir)?;
            }
            below.push(dir);
            // Another layer may be the same bytes.
            if !plan.manifest.layers[number + 1..]
                .iter()
                .any(|later| later.digest == digest)
            {
                remove_file(&blob)?;
            }
        }
        drop(guard);
        self.status(image)
    }

    fn unpack_layer(
        &self,
        image: &ImageRef,
        plan: &Plan,
        index: usize,
        blob: &Path,
        below: &[PathBuf],
        dir: &Path,
    ) -> Result<(), StoreError> {
        let layer = Box::new(plan.layer_name(image, index));
        let chain = &plan.chain[index];
        let temp = self.root.join("tmp").join(chain.hex());
        remove_dir(&temp)?;
        let made = fs::DirBuilder::new().mode(0o755).create(&temp);
        made.map_err(disk(&temp))?;
        let source = File::open(blob).map_err(disk(blob))?;
        let wanted = plan.config.diff_ids[index];
        let outcome = match unpack(source, &temp, below, self.limits.layer_bytes) {
            Err(source) => Err(StoreError::Layer { layer, source }),
            Ok(unpacked) if unpacked.diff_id != wanted => {
                let got = unpacked.diff_id;
                Err(StoreError::DiffId { layer, wanted, got })
            }
            Ok(_) => Ok(()),
        };
        if let Err(error) = outcome {
            // Full disks and broken ones may work later, with the same bytes.
            if !matches!(
                &error,
                StoreError::Layer {
                    source: UnpackError::Disk { .. },
                    ..
                }
            ) {
                remove_file(blob)?;
            }
            remove_dir(&temp)?;
            return Err(error);
        }
        let mark = tree::digest_of(&temp).map_err(disk(&temp))?;
        let path = self.mark(chain);
        fs::write(&path, mark.hex()).map_err(disk(&path))?;
        // One call instead of one for each of thousands of files.
        let synced = Dir::open(&temp).and_then(|dir| Ok(dir.sync_file_system()?));
        synced.map_err(disk(&temp))?;
        self.set_aside(dir)?;
        fs::rename(&temp, dir).map_err(disk(dir))?;
        let mut damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.remove(chain);
        drop(damaged);
        sync_dir(&self.root.join("layers"))
    }

    /// Makes room for a layer that is unpacked anew. Containers may run from
    /// the old one: it goes after the next boot.
    fn set_aside(&self, dir: &Path) -> Result<(), StoreError> {
        if !exists(dir)? {
            return Ok(());
        }
        let name = dir.file_name().unwrap_or_default().to_string_lossy();
        let numbered = |n: u32| format!("{}.{name}.{n}", boot_id());
        let mut free = (0..=u32::MAX).map(|n| self.root.join("aside").join(numbered(n)));
        let to = free.find(|path| !path.exists());
        let to = to.expect("not four billion times in one boot");
        fs::rename(dir, &to).map_err(disk(dir))
    }

    fn documents(&self, image: &ImageRef) -> Result<Documents, StoreError> {
        let broken = |source| StoreError::Manifest {
            image: image.reference.clone(),
            source,
        };
        let (digest, size) = (image.manifest, image.manifest_size);
        if size > MAX_DOCUMENT_BYTES {
            let limit = MAX_DOCUMENT_BYTES;
            return Err(broken(ManifestError::Size {
                digest,
                size,
                limit,
            }));
        }
        let Some(bytes) = self.document(&digest)? else {
            let need = Need {
                digest,
                size,
                kind: NeedKind::Manifest,
            };
            return Ok(Documents::Missing(need));
        };
        let manifest = Manifest::parse(&bytes).map_err(broken)?;
        let Some(bytes) = self.document(&manifest.config.digest)? else {
            let (digest, size) = (manifest.config.digest, manifest.config.size);
            let need = Need {
                digest,
                size,
                kind: NeedKind::Config,
            };
            return Ok(Documents::Missing(need));
        };
        let config = Config::parse(&bytes, manifest.layers.len()).map_err(broken)?;
        let chain = config.chain_ids();
        Ok(Documents::Here(Box::new(Plan {
            manifest,
            config,
            chain,
        })))
    }

    /// A manifest or config. One that the disk damaged is dropped: it can be
    /// fetched again.
    pub(super) fn document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        let path = self.blob(digest);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(disk(&path))?,
        };
        let mut bytes = Vec::new();
        match file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes) {
            // What the disk cannot read any more it may still write anew.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => bytes.clear(),
            other => drop(other.map_err(disk(&path))?),
        }
        if Digest::of(&bytes) != *digest {
            remove_file(&path)?;
            return Ok(None);
        }
        Ok(Some(bytes))
    }

    fn ready(&self, image: &ImageRef, plan: Plan) -> Result<UnpackedImage, StoreError> {
        let mut layers: Vec<PathBuf> = plan.layer_dirs(self).collect();
        // overlayfs takes no notice of an opaque root: what it hides is left out.
        for at in (1..layers.len()).rev() {
            let opaque = Dir::open(&layers[at]).and_then(|dir| Ok(dir.is_opaque()?));
            if opaque.map_err(disk(&layers[at]))? {
                layers.drain(..at);
                break;
            }
        }
        if layers.is_empty() {
            // An image of nothing; overlayfs wants a directory all the same.
            let empty = self.root.join("layers").join("empty");
            let made = fs::DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(&empty);
            made.map_err(disk(&empty))?;
            layers.push(empty);
        }
        Ok(UnpackedImage {
            manifest: image.manifest,
            layers,
            config: plan.config.run,
        })
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.hex())
    }

    pub(super) fn layer(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    fn mark(&self, chain: &Digest) -> PathBuf {
        self.root.join("marks").join(chain.hex())
    }
}

/// Names this boot; empty where the kernel does not.
fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.map(|text| text.trim().to_string()).unwrap_or_default()
}
