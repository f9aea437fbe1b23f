//! Images and archives made by hand, and registries to pull from.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::SigningKey;
use serde_json::{Value, json};
use skerry_wire::Digest;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How a layer or archive is compressed.
pub type Pack = fn(&[u8]) -> Vec<u8>;

pub fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

/// A plain layer with one file.
pub fn layer(content: &str) -> Vec<u8> {
    Archive::default()
        .file("file", content.repeat(50).as_bytes())
        .end()
}

pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; install it"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// Every file under `dir` with its length.
pub fn listing(dir: &Path) -> String {
    let find = ["-mindepth", "1", "-printf", "%P %y %m %s\\n"];
    let mut lines: Vec<String> = run(Command::new("find").arg(dir).args(find))
        .lines()
        .map(str::to_owned)
        .collect();
    // A directory's size depends on its past.
    lines.retain(|line| !line.contains(" d "));
    lines.sort();
    lines.join("\n")
}

/// An image of one platform.
pub struct Image {
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
    platform: Value,
}

impl Image {
    pub fn new(arch: &str, variant: &str, contents: &[&str], pack: Pack) -> Self {
        let plain: Vec<Vec<u8>> = contents.iter().map(|content| layer(content)).collect();
        let diff_ids: Vec<Digest> = plain.iter().map(|layer| Digest::of(layer)).collect();
        let mut platform = json!({"os": "linux", "architecture": arch});
        if !variant.is_empty() {
            platform["variant"] = variant.into();
        }
        let mut config = platform.clone();
        config["rootfs"] = json!({"type": "layers", "diff_ids": diff_ids});
        let layers = plain.iter().map(|layer| pack(layer)).collect();
        Self {
            config: config.to_string().into_bytes(),
            layers,
            platform,
        }
    }

    pub fn with_os(os: &str) -> Self {
        let mut image = Self::new("amd64", "", &["one"], gzip);
        let text = String::from_utf8(image.config).unwrap();
        image.config = text.replace("\"linux\"", &format!("\"{os}\"")).into_bytes();
        image
    }

    pub fn manifest(&self) -> Vec<u8> {
        let layer = |l: &Vec<u8>| match l.first() {
            Some(0x1f) => descriptor("application/vnd.oci.image.layer.v1.tar+gzip", l),
            Some(0x28) => descriptor("application/vnd.oci.image.layer.v1.tar+zstd", l),
            _ => descriptor("application/vnd.oci.image.layer.v1.tar", l),
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &self.config),
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>(),
        });
        manifest.to_string().into_bytes()
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest())
    }

    pub fn blobs(&self) -> Vec<Vec<u8>> {
        self.layers.iter().chain([&self.config]).cloned().collect()
    }
}

/// A Helm chart or the like: a manifest, but no image.
pub fn artifact_manifest(image: &Image) -> Vec<u8> {
    let text = String::from_utf8(image.manifest()).unwrap();
    text.replace("vnd.oci.image.config.v1", "vnd.cncf.helm.config.v1")
        .into_bytes()
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len()})
}

fn entries(images: &[&Image]) -> Vec<Value> {
    let entry = |image: &&Image| {
        let mut entry = descriptor(
            "application/vnd.oci.image.manifest.v1+json",
            &image.manifest(),
        );
        entry["platform"] = image.platform.clone();
        entry
    };
    images.iter().map(entry).collect()
}

fn index_of(entries: &[Value]) -> Vec<u8> {
    let media_type = "application/vnd.oci.image.index.v1+json";
    json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
        .to_string()
        .into_bytes()
}

/// An index of images only.
pub fn plain_index(images: &[&Image]) -> Vec<u8> {
    index_of(&entries(images))
}

/// An index of images and indexes, with what else stands there in real ones.
pub fn index(images: &[&Image], indexes: &[&Vec<u8>]) -> Vec<u8> {
    let mut entries = entries(images);
    let index = |bytes: &&Vec<u8>| descriptor("application/vnd.oci.image.index.v1+json", bytes);
    entries.extend(indexes.iter().map(index));
    let mut attestation = descriptor("application/vnd.oci.image.manifest.v1+json", b"not here");
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    entries.push(attestation);
    let mut windows = descriptor("application/vnd.oci.image.manifest.v1+json", b"nor this");
    windows["platform"] = json!({"os": "windows", "architecture": "amd64"});
    entries.push(windows);
    index_of(&entries)
}

