//! What goes into the system on a card: from flags, files, the environment and
//! whoever sits at the terminal.

use crate::cli::args::FlashArgs;
use crate::cli::error::CliError;
use crate::cli::output::Out;
use crate::flash::{Name, Settings, User, Wifi, ssh_key, time_zone};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use skerry_wire::token::JoinToken;
use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;

/// Longest file with a password, token or keys.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// What many cards are called when nobody says.
const NAME_FOR_MANY: &str = "skerry-{serial}";
/// What this machine knows of time zones.
const ZONES: &str = "/usr/share/zoneinfo";

/// All of it, read and asked for before anything is written.
pub(super) fn settings(out: &mut Out, args: &FlashArgs) -> Result<Settings, CliError> {
    let mut name = args.name.as_deref().map(str::parse::<Name>).transpose()?;
    if args.count > 1 {
        match &name {
            Some(name) if !name.is_for_many() => {
                let text = name.shown();
                return Err(CliError::Usage(format!(
                    "{} cards cannot all be '{text}': use --name {text}-{{n}} (numbered as they join) or --name {text}-{{serial}}",
                    args.count
                )));
            }
            Some(_) => {}
            None => {
                out.note(&format!(
                    "note: {} cards need names that differ: using --name {NAME_FOR_MANY}",
                    args.count
                ));
                name = Some(NAME_FOR_MANY.parse()?);
            }
        }
    }
    let token = match (&args.join_token, &args.join_token_file) {
        (Some(token), _) => token.trim().to_string(),
        (None, Some(path)) => secret(path)?,
        (None, None) => String::new(),
    };
    if !token.is_empty() {
        if let Err(error) = token.parse::<JoinToken>() {
            return Err(CliError::Usage(error.to_string()));
        }
        if !args.labels.is_empty() || args.approve.is_some() {
            return Err(CliError::Usage(
                "--label and --approve belong to a token when it is made: leave out the join token, and the hub makes one".into(),
            ));
        }
    }
    let mut keys = Vec::new();
    for path in &args.ssh_keys {
        let text = read_small(path)?;
        for line in text.lines() {
            let key =
                ssh_key(line).map_err(|e| CliError::Usage(format!("{}: {e}", path.display())))?;
            keys.extend(key);
        }
    }
    let time_zone = args.time_zone.as_deref().map(time_zone).transpose()?;
    if let Some(zone) = &time_zone
        && let Some(note) = unknown_zone(zone, Path::new(ZONES))
    {
        out.note(&note);
    }
    Ok(Settings {
        join_token: token,
        name,
        wifi: wifi(args)?,
        ssh: args.ssh || !keys.is_empty(),
        user: user(args, keys.is_empty())?,
        ssh_keys: keys,
        time_zone,
    })
}

/// A zone that this machine does not know, where it knows any. The image may
/// know it all the same, so it is only said.
fn unknown_zone(zone: &str, zones: &Path) -> Option<String> {
    let is_unknown = zones.join("Etc/UTC").exists() && !zones.join(zone).is_file();
    is_unknown.then(|| {
        format!(
            "note: this computer knows no time zone '{zone}'; if the image does not either, the board stays with its own (timedatectl list-timezones shows them)"
        )
    })
}

fn wifi(args: &FlashArgs) -> Result<Option<Wifi>, CliError> {
    let Some(ssid) = &args.wifi else {
        return Ok(None);
    };
    let password = match &args.wifi_password_file {
        _ if args.wifi_open => None,
        Some(path) => Some(secret(path)?),
        None => Some(ask(
            "SKERRY_WIFI_PASSWORD",
            &format!("Password of the Wi-Fi '{ssid}': "),
            "--wifi-password-file, --wifi-open",
        )?),
    };
    let wifi = Wifi::new(
        ssid.clone(),
        password,
        args.wifi_country.clone(),
        args.wifi_hidden,
    )?;
    Ok(Some(wifi))
}

fn user(args: &FlashArgs, no_keys: bool) -> Result<Option<User>, CliError> {
    let Some(name) = &args.user else {
        return Ok(None);
    };
    let password = match &args.password_file {
        Some(path) => Some(secret(path)?),
        None if no_keys || std::env::var_os("SKERRY_USER_PASSWORD").is_some() => Some(ask(
            "SKERRY_USER_PASSWORD",
            &format!("Password of the user '{name}': "),
            "--password-file, --ssh-key",
        )?),
        None => None,
    };
    Ok(Some(User::new(name.clone(), password.as_deref())?))
}

fn read_small(path: &Path) -> Result<String, CliError> {
    let fail = |e| CliError::io(format!("read {}", path.display()), e);
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(fail)?;
    file.take(MAX_SECRET_BYTES)
        .read_to_string(&mut text)
        .map_err(fail)?;
    Ok(text)
}

/// The first line of a file.
fn secret(path: &Path) -> Result<String, CliError> {
    let text = read_small(path)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_string()),
        _ => Err(CliError::Usage(format!("{} is empty", path.display()))),
    }
}

/// From the environment, else from a person who is not watched typing.
fn ask(variable: &str, question: &str, flags: &str) -> Result<String, CliError> {
    if let Ok(value) = std::env::var(variable) {
        return Ok(value);
    }
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Usage(format!(
            "a password is missing: give one of {flags}, or set {variable}"
        )));
    }
    let fail = |e| CliError::io("ask at the terminal", e);
    let before = tcgetattr(&stdin).map_err(|e| fail(e.into()))?;
    let mut silent = before.clone();
    silent.local_flags.remove(LocalFlags::ECHO);
    eprint!("{question}");
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &silent).map_err(|e| fail(e.into()))?;
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    let restored = tcsetattr(&stdin, SetArg::TCSAFLUSH, &before);
    eprintln!();
    read.map_err(fail)?;
    restored.map_err(|e| fail(e.into()))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_zone_is_doubted_only_where_zones_are_known() {
        let zones = tempfile::tempdir().expect("a directory");
        let doubted = |zone: &str| unknown_zone(zone, zones.path()).is_some();
        assert!(!doubted("Berlin"), "nothing is known here");
        for zone in ["Etc/UTC", "Europe/Berlin"] {
            let file = zones.path().join(zone);
            fs::create_dir_all(file.parent().expect("one")).expect("made");
            fs::write(file, "TZif2").expect("written");
        }
        assert!(!doubted("Europe/Berlin"));
        assert!(doubted("Berlin") && doubted("Europe"));
    }
}
