//! Images into the hub: from archives made by hand, umoci and skopeo, and from
//! Debian's docker-registry. Needs umoci, skopeo and docker-registry.

mod archives;

use archives::{Archive, Fake, Image, Registry, Reply, chain, listing, run};
use skerry_hub::image::credentials::Login;
use skerry_hub::image::{
    BlobStore, ImageRecord, ImportOptions, Platform, Progress, PullError, RegistryOptions,
    import_archive, import_path, resolve_platform,
};
use skerry_hub::image::{Reference, Registry as Client};
use skerry_wire::Digest;
use std::fs::{self, File};
use std::io::Read;
use std::process::Command;
use std::time::Duration;

struct Hub {
    dir: tempfile::TempDir,
    store: BlobStore,
}

impl Hub {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = BlobStore::open(dir.path().join("blobs")).unwrap();
        Self { dir, store }
    }

    fn blobs(&self) -> usize {
        self.store.list().unwrap().len()
    }

    /// Every blob that a record names is here, whole, with its digest.
    fn check(&self, record: &ImageRecord) {
        assert!(self.store.has(&record.digest));
        for platform in &record.platforms {
            let manifest = [(platform.manifest, platform.manifest_size)];
            for (digest, size) in platform.blobs().chain(manifest) {
                let mut bytes = Vec::new();
                let mut file = self.store.open_at(&digest, 0).unwrap();
                file.read_to_end(&mut bytes).unwrap();
                assert_eq!((Digest::of(&bytes), bytes.len() as u64), (digest, size));
            }
        }
    }
}

fn options(name: Option<&str>) -> ImportOptions {
    let name = name.map(|n| n.parse().unwrap());
    ImportOptions {
        name,
        now_ms: 77,
        max_bytes: 64 << 20,
    }
}

fn import(hub: &Hub, archive: &[u8], name: Option<&str>) -> Result<Vec<ImageRecord>, String> {
    import_archive(&hub.store, archive, &options(name)).map_err(|e| chain(&e))
}

fn platforms(record: &ImageRecord) -> String {
    record
        .platforms
        .iter()
        .map(|p| p.platform().to_string())
        .collect::<Vec<_>>()
        .join(" ")
}

fn names(records: &[ImageRecord]) -> Vec<&str> {
    records.iter().map(|r| r.reference.as_str()).collect()
}

// ---- archives ----

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
            assert_eq!(records[0].imported_at, 77);
            assert_eq!(platforms(&records[0]), "linux/arm64");
            let unpacked = 2 * archives::layer("one").len() as u64;
            assert_eq!(records[0].platforms[0].unpacked_bytes, unpacked);
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
        assert_eq!(
            resolve_platform(&record, "arm", "v7").unwrap().manifest,
            v7.digest()
        );
        assert_eq!(resolve_platform(&record, "riscv64", ""), None);
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
    assert_eq!(records[0].platforms[0].layers.len(), 3);
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
        assert_eq!(
            other.platforms[0].unpacked_bytes,
            record.platforms[0].unpacked_bytes
        );
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

// ---- registries ----

fn client(change: impl FnOnce(&mut RegistryOptions)) -> Client {
    let first_backoff = Duration::from_millis(1);
    let mut options = RegistryOptions {
        first_backoff,
        ..Default::default()
    };
    change(&mut options);
    Client::new(options).unwrap()
}

fn pull(
    hub: &Hub,
    client: &mut Client,
    name: &str,
    platforms: &[&str],
) -> Result<ImageRecord, PullError> {
    let name: Reference = name.parse().unwrap();
    let platforms: Vec<Platform> = platforms.iter().map(|p| p.parse().unwrap()).collect();
    client.pull(&hub.store, &name, &platforms, 5, &mut |_| {})
}

fn said(result: Result<ImageRecord, PullError>) -> String {
    chain(&result.expect_err("refused"))
}

fn login(options: &mut RegistryOptions, registry: &str, password: &str) {
    let login = Login {
        user: "ann".into(),
        password: password.into(),
    };
    options.credentials.set(registry, login);
}

