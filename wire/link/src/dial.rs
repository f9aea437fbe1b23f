//! Opens the way to a broker: TCP, TLS over TCP, or a Unix socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::ServerName;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use smol::net::unix::UnixStream;

use crate::trust::{CertPin, Trust, client_config};
use crate::url::BrokerAddress;

/// How long name lookup, TCP and TLS may take for one attempt.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long sent bytes may stay unacknowledged before the kernel gives a TCP
/// connection up; without it, a line that silently broke would take some
/// 15 minutes to notice (tcp(7), TCP_USER_TIMEOUT).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;
/// How long a port may think about the first word of TLS when we only want to
/// know whether it understands it.
const TLS_WITHIN: Duration = Duration::from_secs(5);
/// How every alert of TLS begins (RFC 8446, 5.1), and no packet of MQTT that a
/// broker sends.
const TLS_ALERT: [u8; 2] = [21, 3];

/// Bytes both ways.
pub(crate) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Connects to `address`. The error is one plain sentence.
pub(crate) async fn dial(
    address: &BrokerAddress,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Box<dyn Wire>, String> {
    let unreachable = |why: String| format!("cannot reach broker at {address}: {why}");
    let attempt = async {
        match address {
            BrokerAddress::Unix { path } => {
                let stream = UnixStream::connect(path).await.map_err(|e| plain(&e))?;
                Ok(Box::new(stream) as Box<dyn Wire>)
            }
            BrokerAddress::Plain { host, port } => Ok(Box::new(tcp(host, *port).await?) as _),
            BrokerAddress::Tls { host, port } => {
                let tls = tls.ok_or("TLS is not set up")?;
                let name = ServerName::try_from(host.clone()).map_err(|e| e.to_string())?;
                let stream = tcp(host, *port).await?;
                let stream = TlsConnector::from(tls.clone())
                    .connect(name, stream)
                    .await
                    .map_err(|e| Doubt::of(&e).1)?;
                Ok(Box::new(stream) as _)
            }
        }
    };
    let deadline = async {
        smol::Timer::after(DIAL_TIMEOUT).await;
        Err(format!("no answer within {} s", DIAL_TIMEOUT.as_secs()))
    };
    attempt.or(deadline).await.map_err(unreachable)
}

pub(crate) async fn tcp(host: &str, port: u16) -> Result<TcpStream, String> {
    let addresses = match host.parse::<IpAddr>() {
        Ok(ip) => vec![SocketAddr::new(ip, port)],
        Err(_) => smol::net::resolve((host, port))
            .await
            .map_err(|e| format!("cannot look up {host}: {}", plain(&e)))?,
    };
    let mut why = format!("{host} has no address");
    for address in addresses.into_iter().take(MAX_ADDRESSES) {
        match TcpStream::connect(address).await {
            Ok(stream) => {
                // Both only make a good line better; without them it works.
                let _ = stream.set_nodelay(true);
                let timeout = TCP_USER_TIMEOUT.as_millis() as u32;
                let _ = setsockopt(&stream, sockopt::TcpUserTimeout, &timeout);
                return Ok(stream);
            }
            Err(error) => why = plain(&error),
        }
    }
    Err(why)
}

/// Why a handshake over TLS failed, as far as the remedy differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The other side does not speak TLS at all, or hangs up at its first word.
    NoTls,
    /// The certificate's last day has passed, by this machine's clock.
    Ended,
    /// Its first day is still to come, by this machine's clock.
    NotBegun,
    /// It is for other names.
    OtherName,
    /// Nobody who is believed here has signed it.
    Stranger,
    /// Anything else.
    Other,
}

impl Doubt {
    /// What a failed handshake means, and in words.
    pub(crate) fn of(error: &io::Error) -> (Self, String) {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (tls, error.kind()) {
            (Some(rustls::Error::InvalidCertificate(why)), _) => of_certificate(why),
            (Some(rustls::Error::InvalidMessage(_)), _) => (
                Self::NoTls,
                "it does not speak TLS: this is not its port for TLS, or its address must begin with mqtt://".into(),
            ),
            (Some(rustls::Error::AlertReceived(alert)), _) => {
                let text = format!("the broker ended the TLS handshake with {alert:?}");
                (Self::Other, text)
            }
            (Some(other), _) => (Self::Other, format!("TLS failed: {other}")),
            (
                None,
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::BrokenPipe,
            ) => (
                Self::NoTls,
                "it hung up at the first word of TLS: it is just starting or full, or this is not its port for TLS and its address must begin with mqtt://".into(),
            ),
            (None, _) => (Self::Other, plain(error)),
        }
    }
}

