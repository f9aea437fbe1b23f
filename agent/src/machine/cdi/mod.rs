//! Devices that files describe: the Container Device Interface, 0.3 to 1.1.
//! A vendor's tool writes a file (`/etc/cdi/nvidia.yaml`), and `vendor.com/gpu=0`
//! then stands for the nodes, mounts, variables and hooks that a container needs.
//!
//! Hooks are programs that run as root on the host at each start of a container.
//! Whoever may write such a file decides what they are: so nobody but root may.

mod file;

#[cfg(test)]
mod tests;

use crate::runtime::{Device, Hook, Mount, only_root_writes};
use file::Document;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where the files are looked for; later ones go before earlier ones.
pub const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Longest file, in bytes: a GPU's has some 30 KiB, a Jetson's 100.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Most files that are read of one directory.
const MAX_FILES: usize = 64;

/// What a container is given for its devices.
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
    /// Programs of the device that are run for it.
    pub hooks: Vec<Hook>,
}

impl Given {
    /// With what another device brings. What is at the same place inside is
    /// there once: devices of one vendor share their control nodes.
    pub fn add(&mut self, other: &Given) {
        for device in &other.devices {
            self.put_device(device.clone());
        }
        for mount in &other.mounts {
            self.put_mount(mount.clone());
        }
        self.env.extend(other.env.iter().cloned());
        self.groups.extend(&other.groups);
        self.hooks.extend(other.hooks.iter().cloned());
    }

    /// A node, in place of any other at its path.
    pub fn put_device(&mut self, device: Device) {
        self.devices.retain(|other| other.target != device.target);
        self.devices.push(device);
    }

    /// A mount, in place of any other at its path.
    pub fn put_mount(&mut self, mount: Mount) {
        self.mounts.retain(|other| other.target != mount.target);
        self.mounts.push(mount);
    }
}

/// What one device brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The file that describes it.
    pub file: PathBuf,
    /// What comes with any device of that file: once for all of them.
    pub common: Given,
    /// What comes with this one.
    pub own: Given,
}

impl Offer {
    /// The nodes on the host.
    pub fn nodes(&self) -> Vec<PathBuf> {
        let all = self.common.devices.iter().chain(&self.own.devices);
        all.map(|device| device.source.clone()).collect()
    }

    /// Adds it to what a container is given. `files` are those whose common part
    /// it has already.
    pub fn add_to(&self, given: &mut Given, files: &mut BTreeSet<PathBuf>) {
        if files.insert(self.file.clone()) {
            given.add(&self.common);
        }
        given.add(&self.own);
    }
}

/// A device that a file names.
#[derive(Debug)]
struct Entry {
    /// Its directory's place in the list.
    priority: usize,
    file: PathBuf,
    offer: Result<Offer, String>,
}

/// All files' devices by their full name, or why a name cannot be used.
#[derive(Debug, Default)]
pub struct Registry {
    devices: BTreeMap<String, Entry>,
    /// Files and directories that cannot be used, and why.
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
        for (priority, dir) in dirs.iter().enumerate() {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
            files.retain(|path| {
                let end = path.extension().and_then(|end| end.to_str());
                matches!(end, Some("json" | "yaml" | "yml"))
            });
            if files.is_empty() {
                continue;
            }
            if let Err(why) = only_root_writes(dir) {
                registry.broken.push(why);
                continue;
            }
            files.sort();
            for file in files.iter().take(MAX_FILES) {
                if let Err(why) = registry.add(file, priority) {
                    registry.broken.push(format!("{}: {why}", file.display()));
                }
            }
        }
        registry
    }

    fn add(&mut self, file: &Path, priority: usize) -> Result<(), String> {
        let document = read(file)?;
        document.check()?;
        for device in &document.devices {
            let name = format!("{}={}", document.kind, device.name);
            let common = document.container_edits.given(file);
            let offer = common
                .and_then(|common| {
                    Ok(Offer {
                        file: file.to_owned(),
                        common,
                        own: device.container_edits.given(file)?,
                    })
                })
                .map_err(|what| format!("the CDI device {name} {what} {}", file.display()));
            let entry = Entry {
                priority,
                file: file.to_owned(),
                offer,
            };
            self.insert(name, entry);
        }
        Ok(())
    }

    /// Of two files of one directory, neither is right.
    fn insert(&mut self, name: String, mut entry: Entry) {
        if let Some(other) = self.devices.get(&name)
            && other.priority == entry.priority
        {
            entry.offer = Err(format!(
                "the CDI device {name} is in {} and in {}: remove it from one of them",
                other.file.display(),
                entry.file.display()
            ));
        }
        self.devices.insert(name, entry);
    }

    /// What a device brings, or why it cannot be used.
    pub fn device(&self, name: &str) -> Result<&Offer, String> {
        match self.devices.get(name).map(|entry| &entry.offer) {
            Some(Ok(offer)) => Ok(offer),
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

/// Reads a file that is root's alone.
fn read(file: &Path) -> Result<Document, String> {
    only_root_writes(file)?;
    let mut text = String::new();
    let opened = fs::File::open(file).map_err(|error| error.to_string())?;
    let mut limited = opened.take(MAX_FILE_BYTES);
    let read = limited.read_to_string(&mut text);
    read.map_err(|error| error.to_string())?;
    // By way of a tree: else the program holds the YAML reader once more for
    // each of the structs.
    let tree: serde_json::Value =
        serde_saphyr::from_str(&text).map_err(|error| error.to_string())?;
    Document::deserialize(tree).map_err(|error| error.to_string())
}
