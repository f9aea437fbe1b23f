//! What only looks.

use super::words::{DataFormat, Format, InNamespace};
use crate::cli::human::parse_duration;
use clap::{Args, ValueEnum};
use std::time::Duration;

/// `skerry get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// devices, apps, jobs, cronjobs, containers, images, events, tokens,
    /// configs, secrets, releases or rollouts; or device/NAME
    pub resource: String,
    /// Only these
    pub names: Vec<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// Only devices with these labels, as in site=berlin,role in (gateway,kiosk)
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only this namespace; default is 'default'
    #[arg(short, long, value_name = "NAMESPACE", env = "SKERRY_NAMESPACE")]
    pub namespace: Option<String>,
    /// All namespaces
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    pub all_namespaces: bool,
    /// Leave out the headings
    #[arg(long)]
    pub no_headers: bool,
    /// Also show devices that were shut out
    #[arg(long)]
    pub revoked: bool,
}

/// `skerry ps`.
#[derive(Debug, Clone, Args)]
pub struct PsArgs {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
    /// Only devices with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Only this namespace; default is all
    #[arg(short, long, value_name = "NAMESPACE", env = "SKERRY_NAMESPACE")]
    pub namespace: Option<String>,
}

impl From<PsArgs> for GetArgs {
    fn from(args: PsArgs) -> Self {
        GetArgs {
            resource: "containers".into(),
            names: Vec::new(),
            output: args.output,
            selector: args.selector,
            all_namespaces: args.namespace.is_none(),
            namespace: args.namespace,
            no_headers: false,
            revoked: false,
        }
    }
}

/// `skerry describe`.
#[derive(Debug, Clone, Args)]
pub struct DescribeArgs {
    /// device, app, job, cronjob, config or secret; or device/NAME
    pub resource: String,
    /// Which
    pub names: Vec<String>,
    /// The app's namespace
    #[command(flatten)]
    pub namespace: InNamespace,
}

/// `skerry logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// APP (on every device that has it) or DEVICE/APP
    pub target: String,
    /// Which container, if the app has several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Go on as more is written
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last so many lines
    #[arg(long, value_name = "LINES")]
    pub tail: Option<u32>,
    /// Only what is younger, as in 10m or 2h
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub since: Option<Duration>,
    /// Put the time before each line
    #[arg(long)]
    pub timestamps: bool,
    /// Put device and container before each line, also with one log
    #[arg(long)]
    pub prefix: bool,
    /// Only what the start before the last one wrote: why it crashed
    #[arg(short, long, conflicts_with = "follow")]
    pub previous: bool,
    /// Which run of a CronJob, by its number in `skerry describe cronjob`;
    /// without it the newest
    #[arg(long, value_name = "NUMBER")]
    pub job_run: Option<u32>,
    /// Only from this device
    #[arg(long, short = 'd', value_name = "NAME")]
    pub device: Option<String>,
    /// Only from devices with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// All containers of the app
    #[arg(long, conflicts_with = "container")]
    pub all_containers: bool,
    /// The app's namespace
    #[command(flatten)]
    pub namespace: InNamespace,
}

/// `skerry events`.
#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Go on as more happens
    #[arg(short, long)]
    pub watch: bool,
    /// Only of this device
    #[arg(long, short = 'd', value_name = "NAME")]
    pub device: Option<String>,
    /// Only of this app, as NAME or NAMESPACE/NAME
    #[arg(long, value_name = "APP")]
    pub app: Option<String>,
    /// At most so many of the past
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    pub limit: u32,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// `skerry top`.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {
    /// devices or apps
    #[arg(default_value = "devices")]
    pub resource: String,
    /// Only devices with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// wide: how much apps had to wait for cpu, memory and disk
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<TopOutput>,
}

/// What else `skerry top` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TopOutput {
    /// Pressure besides.
    Wide,
}

/// `skerry doctor`.
#[derive(Debug, Clone, Args)]
pub struct DoctorArgs {
    /// Which
    #[arg(value_name = "DEVICE", required_unless_present = "selector")]
    pub devices: Vec<String>,
    /// All that are online and have these labels
    #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "devices")]
    pub selector: Option<String>,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: DataFormat,
}
