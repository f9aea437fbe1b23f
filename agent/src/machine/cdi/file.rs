//! One file of the Container Device Interface: its form, its rules, and what it
//! makes of a container. Source: CDI specification 1.1.0.

use super::Given;
use crate::runtime::{Access, Device, Hook, HookStage, MAX_HOOK_SECS, Mount, Owner};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Releases of the specification, oldest first.
const VERSIONS: [&str; 10] = [
    "0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];
/// Longest part of a name: a label of DNS.
const MAX_LABEL: usize = 63;
/// Longest vendor: a name of DNS.
const MAX_VENDOR: usize = 253;
/// Permissions of a node that the file may set.
const MODE: u32 = 0o777;
/// Options of a mount that ask for what every mount of ours is.
const USUAL_OPTIONS: [&str; 9] = [
    "rw", "bind", "rbind", "private", "rprivate", "nosuid", "nodev", "exec", "relatime",
];

/// A whole file. What it has that is not known here makes it unusable: a device
/// without a part of it might work in the wrong way.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    cdi_version: String,
    /// `vendor.com/class`.
    pub kind: String,
    annotations: Option<IgnoredAny>,
    /// What can be asked for.
    #[serde(default, deserialize_with = "or_default")]
    pub devices: Vec<Named>,
    /// What comes with any of them.
    #[serde(default, deserialize_with = "or_default")]
    pub container_edits: Edits,
}

/// One device of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Named {
    /// Its name after `vendor.com/class=`.
    pub name: String,
    annotations: Option<IgnoredAny>,
    /// What comes with it.
    #[serde(default, deserialize_with = "or_default")]
    pub container_edits: Edits,
}

