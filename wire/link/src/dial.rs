//! Opens the way to a broker: TCP, TLS over TCP, or a Unix socket.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_rustls::TlsConnector;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use smol::future::FutureExt;
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use smol::net::unix::UnixStream;

use crate::url::BrokerAddress;

/// How long name lookup, TCP and TLS may take for one attempt.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long sent bytes may stay unacknowledged before the kernel gives a TCP
/// connection up; without it, a line that silently broke would take some
/// 15 minutes to notice (tcp(7), TCP_USER_TIMEOUT).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

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
                    .map_err(|e| plain(&e))?;
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

/// An I/O error in words, without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    if let Some(tls) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return match tls {
            rustls::Error::InvalidCertificate(rustls::CertificateError::Other(ours)) => {
                ours.0.to_string()
            }
            rustls::Error::AlertReceived(alert) => {
                format!("the broker ended the TLS handshake with {alert:?}")
            }
            rustls::Error::InvalidMessage(_) => {
                format!("the other side does not speak TLS ({tls}); is this the port for mqtts?")
            }
            other => format!("TLS failed: {other}"),
        };
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
