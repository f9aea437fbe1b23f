//! Configs and secrets on the command line: `create`, and how they look in
//! lists and in full. A secret's values are never shown: the hub gives none.

use super::apply::applied_line;
use super::args::{CreateArgs, CreateKind, Format};
use super::client::{Client, encode};
use super::describe::{Facts, moment};
use super::error::CliError;
use super::get::{Show, manifest_text};
use super::human;
use super::output::Out;
use super::table::Table;
use crate::api::types::{Applied, Config, List, ManifestFile, Manifests};
use crate::manifest::{Values, config_to_yaml};
use crate::model::ConfigObject;
use skerry_wire::{Config as WireConfig, ConfigData, ConfigKind, ConfigName, Namespace};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// Where the hub has one.
pub(super) fn config_path(kind: ConfigKind, namespace: &str, name: &str) -> String {
    format!("/v1/{kind}s/{}/{}", encode(namespace), encode(name))
}

/// Makes one from files and words, as kubectl does.
pub(super) fn create(out: &mut Out, client: &Client, args: &CreateArgs) -> Result<(), CliError> {
    let (kind, args) = match &args.kind {
        CreateKind::Config(args) => (ConfigKind::Config, args),
        CreateKind::Secret(args) => (ConfigKind::Secret, args),
        CreateKind::Job(args) => return super::jobs::create(out, client, args),
    };
    let name = match args.names.as_slice() {
        [name] => name,
        // As kubectl has it: only one sort of secret exists here.
        [generic, name] if generic == "generic" && kind == ConfigKind::Secret => name,
        _ => {
            return Err(CliError::Usage(format!(
                "name one {kind}, as in 'skerry create {kind} settings --from-file app.conf'"
            )));
        }
    };
    let usage = |error: skerry_wire::IdError| CliError::Usage(error.to_string());
    let mut data = BTreeMap::new();
    for word in &args.from_file {
        from_file(&mut data, word)?;
    }
    for word in &args.from_literal {
        let Some((key, value)) = word.split_once('=') else {
            return Err(CliError::Usage(format!("'{word}' is not KEY=VALUE")));
        };
        add(&mut data, key, value.as_bytes().to_vec())?;
    }
    for file in &args.from_env_file {
        from_env_file(&mut data, file)?;
    }
    let object = ConfigObject {
        config: WireConfig {
            namespace: Namespace::new(args.namespace.namespace.as_str()).map_err(usage)?,
            name: ConfigName::new(name.as_str()).map_err(usage)?,
            kind,
            data: ConfigData(data),
        },
        immutable: args.immutable,
        type_name: String::new(),
    };
    // Written for the hub, or for whoever asked with --dry-run.
    let text = config_to_yaml(&object, |_| Values::Clear);
    if args.dry_run {
        return out.print(&text);
    }
    let path = config_path(kind, &args.namespace.namespace, name);
    match client.get::<Config>(&path) {
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
        Ok(_) => {
            return Err(CliError::failed(
                format!("there is a {kind} '{name}' already"),
                format!("change it with 'skerry apply', or 'skerry delete {kind} {name}' first"),
            ));
        }
    }
    let manifests = Manifests {
        files: vec![ManifestFile {
            name: format!("{kind} {name}"),
            text,
        }],
        dry_run: false,
    };
    let answer: List<Applied> = client.post("/v1/apply", &manifests)?;
    for item in &answer.items {
        out.print(&applied_line(item, false))?;
    }
    Ok(())
}

fn add(data: &mut BTreeMap<String, Vec<u8>>, key: &str, value: Vec<u8>) -> Result<(), CliError> {
    if !WireConfig::is_key(key) {
        return Err(CliError::Usage(format!(
            "'{key}' cannot be the name of a file: use 1 to 253 letters, digits, '-', '_' and '.'"
        )));
    }
    match data.insert(key.into(), value) {
        None => Ok(()),
        Some(_) => Err(CliError::Usage(format!(
            "'{key}' is given twice: rename one with --from-file KEY=FILE"
        ))),
    }
}

