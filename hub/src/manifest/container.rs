//! One container of a pod.

use super::config;
use super::decode::{Decoder, Fields, Path, closest};
use super::devices;
use super::image;
use super::network;
use super::pod::{DeclaredVolume, MAX_VOLUMES, absolute_path};
use super::probe::{self, Kind, Lifecycle};
use super::quantity;
use super::resources::{self, quantity_of};
use super::scalar::{Meaning, meaning};
use super::security::{self, PodSecurity};
use super::tree::{Node, Position, Value};
use super::unsupported::Place;
use skerry_wire::pod::{EnvFrom, EnvValue, Port, SubPath};
use skerry_wire::probe::Probe;
use skerry_wire::{ContainerName, ContainerSpec, EnvVar, Resources, VolumeMount};

/// Environment variables of one container.
const MAX_ENV: usize = 512;
/// Words of a command.
const MAX_ARGS: usize = 1024;
/// Longest path in a volume, in bytes; the runtime's own bound.
const MAX_SUB_PATH_BYTES: usize = 1024;
/// Longest name of a variable, in bytes.
const MAX_ENV_NAME_BYTES: usize = 256;

/// The container; `None` if any part of it could not be read.
pub(super) fn container(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    volumes: &[DeclaredVolume],
    pod: &PodSecurity,
    is_init: bool,
) -> Option<ContainerSpec<String>> {
    let before = d.count();
    let mut fields = d.mapping(node, path)?;
    let name = fields
        .require(d, path, "name", "give the container a name")
        .and_then(|node| d.name(node, &path.field("name"), ContainerName::new));
    let image = fields
        .require(d, path, "image", "name an image, as in nginx:1.27")
        .and_then(|node| image_name(d, node, &path.field("image")));
    let env = match fields.take("env") {
        Some(node) => env(d, node, &path.field("env")),
        None => Vec::new(),
    };
    let env_from = match fields.take("envFrom") {
        Some(node) => env_from(d, node, &path.field("envFrom")),
        None => Vec::new(),
    };
    let mut words = |d: &mut Decoder<'_>, name| match fields.take(name) {
        Some(node) => words(d, node, &path.field(name)),
        None => Vec::new(),
    };
    let command = words(d, "command");
    let args = words(d, "args");
    let working_dir = fields
        .take("workingDir")
        .and_then(|node| absolute_path(d, node, &path.field("workingDir")));
    let resources = match fields.take("resources") {
        Some(node) => resources::resources(d, node, &path.field("resources")),
        None => Resources::default(),
    };
    let devices = devices::devices(d, &mut fields, path);
    let volume_mounts = match fields.take("volumeMounts") {
        Some(node) => mounts(d, node, &path.field("volumeMounts"), volumes),
        None => Vec::new(),
    };
    let context = fields.take("securityContext");
    let context = security::container(d, context, node, &path.field("securityContext"), pod);
    let ports = network::ports(d, &mut fields, path);
    let sidecar = is_init && restarts_always(d, &mut fields, path);
    let watched = Watched::read(d, &mut fields, path, &ports);
    if is_init && !sidecar {
        watched.refuse(d, path);
    }
    let (log_persist, log_max_bytes) = match fields.take("logging") {
        Some(node) => logging(d, node, &path.field("logging")),
        None => (false, 0),
    };
    fields.finish(d, path, Place::Container);
    if d.count() > before {
        return None;
    }
    Some(ContainerSpec {
        command,
        args,
        env_from,
        env,
        working_dir,
        user: context.user,
        ports,
        resources,
        devices,
        volume_mounts,
        read_only_root: context.read_only_root,
        security: context.security,
        sidecar,
        startup_probe: watched.startup,
        liveness_probe: watched.liveness,
        readiness_probe: watched.readiness,
        post_start: watched.lifecycle.post_start,
        pre_stop: watched.lifecycle.pre_stop,
        stop_signal: watched.lifecycle.stop_signal,
        log_persist,
        log_max_bytes,
        ..ContainerSpec::new(name?, image?)
    })
}

