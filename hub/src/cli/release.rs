//! `release`, `rollout` and `line`: what devices themselves run and how they
//! reach the hub.
//!
//! `release keygen` and `release sign` speak to no hub: they are for the
//! machine that has the key, which should be another one.

use super::args::{
    LineArgs, LineCommand, ReleaseArgs, ReleaseCommand, ReleaseKindArg, RolloutArgs,
    RolloutCommand, RolloutOptions,
};
use super::client::{Client, encode};
use super::error::{CliError, told};
use super::human;
use super::output::{Out, Style};
use super::table::{Cell, Table};
use crate::api::types::{
    Device, DeviceUpdate, NewRollout, Release, Rollout, RolloutState, UpdateState, WantedLine,
    WantedRelease,
};
use crate::keys::{random, write_private};
use crate::release;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use skerry_wire::Digest;
use skerry_wire::update::{Artifact, ReleaseKind, SignedRelease, key_name, release_key};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Between two looks at a rollout.
const POLL: Duration = Duration::from_millis(300);
/// Longest key file, in bytes.
const MAX_KEY_BYTES: u64 = 1024;

impl ReleaseArgs {
    /// Whether it speaks to no hub.
    pub(super) fn is_offline(&self) -> bool {
        match self.command {
            ReleaseCommand::Keygen { .. } | ReleaseCommand::Sign { .. } => true,
            ReleaseCommand::Import { .. }
            | ReleaseCommand::List
            | ReleaseCommand::Delete { .. }
            | ReleaseCommand::Rollout { .. } => false,
        }
    }
}

