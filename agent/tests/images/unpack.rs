//! Layers to trees: what is kept of them.

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

#[test]
fn as_many_layers_as_the_kernel_mounts() {
    let layers: Vec<Vec<u8>> = (0..127)
        .map(|n| Tar::default().file(&format!("f{n}"), "x").end())
        .collect();
    let device = Device::new();
    let ready = device.take(&plain_image(&layers)).unwrap();
    assert_eq!(merged(&ready, "ls | wc -l"), "127\n");
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