fn of_certificate(why: &CertificateError) -> (Doubt, String) {
    use CertificateError as C;
    const DAY_SECS: u64 = 86_400;
    let days = |from: rustls_pki_types::UnixTime, to: rustls_pki_types::UnixTime| {
        to.as_secs().saturating_sub(from.as_secs()) / DAY_SECS
    };
    match why {
        C::Other(ours) => (Doubt::Stranger, ours.0.to_string()),
        C::Expired => (
            Doubt::Ended,
            "the broker's certificate has expired, by this machine's clock".into(),
        ),
        C::ExpiredContext { time, not_after } => (
            Doubt::Ended,
            format!(
                "the broker's certificate expired {} days ago, by this machine's clock",
                days(*not_after, *time)
            ),
        ),
        C::NotValidYet => (
            Doubt::NotBegun,
            "the broker's certificate is not valid yet, by this machine's clock".into(),
        ),
        C::NotValidYetContext { time, not_before } => (
            Doubt::NotBegun,
            format!(
                "the broker's certificate is valid only in {} days, by this machine's clock",
                days(*time, *not_before)
            ),
        ),
        C::NotValidForName => (
            Doubt::OtherName,
            "the broker's certificate is for another name".into(),
        ),
        C::NotValidForNameContext {
            expected,
            presented,
        } => (
            Doubt::OtherName,
            format!(
                "the broker's certificate is not for {}, only for {}",
                expected.to_str(),
                presented.join(", ")
            ),
        ),
        C::UnknownIssuer | C::BadSignature => (
            Doubt::Stranger,
            "no authority that this machine trusts has signed the broker's certificate".into(),
        ),
        other => (
            Doubt::Other,
            format!("the broker's certificate is refused: {other}"),
        ),
    }
}

/// What is said of a broker that speaks TLS where its address has none.
pub(crate) fn speaks_tls_words(host: &str, port: u16) -> String {
    let secure = BrokerAddress::Tls {
        host: host.into(),
        port,
    };
    let plain = BrokerAddress::Plain {
        host: host.into(),
        port,
    };
    format!("the broker speaks TLS there: write {secure} instead of {plain}")
}

/// Whether these first bytes of the other side are TLS's.
pub(crate) fn is_tls_alert(bytes: &[u8]) -> bool {
    bytes.starts_with(&TLS_ALERT)
}

/// Whether TLS is spoken at this port: asks with the first word of a handshake
/// that is never finished, for it believes nobody.
pub(crate) async fn speaks_tls(host: &str, port: u16) -> bool {
    let asked = async {
        let config = client_config(&Trust::Pinned(vec![CertPin([0; 32])])).ok()?;
        let name = ServerName::try_from(host.to_string()).ok()?;
        let stream = tcp(host, port).await.ok()?;
        match TlsConnector::from(config).connect(name, stream).await {
            Ok(_) => Some(()),
            Err(error) => {
                let inner = error.get_ref()?;
                match inner.downcast_ref::<rustls::Error>()? {
                    rustls::Error::InvalidMessage(_) => None,
                    _ => Some(()),
                }
            }
        }
    };
    let late = async {
        smol::Timer::after(TLS_WITHIN).await;
        None
    };
    asked.or(late).await.is_some()
}

/// An I/O error in words, without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    if error
        .get_ref()
        .is_some_and(|inner| inner.is::<rustls::Error>())
    {
        return Doubt::of(error).1;
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".into(),
        io::ErrorKind::TimedOut => "the line went dead (timed out)".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            "the broker closed the connection".into()
        }
        io::ErrorKind::UnexpectedEof => "the broker closed the connection".into(),
        io::ErrorKind::NotFound => "it does not exist".into(),
        _ => {
            let text = error.to_string();
            match text.split_once(" (os error") {
                Some((words, _)) => words.to_lowercase(),
                None => text,
            }
        }
    }
}
