//! Images on the device: made here by hand, by umoci and by tar, taken in by
//! the store, and looked at through the kernel's overlayfs. Needs root, umoci
//! and tar.

use skerry_agent::image::{
    Collected, ImageStore, Limits, Moment, Need, NeedKind, Policy, Status, UnpackedImage,
};
use skerry_wire::{Digest, ImageRef};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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

    fn push(&self, need: &Need, image: &Image) -> Result<(), Box<dyn Error>> {
        let bytes = &image.blobs[&need.digest];
        let mut writer = self.store.begin(need)?;
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

fn chain(error: &dyn Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        out.push_str(": ");
        out.push_str(&cause.to_string());
        next = cause.source();
    }
    out
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

// ---- tests ----

#[test]
fn an_image_becomes_ready_and_needs_nobody_then() {
    let base = Tar::default().dir("bin").file("bin/sh", "shell").end();
    let top = Tar::default().dir("etc").file("etc/name", "app").end();
    let more = Tar::default().file("etc/more", "zstd").end();
    let image = image_of(&[(gzip(&base), base), (top.clone(), top), (zstd(&more), more)]);
    let device = Device::new();
    let Status::Missing(needs) = device.store.status(&image.reference).unwrap() else {
        panic!("nothing is here yet");
    };
    assert_eq!(needs[0].kind, NeedKind::Manifest);
    let ready = device.take(&image).unwrap();
    assert_eq!(ready.config.cmd, ["/bin/sh"]);
    assert_eq!(ready.layers.len(), 3);
    assert_eq!(names(&ready), "bin bin/sh etc etc/more etc/name");
    // The compressed layers are gone, manifest and config stay.
    assert_eq!(device.entries("blobs"), 2);
    let before = listing(device.dir.path());
    let device = device.restart();
    assert_eq!(
        device.store.status(&image.reference).unwrap(),
        Status::Ready(ready)
    );
    assert_eq!(listing(device.dir.path()), before);
}

#[test]
fn images_share_layers() {
    let base = Tar::default().file("base", "b").end();
    let device = Device::new();
    let first = plain_image(&[base.clone(), Tar::default().file("one", "1").end()]);
    let second = plain_image(&[base, Tar::default().file("two", "2").end()]);
    let first = device.take(&first).unwrap();
    let Status::Missing(_) = device.store.status(&second.reference).unwrap() else {
        panic!("new")
    };
    let second = device.take(&second).unwrap();
    assert_eq!(first.layers[0], second.layers[0]);
    assert_eq!(device.entries("layers"), 3);
}

#[test]
fn whiteouts_hide_what_is_below_and_nothing_else() {
    let base = Tar::default()
        .dir("a")
        .file("a/one", "1")
        .file("a/two", "2")
        .dir("b")
        .file("b/old", "o")
        .dir("c")
        .file("c/old", "o")
        .dir("d")
        .file("d/old", "o")
        .file("e", "e")
        .dir("f")
        .file("f/old", "o")
        .end();
    let top = Tar::default()
        .file("a/.wh.one", "")
        // The new content may come before the marker or after it.
        .dir("b")
        .file("b/new", "n")
        .file("b/.wh..wh..opq", "")
        .dir("c")
        .file("c/.wh..wh..opq", "")
        .file("c/new", "n")
        .file(".wh.d", "")
        .file("d/new", "n")
        .file(".wh.e", "")
        .file("e", "new e")
        .dir("f")
        .file("f/new", "n")
        .file(".wh.f", "")
        // Leftovers of aufs.
        .dir(".wh..wh.plnk")
        .file(".wh..wh.plnk/1.2", "x")
        .file(".wh..wh.aufs", "")
        .end();
    let device = Device::new();
    let ready = device.take(&plain_image(&[base, top])).unwrap();
    assert_eq!(names(&ready), "a a/two b b/new c c/new d d/new e f f/new");
    assert_eq!(merged(&ready, "cat e"), "new e");
}

#[test]
fn an_opaque_root_hides_all_layers_below() {
    let base = Tar::default().file("old", "o").end();
    let middle = Tar::default()
        .file(".wh..wh..opq", "")
        .file("new", "n")
        .end();
    let top = Tar::default().file("top", "t").end();
    let ready = Device::new();
    let image = ready.take(&plain_image(&[base, middle, top])).unwrap();
    assert_eq!(names(&image), "new top");
}

#[test]
fn everything_a_file_has_is_kept() {
    let capability =
        b"\x01\x00\x00\x02\x0a\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let long = format!("long/{}/{}", "n".repeat(200), "m".repeat(240));
    let layer = Tar::default()
        .item(Item {
            path: "./",
            kind: b'5',
            mode: 0o711,
            ..ITEM
        })
        .item(Item {
            path: "su",
            mode: 0o4755,
            owner: (0, 7),
            content: b"x",
            ..ITEM
        })
        .item(Item {
            path: "tmp",
            kind: b'5',
            mode: 0o1777,
            owner: (1, 2),
            mtime: 5,
            ..ITEM
        })
        .item(Item {
            path: "cap",
            mode: 0o2755,
            owner: (1000, 1000),
            content: b"y",
            pax: &[
                ("SCHILY.xattr.security.capability", capability),
                ("SCHILY.xattr.user.note", b"line\nline=\x00"),
                (
                    "SCHILY.xattr.security.selinux",
                    b"system_u:object_r:bin_t:s0",
                ),
                ("SCHILY.xattr.com.apple.quarantine", b"z"),
                ("mtime", b"1234567890.123456789"),
            ],
            ..ITEM
        })
        .file("tmp/inside", "keeps the directory's time")
        .hard_link("su2", "/su")
        .symlink("abs", "/etc/passwd")
        .symlink("up", "../../../etc")
        .item(Item {
            path: "null",
            kind: b'3',
            mode: 0o666,
            device: (1, 3),
            ..ITEM
        })
        .item(Item {
            path: "pipe",
            kind: b'6',
            mode: 0o600,
            ..ITEM
        })
        .item(Item {
            path: "x",
            content: b"long name",
            pax: &[("path", long.as_bytes())],
            ..ITEM
        })
        .item(Item {
            path: "sparse",
            content: b"abc",
            pax: &[
                ("GNU.sparse.size", b"1000000"),
                ("GNU.sparse.map", b"4096,3"),
            ],
            ..ITEM
        })
        .end();
    let device = Device::new();
    let ready = device.take(&plain_image(&[layer])).unwrap();
    let root = &ready.layers[0];
    let stat = |path: &str| {
        run(Command::new("stat")
            .args(["-c", "%F %a %u:%g %h %Y"])
            .arg(root.join(path)))
        .trim()
        .to_owned()
    };
    assert_eq!(stat("."), "directory 711 0:0 4 1000000000");
    assert_eq!(stat("su"), "regular file 4755 0:7 2 1000000000");
    assert_eq!(stat("tmp"), "directory 1777 1:2 2 5");
    assert_eq!(stat("cap"), "regular file 2755 1000:1000 1 1234567890");
    assert_eq!(stat("null"), "character special file 666 0:0 1 1000000000");
    assert_eq!(stat("pipe"), "fifo 600 0:0 1 1000000000");
    assert_eq!(stat("abs"), "symbolic link 777 0:0 1 1000000000");
    assert_eq!(
        fs::read_link(root.join("up")).unwrap(),
        Path::new("../../../etc")
    );
    assert_eq!(fs::read(root.join(&long)).unwrap(), b"long name");
    let sparse = fs::read(root.join("sparse")).unwrap();
    assert_eq!(
        (sparse.len(), &sparse[4096..4099]),
        (1_000_000, b"abc".as_slice())
    );
    assert!(
        sparse[..4096]
            .iter()
            .chain(&sparse[4099..])
            .all(|b| *b == 0)
    );
    let xattrs = run(Command::new("python3").arg("-c").arg(
        "import os,sys; p=sys.argv[1]\nfor n in sorted(os.listxattr(p)): print(n, os.getxattr(p,n).hex())",
    ).arg(root.join("cap")));
    let hex: String = capability.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(
        xattrs,
        format!("security.capability {hex}\nuser.note 6c696e650a6c696e653d00\n")
    );
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let layer = Tar::default()
        .file("f", "first")
        .file("f", "last")
        .dir("d")
        .file("d/kept", "k")
        .item(Item {
            path: "d",
            kind: b'5',
            mode: 0o700,
            ..ITEM
        })
        .dir("gone")
        .file("gone/x", "x")
        .dir("gone/deep")
        .file("gone", "now a file")
        .file("g", "file")
        .dir("g")
        .file("g/x", "x")
        .symlink("l", "/etc")
        .file("l", "no link")
        .file("self", "s")
        .hard_link("self", "self")
        .end();
    let device = Device::new();
    let ready = device.take(&plain_image(&[layer])).unwrap();
    let root = &ready.layers[0];
    for (path, content) in [
        ("f", "last"),
        ("d/kept", "k"),
        ("gone", "now a file"),
        ("g/x", "x"),
        ("l", "no link"),
        ("self", "s"),
    ] {
        assert_eq!(
            fs::read_to_string(root.join(path)).unwrap(),
            content,
            "{path}"
        );
    }
    assert_eq!(
        run(Command::new("stat").args(["-c", "%a"]).arg(root.join("d"))),
        "700\n"
    );
}

#[test]
fn directories_left_out_look_as_below() {
    let base = Tar::default()
        .item(Item {
            path: ".",
            kind: b'5',
            mode: 0o750,
            ..ITEM
        })
        .item(Item {
            path: "tmp",
            kind: b'5',
            mode: 0o1777,
            owner: (3, 4),
            ..ITEM
        })
        .item(Item {
            path: "gone",
            kind: b'5',
            mode: 0o1777,
            ..ITEM
        })
        .end();
    let middle = Tar::default().file(".wh.gone", "").end();
    let top = Tar::default()
        .file("tmp/x/y", "")
        .file("gone/z", "")
        .file("fresh/z", "")
        .end();
    let device = Device::new();
    let ready = device
        .take(&plain_image(&[base, middle, top.clone()]))
        .unwrap();
    // The root that a container sees is that of its writable layer.
    let root = Command::new("stat")
        .args(["-c", "%a"])
        .arg(&ready.layers[2])
        .output()
        .unwrap();
    assert_eq!(root.stdout, b"750\n");
    let stat = "stat -c '%n %a %u:%g' tmp tmp/x gone fresh";
    assert_eq!(
        merged(&ready, stat),
        "tmp 1777 3:4\ntmp/x 755 0:0\ngone 755 0:0\nfresh 755 0:0\n"
    );
    // The same layer on another base is another directory.
    let other = device.take(&plain_image(&[top])).unwrap();
    assert_eq!(merged(&other, "stat -c '%a' tmp"), "755\n");
}

/// Each is refused with words for an operator, and nothing changes anywhere.
#[test]
fn hostile_layers_touch_nothing() {
    let deep = "d/".repeat(300) + "f";
    let long = "n/".repeat(2100) + "f";
    let t = Tar::default;
    let corpus: Vec<(&str, Vec<u8>)> = vec![
        ("'..' in it", t().file("../victim", "x").end()),
        ("'..' in it", t().file("a/../../victim", "x").end()),
        ("'..' in it", t().file("/../victim", "x").end()),
        (
            "'..' in it",
            t().item(Item {
                path: "ok",
                pax: &[("path", b"../victim")],
                ..ITEM
            })
            .end(),
        ),
        ("'..' in it", t().dir("..").end()),
        (
            "written through \"link\"",
            t().symlink("link", "/").file("link/victim", "x").end(),
        ),
        (
            "written through \"link\"",
            t().symlink("link", "../..").file("link/victim", "x").end(),
        ),
        (
            "written through \"a/link\"",
            t().symlink("a/link", "../..").dir("a/link/b").end(),
        ),
        (
            "written through \"link\"",
            t().symlink("link", "/").file("link/.wh.victim", "").end(),
        ),
        (
            "written through \"link\"",
            t().symlink("link", "/").file("link/.wh..wh..opq", "").end(),
        ),
        (
            "written through \"file\"",
            t().file("file", "").file("file/x", "x").end(),
        ),
        (
            "not a file in the same layer",
            t().hard_link("x", "/etc/passwd").end(),
        ),
        ("'..' in it", t().hard_link("x", "../../victim").end()),
        (
            "not a file in the same layer",
            t().symlink("l", "/").hard_link("x", "l/etc/passwd").end(),
        ),
        (
            "not a file in the same layer",
            t().dir("d").hard_link("x", "d").end(),
        ),
        (
            "not a file in the same layer",
            t().dir("d").file("d/f", "").hard_link("d", "d/f").end(),
        ),
        (
            "not a file in the same layer",
            t().file(".wh.w", "").hard_link("x", "w").end(),
        ),
        ("no valid name", t().file("a/.wh...", "").end()),
        ("no valid name", t().file(".wh..", "").end()),
        ("no valid name", t().file(".wh.", "").end()),
        ("no valid name", t().file(".wh.x/y", "").end()),
        ("must be a directory", t().symlink("./", "/").end()),
        ("must be a directory", t().file("/", "x").end()),
        (
            "steer overlayfs",
            t().item(Item {
                path: "d",
                kind: b'5',
                pax: &[("SCHILY.xattr.trusted.overlay.redirect", b"/")],
                ..ITEM
            })
            .end(),
        ),
        (
            "steer overlayfs",
            t().item(Item {
                path: "f",
                pax: &[("SCHILY.xattr.user.overlay.opaque", b"y")],
                ..ITEM
            })
            .end(),
        ),
        (
            "more than 64 KiB",
            t().item(Item {
                path: "f",
                pax: &[("SCHILY.xattr.user.big", &[b'x'; 70_000])],
                ..ITEM
            })
            .end(),
        ),
        (
            "out of range",
            t().item(Item {
                path: "f",
                pax: &[("uid", b"4294967295")],
                ..ITEM
            })
            .end(),
        ),
        (
            "out of range",
            t().item(Item {
                path: "f",
                pax: &[("gid", b"99999999999")],
                ..ITEM
            })
            .end(),
        ),
        (
            "NUL byte",
            t().item(Item {
                path: "f",
                pax: &[("path", b"a\0b")],
                ..ITEM
            })
            .end(),
        ),
        (
            "too long",
            t().item(Item {
                path: "f",
                pax: &[("path", long.as_bytes())],
                ..ITEM
            })
            .end(),
        ),
        (
            "too long",
            t().item(Item {
                path: "f",
                pax: &[("path", &[b'n'; 256])],
                ..ITEM
            })
            .end(),
        ),
        (
            "deeper than",
            t().item(Item {
                path: "f",
                pax: &[("path", deep.as_bytes())],
                ..ITEM
            })
            .end(),
        ),
        ("target is empty", t().symlink("l", "").end()),
        (
            "not a valid number",
            t().item(Item {
                path: "f",
                content: b"abc",
                pax: &[("size", b"-3")],
                ..ITEM
            })
            .end(),
        ),
        (
            "ends in the middle",
            t().item(Item {
                path: "f",
                content: b"abc",
                pax: &[("size", b"9999")],
                ..ITEM
            })
            .end(),
        ),
        (
            "malformed",
            t().header(&Item {
                path: "pax",
                kind: b'x',
                content: b"9999 path=x\n",
                ..ITEM
            })
            .file("f", "")
            .end(),
        ),
        (
            "unknown type 'Q'",
            t().item(Item {
                path: "q",
                kind: b'Q',
                ..ITEM
            })
            .end(),
        ),
        ("wrong checksum", vec![b'7'; 4096]),
        (
            "ends in the middle",
            t().file("f", &"x".repeat(5000)).0[..3000].to_vec(),
        ),
    ];
    let host = listing(Path::new("/etc"));
    for (words, layer) in corpus {
        // A good layer below, one above: nothing of the image comes to be.
        let image = plain_image(&[t().file("good", "g").end(), layer]);
        let device = Device::new();
        let error = device.take(&image).expect_err(words);
        let said = chain(error.as_ref());
        assert!(said.contains(words), "expected {words:?} in: {said}");
        assert!(
            said.contains("test/app:1") && said.contains("layer 2 of 2 (sha256:"),
            "{said}"
        );
        assert_eq!(device.entries("tmp"), 0, "{said}");
        assert_eq!(device.entries("layers"), 1, "only the good one: {said}");
        assert_eq!(
            fs::read_to_string(device.dir.path().join("victim")).unwrap(),
            "untouched"
        );
        assert_eq!(
            fs::read_dir(device.dir.path()).unwrap().count(),
            2,
            "{said}"
        );
        // The broken blob was dropped: it is asked for again, not run.
        let Status::Missing(needs) = device.store.status(&image.reference).unwrap() else {
            panic!("{said}")
        };
        assert_eq!(needs[0].kind, NeedKind::Layer(1));
    }
    assert_eq!(listing(Path::new("/etc")), host);
}

#[test]
fn bombs_stop_at_the_quota() {
    let quota = 4 << 20;
    let zeros = vec![0u8; 64 << 20];
    let big = Tar::default()
        .item(Item {
            path: "big",
            content: &zeros,
            ..ITEM
        })
        .end();
    let holes = Tar::default()
        .item(Item {
            path: "holes",
            content: b"abc",
            pax: &[
                ("GNU.sparse.size", b"1099511627776"),
                ("GNU.sparse.map", b"4096,3"),
            ],
            ..ITEM
        })
        .end();
    // Zeros after the end of the tar are read for the digest, and count.
    let tail = [Tar::default().file("f", "").end(), zeros.clone()].concat();
    for plain in [big, holes, tail] {
        for blob in [gzip(&plain), zstd(&plain)] {
            let device = Device::with_quota(quota);
            let said = chain(
                device
                    .take(&image_of(&[(blob, plain.clone())]))
                    .unwrap_err()
                    .as_ref(),
            );
            assert!(
                said.contains("unpacks to more than 4194304 bytes"),
                "{said}"
            );
            assert_eq!((device.entries("tmp"), device.entries("layers")), (0, 0));
        }
    }
}

#[test]
fn what_is_not_what_it_claims_is_refused() {
    let layer = Tar::default().file("f", "content").end();
    let other = Tar::default().file("f", "changed").end();
    // The config says something else than the layer holds.
    let device = Device::new();
    let said = chain(
        device
            .take(&image_of(&[(gzip(&layer), other.clone())]))
            .unwrap_err()
            .as_ref(),
    );
    assert!(said.contains("but the config says"), "{said}");
    assert_eq!((device.entries("tmp"), device.entries("layers")), (0, 0));
    // Cut off in transit, by a manifest that was made for the cut blob.
    for whole in [gzip(&layer), zstd(&layer)] {
        let cut = whole[..whole.len() - 9].to_vec();
        let device = Device::new();
        let said = chain(
            device
                .take(&image_of(&[(cut, layer.clone())]))
                .unwrap_err()
                .as_ref(),
        );
        assert!(said.contains("layer 1 of 1"), "{said}");
        assert_eq!((device.entries("tmp"), device.entries("layers")), (0, 0));
    }
    // Another blob than the one asked for.
    let device = Device::new();
    let need = Need {
        digest: Digest::of(&layer),
        size: other.len() as u64,
        kind: NeedKind::Layer(0),
    };
    let mut writer = device.store.begin(&need).unwrap();
    writer.write(&other).unwrap();
    let said = writer.finish().unwrap_err().to_string();
    assert!(said.contains("arrived as"), "{said}");
    let mut writer = device.store.begin(&need).unwrap();
    assert_eq!(writer.offset(), 0);
    let said = writer
        .write(&vec![0; other.len() + 1])
        .unwrap_err()
        .to_string();
    assert!(said.contains("longer than"), "{said}");
    drop(writer);
    assert_eq!(device.entries("blobs"), 0);
}

#[test]
fn bad_manifests_and_configs_are_refused() {
    let layer = Tar::default().file("f", "x").end();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let config = |text: &str| image_with(text.as_bytes().to_vec(), vec![layer.clone()]);
    let images = [
        ("cannot be read", image_from(b"no json".to_vec(), [])),
        ("cannot be read", image_from(deep.clone().into_bytes(), [])),
        ("schemaVersion 1", image_from(br#"{"schemaVersion":1,"config":{"digest":"sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","size":1},"layers":[]}"#.to_vec(), [])),
        ("128 layers", plain_image(&vec![layer.clone(); 128])),
        ("0 layers (rootfs.diff_ids)", config(r#"{"rootfs":{}}"#)),
        ("cannot be read", config(&format!(r#"{{"rootfs":{deep}}}"#))),
        ("system 'windows'", config(r#"{"os":"windows","rootfs":{}}"#)),
    ];
    for (words, image) in images {
        let device = Device::new();
        let said = chain(device.take(&image).unwrap_err().as_ref());
        assert!(
            said.contains(words) && said.contains("test/app:1"),
            "expected {words:?} in: {said}"
        );
        assert_eq!((device.entries("tmp"), device.entries("layers")), (0, 0));
    }
    let huge = ImageRef {
        reference: "a".into(),
        manifest: Digest::of(b""),
        manifest_size: 5 << 20,
    };
    let said = chain(&Device::new().store.status(&huge).unwrap_err());
    assert!(said.contains("4194304"), "{said}");
}

#[test]
fn as_many_layers_as_the_kernel_mounts() {
    let layers: Vec<Vec<u8>> = (0..127)
        .map(|n| Tar::default().file(&format!("f{n}"), "x").end())
        .collect();
    let device = Device::new();
    let ready = device.take(&plain_image(&layers)).unwrap();
    assert_eq!(merged(&ready, "ls | wc -l"), "127\n");
}

/// A power cut after any number of bytes, then more bytes, to the end.
#[test]
fn a_cut_at_any_byte_is_continued() {
    let layer = Tar::default().file("f", &"content ".repeat(100)).end();
    let image = image_of(&[(gzip(&layer), layer)]);
    for step in [1usize, 7, 64, 150] {
        let mut device = Device::new();
        let mut sent = 0;
        let ready = loop {
            match device.store.unpack(&image.reference).unwrap() {
                Status::Ready(ready) => break ready,
                Status::Fetched => unreachable!(),
                Status::Missing(needs) => {
                    let bytes = &image.blobs[&needs[0].digest];
                    let mut writer = device.store.begin(&needs[0]).unwrap();
                    let offset = writer.offset() as usize;
                    let end = bytes.len().min(offset + step);
                    writer.write(&bytes[offset..end]).unwrap();
                    sent += end - offset;
                    if end == bytes.len() {
                        writer.finish().unwrap();
                    } else {
                        drop(writer);
                    }
                    // Half an unpacked layer, as a cut would leave it.
                    let half = device.images().join("tmp/half/etc");
                    fs::create_dir_all(&half).unwrap();
                    fs::write(half.join("passwd"), "half").unwrap();
                    device = device.restart();
                    assert_eq!(device.entries("tmp"), 0);
                }
            }
        };
        // No byte came twice.
        assert_eq!(sent, image.blobs.values().map(Vec::len).sum::<usize>());
        assert_eq!(names(&ready), "f");
    }
}

#[test]
fn torn_parts_and_documents_are_noticed_and_fetched_again() {
    let layer = Tar::default().file("f", "content").end();
    let image = plain_image(std::slice::from_ref(&layer));
    let device = Device::new();
    // The file has its length, but the disk never got the bytes.
    let part = device
        .images()
        .join("blobs")
        .join(format!("{}.part", Digest::of(&layer).hex()));
    fs::write(&part, vec![0; 700]).unwrap();
    let said = chain(device.take(&image).unwrap_err().as_ref());
    assert!(said.contains("fetch it again"), "{said}");
    device.take(&image).unwrap();
    // A manifest that rotted on the card.
    let manifest = device
        .images()
        .join("blobs")
        .join(image.reference.manifest.hex());
    fs::write(&manifest, "rotten").unwrap();
    let Status::Missing(needs) = device.store.status(&image.reference).unwrap() else {
        panic!("rotten")
    };
    assert_eq!(needs[0].kind, NeedKind::Manifest);
    device.take(&image).unwrap();
    // A part longer than the blob.
    fs::write(&part, vec![0; layer.len() + 1]).unwrap();
    let need = Need {
        digest: Digest::of(&layer),
        size: layer.len() as u64,
        kind: NeedKind::Layer(0),
    };
    let writer = device.store.begin(&need).unwrap();
    assert_eq!(writer.offset(), 0);
    // One writer at a time.
    assert!(
        device
            .store
            .begin(&need)
            .unwrap_err()
            .to_string()
            .contains("already")
    );
}

/// umoci makes an image of two layers from real trees; what it unpacks and
/// what overlayfs shows of ours must be the same.
#[test]
fn agrees_with_umoci() {
    let work = tempfile::tempdir().unwrap();
    let at = |path: &str| work.path().join(path);
    let umoci = |args: &[&str]| run(Command::new("umoci").args(args).current_dir(work.path()));
    umoci(&["init", "--layout", "oci"]);
    umoci(&["new", "--image", "oci:app"]);
    umoci(&["unpack", "--image", "oci:app", "one"]);
    let build = r"
        set -e; cd one/rootfs
        cp -a /usr/share/doc/base-files /usr/share/zoneinfo/Europe .
        mkdir -p bin etc tmp old/deep opaque; chmod 1777 tmp; chown 12:34 opaque
        cp /bin/busybox bin/; chmod 4755 bin/busybox; ln bin/busybox bin/sh; ln -s /bin/sh bin/link
        echo a > opaque/a; echo x > old/deep/x; echo conf > etc/conf; mknod etc/null c 1 3; mkfifo etc/pipe
        touch 'etc/odd name' etc/caf\303\251; touch -d 1971-01-01 etc/conf";
    run(Command::new("bash")
        .args(["-c", build])
        .current_dir(work.path()));
    umoci(&["repack", "--image", "oci:app", "one"]);
    umoci(&["unpack", "--image", "oci:app", "two"]);
    let change = r"
        set -e; cd two/rootfs
        rm -r old opaque etc/pipe Europe/Berlin; mkdir opaque; echo b > opaque/b; echo changed > etc/conf
        rm bin/link; mkdir bin/link; echo y > bin/link/y; chmod 700 tmp";
    run(Command::new("bash")
        .args(["-c", change])
        .current_dir(work.path()));
    umoci(&["repack", "--image", "oci:app", "two"]);
    umoci(&["unpack", "--image", "oci:app", "theirs"]);

    let read = |path: PathBuf| fs::read(path).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&read(at("oci/index.json"))).unwrap();
    let digest: Digest = index["manifests"][0]["digest"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let blobs = fs::read_dir(at("oci/blobs/sha256"))
        .unwrap()
        .map(|e| read(e.unwrap().path()));
    let mut image = image_from(read(at("oci/blobs/sha256").join(digest.hex())), blobs);
    image.reference.reference = "umoci:app".into();
    let device = Device::new();
    let ready = device.take(&image).unwrap();
    assert_eq!(ready.layers.len(), 2);
    let script = r"find . -mindepth 1 \( -type d -printf '%P %y %m %U %G\n' -o -type f -printf '%P %y %m %U %G %s %n %Ts ' -exec sha256sum -- {} \; -o -printf '%P %y %m %U %G %l\n' \) | sort";
    let ours = merged(&ready, script);
    let theirs = run(Command::new("sh")
        .arg("-c")
        .arg(script)
        .current_dir(at("theirs/rootfs")));
    assert_eq!(ours, theirs);
    assert!(ours.lines().count() > 60, "a real tree was compared");
}

// ---- what nobody needs, and what the disk loses ----

/// Minutes after some boot, by a clock that nobody vouches for.
fn minute(n: u64) -> Moment {
    Moment {
        boot_id: "this".into(),
        boot_ms: n * 60_000,
        wall: skerry_wire::Timestamp(0),
        trusted: false,
    }
}

fn numbered(n: u32) -> Image {
    let base = Tar::default().file("base", "b").end();
    let own = Tar::default()
        .file("own", &"x".repeat(n as usize + 1))
        .end();
    plain_image(&[base, own])
}

fn need(device: &Device, images: &[&Image]) {
    let manifests = images.iter().map(|image| image.reference.manifest);
    device.store.need(manifests.collect());
}

fn collect(device: &Device, used: &[&Image], now: u64, full: u8) -> Collected {
    let used = used.iter().map(|image| image.reference.manifest).collect();
    let policy = Policy::default();
    let collected = device
        .store
        .collect(&used, &minute(now), &policy, || Some(full));
    collected.unwrap()
}

fn is_here(device: &Device, image: &Image) -> bool {
    matches!(
        device.store.status(&image.reference).unwrap(),
        Status::Ready(_)
    )
}

#[test]
fn an_image_that_nobody_needs_stays_until_the_disk_is_full_or_it_is_old() {
    let device = Device::new();
    let images: Vec<Image> = (0..5).map(numbered).collect();
    for image in &images {
        device.take(image).unwrap();
    }
    // Nobody knows what is needed: nothing goes, however full the disk is.
    assert_eq!(collect(&device, &[], 0, 100).removed, 0);
    // They come to be of no use one after the other: 2, then 0, then 1.
    need(&device, &[&images[0], &images[1], &images[3], &images[4]]);
    assert_eq!(collect(&device, &[], 1, 50).unneeded, 1);
    need(&device, &[&images[1], &images[3]]);
    // A container still runs from 4.
    assert_eq!(collect(&device, &[&images[4]], 2, 50).unneeded, 2);
    let device = device.restart();
    need(&device, &[&images[3]]);
    let seen = collect(&device, &[&images[4]], 3, 85);
    assert_eq!((seen.removed, seen.unneeded, seen.here), (0, 3, 5));

    // Full: the one that has been of no use for longest goes first, and only
    // as many as it takes. A restart has not made them forget since when.
    let fullness = std::cell::Cell::new(86);
    let full = || {
        let here = device.entries("layers");
        fullness.set(if here >= 6 { 86 } else { 80 });
        Some(fullness.get())
    };
    let used = [images[4].reference.manifest].into();
    let collected = device
        .store
        .collect(&used, &minute(4), &Policy::default(), full);
    assert_eq!(collected.unwrap().removed, 1);
    let here = |n: usize| is_here(&device, &images[n]);
    assert_eq!([0, 1, 2, 3, 4].map(here), [true, true, false, true, true]);

    // Old: all that nobody needs goes, what a container runs from does not.
    let month = 30 * 24 * 60;
    assert_eq!(collect(&device, &[&images[4]], month + 2, 10).removed, 1);
    assert_eq!(collect(&device, &[&images[4]], month + 3, 10).removed, 1);
    assert_eq!([0, 1, 2, 3, 4].map(here), [false, false, false, true, true]);
    // The layer that they share is still there, and nothing of the others.
    assert_eq!(device.entries("layers"), 3);
    assert_eq!(device.entries("marks"), 3);
    assert_eq!(device.entries("blobs"), 4);
    assert_eq!(device.entries("tmp"), 0);
    assert_eq!(collect(&device, &[], month + 4, 90).removed, 1);
    assert!(here(3), "however full the disk is");
}

#[test]
fn a_wall_clock_that_nobody_vouches_for_makes_no_image_old() {
    let device = Device::new();
    let (old, new) = (numbered(1), numbered(2));
    device.take(&old).unwrap();
    need(&device, &[&new]);
    let at = |wall: u64, trusted| Moment {
        wall: skerry_wire::Timestamp(wall),
        trusted,
        ..minute(1)
    };
    let policy = Policy::default();
    let removed = |now: Moment| {
        let used = BTreeSet::new();
        let collected = device.store.collect(&used, &now, &policy, || Some(50));
        collected.unwrap().removed
    };
    let day = 24 * 3_600 * 1_000;
    assert_eq!(removed(at(1_000 * day, true)), 0);
    // 1970, and a leap ahead.
    assert_eq!(removed(at(0, false)), 0);
    assert_eq!(removed(at(9_000 * day, false)), 0);
    assert_eq!(removed(at(1_029 * day, true)), 0);
    assert_eq!(removed(at(1_030 * day, true)), 1);
}

#[test]
fn an_idle_look_for_what_nobody_needs_writes_nothing() {
    let device = Device::new();
    let (one, two) = (numbered(1), numbered(2));
    device.take(&one).unwrap();
    device.take(&two).unwrap();
    need(&device, &[&one]);
    collect(&device, &[], 1, 50);
    let script = "find . -printf '%P %s %T@ %C@ %A@\\n' | sort";
    let all = || {
        run(Command::new("sh")
            .arg("-c")
            .arg(script)
            .current_dir(device.images()))
    };
    // Looking itself leaves its time, once.
    all();
    let before = all();
    for n in 2..100 {
        assert_eq!(collect(&device, &[], n * 10, 50).unneeded, 1);
    }
    assert_eq!(all(), before);
}

#[test]
fn what_is_left_of_a_pull_that_was_given_up_goes() {
    let device = Device::new();
    let (wanted, given_up) = (numbered(1), numbered(2));
    device.take(&wanted).unwrap();
    need(&device, &[&wanted, &given_up]);
    let need_of = |device: &Device| match device.store.status(&given_up.reference).unwrap() {
        Status::Missing(needs) => needs[0],
        other => panic!("{other:?}"),
    };
    // Manifest and config are here, and a part of the layer.
    for _ in 0..2 {
        device.push(&need_of(&device), &given_up).unwrap();
    }
    let mut writer = device.store.begin(&need_of(&device)).unwrap();
    writer.write(&[0; 100]).unwrap();
    drop(writer);
    collect(&device, &[], 1, 99);
    assert_eq!(device.entries("blobs"), 5, "it is still wanted");
    need(&device, &[&wanted]);
    let collected = collect(&device, &[], 2, 10);
    assert_eq!(collected.removed, 0, "it never was an image");
    assert_eq!(device.entries("blobs"), 2);
    assert!(is_here(&device, &wanted));
}

#[test]
fn a_power_cut_while_an_image_is_removed_leaves_none_that_claims_to_be_whole() {
    let gone = numbered(1);
    let manifest = gone.reference.manifest.hex();
    // However far it came: the manifest goes first, then layers are moved, then
    // emptied; other files in any order.
    for step in 0..4 {
        let device = Device::new();
        let stays = numbered(2);
        device.take(&stays).unwrap();
        let ready = device.take(&gone).unwrap();
        let own = ready.layers[1].clone();
        let moved = device.images().join("tmp/gone-layer");
        fs::remove_file(device.images().join("blobs").join(&manifest)).unwrap();
        if step > 0 {
            fs::rename(&own, &moved).unwrap();
        }
        if step > 1 {
            fs::remove_file(moved.join("own")).unwrap();
        }
        if step > 2 {
            let marks = device.images().join("marks");
            fs::remove_file(marks.join(own.file_name().unwrap())).unwrap();
        }
        let device = device.restart();
        assert!(!is_here(&device, &gone), "{step}");
        need(&device, &[&stays]);
        collect(&device, &[], 1, 10);
        assert_eq!(device.entries("layers"), 2, "{step}");
        assert_eq!(device.entries("marks"), 2, "{step}");
        assert_eq!(device.entries("blobs"), 2, "{step}");
        assert_eq!(device.entries("tmp"), 0, "{step}");
        assert!(is_here(&device, &stays), "{step}");
        device.take(&gone).unwrap();
    }
}

#[test]
fn a_damaged_layer_is_found_and_replaced_while_containers_run_from_the_old_one() {
    let base = Tar::default().dir("bin").file("bin/sh", "shell").end();
    let top = Tar::default()
        .dir("etc")
        .file("etc/name", "app")
        .symlink("etc/link", "name")
        .end();
    let image = plain_image(&[base, top]);
    let other = numbered(7);
    let device = Device::new();
    let ready = device.take(&image).unwrap();
    device.take(&other).unwrap();
    assert_eq!(device.store.examine(&image.reference).unwrap(), []);
    // As fsck does it, and as a truncated inode looks.
    type Harm = fn(&Path);
    let harms: [(usize, Harm); 5] = [
        (0, |dir| fs::remove_file(dir.join("bin/sh")).unwrap()),
        (0, |dir| fs::write(dir.join("bin/sh"), "").unwrap()),
        (0, |dir| fs::remove_dir_all(dir.join("bin")).unwrap()),
        (1, |dir| fs::remove_file(dir.join("etc/link")).unwrap()),
        (1, |dir| {
            fs::rename(dir.join("etc/name"), dir.join("etc/x")).unwrap()
        }),
    ];
    for (number, (layer, harm)) in harms.into_iter().enumerate() {
        harm(&ready.layers[layer]);
        assert!(is_here(&device, &image), "nobody has looked yet");
        let damaged = device.store.examine(&image.reference).unwrap();
        let numbers: Vec<usize> = damaged.iter().map(|layer| layer.number).collect();
        assert_eq!(numbers, [layer + 1], "{number}");
        let Status::Missing(needs) = device.store.status(&image.reference).unwrap() else {
            panic!("{number}: it is to be fetched again");
        };
        assert_eq!(needs.len(), 1);
        assert_eq!(needs[0].kind, NeedKind::Layer(layer));
        // Until then it is better than nothing.
        let usable = device.store.usable(&image.reference).unwrap();
        assert_eq!(usable, Some(ready.clone()));
        assert_eq!(device.take(&image).unwrap(), ready);
        assert_eq!(device.store.examine(&image.reference).unwrap(), []);
        assert_eq!(merged(&ready, "cat bin/sh etc/link"), "shellapp");
        assert_eq!(device.entries("aside"), number + 1);
        assert!(is_here(&device, &other));
    }
    // A layer that is not there at all is missing without being looked for.
    fs::remove_dir_all(&ready.layers[1]).unwrap();
    assert_eq!(device.store.usable(&image.reference).unwrap(), None);
    device.take(&image).unwrap();
    // Those who ran from the old ones are gone with the boot.
    let stale = device.images().join("aside/another-boot.layer.0");
    fs::create_dir(&stale).unwrap();
    let device = device.restart();
    assert_eq!(device.entries("aside"), 5);
    assert!(!stale.exists());
}
