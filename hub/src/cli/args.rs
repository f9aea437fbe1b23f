//! The grammar of the command line.

use super::flash::FlashArgs;
use super::human::parse_duration;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Runs containers on a fleet of devices.
#[derive(Debug, Parser)]
#[command(
    name = "skerry",
    version,
    about = "Runs containers on a fleet of devices",
    max_term_width = 100
)]
pub struct Cli {
    /// Which hub.
    #[command(flatten)]
    pub connection: Connection,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Which hub, and what opens it. Without any of it: the operator.json in
/// --data, ~/.config/skerry or /var/lib/skerry.
#[derive(Debug, Clone, Default, Args)]
pub struct Connection {
    /// The hub's address, as in http://127.0.0.1:7420
    #[arg(
        long,
        global = true,
        env = "SKERRY_HUB",
        value_name = "URL",
        help_heading = "Hub"
    )]
    pub hub: Option<String>,
    /// The operator's token
    #[arg(
        long,
        global = true,
        env = "SKERRY_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        help_heading = "Hub"
    )]
    pub token: Option<String>,
    /// SHA-256 of the hub's CA certificate, for https
    #[arg(
        long,
        global = true,
        env = "SKERRY_CA_PIN",
        value_name = "HEX",
        help_heading = "Hub"
    )]
    pub ca_pin: Option<String>,
    /// The hub's data directory
    #[arg(
        long,
        global = true,
        env = "SKERRY_DATA",
        value_name = "DIR",
        help_heading = "Hub"
    )]
    pub data: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve: be the hub
    Hub(HubArgs),
    /// Show devices, apps, jobs, cronjobs, containers, images, events, tokens,
    /// configs or secrets
    #[command(visible_alias = "list")]
    Get(GetArgs),
    /// Show all containers of all devices
    Ps(PsArgs),
    /// Show all about one device, app, job, cronjob, config or secret
    Describe(DescribeArgs),
    /// Make it so: create or change what the files declare
    Apply(ApplyArgs),
    /// Show what apply would change; exit code 1 if anything
    Diff(FilesArgs),
    /// Make a config or secret from files and words
    Create(CreateArgs),
    /// Delete what files declare, or by name
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
    /// Show what an app wrote
    #[command(visible_alias = "log")]
    Logs(LogsArgs),
    /// Run a command inside a container
    Exec(ExecArgs),
    /// Show, copy, back up and remove what devices keep for their apps
    #[command(visible_alias = "volumes")]
    Volume(VolumeArgs),
    /// Set (key=value) or remove (key-) labels of a device
    Label(LabelArgs),
    /// Let a device in that waits in the lobby
    Approve(ApproveArgs),
    /// Make, list and delete join tokens
    #[command(visible_alias = "tokens")]
    Token(TokenArgs),
    /// Write an OS image onto a card, so that the board joins by itself
    Flash(Box<FlashArgs>),
    /// Import, pull and list images
    Image(ImageArgs),
    /// Sign, import and roll out what devices themselves run: their agents and
    /// systems
    #[command(visible_alias = "releases")]
    Release(ReleaseArgs),
    /// Show, hold and take back the rollouts of releases and lines
    #[command(visible_alias = "rollouts")]
    Rollout(RolloutArgs),
    /// Change how devices reach this hub
    Line(LineArgs),
    /// Show what happened
    #[command(visible_alias = "event")]
    Events(EventsArgs),
    /// Show what devices or apps use now
    Top(TopArgs),
    /// Ask devices what is wrong with them, and what mends it; exit code 1 if
    /// something does not work
    Doctor(DoctorArgs),
    /// Show how the hub and its fleet are
    Status,
    /// Save the hub's store and keys
    Backup(BackupArgs),
    /// Make a data directory (--data, empty so far) from a backup; the hub
    /// must not run there
    Restore {
        /// What `skerry backup` wrote
        file: PathBuf,
    },
    /// Show a fleet at work on this machine: a hub and two devices
    Demo(DemoArgs),
    /// Print a script for the shell's completion
    ///
    /// For bash: source <(skerry completion bash)
    Completion {
        /// Which shell
        shell: Shell,
    },
    /// Candidates for completion
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The command line so far; the last word is the one to complete
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        words: Vec<String>,
    },
}

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

