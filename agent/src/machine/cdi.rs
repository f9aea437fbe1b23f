//! Devices that files describe: the Container Device Interface, 0.6 to 1.0.
//! A vendor's tool writes a file (`/etc/cdi/nvidia.yaml`), and `vendor.com/gpu=0`
//! then stands for the nodes, mounts and variables that a container needs.
//!
//! Hooks are programs that would run as root on the host at each start of a
//! container: they are refused.

use crate::runtime::{Device, Mount};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the files are looked for; later ones go before earlier ones.
pub const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Longest file, in bytes: a GPU's has some 30 KiB.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most files that are read of one directory.
const MAX_FILES: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    kind: String,
    #[serde(default)]
    devices: Vec<Named>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    name: String,
    #[serde(default)]
    container_edits: Edits,
}

/// What a device makes of a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<FileMount>,
    additional_gids: Vec<u32>,
    hooks: Vec<IgnoredAny>,
    intel_rdt: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct DeviceNode {
    path: String,
    host_path: Option<String>,
    permissions: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FileMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
}

/// What a container is given for a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given {
    /// Nodes.
    pub devices: Vec<Device>,
    /// Files and directories.
    pub mounts: Vec<Mount>,
    /// Variables.
    pub env: Vec<(String, String)>,
    /// Groups of every process.
    pub groups: Vec<u32>,
}

impl Given {
    /// With what another device brings.
    pub fn add(&mut self, other: Given) {
        self.devices.extend(other.devices);
        self.mounts.extend(other.mounts);
        self.env.extend(other.env);
        self.groups.extend(other.groups);
    }
}

/// All files' devices by their full name, or why a name cannot be used.
#[derive(Debug, Default)]
pub struct Registry {
    devices: BTreeMap<String, Result<Given, String>>,
    /// Files that cannot be read, and why.
    broken: Vec<String>,
    dirs: String,
}

impl Registry {
    /// Reads all files. Blocks.
    pub fn read(dirs: &[PathBuf]) -> Self {
        let names: Vec<String> = dirs.iter().map(|dir| dir.display().to_string()).collect();
        let mut registry = Registry {
            dirs: names.join(", "),
            ..Registry::default()
        };
        for dir in dirs {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.retain(|path| {
                let end = path.extension().and_then(|end| end.to_str());
                matches!(end, Some("json" | "yaml" | "yml"))
            });
            files.sort();
            for file in files.iter().take(MAX_FILES) {
                if let Err(why) = registry.add(file) {
                    registry.broken.push(format!("{}: {why}", file.display()));
                }
            }
        }
        registry
    }

    fn add(&mut self, file: &Path) -> Result<(), String> {
        let mut text = String::new();
        let opened = fs::File::open(file).map_err(|error| error.to_string())?;
        let mut limited = opened.take(MAX_FILE_BYTES);
        let read = limited.read_to_string(&mut text);
        read.map_err(|error| error.to_string())?;
        // By way of a tree: else the program holds the YAML reader once more for
        // each of the structs below.
        let tree: serde_json::Value =
            serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
        let document = Document::deserialize(tree).map_err(|error| error.to_string())?;
        if !document.kind.contains('/') {
            return Err(format!("its kind '{}' is not vendor/class", document.kind));
        }
        for device in &document.devices {
            let name = format!("{}={}", document.kind, device.name);
            let given = given(&document.container_edits)
                .and_then(|all| {
                    let mut all = all;
                    all.add(given(&device.container_edits)?);
                    Ok(all)
                })
                .map_err(|what| {
                    format!(
                        "the CDI device {name} wants {what}, which is not run here: take it out of {}",
                        file.display()
                    )
                });
            self.devices.insert(name, given);
        }
        Ok(())
    }

    /// What a device makes of a container, or why it cannot be used.
    pub fn device(&self, name: &str) -> Result<&Given, String> {
        match self.devices.get(name) {
            Some(Ok(given)) => Ok(given),
            Some(Err(why)) => Err(why.clone()),
            None => {
                let broken = match self.broken.first() {
                    Some(why) => format!("; {why}"),
                    None => String::new(),
                };
                Err(format!(
                    "no CDI file of this device ({}) names {name}{broken}",
                    self.dirs
                ))
            }
        }
    }