/// Pushes an image of three platforms with skopeo; the first and the last.
fn push(registry: &Registry, extra: &[&str]) -> (Image, Image) {
    let amd64 = Image::new("amd64", "", &["base", "amd64"], archives::gzip);
    let v6 = Image::new("arm", "v6", &["base", "v6"], archives::gzip);
    let v7 = Image::new("arm", "v7", &["base", "v7"], archives::zstd);
    let index = archives::plain_index(&[&amd64, &v6, &v7]);
    let archive = Archive::index(Some("x/y:1"), &index, &[&amd64, &v6, &v7]).end();
    let file = registry.dir.path().join("push.tar");
    fs::write(&file, archive).unwrap();
    let from = format!("oci-archive:{}", file.display());
    let to = format!("docker://{}/team/app:1", registry.address);
    let args = [
        "--insecure-policy",
        "copy",
        "--all",
        "--preserve-digests",
        "--dest-tls-verify=false",
    ];
    run(Command::new("skopeo")
        .args(args)
        .args(extra)
        .args([&from, &to]));
    (amd64, v7)
}

#[test]
fn only_the_platforms_asked_for_are_pulled() {
    let registry = Registry::start("", &[]);
    let (amd64, v7) = push(&registry, &[]);
    let hub = Hub::new();
    let base = format!("{}/team/app", registry.address);
    let name = format!("{base}:1");
    let mut client = client(|_| {});
    let record = pull(&hub, &mut client, &name, &["linux/arm/v7", "linux/riscv64"]).unwrap();
    assert_eq!(record.reference, name);
    assert_eq!(platforms(&record), "linux/arm/v7");
    assert_eq!(record.platforms[0].manifest, v7.digest());
    hub.check(&record);
    // Index, manifest, config, two layers.
    assert_eq!(hub.blobs(), 5);
    // Another platform; its base in the same form would be shared.
    let more = pull(&hub, &mut client, &name, &["amd64"]).unwrap();
    assert_eq!(platforms(&more), "linux/amd64");
    assert_eq!(hub.blobs(), 9);
    let mut have = 0;
    let reference: Reference = name.parse().unwrap();
    let all = client
        .pull(&hub.store, &reference, &[], 6, &mut |p| {
            have += u32::from(matches!(p, Progress::Have { .. }));
        })
        .unwrap();
    assert_eq!(platforms(&all), "linux/amd64 linux/arm/v6 linux/arm/v7");
    assert_eq!(have, 5, "all layers but v6's own");
    // By the index's digest; by a manifest's digest.
    let pinned = format!("{base}@{}", all.digest);
    assert_eq!(
        pull(&hub, &mut client, &pinned, &["arm64", "amd64"])
            .unwrap()
            .digest,
        all.digest
    );
    let pinned = format!("{base}@{}", amd64.digest());
    let one = pull(&hub, &mut client, &pinned, &[]).unwrap();
    assert_eq!(
        (one.digest, platforms(&one).as_str()),
        (amd64.digest(), "linux/amd64")
    );
    // What is not there.
    let text = said(pull(&hub, &mut client, &name, &["linux/arm64"]));
    let words = "no image for linux/arm64, only for linux/amd64, linux/arm/v6, linux/arm/v7";
    assert!(text.contains(words), "{text}");
    let text = said(pull(&hub, &mut client, &format!("{base}:2"), &[]));
    assert!(
        text.contains("has no") && text.contains("/team/app:2; check name"),
        "{text}"
    );
}

// perl -e 'print crypt("secret", "\$2y\$05\$abcdefghijklmnopqrstuu")'
const HTPASSWD: &str = "ann:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

#[test]
fn basic_login() {
    let config = "auth: {htpasswd: {realm: test, path: '@DIR@/htpasswd'}}";
    let registry = Registry::start(config, &[("htpasswd", HTPASSWD)]);
    push(&registry, &["--dest-creds", "ann:secret"]);
    let name = format!("{}/team/app:1", registry.address);
    let hub = Hub::new();
    let text = said(pull(&hub, &mut client(|_| {}), &name, &["amd64"]));
    assert!(
        text.contains("wants a login") && text.contains("none is given"),
        "{text}"
    );
    let mut wrong = client(|o| login(o, &registry.address, "wrong"));
    let text = said(pull(&hub, &mut wrong, &name, &["amd64"]));
    assert!(text.contains("the one given is not accepted"), "{text}");
    assert_eq!(hub.blobs(), 0);
    let mut right = client(|o| login(o, &registry.address, "secret"));
    hub.check(&pull(&hub, &mut right, &name, &["amd64"]).unwrap());
}

