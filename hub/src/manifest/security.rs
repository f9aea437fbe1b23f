//! What a container may do and whom it runs as: both `securityContext`s and
//! the host's namespaces. What needs the device's own permission is asked
//! there, when the container is made.

use super::decode::{Decoder, Fields, Path};
use super::scalar::{Meaning, meaning};
use super::tree::{Node, Value};
use super::unsupported::Place;
use super::write::Fields as Written;
use super::yaml::Out;
use skerry_wire::pod::{FsGroupChange, Profile, Security, Sysctl};
use skerry_wire::{CAPABILITIES, ContainerSpec, PodSpec};

/// Longest name of a user or group (useradd(8)).
const MAX_USER_NAME_BYTES: usize = 32;
/// The largest user or group number; the next one means "none" to Linux.
const MAX_ID: u64 = u32::MAX as u64 - 1;
/// Supplementary groups of a pod, as on the device.
const MAX_GROUPS: usize = 64;
/// Kernel settings of a pod, as on the device.
const MAX_SYSCTLS: usize = 64;
/// Longest name of a profile or a kernel setting, in bytes.
const MAX_NAME_BYTES: usize = 253;
/// Longest value of a kernel setting, in bytes, as on the device.
const MAX_SYSCTL_BYTES: usize = 1024;

/// The pod's `securityContext`: what its containers have unless they say
/// otherwise, and what all of them share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PodSecurity {
    user: User,
    seccomp: Option<Profile>,
    app_armor: Option<Profile>,
    /// See [`PodSpec::fs_group`].
    pub fs_group: Option<u32>,
    /// See [`PodSpec::fs_group_change`].
    pub fs_group_change: FsGroupChange,
    /// See [`PodSpec::supplemental_groups`].
    pub supplemental_groups: Vec<u32>,
    /// See [`PodSpec::sysctls`].
    pub sysctls: Vec<Sysctl>,
}

/// Whom a container runs as, from either `securityContext`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct User {
    user: Option<String>,
    group: Option<String>,
    non_root: Option<bool>,
}

/// A container's `securityContext`, with what it has from the pod's.
pub(super) struct ContainerSecurity {
    /// See [`ContainerSpec::user`].
    pub user: Option<String>,
    /// See [`ContainerSpec::read_only_root`].
    pub read_only_root: bool,
    /// See [`ContainerSpec::security`].
    pub security: Security,
}

/// Namespaces that a pod has with the host, or its containers with each other.
pub(super) struct Shared {
    /// See [`PodSpec::host_ipc`].
    pub host_ipc: bool,
    /// See [`PodSpec::host_pid`].
    pub host_pid: bool,
    /// See [`PodSpec::share_process_namespace`].
    pub share_process_namespace: bool,
    /// See [`PodSpec::user_namespace`].
    pub user_namespace: bool,
}

