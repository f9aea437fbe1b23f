//! A hub in this process, and devices that speak to it over its real broker.
#![allow(dead_code)]

use async_channel::Receiver;
use futures_lite::{AsyncReadExt, AsyncWriteExt, FutureExt};
use serde_json::Value;
use skerry_hub::images::{ImageFailure, Images};
use skerry_hub::keys::{Entropy, random};
use skerry_hub::model::{Image, Platform, PlatformImage};
use skerry_hub::options::HubOptions;
use skerry_hub::server::Server;
use skerry_link::{CertPin, Link, LinkConfig, LinkEvent, Qos, Trust};
use skerry_wire::message::{Command, JoinReply, JoinRequest, Presence};
use skerry_wire::report::{Facts, Report};
use skerry_wire::seal::{KeyPair, Purpose, open, seal, seal_join};
use skerry_wire::stream::Frame;
use skerry_wire::token::{JoinToken, joining_password, joining_username};
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{
    Desired, DesiredPart, DeviceId, Digest, Generation, Seq, SessionId, Timestamp, decode, encode,
};
use smol::net::TcpStream;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const WITHIN: Duration = Duration::from_secs(60);

/// Fails loudly instead of hanging.
pub async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    let late = async {
        smol::Timer::after(WITHIN).await;
        panic!("{what} did not happen within {WITHIN:?}");
    };
    wait.or(late).await
}

/// Images in memory, by hand.
pub struct FakeImages {
    pub blobs: Mutex<BTreeMap<Digest, Vec<u8>>>,
    pub images: Mutex<BTreeMap<String, Image>>,
    dir: PathBuf,
}

impl FakeImages {
    pub fn new(dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            blobs: Mutex::default(),
            images: Mutex::default(),
            dir: dir.into(),
        })
    }

    /// Puts an image where `pull` finds it.
    pub fn offer(&self, reference: &str, arch: &str, layer: &[u8]) -> Image {
        let reference = full(reference);
        let manifest = format!("manifest of {reference} for {arch}").into_bytes();
        let mut blobs = self.blobs.lock().unwrap();
        blobs.insert(Digest::of(layer), layer.to_vec());
        blobs.insert(Digest::of(&manifest), manifest.clone());
        let image = Image {
            reference: reference.clone(),
            digest: Digest::of(&manifest),
            added: Timestamp(1),
            platforms: vec![PlatformImage {
                platform: Platform {
                    arch: arch.into(),
                    variant: String::new(),
                },
                manifest: Digest::of(&manifest),
                manifest_size: manifest.len() as u64,
                blobs: vec![(Digest::of(layer), layer.len() as u64)],
            }],
        };
        let mut images = self.images.lock().unwrap();
        images.insert(reference, image.clone());
        image
    }
}

/// A name in full, as records have it.
fn full(reference: &str) -> String {
    let name: skerry_hub::image::Reference = reference.parse().unwrap();
    name.to_string()
}

fn missing(what: &str) -> ImageFailure {
    ImageFailure {
        is_invalid: false,
        reason: "PullFailed",
        message: format!("no {what} anywhere"),
    }
}

impl Images for FakeImages {
    fn import(&self, archive: &Path, name: Option<&str>) -> Result<Vec<Image>, ImageFailure> {
        let bytes = std::fs::read(archive).unwrap();
        Ok(vec![self.offer(
            name.unwrap_or("imported:1"),
            "amd64",
            &bytes,
        )])
    }

    fn pull(
        &self,
        reference: &str,
        _: Option<Digest>,
        _: &[Platform],
    ) -> Result<Image, ImageFailure> {
        let images = self.images.lock().unwrap();
        images
            .get(&full(reference))
            .cloned()
            .ok_or(missing(reference))
    }

    fn read(&self, digest: Digest, offset: u64, max: usize) -> Result<Vec<u8>, ImageFailure> {
        let blobs = self.blobs.lock().unwrap();
        let blob = blobs.get(&digest).ok_or(missing("blob"))?;
        let from = (offset as usize).min(blob.len());
        let to = (from + max).min(blob.len());
        Ok(blob[from..to].to_vec())
    }

    fn keep_blob(
        &self,
        digest: Digest,
        size: u64,
        bytes: &mut dyn std::io::Read,
    ) -> Result<(), ImageFailure> {
        let mut blob = Vec::new();
        bytes.read_to_end(&mut blob).unwrap();
        assert_eq!((Digest::of(&blob), blob.len() as u64), (digest, size));
        self.blobs.lock().unwrap().insert(digest, blob);
        Ok(())
    }

    fn remove_blob(&self, digest: Digest) -> Result<(), ImageFailure> {
        self.blobs.lock().unwrap().remove(&digest);
        Ok(())
    }

    fn has_blob(&self, digest: Digest, size: u64) -> bool {
        let blobs = self.blobs.lock().unwrap();
        blobs.get(&digest).is_some_and(|b| b.len() as u64 == size)
    }

    fn blobs_dir(&self) -> &Path {
        &self.dir
    }
}

