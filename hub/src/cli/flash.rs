//! `skerry flash`: what was found, what will be done, the doing, and what to
//! type next. The work itself is in `crate::flash`.

use super::args::{Approve, Connection};
use super::client::{Client, Target};
use super::error::CliError;
use super::human::{self, parse_life};
use super::operate;
use super::output::Out;
use crate::api::types::{Approval, CreatedToken, NewToken};
use crate::flash::{
    Agent, Allow, Done, FlashError, Job, Kind, Layout, Name, Settings, Step, Unusable, User, Wifi,
    gigabytes, ssh_key, time_zone,
};
use clap::{Args, ValueEnum};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::json;
use skerry_wire::token::JoinToken;
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Longest file with a password, token or keys.
const MAX_SECRET_BYTES: u64 = 64 * 1024;
/// Cells of the progress bar.
const BAR: u64 = 30;
/// How often it is drawn.
const REDRAW: Duration = Duration::from_millis(200);
/// What many cards are called when nobody says.
const NAME_FOR_MANY: &str = "skerry-{serial}";

/// How to print.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum FlashFormat {
    /// For people
    #[default]
    Text,
    /// One object
    Json,
}

/// `skerry flash`.
#[derive(Debug, Clone, Args)]
// clap takes the three characters {n} for the end of a line: a mark stands
// between them wherever they are meant, and is taken out as help is printed.
#[command(after_help = "\
Examples:
  skerry flash raspios-lite-arm64.img.xz /dev/sdb --name kiosk-7 --wifi Shop --wifi-country DE
  skerry flash debian.img.gz kiosk.img --ssh-key ~/.ssh/id_ed25519.pub
  skerry flash raspios-lite-arm64.img.xz kiosk.img --count 50 --name 'kiosk-{\u{2060}n}'
  skerry flash kiosk.img /dev/sdb --as-is        the same for each of the 50 cards
  skerry flash /dev/sdb --name kiosk-7           sets up a card that has an image already")]
pub struct FlashArgs {
    /// The image of Raspberry Pi OS, Debian, Ubuntu or Skerry: raw, xz, zst or
    /// gz. Only one argument: the card or image to set up as it is
    pub image: PathBuf,
    /// The card (/dev/sdb) or a file to make
    pub target: Option<PathBuf>,

