//! A real Mosquitto for a test, on a port of its own.
#![allow(dead_code)]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use async_channel::Receiver;
use skerry_link::{BrokerUrl, CertificateDer, LinkConfig, LinkEvent};
pub use skerry_test_port::free_port;
use smol::future::FutureExt;

/// How long anything that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A Mosquitto that ends with this value.
pub struct Mosquitto {
    child: Child,
    pub port: u16,
    config: PathBuf,
}

impl Mosquitto {
    /// Starts one whose config is `extra` after the listener's lines.
    pub fn start(dir: &Path, extra: &str) -> Self {
        Self::start_on(dir, extra, free_port())
    }

    pub fn start_on(dir: &Path, extra: &str, port: u16) -> Self {
        let config = dir.join(format!("mosquitto-{port}.conf"));
        let mut file = std::fs::File::create(&config).unwrap();
        writeln!(file, "listener {port} 127.0.0.1\nuser root\n{extra}").unwrap();
        Self {
            child: spawn(&config, port),
            port,
            config,
        }
    }

    pub fn stop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts again with the same config, after [`Mosquitto::stop`].
    pub fn again(&mut self) {
        self.child = spawn(&self.config, self.port);
    }

    pub fn url(&self) -> BrokerUrl {
        format!("mqtt://127.0.0.1:{}", self.port).parse().unwrap()
    }

    pub fn tls_url(&self) -> BrokerUrl {
        format!("mqtts://127.0.0.1:{}", self.port).parse().unwrap()
    }
}

fn spawn(config: &Path, port: u16) -> Child {
    let child = Command::new("mosquitto")
        .arg("-c")
        .arg(config)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("this test needs mosquitto: apt-get install mosquitto");
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let start = Instant::now();
    while TcpStream::connect(address).is_err() {
        assert!(start.elapsed() < PATIENCE, "mosquitto did not start");
        std::thread::yield_now();
    }
    child
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A config with short waits.
pub fn config(broker: BrokerUrl, id: &str) -> LinkConfig {
    let mut config = LinkConfig::new(broker, id);
    config.backoff_first = Duration::from_millis(20);
    config.backoff_cap = Duration::from_millis(200);
    config
}

/// The next event; panics when none comes.
pub async fn event(events: &Receiver<LinkEvent>) -> LinkEvent {
    let next = async { events.recv().await.expect("the link ended") };
    let late = async {
        smol::Timer::after(PATIENCE).await;
        panic!("no event came");
    };
    next.or(late).await
}

/// Skips events until one fits.
pub async fn until<T>(
    events: &Receiver<LinkEvent>,
    mut fits: impl FnMut(LinkEvent) -> Option<T>,
) -> T {
    loop {
        if let Some(found) = fits(event(events).await) {
            return found;
        }
    }
}

pub async fn up(events: &Receiver<LinkEvent>) {
    until(events, |event| {
        matches!(event, LinkEvent::Up { .. }).then_some(())
    })
    .await;
}

pub async fn down(events: &Receiver<LinkEvent>) -> String {
    until(events, |event| match event {
        LinkEvent::Down { reason } => Some(reason),
        _ => None,
    })
    .await
}

pub async fn message(events: &Receiver<LinkEvent>) -> (String, Vec<u8>) {
    until(events, |event| match event {
        LinkEvent::Message { topic, payload } => Some((topic, payload)),
        _ => None,
    })
    .await
}

/// An authority and a server certificate for 127.0.0.1, as files and as DER.
pub struct Tls {
    pub ca: CertificateDer<'static>,
    pub leaf: CertificateDer<'static>,
    /// Mosquitto's lines for it; the chain holds leaf and authority.
    pub lines: String,
    pub ca_file: PathBuf,
}

/// `years` are the first and last year of the server's certificate.
pub fn tls(dir: &Path, name: &str, years: (i32, i32)) -> Tls {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let mut leaf = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    leaf.not_before = date_time_ymd(years.0, 1, 1);
    leaf.not_after = date_time_ymd(years.1, 1, 1);
    let issuer = Issuer::from_params(&ca, &ca_key);
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let file = |kind: &str, text: String| {
        let path = dir.join(format!("{name}-{kind}.pem"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let chain = file("chain", format!("{}{}", leaf.pem(), ca_cert.pem()));
    let key = file("key", key.serialize_pem());
    let ca_file = file("ca", ca_cert.pem());
    Tls {
        lines: format!("certfile {}\nkeyfile {}\n", chain.display(), key.display()),
        ca: ca_cert.der().clone(),
        leaf: leaf.der().clone(),
        ca_file,
    }
}
