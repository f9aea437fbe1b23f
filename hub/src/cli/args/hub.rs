//! The hub itself: serving, its copies, its demonstration.

use super::words::Approve;
use clap::Args;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What the demo needs; `./demo` builds and names it.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// The skerry-agent program [default: beside this one]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// The static program for the demo's image [default: beside this one]
    #[arg(long, value_name = "FILE")]
    pub app: Option<PathBuf>,
    /// End by itself; exit code 0 only if everything happened
    #[arg(long)]
    pub once: bool,
}

/// How to serve. What is not given is as the settings file says, or as the
/// defaults are.
#[derive(Debug, Clone, Default, Args)]
pub struct HubArgs {
    /// A settings file; flags go before it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where the HTTP API listens (127.0.0.1:7420); https unless it is a
    /// loopback address
    #[arg(long, value_name = "IP:PORT")]
    pub api: Option<SocketAddr>,
    /// Where the embedded broker listens for devices, MQTT over TLS
    /// (0.0.0.0:8883)
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<SocketAddr>,
    /// What devices reach this hub by, as in hub.example or hub.example:8883;
    /// this machine's name when absent
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Another broker instead of the embedded one, as in
    /// mqtts://user:password@broker.example:8883
    #[arg(long, value_name = "URL", conflicts_with = "listen")]
    pub broker: Option<String>,
    /// That broker's address as devices see it, if another
    #[arg(long, value_name = "URL")]
    pub device_broker: Option<String>,
    /// The fleet's name; only counts at the first start
    #[arg(long, value_name = "NAME")]
    pub fleet: Option<String>,
    /// How devices get in when their token does not say
    #[arg(long, value_name = "HOW")]
    pub approve: Option<Approve>,
    /// Credentials for registries, as Docker's config.json has them
    #[arg(long, value_name = "FILE")]
    pub registry_auth: Option<PathBuf>,
    /// A public key whose releases of agents and systems this hub takes, and
    /// devices trust that join from now on; may be repeated
    #[arg(long = "release-key", value_name = "HEX")]
    pub release_keys: Vec<String>,
}

/// `skerry backup`.
#[derive(Debug, Clone, Args)]
pub struct BackupArgs {
    /// Where to; - for stdout
    pub file: PathBuf,
    /// With the images
    #[arg(long)]
    pub images: bool,
}
