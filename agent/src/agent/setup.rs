//! What the configuration says to the parts below: facts, runtime, machine.

use super::AgentError;
use crate::config::Config;
use crate::facts;
use crate::machine::{ConfigFiles, MachineDevices, Places, RealMachine, Volumes};
use crate::network::Pool;
use crate::runtime::RuntimeConfig;
use skerry_wire::report::Facts;
use std::path::Path;
use std::sync::Arc;

/// What the machine is, and what of it apps may have.
pub(super) fn facts_of(config: &Config) -> Facts {
    let mut facts = facts::read();
    facts.allocatable = config.supply.allocatable(&facts);
    facts
}

pub(super) fn runtime_config(config: &Config, exe: &Path) -> RuntimeConfig {
    RuntimeConfig {
        run_dir: config.run_dir.clone(),
        data_dir: config.data_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        exe: exe.to_owned(),
        apps_memory: None,
    }
}

pub(super) fn real_machine(
    config: &Config,
    exe: &Path,
    device: &str,
) -> Result<RealMachine, AgentError> {
    let runtime = runtime_config(config, exe);
    let places = Places {
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        host_paths: config.host_paths.clone(),
        allow_privileged: config.allow_privileged,
        users: config.users,
        log_max_bytes: config.log_max_bytes,
        device: device.to_string(),
        config_files: Arc::new(ConfigFiles::default()),
        volumes: Arc::new(Volumes::in_data_dir(&config.data_dir)),
        devices: Arc::new(MachineDevices::new(config.supply.clone(), &config.run_dir)),
    };
    let pool = Pool::new(config.network_pool, device).map_err(AgentError::Pool)?;
    RealMachine::new(runtime, places, pool, config.images)
        .map_err(|e| AgentError::Images(Box::new(e)))
}
