//! The devices that this machine has for apps: which are plugged in, and which
//! container has which.
//!
//! ```text
//! <run dir>/devices/<id>     what a container was given, a line for each:
//!     unit<TAB>example.com/camera<TAB>/dev/video0
//!     node<TAB>/dev/video0<TAB>/dev/video0 c 81:0
//! ```
//!
//! These files live as long as containers do: longer than the agent, and no
//! longer than a boot.

use super::cdi::{self, Given, Registry};
use crate::core::{CreateContainer, DevicesSeen, Presence, WatchedDevice};
use crate::runtime::{ContainerId, Device, apps_memory, find_devices};
use skerry_wire::pod::{DeviceRequest, DeviceSource, ExtendedResource};
use skerry_wire::report::{Allocatable, Facts};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The directory's name.
const DIR: &str = "devices";
/// Thousandths of a cpu kept for system and agent: what a kubelet of the usual
/// clouds keeps of a small machine.
const RESERVED_CPU_MILLIS: u32 = 100;

/// What of the machine apps may have, as its configuration says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Supply {
    /// Thousandths of a cpu kept for system and agent.
    pub reserved_cpu_millis: u32,
    /// Bytes of memory kept for them; what the guard keeps by default.
    pub reserved_memory_bytes: Option<u64>,
    /// Named resources, and the devices that they are: paths, matches or CDI
    /// names.
    pub resources: BTreeMap<String, Vec<String>>,
    /// Where CDI files are; later ones go before earlier ones.
    pub cdi_dirs: Vec<PathBuf>,
}

impl Default for Supply {
    fn default() -> Self {
        Self {
            reserved_cpu_millis: RESERVED_CPU_MILLIS,
            reserved_memory_bytes: None,
            resources: BTreeMap::new(),
            cdi_dirs: cdi::DIRS.map(PathBuf::from).to_vec(),
        }
    }
}

impl Supply {
    /// What apps may have of a machine. Named devices count whether they are
    /// plugged in or not. Blocks.
    pub fn allocatable(&self, facts: &Facts) -> Allocatable {
        let guarded = apps_memory(facts.memory_bytes);
        let memory_bytes = match self.reserved_memory_bytes {
            Some(reserved) => facts.memory_bytes.saturating_sub(reserved).min(guarded),
            None => guarded,
        };
        let units = self.units(&Registry::read(&self.cdi_dirs));
        let extended = units.into_iter().map(|(name, units)| ExtendedResource {
            name,
            count: u32::try_from(units.len()).unwrap_or(u32::MAX),
        });
        let millis = facts.cpus.saturating_mul(1000);
        Allocatable {
            cpu_millis: millis.saturating_sub(self.reserved_cpu_millis),
            memory_bytes,
            extended: extended.collect(),
        }
    }

    /// Every named resource and its devices.
    fn units(&self, registry: &Registry) -> BTreeMap<String, Vec<String>> {
        let mut units = registry.kinds();
        units.extend(self.resources.clone());
        units
    }
}

/// Which device a text means: as in a manifest.
fn source_of(text: &str) -> DeviceSource {
    if text.starts_with('/') {
        DeviceSource::Path(text.into())
    } else if text.contains('=') {
        DeviceSource::Cdi(text.into())
    } else {
        DeviceSource::Match(text.into())
    }
}

/// The machine's devices, and who has which.
#[derive(Debug)]
pub struct MachineDevices {
    supply: Supply,
    dir: PathBuf,
    /// Held while somebody chooses, so that nobody else chooses the same.
    choosing: Mutex<()>,
}

impl MachineDevices {
    /// Those of the containers of one run directory.
    pub fn new(supply: Supply, run_dir: &Path) -> Self {
        Self {
            supply,
            dir: run_dir.join(DIR),
            choosing: Mutex::new(()),
        }
    }

