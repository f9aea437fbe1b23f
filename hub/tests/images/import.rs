//! Images out of archives.

use crate::archives::{self, Archive, Image, listing, run};
use crate::hub::{Hub, names, platforms};
use skerry_hub::chain::chain;
use skerry_hub::image::{BlobStore, ImportOptions, import_archive, import_path};
use skerry_hub::model;
use skerry_wire::{Digest, Timestamp};
use std::fs::{self, File};
use std::process::Command;

fn options(name: Option<&str>) -> ImportOptions {
    let name = name.map(|n| n.parse().unwrap());
    ImportOptions {
        name,
        now: Timestamp(77),
        max_bytes: 64 << 20,
    }
}

fn import(hub: &Hub, archive: &[u8], name: Option<&str>) -> Result<Vec<model::Image>, String> {
    import_archive(&hub.store, archive, &options(name)).map_err(|e| chain(&e))
}

#[test]
fn an_archive_of_every_compression_is_taken() {
    let forms = [
        archives::plain as archives::Pack,
        archives::gzip,
        archives::zstd,
    ];
    for layers in forms {
        for outer in forms {
            let hub = Hub::new();
            let image = Image::new("arm64", "", &["one", "two"], layers);
            let archive = Archive::layout(&[(Some("demo/hello:1"), &image)]).end();
            let records = import(&hub, &outer(&archive), None).unwrap();
            assert_eq!(names(&records), ["docker.io/demo/hello:1"]);
            assert_eq!(records[0].added, Timestamp(77));
            assert_eq!(platforms(&records[0]), "linux/arm64");
            hub.check(&records[0]);
            // Again: the same names, the same digests, nothing new.
            let before = listing(hub.dir.path());
            assert_eq!(import(&hub, &archive, None).unwrap(), records);
            assert_eq!(listing(hub.dir.path()), before);
        }
    }
}

#[test]
fn an_index_has_an_image_for_each_platform() {
    let amd64 = Image::new("amd64", "", &["base", "amd64"], archives::gzip);
    let v7 = Image::new("arm", "v7", &["base", "v7"], archives::gzip);
    let absent = Image::new("riscv64", "", &["base", "riscv64"], archives::gzip);
    let list = [&amd64, &v7];
    // With BuildKit's attestation and a Windows image beside.
    let index = archives::index(&[&amd64, &v7, &absent], &[]);
    let outer = archives::index(&[], &[&index]);
    for (root, more) in [(&index, None), (&outer, Some(&index))] {
        let hub = Hub::new();
        let mut archive = Archive::index(Some("r.example/team/app:2"), root, &list);
        if let Some(nested) = more {
            archive = archive.blob(nested);
        }
        let record = import(&hub, &archive.end(), None).unwrap().remove(0);
        assert_eq!(record.digest, Digest::of(root));
        assert_eq!(platforms(&record), "linux/amd64 linux/arm/v7");
        hub.check(&record);
        assert_eq!(record.platforms[1].manifest, v7.digest());
    }
}

#[test]
fn several_images_and_names() {
    let hub = Hub::new();
    let one = Image::new("amd64", "", &["one"], archives::gzip);
    let two = Image::new("amd64", "", &["two"], archives::gzip);
    let archive = Archive::layout(&[(Some("a/one:1"), &one), (Some("a/two:2"), &two)]).end();
    let records = import(&hub, &archive, None).unwrap();
    assert_eq!(names(&records), ["docker.io/a/one:1", "docker.io/a/two:2"]);
    let said = import(&hub, &archive, Some("b/c:1")).unwrap_err();
    assert!(said.contains("has 2 images"), "{said}");
    // Entries of one name are its platforms.
    let arm = Image::new("arm64", "", &["arm"], archives::gzip);
    let archive = Archive::layout(&[(Some("a/one:1"), &one), (Some("a/one:1"), &arm)]).end();
    let record = import(&hub, &archive, None).unwrap().remove(0);
    assert_eq!(platforms(&record), "linux/amd64 linux/arm64");
    hub.check(&record);
    // A name that is only a tag, and none at all.
    for name in [Some("latest"), None] {
        let archive = Archive::layout(&[(name, &one)]).end();
        let said = import(&hub, &archive, None).unwrap_err();
        assert!(said.contains("--name"), "{said}");
        let record = import(&hub, &archive, Some("named:5")).unwrap().remove(0);
        assert_eq!(record.reference, "docker.io/library/named:5");
    }
}