/// What a device makes of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Edits {
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    device_nodes: Vec<DeviceNode>,
    #[serde(deserialize_with = "or_default")]
    mounts: Vec<FileMount>,
    #[serde(deserialize_with = "or_default")]
    hooks: Vec<FileHook>,
    #[serde(deserialize_with = "or_default")]
    additional_gids: Vec<u32>,
    intel_rdt: Option<IgnoredAny>,
    #[serde(deserialize_with = "or_default")]
    net_devices: Vec<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeviceNode {
    path: String,
    host_path: Option<String>,
    /// The host's node says which device it is: these numbers may be those of
    /// an earlier boot.
    r#type: Option<String>,
    #[serde(rename = "major")]
    _major: Option<i64>,
    #[serde(rename = "minor")]
    _minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileMount {
    host_path: String,
    container_path: String,
    r#type: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileHook {
    hook_name: String,
    path: String,
    #[serde(default, deserialize_with = "or_default")]
    args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Tools write `null` where there is nothing.
fn or_default<'de, D, T>(from: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

impl Document {
    /// Fails with the first rule that the file breaks.
    pub fn check(&self) -> Result<(), String> {
        self.check_version()?;
        let Some((vendor, class)) = self.kind.split_once('/') else {
            return Err(format!("its kind '{}' is not vendor/class", self.kind));
        };
        let good_vendor = vendor.len() <= MAX_VENDOR && vendor.split('.').all(is_label);
        if !good_vendor || !is_label(class) {
            return Err(format!(
                "its kind '{}' is not vendor/class of letters, digits, '-', '_' and '.'",
                self.kind
            ));
        }
        if self.devices.is_empty() {
            return Err("it has no devices".into());
        }
        let mut seen = BTreeSet::new();
        for device in &self.devices {
            if !is_label(&device.name) {
                return Err(format!(
                    "its device '{}' is not named by letters, digits, '-', '_', '.' and ':'",
                    device.name
                ));
            }
            if !seen.insert(&device.name) {
                return Err(format!("it names the device '{}' twice", device.name));
            }
        }
        for edits in self.all_edits() {
            edits.check()?;
        }
        Ok(())
    }

    fn all_edits(&self) -> impl Iterator<Item = &Edits> {
        let devices = self.devices.iter().map(|device| &device.container_edits);
        std::iter::once(&self.container_edits).chain(devices)
    }

    /// A file may use only what its own release had.
    fn check_version(&self) -> Result<(), String> {
        let version = &self.cdi_version;
        let plain = version.strip_prefix('v').unwrap_or(version);
        let Some(said) = VERSIONS.iter().position(|known| *known == plain) else {
            return Err(format!(
                "its cdiVersion '{version}' is not known here, which knows 0.3.0 to 1.1.0: write it with a tool of another release"
            ));
        };
        let (needed, what) = self.needs();
        let index = VERSIONS.iter().position(|known| *known == needed);
        match index > Some(said) {
            true => Err(format!(
                "its cdiVersion {version} is older than {what}: set it to {needed}"
            )),
            false => Ok(()),
        }
    }

    /// The oldest release that has all of what the file uses, and what of that
    /// is the newest.
    fn needs(&self) -> (&'static str, &'static str) {
        let edits = |has: fn(&Edits) -> bool| self.all_edits().any(has);
        let nodes = |has: fn(&DeviceNode) -> bool| {
            self.all_edits()
                .any(|edits| edits.device_nodes.iter().any(has))
        };
        let digit = |name: &str| name.starts_with(|c: char| c.is_ascii_digit());
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let notes = self.annotations.is_some()
            || self
                .devices
                .iter()
                .any(|device| device.annotations.is_some());
        if edits(|edits| !edits.net_devices.is_empty()) {
            ("1.1.0", "netDevices")
        } else if edits(|edits| edits.intel_rdt.is_some()) {
            ("0.7.0", "intelRdt")
        } else if edits(|edits| !edits.additional_gids.is_empty()) {
            ("0.7.0", "additionalGids")
        } else if notes {
            ("0.6.0", "annotations")
        } else if class.contains('.') {
            ("0.6.0", "a class with a dot")
        } else if nodes(|node| node.host_path.is_some()) {
            ("0.5.0", "hostPath of a device node")
        } else if self.devices.iter().any(|device| digit(&device.name)) {
            ("0.5.0", "a device name that begins with a digit")
        } else if self
            .all_edits()
            .any(|edits| edits.mounts.iter().any(|mount| mount.r#type.is_some()))
        {
            ("0.4.0", "type of a mount")
        } else {
            ("0.1.0", "")
        }
    }
}

/// Letters and digits with '-', '_', '.' and ':' among them.
fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"-_.:".contains(&b);
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    text.len() <= MAX_LABEL
        && bytes.iter().copied().all(inside)
        && ends
            .iter()
            .all(|end| end.is_some_and(u8::is_ascii_alphanumeric))
}

fn is_variable(text: &str) -> bool {
    text.split_once('=')
        .is_some_and(|(name, _)| !name.is_empty())
}

fn is_plain_path(text: &str) -> bool {
    let up = |part: std::path::Component<'_>| part == std::path::Component::ParentDir;
    Path::new(text).is_absolute() && !Path::new(text).components().any(up)
}

impl Edits {
    fn check(&self) -> Result<(), String> {
        let mut variables = self.env.iter();
        if let Some(bad) = variables.find(|line| !is_variable(line)) {
            return Err(format!("its env '{bad}' is not NAME=value"));
        }
        self.device_nodes.iter().try_for_each(DeviceNode::check)?;
        self.mounts.iter().try_for_each(FileMount::check)?;
        self.hooks.iter().try_for_each(FileHook::check)
    }

    /// The edits as we make them; the error is what we do not, and what to do.
    pub fn given(&self, file: &Path) -> Result<Given, String> {
        if self.intel_rdt.is_some() {
            return Err("wants intelRdt, which no container has here: take it out of".into());
        }
        if !self.net_devices.is_empty() {
            return Err(
                "wants netDevices: an app reaches the device's interfaces with 'network: host'; take them out of"
                    .into(),
            );
        }
        let env = self.env.iter().filter_map(|line| line.split_once('='));
        let mut given = Given {
            env: env.map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
            // Root's group is none that is given by the way.
            groups: self
                .additional_gids
                .iter()
                .copied()
                .filter(|gid| *gid > 0)
                .collect(),
            hooks: self.hooks.iter().map(|hook| hook.hook(file)).collect(),
            ..Given::default()
        };
        for node in &self.device_nodes {
            given.put_device(node.device());
        }
        for mount in &self.mounts {
            given.put_mount(mount.mount());
        }
        Ok(given)
    }
}

impl DeviceNode {
    fn check(&self) -> Result<(), String> {
        let path = &self.path;
        let mut paths = [Some(path), self.host_path.as_ref()].into_iter().flatten();
        if let Some(bad) = paths.find(|path| !is_plain_path(path)) {
            return Err(format!(
                "its device node '{bad}' is not an absolute path without '..'"
            ));
        }
        if let Some(kind @ ("p" | "u")) = self.r#type.as_deref() {
            return Err(format!(
                "its device node '{path}' is of type '{kind}', and only 'c' and 'b' are devices: write a mount"
            ));
        }
        if let Some(kind) = &self.r#type
            && !["", "b", "c"].contains(&kind.as_str())
        {
            return Err(format!(
                "the type '{kind}' of its device node '{path}' is none"
            ));
        }
        let permissions = self.permissions.as_deref().unwrap_or_default();
        if permissions != "none" && permissions.bytes().any(|b| !b"rwm".contains(&b)) {
            return Err(format!(
                "the permissions '{permissions}' of its device node '{path}' are not some of r, w and m"
            ));
        }
        Ok(())
    }

    fn device(&self) -> Device {
        let allowed = match self.permissions.as_deref() {
            None | Some("") => "rwm",
            Some("none") => "",
            Some(some) => some,
        };
        Device {
            source: PathBuf::from(self.host_path.as_ref().unwrap_or(&self.path)),
            target: self.path.clone(),
            access: Access::of(allowed.contains('r'), allowed.contains('w')),
            mode: self.file_mode.map(|mode| mode & MODE),
            owner: Owner::Said {
                uid: self.uid,
                gid: self.gid,
            },
        }
    }
}

impl FileMount {
    fn check(&self) -> Result<(), String> {
        let target = &self.container_path;
        let mut paths = [&self.host_path, target].into_iter();
        if let Some(bad) = paths.find(|path| !is_plain_path(path)) {
            return Err(format!(
                "its mount '{bad}' is not an absolute path without '..'"
            ));
        }
        let kind = self.r#type.as_deref().unwrap_or_default();
        if !["", "none", "bind"].contains(&kind) {
            return Err(format!(
                "its mount at '{target}' is of type '{kind}', and only files and directories of the device are mounted: take it out"
            ));
        }
        let known = |option: &str| ["ro", "noexec"].contains(&option);
        let mut options = self.options.iter();
        let bad = options.find(|one| !known(one) && !USUAL_OPTIONS.contains(&one.as_str()));
        match bad {
            Some(bad) => Err(format!(
                "the option '{bad}' of its mount at '{target}' is not possible here: take it out"
            )),
            None => Ok(()),
        }
    }

    fn mount(&self) -> Mount {
        let has = |name: &str| self.options.iter().any(|option| option == name);
        Mount {
            read_only: has("ro"),
            no_exec: has("noexec"),
            ..Mount::new(&self.host_path, &self.container_path)
        }
    }
}

impl FileHook {
    fn stage(&self) -> Option<HookStage> {
        let mut all = HookStage::ALL.into_iter();
        all.find(|stage| stage.name() == self.hook_name)
    }

    fn check(&self) -> Result<(), String> {
        let path = &self.path;
        if self.stage().is_none() {
            let known = HookStage::ALL.map(HookStage::name).join(", ");
            return Err(format!(
                "the hookName '{}' of its hook '{path}' is none of {known}",
                self.hook_name
            ));
        }
        if !is_plain_path(path) {
            return Err(format!(
                "its hook '{path}' is not an absolute path without '..'"
            ));
        }
        if let Some(bad) = self.env.iter().find(|line| !is_variable(line)) {
            return Err(format!(
                "the env '{bad}' of its hook '{path}' is not NAME=value"
            ));
        }
        match self.timeout {
            Some(secs) if !(1..=i64::from(MAX_HOOK_SECS)).contains(&secs) => Err(format!(
                "the timeout {secs} of its hook '{path}' is not from 1 to {MAX_HOOK_SECS} seconds"
            )),
            _ => Ok(()),
        }
    }

    fn hook(&self, file: &Path) -> Hook {
        Hook {
            // `check` has found it.
            stage: self.stage().unwrap_or(HookStage::CreateContainer),
            path: PathBuf::from(&self.path),
            args: self.args.clone(),
            env: self.env.clone(),
            timeout_secs: self.timeout.and_then(|secs| u32::try_from(secs).ok()),
            file: file.to_owned(),
        }
    }
}