enum Member {
    File(Vec<u8>),
    Link(String),
    Device,
    Raw(Vec<u8>),
}

/// A tar, member by member; builders refuse what enemies write.
#[derive(Default)]
pub struct Archive(Vec<(String, Member)>);

impl Archive {
    /// An OCI layout with images by name.
    pub fn layout(images: &[(Option<&str>, &Image)]) -> Self {
        let mut archive = Self::default();
        let mut manifests = Vec::new();
        for (name, image) in images {
            archive = archive.image(image);
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            manifests.push(named(descriptor(media_type, &image.manifest()), *name));
        }
        archive.head(&manifests)
    }

    /// An OCI layout with one index.
    pub fn index(name: Option<&str>, index: &[u8], images: &[&Image]) -> Self {
        let archive = images
            .iter()
            .fold(Self::default(), |archive, image| archive.image(image));
        let root = descriptor("application/vnd.oci.image.index.v1+json", index);
        archive.blob(index).head(&[named(root, name)])
    }

    /// An OCI layout with one manifest, which may be anything.
    pub fn manifest(name: Option<&str>, manifest: &[u8]) -> Self {
        let root = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
        Self::default().blob(manifest).head(&[named(root, name)])
    }

    fn image(self, image: &Image) -> Self {
        let with = image
            .blobs()
            .iter()
            .fold(self, |archive, blob| archive.blob(blob));
        with.blob(&image.manifest())
    }

    /// Blobs come first here, as in docker save.
    fn head(self, manifests: &[Value]) -> Self {
        let index = json!({"schemaVersion": 2, "manifests": manifests}).to_string();
        self.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)
            .file("index.json", index.as_bytes())
    }

    pub fn file(mut self, name: &str, bytes: &[u8]) -> Self {
        self.0.push((name.to_owned(), Member::File(bytes.to_vec())));
        self
    }

    pub fn blob(self, bytes: &[u8]) -> Self {
        self.file(&format!("blobs/sha256/{}", Digest::of(bytes).hex()), bytes)
    }

    pub fn without(mut self, bytes: &[u8]) -> Self {
        let name = format!("blobs/sha256/{}", Digest::of(bytes).hex());
        self.0.retain(|(other, _)| *other != name);
        self
    }

    pub fn link(mut self, name: &str, target: &str) -> Self {
        self.0
            .push((name.to_owned(), Member::Link(target.to_owned())));
        self
    }

    pub fn device(mut self, name: &str) -> Self {
        self.0.push((name.to_owned(), Member::Device));
        self
    }

    /// A GNU long name of so many bytes.
    pub fn long_name(mut self, length: usize) -> Self {
        self.0
            .push(("@LongLink".to_owned(), Member::Raw(vec![b'n'; length])));
        self
    }

    pub fn end(self) -> Vec<u8> {
        let mut out = Vec::new();
        for (name, member) in self.0 {
            let (kind, link, bytes) = match member {
                Member::File(bytes) => (b'0', String::new(), bytes),
                Member::Link(target) => (b'2', target, Vec::new()),
                Member::Device => (b'3', String::new(), Vec::new()),
                Member::Raw(bytes) => (b'L', String::new(), bytes),
            };
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(&bytes);
            out.resize(out.len().next_multiple_of(512), 0);
        }
        out.resize(out.len() + 1024, 0);
        out
    }
}

fn named(mut entry: Value, name: Option<&str>) -> Value {
    if let Some(name) = name {
        entry["annotations"] = json!({"org.opencontainers.image.ref.name": name});
    }
    entry
}

/// Debian's docker-registry, for this test alone.
pub struct Registry {
    pub dir: tempfile::TempDir,
    pub address: String,
    child: Child,
}

impl Registry {
    /// With more lines of configuration, and files beside it; `@DIR@` is where
    /// they are.
    pub fn start(config: &str, files: &[(&str, &str)]) -> Self {
        Self::launch("", config, files)
    }

    /// With more under `http:`.
    pub fn start_tls(http: &str, files: &[(&str, &str)]) -> Self {
        Self::launch(http, "", files)
    }