    /// Looks at devices, and at what containers were given. Blocks.
    pub fn look(&self, watched: &BTreeSet<WatchedDevice>) -> DevicesSeen {
        let registry = Registry::read(&self.supply.cdi_dirs);
        let units = self.supply.units(&registry);
        let presence = |device: &WatchedDevice| {
            let here = |source: &DeviceSource| match nodes(source, &registry) {
                Ok(_) => Presence::Here { count: 1 },
                Err(why) => Presence::Absent { why },
            };
            match device {
                WatchedDevice::Path(path) => here(&DeviceSource::Path(path.clone())),
                WatchedDevice::Match(name) => here(&DeviceSource::Match(name.clone())),
                WatchedDevice::Cdi(name) => here(&DeviceSource::Cdi(name.clone())),
                WatchedDevice::Resource(name) => {
                    let all = units.get(name).map_or(&[][..], Vec::as_slice);
                    let count = all
                        .iter()
                        .filter(|unit| nodes(&source_of(unit), &registry).is_ok())
                        .count();
                    match u32::try_from(count).unwrap_or(u32::MAX) {
                        0 => Presence::Absent {
                            why: format!(
                                "{name}: none of its devices is plugged in ({})",
                                all.join(", ")
                            ),
                        },
                        count => Presence::Here { count },
                    }
                }
            }
        };
        let watched = watched
            .iter()
            .map(|device| (device.clone(), presence(device)))
            .collect();
        let mut replaced = BTreeMap::new();
        for (id, held) in self.held() {
            let changed = held.nodes.iter().find(|(source, given)| {
                let now = nodes(&source_of(source), &registry);
                now.is_ok_and(|now| identity(&now) != *given)
            });
            if let Some((source, _)) = changed {
                replaced.insert(id, source.clone());
            }
        }
        DevicesSeen { watched, replaced }
    }

    /// What a container is given, noted before it runs. `may_use` says which
    /// paths of the machine apps may name themselves. Blocks.
    pub fn give(
        &self,
        create: &CreateContainer,
        may_use: impl Fn(&Path) -> bool,
    ) -> Result<Given, String> {
        let spec = create.spec();
        if spec.devices.is_empty() && spec.resources.extended.is_empty() {
            return Ok(Given::default());
        }
        let registry = Registry::read(&self.supply.cdi_dirs);
        // What another thread left behind is whole: it is only files.
        let _choosing = self.choosing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut given = Given::default();
        // CDI files whose common part is given already.
        let mut files = BTreeSet::new();
        let mut held = Held::default();
        for request in &spec.devices {
            let own = !matches!(request.source, DeviceSource::Cdi(_));
            for source in nodes(&request.source, &registry)? {
                if own && !may_use(&source) {
                    return Err(format!(
                        "the device {} is not allowed on this device: add it to hostPaths in the agent's configuration",
                        source.display()
                    ));
                }
            }
            give_one(request, &registry, &mut given, &mut files)?;
            held.note(&request.source, &registry)?;
        }
        let units = self.supply.units(&registry);
        let mut taken: BTreeSet<(String, String)> = BTreeSet::new();
        for (id, other) in self.held() {
            if id != create.id {
                taken.extend(other.units);
            }
        }
        for wanted in &spec.resources.extended {
            let all = units.get(&wanted.name).map_or(&[][..], Vec::as_slice);
            let free = all.iter().filter(|unit| {
                !taken.contains(&(wanted.name.clone(), (*unit).clone()))
                    && nodes(&source_of(unit), &registry).is_ok()
            });
            let chosen: Vec<&String> = free.take(wanted.count as usize).collect();
            if chosen.len() < wanted.count as usize {
                return Err(format!(
                    "Insufficient {}: {} of {} are free and plugged in, {} are needed",
                    wanted.name,
                    chosen.len(),
                    all.len(),
                    wanted.count
                ));
            }
            for unit in chosen {
                let request = DeviceRequest {
                    source: source_of(unit),
                    container_path: None,
                    read_only: false,
                };
                give_one(&request, &registry, &mut given, &mut files)?;
                held.note(&request.source, &registry)?;
                held.units.insert((wanted.name.clone(), unit.clone()));
            }
        }
        self.keep(&create.id, &held)?;
        Ok(given)
    }

