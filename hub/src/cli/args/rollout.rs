//! Changes of the devices themselves, and how they are brought to them.

use super::words::{DataFormat, Format, InNamespace};
use crate::cli::human::parse_duration;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;

/// `skerry release`.
#[derive(Debug, Clone, Args)]
pub struct ReleaseArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ReleaseCommand,
}

/// Which software of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReleaseKindArg {
    /// The agent's program
    Agent,
    /// The whole system of devices that run Skerry's own image
    Os,
}

/// What to do with releases.
#[derive(Debug, Clone, Subcommand)]
pub enum ReleaseCommand {
    /// Make a key to sign releases with, and print its public half
    Keygen {
        /// Where the secret half goes
        #[arg(short, long, value_name = "FILE", default_value = "release.key")]
        output: PathBuf,
    },
    /// Put programs for all platforms into one signed bundle; needs no hub
    Sign {
        /// What 'skerry release keygen' wrote
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// The version, as the program says it itself
        #[arg(long, value_name = "VERSION")]
        version: String,
        /// Which software
        #[arg(long, default_value = "agent")]
        kind: ReleaseKindArg,
        /// Where the bundle goes
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// One for each platform, as in arm64=FILE arm/v7=FILE
        #[arg(required = true, value_name = "PLATFORM=FILE")]
        artifacts: Vec<String>,
    },
    /// Give the hub a bundle; it takes those of its release keys
    Import {
        /// What 'skerry release sign' wrote
        file: PathBuf,
    },
    /// Show the hub's releases
    #[command(visible_alias = "ls")]
    List {
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Delete a release that is not being rolled out
    #[command(visible_alias = "rm")]
    Delete {
        /// Which version
        version: String,
        /// Of which software
        #[arg(long, default_value = "agent")]
        kind: ReleaseKindArg,
    },
    /// Bring a release to devices, a few at a time; it stops at the first that
    /// does not come back with it
    Rollout {
        /// Which version
        version: String,
        /// Of which software
        #[arg(long, default_value = "agent")]
        kind: ReleaseKindArg,
        /// Also to devices that run a newer version
        #[arg(long)]
        allow_older: bool,
        /// How
        #[command(flatten)]
        options: RolloutOptions,
    },
}

/// How something is rolled out.
#[derive(Debug, Clone, Args)]
pub struct RolloutOptions {
    /// Only to devices with these labels; all when absent
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// How many devices at one time, as in 1 or 10%
    #[arg(long, value_name = "COUNT", default_value = "1")]
    pub max_unavailable: String,
    /// A device goes back unless it has proved itself within this time
    #[arg(long, value_parser = parse_duration, default_value = "5m", value_name = "TIME")]
    pub confirm_within: Duration,
    /// Wait until every device has it; fail if one cannot
    #[arg(long)]
    pub wait: bool,
    /// How long to wait
    #[arg(long, value_parser = parse_duration, default_value = "1h", value_name = "TIME")]
    pub timeout: Duration,
}

/// `skerry rollout`.
#[derive(Debug, Clone, Args)]
pub struct RolloutArgs {
    /// What to do
    #[command(subcommand)]
    pub command: RolloutCommand,
}

/// What to do with rollouts. Each is about the newest of its subject.
#[derive(Debug, Clone, Subcommand)]
pub enum RolloutCommand {
    /// Show how far it is
    Status {
        /// agent, os or line, or app/NAME or job/NAME; the newest of the first
        /// three when absent
        subject: Option<String>,
        /// The app's namespace
        #[command(flatten)]
        namespace: InNamespace,
        /// Wait until every device has it; fail if one cannot
        #[arg(short, long, visible_alias = "watch")]
        wait: bool,
        /// How long to wait
        #[arg(long, value_parser = parse_duration, default_value = "1h", value_name = "TIME")]
        timeout: Duration,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "text")]
        output: DataFormat,
    },
    /// No further device gets it; those that are at it go on
    Pause {
        /// agent, os or line
        subject: String,
    },
    /// Go on; devices that failed are tried once more
    Resume {
        /// agent, os or line
        subject: String,
    },
    /// Begin an app anew on its devices, as a change of it: also where it went
    /// back by itself, which tries it once more
    #[command(visible_alias = "retry")]
    Restart {
        /// app/NAME, or NAME
        app: String,
        /// The app's namespace
        #[command(flatten)]
        namespace: InNamespace,
        /// Wait until every matching device that is online runs it; fail if not
        #[arg(short, long)]
        wait: bool,
        /// How long to wait, as in 90s or 5m
        #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
        timeout: Duration,
    },
    /// Roll out what the same devices had before it and none failed at; with
    /// nothing before it, call it off
    Undo {
        /// agent, os or line
        subject: String,
    },
    /// Show all rollouts, or those of one thing
    History {
        /// agent, os or line
        subject: Option<String>,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
}

/// `skerry line`.
#[derive(Debug, Clone, Args)]
pub struct LineArgs {
    /// What to do
    #[command(subcommand)]
    pub command: LineCommand,
}

/// What to do with lines.
#[derive(Debug, Clone, Subcommand)]
pub enum LineCommand {
    /// Let devices reach this hub at another address; each goes back unless
    /// the hub answers there. Until all have moved, both must work
    Set {
        /// As in mqtts://hub.example:8883
        broker: String,
        /// The certificate of the authority behind that address, PEM or DER;
        /// the hub's own when absent
        #[arg(long, value_name = "FILE", conflicts_with_all = ["tls_pin", "system_roots"])]
        ca: Option<PathBuf>,
        /// The same by its SHA-256
        #[arg(long, value_name = "HEX", conflicts_with = "system_roots")]
        tls_pin: Option<String>,
        /// Trust what the device's system trusts, instead of one certificate
        #[arg(long)]
        system_roots: bool,
        /// How
        #[command(flatten)]
        options: RolloutOptions,
    },
}