/// docker-registry checks the tokens that the service of this test signs.
#[test]
fn bearer_tokens() {
    let service = archives::TokenService::start("ann", "secret");
    let config = format!(
        "auth: {{token: {{realm: 'http://{}/token', service: 'test registry', issuer: test, rootcertbundle: '@DIR@/token.pem'}}}}",
        service.address()
    );
    let registry = Registry::start(&config, &[("token.pem", &service.certificate)]);
    push(&registry, &["--dest-creds", "ann:secret"]);
    let name = format!("{}/team/app:1", registry.address);
    let hub = Hub::new();
    let text = said(pull(&hub, &mut client(|_| {}), &name, &["amd64"]));
    assert!(text.contains("wants a login"), "{text}");
    let before = service.requests().len();
    let mut right = client(|o| login(o, &registry.address, "secret"));
    hub.check(&pull(&hub, &mut right, &name, &["amd64"]).unwrap());
    let asked = service.requests();
    assert_eq!(asked.len(), before + 1, "one token for the whole pull");
    let path = &asked[before].path;
    assert_eq!(
        path,
        "/token?service=test%20registry&scope=repository%3Ateam%2Fapp%3Apull"
    );
}

#[test]
fn tls_only_to_whom_it_trusts() {
    let (certificate, key) = archives::certificate("127.0.0.1");
    let config = "tls: {certificate: '@DIR@/tls.pem', key: '@DIR@/tls.key'}";
    let registry = Registry::start_tls(config, &[("tls.pem", &certificate), ("tls.key", &key)]);
    push(&registry, &[]);
    let name = format!("{}/team/app:1", registry.address);
    let hub = Hub::new();
    let text = said(pull(
        &hub,
        &mut client(|o| o.tls_on_loopback = true),
        &name,
        &["amd64"],
    ));
    assert!(
        text.contains("no trusted TLS connection to 127.0.0.1"),
        "{text}"
    );
    let mut trusting = client(|o| {
        o.tls_on_loopback = true;
        o.extra_roots_pem = certificate.clone().into_bytes();
    });
    hub.check(&pull(&hub, &mut trusting, &name, &["amd64"]).unwrap());
}

#[test]
fn a_registry_that_is_not_there() {
    let address = format!("127.0.0.1:{}", skerry_test_port::free_port());
    let text = said(pull(
        &Hub::new(),
        &mut client(|_| {}),
        &format!("{address}/a:1"),
        &[],
    ));
    assert!(text.contains(&format!("cannot reach {address}")), "{text}");
}

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Blobs are elsewhere, the line breaks in the middle of them, and the registry
/// is busy at first. The login stays at home.
#[test]
fn trouble_that_passes() {
    let image = Image::new("amd64", "", &["one", "two"], archives::gzip);
    let (manifest, blobs) = (image.manifest(), image.blobs());
    let elsewhere = Fake::start(move |request, _| {
        let named = |b: &&Vec<u8>| request.path.ends_with(&Digest::of(b).hex());
        let Some(blob) = blobs.iter().find(named) else {
            return Reply::status(404);
        };
        let from = request
            .header("range")
            .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-'));
        match from.and_then(|from| from.parse::<usize>().ok()) {
            Some(from) => Reply {
                status: 206,
                ..Reply::ok("x", &blob[from..])
            },
            // The config comes whole, and is not asked for in parts.
            None if blob.first() == Some(&0x1f) => Reply {
                cut: Some(blob.len() / 2),
                ..Reply::ok("x", blob)
            },
            None => Reply::ok("x", blob),
        }
    });
    let target = elsewhere.address.replace("127.0.0.1", "localhost");
    let home = Fake::start(move |request, count| match request.path.as_str() {
        _ if request.header("authorization") != Some("Basic YW5uOnNlY3JldA==") => {
            Reply::status(401).with("WWW-Authenticate", "Basic realm=\"x\"")
        }
        "/v2/a/b/manifests/1" if count < 4 => Reply::status(503),
        "/v2/a/b/manifests/1" => Reply::ok(MANIFEST_TYPE, &manifest),
        path => Reply::status(307).with("Location", &format!("http://{target}{path}")),
    });
    let hub = Hub::new();
    let mut retries = 0;
    let mut with_login = client(|o| login(o, &home.address, "secret"));
    let name: Reference = format!("{}/a/b:1", home.address).parse().unwrap();
    let mut count = |p| retries += u32::from(matches!(p, Progress::Retrying { .. }));
    let record = with_login
        .pull(&hub.store, &name, &[], 1, &mut count)
        .unwrap();
    hub.check(&record);
    assert!(retries >= 3, "{retries}");
    let seen = elsewhere.requests();
    assert!(
        seen.len() >= 3 && seen.iter().all(|r| r.header("authorization").is_none()),
        "{seen:?}"
    );
    assert!(seen.iter().any(|r| r.header("range").is_some()), "{seen:?}");
}

