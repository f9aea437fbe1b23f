//! The hub as a program: puts store, keys, broker, line, loop and API
//! together, and takes them apart again in an order that loses nothing.

use crate::api::{self, Api, Listener};
use crate::authority::{HUB_CLIENT, Roster, now};
use crate::backup::{BackupError, FLEET_FILE, STORE_FILE};
use crate::core::Fleet;
use crate::images::{DiskImages, ImageFailure, Images};
use crate::keys::{Keys, KeysError, OPERATOR_FILE, make_private_dir, write_private};
use crate::options::{HubOptions, OptionsError};
use crate::shell::{Hub, Parts, Shell};
use crate::store::{Store, StoreError};
use futures_lite::FutureExt;
use rustls::ServerConfig;
use skerry_broker::{Broker, BrokerConfig, BrokerHandle, Limits};
use skerry_link::{BrokerAddress, BrokerUrl, Link, LinkConfig, Trust};
use skerry_wire::topic::Topic;
use skerry_wire::{FleetId, IdError};
use smol::Async;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The fleet's name unless the operator gives it one.
const DEFAULT_FLEET: &str = "fleet";
/// The broker's socket for the hub's own line, inside the data directory.
const BROKER_SOCKET: &str = "broker.sock";
/// Messages of the hub's line that wait or are unacknowledged.
const LINE_MESSAGES: usize = 65_536;
/// Bytes of those messages.
const LINE_BYTES: usize = 64 * 1024 * 1024;
/// A broker pings the hub's line dead within this time.
const LINE_KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Another broker keeps what devices say for so long while the hub is away.
const LINE_SESSION: Duration = Duration::from_secs(24 * 3600);
/// How long what is under way may take at the end.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long a start waits for the hub's own line to its own broker.
const LINE_UP_WITHIN: Duration = Duration::from_secs(10);
/// Threads that serve devices and operators at most.
const MAX_THREADS: usize = 4;