    /// The device's name.
    #[arg(
        long,
        value_name = "NAME",
        help = "The device's name: kiosk-7; for many, kiosk-{\u{2060}n} (numbered as they join) or kiosk-{serial}"
    )]
    pub name: Option<String>,
    /// How many cards get this image: one token lets so many join
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub count: u32,
    /// A join token; without one the hub is asked for one
    #[arg(
        long,
        env = "SKERRY_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "join_token_file"
    )]
    pub join_token: Option<String>,
    /// A file with the join token
    #[arg(long, value_name = "FILE")]
    pub join_token_file: Option<PathBuf>,
    /// How long the hub's new token is good for
    #[arg(long, value_parser = parse_life, default_value = "7d", value_name = "TIME")]
    pub expires: Duration,
    /// Labels that devices get which join with the hub's new token
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
    /// How they get in with it: auto is at once, manual waits for approve
    #[arg(long, value_name = "HOW")]
    pub approve: Option<Approve>,

    /// The Wi-Fi network
    #[arg(long, value_name = "SSID", help_heading = "System")]
    pub wifi: Option<String>,
    /// A file with its password; without it, SKERRY_WIFI_PASSWORD or a question
    #[arg(long, value_name = "FILE", requires = "wifi", help_heading = "System")]
    pub wifi_password_file: Option<PathBuf>,
    /// It has no password
    #[arg(
        long,
        requires = "wifi",
        conflicts_with = "wifi_password_file",
        help_heading = "System"
    )]
    pub wifi_open: bool,
    /// It does not show itself
    #[arg(long, requires = "wifi", help_heading = "System")]
    pub wifi_hidden: bool,
    /// Where it is, as in DE: which channels may be used
    #[arg(long, value_name = "CC", requires = "wifi", help_heading = "System")]
    pub wifi_country: Option<String>,
    /// A file with ssh public keys that may log in, as --user or else as root;
    /// switches ssh on
    #[arg(long = "ssh-key", value_name = "FILE", help_heading = "System")]
    pub ssh_keys: Vec<PathBuf>,
    /// Switch ssh on
    #[arg(long, help_heading = "System")]
    pub ssh: bool,
    /// The time zone, as in Europe/Berlin
    #[arg(long, alias = "timezone", value_name = "ZONE", help_heading = "System")]
    pub time_zone: Option<String>,
    /// A user who may log in and use sudo
    #[arg(long, value_name = "NAME", help_heading = "System")]
    pub user: Option<String>,
    /// A file with the user's password; without it, SKERRY_USER_PASSWORD or,
    /// with no ssh key either, a question
    #[arg(long, value_name = "FILE", requires = "user", help_heading = "System")]
    pub password_file: Option<PathBuf>,

    /// The static skerry-agent for the board's processor [default: beside this
    /// program, or /usr/lib/skerry/agents/<arch>/skerry-agent]
    #[arg(long, value_name = "FILE")]
    pub agent: Option<PathBuf>,
    /// The SHA-256 that the image's file must have
    #[arg(long, value_name = "HEX", value_parser = sha256)]
    pub sha256: Option<String>,
    /// Write the image and nothing else into it: it was set up before
    #[arg(long, conflicts_with_all = ["name", "join_token_file", "wifi", "ssh_keys", "ssh", "time_zone", "user", "agent"])]
    pub as_is: bool,
    /// Replace a file that is there
    #[arg(long)]
    pub overwrite: bool,
    /// Write to a disk that is not removable too
    #[arg(long)]
    pub allow_fixed_disk: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    pub yes: bool,
    /// How to print the result
    #[arg(short, long, value_name = "FORMAT", default_value = "text")]
    pub output: FlashFormat,
}

/// Looked at before an hour's writing, not after it.
fn sha256(text: &str) -> Result<String, String> {
    let is_one = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let text = text.to_ascii_lowercase();
    is_one
        .then_some(text)
        .ok_or_else(|| "a SHA-256 has 64 hexadecimal digits".into())
}

impl From<FlashError> for CliError {
    fn from(error: FlashError) -> Self {
        CliError::Told(error.to_string())
    }
}

impl From<Unusable> for CliError {
    fn from(error: Unusable) -> Self {
        CliError::Usage(error.to_string())
    }
}

