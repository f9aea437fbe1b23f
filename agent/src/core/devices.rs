//! What a device has to give: cpus, memory, named resources, and the devices
//! that are plugged in. An app that does not get what it asks for waits with a
//! reason, and begins when there is enough.
//!
//! - Requests are counted as Kubernetes' scheduler counts them: those of all
//!   containers that run at one time, against what is allocatable.
//! - Whoever has begun keeps what it has, whatever the sums say: nothing that
//!   runs is ever stopped for want of room. Of those that have not, the first
//!   by name goes first.
//! - A device that is absent stops nothing that runs either. A container that
//!   ended waits until it is back.

use super::event::{Effect, Now};
use super::handle::Core;
use super::ledger::Ledger;
use super::ledger::Phase;
use super::name::InstanceName;
use super::observed::Observed;
use super::report::Urgency;
use crate::runtime::ContainerId;
use skerry_wire::pod::{DeviceSource, Resources};
use skerry_wire::report::{Allocatable, Severity};
use skerry_wire::{AppRef, Assignment, ContainerSpec, PodSpec, Role};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Something that containers ask for and that can be plugged in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchedDevice {
    /// A path below `/dev`.
    Path(String),
    /// `usb:0403:6001`.
    Match(String),
    /// `vendor.com/gpu=0`.
    Cdi(String),
    /// A named resource, of which there may be several.
    Resource(String),
}

impl From<&DeviceSource> for WatchedDevice {
    fn from(source: &DeviceSource) -> Self {
        match source {
            DeviceSource::Path(path) => WatchedDevice::Path(path.clone()),
            DeviceSource::Match(name) => WatchedDevice::Match(name.clone()),
            DeviceSource::Cdi(name) => WatchedDevice::Cdi(name.clone()),
        }
    }
}

impl fmt::Display for WatchedDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WatchedDevice::Path(name)
            | WatchedDevice::Match(name)
            | WatchedDevice::Cdi(name)
            | WatchedDevice::Resource(name) => f.write_str(name),
        }
    }
}

/// Whether something is plugged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// So many of it.
    Here {
        /// From 1.
        count: u32,
    },
    /// Not now.
    Absent {
        /// A sentence for people.
        why: String,
    },
}

/// What the machine sees of the devices that are watched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DevicesSeen {
    /// All of them.
    pub watched: BTreeMap<WatchedDevice, Presence>,
    /// Containers whose device came back as another node than the one they
    /// were given, and which device.
    pub replaced: BTreeMap<ContainerId, String>,
}

/// Why an app cannot begin, or a container of it not begin again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// CamelCase word for programs.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
}

/// What a pod asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Demand {
    /// Thousandths of a cpu.
    pub cpu_millis: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// Named resources.
    pub extended: BTreeMap<String, u64>,
}

impl Demand {
    /// What the containers of a pod ask for at one time: the main ones and the
    /// sidecars together, or an init container with the sidecars, whichever is
    /// more.
    pub fn of<Image>(pod: &PodSpec<Image>) -> Self {
        let mut together = Demand::default();
        let mut inits = Demand::default();
        let mut sidecars = Demand::default();
        for (index, container) in pod.all_containers().enumerate() {
            let asked = &container.resources;
            match pod.role(index) {
                Role::Main => together.add(asked),
                Role::Sidecar => {
                    together.add(asked);
                    sidecars.add(asked);
                }
                Role::Init => {
                    let mut with = sidecars.clone();
                    with.add(asked);
                    inits.raise_to(&with);
                }
            }
        }
        together.raise_to(&inits);
        together
    }

    fn add(&mut self, asked: &Resources) {
        let millis = u64::from(asked.cpu_request_millis.unwrap_or(0));
        self.cpu_millis = self.cpu_millis.saturating_add(millis);
        let bytes = asked.memory_request_bytes.unwrap_or(0);
        self.memory_bytes = self.memory_bytes.saturating_add(bytes);
        for one in &asked.extended {
            let count = self.extended.entry(one.name.clone()).or_default();
            *count = count.saturating_add(u64::from(one.count));
        }
    }

    fn raise_to(&mut self, other: &Demand) {
        self.cpu_millis = self.cpu_millis.max(other.cpu_millis);
        self.memory_bytes = self.memory_bytes.max(other.memory_bytes);
        for (name, count) in &other.extended {
            let own = self.extended.entry(name.clone()).or_default();
            *own = (*own).max(*count);
        }
    }