    /// It is gone, or was never made.
    pub fn forget(&self, id: &ContainerId) {
        // What stays behind is a few bytes in memory until the next boot; a
        // unit in it is missed, so it is worth a line.
        if let Err(error) = fs::remove_file(self.dir.join(id.as_str()))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!("what {id} was given of devices is not forgotten: {error}");
        }
    }

    fn keep(&self, id: &ContainerId, held: &Held) -> Result<(), String> {
        let path = self.dir.join(id.as_str());
        fs::create_dir_all(&self.dir)
            .and_then(|()| fs::write(&path, held.text()))
            .map_err(|error| format!("{} cannot be written: {error}", path.display()))
    }

    fn held(&self) -> BTreeMap<ContainerId, Held> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let read = |entry: fs::DirEntry| {
            let id = ContainerId::new(entry.file_name().to_str()?).ok()?;
            let text = fs::read_to_string(entry.path()).ok()?;
            Some((id, Held::read(&text)))
        };
        entries.filter_map(read).collect()
    }
}

/// What one container was given.
#[derive(Debug, Default, PartialEq, Eq)]
struct Held {
    /// Named resource and device.
    units: BTreeSet<(String, String)>,
    /// Device, and the nodes that it was.
    nodes: BTreeSet<(String, String)>,
}

impl Held {
    fn note(&mut self, source: &DeviceSource, registry: &Registry) -> Result<(), String> {
        let found = nodes(source, registry)?;
        let name = WatchedDevice::from(source).to_string();
        self.nodes.insert((name, identity(&found)));
        Ok(())
    }

    fn text(&self) -> String {
        let units = self.units.iter().map(|(a, b)| format!("unit\t{a}\t{b}\n"));
        let nodes = self.nodes.iter().map(|(a, b)| format!("node\t{a}\t{b}\n"));
        units.chain(nodes).collect()
    }

    fn read(text: &str) -> Self {
        let mut held = Held::default();
        for line in text.lines() {
            let mut parts = line.splitn(3, '\t');
            let (Some(kind), Some(a), Some(b)) = (parts.next(), parts.next(), parts.next()) else {
                continue;
            };
            let pair = (a.to_owned(), b.to_owned());
            match kind {
                "unit" => held.units.insert(pair),
                "node" => held.nodes.insert(pair),
                _ => false,
            };
        }
        held
    }
}

/// The nodes that a device is now; why it is none, in words.
fn nodes(source: &DeviceSource, registry: &Registry) -> Result<Vec<PathBuf>, String> {
    let paths = match source {
        DeviceSource::Path(path) => vec![PathBuf::from(path)],
        DeviceSource::Match(name) => find_devices(name)?,
        DeviceSource::Cdi(name) => registry.device(name.as_str())?.nodes(),
    };
    match paths.iter().find(|path| !path.exists()) {
        Some(missing) => Err(format!("{} is not plugged in", missing.display())),
        None => Ok(paths),
    }
}

/// What tells one node from another one of the same name.
fn identity(paths: &[PathBuf]) -> String {
    let one = |path: &PathBuf| {
        let data = fs::metadata(path).ok();
        let numbers = data.map_or_else(String::new, |data| {
            let kind = match data.file_type().is_block_device() {
                true => 'b',
                false => 'c',
            };
            let device = data.rdev();
            format!(" {kind} {}:{}", libc::major(device), libc::minor(device))
        });
        format!("{}{numbers}", path.display())
    };
    let mut all: Vec<String> = paths.iter().map(one).collect();
    all.sort();
    all.join(", ")
}

/// Where a device is in a container that says nothing else: the same path, or
/// the same name, if it is elsewhere than below `/dev`.
fn place_of(source: &Path) -> String {
    let name = source.file_name().map(|name| name.to_string_lossy());
    match (source.starts_with("/dev"), name) {
        (false, Some(name)) => format!("/dev/{name}"),
        (true, _) | (false, None) => source.to_string_lossy().into_owned(),
    }
}

