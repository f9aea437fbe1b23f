//! What is refused: layers that attack, blobs that are not what they claim.

use super::*;
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
