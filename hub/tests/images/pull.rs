//! Images from registries.

use crate::archives::{self, Archive, Fake, Image, Registry, Reply, run};
use crate::hub::{Hub, platforms};
use skerry_hub::chain::chain;
use skerry_hub::image::credentials::Login;
use skerry_hub::image::{Progress, PullError, Reference, Registry as Client, RegistryOptions};
use skerry_hub::model::{self, Platform};
use skerry_wire::{Digest, Timestamp};
use std::fs;
use std::process::Command;
use std::time::Duration;

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
) -> Result<model::Image, PullError> {
    let name: Reference = name.parse().unwrap();
    let platforms: Vec<Platform> = platforms.iter().map(|p| p.parse().unwrap()).collect();
    client.pull(&hub.store, &name, &platforms, Timestamp(5), &mut |_| {})
}

fn said(result: Result<model::Image, PullError>) -> String {
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
        .pull(&hub.store, &reference, &[], Timestamp(6), &mut |p| {
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
        .pull(&hub.store, &name, &[], Timestamp(1), &mut count)
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