/// Writes a card.
pub(super) fn flash(
    out: &mut Out,
    connection: &Connection,
    args: &FlashArgs,
) -> Result<(), CliError> {
    let (image, place) = match &args.target {
        Some(target) => (Some(args.image.as_path()), target.as_path()),
        None if args.as_is => {
            return Err(CliError::Usage(
                "--as-is writes an image: give the image and where it goes".into(),
            ));
        }
        None => (None, args.image.as_path()),
    };
    let mut settings = match args.as_is {
        true => None,
        false => Some(settings(out, args)?),
    };
    let agent = match &args.agent {
        Some(path) => Agent::File(path.clone()),
        None => Agent::Beside(beside_us()),
    };
    let allow = Allow {
        fixed_disk: args.allow_fixed_disk,
        overwrite: args.overwrite,
    };
    let mut bar = Bar::new();
    let mut job = Job::open(image, place, allow)?;
    let layout = job
        .look(args.dry_run, &mut |step| bar.draw(out, step))?
        .cloned();
    out.wipe();
    if settings.is_some() {
        // A wrong agent is found before the card is touched, where that can be.
        match &layout {
            Some(Layout::Minimal { .. }) => {}
            Some(layout) => drop(agent.find(layout.machine())?),
            None => {}
        }
    }
    let plan = plan(&job, layout.as_ref(), place, args, settings.as_ref());
    if args.output == FlashFormat::Text {
        plan.iter()
            .for_each(|(key, text)| out.note(&format!("{key:<10}{text}")));
    }
    if args.dry_run {
        return match args.output {
            FlashFormat::Text => {
                out.note("Nothing was written (--dry-run).");
                Ok(())
            }
            FlashFormat::Json => {
                let plan: serde_json::Map<_, _> = plan
                    .into_iter()
                    .map(|(k, v)| (k.into(), v.into()))
                    .collect();
                out.print(&format!("{}\n", json!({ "dryRun": true, "plan": plan })))
            }
        };
    }
    if let (Some(about), false) = (job.device(), args.yes) {
        confirm(about, image.is_some())?;
    }
    let mut token_id = None;
    if let Some(settings) = settings.as_mut().filter(|s| s.join_token.is_empty()) {
        let created = new_token(connection, args)?;
        settings.join_token = created.token;
        token_id = Some(created.id);
    }
    let done = job.run(
        settings.as_ref(),
        &agent,
        args.sha256.as_deref(),
        &mut |step| bar.draw(out, step),
    );
    out.wipe();
    let done = match done {
        Ok(done) => done,
        Err(error) => {
            // Nobody will use it; one that stays expires by itself.
            if let Some(id) = &token_id {
                let _ = Target::find(connection)
                    .and_then(Client::new)
                    .and_then(|c| c.delete(&format!("/v1/tokens/{id}")));
            }
            return Err(error.into());
        }
    };
    match args.output {
        FlashFormat::Text => tell(out, place, args, &done, token_id.as_deref()),
        FlashFormat::Json => print_json(out, place, &done, token_id.as_deref())?,
    }
    Ok(())
}

fn beside_us() -> PathBuf {
    let own = std::env::current_exe().ok();
    own.and_then(|p| p.parent().map(Path::to_owned))
        .unwrap_or_else(|| PathBuf::from("."))
}