#[test]
fn what_docker_save_writes_in_all_its_ages() {
    let image = Image::new("amd64", "", &["one", "two", "one"], archives::plain);
    let tags = r#"["team/app:1","team/app:latest"]"#;
    let hex = Digest::of(&image.config).hex();
    // The old form; a layer that repeats is a link.
    let layers = r#"["a/layer.tar","b/layer.tar","c/layer.tar"]"#;
    let manifest = format!(r#"[{{"Config":"{hex}.json","RepoTags":{tags},"Layers":{layers}}}]"#);
    let old = Archive::default()
        .file("a/layer.tar", &image.layers[0])
        .file("b/layer.tar", &image.layers[1])
        .link("c/layer.tar", "../a/layer.tar")
        .file("a/VERSION", b"1.0")
        .file(&format!("{hex}.json"), &image.config)
        .file("repositories", b"{}")
        .file("manifest.json", manifest.as_bytes())
        .end();
    let hub = Hub::new();
    let records = import(&hub, &old, None).unwrap();
    assert_eq!(
        names(&records),
        ["docker.io/team/app:1", "docker.io/team/app:latest"]
    );
    assert_eq!(records[0].platforms, records[1].platforms);
    assert_eq!(records[0].platforms[0].blobs.len(), 1 + 3);
    hub.check(&records[0]);
    // Since version 25 it is an OCI layout, too; names may only be in one.
    let path = |l: &Vec<u8>| format!("\"blobs/sha256/{}\"", Digest::of(l).hex());
    let layers: Vec<String> = image.layers.iter().map(path).collect();
    let config = path(&image.config);
    let manifest = format!(
        r#"[{{"Config":{config},"RepoTags":{tags},"Layers":[{}]}}]"#,
        layers.join(",")
    );
    let both = |name| {
        Archive::layout(&[(name, &image)])
            .file("manifest.json", manifest.as_bytes())
            .end()
    };
    assert_eq!(import(&Hub::new(), &both(None), None).unwrap().len(), 2);
    let records = import(&Hub::new(), &both(Some("team/app:1")), None).unwrap();
    assert_eq!(records[0].digest, image.digest());
}

#[test]
fn what_umoci_and_skopeo_write() {
    let work = tempfile::tempdir().unwrap();
    let at = |path: &str| work.path().join(path);
    let tool =
        |name: &str, args: &[&str]| run(Command::new(name).args(args).current_dir(work.path()));
    tool("umoci", &["init", "--layout", "oci"]);
    tool("umoci", &["new", "--image", "oci:1.0"]);
    tool("umoci", &["unpack", "--image", "oci:1.0", "bundle"]);
    fs::write(at("bundle/rootfs/hello"), "hello").unwrap();
    tool("umoci", &["repack", "--image", "oci:1.0", "bundle"]);
    tool(
        "umoci",
        &["config", "--image", "oci:1.0", "--architecture", "arm64"],
    );
    let hub = Hub::new();
    let named = options(Some("team/app:1.0"));
    let record = import_path(&hub.store, &at("oci"), &named)
        .unwrap()
        .remove(0);
    assert_eq!(platforms(&record), "linux/arm64");
    hub.check(&record);
    for form in ["oci-archive", "docker-archive"] {
        let to = format!("{form}:{form}.tar:team/app:1.0");
        tool("skopeo", &["--insecure-policy", "copy", "oci:oci:1.0", &to]);
        let hub = Hub::new();
        let file = at(&format!("{form}.tar"));
        let other = import_path(&hub.store, &file, &options(None))
            .unwrap()
            .remove(0);
        assert_eq!(other.reference, "docker.io/team/app:1.0");
        hub.check(&other);
    }
}

#[test]
fn bad_archives_leave_nothing() {
    let good = Image::new("amd64", "", &["one", "two"], archives::gzip);
    let layout = || Archive::layout(&[(Some("a/b:1"), &good)]);
    let with = |image: &Image| Archive::layout(&[(Some("a/b:1"), image)]).end();
    let named = |manifest: &[u8]| Archive::manifest(Some("a/b:1"), manifest).end();
    let cut = |pack: archives::Pack| {
        let mut image = Image::new("amd64", "", &["one"], pack);
        let half = image.layers[0].len() / 2;
        image.layers[0].truncate(half);
        image
    };
    let mut other_layer = Image::new("amd64", "", &["one"], archives::gzip);
    other_layer.layers[0] = archives::gzip(&archives::layer("changed"));
    let mut counted = Image::new("amd64", "", &["one"], archives::gzip);
    counted.layers.push(archives::layer("more"));
    let many: Vec<String> = (0..128).map(|n| n.to_string()).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let many = Image::new("amd64", "", &many, archives::plain);
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let docker = |text: &str| {
        Archive::default()
            .file("manifest.json", text.as_bytes())
            .end()
    };
    let index = |text: &[u8]| {
        Archive::default()
            .file("oci-layout", b"{}")
            .file("index.json", text)
            .end()
    };
    let whole = layout().end();
    let damaged = {
        let mut bytes = whole.clone();
        let at = bytes
            .windows(4)
            .position(|w| w == [0x1f, 0x8b, 8, 0])
            .unwrap();
        bytes[at + 20] ^= 1;
        bytes
    };
    let corpus: Vec<(&str, Vec<u8>)> = vec![
        ("no image archive", Vec::new()),
        (
            "broken or cut off",
            b"this is no archive at all".repeat(100),
        ),
        (
            "no image archive",
            Archive::default().file("hello", b"world").end(),
        ),
        ("broken or cut off", whole[..whole.len() / 2 - 100].to_vec()),
        ("broken or cut off", archives::gzip(&whole)[..300].to_vec()),
        ("is damaged", damaged),
        ("layer 1 of 1", with(&cut(archives::gzip))),
        ("layer 1 of 1", with(&cut(archives::zstd))),
        ("but its config says", with(&other_layer)),
        ("names 1 layers", with(&counted)),
        ("127 layers", with(&many)),
        ("windows", with(&Image::with_os("windows"))),
        ("layer sha256:", layout().without(&good.layers[1]).end()),
        ("config sha256:", layout().without(&good.config).end()),
        ("manifest sha256:", layout().without(&good.manifest()).end()),
        (
            "'..' in its name",
            layout().file("../../etc/cron.d/x", b"x").end(),
        ),
        (
            "'..' in its name",
            layout().file("blobs/../../x", b"x").end(),
        ),
        (
            "leads out of the archive",
            layout().link("a/b", "../../../etc/passwd").end(),
        ),
        ("is a device", layout().device("null").end()),
        (
            "header is longer than 1 MiB",
            layout().long_name(3 << 20).end(),
        ),
        ("index.json cannot be read", index(b"{")),
        (
            "index.json cannot be read",
            index(format!(r#"{{"manifests":{deep}}}"#).as_bytes()),
        ),
        (
            "more than 4194304 bytes in a document",
            index(&vec![b' '; 5 << 20]),
        ),
        ("cannot be read", named(deep.as_bytes())),
        (
            "cannot be read",
            named(br#"{"schemaVersion":2,"config":7}"#),
        ),
        ("schema 1", named(br#"{"schemaVersion":1,"fsLayers":[]}"#)),
        (
            "without config and layers",
            named(br#"{"schemaVersion":2}"#),
        ),
        ("longer than 4 MiB", named(&vec![b' '; 5 << 20])),
        (
            "not a container image",
            named(&archives::artifact_manifest(&good)),
        ),
        ("manifest.json cannot be read", docker("{}")),
        ("manifest.json cannot be read", docker(&deep)),
        (
            "has no \"../../etc/passwd\"",
            docker(r#"[{"Config":"../../etc/passwd","RepoTags":["a:1"],"Layers":[]}]"#),
        ),
        (
            "name for an image is not usable",
            docker(r#"[{"Config":"manifest.json","RepoTags":["../x"],"Layers":[]}]"#),
        ),
        (
            "has no \"a/layer.tar\"",
            docker(r#"[{"Config":"manifest.json","RepoTags":["a:1"],"Layers":["a/layer.tar"]}]"#),
        ),
        (
            "more than 67108864 bytes",
            Archive::default().file("big", &vec![0; 65 << 20]).end(),
        ),
    ];
    for (words, archive) in corpus {
        let hub = Hub::new();
        let before = listing(hub.dir.path());
        let said = import(&hub, &archive, None).expect_err(words);
        assert!(said.contains(words), "expected {words:?} in: {said}");
        assert_eq!(listing(hub.dir.path()), before, "{said}");
    }
}

/// A good image beside a bad one: neither is kept.
#[test]
fn an_archive_comes_whole_or_not_at_all() {
    let good = Image::new("amd64", "", &["one"], archives::gzip);
    let mut bad = Image::new("amd64", "", &["two"], archives::gzip);
    bad.layers[0] = archives::layer("other");
    let hub = Hub::new();
    let archive = Archive::layout(&[(Some("good:1"), &good), (Some("bad:1"), &bad)]).end();
    let said = import(&hub, &archive, None).unwrap_err();
    assert!(said.contains("image bad:1"), "{said}");
    assert_eq!(hub.blobs(), 0);
}

#[test]
fn leftovers_of_a_killed_hub_are_swept() {
    let hub = Hub::new();
    let image = Image::new("amd64", "", &["one"], archives::gzip);
    let archive = Archive::layout(&[(Some("a:1"), &image)]).end();
    let record = import(&hub, &archive, None).unwrap().remove(0);
    let tmp = hub.dir.path().join("blobs/tmp");
    File::create(tmp.join("half")).unwrap();
    let store = BlobStore::open(hub.dir.path().join("blobs")).unwrap();
    assert_eq!(fs::read_dir(&tmp).unwrap().count(), 0);
    assert!(store.has(&record.digest));
}
