//! Configs and secrets: `kind: Config` and `kind: Secret`, and Kubernetes' own
//! ConfigMap and Secret, which say the same.

use super::Object;
use super::decode::{Decoder, Fields, Path};
use super::tree::{Node, Value, is_null};
use super::unsupported::Place;
use super::write::Fields as Written;
use super::yaml::{Out, render};
use crate::model::ConfigObject;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use skerry_wire::label::{LabelError, check_key};
use skerry_wire::pod::{EnvFrom, EnvValue, Field, KeyToPath};
use skerry_wire::{Config, ConfigData, ConfigKind, ConfigName, Namespace, VolumeSource};
use std::collections::BTreeMap;

/// Files of one volume that are named one by one.
const MAX_ITEMS: usize = 1024;
/// Longest path of a file in a volume, in bytes.
const MAX_ITEM_PATH_BYTES: usize = 1024;
/// Permission bits of files, as Kubernetes has them.
const DEFAULT_MODE: u16 = 0o644;
/// Longest `type` of a secret, in bytes; only kept for whoever reads it.
const MAX_TYPE_BYTES: usize = 256;
/// What Kubernetes calls a secret that says nothing else.
const OPAQUE: &str = "Opaque";
/// What is shown in the place of a secret's value.
const HIDDEN: &str = "***";

/// Which of the two a document is, if it is one.
pub(super) fn kind(document: &Fields<'_>) -> Option<ConfigKind> {
    let text = |name: &str| {
        let entry = document.left().find(|entry| entry.key == name)?;
        match &entry.value.value {
            Value::Scalar(scalar) => Some(scalar.text.as_str()),
            Value::Sequence(_) | Value::Mapping(_) => None,
        }
    };
    match (text("apiVersion")?, text("kind")?) {
        ("skerry/v1", "Config") | ("skerry/v1" | "v1", "ConfigMap") => Some(ConfigKind::Config),
        ("skerry/v1" | "v1", "Secret") => Some(ConfigKind::Secret),
        _ => None,
    }
}