#[test]
fn trouble_that_stays() {
    let image = Image::new("amd64", "", &["one"], archives::gzip);
    let manifest = image.manifest();
    let html = b"<html>Welcome!</html>".as_slice();
    let helm = archives::artifact_manifest(&image);
    let long = vec![b' '; 5 << 20];
    let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    let bearer = |realm: &str| {
        Reply::status(401).with("WWW-Authenticate", &format!("Bearer realm=\"{realm}\""))
    };
    let answers: Vec<(&str, Reply)> = vec![
        (
            "not a container image but 'text/html'",
            Reply::ok("text/html", html),
        ),
        (
            "cannot be read",
            Reply::ok("application/vnd.oci.image.index.v1+json", html),
        ),
        ("cannot be read", Reply::ok(MANIFEST_TYPE, html)),
        ("longer than 4 MiB", Reply::ok(MANIFEST_TYPE, &long)),
        ("schema 1", Reply::ok(schema1, b"{}")),
        ("not a container image", Reply::ok(MANIFEST_TYPE, &helm)),
        ("does not allow", Reply::status(403)),
        ("limits how much", Reply::status(429)),
        ("answered 500", Reply::status(500)),
        ("answered 418", Reply::status(418)),
        (
            "cannot reach",
            Reply {
                cut: Some(3),
                ..Reply::ok(MANIFEST_TYPE, &manifest)
            },
        ),
        ("redirect to nowhere", Reply::status(307)),
        (
            "too many redirects",
            Reply::status(307).with("Location", "/v2/a/b/manifests/1"),
        ),
        (
            "invalid address",
            Reply::status(307).with("Location", "file:///etc/passwd"),
        ),
        (
            "neither Basic nor Bearer",
            Reply::status(401).with("WWW-Authenticate", "Negotiate"),
        ),
        ("without https", bearer("http://evil.example/token")),
    ];
    for (words, reply) in answers {
        let fake = Fake::start(move |_, _| reply.clone());
        let hub = Hub::new();
        let text = said(pull(
            &hub,
            &mut client(|_| {}),
            &format!("{}/a/b:1", fake.address),
            &[],
        ));
        assert!(text.contains(words), "expected {words:?} in: {text}");
        assert_eq!(hub.blobs(), 0, "{text}");
    }
    // Another manifest than the digest says.
    let body = manifest.clone();
    let fake = Fake::start(move |_, _| Reply::ok(MANIFEST_TYPE, &body));
    let wrong = Digest::of(b"wrong");
    let name = format!("{}/a/b@{wrong}", fake.address);
    let text = said(pull(&Hub::new(), &mut client(|_| {}), &name, &[]));
    assert!(text.contains(&format!("for {wrong}")), "{text}");
    // Other bytes of a layer than the manifest says.
    let (config, length) = (image.config.clone(), image.layers[0].len());
    let fake = Fake::start(move |request, _| match request.path.as_str() {
        "/v2/a/b/manifests/1" => Reply::ok(MANIFEST_TYPE, &manifest),
        path if path.ends_with(&Digest::of(&config).hex()) => Reply::ok("x", &config),
        _ => Reply::ok("x", &vec![0; length]),
    });
    let hub = Hub::new();
    let text = said(pull(
        &hub,
        &mut client(|_| {}),
        &format!("{}/a/b:1", fake.address),
        &[],
    ));
    assert!(text.contains("should be sha256:"), "{text}");
    assert_eq!(hub.blobs(), 1, "only the config: {text}");
}