/// The verbs for the machine that has the key.
pub(super) fn offline(out: &mut Out, args: ReleaseArgs) -> Result<(), CliError> {
    match args.command {
        ReleaseCommand::Keygen { output } => keygen(out, &output),
        ReleaseCommand::Sign {
            key,
            version,
            kind,
            output,
            artifacts,
        } => sign(out, &key, version, kind, &output, &artifacts),
        ReleaseCommand::Import { .. }
        | ReleaseCommand::List
        | ReleaseCommand::Delete { .. }
        | ReleaseCommand::Rollout { .. } => unreachable!("done with a client"),
    }
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn keygen(out: &mut Out, path: &Path) -> Result<(), CliError> {
    if path.exists() {
        return Err(CliError::failed(
            format!("{} is there already", path.display()),
            "name another file: a key that devices trust must not get lost",
        ));
    }
    let secret: [u8; 32] = random();
    let public = release_key(&secret).map_err(told)?;
    let text = format!("{}\n", hex(&secret));
    write_private(path, text.as_bytes()).map_err(told)?;
    out.print(&format!("{}\n", hex(&public)))?;
    out.note(&format!(
        "the secret key is in {}: keep it away from the hub, and a copy in a safe; start the hub with --release-key {}",
        path.display(),
        hex(&public)
    ));
    Ok(())
}

fn read_key(path: &Path) -> Result<[u8; 32], CliError> {
    let failed = |e| CliError::io(format!("read {}", path.display()), e);
    let length = std::fs::metadata(path).map_err(failed)?.len();
    let text = match length <= MAX_KEY_BYTES {
        true => std::fs::read_to_string(path).map_err(failed)?,
        false => String::new(),
    };
    release::parse_key(&text).ok_or_else(|| {
        CliError::failed(
            format!("{} is no release key", path.display()),
            "name what 'skerry release keygen' wrote",
        )
    })
}

/// `arm64=FILE`, `arm/v7=FILE`, `linux/amd64=FILE`.
fn artifact_word(word: &str) -> Result<(String, String, PathBuf), CliError> {
    let usage = || {
        CliError::Usage(format!(
            "'{word}': write arm64=FILE, arm/v7=FILE or amd64=FILE"
        ))
    };
    let (platform, file) = word.split_once('=').ok_or_else(usage)?;
    let platform = platform.strip_prefix("linux/").unwrap_or(platform);
    let (arch, variant) = platform.split_once('/').unwrap_or((platform, ""));
    let known = ["amd64", "arm64", "arm", "riscv64"].contains(&arch);
    if !known || file.is_empty() {
        return Err(usage());
    }
    Ok((arch.into(), variant.into(), file.into()))
}

fn sign(
    out: &mut Out,
    key: &Path,
    version: String,
    kind: ReleaseKindArg,
    output: &Path,
    words: &[String],
) -> Result<(), CliError> {
    let secret = read_key(key)?;
    let kind = ReleaseKind::from(kind);
    let (mut artifacts, mut files) = (Vec::new(), Vec::new());
    for word in words {
        let (arch, variant, file) = artifact_word(word)?;
        if kind == ReleaseKind::Agent {
            release::check_agent(&file, &arch, &version).map_err(told)?;
        }
        let (digest, size) = release::measure(&file).map_err(told)?;
        artifacts.push(Artifact {
            arch,
            variant,
            digest,
            size,
        });
        files.push(file);
    }
    let release = skerry_wire::update::Release {
        kind,
        version,
        artifacts,
    };
    let signed =
        SignedRelease::sign(&release, &secret).map_err(|e| CliError::Told(e.to_string()))?;
    let failed = |e| CliError::io(format!("write {}", output.display()), e);
    let mut writer = BufWriter::new(File::create(output).map_err(failed)?);
    release::write(&mut writer, output, &signed, &files).map_err(told)?;
    let file = writer.into_inner().map_err(|e| failed(e.into_error()))?;
    file.sync_all().map_err(failed)?;
    out.print(&format!(
        "{}: {} {}, signed with key {}; 'skerry release import {}' gives it to the hub\n",
        output.display(),
        kind.as_str(),
        release.version,
        key_name(&signed.key),
        output.display()
    ))
}

impl From<ReleaseKindArg> for ReleaseKind {
    fn from(kind: ReleaseKindArg) -> Self {
        match kind {
            ReleaseKindArg::Agent => ReleaseKind::Agent,
            ReleaseKindArg::Os => ReleaseKind::Os,
        }
    }
}

/// The verbs that ask the hub.
pub(super) fn release(out: &mut Out, client: &Client, args: ReleaseArgs) -> Result<(), CliError> {
    match args.command {
        ReleaseCommand::Import { file } => {
            let failed = |e| CliError::io(format!("read {}", file.display()), e);
            let mut opened = File::open(&file).map_err(failed)?;
            let length = opened.metadata().map_err(failed)?.len();
            let added: Release = client.upload("/v1/releases", &mut opened, Some(length))?;
            let platforms: Vec<&str> = added
                .platforms
                .iter()
                .map(|p| p.platform.as_str())
                .collect();
            out.print(&format!(
                "release/{} {} imported ({})\n",
                added.kind,
                added.version,
                platforms.join(" ")
            ))
        }
        ReleaseCommand::List => {
            let now = human::now_ms();
            let mut table = Table::new(&["KIND", "VERSION", "PLATFORMS", "SIGNED BY", "AGE"]);
            for release in client.list::<Release>("/v1/releases")? {
                let platforms: Vec<&str> = release
                    .platforms
                    .iter()
                    .map(|p| p.platform.as_str())
                    .collect();
                table.row(vec![
                    release.kind.as_str().into(),
                    release.version.as_str().into(),
                    platforms.join(" ").into(),
                    release.key.as_str().into(),
                    human::age(release.added_ms, now).into(),
                ]);
            }
            if table.is_empty() {
                out.note("no releases; 'skerry release sign' makes one, 'skerry release import' brings it here");
                return Ok(());
            }
            let text = table.render(out.colour, true);
            out.print(&text)
        }
        ReleaseCommand::Delete { version, kind } => {
            let kind = ReleaseKind::from(kind).as_str();
            client.delete(&format!("/v1/releases/{kind}/{}", encode(&version)))?;
            out.print(&format!("release/{kind} {version} deleted\n"))
        }
        ReleaseCommand::Rollout {
            version,
            kind,
            allow_older,
            options,
        } => {
            let release = WantedRelease {
                kind: ReleaseKind::from(kind).as_str().into(),
                version,
                allow_older,
            };
            let new = NewRollout {
                release: Some(release),
                ..NewRollout::default()
            };
            start(out, client, new, options)
        }
        ReleaseCommand::Keygen { .. } | ReleaseCommand::Sign { .. } => {
            unreachable!("done without a client")
        }
    }
}

/// `skerry line`.
pub(super) fn line(out: &mut Out, client: &Client, args: LineArgs) -> Result<(), CliError> {
    let LineCommand::Set {
        broker,
        ca,
        tls_pin,
        system_roots,
        options,
    } = args.command;
    let tls_pin = match ca {
        Some(file) => Some(pin_of(&file)?),
        None => tls_pin,
    };
    let line = WantedLine {
        broker,
        tls_pin,
        system_roots,
    };
    let new = NewRollout {
        line: Some(line),
        ..NewRollout::default()
    };
    start(out, client, new, options)
}

/// The SHA-256 of the first certificate of a file, PEM or DER.
fn pin_of(file: &Path) -> Result<String, CliError> {
    let bytes =
        std::fs::read(file).map_err(|e| CliError::io(format!("read {}", file.display()), e))?;
    let der = if bytes.first() == Some(&0x30) {
        bytes
    } else {
        let certificate = CertificateDer::from_pem_slice(&bytes).map_err(|_| {
            CliError::failed(
                format!("{} holds no certificate", file.display()),
                "name a PEM or DER file of the authority that signed the broker's certificate",
            )
        })?;
        certificate.to_vec()
    };
    Ok(Digest::of(&der).hex())
}

fn start(
    out: &mut Out,
    client: &Client,
    new: NewRollout,
    options: RolloutOptions,
) -> Result<(), CliError> {
    let confirm = u32::try_from(options.confirm_within.as_secs()).unwrap_or(u32::MAX);
    let new = NewRollout {
        selector: options.selector.unwrap_or_default(),
        max_unavailable: Some(options.max_unavailable),
        confirm_secs: Some(confirm),
        ..new
    };
    let rollout: Rollout = client.post("/v1/rollouts", &new)?;
    out.print(&format!(
        "rollout/{} of {} started ({})\n",
        rollout.id,
        rollout.target,
        human::count(rollout.devices as usize, "device")
    ))?;
    if options.wait {
        return wait(out, client, rollout.id, options.timeout);
    }
    out.note(&format!(
        "'skerry rollout status {}' shows how far it is",
        rollout.subject
    ));
    Ok(())
}

fn wait(out: &mut Out, client: &Client, id: u64, timeout: Duration) -> Result<(), CliError> {
    let begun = Instant::now();
    loop {
        let all: Vec<Rollout> = client.list("/v1/rollouts")?;
        let Some(rollout) = all.into_iter().find(|r| r.id == id) else {
            return Err(CliError::Told(
                "the rollout is forgotten: 'skerry rollout history' shows what there is".into(),
            ));
        };
        let name = format!("rollout/{id} of {}", rollout.target);
        match rollout.state {
            RolloutState::Complete => {
                out.wipe();
                return out.print(&format!(
                    "{name} complete: {}\n",
                    human::count(rollout.devices as usize, "device")
                ));
            }
            RolloutState::Stopped => {
                out.wipe();
                let why = rollout.message.unwrap_or_default();
                return Err(CliError::Told(format!(
                    "{name} stopped: {why}; 'skerry rollout undo {}' goes back, 'skerry rollout resume {}' tries again",
                    rollout.subject, rollout.subject
                )));
            }
            RolloutState::Superseded => {
                out.wipe();
                return Err(CliError::Told(format!(
                    "{name} was replaced by another one"
                )));
            }
            RolloutState::Running | RolloutState::Paused => {}
        }
        out.progress(&format!("{name}: {}", progress(&rollout)));
        if begun.elapsed() >= timeout {
            out.wipe();
            return Err(CliError::Told(format!(
                "{name} is not complete after {}: {}; it goes on, see 'skerry rollout status {}'",
                human::span(timeout),
                progress(&rollout),
                rollout.subject
            )));
        }
        super::wait::pause(POLL);
    }
}

fn progress(rollout: &Rollout) -> String {
    let mut text = format!("{} of {} updated", rollout.updated, rollout.devices);
    for (count, what) in [
        (rollout.updating, "under way"),
        (rollout.failed, "failed"),
        (rollout.offline, "offline"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

fn state_text(state: RolloutState) -> (&'static str, Style) {
    match state {
        RolloutState::Running => ("running", Style::Busy),
        RolloutState::Paused => ("paused", Style::Busy),
        RolloutState::Stopped => ("stopped", Style::Bad),
        RolloutState::Complete => ("complete", Style::Good),
        RolloutState::Superseded => ("superseded", Style::Plain),
    }
}

/// `skerry rollout`.
pub(super) fn rollout(out: &mut Out, client: &Client, args: RolloutArgs) -> Result<(), CliError> {
    let steer = |out: &mut Out, subject: &str, verb: &str, done: &str| {
        let path = format!("/v1/rollouts/{}/{verb}", encode(subject));
        let rollout: Rollout = client.post(&path, &serde_json::json!({}))?;
        out.print(&format!(
            "rollout/{} of {} {done}\n",
            rollout.id, rollout.target
        ))
    };
    match args.command {
        RolloutCommand::Status {
            subject,
            namespace,
            wait: w,
            timeout,
        } => {
            if let Some(app) = subject.as_deref().and_then(app_of) {
                let wait = w.then_some(timeout);
                return super::change::status(out, client, &namespace.namespace, app, wait);
            }
            let all: Vec<Rollout> = client.list("/v1/rollouts")?;
            let wanted = |r: &&Rollout| subject.as_ref().is_none_or(|s| r.subject == *s);
            let newest = all.iter().rev().find(wanted).ok_or_else(|| {
                CliError::failed(
                    "nothing was rolled out yet",
                    "'skerry release rollout' or 'skerry line set' does",
                )
            })?;
            if w {
                return wait(out, client, newest.id, timeout);
            }
            show(out, client, newest)
        }
        RolloutCommand::Pause { subject } => steer(out, &subject, "pause", "paused"),
        RolloutCommand::Resume { subject } => steer(out, &subject, "resume", "resumed"),
        RolloutCommand::Restart {
            app,
            namespace,
            wait,
            timeout,
        } => {
            let app = app_of(&app).unwrap_or(&app);
            let wait = wait.then_some(timeout);
            super::change::restart(out, client, &namespace.namespace, app, wait)
        }
        RolloutCommand::Undo { subject } => steer(out, &subject, "undo", "started: it goes back"),
        RolloutCommand::History => {
            let now = human::now_ms();
            let mut table = Table::new(&[
                "ID", "TARGET", "STATE", "DEVICES", "SELECTOR", "AGE", "REASON",
            ]);
            for r in client.list::<Rollout>("/v1/rollouts")? {
                let (state, style) = state_text(r.state);
                table.row(vec![
                    r.id.to_string().into(),
                    r.target.as_str().into(),
                    Cell::new(state, style),
                    format!("{}/{}", r.updated, r.devices).into(),
                    r.selector.as_str().into(),
                    human::age(r.created_ms, now).into(),
                    r.message.unwrap_or_default().into(),
                ]);
            }
            let text = table.render(out.colour, true);
            out.print(&text)
        }
    }
}

fn show(out: &mut Out, client: &Client, rollout: &Rollout) -> Result<(), CliError> {
    let (state, style) = state_text(rollout.state);
    out.print(&format!(
        "rollout/{} of {} to '{}': {}\n{}, at most {} at a time, {} each to confirm\n",
        rollout.id,
        rollout.target,
        rollout.selector,
        style.paint(state, out.colour),
        progress(rollout),
        rollout.max_unavailable,
        human::span(Duration::from_secs(rollout.confirm_secs.into())),
    ))?;
    if let Some(message) = &rollout.message {
        out.print(&format!("stopped because {message}\n"))?;
    }
    let mut table = Table::new(&["DEVICE", "STATE", "REASON"]);
    for device in client.list::<Device>("/v1/devices")? {
        for update in device.updates.iter().filter(|u| u.rollout == rollout.id) {
            table.row(vec![
                device.name.as_str().into(),
                update_cell(update),
                update.message.clone().unwrap_or_default().into(),
            ]);
        }
    }
    if table.is_empty() {
        return Ok(());
    }
    let text = table.render(out.colour, true);
    out.print(&format!("\n{text}"))
}

/// How an order fares, in a word.
fn update_cell(update: &DeviceUpdate) -> Cell {
    let (text, style) = match update.state {
        UpdateState::Ordered => ("ordered", Style::Plain),
        UpdateState::Trying => ("trying", Style::Busy),
        UpdateState::Confirmed => ("confirmed", Style::Good),
        UpdateState::Refused => ("refused", Style::Bad),
        UpdateState::RolledBack => ("rolled back", Style::Bad),
        UpdateState::Lost => ("lost", Style::Bad),
    };
    Cell::new(text, style)
}

/// The agent's version, and what of the device is or failed to be changed.
pub(super) fn agent_text(device: &Device) -> String {
    let version = &device.facts.agent_version;
    let news = device.updates.iter().find_map(|update| match update.state {
        UpdateState::Confirmed => None,
        UpdateState::Ordered => Some(format!("{version} (ordered: {})", update.target)),
        UpdateState::Trying => Some(format!("{version} (trying {})", update.target)),
        UpdateState::Refused => Some(format!("{version} (refused {})", update.target)),
        UpdateState::RolledBack => Some(format!("{version} (rolled back {})", update.target)),
        UpdateState::Lost => Some(format!("{version} (lost with {})", update.target)),
    });
    news.unwrap_or_else(|| version.clone())
}

/// The orders of a device as a table, or nothing.
pub(super) fn updates_text(device: &Device, colour: bool) -> String {
    if device.updates.is_empty() {
        return String::new();
    }
    let mut table = Table::new(&["WHAT", "STATE", "ORDERED", "REASON"]);
    for update in &device.updates {
        table.row(vec![
            update.target.as_str().into(),
            update_cell(update),
            human::moment(update.ordered_ms).into(),
            update.message.clone().unwrap_or_default().into(),
        ]);
    }
    format!("\nUpdates:\n{}", table.render(colour, true))
}
/// The app that `app/NAME`, `job/NAME` or `cronjob/NAME` means.
fn app_of(subject: &str) -> Option<&str> {
    let kinds = ["app/", "job/", "cronjob/"];
    kinds.iter().find_map(|kind| subject.strip_prefix(kind))
}