    fn is_empty(&self) -> bool {
        *self == Demand::default()
    }
}

/// What is left of what the device has.
struct Free {
    /// `None` where it is not known what there is.
    cpu_millis: Option<u64>,
    memory_bytes: Option<u64>,
    extended: BTreeMap<String, u64>,
}

impl Free {
    fn of(observed: &Observed) -> Self {
        let all = &observed.allocatable;
        let known = |amount: u64| (amount > 0).then_some(amount);
        let extended = all.extended.iter().map(|one| {
            let plugged_in = observed.count_of(&WatchedDevice::Resource(one.name.clone()));
            (one.name.clone(), u64::from(one.count.min(plugged_in)))
        });
        Self {
            cpu_millis: known(u64::from(all.cpu_millis)),
            memory_bytes: known(all.memory_bytes),
            extended: extended.collect(),
        }
    }

    fn take(&mut self, demand: &Demand) {
        let less = |free: &mut Option<u64>, by: u64| *free = free.map(|n| n.saturating_sub(by));
        less(&mut self.cpu_millis, demand.cpu_millis);
        less(&mut self.memory_bytes, demand.memory_bytes);
        for (name, count) in &demand.extended {
            if let Some(free) = self.extended.get_mut(name) {
                *free = free.saturating_sub(*count);
            }
        }
    }

    /// What of this there is not enough of.
    fn lack(&self, demand: &Demand, all: &Allocatable) -> Option<Lack> {
        if let Some(free) = self.cpu_millis.filter(|free| demand.cpu_millis > *free) {
            return Some(Lack {
                reason: "InsufficientCpu",
                message: format!(
                    "Insufficient cpu: it requests {}m, of this device's {}m are {free}m free",
                    demand.cpu_millis, all.cpu_millis
                ),
            });
        }
        if let Some(free) = self.memory_bytes.filter(|free| demand.memory_bytes > *free) {
            return Some(Lack {
                reason: "InsufficientMemory",
                message: format!(
                    "Insufficient memory: it requests {}, of this device's {} are {} free",
                    mebibytes(demand.memory_bytes.div_ceil(1 << 20)),
                    mebibytes(all.memory_bytes >> 20),
                    mebibytes(free >> 20),
                ),
            });
        }
        let short = demand.extended.iter().find(|(name, count)| {
            let free = self.extended.get(*name).copied();
            free.unwrap_or(0) < **count
        });
        let (name, count) = short?;
        let there = all.extended.iter().find(|one| one.name == *name);
        Some(match there {
            None => Lack {
                reason: "InsufficientResource",
                message: format!(
                    "Insufficient {name}: this device has none; name it under 'resources' in the agent's configuration"
                ),
            },
            Some(there) => Lack {
                reason: "InsufficientResource",
                message: format!(
                    "Insufficient {name}: it requests {count}, of this device's {} are {} free",
                    there.count,
                    self.extended.get(name).copied().unwrap_or(0)
                ),
            },
        })
    }
}

fn mebibytes(count: u64) -> String {
    format!("{count}Mi")
}

/// What apps lack, by app. Those that have all they need are not in it.
pub fn lacks<'a>(
    assignments: impl Iterator<Item = &'a Assignment> + Clone,
    observed: &Observed,
    ledger: &Ledger,
) -> BTreeMap<&'a AppRef, Lack> {
    let mut lacks = BTreeMap::new();
    let demands: Vec<(&Assignment, Demand)> = assignments
        .clone()
        .map(|assignment| (assignment, Demand::of(&assignment.pod)))
        .filter(|(_, demand)| !demand.is_empty())
        .collect();
    if !demands.is_empty() {
        let has =
            |entry: &super::ledger::Entry| entry.incarnation > 0 && entry.phase != Phase::Ended;
        let entries = ledger.values().filter(|entry| has(entry));
        let begun: BTreeSet<&AppRef> = entries.map(|entry| &entry.app).collect();
        let (have, want): (Vec<_>, Vec<_>) = demands
            .iter()
            .partition(|(assignment, _)| begun.contains(&assignment.app));
        let mut free = Free::of(observed);
        for (_, demand) in have {
            free.take(demand);
        }
        for (assignment, demand) in want {
            match free.lack(demand, &observed.allocatable) {
                Some(lack) => drop(lacks.insert(&assignment.app, lack)),
                None => free.take(demand),
            }
        }
    }
    // That it is not there at all says more than that there is too little.
    for assignment in assignments {
        let containers = assignment.pod.all_containers();
        let absent = containers
            .flat_map(watched_of)
            .find_map(|device| observed.absence(&device));
        if let Some(message) = absent {
            let lack = Lack {
                reason: "WaitingForDevice",
                message,
            };
            lacks.insert(&assignment.app, lack);
        }
    }
    lacks
}