/// Runs a test on an executor with threads, so that nothing can starve.
pub fn run<F: Future<Output = ()>>(test: impl FnOnce(Arc<smol::Executor<'static>>) -> F) {
    let executor = Arc::new(smol::Executor::new());
    let (alive, dead) = async_channel::bounded::<()>(1);
    let worker = {
        let executor = executor.clone();
        std::thread::spawn(move || {
            let _ = smol::block_on(executor.run(dead.recv()));
        })
    };
    smol::block_on(executor.run(test(executor.clone())));
    drop(alive);
    worker.join().unwrap();
}

pub fn options(data: &Path) -> HubOptions {
    HubOptions {
        data: data.into(),
        api: "127.0.0.1:0".parse().unwrap(),
        listen: "127.0.0.1:0".parse().unwrap(),
        ..HubOptions::default()
    }
}

/// An answer of the API.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.status, 200, "{text}");
        self.json()
    }
}

/// One request on a connection of its own.
pub async fn http(server: &Server, method: &str, path: &str, body: Option<&Value>) -> Answer {
    let token = server.operator_token.clone();
    http_as(server, &token, method, path, body).await
}

pub async fn http_as(
    server: &Server,
    token: &str,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Answer {
    let body = body
        .map(|b| serde_json::to_vec(b).unwrap())
        .unwrap_or_default();
    raw_http(server, token, method, path, &body).await
}

pub async fn raw_http(
    server: &Server,
    token: &str,
    method: &str,
    path: &str,
    body: &[u8],
) -> Answer {
    let address = server.api_url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A refusal may come before all of it is taken.
    let _ = stream.write_all(body).await;
    let mut all = Vec::new();
    soon(path, stream.read_to_end(&mut all)).await.unwrap();
    let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&all[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let mut body = all[end + 4..].to_vec();
    if head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked")
    {
        body = unchunk(&body);
    }
    Answer { status, body }
}

pub fn unchunk(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 {
            break;
        }
        out.extend(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 2 + size + 2..];
    }
    out
}

pub async fn new_token(server: &Server, wish: Value) -> JoinToken {
    let made = http(server, "POST", "/v1/tokens", Some(&wish)).await.ok();
    made["token"].as_str().unwrap().parse().unwrap()
}

pub fn facts() -> Facts {
    Facts {
        arch: "amd64".into(),
        ..Facts::default()
    }
}

pub fn attempt() -> String {
    Digest::of(&random::<16>()).hex()[..32].to_string()
}

pub fn join_config(token: &JoinToken, attempt: &str) -> LinkConfig {
    let mut config = LinkConfig::new(token.broker.parse().unwrap(), format!("join-{attempt}"));
    config.username = Some(joining_username(&token.secret.id));
    config.password = Some(joining_password(&token.secret));
    if let Some(pin) = token.tls_pin {
        config.trust = Trust::Pinned(vec![CertPin(pin)]);
    }
    config.backoff_first = Duration::from_millis(50);
    let reply = Topic::JoinReply(attempt.into()).in_fleet(&token.fleet);
    config.subscriptions = vec![reply];
    config
}

/// Asks to join once, and gives what the hub says first.
pub async fn ask_to_join(
    executor: &Arc<smol::Executor<'static>>,
    token: &JoinToken,
    key: &KeyPair,
    name: &str,
    seq: Seq,
) -> JoinReply {
    let attempt = attempt();
    let (link, events) = Link::start(executor, join_config(token, &attempt), None);
    soon("join", async {
        loop {
            match events.recv().await.unwrap() {
                LinkEvent::Up { .. } => {
                    let topic = Topic::JoinRequest(attempt.clone()).in_fleet(&token.fleet);
                    let wish = JoinRequest {
                        name: DeviceId::new(name).unwrap(),
                        facts: facts(),
                    };
                    let sealed = seal_join(
                        &token.secret,
                        seq,
                        &topic,
                        key,
                        &token.hub_key,
                        &encode(&wish),
                        &mut Entropy,
                    )
                    .unwrap();
                    link.publish(&topic, sealed, Qos::AtLeastOnce).unwrap();
                }
                LinkEvent::Message { topic, payload } => {
                    let opened =
                        open(&payload, &[Purpose::JoinReply], &topic, &token.hub_key, key).unwrap();
                    return decode("join reply", &opened.body).unwrap();
                }
                LinkEvent::Down { reason } => panic!("{reason}"),
                LinkEvent::Refused { reason, .. } => panic!("{reason}"),
                LinkEvent::Room => {}
            }
        }
    })
    .await
}

/// What a device heard.
#[derive(Debug)]
pub enum Heard {
    Desired(Desired),
    Command(Command),
    Frame(Frame),
}

/// A device on the hub's broker.
pub struct TestDevice {
    pub name: DeviceId,
    pub key: KeyPair,
    pub token: JoinToken,
    pub password: String,
    pub session: SessionId,
    pub seq: Seq,
    pub link: Link,
    pub events: Receiver<LinkEvent>,
    parts: Vec<DesiredPart>,
}

impl TestDevice {
    /// Joins, and connects under its new name.
    pub async fn join(
        executor: &Arc<smol::Executor<'static>>,
        token: &JoinToken,
        name: &str,
    ) -> Self {
        let key = KeyPair::generate(&mut Entropy);
        match ask_to_join(executor, token, &key, name, Seq(1)).await {
            JoinReply::Accepted {
                device, password, ..
            } => Self::connect(executor, token, key, device, password).await,
            other => panic!("{other:?}"),
        }
    }

    /// Joins, is there with nothing, and has heard what is desired first.
    pub async fn online(
        executor: &Arc<smol::Executor<'static>>,
        token: &JoinToken,
        name: &str,
    ) -> Self {
        let mut device = Self::join(executor, token, name).await;
        device.presence(Generation(0));
        device.hear_desired().await;
        device
    }

    pub async fn connect(
        executor: &Arc<smol::Executor<'static>>,
        token: &JoinToken,
        key: KeyPair,
        name: DeviceId,
        password: String,
    ) -> Self {
        let mut config = LinkConfig::new(token.broker.parse().unwrap(), name.as_str());
        config.username = Some(name.to_string());
        config.password = Some(password.clone());
        if let Some(pin) = token.tls_pin {
            config.trust = Trust::Pinned(vec![CertPin(pin)]);
        }
        config.backoff_first = Duration::from_millis(50);
        let topic = |lane| Topic::Device(name.clone(), lane).in_fleet(&token.fleet);
        config.subscriptions = Lane::TO_DEVICE.into_iter().map(topic).collect();
        let (link, events) = Link::start(executor, config, None);
        let mut this = Self {
            name,
            key,
            token: token.clone(),
            password,
            session: SessionId(u64::from_ne_bytes(random())),
            seq: Seq::first_of_start(1),
            link,
            events,
            parts: Vec::new(),
        };
        this.wait_up().await;
        this
    }

    pub async fn wait_up(&mut self) {
        soon("the device's line", async {
            loop {
                match self.events.recv().await.unwrap() {
                    LinkEvent::Up { .. } => return,
                    LinkEvent::Down { reason } => eprintln!("{reason}"),
                    _ => {}
                }
            }
        })
        .await;
    }

    pub fn sealed(&mut self, lane: Lane, purpose: Purpose, body: &[u8]) -> (String, Vec<u8>) {
        self.seq = self.seq.next();
        let topic = Topic::Device(self.name.clone(), lane).in_fleet(&self.token.fleet);
        let sealed = seal(
            purpose,
            self.seq,
            &topic,
            &self.key,
            &self.token.hub_key,
            body,
            &mut Entropy,
        )
        .unwrap();
        (topic, sealed)
    }

    pub fn say(&mut self, lane: Lane, purpose: Purpose, body: &[u8]) {
        let (topic, sealed) = self.sealed(lane, purpose, body);
        self.link.publish(&topic, sealed, Qos::AtLeastOnce).unwrap();
    }

    pub fn presence(&mut self, generation: Generation) {
        let presence = Presence {
            session: self.session,
            connection: 1,
            generation,
        };
        self.say(Lane::Presence, Purpose::Presence, &encode(&presence));
    }

    pub fn report(&mut self, report: &Report) {
        self.say(Lane::Report, Purpose::Report, &encode(report));
    }

    pub fn frame(&mut self, frame: &Frame) {
        self.say(Lane::StreamOut, Purpose::StreamOut, &encode(frame));
    }

    pub async fn hear(&mut self) -> Heard {
        soon("a message for the device", async {
            loop {
                let LinkEvent::Message { topic, payload } = self.events.recv().await.unwrap()
                else {
                    continue;
                };
                let purposes = [Purpose::Desired, Purpose::Command, Purpose::StreamIn];
                let opened =
                    open(&payload, &purposes, &topic, &self.token.hub_key, &self.key).unwrap();
                match opened.purpose {
                    Purpose::Desired => {
                        let part: DesiredPart = decode("part", &opened.body).unwrap();
                        let count = usize::from(part.count);
                        self.parts.push(part);
                        if self.parts.len() == count {
                            let parts = std::mem::take(&mut self.parts);
                            let whole: Vec<u8> = parts.into_iter().flat_map(|p| p.bytes).collect();
                            return Heard::Desired(decode("desired", &whole).unwrap());
                        }
                    }
                    Purpose::Command => {
                        return Heard::Command(decode("command", &opened.body).unwrap());
                    }
                    _ => return Heard::Frame(decode("frame", &opened.body).unwrap()),
                }
            }
        })
        .await
    }

    pub async fn hear_desired(&mut self) -> Desired {
        loop {
            if let Heard::Desired(desired) = self.hear().await {
                return desired;
            }
        }
    }

    pub async fn hear_command(&mut self) -> Command {
        loop {
            if let Heard::Command(command) = self.hear().await {
                return command;
            }
        }
    }

    pub async fn hear_frame(&mut self) -> Frame {
        loop {
            if let Heard::Frame(frame) = self.hear().await {
                return frame;
            }
        }
    }
}