    /// Devices by kind: those that can be counted, so not the one that stands
    /// for all of them.
    pub fn kinds(&self) -> BTreeMap<String, Vec<String>> {
        let mut kinds: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for full in self.devices.keys() {
            if let Some((kind, name)) = full.split_once('=')
                && name != "all"
            {
                kinds.entry(kind.to_owned()).or_default().push(full.clone());
            }
        }
        kinds
    }
}

/// The edits as we make them; the error is what we do not.
fn given(edits: &Edits) -> Result<Given, &'static str> {
    if !edits.hooks.is_empty() {
        return Err("hooks");
    }
    if edits.intel_rdt.is_some() {
        return Err("intelRdt");
    }
    let devices = edits.device_nodes.iter().map(|node| Device {
        source: PathBuf::from(node.host_path.as_ref().unwrap_or(&node.path)),
        target: node.path.clone(),
        read_only: node.permissions.as_ref().is_some_and(|p| !p.contains('w')),
    });
    let mounts = edits.mounts.iter().map(|mount| Mount {
        source: PathBuf::from(&mount.host_path),
        target: mount.container_path.clone(),
        read_only: mount.options.iter().any(|option| option == "ro"),
        sub_path: None,
    });
    let env = edits.env.iter().filter_map(|line| line.split_once('='));
    Ok(Given {
        devices: devices.collect(),
        mounts: mounts.collect(),
        env: env.map(|(a, b)| (a.to_owned(), b.to_owned())).collect(),
        groups: edits.additional_gids.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = r#"
cdiVersion: "0.6.0"
kind: vendor.com/gpu
containerEdits:
  env: ["VENDOR=all of them"]
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/gpu
      hostPath: /dev/gpu0
      permissions: rw
    mounts:
    - hostPath: /usr/lib/gpu.so
      containerPath: /lib/gpu.so
      options: [ro, nosuid]
    additionalGids: [44]
- name: all
  containerEdits: {}
"#;
    const JSON: &str = r#"{"cdiVersion": "1.0.0", "kind": "other.org/net",
        "devices": [{"name": "a", "containerEdits": {"hooks": [
            {"hookName": "createContainer", "path": "/bin/x"}]}}]}"#;

    #[test]
    fn files_of_both_forms_are_read_and_hooks_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("gpu.yaml"), YAML).unwrap();
        fs::write(dir.path().join("net.json"), JSON).unwrap();
        fs::write(dir.path().join("bad.json"), "{").unwrap();
        fs::write(dir.path().join("notes.txt"), "not one of them").unwrap();
        let registry = Registry::read(&[dir.path().to_owned(), "/nonexistent".into()]);
        let gpu = registry.device("vendor.com/gpu=0").unwrap();
        assert_eq!(
            gpu.devices,
            [Device {
                source: "/dev/gpu0".into(),
                target: "/dev/gpu".into(),
                read_only: false
            }]
        );
        assert!(gpu.mounts[0].read_only);
        assert_eq!(gpu.env, [("VENDOR".into(), "all of them".into())]);
        assert_eq!(gpu.groups, [44]);
        let hooks = registry.device("other.org/net=a").unwrap_err();
        assert!(hooks.contains("wants hooks"), "{hooks}");
        let missing = registry.device("vendor.com/gpu=7").unwrap_err();
        assert!(missing.contains("bad.json"), "{missing}");
        assert_eq!(registry.kinds()["vendor.com/gpu"], ["vendor.com/gpu=0"]);
    }

    #[test]
    fn a_later_directory_goes_first() {
        let (etc, run) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(etc.path().join("a.yaml"), YAML).unwrap();
        let other = YAML.replace("/dev/gpu0", "/dev/gpu9");
        fs::write(run.path().join("a.yaml"), other).unwrap();
        let registry = Registry::read(&[etc.path().to_owned(), run.path().to_owned()]);
        let gpu = registry.device("vendor.com/gpu=0").unwrap();
        assert_eq!(gpu.devices[0].source, Path::new("/dev/gpu9"));
    }
}
