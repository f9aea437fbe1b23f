//! What runs on a device: a pod's own fields and its volumes.

use super::decode::{Decoder, Path};
use super::network;
use super::quantity;
use super::resources;
use super::security::{self, PodSecurity};
use super::tree::{Node, Value};
use super::unsupported::Place;
use super::{config, container};
use skerry_wire::pod::HostPathKind;
use skerry_wire::{ConfigKind, PodSpec, RestartPolicy, Volume, VolumeSource};
use std::collections::BTreeSet;

/// Containers in a pod.
pub(super) const MAX_CONTAINERS: usize = 32;
/// Volumes in a pod, and mounts in a container.
pub(super) const MAX_VOLUMES: usize = 64;
/// Kubernetes' default, in seconds.
pub(super) const DEFAULT_GRACE_SECS: u32 = 30;
/// A day, in seconds: whoever needs longer to stop will not stop.
const MAX_GRACE_SECS: u64 = 24 * 60 * 60;
/// Longest path of a host or a container, in bytes (Linux' `PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;

/// The pod; `None` if it has no containers that could be read.
pub(super) fn pod(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<PodSpec<String>> {
    let mut fields = d.mapping(node, path)?;
    let (network, explicit) = network::network(d, &mut fields, path);
    let host_aliases = network::host_aliases(d, &mut fields, path);
    let dns = network::dns(d, &mut fields, path, network);
    let hostname = fields
        .take("hostname")
        .and_then(|node| hostname(d, node, &path.field("hostname")));
    let restart_policy = match fields.take("restartPolicy") {
        Some(node) => restart_policy(d, node, &path.field("restartPolicy")),
        None => RestartPolicy::default(),
    };
    let grace_name = "terminationGracePeriodSeconds";
    let grace = match fields.take(grace_name) {
        Some(node) => d.integer(node, &path.field(grace_name), 0..=MAX_GRACE_SECS),
        None => Some(u64::from(DEFAULT_GRACE_SECS)),
    };
    let security = match fields.take("securityContext") {
        Some(node) => security::pod(d, node, &path.field("securityContext")),
        None => PodSecurity::default(),
    };
    let sharing = security::sharing(d, &mut fields, path);
    let volumes = match fields.take("volumes") {
        Some(node) => volumes(d, node, &path.field("volumes")),
        None => Vec::new(),
    };
    let remedy = "write at least one container with name and image";
    let init_node = fields.take("initContainers");
    let containers_node = fields.require(d, path, "containers", remedy);
    fields.finish(d, path, Place::Pod);
    let mut names = BTreeSet::new();
    let mut read = |d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, is_init: bool| {
        let items = d.bounded_sequence(node, path, MAX_CONTAINERS)?;
        let mut containers = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let path = path.index(index);
            let read = container::container(d, item, &path, &volumes, &security, is_init);
            let Some(container) = read else {
                continue;
            };
            if !names.insert(container.name.clone()) {
                d.error(
                    item.at,
                    &path.field("name"),
                    format!("there are two containers named '{}'", container.name),
                    "give one of them another name",
                );
            }
            containers.push(container);
        }
        Some(containers)
    };
    let init_containers = match init_node {
        Some(node) => read(d, node, &path.field("initContainers"), true),
        None => Some(Vec::new()),
    };
    let containers_node = containers_node?;
    let before = d.count();
    let pod_path = path;
    let path = path.field("containers");
    let containers = read(d, containers_node, &path, false)?;
    if let Value::Sequence(items) = &containers_node.value
        && items.is_empty()
    {
        d.error(containers_node.at, &path, "is empty", remedy);
    }
    let pod = PodSpec {
        init_containers: init_containers?,
        volumes: volumes.into_iter().filter_map(|v| v.volume).collect(),
        restart_policy,
        termination_grace_secs: grace? as u32,
        hostname,
        network,
        host_aliases,
        dns,
        host_ipc: sharing.host_ipc,
        host_pid: sharing.host_pid,
        share_process_namespace: sharing.share_process_namespace,
        user_namespace: sharing.user_namespace,
        fs_group: security.fs_group,
        fs_group_change: security.fs_group_change,
        supplemental_groups: security.supplemental_groups,
        sysctls: security.sysctls,
        ..PodSpec::new(containers)
    };
    // Their places are told by number, so all of them have to be there.
    if d.count() == before {
        let inits = init_node.map(|node| (node, "initContainers"));
        let lists: Vec<_> = inits
            .into_iter()
            .chain([(containers_node, "containers")])
            .collect();
        network::check_ports(d, &pod, explicit, &lists, pod_path);
    }
    Some(pod)
}