    fn launch(http: &str, config: &str, files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let text = format!(
            "version: 0.1\nlog: {{level: info, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: '@DIR@/data'}}}}\n\
             http:\n  addr: 127.0.0.1:0\n  {http}\n{config}\n"
        );
        let text = text.replace("@DIR@", &dir.path().display().to_string());
        let file = dir.path().join("config.yml");
        std::fs::write(&file, text).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker-registry; install it");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut seen = String::new();
        let address = loop {
            let Some(Ok(line)) = lines.next() else {
                panic!("docker-registry did not start: {seen}");
            };
            if let Some((_, rest)) = line.split_once("listening on ") {
                let end = rest.find(['"', ',', ' ']).unwrap_or(rest.len());
                break rest[..end].to_owned();
            }
            seen.push_str(&line);
        };
        // Read on, so that it never waits for us.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            dir,
            address,
            child,
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a fake server was asked.
#[derive(Debug, Clone)]
pub struct Request {
    pub path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What it answers.
#[derive(Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection breaks after so many bytes of the body.
    pub cut: Option<usize>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            cut: None,
        }
    }

    pub fn ok(media_type: &str, body: &[u8]) -> Self {
        let reply = Self {
            body: body.to_vec(),
            ..Self::status(200)
        };
        reply.with("Content-Type", media_type)
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// An HTTP server of a few lines.
pub struct Fake {
    pub address: String,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Fake {
    /// `answer` gets each request and how many came before it.
    pub fn start(answer: impl Fn(&Request, usize) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A client that hung up is not this server's trouble.
                let _ = serve(connection, &answer, &log);
            }
        });
        Self { address, seen }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }
}

fn serve(
    mut connection: TcpStream,
    answer: &impl Fn(&Request, usize) -> Reply,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut lines = BufReader::new(connection.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    for line in lines {
        match line?.split_once(": ") {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.to_owned())),
            None => break,
        }
    }
    let request = Request { path, headers };
    let count = log.lock().unwrap().len();
    let reply = answer(&request, count);
    log.lock().unwrap().push(request);
    let mut head = format!(
        "HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
        reply.status,
        reply.body.len()
    );
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    connection.write_all(format!("{head}\r\n").as_bytes())?;
    connection.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len())])?;
    connection.shutdown(std::net::Shutdown::Write)?;
    connection.read_to_end(&mut Vec::new())?;
    Ok(())
}

/// A self-signed certificate and its key, in PEM.
pub fn certificate(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A token service as docker-registry wants it: ES256 JSON web tokens with the
/// signer's certificate in them.
pub struct TokenService {
    pub certificate: String,
    fake: Fake,
}

impl TokenService {
    pub fn start(user: &str, password: &str) -> Self {
        let made = rcgen::generate_simple_self_signed(["token".to_owned()]).unwrap();
        let certificate = made.cert.pem();
        let der = STANDARD.encode(made.cert.der());
        let key = made.signing_key;
        let basic = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let fake = Fake::start(move |request, _| {
            // Without a login there is a token, but one that allows nothing.
            let scope = request
                .path
                .split(['?', '&'])
                .find_map(|p| p.strip_prefix("scope="));
            let scope = scope
                .unwrap_or_default()
                .replace("%3A", ":")
                .replace("%2F", "/")
                .replace("%2C", ",");
            let access = match (
                request.header("authorization"),
                scope.splitn(3, ':').collect::<Vec<_>>().as_slice(),
            ) {
                (Some(login), [kind, name, actions]) if *login == basic => {
                    json!([{"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()}])
                }
                _ => json!([]),
            };
            let now = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap()
                .as_secs();
            let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [der]});
            let claims = json!({
                "iss": "test", "sub": "ann", "aud": "test registry", "jti": now.to_string(),
                "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
            });
            let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
            let signed = format!("{}.{}", part(&header), part(&claims));
            let signature = raw_signature(&key.sign(signed.as_bytes()).unwrap());
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
            let body = json!({"token": token, "expires_in": 300}).to_string();
            Reply::ok("application/json", body.as_bytes())
        });
        Self { certificate, fake }
    }

    pub fn address(&self) -> &str {
        &self.fake.address
    }

    pub fn requests(&self) -> Vec<Request> {
        self.fake.requests()
    }
}

/// The two numbers of an ECDSA signature, from ASN.1 to 32 bytes each.
fn raw_signature(der: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 2;
    for _ in 0..2 {
        let length = der[at + 1] as usize;
        let number = &der[at + 2..at + 2 + length];
        let number = &number[length.saturating_sub(32)..];
        out.resize(out.len() + 32 - number.len(), 0);
        out.extend_from_slice(number);
        at += 2 + length;
    }
    out
}