/// Why the hub does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An option makes no sense.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The keys.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The name of the fleet.
    #[error(transparent)]
    Name(#[from] IdError),
    /// Renaming would lose every device.
    #[error(
        "this hub serves fleet '{is}', not '{wanted}': leave --fleet out, or use another --data"
    )]
    OtherFleet {
        /// What it is.
        is: FleetId,
        /// What was asked.
        wanted: FleetId,
    },
    /// The address of the API.
    #[error("cannot listen on {address} for the API: choose another with --api")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// The embedded broker.
    #[error("cannot start the broker")]
    Broker(#[source] skerry_broker::StartError),
    /// The URL of a broker.
    #[error(transparent)]
    Url(#[from] skerry_link::BrokerUrlError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] rustls::Error),
    /// The disk.
    #[error("cannot use {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Images.
    #[error(transparent)]
    Images(#[from] ImageFailure),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signals(#[source] io::Error),
    /// A restore.
    #[error(transparent)]
    Backup(#[from] BackupError),
}

/// A hub that runs. Dropping it is what `kill -9` is; [`Server::stop`] is
/// kinder.
pub struct Server {
    /// The door to the fleet.
    pub hub: Hub,
    /// `http://127.0.0.1:7420`.
    pub api_url: String,
    /// What devices dial.
    pub device_broker: String,
    /// The operator's bearer token.
    pub operator_token: String,
    broker: Option<Arc<BrokerHandle>>,
    shell: smol::Task<Result<(), StoreError>>,
    serving: smol::Task<()>,
    store: Weak<Store>,
}

impl Server {
    /// Starts all of it; when this returns, it is ready.
    pub async fn start(
        options: &HubOptions,
        images: Arc<dyn Images>,
        executor: Arc<smol::Executor<'static>>,
    ) -> Result<Self, ServerError> {
        let data = &options.data;
        make_private_dir(data)?;
        let uploads = data.join(api::UPLOADS_DIR);
        // What an earlier run left there is of no use.
        let _ = fs::remove_dir_all(&uploads);
        make_private_dir(&uploads)?;
        let store = Arc::new(Store::open(&data.join(STORE_FILE))?);
        let fleet_id = fleet_id(options)?;
        let keys = Keys::open(data, &options.server_names())?;
        let tls = tls_config(&keys)?;

        let records = store.load()?;
        let roster = Arc::new(Roster::new(fleet_id.clone(), keys.hub.clone(), &records));
        let (mut fleet, changes) = Fleet::restore(fleet_id.clone(), keys.hub.clone(), records);
        fleet.trust(options.release_keys.clone());
        store.commit(&changes)?;

        let broker = start_broker(options, &tls, &roster, &executor)?;
        let (line, device_broker) = match &broker {
            Some(broker) => {
                let socket = data.join(BROKER_SOCKET);
                let address = BrokerAddress::Unix { path: socket };
                let url = BrokerUrl {
                    address,
                    login: None,
                };
                let port = broker.tls_address().map_or(0, |a| a.port());
                (
                    line_config(url, HUB_CLIENT.into()),
                    options.device_broker(port)?,
                )
            }
            None => {
                let url = options.broker.as_deref().unwrap_or_default();
                let parsed: BrokerUrl = url.parse()?;
                let mut shown = parsed.clone();
                shown.login = None;
                let dialled = options.device_broker.clone();
                let client = format!("skerry-hub-{fleet_id}");
                (
                    line_config(parsed, client),
                    dialled.unwrap_or_else(|| shown.to_string()),
                )
            }
        };
        let mut line = line;
        line.subscriptions = Topic::hub_filters(&fleet_id);
        let (link, link_events) = Link::start(&executor, line, None);

        let (shell, hub) = Shell::new(Parts {
            fleet,
            store: store.clone(),
            link,
            link_events,
            broker: broker.clone(),
            roster: roster.clone(),
            executor: executor.clone(),
            images: images.clone(),
        });
        let shell = executor.spawn(shell.run());

        if broker.is_some() {
            let up = async {
                while !roster.is_open() {
                    smol::Timer::after(Duration::from_millis(1)).await;
                }
            };
            // Not reached on any machine that works; devices would then be
            // told to try again.
            let late = async {
                smol::Timer::after(LINE_UP_WITHIN).await;
                tracing::warn!("the hub's own line to its broker is not up yet");
            };
            up.or(late).await;
        }

        let api_tls = (!options.api.ip().is_loopback()).then_some(tls);
        let failed = |source| ServerError::Listen {
            address: options.api,
            source,
        };
        let listener = Listener::bind(options.api, api_tls).await.map_err(failed)?;
        let api_url = api_url(options, &listener).map_err(failed)?;
        let embedded = broker.is_some();
        let api = Arc::new(Api {
            hub: hub.clone(),
            images,
            store: store.clone(),
            data: data.clone(),
            operator_token: keys.operator_token.clone(),
            device_broker: device_broker.clone(),
            embedded_broker: embedded,
            tls_pin: embedded.then(|| *keys.ca_pin().as_bytes()),
            manual_approval: options.manual_approval,
            started: now(),
            executor: executor.clone(),
        });
        let serving = api::serve(listener, api::router(api), executor.clone());
        let serving = executor.spawn(serving);
        keys.write_operator(data, &api_url)?;
        Ok(Self {
            hub,
            api_url,
            device_broker,
            operator_token: keys.operator_token,
            broker,
            shell,
            serving,
            store: Arc::downgrade(&store),
        })
    }

    /// The embedded broker.
    pub fn broker(&self) -> Option<&Arc<BrokerHandle>> {
        self.broker.as_ref()
    }

    /// Ends what is under way, and everything. When this returns, another hub
    /// can start on the same data.
    pub async fn stop(self) -> Result<(), ServerError> {
        self.serving.cancel().await;
        self.hub.stop().await;
        let ended = self.shell.await;
        // The loop held the other handles, and is gone.
        if let Some(broker) = self.broker.and_then(Arc::into_inner) {
            broker.shutdown().await;
        }
        let closed = async {
            while self.store.strong_count() > 0 {
                smol::Timer::after(Duration::from_millis(2)).await;
            }
        };
        let late = async {
            smol::Timer::after(STOP_WITHIN).await;
        };
        closed.or(late).await;
        Ok(ended?)
    }

    /// Waits until a commit fails: the hub cannot go on then.
    async fn broken(&mut self) -> Result<(), ServerError> {
        Ok((&mut self.shell).await?)
    }
}

/// The name that this hub has, or gets now.
fn fleet_id(options: &HubOptions) -> Result<FleetId, ServerError> {
    let path = options.data.join(FLEET_FILE);
    let wanted = options.fleet.as_deref().map(FleetId::new).transpose()?;
    match fs::read_to_string(&path) {
        Ok(text) => {
            let is = FleetId::new(text.trim())?;
            match wanted {
                Some(wanted) if wanted != is => Err(ServerError::OtherFleet { is, wanted }),
                _ => Ok(is),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let fleet = match wanted {
                Some(fleet) => fleet,
                None => FleetId::new(DEFAULT_FLEET)?,
            };
            write_private(&path, fleet.as_str().as_bytes())?;
            Ok(fleet)
        }
        Err(source) => Err(ServerError::File { path, source }),
    }
}

fn tls_config(keys: &Keys) -> Result<Arc<ServerConfig>, ServerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ServerError::Tls)?
        .with_no_client_auth()
        .with_single_cert(keys.chain.clone(), keys.server_key())
        .map_err(ServerError::Tls)?;
    Ok(Arc::new(config))
}

fn start_broker(
    options: &HubOptions,
    tls: &Arc<ServerConfig>,
    roster: &Arc<Roster>,
    executor: &Arc<smol::Executor<'static>>,
) -> Result<Option<Arc<BrokerHandle>>, ServerError> {
    if options.broker.is_some() {
        return Ok(None);
    }
    let mut config = BrokerConfig::new(Limits::default());
    config.tls = Some((options.listen, tls.clone()));
    config.unix = Some(options.data.join(BROKER_SOCKET));
    let broker = Broker::start(executor, config, roster.clone()).map_err(ServerError::Broker)?;
    Ok(Some(Arc::new(broker)))
}

fn line_config(broker: BrokerUrl, client_id: String) -> LinkConfig {
    let mut config = LinkConfig::new(broker, client_id);
    config.keep_alive = LINE_KEEP_ALIVE;
    config.session_expiry = LINE_SESSION;
    config.max_queued_messages = LINE_MESSAGES;
    config.max_queued_bytes = LINE_BYTES;
    config.backoff_first = Duration::from_millis(100);
    config.backoff_cap = Duration::from_secs(10);
    config.trust = Trust::SystemRoots;
    config
}

fn api_url(options: &HubOptions, listener: &Listener) -> io::Result<String> {
    let bound = listener.address()?;
    let scheme = if listener.is_tls() { "https" } else { "http" };
    let host = match (&options.advertise, bound.ip().is_unspecified()) {
        (Some(advertise), true) => crate::options::host_of(advertise).to_string(),
        (None, true) => "localhost".to_string(),
        (_, false) => match bound {
            SocketAddr::V4(v4) => v4.ip().to_string(),
            SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
        },
    };
    Ok(format!("{scheme}://{host}:{}", bound.port()))
}

/// Runs the hub until SIGTERM or SIGINT.
pub fn run(options: HubOptions) -> Result<(), ServerError> {
    // Before any thread is made: all of them inherit it.
    let mut stop = nix::sys::signal::SigSet::empty();
    stop.add(nix::sys::signal::SIGTERM);
    stop.add(nix::sys::signal::SIGINT);
    let signals = |error: nix::Error| ServerError::Signals(error.into());
    stop.thread_block().map_err(signals)?;
    let flags =
        nix::sys::signalfd::SfdFlags::SFD_NONBLOCK | nix::sys::signalfd::SfdFlags::SFD_CLOEXEC;
    let stop = nix::sys::signalfd::SignalFd::with_flags(&stop, flags).map_err(signals)?;

    let executor = Arc::new(smol::Executor::new());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    // Closed when this function returns, which ends the threads.
    let (_alive, dead) = async_channel::bounded::<()>(1);
    for number in 1..cpus.min(MAX_THREADS) {
        let (executor, dead) = (executor.clone(), dead.clone());
        let work = move || {
            let _ = smol::block_on(executor.run(dead.recv()));
        };
        std::thread::Builder::new()
            .name(format!("hub-{number}"))
            .spawn(work)
            .map_err(|source| ServerError::File {
                path: "a thread".into(),
                source,
            })?;
    }
    smol::block_on(executor.run(serve(options, executor.clone(), stop)))
}

async fn serve(
    options: HubOptions,
    executor: Arc<smol::Executor<'static>>,
    stop: nix::sys::signalfd::SignalFd,
) -> Result<(), ServerError> {
    make_private_dir(&options.data)?;
    let auth = options.registry_auth.as_deref();
    let images = Arc::new(DiskImages::open(&options.data, auth)?);
    let mut server = Server::start(&options, images, executor).await?;
    let operator = options.data.join(OPERATOR_FILE);
    println!(
        "skerry hub ready: api={} broker={} operator={}",
        server.api_url,
        server.device_broker,
        operator.display()
    );
    notify_systemd("READY=1");
    let stop = Async::new(stop).map_err(ServerError::Signals)?;
    let told = async {
        stop.readable().await.map_err(ServerError::Signals)?;
        Ok(true)
    };
    let hub = server.hub.clone();
    let broken = async { server.broken().await.map(|()| false) };
    let alive = async {
        let Some(interval) = watchdog_interval() else {
            return std::future::pending().await;
        };
        loop {
            smol::Timer::after(interval).await;
            // The loop answers: that is what being alive means here.
            if hub.read(|_| ()).await.is_ok() {
                notify_systemd("WATCHDOG=1");
            }
        }
    };
    if told.or(broken).or(alive).await? {
        tracing::info!("stopping");
        notify_systemd("STOPPING=1");
        let late = async {
            smol::Timer::after(STOP_WITHIN).await;
            Ok(())
        };
        server.stop().or(late).await?;
    }
    Ok(())
}

/// How often systemd is to hear that we live; `None` if it did not ask.
fn watchdog_interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    Some(Duration::from_micros(micros / 2))
}

/// Tells systemd, when it started us and wants to know (sd_notify(3)).
fn notify_systemd(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(hidden) => SocketAddr::from_abstract_name(hidden),
        None => SocketAddr::from_pathname(Path::new(&name)),
    };
    let send = || -> io::Result<()> {
        let socket = UnixDatagram::unbound()?;
        socket.send_to_addr(state.as_bytes(), &address?)?;
        Ok(())
    };
    if let Err(error) = send() {
        tracing::warn!("cannot tell systemd that we are ready: {error}");
    }
}