fn hostname(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    if is_dns_label(&text) {
        return Some(text);
    }
    d.error(
        node.at,
        path,
        "is not a host name",
        "use 1 to 63 of a-z, 0-9 and '-', as in kiosk-7",
    );
    None
}

fn restart_policy(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> RestartPolicy {
    let Some(text) = d.text(node, path) else {
        return RestartPolicy::default();
    };
    match text.as_str() {
        "Always" => RestartPolicy::Always,
        "OnFailure" => RestartPolicy::OnFailure,
        "Never" => RestartPolicy::Never,
        _ => {
            let shown: String = text.chars().take(80).collect();
            let remedy = match text.to_lowercase().as_str() {
                "no" => "write Never",
                "unless-stopped" => "write Always",
                "on-failure" => "write OnFailure",
                _ => "write Always, OnFailure or Never",
            };
            let message = format!("there is no restart policy '{shown}'");
            d.error(node.at, path, message, remedy);
            RestartPolicy::default()
        }
    }
}

/// A declared volume. One whose source is wrong still has a name, so that its
/// mounts are no errors too.
pub(super) struct DeclaredVolume {
    pub name: String,
    volume: Option<Volume>,
}

fn volumes(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<DeclaredVolume> {
    let items = d.bounded_sequence(node, path, MAX_VOLUMES);
    let mut volumes: Vec<DeclaredVolume> = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(volume) = volume(d, item, &path) else {
            continue;
        };
        if volumes.iter().any(|v| v.name == volume.name) {
            d.error(
                item.at,
                &path.field("name"),
                format!("there are two volumes named '{}'", volume.name),
                "give one of them another name",
            );
        }
        volumes.push(volume);
    }
    volumes
}

fn volume(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<DeclaredVolume> {
    let mut fields = d.mapping(node, path)?;
    let name_node = fields.require(d, path, "name", "give the volume a name");
    let name = name_node.and_then(|node| volume_name(d, node, &path.field("name")));
    let mut sources = Vec::new();
    let mut named = 0;
    if let Some(node) = fields.take("hostPath") {
        named += 1;
        sources.extend(host_path(d, node, &path.field("hostPath")));
    }
    if let Some(node) = fields.take("persistentVolumeClaim") {
        named += 1;
        sources.extend(claim(d, node, &path.field("persistentVolumeClaim")));
    }
    if let Some(node) = fields.take("emptyDir") {
        named += 1;
        sources.extend(empty_dir(d, node, &path.field("emptyDir")));
    }
    for (field, kind) in [
        ("config", ConfigKind::Config),
        ("configMap", ConfigKind::Config),
        ("secret", ConfigKind::Secret),
    ] {
        if let Some(node) = fields.take(field) {
            named += 1;
            sources.extend(config::volume(d, node, &path.field(field), kind));
        }
    }
    // A field that nobody took may be a source of another kind: its own error
    // says all.
    let others = fields.left().count();
    let at = fields.at;
    fields.finish(d, path, Place::Volume);
    if named == 0 && others == 0 {
        d.error(
            at,
            path,
            "does not say what the volume is",
            "write persistentVolumeClaim: { claimName: NAME }, hostPath: { path: /srv }, emptyDir: {}, config: { name: NAME } or secret: { secretName: NAME }",
        );
    }
    if named > 1 {
        d.error(
            at,
            path,
            "is several volumes in one",
            "keep one of hostPath, persistentVolumeClaim, emptyDir, config and secret",
        );
    }
    let name = name?;
    let volume = sources.pop().map(|source| Volume {
        name: name.clone(),
        source,
    });
    Some(DeclaredVolume { name, volume })
}

/// A volume's name or a claim's: becomes a directory's name on devices.
fn volume_name(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    if is_dns_label(&text) {
        return Some(text);
    }
    let shown: String = text.chars().take(80).collect();
    d.error(
        node.at,
        path,
        format!("'{shown}' is not a volume's name"),
        "use 1 to 63 of a-z, 0-9 and '-', as in data or web-data",
    );
    None
}

fn host_path(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<VolumeSource> {
    let mut fields = d.mapping(node, path)?;
    let host = fields
        .require(d, path, "path", "name the path on the device, as in /srv")
        .and_then(|node| absolute_path(d, node, &path.field("path")));
    let kind = match fields.take("type") {
        Some(node) => host_path_type(d, node, &path.field("type")),
        None => Some(HostPathKind::Any),
    };
    fields.finish(d, path, Place::VolumeSource);
    Some(VolumeSource::HostPath {
        path: host?,
        kind: kind?,
    })
}

/// Kubernetes' names of what a host path has to be.
pub(super) const HOST_PATH_KINDS: [(&str, HostPathKind); 8] = [
    ("", HostPathKind::Any),
    ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
    ("Directory", HostPathKind::Directory),
    ("FileOrCreate", HostPathKind::FileOrCreate),
    ("File", HostPathKind::File),
    ("Socket", HostPathKind::Socket),
    ("CharDevice", HostPathKind::CharDevice),
    ("BlockDevice", HostPathKind::BlockDevice),
];

fn host_path_type(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<HostPathKind> {
    let text = d.text(node, path)?;
    match HOST_PATH_KINDS.iter().find(|(name, _)| *name == text) {
        Some((_, kind)) => Some(*kind),
        None => {
            let shown: String = text.chars().take(80).collect();
            d.error(
                node.at,
                path,
                format!("'{shown}' is not supported"),
                "write DirectoryOrCreate, Directory, FileOrCreate, File, Socket, CharDevice or BlockDevice, or remove it: then what is there is mounted",
            );
            None
        }
    }
}

fn claim(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<VolumeSource> {
    let mut fields = d.mapping(node, path)?;
    let remedy = "name the volume that the device keeps, as in claimName: data";
    let claim = fields
        .require(d, path, "claimName", remedy)
        .and_then(|node| volume_name(d, node, &path.field("claimName")));
    let before = d.count();
    let size_limit_bytes = size_limit(d, &mut fields, path);
    fields.finish(d, path, Place::VolumeSource);
    let claim = claim?;
    (d.count() == before).then_some(VolumeSource::Named {
        claim,
        size_limit_bytes,
    })
}

fn empty_dir(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<VolumeSource> {
    let mut fields = d.mapping(node, path)?;
    let before = d.count();
    let mut memory = false;
    if let Some(node) = fields.take("medium") {
        let path = path.field("medium");
        match d.text(node, &path).as_deref() {
            Some("Memory") => memory = true,
            Some("") | None => {}
            Some(_) => d.error(
                node.at,
                &path,
                "is no medium here",
                "write Memory, or remove it: then it is on the device's disk",
            ),
        }
    }
    let size_limit_bytes = size_limit(d, &mut fields, path);
    fields.finish(d, path, Place::VolumeSource);
    (d.count() == before).then_some(VolumeSource::EmptyDir {
        memory,
        size_limit_bytes,
    })
}

/// `sizeLimit`, Kubernetes' of an emptyDir, and ours of a claim, which there
/// has an object of its own to say it.
fn size_limit(
    d: &mut Decoder<'_>,
    fields: &mut super::decode::Fields<'_>,
    path: &Path<'_>,
) -> Option<u64> {
    let node = fields.take("sizeLimit")?;
    resources::quantity_of(d, node, &path.field("sizeLimit"), quantity::volume_bytes)
}

/// An absolute path, in its shortest form: no `..`, `.`, `//` or trailing `/`.
pub(super) fn absolute_path(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    let shown: String = text.chars().take(80).collect();
    if text.len() > MAX_PATH_BYTES {
        let message = format!("the path has more than {MAX_PATH_BYTES} bytes");
        d.error(node.at, path, message, "shorten it");
        return None;
    }
    let Some(relative) = text.strip_prefix('/') else {
        d.error(
            node.at,
            path,
            format!("'{shown}' is not an absolute path"),
            "start it with '/'",
        );
        return None;
    };
    let parts: Vec<&str> = relative
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if parts.contains(&"..") {
        d.error(
            node.at,
            path,
            format!("'{shown}' has '..' in it"),
            "write the path without it",
        );
        return None;
    }
    Some(format!("/{}", parts.join("/")))
}

/// RFC 1123: what a directory and a host may be called.
fn is_dns_label(text: &str) -> bool {
    skerry_wire::AppName::new(text).is_ok()
}
