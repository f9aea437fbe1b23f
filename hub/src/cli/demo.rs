//! `demo`: finds the programs that it shows.

use super::args::DemoArgs;
use super::error::CliError;
use crate::demo::{DemoOptions, run};
use std::path::PathBuf;

/// Shows a fleet at work on this machine.
pub(super) fn demo(args: DemoArgs) -> Result<(), CliError> {
    let this = std::env::current_exe().map_err(|e| CliError::io("find this program", e))?;
    let beside = |name: &str| -> PathBuf { this.with_file_name(name) };
    let options = DemoOptions {
        agent: args.agent.unwrap_or_else(|| beside("skerry-agent")),
        app: args.app.unwrap_or_else(|| beside("skerry-demo-app")),
        once: args.once,
    };
    run(&options).map_err(|e| CliError::Told(format!("{e:#}")))
}
