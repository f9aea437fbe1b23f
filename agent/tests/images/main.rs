//! Images on the device: made here by hand, by umoci and by tar, taken in by
//! the store, and looked at through the kernel's overlayfs. Needs root, umoci
//! and tar.

use skerry_agent::chain::chain;
use skerry_agent::image::{
    BlobWriter, Collected, ImageStore, Limits, Moment, Need, NeedKind, Policy, Status, StoreError,
    UnpackedImage,
};
use skerry_wire::{Digest, ImageRef};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

mod hostile;
mod parts;
mod unneeded;
mod unpack;

// ---- making layers ----

/// A tar written header by header: builders refuse what enemies write.
#[derive(Default)]
struct Tar(Vec<u8>);

struct Item<'a> {
    path: &'a str,
    kind: u8,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    link: &'a str,
    content: &'a [u8],
    pax: &'a [(&'a str, &'a [u8])],
    device: (u32, u32),
}

const ITEM: Item = Item {
    path: "",
    kind: b'0',
    mode: 0o644,
    owner: (0, 0),
    mtime: 1_000_000_000,
    link: "",
    content: b"",
    pax: &[],
    device: (0, 0),
};

impl Tar {
    fn item(mut self, item: Item) -> Self {
        if !item.pax.is_empty() {
            let mut records = Vec::new();
            for (key, value) in item.pax {
                let rest = key.len() + value.len() + 3;
                let mut length = rest + 1;
                while length != rest + length.to_string().len() {
                    length = rest + length.to_string().len();
                }
                records.extend_from_slice(format!("{length} {key}=").as_bytes());
                records.extend_from_slice(value);
                records.push(b'\n');
            }
            self = self.header(&Item {
                kind: b'x',
                path: "pax",
                content: &records,
                ..ITEM
            });
        }
        self.header(&item)
    }

    fn header(mut self, item: &Item) -> Self {
        let mut header = tar::Header::new_ustar();
        let name = item.path.as_bytes();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let link = item.link.as_bytes();
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link);
        header.set_entry_type(tar::EntryType::new(item.kind));
        header.set_mode(item.mode);
        header.set_uid(item.owner.0);
        header.set_gid(item.owner.1);
        header.set_mtime(item.mtime);
        header.set_size(item.content.len() as u64);
        header.set_device_major(item.device.0).unwrap();
        header.set_device_minor(item.device.1).unwrap();
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(item.content);
        let padding = item.content.len().wrapping_neg() % 512;
        self.0.resize(self.0.len() + padding, 0);
        self
    }

    fn file(self, path: &str, content: &str) -> Self {
        self.item(Item {
            path,
            content: content.as_bytes(),
            ..ITEM
        })
    }

    fn dir(self, path: &str) -> Self {
        self.item(Item {
            path,
            kind: b'5',
            mode: 0o755,
            ..ITEM
        })
    }

    fn symlink(self, path: &str, link: &str) -> Self {
        self.item(Item {
            path,
            kind: b'2',
            link,
            ..ITEM
        })
    }

    fn hard_link(self, path: &str, link: &str) -> Self {
        self.item(Item {
            path,
            kind: b'1',
            link,
            ..ITEM
        })
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

// ---- making images ----

/// An image as a registry would have it.
#[derive(Clone)]
struct Image {
    reference: ImageRef,
    blobs: BTreeMap<Digest, Vec<u8>>,
}

/// Layers as (what travels, what its diff id is of).
fn image_of(layers: &[(Vec<u8>, Vec<u8>)]) -> Image {
    let diff_ids: Vec<Digest> = layers.iter().map(|(_, plain)| Digest::of(plain)).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    image_with(
        config.to_string().into_bytes(),
        layers.iter().map(|(blob, _)| blob.clone()).collect(),
    )
}

fn image_with(config: Vec<u8>, layers: Vec<Vec<u8>>) -> Image {
    let blob = |bytes: &[u8]| serde_json::json!({"mediaType": "x", "digest": Digest::of(bytes), "size": bytes.len()});
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "config": blob(&config),
        "layers": layers.iter().map(|layer| blob(layer)).collect::<Vec<_>>(),
    });
    image_from(
        manifest.to_string().into_bytes(),
        layers.into_iter().chain([config]),
    )
}