/// `FILE`, `KEY=FILE`, or a directory, whose files are taken that have a name
/// that is possible.
fn from_file(data: &mut BTreeMap<String, Vec<u8>>, word: &str) -> Result<(), CliError> {
    let (key, path) = match word.split_once('=') {
        Some((key, path)) => (Some(key), Path::new(path)),
        None => (None, Path::new(word)),
    };
    let shown = path.display().to_string();
    let failed = |e| CliError::io(format!("read {shown}"), e);
    if path.is_dir() && key.is_none() {
        let entries = std::fs::read_dir(path).map_err(failed)?;
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_file() && WireConfig::is_key(&name) {
                add(data, &name, read_bounded(&path)?)?;
            }
        }
        return Ok(());
    }
    let own = path.file_name().unwrap_or_default().to_string_lossy();
    add(data, key.unwrap_or(&own), read_bounded(path)?)
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, CliError> {
    let shown = path.display().to_string();
    let failed = |e| CliError::io(format!("read {shown}"), e);
    let mut bytes = Vec::new();
    let file: Box<dyn Read> = match path == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    let most = WireConfig::MAX_BYTES as u64;
    file.take(most + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > most {
        return Err(CliError::failed(
            format!("{shown} has more than {most} bytes"),
            "put large files into a volume ('skerry volume cp') or an image",
        ));
    }
    Ok(bytes)
}

/// Lines of `KEY=VALUE`; empty ones and those that begin with `#` say nothing.
fn from_env_file(data: &mut BTreeMap<String, Vec<u8>>, file: &Path) -> Result<(), CliError> {
    let shown = file.display();
    let text = String::from_utf8(read_bounded(file)?)
        .map_err(|_| CliError::Usage(format!("{shown} is not UTF-8 text")))?;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            return Err(CliError::Usage(format!(
                "{shown}:{}: this is not KEY=VALUE",
                number + 1
            )));
        };
        add(data, key.trim(), value.as_bytes().to_vec())?;
    }
    Ok(())
}

/// As a table.
fn config_table(configs: &[Config], show: &Show) -> Table {
    let now = human::now_ms();
    let secrets = configs.iter().any(|config| config.secret_type.is_some());
    let mut head = Vec::new();
    if show.every_namespace {
        head.push("NAMESPACE");
    }
    head.push("NAME");
    if secrets {
        head.push("TYPE");
    }
    head.extend(["FILES", "BYTES", "CHANGED"]);
    let mut table = Table::new(&head);
    for config in configs {
        let bytes: u64 = config.files.iter().map(|file| file.bytes).sum();
        let mut row = Vec::new();
        if show.every_namespace {
            row.push(config.namespace.as_str().into());
        }
        row.push(config.name.as_str().into());
        if secrets {
            row.push(config.secret_type.clone().unwrap_or_default().into());
        }
        row.push(config.files.len().to_string().into());
        row.push(human::bytes(bytes).into());
        row.push(human::age(config.changed_ms, now).into());
        table.row(row);
    }
    table
}

/// Prints them; as YAML they are manifests, which those of configs can be
/// applied again.
pub(super) fn show(
    out: &mut Out,
    client: &Client,
    show: &Show,
    kind: ConfigKind,
    configs: &[Config],
) -> Result<(), CliError> {
    use super::args::Resource;
    let resource = match kind {
        ConfigKind::Config => Resource::Configs,
        ConfigKind::Secret => Resource::Secrets,
    };
    if show.format != Format::Yaml {
        return show.list(out, resource, configs, config_table, |c| c.name.clone());
    }
    let mut texts = Vec::new();
    for config in configs {
        let whole: Config = client.get(&config_path(kind, &config.namespace, &config.name))?;
        texts.push(manifest_text(&whole.manifest.unwrap_or_default()));
    }
    out.print(&texts.join("---\n"))
}

/// All about one.
pub(super) fn describe(
    client: &Client,
    kind: ConfigKind,
    namespace: &str,
    name: &str,
) -> Result<String, CliError> {
    let config: Config = client.get(&config_path(kind, namespace, name))?;
    let mut facts = Facts {
        text: String::new(),
    };
    facts.line("Name", &config.name);
    facts.line("Namespace", &config.namespace);
    if let Some(secret_type) = &config.secret_type {
        facts.line("Type", secret_type);
    }
    if config.immutable {
        facts.line("Immutable", "yes");
    }
    facts.line("Changed", moment(Some(config.changed_ms)));
    facts.line("Used by", config.apps.join(", "));
    let mut text = facts.text;
    text.push_str("\nFiles:\n");
    let values = config
        .manifest
        .as_ref()
        .filter(|_| kind == ConfigKind::Config);
    for file in &config.files {
        text.push_str(&format!("  {}: {} bytes\n", file.name, file.bytes));
        let value = values.and_then(|manifest| manifest["data"][&file.name].as_str());
        for line in value.into_iter().flat_map(str::lines) {
            text.push_str(&format!("    {}\n", super::get::clean(line)));
        }
    }
    Ok(text)
}
