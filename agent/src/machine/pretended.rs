//! A machine in memory, for simulations of many devices in one process: every
//! image is here, every container starts at once and runs until it is told to
//! stop.

use super::{Machine, MachineEvent, StreamEnd};
use crate::core::health::{Answer, Question};
use crate::core::{
    Configs, CreateContainer, DevicesSeen, ImageStatus, LogPlace, PodShape, Presence,
    WatchedDevice,
};
use crate::doctor::Known;
use crate::image::{Collected, Moment};
use crate::runtime::{ContainerId, Exit, ExitStatus, Status, Timestamp};
use skerry_wire::finding::Finding;
use skerry_wire::message::{ContainerUsage, ExecRequest, LogsRequest, VolumeRef, VolumeRequest};
use skerry_wire::pod::Resources;
use skerry_wire::probe::Hook;
use skerry_wire::report::{Condition, Vitals};
use skerry_wire::stream::End;
use skerry_wire::{AppName, AppRef, Assignment, ContainerName, Digest, ImageRef};
use smol::channel::{Receiver, Sender, unbounded};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A container that does nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct PretendedContainer {
    /// What it was made from.
    pub create: CreateContainer,
    /// How it stands.
    pub status: Status,
}

/// A machine in memory. Clones share it, so that it survives its agent.
#[derive(Debug, Clone)]
pub struct PretendedMachine {
    containers: Rc<RefCell<BTreeMap<ContainerId, PretendedContainer>>>,
    events_in: Sender<MachineEvent>,
    events: Receiver<MachineEvent>,
}

impl Default for PretendedMachine {
    fn default() -> Self {
        let (events_in, events) = unbounded();
        Self {
            containers: Rc::default(),
            events_in,
            events,
        }
    }
}

impl PretendedMachine {
    /// Everything on it.
    pub fn containers(&self) -> BTreeMap<ContainerId, PretendedContainer> {
        self.containers.borrow().clone()
    }

    /// A container ends by itself.
    pub fn end(&self, id: &ContainerId, status: ExitStatus) {
        let exit = Exit {
            status,
            oom_killed: false,
            at: Timestamp(0),
        };
        if let Some(container) = self.containers.borrow_mut().get_mut(id)
            && matches!(container.status, Status::Running { .. })
        {
            container.status = Status::Exited(exit);
            let _ = self
                .events_in
                .try_send(MachineEvent::Exited(id.clone(), exit));
        }
    }
}

impl Machine for PretendedMachine {
    async fn list(&self) -> Result<Vec<(ContainerId, Status)>, String> {
        while self.events.try_recv().is_ok() {}
        let containers = self.containers.borrow();
        Ok(containers
            .iter()
            .map(|(id, c)| (id.clone(), c.status))
            .collect())
    }

    async fn next_event(&self) -> MachineEvent {
        self.events.recv().await.unwrap_or(MachineEvent::Lost)
    }

    async fn create(&self, create: CreateContainer) -> Result<i32, String> {
        let mut containers = self.containers.borrow_mut();
        if containers.contains_key(&create.id) {
            return Err(format!("container {} is there already", create.id));
        }
        let pid = containers.len() as i32 + 2;
        let status = Status::Running {
            pid,
            started_at: Timestamp(0),
        };
        containers.insert(create.id.clone(), PretendedContainer { create, status });
        Ok(pid)
    }

    async fn stop(&self, id: &ContainerId) -> Result<(), String> {
        self.end(id, ExitStatus::Signal(15));
        Ok(())
    }

    async fn kill(&self, id: &ContainerId) -> Result<(), String> {
        self.end(id, ExitStatus::Signal(9));
        Ok(())
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), String> {
        self.containers.borrow_mut().remove(id);
        Ok(())
    }

    async fn forget_exit(&self, _: &ContainerId) -> Result<(), String> {
        Ok(())
    }

    async fn remove_log(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    async fn remove_scratch(&self, _: &AppRef, _: &str) -> Result<(), String> {
        Ok(())
    }

    async fn write_configs(&self, _: Vec<(Assignment, Configs)>) -> Result<(), String> {
        Ok(())
    }

    async fn prepare_image(&self, _: ImageRef) -> Result<ImageStatus, String> {
        Ok(ImageStatus::Ready)
    }

    async fn write_blob(&self, _: Digest, _: u64, _: Vec<u8>) -> Result<(), String> {
        Err("this machine has every image".into())
    }

    async fn finish_blob(&self, _: Digest) -> Result<(), String> {
        Err("this machine has every image".into())
    }

    async fn examine_image(&self, _: ImageRef) -> Result<(), String> {
        Ok(())
    }

    fn need_images(&self, _: BTreeSet<Digest>) {}

    async fn collect_images(
        &self,
        _: Vec<(ContainerId, Status)>,
        _: Moment,
    ) -> Result<Collected, String> {
        Ok(Collected::default())
    }

    async fn keep_run_logs(&self, _: &str, _: BTreeSet<u32>) -> Result<(), String> {
        Ok(())
    }

    async fn run_log(&self, _: LogPlace, _: LogsRequest, _: StreamEnd) -> End {
        End::Done
    }

    async fn run_exec(&self, _: ContainerId, _: ExecRequest, _: StreamEnd) -> End {
        End::Failed("this machine runs no programs".into())
    }

    async fn run_volume(
        &self,
        _: VolumeRequest,
        _: BTreeMap<VolumeRef, BTreeSet<AppName>>,
        _: StreamEnd,
    ) -> End {
        End::Failed("this machine keeps no volumes".into())
    }

    async fn probe(&self, _: Question) -> Answer {
        Answer::Good
    }

    async fn run_hook(&self, _: &ContainerId, _: Hook) -> Result<(), String> {
        Ok(())
    }

    async fn usage(&self, _: Vec<(ContainerId, AppRef, ContainerName)>) -> Vec<ContainerUsage> {
        Vec::new()
    }

    async fn conditions(&self) -> Vec<Condition> {
        Vec::new()
    }

    async fn vitals(&self) -> Vitals {
        Vitals::default()
    }

    async fn diagnose(&self, _: Known) -> Vec<Finding> {
        vec![Finding::good("Pretended", "a machine in memory is well")]
    }

    fn shape_network(&self, _: Vec<PodShape>) {}

    /// It has one of each.
    fn watch_devices(&self, devices: BTreeSet<WatchedDevice>) {
        let here = |device| (device, Presence::Here { count: 1 });
        let seen = DevicesSeen {
            watched: devices.into_iter().map(here).collect(),
            replaced: BTreeMap::new(),
        };
        let _ = self.events_in.try_send(MachineEvent::Devices(seen));
    }

    async fn resize(&self, _: &ContainerId, _: &Resources) -> Result<(), String> {
        Ok(())
    }

    async fn shut_down(&self) -> Result<(), String> {
        Ok(())
    }
}