/// The object that a document of this kind declares.
pub(super) fn object(
    d: &mut Decoder<'_>,
    mut fields: Fields<'_>,
    kind: ConfigKind,
) -> Option<Object> {
    let before = d.count();
    let path = Path::Root;
    fields.take("apiVersion");
    fields.take("kind");
    let at = fields.at;
    let name = match fields.require(d, &path, "metadata", "write metadata: { name: settings }") {
        Some(node) => metadata(d, node, &path.field("metadata")),
        None => None,
    };
    let mut data = BTreeMap::new();
    // What comes later wins, as in Kubernetes.
    let lists: &[(&'static str, bool)] = match kind {
        ConfigKind::Config => &[("binaryData", true), ("data", false)],
        ConfigKind::Secret => &[("data", true), ("stringData", false)],
    };
    for (list, encoded) in lists {
        if let Some(node) = fields.take(list) {
            files(d, node, &path.field(list), *encoded, &mut data);
            if kind == ConfigKind::Secret && !encoded {
                refuse_hidden(d, node, &path.field(list));
            }
        }
    }
    let immutable = match fields.take("immutable") {
        Some(node) => d.boolean(node, &path.field("immutable")).unwrap_or(false),
        None => false,
    };
    let mut type_name = String::new();
    if kind == ConfigKind::Secret
        && let Some(node) = fields.take("type")
    {
        type_name = secret_type(d, node, &path.field("type")).unwrap_or_default();
    }
    let place = match kind {
        ConfigKind::Config => Place::Config,
        ConfigKind::Secret => Place::Secret,
    };
    fields.finish(d, &path, place);
    let data = ConfigData(data);
    if data.bytes() > Config::MAX_BYTES {
        d.error(
            at,
            &path.field("data"),
            format!(
                "has {} bytes, more than {}",
                data.bytes(),
                Config::MAX_BYTES
            ),
            "split it, or put large files into a volume ('skerry volume cp') or an image",
        );
    }
    let (namespace, name) = name?;
    let object = ConfigObject {
        config: Config {
            namespace,
            name,
            kind,
            data,
        },
        immutable,
        type_name,
    };
    (d.count() == before).then_some(Object::Config(object))
}

fn metadata(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<(Namespace, ConfigName)> {
    let mut fields = d.mapping(node, path)?;
    let name = match fields.require(d, path, "name", "give it a name, as in name: settings") {
        Some(node) => d.name(node, &path.field("name"), ConfigName::new),
        None => None,
    };
    let namespace = match fields.take("namespace") {
        Some(node) => d.name(node, &path.field("namespace"), Namespace::new),
        None => Some(Namespace::default_namespace()),
    };
    // What 'kubectl create --dry-run -o yaml' writes there.
    if let Some(stamp) = fields.take("creationTimestamp")
        && !is_null(stamp)
    {
        d.error(
            stamp.at,
            &path.field("creationTimestamp"),
            "is not supported",
            "remove it: it belongs to an object that Kubernetes keeps",
        );
    }
    fields.finish(d, path, Place::Metadata);
    Some((namespace?, name?))
}

fn files(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    encoded: bool,
    data: &mut BTreeMap<String, Vec<u8>>,
) {
    let Some(mut fields) = d.mapping(node, path) else {
        return;
    };
    for entry in fields.take_all() {
        let field = path.field(&entry.key);
        if !Config::is_key(&entry.key) {
            let shown: String = entry.key.chars().take(80).collect();
            d.error(
                entry.at,
                path,
                format!("'{shown}' is not a name of a file here"),
                "use 1 to 253 letters, digits, '-', '_' and '.', not beginning with '..'",
            );
        }
        let Some(text) = d.text(&entry.value, &field) else {
            continue;
        };
        let value = match encoded {
            false => text.into_bytes(),
            true => {
                let plain: String = text.split_ascii_whitespace().collect();
                match STANDARD.decode(plain) {
                    Ok(bytes) => bytes,
                    Err(_) => {
                        d.error(
                            entry.value.at,
                            &field,
                            "is not base64",
                            "encode it with 'base64 -w0', or write plain text under stringData (of a Secret) or data (of a Config)",
                        );
                        continue;
                    }
                }
            }
        };
        data.insert(entry.key.clone(), value);
    }
}

/// What `get secret -o yaml` prints must not become the secret when somebody
/// applies it again.
fn refuse_hidden(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) {
    let Value::Mapping(entries) = &node.value else {
        return;
    };
    for entry in entries {
        if let Value::Scalar(scalar) = &entry.value.value
            && scalar.text == HIDDEN
        {
            d.error(
                entry.value.at,
                &path.field(&entry.key),
                "is what is shown in the place of the value, which is hidden",
                "write the value itself, or leave this secret out of the file: it stays as it is then; a value that really is '***' goes base64 under data",
            );
        }
    }
}

fn secret_type(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    if text.len() > MAX_TYPE_BYTES {
        d.error(
            node.at,
            path,
            format!("has more than {MAX_TYPE_BYTES} bytes"),
            "write Opaque, or remove it",
        );
        return None;
    }
    Some(if text == OPAQUE { String::new() } else { text })
}

/// A volume's `config`, `configMap` or `secret`.
pub(super) fn volume(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    kind: ConfigKind,
) -> Option<VolumeSource> {
    let before = d.count();
    let mut fields = d.mapping(node, path)?;
    let name_field = match kind {
        ConfigKind::Secret if !fields.has("name") => "secretName",
        ConfigKind::Secret | ConfigKind::Config => "name",
    };
    let name = reference(d, &mut fields, path, name_field, kind);
    let mode = match fields.take("defaultMode") {
        Some(node) => mode(d, node, &path.field("defaultMode")),
        None => Some(DEFAULT_MODE),
    };
    let optional = optional(d, &mut fields, path);
    let items = match fields.take("items") {
        Some(node) => items(d, node, &path.field("items")),
        None => Vec::new(),
    };
    fields.finish(d, path, Place::VolumeSource);
    if d.count() > before {
        return None;
    }
    Some(VolumeSource::Config {
        kind,
        name: name?,
        items,
        mode: mode?,
        optional,
    })
}

fn reference(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
    field: &'static str,
    kind: ConfigKind,
) -> Option<ConfigName> {
    let remedy = format!("name the {kind}, as in {field}: settings");
    let node = fields.require(d, path, field, &remedy)?;
    d.name(node, &path.field(field), ConfigName::new)
}

fn optional(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> bool {
    let Some(node) = fields.take("optional") else {
        return false;
    };
    d.boolean(node, &path.field("optional")).unwrap_or(false)
}

/// Permission bits, in octal as chmod(1) has them: YAML readers disagree about
/// `0644`, and of both readings only one is meant.
fn mode(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<u16> {
    let text = d.quantity_text(node, path)?;
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let octal = digits.len() > 1 && (digits.starts_with('0') || digits.len() < text.len());
    let read = match octal {
        true => u16::from_str_radix(digits, 8).ok(),
        // Without a zero before it, it is decimal, as in JSON: 420 is 0644.
        false => digits.parse().ok(),
    };
    match read {
        Some(mode) if mode <= 0o777 => Some(mode),
        _ => {
            let shown: String = text.chars().take(40).collect();
            d.error(
                node.at,
                path,
                format!("'{shown}' is no mode of a file"),
                "write it in octal with a zero before it, as in 0644 or 0400",
            );
            None
        }
    }
}

fn items(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<KeyToPath> {
    let nodes = d.bounded_sequence(node, path, MAX_ITEMS);
    let mut items: Vec<KeyToPath> = Vec::new();
    for (index, node) in nodes.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(item) = item(d, node, &path) else {
            continue;
        };
        let parent = |a: &str, b: &str| b.strip_prefix(a).is_some_and(|rest| rest.starts_with('/'));
        if let Some(other) = items.iter().find(|other| {
            other.path == item.path
                || parent(&other.path, &item.path)
                || parent(&item.path, &other.path)
        }) {
            d.error(
                node.at,
                &path.field("path"),
                format!(
                    "'{}' and '{}' are in each other's way",
                    other.path, item.path
                ),
                "give one of them another path",
            );
        }
        items.push(item);
    }
    items
}

fn item(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<KeyToPath> {
    let mut fields = d.mapping(node, path)?;
    let key = match fields.require(d, path, "key", "name the file of the config") {
        Some(node) => key(d, node, &path.field("key")),
        None => None,
    };
    let target = match fields.require(d, path, "path", "say where it appears in the volume") {
        Some(node) => relative_path(d, node, &path.field("path")),
        None => None,
    };
    let own = match fields.take("mode") {
        Some(node) => Some(mode(d, node, &path.field("mode"))?),
        None => None,
    };
    fields.finish(d, path, Place::Other);
    Some(KeyToPath {
        key: key?,
        path: target?,
        mode: own,
    })
}

fn key(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    if Config::is_key(&text) {
        return Some(text);
    }
    d.error(
        node.at,
        path,
        "is not a name of a file in a config",
        "use 1 to 253 letters, digits, '-', '_' and '.', not beginning with '..'",
    );
    None
}

/// A path inside a volume: relative, without `..`, in its shortest form.
fn relative_path(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    let parts: Vec<&str> = text.split('/').filter(|part| *part != ".").collect();
    let wrong = |part: &&str| part.is_empty() || *part == "..";
    let reserved = parts.first().is_some_and(|first| first.starts_with(".."));
    if parts.is_empty() || parts.iter().any(wrong) || reserved || text.len() > MAX_ITEM_PATH_BYTES {
        d.error(
            node.at,
            path,
            "is not a relative path in the volume",
            "write it without '/' at its start and without '..', as in conf.d/web.conf",
        );
        return None;
    }
    Some(parts.join("/"))
}

/// One of a container's `envFrom`.
pub(super) fn env_from(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<EnvFrom> {
    let mut fields = d.mapping(node, path)?;
    let prefix = match fields.take("prefix") {
        Some(node) => d.text(node, &path.field("prefix"))?,
        None => String::new(),
    };
    let mut found = Vec::new();
    for (field, kind) in [
        ("configRef", ConfigKind::Config),
        ("configMapRef", ConfigKind::Config),
        ("secretRef", ConfigKind::Secret),
    ] {
        let Some(node) = fields.take(field) else {
            continue;
        };
        let path = path.field(field);
        let mut fields = d.mapping(node, &path)?;
        let name = reference(d, &mut fields, &path, "name", kind);
        let optional = optional(d, &mut fields, &path);
        fields.finish(d, &path, Place::Other);
        found.push(EnvFrom {
            kind,
            name: name?,
            prefix: prefix.clone(),
            optional,
        });
    }
    let at = fields.at;
    fields.finish(d, path, Place::Other);
    let one = found.pop();
    if one.is_none() || !found.is_empty() {
        d.error(
            at,
            path,
            "has to name one config or secret",
            "write configRef: { name: settings } or secretRef: { name: login }",
        );
        return None;
    }
    one
}

/// A variable's `valueFrom`.
pub(super) fn value_from(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<EnvValue> {
    let mut fields = d.mapping(node, path)?;
    let mut found = Vec::new();
    for (field, kind) in [
        ("configKeyRef", ConfigKind::Config),
        ("configMapKeyRef", ConfigKind::Config),
        ("secretKeyRef", ConfigKind::Secret),
    ] {
        let Some(node) = fields.take(field) else {
            continue;
        };
        let path = path.field(field);
        let mut fields = d.mapping(node, &path)?;
        let name = reference(d, &mut fields, &path, "name", kind);
        let key = match fields.require(d, &path, "key", "name the file of it") {
            Some(node) => key(d, node, &path.field("key")),
            None => None,
        };
        let optional = optional(d, &mut fields, &path);
        fields.finish(d, &path, Place::Other);
        found.push(EnvValue::Config {
            kind,
            name: name?,
            key: key?,
            optional,
        });
    }
    if let Some(node) = fields.take("fieldRef") {
        found.push(EnvValue::Field(field_ref(
            d,
            node,
            &path.field("fieldRef"),
        )?));
    }
    let at = fields.at;
    fields.finish(d, path, Place::ValueFrom);
    let one = found.pop();
    if one.is_none() || !found.is_empty() {
        d.error(
            at,
            path,
            "has to be one of configKeyRef, secretKeyRef and fieldRef",
            "write one, as in configKeyRef: { name: settings, key: level }",
        );
        return None;
    }
    one
}

/// Kubernetes' names of what a container may be told of itself.
pub(super) const FIELDS: [(&str, Field); 6] = [
    ("metadata.name", Field::AppName),
    ("metadata.namespace", Field::Namespace),
    ("spec.nodeName", Field::DeviceName),
    ("status.podIP", Field::PodIp),
    ("status.podIPs", Field::PodIps),
    ("status.hostIP", Field::HostIp),
];

/// The label of a field that is one of the device: `device.labels['site']`, as
/// Kubernetes writes those of a pod.
fn label_of(text: &str) -> Option<Result<&str, LabelError>> {
    let key = text.strip_prefix("device.labels['")?.strip_suffix("']")?;
    Some(check_key(key).map(|()| key))
}

fn field_ref(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Field> {
    let mut fields = d.mapping(node, path)?;
    // Kubernetes' only version of it.
    if let Some(node) = fields.take("apiVersion") {
        d.text(node, &path.field("apiVersion"))?;
    }
    let known = "write metadata.name, metadata.namespace, spec.nodeName, status.podIP, status.podIPs, status.hostIP, or device.labels['KEY'] for a label of the device";
    let node = fields.require(d, path, "fieldPath", known);
    fields.finish(d, path, Place::Other);
    let node = node?;
    let path = path.field("fieldPath");
    let text = d.text(node, &path)?;
    match label_of(&text) {
        None => {}
        Some(Ok(key)) => return Some(Field::DeviceLabel(key.to_owned())),
        Some(Err(error)) => {
            let remedy = "write the label's key as 'skerry get devices -o wide' shows it";
            d.error(node.at, &path, error.to_string(), remedy);
            return None;
        }
    }
    let known = match text.starts_with("metadata.labels[") {
        true => "apps have no labels, devices do: write device.labels['KEY']",
        false => known,
    };
    let found = FIELDS.iter().find(|(name, _)| *name == text);
    if found.is_none() {
        let shown: String = text.chars().take(80).collect();
        d.error(
            node.at,
            &path,
            format!("there is no field '{shown}' here"),
            known,
        );
    }
    found.map(|(_, field)| field.clone())
}

/// A volume's mode as manifests write it.
fn mode_text(mode: u16) -> Option<String> {
    (mode != DEFAULT_MODE).then(|| format!("0{mode:o}"))
}

/// How secrets are shown where their values must not be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// In clear. Never of a secret.
    Clear,
    /// As stars.
    Hidden,
    /// As stars with a word, so that a difference can be seen.
    Changed(&'static str),
}

/// The manifest of a config or secret. `values` says of each file how it is
/// shown.
pub fn config_to_yaml(object: &ConfigObject, values: impl Fn(&str) -> Values) -> String {
    render(&document(object, values).into_vec())
}

/// The same as JSON. A secret's values are hidden.
pub fn config_to_json(object: &ConfigObject) -> Json {
    let values = match object.config.kind {
        ConfigKind::Config => Values::Clear,
        ConfigKind::Secret => Values::Hidden,
    };
    super::write::json(&document(object, |_| values).done())
}

fn document(object: &ConfigObject, values: impl Fn(&str) -> Values) -> Written {
    let config = &object.config;
    let mut metadata = Written::default();
    metadata.text("name", config.name.as_str());
    metadata.text("namespace", config.namespace.as_str());
    let mut out = Written::default();
    out.text("apiVersion", "skerry/v1");
    let (kind, text_field, binary_field) = match config.kind {
        ConfigKind::Config => ("Config", "data", "binaryData"),
        ConfigKind::Secret => ("Secret", "stringData", "data"),
    };
    out.text("kind", kind);
    out.fields("metadata", metadata);
    if !object.type_name.is_empty() {
        out.text("type", object.type_name.as_str());
    }
    out.flag("immutable", object.immutable);
    let (mut text, mut binary) = (Written::default(), Written::default());
    for (name, value) in &config.data.0 {
        match (values(name), std::str::from_utf8(value)) {
            (Values::Hidden, _) => text.text(name, HIDDEN),
            (Values::Changed(word), _) => text.text(name, format!("{HIDDEN} ({word})")),
            // A zero byte is no text to any reader, and stars hide a value.
            (Values::Clear, Ok(plain)) if !plain.contains('\0') && plain != HIDDEN => {
                text.text(name, plain)
            }
            (Values::Clear, _) => binary.text(name, STANDARD.encode(value)),
        }
    }
    out.fields(text_field, text);
    out.fields(binary_field, binary);
    out
}

/// What a volume of a config looks like in a manifest.
pub(super) fn write_volume(out: &mut Written, source: &VolumeSource) {
    let VolumeSource::Config {
        kind,
        name,
        items,
        mode,
        optional,
    } = source
    else {
        return;
    };
    let (field, name_field) = match kind {
        ConfigKind::Config => ("config", "name"),
        ConfigKind::Secret => ("secret", "secretName"),
    };
    let mut inside = Written::default();
    inside.text(name_field, name.as_str());
    inside.some_bare("defaultMode", mode_text(*mode));
    inside.flag("optional", *optional);
    let item = |item: &KeyToPath| {
        let mut out = Written::default();
        out.text("key", item.key.as_str());
        out.text("path", item.path.as_str());
        out.some_bare("mode", item.mode.map(|mode| format!("0{mode:o}")));
        out.done()
    };
    inside.list("items", items.iter().map(item));
    out.put(field, inside.done());
}

/// A value that comes from elsewhere, as manifests write it.
pub(super) fn write_value_from(value: &EnvValue) -> Option<Out> {
    let mut out = Written::default();
    match value {
        EnvValue::Text(_) => return None,
        EnvValue::Config {
            kind,
            name,
            key,
            optional,
        } => {
            let mut inside = Written::default();
            inside.text("name", name.as_str());
            inside.text("key", key.as_str());
            inside.flag("optional", *optional);
            let field = match kind {
                ConfigKind::Config => "configKeyRef",
                ConfigKind::Secret => "secretKeyRef",
            };
            out.fields(field, inside);
        }
        EnvValue::Field(field) => {
            let mut inside = Written::default();
            let name = match field {
                Field::DeviceLabel(key) => Some(format!("device.labels['{key}']")),
                _ => {
                    let name = FIELDS.iter().find(|(_, known)| known == field);
                    name.map(|(name, _)| (*name).to_owned())
                }
            };
            inside.some_text("fieldPath", name);
            out.fields("fieldRef", inside);
        }
    }
    Some(out.done())
}

/// One of `envFrom`, as manifests write it.
pub(super) fn write_env_from(from: &EnvFrom) -> Out {
    let mut out = Written::default();
    if !from.prefix.is_empty() {
        out.text("prefix", from.prefix.as_str());
    }
    let mut inside = Written::default();
    inside.text("name", from.name.as_str());
    inside.flag("optional", from.optional);
    let field = match from.kind {
        ConfigKind::Config => "configRef",
        ConfigKind::Secret => "secretRef",
    };
    out.fields(field, inside);
    out.done()
}