/// The `restartPolicy` of an init container, which makes it a sidecar.
fn restarts_always(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> bool {
    let Some(node) = fields.take("restartPolicy") else {
        return false;
    };
    let path = path.field("restartPolicy");
    match d.text(node, &path) {
        Some(text) if text == "Always" => true,
        Some(_) => {
            let remedy = "write Always to keep it running beside the others, or remove it";
            d.error(node.at, &path, "can only be Always here", remedy);
            false
        }
        None => false,
    }
}

/// Probes and lifecycle of a container.
#[derive(Default)]
struct Watched {
    startup: Option<Box<Probe>>,
    liveness: Option<Box<Probe>>,
    readiness: Option<Box<Probe>>,
    lifecycle: Lifecycle,
    /// The fields that were there, and where.
    named: Vec<(&'static str, Position)>,
}

impl Watched {
    fn read(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>, ports: &[Port]) -> Self {
        let mut watched = Self::default();
        for (name, kind) in [
            ("startupProbe", Kind::Startup),
            ("livenessProbe", Kind::Liveness),
            ("readinessProbe", Kind::Readiness),
        ] {
            let Some(node) = fields.take(name) else {
                continue;
            };
            watched.named.push((name, node.at));
            let read = probe::probe(d, node, &path.field(name), kind, ports);
            match kind {
                Kind::Startup => watched.startup = read,
                Kind::Liveness => watched.liveness = read,
                Kind::Readiness => watched.readiness = read,
            }
        }
        if let Some(node) = fields.take("lifecycle") {
            watched.named.push(("lifecycle", node.at));
            watched.lifecycle = probe::lifecycle(d, node, &path.field("lifecycle"), ports);
        }
        watched
    }

    /// As in Kubernetes: an init container just runs to its end.
    fn refuse(&self, d: &mut Decoder<'_>, path: &Path<'_>) {
        for (name, at) in &self.named {
            d.error(
                *at,
                &path.field(name),
                "has no place in an init container, which just runs to its end",
                "remove it, or make it a sidecar with restartPolicy: Always",
            );
        }
    }
}

fn image_name(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    match image::check_reference(&text) {
        Ok(()) => Some(text),
        Err(problem) => {
            let shown: String = text.chars().take(80).collect();
            d.error(
                node.at,
                path,
                format!("'{shown}' is not an image name: {}", problem.what),
                problem.remedy,
            );
            None
        }
    }
}

/// Words, as they are: `$(NAME)` in them is put in on the device, which alone
/// knows all variables.
fn words(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<String> {
    if let Value::Scalar(scalar) = &node.value
        && !(scalar.plain && meaning(&scalar.text) == Meaning::Null)
    {
        d.error(
            node.at,
            path,
            "expects a list of words, but there is a single value",
            "write [\"program\", \"argument\"], or [\"sh\", \"-c\", \"...\"] for a shell's line",
        );
        return Vec::new();
    }
    let items = d.bounded_sequence(node, path, MAX_ARGS).unwrap_or_default();
    let mut words = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        words.extend(d.text(item, &path));
    }
    words
}

fn env(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<EnvVar> {
    if let Value::Mapping(entries) = &node.value
        && let Some(first) = entries.first()
    {
        d.error(
            node.at,
            path,
            "expects a list, but there are fields",
            format!(
                "write - name: {} and value: on lines of their own",
                first.key
            ),
        );
        return Vec::new();
    }
    let items = d.bounded_sequence(node, path, MAX_ENV).unwrap_or_default();
    let mut vars: Vec<EnvVar> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(var) = env_var(d, item, &path) else {
            continue;
        };
        if vars.iter().any(|v| v.name == var.name) {
            d.error(
                item.at,
                &path.field("name"),
                format!("'{}' is there twice", var.name),
                "keep one of the two and remove the other",
            );
        }
        vars.push(var);
    }
    vars
}

fn env_from(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<EnvFrom> {
    let items = d.bounded_sequence(node, path, MAX_ENV).unwrap_or_default();
    let mut all = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(from) = config::env_from(d, item, &path) else {
            continue;
        };
        if !from.prefix.is_empty() && !is_env_name(&from.prefix) {
            d.error(
                item.at,
                &path.field("prefix"),
                "no variable's name can begin so",
                "use letters, digits, '_', '-' and '.', not starting with a digit",
            );
        }
        all.push(from);
    }
    all
}

fn env_var(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<EnvVar> {
    if let Value::Scalar(scalar) = &node.value
        && let Some((name, value)) = scalar.text.split_once('=')
        && is_env_name(name)
    {
        let value: String = value.chars().take(20).collect();
        d.error(
            node.at,
            path,
            "expects name and value, but there is a single text",
            format!("write name: {name} and value: \"{value}\" on lines of their own"),
        );
        return None;
    }
    let mut fields = d.mapping(node, path)?;
    let name = match fields.require(d, path, "name", "name the variable") {
        Some(node) => env_name(d, node, &path.field("name")),
        None => None,
    };
    let value = match (fields.take("value"), fields.take("valueFrom")) {
        (Some(node), None) => {
            let path = path.field("value");
            d.text(node, &path).map(EnvValue::Text)
        }
        (None, Some(node)) => config::value_from(d, node, &path.field("valueFrom")),
        (Some(_), Some(node)) => {
            let remedy = "keep one of value and valueFrom";
            d.error(
                node.at,
                &path.field("valueFrom"),
                "stands beside value",
                remedy,
            );
            None
        }
        (None, None) => Some(EnvValue::Text(String::new())),
    };
    fields.finish(d, path, Place::Env);
    Some(EnvVar {
        name: name?,
        value: value?,
    })
}

fn env_name(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    if is_env_name(&text) {
        return Some(text);
    }
    let shown: String = text.chars().take(80).collect();
    d.error(
        node.at,
        path,
        format!("'{shown}' is not a variable's name"),
        "use letters, digits, '_', '-' and '.', not starting with a digit",
    );
    None
}

/// What Kubernetes takes for an environment variable's name.
fn is_env_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    text.len() <= MAX_ENV_NAME_BYTES
        && text.bytes().all(inner)
        && text.bytes().next().is_some_and(|b| !b.is_ascii_digit())
        && text != "."
        && text != ".."
}

fn mounts(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    volumes: &[DeclaredVolume],
) -> Vec<VolumeMount> {
    let items = d.bounded_sequence(node, path, MAX_VOLUMES);
    let mut mounts: Vec<VolumeMount> = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(mount) = mount(d, item, &path, volumes) else {
            continue;
        };
        if mounts.iter().any(|m| m.mount_path == mount.mount_path) {
            d.error(
                item.at,
                &path.field("mountPath"),
                format!("two volumes are mounted at {}", mount.mount_path),
                "give one of them another path",
            );
        }
        mounts.push(mount);
    }
    mounts
}

fn mount(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    volumes: &[DeclaredVolume],
) -> Option<VolumeMount> {
    let mut fields = d.mapping(node, path)?;
    let volume = match fields.require(d, path, "name", "name a volume of the pod") {
        Some(node) => mounted_volume(d, node, &path.field("name"), volumes),
        None => None,
    };
    let remedy = "say where it appears in the container, as in /data";
    let mount_path = match fields.require(d, path, "mountPath", remedy) {
        Some(node) => mount_path(d, node, &path.field("mountPath")),
        None => None,
    };
    let read_only = match fields.take("readOnly") {
        Some(node) => d.boolean(node, &path.field("readOnly")),
        None => Some(false),
    };
    let sub_path = match (fields.take("subPath"), fields.take("subPathExpr")) {
        (None, None) => None,
        (Some(node), None) => Some(SubPath::Plain(sub_path(d, node, &path.field("subPath"))?)),
        (None, Some(node)) => Some(SubPath::Expr(sub_path(
            d,
            node,
            &path.field("subPathExpr"),
        )?)),
        (Some(_), Some(node)) => {
            let message = "stands beside subPath";
            d.error(
                node.at,
                &path.field("subPathExpr"),
                message,
                "keep one of subPath and subPathExpr",
            );
            return None;
        }
    };
    fields.finish(d, path, Place::VolumeMount);
    Some(VolumeMount {
        sub_path,
        volume: volume?,
        mount_path: mount_path?,
        read_only: read_only?,
    })
}

/// A path in a volume, with nothing that leads elsewhere.
fn sub_path(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    let shown: String = text.chars().take(80).collect();
    let (message, remedy) = if text.is_empty() || text.len() > MAX_SUB_PATH_BYTES {
        (
            format!("must have 1 to {MAX_SUB_PATH_BYTES} bytes"),
            "name a file or directory in the volume, or remove it",
        )
    } else if text.starts_with('/') {
        (
            format!("'{shown}' is an absolute path"),
            "write it as seen from the volume, without '/' at its start",
        )
    } else if text.split('/').any(|part| part == "..") {
        (
            format!("'{shown}' has '..' in it"),
            "write the path without '..'",
        )
    } else if text.contains('\0') {
        ("has a zero byte in it".to_string(), "remove it")
    } else {
        let parts = text.split('/').filter(|part| !matches!(*part, "" | "."));
        let plain = parts.collect::<Vec<_>>().join("/");
        // "." is all of the volume.
        return (!plain.is_empty()).then_some(plain).or_else(|| {
            d.error(node.at, path, "is all of the volume", "remove it");
            None
        });
    };
    d.error(node.at, path, message, remedy);
    None
}

fn mounted_volume(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    volumes: &[DeclaredVolume],
) -> Option<String> {
    let name = d.text(node, path)?;
    let names: Vec<&str> = volumes.iter().map(|v| v.name.as_str()).collect();
    if names.contains(&name.as_str()) {
        return Some(name);
    }
    let shown: String = name.chars().take(80).collect();
    let remedy = match closest(&name, &names) {
        Some(known) => format!("did you mean '{known}'?"),
        None => "declare it in spec.template.spec.volumes".into(),
    };
    let message = format!("the pod has no volume '{shown}'");
    d.error(node.at, path, message, remedy);
    None
}

fn mount_path(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = absolute_path(d, node, path)?;
    let problem = match text.as_str() {
        "/" => "a volume cannot take the place of the root file system",
        "/proc" => "a volume cannot take the place of /proc",
        _ if text.starts_with("/proc/") => "a volume cannot be mounted inside /proc",
        _ => return Some(text),
    };
    d.error(
        node.at,
        path,
        problem,
        "mount it at another path, as in /data",
    );
    None
}

fn logging(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> (bool, u64) {
    let Some(mut fields) = d.mapping(node, path) else {
        return (false, 0);
    };
    let persist = fields
        .take("persist")
        .and_then(|node| d.boolean(node, &path.field("persist")));
    let max_bytes = fields
        .take("maxBytes")
        .and_then(|node| quantity_of(d, node, &path.field("maxBytes"), quantity::log_max_bytes));
    fields.finish(d, path, Place::Logging);
    (persist.unwrap_or(false), max_bytes.unwrap_or(0))
}
