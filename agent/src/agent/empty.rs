//! Taking away what runs and what is stored: `reset` and `stop`.

use super::open::open_store;
use super::setup::real_machine;
use crate::chain::chain;
use crate::config::Config;
use crate::machine::{ConfigFiles, Machine, MachineEvent, unmount_below};
use crate::runtime::Status;
use crate::store::{IdentityRecord, Standing, StoreDir};
use crate::volatile;
use smol::{LocalExecutor, Timer, future};
use std::path::Path;
use std::time::Duration;

/// How long containers get to stop when everything is taken away.
const RESET_GRACE: Duration = Duration::from_secs(10);

/// Which ends are forgotten, too.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Forget {
    /// All: the device leaves its fleet.
    All,
    /// Those that we brought about. A job that ended by itself, and whose end
    /// no agent has read yet, must not run twice.
    Stopped,
}

/// Stops and removes every container, and ends the runtime. Does all it can,
/// then says what could not be done.
pub(super) async fn empty(machine: &impl Machine, forget: Forget) -> Result<(), String> {
    let containers = machine.list().await?;
    let mut running: Vec<_> = containers
        .iter()
        .filter(|(_, status)| matches!(status, Status::Running { .. }))
        .map(|(id, _)| id.clone())
        .collect();
    for id in &running {
        let _ = machine.stop(id).await;
    }
    let ended = async {
        while !running.is_empty() {
            match machine.next_event().await {
                MachineEvent::Exited(id, _) => running.retain(|r| *r != id),
                MachineEvent::Network { .. }
                | MachineEvent::ImageLost(..)
                | MachineEvent::Devices(_) => {}
                MachineEvent::Lost => return,
                MachineEvent::Trouble(..) => {}
            }
        }
    };
    let late = async {
        Timer::after(RESET_GRACE).await;
    };
    future::or(ended, late).await;
    let mut errors = Vec::new();
    for (id, status) in containers {
        if let Err(reason) = machine.remove(&id).await {
            errors.push(format!("{id}: {reason}"));
        }
        if forget == Forget::All || matches!(status, Status::Running { .. }) {
            let _ = machine.forget_exit(&id).await;
        }
    }
    if let Err(reason) = machine.shut_down().await {
        errors.push(reason);
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors.join("; "))
    }
}

/// Removes what is ours in both directories; what cannot be removed is logged.
pub(super) fn remove_files(config: &Config) {
    let data = ["images", "volumes", "containers", "exits", "logs", "users"]
        .map(|d| config.data_dir.join(d));
    let run = [
        "containers",
        "logs",
        "names",
        "scratch",
        "configs",
        "stop-signals",
        "container-images",
        "api",
    ]
    .map(|d| config.run_dir.join(d));
    for dir in [
        config.run_dir.join("scratch"),
        ConfigFiles::root(&config.run_dir),
    ] {
        unmount_below(&dir);
    }
    for dir in data.iter().chain(&run) {
        match std::fs::remove_dir_all(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!("{}: {error}", dir.display());
            }
            _ => {}
        }
    }
}

/// What a device is called that has not joined.
const NAMELESS: &str = "device";

/// The device's name, which its interfaces are named after.
fn known_name(store: &StoreDir) -> String {
    match store.store.identity() {
        Ok(Some(IdentityRecord {
            standing: Standing::Joined { device, .. },
            ..
        })) => device.to_string(),
        _ => NAMELESS.into(),
    }
}

/// `reset` without a running agent.
pub fn reset_alone(config: &Config, exe: &Path) -> Result<(), String> {
    if let Some(reason) = volatile::why_not_for_good(&config.data_dir) {
        return Err(reason);
    }
    let store = open_store(config, exe).map_err(|e| chain(&e))?;
    let machine = real_machine(config, exe, &known_name(&store)).map_err(|e| chain(&e))?;
    let result = smol::block_on(LocalExecutor::new().run(empty(&machine, Forget::All)));
    store.erase().map_err(|e| chain(&e))?;
    remove_files(config);
    result
}

/// `stop`, for a device whose agent is not running and is not to come back
/// soon: ends every container and the runtime. What is stored stays, and the
/// next agent starts the apps again, as after a power cut.
pub fn stop_alone(config: &Config, exe: &Path) -> Result<(), String> {
    // A store that cannot be read keeps nothing from being stopped.
    let name = open_store(config, exe).map_or_else(|_| NAMELESS.into(), |s| known_name(&s));
    let machine = real_machine(config, exe, &name).map_err(|e| chain(&e))?;
    smol::block_on(LocalExecutor::new().run(empty(&machine, Forget::Stopped)))
}