/// Adds what a request brings. `files` are the CDI files whose common part is
/// given already.
fn give_one(
    request: &DeviceRequest,
    registry: &Registry,
    given: &mut Given,
    files: &mut BTreeSet<PathBuf>,
) -> Result<(), String> {
    if let DeviceSource::Cdi(name) = &request.source {
        registry.device(name.as_str())?.add_to(given, files);
        return Ok(());
    }
    let mut first = true;
    for source in nodes(&request.source, registry)? {
        let same = place_of(&source);
        // One name cannot be that of several.
        let target = match &request.container_path {
            Some(path) if first => path.clone(),
            Some(_) | None => same,
        };
        first = false;
        given
            .devices
            .push(Device::new(source, target, request.read_only));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_wire::pod::Resources;
    use skerry_wire::{AppRef, Assignment, ContainerSpec, Digest, ImageRef, PodSpec, RevisionId};

    fn create(id: &str, change: impl FnOnce(&mut ContainerSpec)) -> CreateContainer {
        let image = ImageRef {
            reference: "x".into(),
            manifest: Digest::of(b"x"),
            manifest_size: 1,
        };
        let mut container = ContainerSpec::new("web".parse().unwrap(), image);
        change(&mut container);
        let app = AppRef {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
        };
        let pod = PodSpec::new(vec![container]);
        CreateContainer {
            id: ContainerId::new(id).unwrap(),
            log_name: "log".into(),
            log_shares: 1,
            assignment: Assignment::new(app, RevisionId(Digest::of(b"1")), pod),
            container: 0,
            configs: Default::default(),
        }
    }

    fn wants(count: u32) -> impl FnOnce(&mut ContainerSpec) {
        move |container| {
            container.resources = Resources {
                extended: vec![ExtendedResource {
                    name: "example.com/port".into(),
                    count,
                }],
                ..Resources::default()
            };
        }
    }

    #[test]
    fn units_are_given_once_and_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let supply = Supply {
            resources: BTreeMap::from([(
                "example.com/port".into(),
                vec![
                    "/dev/null".into(),
                    "/dev/zero".into(),
                    "/nonexistent".into(),
                ],
            )]),
            ..Supply::default()
        };
        let machine = MachineDevices::new(supply.clone(), dir.path());
        let sources = |given: Given| -> Vec<PathBuf> {
            given.devices.into_iter().map(|one| one.source).collect()
        };
        let one = machine.give(&create("a.1", wants(1)), |_| false).unwrap();
        assert_eq!(sources(one), [Path::new("/dev/null")]);
        // Another agent of the same boot.
        let machine = MachineDevices::new(supply, dir.path());
        let two = machine.give(&create("b.1", wants(1)), |_| false).unwrap();
        assert_eq!(sources(two), [Path::new("/dev/zero")]);
        let none = machine
            .give(&create("c.1", wants(1)), |_| false)
            .unwrap_err();
        assert!(none.contains("0 of 3 are free"), "{none}");
        machine.forget(&ContainerId::new("a.1").unwrap());
        let again = machine.give(&create("c.1", wants(1)), |_| false).unwrap();
        assert_eq!(sources(again), [Path::new("/dev/null")]);
        let watched = BTreeSet::from([WatchedDevice::Resource("example.com/port".into())]);
        let seen = machine.look(&watched);
        let here = Presence::Here { count: 2 };
        assert_eq!(seen.watched.into_values().collect::<Vec<_>>(), [here]);
        assert!(seen.replaced.is_empty());
    }

    #[test]
    fn a_device_that_comes_back_as_another_node_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("gps");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        let machine = MachineDevices::new(Supply::default(), dir.path());
        let path = link.display().to_string();
        let asks = |container: &mut ContainerSpec| {
            container.devices = vec![DeviceRequest {
                source: DeviceSource::Path(path.clone()),
                container_path: Some("/dev/gps".into()),
                read_only: true,
            }];
        };
        let refused = machine.give(&create("a.1", asks), |_| false).unwrap_err();
        assert!(refused.contains("hostPaths"), "{refused}");
        let given = machine.give(&create("a.1", asks), |_| true).unwrap();
        assert_eq!(given.devices[0].target, "/dev/gps");
        let watched = BTreeSet::from([WatchedDevice::Path(path.clone())]);
        assert!(machine.look(&watched).replaced.is_empty());
        fs::remove_file(&link).unwrap();
        let gone = machine.look(&watched);
        assert!(gone.replaced.is_empty(), "only gone");
        let Some(Presence::Absent { why }) = gone.watched.values().next() else {
            panic!("{gone:?}");
        };
        assert!(why.contains("is not plugged in"), "{why}");
        std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
        let back = machine.look(&watched);
        assert_eq!(back.replaced.into_values().collect::<Vec<_>>(), [path]);
    }
}
