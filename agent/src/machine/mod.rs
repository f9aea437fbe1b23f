//! All that the engine does to the machine, behind one trait: the real one
//! drives the runtime and the image store, the pretended one lets a thousand
//! devices live in one process.

mod cdi;
mod compose;
mod config_files;
mod container_images;
mod devices;
mod env;
mod exchange;
mod exec;
mod expand;
mod fs_group;
mod hotplug;
mod logs;
mod mounts;
mod namespace;
mod network;
mod pretended;
mod probe;
mod quota;
mod real;
mod security;
mod signals;
mod stream;
mod users;
mod volume_tar;
mod volumes;

pub use compose::Places;
pub use config_files::ConfigFiles;
pub use devices::{MachineDevices, Supply};
pub(crate) use mounts::unescape;
pub use mounts::unmount_below;
pub use pretended::{PretendedContainer, PretendedMachine};
pub use quota::{limit as size_limit, set as set_size_limit};
pub use real::RealMachine;
pub use stream::{StreamEnd, StreamHandle, StreamInput, StreamOutput, stream};
pub use users::UserPool;
pub use volumes::Volumes;

use crate::core::health::{Answer, Question};
use crate::core::{
    Configs, CreateContainer, DevicesSeen, ImageStatus, LogPlace, PodShape, WatchedDevice,
};
use crate::doctor::Known;
use crate::image::{Collected, Moment};
use crate::runtime::{ContainerId, Exit, Status};
use skerry_wire::finding::Finding;
use skerry_wire::message::{ContainerUsage, ExecRequest, LogsRequest, VolumeRef, VolumeRequest};
use skerry_wire::pod::Resources;
use skerry_wire::probe::Hook;
use skerry_wire::report::{Condition, Vitals};
use skerry_wire::stream::End;
use skerry_wire::{AppName, AppRef, Assignment, ContainerName, Digest, ImageRef, RevisionId};
use smol::channel::Receiver;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;

/// What the machine tells without being asked.
#[derive(Debug, Clone, PartialEq)]
pub enum MachineEvent {
    /// A container ended.
    Exited(ContainerId, Exit),
    /// The runtime is gone: list anew.
    Lost,
    /// Something that the operator should know: CamelCase reason and a
    /// sentence.
    Trouble(&'static str, String),
    /// Watched devices came or went.
    Devices(DevicesSeen),
    /// An image that was whole is not any more, and why, in words.
    ImageLost(Digest, String),
    /// How the network of pods stands now.
    Network {
        /// Where pods on bridges are.
        addresses: Vec<(AppRef, RevisionId, IpAddr)>,
        /// What is not as it has to be, in words.
        troubles: Vec<String>,
    },
}

/// The machine. Failures are words for the operator.
pub trait Machine: 'static {
    /// Every container of the runtime, which is connected to or started first.
    fn list(&self) -> impl Future<Output = Result<Vec<(ContainerId, Status)>, String>>;
    /// The next event since the last [`Machine::list`]. Safe to drop and call
    /// again.
    fn next_event(&self) -> impl Future<Output = MachineEvent>;
    /// Makes and starts a container; its first process.
    fn create(&self, container: CreateContainer) -> impl Future<Output = Result<i32, String>>;
    /// Sends the stop signal.
    fn stop(&self, id: &ContainerId) -> impl Future<Output = Result<(), String>>;
    /// Kills all of it.
    fn kill(&self, id: &ContainerId) -> impl Future<Output = Result<(), String>>;
    /// Takes down what is left of it.
    fn remove(&self, id: &ContainerId) -> impl Future<Output = Result<(), String>>;
    /// Its end is committed.
    fn forget_exit(&self, id: &ContainerId) -> impl Future<Output = Result<(), String>>;
    /// Removes a log.
    fn remove_log(&self, log_name: &str) -> impl Future<Output = Result<(), String>>;
    /// Removes the logs of runs, but of these: see
    /// [`Effect::KeepRunLogs`](crate::core::Effect::KeepRunLogs).
    fn keep_run_logs(
        &self,
        group: &str,
        runs: BTreeSet<u32>,
    ) -> impl Future<Output = Result<(), String>>;
    /// Removes the empty-dir volumes of a revision.
    fn remove_scratch(
        &self,
        app: &AppRef,
        revision: &str,
    ) -> impl Future<Output = Result<(), String>>;

