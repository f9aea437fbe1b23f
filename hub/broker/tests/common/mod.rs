//! A broker for a test, and a client that speaks raw bytes to it.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use skerry_broker::*;
use smol::Executor;

/// How long anything that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long nothing must happen to be believed.
pub const QUIET: Duration = Duration::from_millis(300);

/// Grants by user name: `hub` may do all, `dev-NAME` its own topics,
/// `join-NAME` hardly anything, `retainer` all with retained messages.
#[derive(Default)]
pub struct TestAuthority {
    pub denied: Mutex<Vec<Denied>>,
    pub revoked: Mutex<Vec<String>>,
    pub device: Mutex<Option<Class>>,
    pub hub: Mutex<Option<Class>>,
    /// Devices may only read their commands from now on.
    pub narrow: std::sync::atomic::AtomicBool,
}

impl Authority for TestAuthority {
    fn connect(&self, who: &Credentials<'_>) -> Result<Grant, Refusal> {
        let refuse = |kind, words: &str| Err(Refusal::new(kind, words));
        let Some(user) = who.username else {
            return refuse(RefusalKind::NotAuthorized, "no user name");
        };
        if who.password != Some(b"secret") {
            return refuse(RefusalKind::BadCredentials, "wrong password");
        }
        if self.revoked.lock().unwrap().iter().any(|r| r == user) {
            return refuse(RefusalKind::Banned, "this device was revoked");
        }
        let own = |class: Class, filters: &[String]| {
            let filters: Vec<TopicFilter> = filters.iter().map(|f| f.parse().unwrap()).collect();
            Ok(Grant {
                publish: filters.clone(),
                subscribe: filters,
                class,
            })
        };
        let device = self.device.lock().unwrap().clone();
        let hub = self.hub.lock().unwrap().clone();
        match user.split_once('-') {
            _ if user == "hub" => own(hub.unwrap_or(Class::hub()), &["#".into()]),
            _ if user == "retainer" => own(
                Class {
                    may_retain: true,
                    ..Class::device()
                },
                &["#".into()],
            ),
            Some(("dev", name)) if self.narrow.load(std::sync::atomic::Ordering::Relaxed) => own(
                device.unwrap_or(Class::device()),
                &[format!("f/{name}/command")],
            ),
            Some(("dev", name)) => own(
                device.unwrap_or(Class::device()),
                &[format!("f/{name}/+"), format!("f/{name}/stream/+")],
            ),
            Some(("join", name)) => own(Class::joining(), &[format!("join/{name}/+")]),
            _ => refuse(RefusalKind::NotAuthorized, "unknown user"),
        }
    }

    fn denied(&self, what: &Denied) {
        self.denied.lock().unwrap().push(what.clone());
    }
}

/// Lets time pass: between two looks at the broker's counts, which it does not
/// announce, or where time itself is what is tested.
pub fn pause(time: Duration) {
    smol::block_on(smol::Timer::after(time));
}

/// Lets this process open so many files: both ends of each connection are here.
pub fn allow_files(wanted: u64) {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        hard >= wanted,
        "this test opens {wanted} files and may have {hard}: raise the limit (ulimit -Hn)"
    );
    if soft < wanted {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    }
}

/// A broker on threads of its own.
pub struct TestBroker {
    pub handle: Option<BrokerHandle>,
    pub authority: Arc<TestAuthority>,
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    pub unix: std::path::PathBuf,
    pub ca: CertificateDer<'static>,
    pub ca_pem: std::path::PathBuf,
    dir: tempfile::TempDir,
    stop: Option<async_channel::Sender<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl TestBroker {
    pub fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (server, ca, pem) = tls_config();
        let ca_pem = dir.path().join("ca.pem");
        std::fs::write(&ca_pem, pem).unwrap();
        let executor = Arc::new(Executor::new());
        let authority = Arc::new(TestAuthority::default());
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let unix = dir.path().join("mqtt");
        let mut config = BrokerConfig::new(limits);
        config.plain = Some(any);
        config.tls = Some((any, server));
        config.unix = Some(unix.clone());
        let handle = Broker::start(&executor, config, authority.clone()).unwrap();
        let (stop, stopped) = async_channel::bounded::<()>(1);
        let threads = (0..2)
            .map(|_| {
                let (executor, stopped) = (executor.clone(), stopped.clone());
                std::thread::spawn(move || {
                    let _ = smol::block_on(executor.run(stopped.recv()));
                })
            })
            .collect();
        Self {
            plain: handle.plain_address().unwrap(),
            tls: handle.tls_address().unwrap(),
            handle: Some(handle),
            authority,
            unix,
            ca,
            ca_pem,
            dir,
            stop: Some(stop),
            threads,
        }
    }

