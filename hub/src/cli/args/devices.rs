//! Who belongs to the fleet.

use super::words::{Approve, Format};
use crate::cli::human::parse_life;
use clap::{Args, Subcommand};
use std::time::Duration;

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
    #[arg(required_unless_present_any = ["selector", "all"])]
    pub names: Vec<String>,
    /// All of the lobby that have these labels, as of their token
    #[arg(long, value_name = "SELECTOR", conflicts_with_all = ["names", "all"])]
    pub selector: Option<String>,
    /// All of the lobby
    #[arg(long, conflicts_with = "names")]
    pub all: bool,
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
        #[arg(long, value_parser = parse_life, default_value = "1d", value_name = "TIME")]
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