    /// Writes the files of these apps' configs anew, where some are already.
    fn write_configs(
        &self,
        apps: Vec<(Assignment, Configs)>,
    ) -> impl Future<Output = Result<(), String>>;

    /// See how an image stands; unpacks it if all of it is here.
    fn prepare_image(&self, image: ImageRef) -> impl Future<Output = Result<ImageStatus, String>>;
    /// Writes what follows `offset`.
    fn write_blob(
        &self,
        digest: Digest,
        offset: u64,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<(), String>>;
    /// Verifies and keeps a blob.
    fn finish_blob(&self, digest: Digest) -> impl Future<Output = Result<(), String>>;

    /// An image may be damaged: compares it with what it was. What is found is
    /// told as [`MachineEvent::ImageLost`].
    fn examine_image(&self, image: ImageRef) -> impl Future<Output = Result<(), String>>;
    /// These images are needed, and besides them those of containers. Takes no
    /// time.
    fn need_images(&self, manifests: BTreeSet<Digest>);
    /// Removes images that nobody needs and that have to go. `containers` are
    /// those that run or may.
    fn collect_images(
        &self,
        containers: Vec<(ContainerId, Status)>,
        now: Moment,
    ) -> impl Future<Output = Result<Collected, String>>;

    /// Reads a log into a stream until it ends; one that is followed when the
    /// other end of `over` is dropped.
    fn run_log(
        &self,
        place: LogPlace,
        request: LogsRequest,
        over: Receiver<()>,
        stream: StreamEnd,
    ) -> impl Future<Output = End>;
    /// Runs a process wired to a stream until it ends.
    fn run_exec(
        &self,
        id: ContainerId,
        request: ExecRequest,
        stream: StreamEnd,
    ) -> impl Future<Output = End>;
    /// Does something with named volumes, wired to a stream.
    fn run_volume(
        &self,
        request: VolumeRequest,
        users: BTreeMap<VolumeRef, BTreeSet<AppName>>,
        stream: StreamEnd,
    ) -> impl Future<Output = End>;
    /// Puts a probe's question.
    fn probe(&self, question: Question) -> impl Future<Output = Answer>;
    /// Does what is to be done around a start or stop.
    fn run_hook(&self, id: &ContainerId, hook: Hook) -> impl Future<Output = Result<(), String>>;
    /// How pods on bridges shall be from now on. Takes no time.
    fn shape_network(&self, pods: Vec<PodShape>);
    /// Which devices are watched from now on. Takes no time.
    fn watch_devices(&self, devices: BTreeSet<WatchedDevice>);
    /// Changes a running container's limits; where that fails the old ones
    /// stay.
    fn resize(
        &self,
        id: &ContainerId,
        resources: &Resources,
    ) -> impl Future<Output = Result<(), String>>;
    /// What these containers use now; those that are gone are left out.
    fn usage(
        &self,
        containers: Vec<(ContainerId, AppRef, ContainerName)>,
    ) -> impl Future<Output = Vec<ContainerUsage>>;
    /// The machine's lasting troubles. Writes nothing.
    fn conditions(&self) -> impl Future<Output = Vec<Condition>>;
    /// How the machine is at this moment. Writes nothing.
    fn vitals(&self) -> impl Future<Output = Vitals>;
    /// Every diagnosis of the machine; may take half a minute.
    fn diagnose(&self, known: Known) -> impl Future<Output = Vec<Finding>>;
    /// Ends the runtime, which has no container any more.
    fn shut_down(&self) -> impl Future<Output = Result<(), String>>;
}