    pub fn handle(&self) -> &BrokerHandle {
        self.handle.as_ref().unwrap()
    }

    pub fn stats(&self) -> Stats {
        self.handle().stats()
    }

    pub fn path(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Waits until the counts are as wanted.
    pub fn wait(&self, what: &str, wanted: impl Fn(&Stats) -> bool) -> Stats {
        let start = Instant::now();
        loop {
            let stats = self.stats();
            if wanted(&stats) {
                return stats;
            }
            assert!(start.elapsed() < PATIENCE, "never: {what}; {stats:?}");
            pause(Duration::from_millis(5));
        }
    }

    /// A connection that has said nothing.
    pub fn raw(&self) -> Raw {
        Raw::to(self.plain)
    }

    /// A connected MQTT 5 client.
    pub fn client(&self, connect: &Connect) -> Raw {
        let mut raw = self.raw();
        raw.send(&connect.bytes());
        let (header, body) = raw.packet();
        assert_eq!((header, body[1]), (0x20, 0), "CONNACK {body:02x?}");
        raw
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        self.handle.take();
        self.stop.take();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn tls_config() -> (Arc<ServerConfig>, CertificateDer<'static>, String) {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // OpenSSL takes a leaf with its issuer's name for self-signed.
    ca.distinguished_name
        .push(DnType::CommonName, "test authority");
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).unwrap();
    let leaf = leaf
        .signed_by(&key, &Issuer::from_params(&ca, &ca_key))
        .unwrap();
    let chain = vec![leaf.der().clone(), ca_cert.der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    (Arc::new(config), ca_cert.der().clone(), ca_cert.pem())
}

/// A CONNECT packet.
#[derive(Clone)]
pub struct Connect {
    pub v5: bool,
    pub id: String,
    pub user: String,
    pub password: String,
    pub clean: bool,
    pub keep_alive: u16,
    pub session_expiry: u32,
    pub receive_maximum: Option<u16>,
    pub max_packet: Option<u32>,
    /// Topic, payload, delay in seconds.
    pub will: Option<(String, Vec<u8>, u32)>,
}

impl Connect {
    pub fn new(id: &str, user: &str) -> Self {
        Self {
            v5: true,
            id: id.into(),
            user: user.into(),
            password: "secret".into(),
            clean: true,
            keep_alive: 60,
            session_expiry: 0,
            receive_maximum: None,
            max_packet: None,
            will: None,
        }
    }

    pub fn v4(mut self) -> Self {
        self.v5 = false;
        self
    }

    pub fn keeping(mut self, seconds: u32) -> Self {
        self.clean = false;
        self.session_expiry = seconds;
        self
    }

    pub fn will(mut self, topic: &str, payload: &str, delay: u32) -> Self {
        self.will = Some((topic.into(), payload.into(), delay));
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT".to_vec();
        body.push(if self.v5 { 5 } else { 4 });
        let mut flags = 0b1100_0000 | u8::from(self.clean) << 1;
        if self.will.is_some() {
            flags |= 0b0000_1100;
        }
        body.push(flags);
        body.extend(self.keep_alive.to_be_bytes());
        if self.v5 {
            let mut properties = vec![17];
            properties.extend(self.session_expiry.to_be_bytes());
            if let Some(max) = self.receive_maximum {
                properties.push(33);
                properties.extend(max.to_be_bytes());
            }
            if let Some(max) = self.max_packet {
                properties.push(39);
                properties.extend(max.to_be_bytes());
            }
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        text(&mut body, &self.id);
        if let Some((topic, payload, delay)) = &self.will {
            if self.v5 {
                body.extend([5, 24]);
                body.extend(delay.to_be_bytes());
            }
            text(&mut body, topic);
            body.extend((payload.len() as u16).to_be_bytes());
            body.extend(payload);
        }
        text(&mut body, &self.user);
        text(&mut body, &self.password);
        packet(0x10, &body)
    }
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

pub fn packet(header: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![header];
    let mut length = body.len();
    loop {
        let byte = (length & 0x7f) as u8;
        length >>= 7;
        out.push(if length > 0 { byte | 0x80 } else { byte });
        if length == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// PUBLISH of MQTT 5; QoS 1 if there is a packet id.
pub fn publish(topic: &str, payload: &[u8], packet_id: u16) -> Vec<u8> {
    publish_with(topic, payload, packet_id, &[])
}

pub fn publish_with(topic: &str, payload: &[u8], packet_id: u16, properties: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic);
    if packet_id > 0 {
        body.extend(packet_id.to_be_bytes());
    }
    body.push(properties.len() as u8);
    body.extend(properties);
    body.extend(payload);
    packet(if packet_id > 0 { 0x32 } else { 0x30 }, &body)
}

/// SUBSCRIBE of MQTT 5, QoS 1.
pub fn subscribe(packet_id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = packet_id.to_be_bytes().to_vec();
    body.push(0);
    for filter in filters {
        text(&mut body, filter);
        body.push(1);
    }
    packet(0x82, &body)
}

pub fn puback(packet_id: u16) -> Vec<u8> {
    packet(0x40, &packet_id.to_be_bytes())
}

/// A PUBLISH that came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub topic: String,
    pub payload: Vec<u8>,
    pub packet_id: u16,
    pub dup: bool,
    pub retain: bool,
    pub properties: Vec<u8>,
}

/// A client made of bytes; MQTT 5 where it parses anything.
pub struct Raw {
    pub stream: TcpStream,
    buffer: Vec<u8>,
}

impl Raw {
    pub fn to(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    /// The next packet, `None` when nothing comes within `patience`, and a
    /// header of 0 when the broker closed.
    pub fn try_packet(&mut self, patience: Duration) -> Option<(u8, Vec<u8>)> {
        let end = Instant::now() + patience;
        loop {
            if let Some(found) = take_packet(&mut self.buffer) {
                return Some(found);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Some((0, Vec::new())),
                Ok(count) => self.buffer.extend(&chunk[..count]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return None;
                }
                Err(_) => return Some((0, Vec::new())),
            }
        }
    }

    pub fn packet(&mut self) -> (u8, Vec<u8>) {
        self.try_packet(PATIENCE).expect("a packet")
    }

    pub fn is_quiet(&mut self) -> bool {
        self.try_packet(QUIET).is_none()
    }

    /// Waits until the broker closes; gives DISCONNECT's code if there was one.
    pub fn closed(&mut self) -> Option<u8> {
        let mut code = None;
        loop {
            match self.packet() {
                (0, _) => return code,
                (0xe0, body) => code = body.first().copied(),
                _ => {}
            }
        }
    }

    pub fn subscribe(&mut self, filters: &[&str]) -> Vec<u8> {
        self.send(&subscribe(77, filters));
        let (header, body) = self.packet();
        assert_eq!((header, &body[..3]), (0x90, &[0, 77, 0][..]));
        body[3..].to_vec()
    }

    /// Publishes with QoS 1; gives PUBACK's code.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> u8 {
        self.send(&publish(topic, payload, 7));
        loop {
            let (header, body) = self.packet();
            if header == 0x40 {
                assert_eq!(&body[..2], [0, 7]);
                return body.get(2).copied().unwrap_or(0);
            }
            assert_ne!(header, 0, "closed");
        }
    }

    /// The next PUBLISH; others are skipped, nothing is acknowledged.
    pub fn message(&mut self) -> Published {
        loop {
            let (header, body) = self.packet();
            assert_ne!(header, 0, "closed");
            assert_ne!(header, 0xe0, "DISCONNECT {body:02x?}");
            if header >> 4 == 3 {
                return published(header, &body);
            }
        }
    }

    /// The same, acknowledged.
    pub fn message_acked(&mut self) -> Published {
        let message = self.message();
        if message.packet_id > 0 {
            self.send(&puback(message.packet_id));
        }
        message
    }

    pub fn ping(&mut self) -> Duration {
        let start = Instant::now();
        self.send(&[0xc0, 0]);
        while self.packet().0 != 0xd0 {}
        start.elapsed()
    }
}

pub fn published(header: u8, body: &[u8]) -> Published {
    let length = usize::from(u16::from_be_bytes([body[0], body[1]]));
    let topic = String::from_utf8(body[2..2 + length].to_vec()).unwrap();
    let mut at = 2 + length;
    let mut packet_id = 0;
    if header & 0b110 != 0 {
        packet_id = u16::from_be_bytes([body[at], body[at + 1]]);
        at += 2;
    }
    let properties = usize::from(body[at]);
    at += 1;
    Published {
        topic,
        packet_id,
        dup: header & 8 != 0,
        retain: header & 1 != 0,
        properties: body[at..at + properties].to_vec(),
        payload: body[at + properties..].to_vec(),
    }
}

fn take_packet(buffer: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let mut length = 0;
    let mut at = 1;
    loop {
        let byte = *buffer.get(at)?;
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        at += 1;
        if byte & 0x80 == 0 {
            break;
        }
    }
    if buffer.len() < at + length {
        return None;
    }
    let header = buffer[0];
    let body = buffer[at..at + length].to_vec();
    buffer.drain(..at + length);
    Some((header, body))
}