impl Command {
    /// The exit code of failing: 1, except where 1 means something else.
    pub(super) fn failure_code(&self) -> u8 {
        match self {
            Command::Diff(_) => 2,
            _ => 1,
        }
    }
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

/// How devices get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Approve {
    /// At once
    Auto,
    /// They wait for skerry approve
    Manual,
}

/// What can be shown and deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// Machines with an agent.
    Devices,
    /// What runs on them.
    Apps,
    /// What runs to its end.
    Jobs,
    /// What does so at certain times.
    CronJobs,
    /// Each process group, one by one.
    Containers,
    /// What apps are made from.
    Images,
    /// What happened.
    Events,
    /// What lets devices join.
    Tokens,
    /// Small files for apps.
    Configs,
    /// The same, shown to nobody.
    Secrets,
}

impl Resource {
    /// Every name that people use for it, the usual one first.
    pub(super) const NAMES: [(Resource, &[&str]); 10] = [
        (
            Resource::Devices,
            &["devices", "device", "dev", "devs", "nodes", "node", "no"],
        ),
        (Resource::Apps, &["apps", "app", "deployments", "deploy"]),
        (Resource::Jobs, &["jobs", "job"]),
        (Resource::CronJobs, &["cronjobs", "cronjob", "cj"]),
        (
            Resource::Containers,
            &["containers", "container", "pods", "pod", "po", "ps"],
        ),
        (Resource::Images, &["images", "image", "img"]),
        (Resource::Events, &["events", "event", "ev"]),
        (Resource::Tokens, &["tokens", "token"]),
        (
            Resource::Configs,
            &["configs", "config", "configmaps", "configmap", "cm"],
        ),
        (Resource::Secrets, &["secrets", "secret"]),
    ];

    /// The resource that people mean by `text`.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lower = text.to_lowercase();
        for (resource, names) in Self::NAMES {
            if names.contains(&lower.as_str()) {
                return Ok(resource);
            }
        }
        Err("use devices, apps, jobs, cronjobs, containers, images, events, tokens, configs or secrets".into())
    }

    /// `device`, as in `device/kiosk-7`.
    pub(super) fn singular(self) -> &'static str {
        match self {
            Resource::Devices => "device",
            Resource::Apps => "app",
            Resource::Jobs => "job",
            Resource::CronJobs => "cronjob",
            Resource::Containers => "container",
            Resource::Images => "image",
            Resource::Events => "event",
            Resource::Tokens => "token",
            Resource::Configs => "config",
            Resource::Secrets => "secret",
        }
    }
}

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// More columns
    Wide,
    /// As the API answers
    Json,
    /// Apps as manifests, anything else as the API answers
    Yaml,
    /// device/NAME, one a line
    Name,
}

/// Where names are looked up.
#[derive(Debug, Clone, Default, Args)]
pub struct InNamespace {
    /// The app's namespace
    #[arg(
        short,
        long,
        value_name = "NAMESPACE",
        env = "SKERRY_NAMESPACE",
        default_value = "default"
    )]
    pub namespace: String,
}

