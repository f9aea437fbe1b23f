//! Listeners, the clock, and the handle that holds them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_rustls::TlsAcceptor;
use nix::sys::socket::{setsockopt, sockopt};
use rustls::ServerConfig;
use smol::{Async, Executor, Task, Timer};

use crate::authority::{Authority, Peer};
use crate::connection::{Accepted, serve};
use crate::core::Core;
use crate::limits::Limits;
use crate::stats::Stats;

/// How often run-out times are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// The pause after an accept that failed, as when file descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long sent bytes may stay unacknowledged before the kernel gives a
/// connection up (tcp(7), TCP_USER_TIMEOUT).
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a shutdown waits for the last bytes of its clients.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(3);

/// Where the broker listens, and how much its clients may use.
pub struct BrokerConfig {
    /// Devices come here.
    pub tls: Option<(SocketAddr, Arc<ServerConfig>)>,
    /// For trusted networks and tests.
    pub plain: Option<SocketAddr>,
    /// For the hub itself; the socket is made with mode 0600.
    pub unix: Option<PathBuf>,
    /// What all clients together may use.
    pub limits: Limits,
}

impl BrokerConfig {
    /// A broker that listens nowhere yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            tls: None,
            plain: None,
            unix: None,
            limits,
        }
    }
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum StartError {
    #[error("cannot listen on {address}")]
    Tcp {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("cannot listen on the Unix socket {path:?}")]
    Unix {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// An embedded MQTT broker.
#[derive(Debug)]
pub struct Broker;

/// A running broker. Dropping it ends all connections at once.
pub struct BrokerHandle {
    shared: Arc<Shared>,
    listeners: Vec<Task<()>>,
    _sweeper: Task<()>,
    tls: Option<SocketAddr>,
    plain: Option<SocketAddr>,
    unix: Option<PathBuf>,
}

/// What all connections share.
pub(crate) struct Shared {
    core: Mutex<Core>,
    pub authority: Arc<dyn Authority>,
    pub partial_bytes: AtomicUsize,
    pub max_partial_bytes: usize,
    pub connect_bytes: u32,
}

impl Shared {
    /// Does something with the core, then wakes and tells whom it concerns.
    pub fn with<T>(&self, act: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let (result, wakers, denied) = {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            let result = act(&mut core, Instant::now());
            let wakers = std::mem::take(&mut core.wakers);
            (result, wakers, std::mem::take(&mut core.denied))
        };
        for waker in wakers {
            waker.wake();
        }
        for denied in &denied {
            self.authority.denied(denied);
        }
        result
    }
}

impl Broker {
    /// Starts listening; everything runs on `executor`.
    pub fn start(
        executor: &Arc<Executor<'static>>,
        config: BrokerConfig,
        authority: Arc<dyn Authority>,
    ) -> Result<BrokerHandle, StartError> {
        let shared = Arc::new(Shared {
            authority,
            partial_bytes: AtomicUsize::new(0),
            max_partial_bytes: config.limits.partial_bytes,
            connect_bytes: config.limits.connect_bytes,
            core: Mutex::new(Core::new(config.limits)),
        });
        let mut listeners = Vec::new();
        let mut plain = None;
        if let Some(address) = config.plain {
            let (listener, bound) = bind(address)?;
            plain = Some(bound);
            let accept = accept_tcp(executor.clone(), shared.clone(), listener, None);
            listeners.push(executor.spawn(accept));
        }
        let mut tls = None;
        if let Some((address, server)) = config.tls {
            let (listener, bound) = bind(address)?;
            tls = Some(bound);
            let acceptor = TlsAcceptor::from(server);
            let accept = accept_tcp(executor.clone(), shared.clone(), listener, Some(acceptor));
            listeners.push(executor.spawn(accept));
        }
        if let Some(path) = &config.unix {
            let failed = |source| StartError::Unix {
                path: path.clone(),
                source,
            };
            let listener = bind_unix(path).map_err(failed)?;
            let accept = accept_unix(executor.clone(), shared.clone(), listener);
            listeners.push(executor.spawn(accept));
        }
        let clock = shared.clone();
        let sweeper = executor.spawn(async move {
            loop {
                Timer::after(SWEEP_EVERY).await;
                clock.with(|core, now| core.sweep(now));
            }
        });
        Ok(BrokerHandle {
            shared,
            listeners,
            _sweeper: sweeper,
            tls,
            plain,
            unix: config.unix,
        })
    }
}

impl BrokerHandle {
    /// Where TLS is listened for, with the real port.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls
    }

    /// Where connections without TLS are listened for, with the real port.
    pub fn plain_address(&self) -> Option<SocketAddr> {
        self.plain
    }

    /// Ends a client's connection and session at once, with its queued
    /// messages and its will; `reason` goes to the client. `false` when there
    /// is no such client. Keeping it out is the authority's part.
    pub fn disconnect(&self, client_id: &str, reason: &str) -> bool {
        self.shared
            .with(|core, now| core.revoke(client_id, reason, now))
    }

    /// The broker's counts.
    pub fn stats(&self) -> Stats {
        self.shared.with(|core, _| core.snapshot())
    }

    /// Stops listening, tells all clients, and waits a moment for them.
    pub async fn shutdown(mut self) {
        for listener in self.listeners.drain(..) {
            listener.cancel().await;
        }
        self.shared.with(|core, now| core.shut_down(now));
        let end = Instant::now() + SHUTDOWN_WITHIN;
        while self.stats().connections > 0 && Instant::now() < end {
            Timer::after(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for BrokerHandle {
    fn drop(&mut self) {
        self.listeners.clear();
        self.shared.with(|core, now| core.abort(now));
        if let Some(path) = &self.unix {
            // If it stays, the next start removes it.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(address: SocketAddr) -> Result<(Async<TcpListener>, SocketAddr), StartError> {
    let bound = || {
        let listener = Async::<TcpListener>::bind(address)?;
        let bound = listener.get_ref().local_addr()?;
        Ok((listener, bound))
    };
    bound().map_err(|source| StartError::Tcp { address, source })
}

fn bind_unix(path: &PathBuf) -> io::Result<Async<UnixListener>> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = Async::<UnixListener>::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn accept_tcp(
    executor: Arc<Executor<'static>>,
    shared: Arc<Shared>,
    listener: Async<TcpListener>,
    tls: Option<TlsAcceptor>,
) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                Timer::after(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Both only make a good line better.
        let _ = stream.get_ref().set_nodelay(true);
        let timeout = TCP_USER_TIMEOUT.as_millis() as u32;
        let _ = setsockopt(stream.get_ref(), sockopt::TcpUserTimeout, &timeout);
        let (peer, accepted) = match &tls {
            None => (Peer::Plain(address), Accepted::Plain(stream)),
            Some(tls) => (Peer::Tls(address), Accepted::Tls(stream, tls.clone())),
        };
        if let Ok(id) = shared.with(|core, now| core.open(peer, now)) {
            let serve = serve(shared.clone(), id, peer, accepted);
            executor.spawn(serve).detach();
        }
        // A flood of connections must not keep the executor from serving.
        smol::future::yield_now().await;
    }
}

async fn accept_unix(
    executor: Arc<Executor<'static>>,
    shared: Arc<Shared>,
    listener: Async<UnixListener>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if let Ok(id) = shared.with(|core, now| core.open(Peer::Unix, now)) {
                    let serve = serve(shared.clone(), id, Peer::Unix, Accepted::Unix(stream));
                    executor.spawn(serve).detach();
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                Timer::after(ACCEPT_PAUSE).await;
            }
        }
    }
}
