//! What devices keep for their apps.

use super::words::{Format, InNamespace};
use clap::{Args, Subcommand};
use std::path::PathBuf;

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
