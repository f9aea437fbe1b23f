//! `hub` and `restore`: the verbs that work on a data directory instead of
//! asking a hub.

use super::args::{Approve, HubArgs};
use super::error::{CliError, told};
use super::human;
use super::output::Out;
use crate::options::{HubOptions, check_advertise, release_key};
use crate::{backup, server};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::path::{Path, PathBuf};
use tracing_subscriber::filter::LevelFilter;

/// Longest settings file, in bytes.
const MAX_SETTINGS_BYTES: u64 = 64 * 1024;

/// Serves until told to stop.
pub(super) fn serve(args: HubArgs, data: Option<PathBuf>) -> Result<(), CliError> {
    log_to_stderr()?;
    let options = options(args, data)?;
    allow_many_files();
    server::run(options).map_err(told)
}

/// Each connected device is an open file, and the soft limit that shells give is
/// 1024, for programs that know no better than select(2). We do.
fn allow_many_files() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "cannot raise the limit of open files");
    }
}

/// Makes a data directory from a backup.
pub(super) fn restore(out: &mut Out, file: &Path, data: &Path) -> Result<(), CliError> {
    backup::restore(file, data).map_err(told)?;
    let bytes = std::fs::metadata(file).map_or(0, |m| m.len());
    out.print(&format!(
        "{} restored from {} ({})\n",
        data.display(),
        file.display(),
        human::bytes(bytes)
    ))?;
    out.note(&format!(
        "start it with 'skerry hub --data {}'; stop the hub that the backup is of first: there can be only one",
        data.display()
    ));
    Ok(())
}

/// The settings file under the flags.
fn options(args: HubArgs, data: Option<PathBuf>) -> Result<HubOptions, CliError> {
    let mut options = match &args.config {
        Some(file) => from_file(file)?,
        None => HubOptions::default(),
    };
    if let Some(data) = data {
        options.data = data;
    }
    if let Some(api) = args.api {
        options.api = api;
    }
    if let Some(listen) = args.listen {
        options.listen = listen;
    }
    if let Some(advertise) = args.advertise {
        check_advertise(&advertise).map_err(|e| CliError::Usage(e.to_string()))?;
        options.advertise = Some(advertise);
    }
    options.broker = args.broker.or(options.broker);
    options.device_broker = args.device_broker.or(options.device_broker);
    options.fleet = args.fleet.or(options.fleet);
    if !args.release_keys.is_empty() {
        let keys = args.release_keys.iter().map(|key| release_key(key));
        options.release_keys = keys
            .collect::<Result<_, _>>()
            .map_err(|e| CliError::Usage(e.to_string()))?;
    }
    options.registry_auth = args.registry_auth.or(options.registry_auth);
    if let Some(approve) = args.approve {
        options.manual_approval = approve == Approve::Manual;
    }
    Ok(options)
}

fn from_file(file: &Path) -> Result<HubOptions, CliError> {
    let shown = file.display();
    let failed = |e| CliError::io(format!("read {shown}"), e);
    let length = std::fs::metadata(file).map_err(failed)?.len();
    if length > MAX_SETTINGS_BYTES {
        return Err(CliError::failed(
            format!("{shown} has {length} bytes, more than {MAX_SETTINGS_BYTES}"),
            "is it a hub's settings?",
        ));
    }
    let text = std::fs::read_to_string(file).map_err(failed)?;
    HubOptions::from_yaml(&text).map_err(|e| CliError::Told(format!("{shown}: {e}")))
}

/// The hub's log goes to stderr; SKERRY_LOG says how much: error, warn, info,
/// debug or trace.
fn log_to_stderr() -> Result<(), CliError> {
    let level = match std::env::var("SKERRY_LOG") {
        Ok(text) => text.parse::<LevelFilter>().map_err(|_| {
            CliError::Usage(format!(
                "SKERRY_LOG is '{text}'; write error, warn, info, debug or trace"
            ))
        })?,
        Err(_) => LevelFilter::INFO,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_before_the_settings_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hub.yaml");
        std::fs::write(
            &file,
            "data: /a\napi: 127.0.0.1:1\nfleet: acme\napprove: manual\n",
        )
        .unwrap();
        let args = HubArgs {
            config: Some(file),
            api: Some("127.0.0.1:2".parse().unwrap()),
            ..HubArgs::default()
        };
        let options = options(args, None).unwrap();
        assert_eq!(options.data, Path::new("/a"));
        assert_eq!(options.api, "127.0.0.1:2".parse().unwrap());
        assert_eq!(options.fleet.as_deref(), Some("acme"));
        assert!(options.manual_approval);
        let args = HubArgs {
            advertise: Some("a b".into()),
            ..HubArgs::default()
        };
        assert!(super::options(args, Some("/b".into())).is_err());
    }
}