fn image_from(manifest: Vec<u8>, others: impl IntoIterator<Item = Vec<u8>>) -> Image {
    let reference = ImageRef {
        reference: "test/app:1".into(),
        manifest: Digest::of(&manifest),
        manifest_size: manifest.len() as u64,
    };
    let blobs = others
        .into_iter()
        .chain([manifest])
        .map(|b| (Digest::of(&b), b))
        .collect();
    Image { reference, blobs }
}

fn plain_image(layers: &[Vec<u8>]) -> Image {
    image_of(
        &layers
            .iter()
            .map(|l| (l.clone(), l.clone()))
            .collect::<Vec<_>>(),
    )
}

// ---- taking them in ----

struct Device {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Device {
    fn new() -> Self {
        Self::with_quota(64 << 20)
    }

    fn with_quota(layer_bytes: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("victim"), "untouched").unwrap();
        let store = ImageStore::open(dir.path().join("images"), Limits { layer_bytes }).unwrap();
        Self { dir, store }
    }

    fn images(&self) -> PathBuf {
        self.dir.path().join("images")
    }

    /// As after a power cut: all in memory is gone.
    fn restart(self) -> Self {
        let store = ImageStore::open(
            self.images(),
            Limits {
                layer_bytes: 64 << 20,
            },
        )
        .unwrap();
        Self {
            dir: self.dir,
            store,
        }
    }

    /// Begins a blob, also where another writer of it has just ended: a child
    /// that another test starts meanwhile has all open that we have for a
    /// moment, and so the lock of that writer.
    fn begin(&self, need: &Need) -> Result<BlobWriter, StoreError> {
        let patience = Instant::now() + Duration::from_secs(60);
        loop {
            match self.store.begin(need) {
                Err(StoreError::Busy(_)) if Instant::now() < patience => std::thread::yield_now(),
                begun => return begun,
            }
        }
    }

    fn push(&self, need: &Need, image: &Image) -> Result<(), Box<dyn Error>> {
        let bytes = &image.blobs[&need.digest];
        let mut writer = self.begin(need)?;
        let offset = writer.offset() as usize;
        for chunk in bytes[offset..].chunks(10_000) {
            writer.write(chunk)?;
        }
        Ok(writer.finish()?)
    }

    fn take(&self, image: &Image) -> Result<UnpackedImage, Box<dyn Error>> {
        loop {
            match self.store.unpack(&image.reference)? {
                Status::Ready(ready) => return Ok(ready),
                Status::Missing(needs) => {
                    for need in needs {
                        self.push(&need, image)?;
                    }
                }
                Status::Fetched => unreachable!("unpack leaves nothing fetched"),
            }
        }
    }

    fn entries(&self, dir: &str) -> usize {
        fs::read_dir(self.images().join(dir)).unwrap().count()
    }
}

/// Every name under `dir` with type, mode, owner, size, time, target, content.
fn listing(dir: &Path) -> String {
    let script = r"find . -mindepth 1 \( -type d -printf '%P %y %m %U %G %T@\n' -o -type f -printf '%P %y %m %U %G %s %n %T@ ' -exec sha256sum -- {} \; -o -printf '%P %y %m %U %G %l %T@\n' \) | sort";
    run(Command::new("sh").arg("-c").arg(script).current_dir(dir))
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; install it"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// What a container would see: overlayfs in a mount namespace of its own.
fn merged(image: &UnpackedImage, script: &str) -> String {
    let work = tempfile::tempdir().unwrap();
    let mut lower: Vec<String> = Vec::new();
    for (number, layer) in image.layers.iter().enumerate() {
        std::os::unix::fs::symlink(layer, work.path().join(number.to_string())).unwrap();
        lower.insert(0, number.to_string());
    }
    for dir in ["upper", "work", "root"] {
        fs::create_dir(work.path().join(dir)).unwrap();
    }
    let options = format!("lowerdir={},upperdir=upper,workdir=work", lower.join(":"));
    let script = format!("mount -t overlay overlay -o {options} root && cd root && {script}");
    run(Command::new("unshare")
        .args(["-m", "sh", "-c", &script])
        .current_dir(work.path()))
}

fn names(image: &UnpackedImage) -> String {
    merged(image, "find . -mindepth 1 -printf '%P\\n' | sort")
        .lines()
        .collect::<Vec<_>>()
        .join(" ")
}
