//! What the processes of a container may do, and what of it this machine can
//! hold them to.

use super::failure::Failure;
use crate::runtime::cgroup::Hierarchies;
use crate::runtime::oci::{self, Machine};
use crate::runtime::seccomp::Filter;
use libcontainer::oci_spec::runtime::{Capabilities, Capability, Spec};
use nix::sys::resource::{Resource, getrlimit};
use std::fs;
use std::io;

/// All that the processes of a container may ever be capable of.
pub(super) fn bounding(config: &Spec) -> Capabilities {
    let own = config.process().as_ref();
    let sets = own.and_then(|own| own.capabilities().as_ref());
    sets.and_then(|sets| sets.bounding().clone())
        .unwrap_or_default()
}

/// What the processes of a container may call; `None` is everything.
pub(super) fn filter(config: &Spec) -> Result<Option<Filter>, Failure> {
    let notes = config.annotations().as_ref();
    if notes.is_some_and(|notes| notes.contains_key(oci::UNCONFINED)) {
        return Ok(None);
    }
    let capabilities: Vec<Capability> = bounding(config).into_iter().collect();
    Ok(Some(Filter::default_profile(&capabilities)?))
}

pub(super) fn machine(hierarchies: &Hierarchies, device_rules: bool) -> Result<Machine, Failure> {
    let (_, open_files) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let cgroup_v2 = hierarchies.is_v2();
    Ok(Machine {
        cgroup_v2,
        mknod: device_rules,
        open_files,
        capable: capable()?,
        app_armor: None,
        masked: thermal_throttle(),
    })
}

/// The capabilities that this process has, as bits.
fn capable() -> io::Result<u64> {
    let text = fs::read_to_string("/proc/self/status")?;
    let bits = text.lines().find_map(|line| line.strip_prefix("CapPrm:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.ok_or_else(|| io::Error::other("no capabilities in /proc/self/status"))
}

/// Counters from which programs can tell what others compute.
fn thermal_throttle() -> Vec<String> {
    let cpus = fs::read_dir("/sys/devices/system/cpu");
    let dirs = cpus.into_iter().flatten().flatten();
    dirs.map(|cpu| cpu.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .filter_map(|path| path.into_os_string().into_string().ok())
        .collect()
}
