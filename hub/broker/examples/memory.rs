//! What an idle connected device costs the broker: resident memory for each
//! of N connections, with and without TLS. The clients live in a child
//! process, so that theirs does not count.
//!
//! `cargo run --release -p skerry-broker --example memory [N…]`

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use skerry_broker::*;

struct Anyone;

impl Authority for Anyone {
    fn connect(&self, who: &Credentials<'_>) -> Result<Grant, Refusal> {
        let topics = |names: &[&str]| {
            let topic = |name| format!("skerry/v1/fleet/{}/{name}", who.client_id);
            let filters = names
                .iter()
                .map(|name| topic(name).parse().expect("a filter"));
            filters.collect()
        };
        Ok(Grant {
            publish: topics(&["presence", "report", "reply", "stream/out"]),
            subscribe: topics(&["desired", "command", "stream/in"]),
            class: Class::device(),
        })
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, address, count] = &args[..]
        && role.starts_with("clients")
    {
        let address = address.parse().expect("an address");
        return clients(
            address,
            count.parse().expect("a number"),
            role.ends_with("tls"),
        );
    }
    let counts: Vec<usize> = match &args[..] {
        [] => vec![1000, 5000],
        some => some.iter().map(|n| n.parse().expect("a number")).collect(),
    };
    if std::env::var_os("SKERRY_MEMORY_ONE").is_none() {
        println!("connections  kind   RSS before     after  per connection");
    }
    for tls in [false, true] {
        for count in &counts {
            // A process for each, so that none reuses another's memory.
            let me = std::env::current_exe().expect("own path");
            if std::env::var_os("SKERRY_MEMORY_ONE").is_none() {
                let kind = if tls { "tls" } else { "plain" };
                let status = Command::new(me)
                    .arg(count.to_string())
                    .env("SKERRY_MEMORY_ONE", kind)
                    .status();
                assert!(status.expect("own program").success());
            } else if std::env::var("SKERRY_MEMORY_ONE").as_deref()
                == Ok(if tls { "tls" } else { "plain" })
            {
                measure(*count, tls);
            }
        }
    }
}

fn measure(count: usize, tls: bool) {
    let executor = Arc::new(smol::Executor::new());
    let any: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    let mut config = BrokerConfig::new(Limits::default());
    config.plain = Some(any);
    config.tls = Some((any, tls_config()));
    let broker = Broker::start(&executor, config, Arc::new(Anyone)).expect("a broker");
    let address = if tls {
        broker.tls_address()
    } else {
        broker.plain_address()
    };
    let address = address.expect("it listens");
    let (role, me) = (
        if tls { "clients-tls" } else { "clients" },
        std::env::current_exe(),
    );
    smol::block_on(executor.run(async {
        // The first one brings in what all share.
        let mut first = start_clients(&me, role, address, 1);
        wait_for(&broker, 1).await;
        let before = resident();
        let mut children = vec![start_clients(&me, role, address, count)];
        wait_for(&broker, count + 1).await;
        let after = resident();
        let kind = if tls { "tls" } else { "plain" };
        let each = (after - before) as f64 / count as f64;
        println!("{count:>11}  {kind:<5} {before:>7} KiB {after:>7} KiB  {each:>8.2} KiB");
        children.push(std::mem::replace(
            &mut first,
            start_clients(&me, role, address, 0),
        ));
        children.push(first);
        for mut child in children {
            child.kill().expect("own child");
            child.wait().expect("own child");
        }
    }));
}

fn start_clients(
    me: &std::io::Result<std::path::PathBuf>,
    role: &str,
    address: SocketAddr,
    count: usize,
) -> std::process::Child {
    let me = me.as_ref().expect("own path");
    Command::new(me)
        .args([role, &address.to_string(), &count.to_string()])
        .stdin(Stdio::null())
        .spawn()
        .expect("own program")
}

async fn wait_for(broker: &BrokerHandle, sessions: usize) {
    loop {
        let stats = broker.stats();
        if stats.subscriptions == 3 * sessions && stats.pending == 0 {
            break;
        }
        smol::Timer::after(std::time::Duration::from_millis(50)).await;
    }
    // Until the last SUBACK is written, too.
    smol::Timer::after(std::time::Duration::from_millis(300)).await;
}

/// Resident memory in KiB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status
        .lines()
        .find(|l| l.starts_with("VmRSS:"))
        .expect("VmRSS");
    line.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .expect("a number")
}

/// Holds connected and subscribed clients until it is killed.
fn clients(address: SocketAddr, count: usize, tls: bool) {
    let config = Arc::new(tls_client());
    let mut open: Vec<Box<dyn std::any::Any>> = Vec::new();
    for _ in 0..count {
        let id = format!("kiosk-{}-{}", std::process::id(), open.len());
        let mut bytes = b"\x10\0\0\x04MQTT\x05\x02\x0e\x10\x05\x11\0\0\x0e\x10".to_vec();
        bytes.extend((id.len() as u16).to_be_bytes());
        bytes.extend(id.bytes());
        bytes[1] = (bytes.len() - 2) as u8;
        let mut filters = vec![0, 1, 0];
        for name in ["desired", "command", "stream/in"] {
            let topic = format!("skerry/v1/fleet/{id}/{name}");
            filters.extend((topic.len() as u16).to_be_bytes());
            filters.extend(topic.bytes());
            filters.push(1);
        }
        bytes.push(0x82);
        let mut length = filters.len();
        while length > 127 {
            bytes.push((length & 127 | 128) as u8);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(filters);
        let mut stream = TcpStream::connect(address).expect("the broker");
        let mut answer = [0; 256];
        if tls {
            let name = "localhost".try_into().expect("a name");
            let client = rustls::ClientConnection::new(config.clone(), name).expect("TLS");
            let mut stream = rustls::StreamOwned::new(client, stream);
            stream.write_all(&bytes).expect("it takes it");
            let _ = stream.read(&mut answer).expect("CONNACK");
            open.push(Box::new(stream));
        } else {
            stream.write_all(&bytes).expect("it takes it");
            let _ = stream.read(&mut answer).expect("CONNACK");
            open.push(Box::new(stream));
        }
    }
    loop {
        std::thread::park();
    }
}

fn tls_config() -> Arc<rustls::ServerConfig> {
    let certified = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("rcgen");
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("a certificate");
    Arc::new(config)
}

fn tls_client() -> rustls::ClientConfig {
    #[derive(Debug)]
    struct Any(Arc<rustls::crypto::CryptoProvider>);
    use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
    use rustls::{DigitallySignedStruct, Error, SignatureScheme};
    impl ServerCertVerifier for Any {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &CertificateDer<'_>,
            _: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Ok(HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Any(provider)))
        .with_no_client_auth()
}