fn settings(out: &mut Out, args: &FlashArgs) -> Result<Settings, CliError> {
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
    Ok(Settings {
        join_token: token,
        name,
        wifi: wifi(args)?,
        ssh: args.ssh || !keys.is_empty(),
        user: user(args, keys.is_empty())?,
        ssh_keys: keys,
        time_zone: args.time_zone.as_deref().map(time_zone).transpose()?,
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

fn confirm(about: &str, whole: bool) -> Result<(), CliError> {
    let stdin = io::stdin();
    if !stdin.is_terminal() {
        return Err(CliError::Usage(format!(
            "{about} is about to be written: give --yes if that is right"
        )));
    }
    let loss = if whole {
        "Everything on it is lost."
    } else {
        "Files are put into the system on it."
    };
    eprint!("{loss} Write to {about}? [y/N] ");
    let _ = io::stderr().flush();
    let mut line = String::new();
    stdin
        .lock()
        .read_line(&mut line)
        .map_err(|e| CliError::io("ask at the terminal", e))?;
    match line.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(CliError::Told("nothing was written".into())),
    }
}

fn new_token(connection: &Connection, args: &FlashArgs) -> Result<CreatedToken, CliError> {
    let body = NewToken {
        labels: operate::labels(&args.labels)?,
        uses: Some(args.count),
        expires_secs: Some(args.expires.as_secs()),
        approve: args.approve.map(|how| match how {
            Approve::Auto => Approval::Auto,
            Approve::Manual => Approval::Manual,
        }),
    };
    Client::new(Target::find(connection)?)?.post("/v1/tokens", &body)
}

fn plan(
    job: &Job,
    layout: Option<&Layout>,
    place: &Path,
    args: &FlashArgs,
    settings: Option<&Settings>,
) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some((packing, bytes)) = job.packing() {
        let table = job.table().map(|t| {
            let kind = match t.kind {
                Kind::Mbr => "MBR",
                Kind::Gpt => "GPT",
            };
            let count = human::count(t.partitions.len(), "partition");
            format!(
                "; {kind}, {count}, {} on the card",
                gigabytes(t.needed_bytes())
            )
        });
        let text = format!(
            "{} ({}, {}{})",
            args.image.display(),
            packing.name(),
            gigabytes(bytes),
            table.unwrap_or_default()
        );
        lines.push(("image", text));
    }
    if !args.as_is {
        let text = match layout {
            Some(layout) => match layout.machine() {
                Some(machine) => format!("{}, {machine}", layout.shown()),
                None => layout.shown(),
            },
            None => "is looked at when it is unpacked on the card".into(),
        };
        lines.push(("system", text));
    }
    let to = job
        .device()
        .map_or_else(|| place.display().to_string(), Into::into);
    lines.push(("target", to));
    match settings {
        None => lines.push(("put in", "nothing (--as-is)".into())),
        Some(settings) => {
            let own = matches!(layout, Some(Layout::Minimal { .. }));
            lines.push(("put in", put_in(settings, args, own)));
        }
    }
    lines
}

/// What goes onto the card; our own image has the agent, and takes only what
/// makes it join.
fn put_in(settings: &Settings, args: &FlashArgs, own: bool) -> String {
    let mut parts = Vec::new();
    if !own {
        parts.push("the agent".to_string());
    }
    parts.push(match (settings.join_token.is_empty(), args.count) {
        (false, _) => "the given join token".into(),
        (true, 1) => format!(
            "a new join token for one device, good for {}",
            human::span(args.expires)
        ),
        (true, n) => format!(
            "a new join token for {n} devices, good for {}",
            human::span(args.expires)
        ),
    });
    parts.extend(
        settings
            .name
            .as_ref()
            .map(|n| format!("name {}", n.shown())),
    );
    if own {
        return parts.join("; ");
    }
    parts.extend(
        settings
            .wifi
            .as_ref()
            .map(|w| format!("Wi-Fi '{}'", w.ssid())),
    );
    parts.extend(
        settings
            .time_zone
            .as_ref()
            .map(|z| format!("time zone {z}")),
    );
    parts.extend(settings.user.as_ref().map(|u| format!("user {}", u.name())));
    match (settings.ssh_keys.len(), settings.ssh) {
        (0, true) => parts.push("ssh switched on".into()),
        (0, false) => {}
        (n, _) => {
            let who = settings.user.as_ref().map_or("root", |u| u.name());
            parts.push(format!("{} for {who}", human::count(n, "ssh key")));
        }
    }
    parts.join("; ")
}

fn tell(out: &mut Out, place: &Path, args: &FlashArgs, done: &Done, token: Option<&str>) {
    if done.bytes > 0 {
        out.note(&format!(
            "written   {}, read back and compared; SHA-256 {}",
            gigabytes(done.bytes),
            done.sha256
        ));
    }
    if let Some(prepared) = &done.prepared {
        out.note(&format!(
            "set up    {}: {}, read back and compared",
            prepared.layout.shown(),
            human::count(prepared.files.len(), "file")
        ));
        for note in &prepared.notes {
            out.note(&format!("note      {note}"));
        }
        let own = matches!(prepared.layout, Layout::Minimal { .. });
        if args.wifi.is_some() && args.wifi_country.is_none() && !own {
            out.note("note      no --wifi-country: some boards keep their radio off without one");
        }
    }
    if let Some(id) = token {
        out.note(&format!(
            "token     {id} lets {} join in the next {}; 'skerry token list' shows how many still can",
            human::count(args.count as usize, "device"),
            human::span(args.expires)
        ));
    }
    out.note("");
    let is_file = std::fs::metadata(place).is_ok_and(|m| m.is_file());
    if is_file {
        out.note(&format!(
            "Next: skerry flash {} /dev/sdX --as-is   for each card (lsblk lists them)",
            place.display()
        ));
        if !args.as_is {
            out.note("      the file holds a join token: keep it to yourself");
        }
    }
    out.note(
        "Put the card into the board, give it power, and watch it join: skerry events --watch",
    );
}

fn print_json(
    out: &mut Out,
    place: &Path,
    done: &Done,
    token: Option<&str>,
) -> Result<(), CliError> {
    let prepared = done.prepared.as_ref().map(|p| {
        json!({
            "system": p.layout.shown(),
            "machine": p.layout.machine().map(|m| m.directories()[0]),
            "agent": p.agent.as_ref().map(|a| a.display().to_string()),
            "files": p.files,
            "notes": p.notes,
        })
    });
    let result = json!({
        "target": place.display().to_string(),
        "bytes": done.bytes,
        "sha256": done.sha256,
        "verified": true,
        "prepared": prepared,
        "tokenId": token,
    });
    out.print(&format!("{result}\n"))
}

/// The line of progress.
struct Bar {
    started: Instant,
    drawn: Option<Instant>,
    phase: &'static str,
}

impl Bar {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            drawn: None,
            phase: "",
        }
    }

    fn draw(&mut self, out: &mut Out, step: Step) {
        let now = Instant::now();
        if self.phase != step.phase {
            (self.phase, self.started, self.drawn) = (step.phase, now, None);
        }
        if self.drawn.is_some_and(|then| now - then < REDRAW) && step.done < step.of {
            return;
        }
        self.drawn = Some(now);
        out.progress(&line(step, now - self.started));
    }
}