/// `skerry get`.
#[derive(Debug, Clone, Args)]
pub struct GetArgs {
    /// devices, apps, containers, images, events, tokens, configs or secrets;
    /// or device/NAME
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

/// Files that declare things.
#[derive(Debug, Clone, Default, Args)]
pub struct FilesArgs {
    /// A file, a directory (its .yaml, .yml and .json files) or - for stdin;
    /// may be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Go down into directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `skerry apply`.
#[derive(Debug, Clone, Args)]
pub struct ApplyArgs {
    /// What to apply
    #[command(flatten)]
    pub files: FilesArgs,
    /// Only check and say what would happen
    #[arg(long)]
    pub dry_run: bool,
    /// Wait until every matching device that is online runs it; fail if not
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// How long to wait, as in 90s or 5m
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    pub timeout: Duration,
}

/// `skerry delete`.
#[derive(Debug, Clone, Args)]
pub struct DeleteArgs {
    /// app, device, token, config or secret; or app/NAME
    #[arg(required_unless_present = "files", conflicts_with = "files")]
    pub resource: Option<String>,
    /// Which
    pub names: Vec<String>,
    /// Delete what these declare
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Go down into directories
    #[arg(short = 'R', long)]
    pub recursive: bool,
    /// Only say what would happen (with -f)
    #[arg(long, requires = "files")]
    pub dry_run: bool,
    /// Do not fail when it is not there
    #[arg(long)]
    pub ignore_not_found: bool,
    /// The app's namespace
    #[command(flatten)]
    pub namespace: InNamespace,
}

/// `skerry create`.
#[derive(Debug, Clone, Args)]
pub struct CreateArgs {
    /// What to make
    #[command(subcommand)]
    pub kind: CreateKind,
}

/// What can be made without a manifest.
#[derive(Debug, Clone, Subcommand)]
pub enum CreateKind {
    /// Files that apps read
    #[command(visible_aliases = ["configmap", "cm"])]
    Config(CreateConfig),
    /// Files that apps read and nobody else sees
    Secret(CreateConfig),
    /// What a cronjob runs, now and once
    Job(CreateJob),
}

/// A job of a cronjob.
#[derive(Debug, Clone, Args)]
pub struct CreateJob {
    /// Its name
    pub name: String,
    /// Which cronjob, as in cronjob/backup
    #[arg(long, value_name = "CRONJOB", required = true)]
    pub from: String,
    /// Wait until it is complete on every matching device that is online; fail
    /// if not
    #[arg(long)]
    pub wait: bool,
    /// How long to wait, as in 90s or 5m
    #[arg(long, value_parser = parse_duration, default_value = "60s", value_name = "TIME")]
    pub timeout: Duration,
    /// Their namespace
    #[command(flatten)]
    pub namespace: InNamespace,
}

/// What a config or secret is made of.
#[derive(Debug, Clone, Args)]
pub struct CreateConfig {
    /// Its name
    #[arg(required = true, num_args = 1..=2, value_name = "NAME")]
    pub names: Vec<String>,
    /// A file (under its own name or KEY), or all files of a directory; may be
    /// repeated
    #[arg(long, value_name = "[KEY=]FILE")]
    pub from_file: Vec<String>,
    /// A file with these words; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub from_literal: Vec<String>,
    /// Each line KEY=VALUE of this file; may be repeated
    #[arg(long, value_name = "FILE")]
    pub from_env_file: Vec<PathBuf>,
    /// It may be deleted, but never changed
    #[arg(long)]
    pub immutable: bool,
    /// Only print the manifest, with its values
    #[arg(long)]
    pub dry_run: bool,
    /// Its namespace
    #[command(flatten)]
    pub namespace: InNamespace,
}

/// `skerry volume`.
#[derive(Debug, Clone, Args)]
pub struct VolumeArgs {
    /// What to do
    #[command(subcommand)]
    pub command: VolumeCommand,
}

/// What to do with volumes.
#[derive(Debug, Clone, Subcommand)]
pub enum VolumeCommand {
    /// Show a device's volumes
    #[command(name = "ls", visible_alias = "list")]
    List {
        /// Which device
        device: String,
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Remove volumes that no app uses, with all that is in them
    #[command(name = "rm", visible_alias = "delete")]
    Remove {
        /// Which
        #[arg(required = true, value_name = "DEVICE/[NAMESPACE/]VOLUME")]
        volumes: Vec<String>,
        /// The volume's namespace
        #[command(flatten)]
        namespace: InNamespace,
    },
    /// Copy files or directories out of a volume or into it, as in
    /// 'volume cp kiosk-1:data/web.db .' or 'volume cp conf/ kiosk-1:data/conf'.
    /// With a slash at its end, the target is a directory to copy into
    #[command(name = "cp", visible_alias = "copy")]
    Copy {
        /// A path, or DEVICE:VOLUME/PATH
        from: String,
        /// A path, or DEVICE:VOLUME/PATH
        to: String,
        /// The volume's namespace
        #[command(flatten)]
        namespace: InNamespace,
    },
    /// Save all of a volume to a file of this machine, through the hub. Apps
    /// may go on writing: stop them first where that matters
    Backup {
        /// Which device
        device: String,
        /// Which volume
        volume: String,
        /// Where to, compressed as its name says (.tar, .tar.gz, .tar.zst);
        /// - for stdout [default: DEVICE-VOLUME.tar.zst]
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The volume's namespace
        #[command(flatten)]
        namespace: InNamespace,
    },
    /// Put what 'volume backup' saved in the place of all that is in a volume.
    /// No app may use it meanwhile
    Restore {
        /// Which device
        device: String,
        /// Which volume; made when missing
        volume: String,
        /// What was saved; - for stdin
        file: PathBuf,
        /// The volume's namespace
        #[command(flatten)]
        namespace: InNamespace,
    },
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

/// `skerry exec`.
#[derive(Debug, Clone, Args)]
pub struct ExecArgs {
    /// DEVICE/APP, or APP if only one device has it
    pub target: String,
    /// Which container, if the app has several
    #[arg(short, long, value_name = "NAME")]
    pub container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    pub stdin: bool,
    /// Give the command a terminal
    #[arg(short = 't', long)]
    pub tty: bool,
    /// The app's namespace
    #[command(flatten)]
    pub namespace: InNamespace,
    /// What to run, after --
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// `skerry label`.
#[derive(Debug, Clone, Args)]
pub struct LabelArgs {
    /// [device] NAME, then key=value to set and key- to remove
    #[arg(required = true, num_args = 2.., value_name = "NAME KEY=VALUE|KEY-")]
    pub words: Vec<String>,
}

/// `skerry approve`.
#[derive(Debug, Clone, Args)]
pub struct ApproveArgs {
    /// Devices of the lobby
    #[arg(required = true)]
    pub names: Vec<String>,
    /// Give them these labels
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
}

/// `skerry token`.
#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// What to do
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What to do with tokens.
#[derive(Debug, Clone, Subcommand)]
pub enum TokenCommand {
    /// Print one string that lets devices join
    Create {
        /// Labels that devices get which join with it
        #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
        labels: Vec<String>,
        /// How many devices may join with it
        #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// For how long, as in 7d
        #[arg(long, value_parser = parse_duration, default_value = "1d", value_name = "TIME")]
        expires: Duration,
        /// How they get in: auto is at once, manual waits for skerry approve
        #[arg(long, value_name = "HOW")]
        approve: Option<Approve>,
    },
    /// Show tokens (never their secrets)
    #[command(visible_alias = "ls")]
    List {
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
    /// Make tokens worthless; devices that joined stay
    #[command(visible_alias = "rm")]
    Delete {
        /// Which
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

/// `skerry image`.
#[derive(Debug, Clone, Args)]
pub struct ImageArgs {
    /// What to do
    #[command(subcommand)]
    pub command: ImageCommand,
}

/// What to do with images.
#[derive(Debug, Clone, Subcommand)]
pub enum ImageCommand {
    /// Give the hub an image from a file: docker save, OCI archive, or a
    /// directory with an OCI layout; - for stdin
    #[command(visible_alias = "load")]
    Import {
        /// The file
        file: PathBuf,
        /// What to call it; the archive's own name when absent
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Let the hub get an image from its registry
    Pull {
        /// As in nginx:1.27
        reference: String,
        /// As in linux/arm64; those of the fleet's devices when absent
        #[arg(long = "platform", value_name = "OS/ARCH")]
        platforms: Vec<String>,
    },
    /// Show the hub's images
    #[command(visible_alias = "ls")]
    List {
        /// How to print
        #[arg(short, long, value_name = "FORMAT", default_value = "table")]
        output: Format,
    },
}

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
    List,
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
    /// Roll out what was rolled out before it
    Undo {
        /// agent, os or line
        subject: String,
    },
    /// Show all rollouts
    History,
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

/// How to print what is no list of things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DataFormat {
    /// For people
    Text,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
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

/// Which shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}