/// What a container needs to be plugged in.
fn watched_of<Image>(container: &ContainerSpec<Image>) -> impl Iterator<Item = WatchedDevice> {
    let devices = container.devices.iter();
    let named = container.resources.extended.iter();
    let devices = devices.map(|one| WatchedDevice::from(&one.source));
    devices.chain(named.map(|one| WatchedDevice::Resource(one.name.clone())))
}

impl Observed {
    /// How many of it are plugged in.
    fn count_of(&self, device: &WatchedDevice) -> u32 {
        let seen = self.devices.as_ref();
        match seen.and_then(|seen| seen.watched.get(device)) {
            Some(Presence::Here { count }) => *count,
            Some(Presence::Absent { .. }) | None => 0,
        }
    }

    /// Why a device cannot be used now.
    fn absence(&self, device: &WatchedDevice) -> Option<String> {
        let of_config = |name: &String| {
            let mut all = self.allocatable.extended.iter();
            all.any(|one| one.name == *name)
        };
        // The device has never heard of it, and says so above.
        if let WatchedDevice::Resource(name) = device
            && !of_config(name)
        {
            return None;
        }
        let seen = self.devices.as_ref();
        match seen.and_then(|seen| seen.watched.get(device)) {
            Some(Presence::Here { .. }) => None,
            Some(Presence::Absent { why }) => Some(why.clone()),
            None => Some(format!("{device} is being looked for")),
        }
    }

    /// The device that this container lost and that is back as another node.
    pub(super) fn lost_node(&self, id: &ContainerId) -> Option<&str> {
        let seen = self.devices.as_ref()?;
        seen.replaced.get(id).map(String::as_str)
    }
}

impl Core {
    /// Says which devices are to be watched, if that changed.
    pub(super) fn watch_devices(&mut self) {
        let desired = self.desired.iter().flat_map(|d| &d.assignments);
        let all = desired.chain(self.previous.values());
        let watched: BTreeSet<WatchedDevice> = all
            .flat_map(|assignment| assignment.pod.all_containers())
            .flat_map(watched_of)
            .collect();
        if watched != self.watched_devices {
            self.watched_devices.clone_from(&watched);
            self.effects.push(Effect::WatchDevices(watched));
        }
    }

    /// Devices came or went.
    pub(super) fn devices_seen(&mut self, now: Now, seen: DevicesSeen) {
        let before = self.observed.devices.replace(seen).unwrap_or_default();
        let seen = self.observed.devices.clone().unwrap_or_default();
        let is_here = |of: &DevicesSeen, device: &WatchedDevice| {
            matches!(of.watched.get(device), Some(Presence::Here { .. }))
        };
        let mut told = Vec::new();
        for assignment in self.assignments() {
            for container in assignment.pod.all_containers() {
                for device in watched_of(container) {
                    let (was, is) = (is_here(&before, &device), is_here(&seen, &device));
                    let name =
                        InstanceName::new(&assignment.app, assignment.revision, &container.name);
                    let runs = self.ledger.get(&name).is_some_and(|entry| {
                        self.observed.runs(&name.incarnation(entry.incarnation))
                    });
                    if was && !is && runs {
                        let text = format!(
                            "{device} was unplugged; container {} goes on without it, and waits for it when it starts anew",
                            container.name
                        );
                        told.push((
                            Severity::Warning,
                            "DeviceGone",
                            assignment.app.clone(),
                            text,
                        ));
                    } else if is && !was && before.watched.contains_key(&device) {
                        let text = format!("{device} is plugged in");
                        told.push((
                            Severity::Normal,
                            "DeviceFound",
                            assignment.app.clone(),
                            text,
                        ));
                    }
                }
            }
        }
        for (severity, reason, app, text) in told {
            self.note(now, severity, reason, Some(&app), &text);
        }
        self.pace.changed(now.boot_ms, Urgency::Soon);
    }
}

#[cfg(test)]
#[path = "devices_tests.rs"]
mod tests;
