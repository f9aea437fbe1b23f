//! What is declared, made and deleted, the images it is made of, and commands
//! inside it.

use super::words::{Format, InNamespace};
use crate::cli::human::parse_duration;
use clap::{Args, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

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