fn line(step: Step, took: Duration) -> String {
    let of = step.of.max(1);
    let done = step.done.min(of);
    let cells = (u128::from(done) * u128::from(BAR) / u128::from(of)) as usize;
    let bar: String = "#".repeat(cells) + &".".repeat(BAR as usize - cells);
    let millis = took.as_millis().max(1);
    let speed = u128::from(step.bytes) / millis / 1000;
    let left = millis * u128::from(of - done) / u128::from(done.max(1)) / 1000;
    let left = Duration::from_secs(u64::try_from(left).unwrap_or(u64::MAX));
    let percent = u128::from(done) * 100 / u128::from(of);
    format!(
        "{:<13}[{bar}] {percent:>3}%  {}  {speed} MB/s  {} left",
        step.phase,
        gigabytes(step.bytes),
        human::span(left)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_shows_how_many_cards_are_numbered() {
        let command = <super::super::Cli as clap::CommandFactory>::command();
        let flash = command.find_subcommand("flash").expect("the verb");
        for help in [
            flash.clone().render_help(),
            flash.clone().render_long_help(),
        ] {
            let help = super::super::plain_help(&help);
            assert_eq!(help.matches("kiosk-{n}").count(), 2, "{help}");
        }
    }

    #[test]
    fn a_sha256_that_cannot_be_one_is_refused_at_once() {
        let digits = "0123456789abcdefABCDEF0123456789".repeat(2);
        assert_eq!(sha256(&digits), Ok(digits.to_lowercase()));
        assert!(sha256("00").is_err() && sha256(&"x".repeat(64)).is_err());
    }

    #[test]
    fn the_line_of_progress_says_how_far_how_fast_and_how_long_still() {
        let step = Step {
            phase: "writing",
            done: 50,
            of: 100,
            bytes: 300_000_000,
        };
        assert_eq!(
            line(step, Duration::from_secs(10)),
            "writing      [###############...............]  50%  300 MB  30 MB/s  10s left"
        );
        let empty = Step {
            phase: "writing",
            done: 0,
            of: 0,
            bytes: 0,
        };
        assert!(line(empty, Duration::ZERO).contains("0%"));
    }
}
