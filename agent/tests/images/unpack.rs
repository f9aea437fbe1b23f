//! Layers to trees: what is kept of them, what is refused.

use super::*;

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
    let mut writer = device.begin(&need).unwrap();
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
                    let mut writer = device.begin(&needs[0]).unwrap();
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
