//! A look at a broker without saying a word of MQTT to it: for diagnoses.

use std::time::Duration;

use rustls_pki_types::{CertificateDer, ServerName};
use smol::future::FutureExt;
use smol::net::TcpStream;
use smol::net::unix::UnixStream;

use crate::dial::{Doubt, plain, speaks_tls, tcp};
use crate::trust::{Trust, client_config};
use crate::url::BrokerAddress;

/// What was seen.
#[derive(Debug, Clone)]
pub struct Probe {
    /// Somebody answers; or why not, in words.
    pub reached: Result<(), String>,
    /// Whether the address has no TLS and the other side speaks it.
    pub wants_tls: bool,
    /// What the other side showed over TLS, its own certificate first; or why
    /// it is not believed. Nothing without TLS or trust.
    pub shown: Option<Result<Vec<CertificateDer<'static>>, NotBelieved>>,
}

/// Why a broker's TLS came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotBelieved {
    /// As far as the remedy differs.
    pub doubt: Doubt,
    /// In words.
    pub text: String,
}

/// Connects, and shakes hands over TLS if there shall be TLS and `trust` is
/// known; where there shall be none, asks whether there is. Each of the two
/// takes `patience` at most.
pub async fn probe(address: &BrokerAddress, trust: Option<&Trust>, patience: Duration) -> Probe {
    let unreached = |why| Probe {
        reached: Err(why),
        wants_tls: false,
        shown: None,
    };
    let reached = Probe {
        reached: Ok(()),
        wants_tls: false,
        shown: None,
    };
    match address {
        BrokerAddress::Unix { path } => {
            let connect = async { UnixStream::connect(path).await.map_err(|e| plain(&e)) };
            match within(patience, connect).await {
                Ok(_) => reached,
                Err(why) => unreached(why),
            }
        }
        BrokerAddress::Plain { host, port } => match within(patience, tcp(host, *port)).await {
            Ok(stream) => {
                // Who takes one client after the other is to take the next.
                drop(stream);
                Probe {
                    wants_tls: speaks_tls(host, *port).await,
                    ..reached
                }
            }
            Err(why) => unreached(why),
        },
        BrokerAddress::Tls { host, port } => match within(patience, tcp(host, *port)).await {
            Err(why) => unreached(why),
            Ok(stream) => Probe {
                shown: match trust {
                    Some(trust) => Some(believed(patience, greet(stream, host, trust)).await),
                    None => None,
                },
                ..reached
            },
        },
    }
}

async fn within<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = async {
        smol::Timer::after(patience).await;
        Err(format!("no answer within {} s", patience.as_secs()))
    };
    work.or(late).await
}

async fn believed<T>(
    patience: Duration,
    work: impl Future<Output = Result<T, NotBelieved>>,
) -> Result<T, NotBelieved> {
    let work = async { Ok(work.await) };
    match within(patience, work).await {
        Ok(ended) => ended,
        Err(text) => Err(NotBelieved {
            doubt: Doubt::Other,
            text,
        }),
    }
}

async fn greet(
    stream: TcpStream,
    host: &str,
    trust: &Trust,
) -> Result<Vec<CertificateDer<'static>>, NotBelieved> {
    let other = |text: String| NotBelieved {
        doubt: Doubt::Other,
        text,
    };
    let config = client_config(trust).map_err(|e| other(e.to_string()))?;
    let name = ServerName::try_from(host.to_string()).map_err(|e| other(e.to_string()))?;
    let stream = futures_rustls::TlsConnector::from(config)
        .connect(name, stream)
        .await
        .map_err(|e| {
            let (doubt, text) = Doubt::of(&e);
            NotBelieved { doubt, text }
        })?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(certificates
        .iter()
        .map(|c| c.clone().into_owned())
        .collect())
}