/// `hostIPC`, `hostPID`, `shareProcessNamespace` and `hostUsers`.
pub(super) fn sharing(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> Shared {
    let pid = fields.take("hostPID");
    let share = fields.take("shareProcessNamespace");
    let mut flag = |name, node: Option<&Node>| {
        let node = node?;
        d.boolean(node, &path.field(name))
    };
    let host_pid = flag("hostPID", pid).unwrap_or(false);
    let share_process_namespace = flag("shareProcessNamespace", share).unwrap_or(false);
    let host_ipc = flag("hostIPC", fields.take("hostIPC")).unwrap_or(false);
    let host_users = flag("hostUsers", fields.take("hostUsers")).unwrap_or(true);
    if let Some(node) = share
        && host_pid
        && share_process_namespace
    {
        d.error(
            node.at,
            &path.field("shareProcessNamespace"),
            "cannot be with hostPID, which shows the processes of the whole host",
            "remove one of the two",
        );
    }
    Shared {
        host_ipc,
        host_pid,
        share_process_namespace,
        user_namespace: !host_users,
    }
}

/// The pod's `securityContext`.
pub(super) fn pod(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> PodSecurity {
    let Some(mut fields) = d.mapping(node, path) else {
        return PodSecurity::default();
    };
    let security = PodSecurity {
        user: user(d, &mut fields, path),
        seccomp: profile(d, &mut fields, path, "seccompProfile"),
        app_armor: profile(d, &mut fields, path, "appArmorProfile"),
        fs_group: fields
            .take("fsGroup")
            .and_then(|node| group(d, node, &path.field("fsGroup"))),
        fs_group_change: fields
            .take("fsGroupChangePolicy")
            .and_then(|node| group_change(d, node, &path.field("fsGroupChangePolicy")))
            .unwrap_or_default(),
        supplemental_groups: groups(d, &mut fields, path),
        sysctls: sysctls(d, &mut fields, path),
    };
    fields.finish(d, path, Place::PodSecurity);
    security
}

fn group(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<u32> {
    d.integer(node, path, 0..=MAX_ID).map(|id| id as u32)
}

fn group_change(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<FsGroupChange> {
    match d.text(node, path)?.as_str() {
        "Always" => Some(FsGroupChange::Always),
        "OnRootMismatch" => Some(FsGroupChange::OnRootMismatch),
        other => {
            let shown: String = other.chars().take(80).collect();
            let message = format!("there is no policy '{shown}'");
            d.error(node.at, path, message, "write Always or OnRootMismatch");
            None
        }
    }
}

fn groups(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> Vec<u32> {
    let Some(node) = fields.take("supplementalGroups") else {
        return Vec::new();
    };
    let path = path.field("supplementalGroups");
    let items = d.bounded_sequence(node, &path, MAX_GROUPS).unwrap_or(&[]);
    let each = items.iter().enumerate();
    each.filter_map(|(index, item)| group(d, item, &path.index(index)))
        .collect()
}

fn sysctls(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> Vec<Sysctl> {
    let Some(node) = fields.take("sysctls") else {
        return Vec::new();
    };
    let path = path.field("sysctls");
    let items = d.bounded_sequence(node, &path, MAX_SYSCTLS).unwrap_or(&[]);
    let mut all: Vec<Sysctl> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(mut fields) = d.mapping(item, &path) else {
            continue;
        };
        let remedy = "name the setting, as in net.core.somaxconn";
        let name = fields
            .require(d, &path, "name", remedy)
            .and_then(|node| plain(d, node, &path.field("name"), MAX_NAME_BYTES));
        let value = fields
            .require(d, &path, "value", "write its value as text, as in \"1024\"")
            .and_then(|node| plain(d, node, &path.field("value"), MAX_SYSCTL_BYTES));
        fields.finish(d, &path, Place::Other);
        let (Some(name), Some(value)) = (name, value) else {
            continue;
        };
        if all.iter().any(|other| other.name == name) {
            d.error(
                item.at,
                &path.field("name"),
                format!("'{name}' is set twice"),
                "remove one of them",
            );
        }
        all.push(Sysctl { name, value });
    }
    all
}

/// A text that is not empty, and no longer than that.
fn plain(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, max_bytes: usize) -> Option<String> {
    let text = d.text(node, path)?;
    if !text.is_empty() && text.len() <= max_bytes {
        return Some(text);
    }
    let message = format!("must have 1 to {max_bytes} bytes");
    d.error(node.at, path, message, "shorten it, or remove it");
    None
}

/// `seccompProfile` or `appArmorProfile`.
fn profile(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
    name: &'static str,
) -> Option<Profile> {
    let node = fields.take(name)?;
    let path = path.field(name);
    let mut fields = d.mapping(node, &path)?;
    let remedy = "write type: RuntimeDefault, Unconfined or Localhost";
    let kind = fields
        .require(d, &path, "type", remedy)
        .and_then(|node| Some((node, d.text(node, &path.field("type"))?)));
    let local = fields.take("localhostProfile");
    let local_name =
        local.and_then(|node| plain(d, node, &path.field("localhostProfile"), MAX_NAME_BYTES));
    fields.finish(d, &path, Place::Profile);
    let (type_node, kind) = kind?;
    match (kind.as_str(), local) {
        ("RuntimeDefault", None) => Some(Profile::RuntimeDefault),
        ("Unconfined", None) => Some(Profile::Unconfined),
        ("RuntimeDefault" | "Unconfined", Some(node)) => {
            d.error(
                node.at,
                &path.field("localhostProfile"),
                format!("has no meaning with type: {kind}"),
                "remove it, or write type: Localhost",
            );
            None
        }
        ("Localhost", None) => {
            let remedy = "write localhostProfile, the name of a profile that the device has";
            d.error(type_node.at, &path.field("type"), "needs a name", remedy);
            None
        }
        ("Localhost", Some(_)) if name == "seccompProfile" => {
            d.error(
                type_node.at,
                &path.field("type"),
                "Localhost is for AppArmor: devices have no seccomp profiles of their own",
                "write type: RuntimeDefault, which is Docker's",
            );
            None
        }
        ("Localhost", Some(_)) => local_name.map(Profile::Localhost),
        _ => {
            let shown: String = kind.chars().take(80).collect();
            let message = format!("there is no type '{shown}'");
            d.error(type_node.at, &path.field("type"), message, remedy);
            None
        }
    }
}

/// A container's `securityContext`, and what it has from the pod's.
pub(super) fn container(
    d: &mut Decoder<'_>,
    node: Option<&Node>,
    container: &Node,
    path: &Path<'_>,
    pod: &PodSecurity,
) -> ContainerSecurity {
    let mut own = User::default();
    let mut read_only_root = false;
    let mut security = Security {
        seccomp: pod.seccomp.clone().unwrap_or_default(),
        app_armor: pod.app_armor.clone().unwrap_or_default(),
        ..Security::default()
    };
    if let Some(node) = node
        && let Some(mut fields) = d.mapping(node, path)
    {
        own = user(d, &mut fields, path);
        let mut flag = |d: &mut Decoder<'_>, name| {
            let node = fields.take(name)?;
            d.boolean(node, &path.field(name))
        };
        read_only_root = flag(d, "readOnlyRootFilesystem").unwrap_or(false);
        security.privileged = flag(d, "privileged").unwrap_or(false);
        // A privileged container keeps what it has, as in Kubernetes.
        security.allow_privilege_escalation =
            flag(d, "allowPrivilegeEscalation").unwrap_or(security.privileged);
        if let Some(profile) = profile(d, &mut fields, path, "seccompProfile") {
            security.seccomp = profile;
        }
        if let Some(profile) = profile(d, &mut fields, path, "appArmorProfile") {
            security.app_armor = profile;
        }
        if let Some(node) = fields.take("capabilities") {
            capabilities(d, node, &path.field("capabilities"), &mut security);
        }
        if let Some(node) = fields.take("procMount") {
            security.unmasked_proc = unmasked(d, node, &path.field("procMount"));
        }
        fields.finish(d, path, Place::ContainerSecurity);
    }
    let at = node.map_or(container.at, |n| n.at);
    security.run_as_non_root = own.non_root.or(pod.user.non_root).unwrap_or(false);
    let user = own.user.or_else(|| pod.user.user.clone());
    let group = own.group.or_else(|| pod.user.group.clone());
    let is_root = |user: &str| user == "root" || user.parse() == Ok(0u32);
    if security.run_as_non_root && user.as_deref().is_some_and(is_root) {
        d.error(
            at,
            &path.field("runAsNonRoot"),
            "does not hold: runAsUser is root",
            "write runAsUser with a number above 0, or leave it to the image",
        );
    }
    let user = match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (user, None) => user,
        (None, Some(_)) => {
            d.error(
                at,
                &path.field("runAsGroup"),
                "needs runAsUser beside it",
                "write runAsUser as well",
            );
            None
        }
    };
    ContainerSecurity {
        user,
        read_only_root,
        security,
    }
}

fn capabilities(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, security: &mut Security) {
    let Some(mut fields) = d.mapping(node, path) else {
        return;
    };
    let mut list = |d: &mut Decoder<'_>, name| match fields.take(name) {
        Some(node) => capability_names(d, node, &path.field(name)),
        None => Vec::new(),
    };
    security.capabilities_add = list(d, "add");
    security.capabilities_drop = list(d, "drop");
    fields.finish(d, path, Place::Capabilities);
}

/// Names as Kubernetes writes them, without `CAP_`; sorted, each once.
fn capability_names(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<String> {
    let items = d.bounded_sequence(node, path, CAPABILITIES.len() + 1);
    let mut names = Vec::new();
    for (index, item) in items.unwrap_or(&[]).iter().enumerate() {
        let path = path.index(index);
        let Some(text) = d.text(item, &path) else {
            continue;
        };
        let name = text.strip_prefix("CAP_").unwrap_or(&text);
        if name == "ALL" || CAPABILITIES.contains(&name) {
            names.push(name.to_owned());
            continue;
        }
        let shown: String = text.chars().take(80).collect();
        let capital = shown.to_ascii_uppercase();
        let capital = capital.strip_prefix("CAP_").unwrap_or(&capital);
        let remedy = match super::decode::closest(capital, &CAPABILITIES) {
            Some(known) => format!("did you mean {known}?"),
            None => "write a name of capabilities(7), as in NET_ADMIN, or ALL".into(),
        };
        d.error(
            item.at,
            &path,
            format!("there is no capability '{shown}'"),
            remedy,
        );
    }
    names.sort();
    names.dedup();
    names
}

fn unmasked(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> bool {
    match d.text(node, path).as_deref() {
        Some("Unmasked") => true,
        Some("Default") | None => false,
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            let message = format!("there is no procMount '{shown}'");
            d.error(node.at, path, message, "write Default or Unmasked");
            false
        }
    }
}

/// `runAsUser`, `runAsGroup` and `runAsNonRoot` of either securityContext.
fn user(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> User {
    let mut id = |d: &mut Decoder<'_>, name| {
        let node = fields.take(name)?;
        user_or_group(d, node, &path.field(name))
    };
    User {
        user: id(d, "runAsUser"),
        group: id(d, "runAsGroup"),
        non_root: fields
            .take("runAsNonRoot")
            .and_then(|node| d.boolean(node, &path.field("runAsNonRoot"))),
    }
}

/// A number, as in Kubernetes, or a name of the image's own passwd or group
/// file.
fn user_or_group(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let Value::Scalar(scalar) = &node.value else {
        return d.integer(node, path, 0..=MAX_ID).map(|n| n.to_string());
    };
    let text = scalar.text.as_str();
    let starts_as_number = text.starts_with(|c: char| c.is_ascii_digit() || c == '-');
    if (scalar.plain && meaning(text) != Meaning::Text) || starts_as_number {
        return d.integer(node, path, 0..=MAX_ID).map(|n| n.to_string());
    }
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if !text.is_empty() && text.len() <= MAX_USER_NAME_BYTES && text.bytes().all(inner) {
        return Some(text.to_string());
    }
    let shown: String = text.chars().take(80).collect();
    d.error(
        node.at,
        path,
        format!("'{shown}' is neither a number nor a name"),
        "write a number, as in 1000, or a name that the image knows",
    );
    None
}

// --- writing

/// The pod's own part. What containers have from it is written in each.
pub(super) fn write_pod(pod: &PodSpec<String>, out: &mut Written) {
    out.flag("hostIPC", pod.host_ipc);
    out.flag("hostPID", pod.host_pid);
    out.flag("shareProcessNamespace", pod.share_process_namespace);
    if pod.user_namespace {
        out.bare("hostUsers", false);
    }
    let mut context = Written::default();
    context.some_bare("fsGroup", pod.fs_group);
    if pod.fs_group_change == FsGroupChange::OnRootMismatch {
        context.text("fsGroupChangePolicy", "OnRootMismatch");
    }
    let groups = pod.supplemental_groups.iter();
    context.list(
        "supplementalGroups",
        groups.map(|id| Out::Bare(id.to_string())),
    );
    let sysctls = pod.sysctls.iter().map(|sysctl| {
        let mut out = Written::default();
        out.text("name", sysctl.name.as_str());
        out.text("value", sysctl.value.as_str());
        out.done()
    });
    context.list("sysctls", sysctls);
    out.fields("securityContext", context);
}

/// A container's `securityContext`.
pub(super) fn write_container(container: &ContainerSpec<String>) -> Written {
    let security = &container.security;
    let mut out = Written::default();
    if let Some(user) = &container.user {
        let (user, group) = match user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (user.as_str(), None),
        };
        out.put("runAsUser", id(user));
        if let Some(group) = group {
            out.put("runAsGroup", id(group));
        }
    }
    out.flag("runAsNonRoot", security.run_as_non_root);
    out.flag("readOnlyRootFilesystem", container.read_only_root);
    out.flag("privileged", security.privileged);
    if security.allow_privilege_escalation != security.privileged {
        out.bare(
            "allowPrivilegeEscalation",
            security.allow_privilege_escalation,
        );
    }
    let mut capabilities = Written::default();
    let names = |names: &[String]| {
        let names = names.iter().map(|name| Out::Text(name.clone()));
        names.collect::<Vec<_>>().into_iter()
    };
    capabilities.list("add", names(&security.capabilities_add));
    capabilities.list("drop", names(&security.capabilities_drop));
    out.fields("capabilities", capabilities);
    out.fields("seccompProfile", write_profile(&security.seccomp));
    out.fields("appArmorProfile", write_profile(&security.app_armor));
    if security.unmasked_proc {
        out.text("procMount", "Unmasked");
    }
    out
}

fn write_profile(profile: &Profile) -> Written {
    let mut out = Written::default();
    match profile {
        Profile::RuntimeDefault => {}
        Profile::Unconfined => out.text("type", "Unconfined"),
        Profile::Localhost(name) => {
            out.text("type", "Localhost");
            out.text("localhostProfile", name.as_str());
        }
    }
    out
}

/// A number as a number, a name as text.
fn id(id: &str) -> Out {
    match id.parse::<u32>() {
        Ok(number) => Out::Bare(number.to_string()),
        Err(_) => Out::Text(id.into()),
    }
}
