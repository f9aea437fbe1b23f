//! The grammar of the command line.

mod apps;
mod devices;
mod flash;
mod hub;
mod rollout;
mod show;
mod volume;
mod words;

pub use apps::{
    ApplyArgs, CreateArgs, CreateJob, CreateKind, DeleteArgs, ExecArgs, FilesArgs, ImageArgs,
    ImageCommand,
};
pub use devices::{ApproveArgs, LabelArgs, TokenArgs, TokenCommand};
pub use flash::{FlashArgs, FlashFormat};
pub use hub::{BackupArgs, DemoArgs, HubArgs};
pub use rollout::{
    LineArgs, LineCommand, ReleaseArgs, ReleaseCommand, ReleaseKindArg, RolloutArgs,
    RolloutCommand, RolloutOptions,
};
pub use show::{DescribeArgs, DoctorArgs, EventsArgs, GetArgs, LogsArgs, PsArgs, TopArgs};
pub use volume::{VolumeArgs, VolumeCommand};
pub use words::{Approve, DataFormat, Format, Resource, Shell};

use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

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
    /// configs, secrets, releases or rollouts
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
    /// Show, hold and take back the rollouts of releases and lines; begin apps anew
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

impl Command {
    /// The exit code of failing: 1, except where 1 means something else.
    pub(super) fn failure_code(&self) -> u8 {
        match self {
            Command::Diff(_) => 2,
            _ => 1,
        }
    }
}
