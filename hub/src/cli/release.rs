//! `release` and `line`: what devices themselves run and how they reach the hub.
//!
//! `release keygen` and `release sign` speak to no hub: they are for the
//! machine that has the key, which should be another one.

use super::args::{
    LineArgs, LineCommand, ReleaseArgs, ReleaseCommand, ReleaseKindArg, RolloutOptions,
};
use super::client::{Client, encode};
use super::error::{CliError, told};
use super::get;
use super::human;
use super::operate::list_args;
use super::output::Out;
use super::rollout::{replaced_text, wait};
use crate::api::types::{NewRollout, Release, Rollout, WantedLine, WantedRelease};
use crate::keys::{random, write_private};
use crate::release;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use skerry_wire::Digest;
use skerry_wire::update::{Artifact, ReleaseKind, SignedRelease, key_name, release_key};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

/// Longest key file, in bytes.
const MAX_KEY_BYTES: u64 = 1024;

impl ReleaseArgs {
    /// Whether it speaks to no hub.
    pub(super) fn is_offline(&self) -> bool {
        match self.command {
            ReleaseCommand::Keygen { .. } | ReleaseCommand::Sign { .. } => true,
            ReleaseCommand::Import { .. }
            | ReleaseCommand::List { .. }
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
        | ReleaseCommand::List { .. }
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

/// What 'cross/build' calls its machines, and who knows only these may write.
const MACHINES: [(&str, &str); 4] = [
    ("aarch64", "arm64"),
    ("armv7", "arm/v7"),
    ("armv6", "arm/v6"),
    ("x86_64", "amd64"),
];

/// `arm64=FILE`, `arm/v7=FILE`, `linux/amd64=FILE`, `aarch64=FILE`.
fn artifact_word(word: &str) -> Result<(String, String, PathBuf), CliError> {
    let usage = || {
        CliError::Usage(format!(
            "'{word}': write arm64=FILE, arm/v7=FILE or amd64=FILE"
        ))
    };
    let (platform, file) = word.split_once('=').ok_or_else(usage)?;
    let platform = platform.strip_prefix("linux/").unwrap_or(platform);
    let machine = MACHINES.iter().find(|(machine, _)| *machine == platform);
    let platform = machine.map_or(platform, |(_, usual)| usual);
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
        ReleaseCommand::List { output } => get::get(out, client, list_args("releases", output)),
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
    let before: Vec<Rollout> = client.list("/v1/rollouts")?;
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
    if let Some(text) = replaced_text(&before, &rollout.subject) {
        out.note(&text);
    }
    if options.wait {
        return wait(out, client, rollout.id, options.timeout);
    }
    out.note(&format!(
        "'skerry rollout status {}' shows how far it is",
        rollout.subject
    ));
    Ok(())
}
