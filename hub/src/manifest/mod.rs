//! Manifests: what operators write, read strictly.
//!
//! `text → tree (YAML with positions, bounded) → decode (fields by hand) →
//! model`. Every error of a file is found in one go, and each one says where
//! it is (file, line, column, field), what is wrong and what to do. A field
//! that is not understood is an error, never dropped.
//!
//! All of it is pure. `docs/manifest.md` is the operator's side of this.

mod app;
mod config;
mod container;
mod decode;
mod devices;
mod error;
mod image;
mod job;
mod network;
#[cfg(test)]
mod network_tests;
mod pod;
mod probe;
mod quantity;
mod resources;
mod scalar;
mod security;
mod services;
mod tree;
mod unsupported;
mod update;
mod write;
mod yaml;

#[cfg(test)]
mod tests;

pub use config::{Values, config_to_json, config_to_yaml};
pub use error::{ManifestError, summary};
pub use image::check_reference;
pub(crate) use job::kind as kind_of;
pub use write::{to_json, to_yaml};

use crate::model::{App, ConfigObject};
use decode::Decoder;
pub(crate) use decode::closest;
use std::collections::BTreeMap;

/// Bytes in one file: a thousand ordinary apps, or the largest config in
/// base64.
pub const MAX_FILE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes in all files of one call.
pub const MAX_TOTAL_BYTES: usize = 8 * 1024 * 1024;
/// Files in one call.
pub const MAX_FILES: usize = 1000;
/// Bytes of one app's pod as devices get it: 512 of them in the worst case fit
/// no device, one of them fits every message.
pub const MAX_POD_BYTES: usize = 64 * 1024;

/// One object that a manifest declares.
// A few of them live for the time of one call.
#[expect(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// `kind: App`, `Job` or `CronJob`: what it is, its policy says.
    App(App),
    /// `kind: Config` or `kind: Secret`.
    Config(ConfigObject),
}

impl Object {
    /// Its kind, as manifests write it.
    pub fn kind(&self) -> &'static str {
        match self {
            Object::App(app) => kind(app),
            Object::Config(object) => match object.config.kind {
                skerry_wire::ConfigKind::Config => "Config",
                skerry_wire::ConfigKind::Secret => "Secret",
            },
        }
    }

    /// What it is called in messages, unique among all objects.
    fn shown(&self) -> String {
        match self {
            Object::App(app) => format!("app {}", app.app),
            Object::Config(object) => object.config.reference().to_string(),
        }
    }
}

/// The kind of an app, as manifests write it: `App`, `Job` or `CronJob`.
pub fn kind(app: &App) -> &'static str {
    kind_of(&app.policy.work)
}

/// A text and what it is called in errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// As the operator knows it: `web.yaml`, `-`.
    pub name: String,
    /// YAML or JSON.
    pub text: String,
}

/// Reads one file: YAML, one document or several, or JSON. Empty documents
/// are skipped. The errors are all that the file has (up to 50), in the order
/// of their lines.
pub fn parse(file_name: &str, text: &str) -> Result<Vec<Object>, Vec<ManifestError>> {
    let mut decoder = Decoder::new(file_name);
    let objects = read(&mut decoder, text);
    decoder.finish(strip(objects))
}

/// Reads files that belong together: as [`parse`] each, and no object twice,
/// and at least one in all.
pub fn parse_files(files: &[File]) -> Result<Vec<Object>, Vec<ManifestError>> {
    let total: usize = files.iter().map(|f| f.text.len()).sum();
    let first = files.first().map_or("", |f| f.name.as_str());
    if files.len() > MAX_FILES || total > MAX_TOTAL_BYTES {
        let message = format!(
            "{} files with {total} bytes are more than the {MAX_FILES} files and {MAX_TOTAL_BYTES} bytes that one call takes",
            files.len()
        );
        return Err(vec![ManifestError::at_start(
            first,
            message,
            "apply them in several calls",
        )]);
    }
    let mut errors = Vec::new();
    let mut objects = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let mut decoder = Decoder::new(&file.name);
        let found = read(&mut decoder, &file.text);
        for (at, object) in &found {
            let name = object.shown();
            let place = format!("{}:{}", file.name, at.line);
            if let Some(before) = seen.get(&name) {
                decoder.duplicate(*at, &name, before);
            } else {
                seen.insert(name, place);
            }
        }
        match decoder.finish(strip(found)) {
            Ok(found) => objects.extend(found),
            Err(found) => errors.extend(found),
        }
    }
    if errors.is_empty() && objects.is_empty() {
        errors.push(ManifestError::at_start(
            first,
            "there is no object in it".into(),
            "write at least one document with apiVersion: skerry/v1 and kind: App",
        ));
    }
    if errors.is_empty() {
        Ok(objects)
    } else {
        Err(errors)
    }
}

type Placed = (tree::Position, Object);

fn read(decoder: &mut Decoder<'_>, text: &str) -> Vec<Placed> {
    let documents = tree::parse(decoder, text);
    let mut objects: Vec<Placed> = Vec::new();
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for document in &documents {
        let Some(object) = app::object(decoder, document) else {
            continue;
        };
        let name = object.shown();
        match seen.get(&name) {
            Some(before) => decoder.duplicate(document.at, &name, before),
            None => {
                let place = format!("line {}", document.at.line);
                seen.insert(name, place);
                objects.push((document.at, object));
            }
        }
    }
    objects
}

fn strip(objects: Vec<Placed>) -> Vec<Object> {
    objects.into_iter().map(|(_, object)| object).collect()
}
