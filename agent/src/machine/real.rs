//! The real machine: the runtime's keeper and the image store.

use super::compose::{Places, compose, limits, rewrite_configs, sandbox, sandbox_id};
use super::container_images::ContainerImages;
use super::hotplug::Hotplug;
use super::mounts::unmount_below;
use super::namespace::in_mounts_of;
use super::network::MachineNetwork;
use super::signals::StopSignals;
use super::{Machine, MachineEvent, StreamEnd, exec, logs, probe};
use crate::chain::chain;
use crate::core::health::{Answer, Question};
use crate::core::{
    Configs, CreateContainer, ImageStatus, LogPlace, MissingBlob, PodShape, WatchedDevice,
};
use crate::doctor::Known;
use crate::facts;
use crate::image::{
    self, BlobWriter, Collected, ImageStore, Limits, Moment, Need, Policy, UnpackedImage,
    full_percent,
};
use crate::network::Pool;
use crate::runtime::{ContainerId, Events, Runtime, RuntimeConfig, RuntimeEvent, Signal, Status};
use skerry_wire::finding::Finding;
use skerry_wire::message::{
    ContainerUsage, ExecRequest, LogsRequest, Pressure, VolumeRef, VolumeRequest,
};
use skerry_wire::pod::Resources;
use skerry_wire::probe::{Check, Hook};
use skerry_wire::report::{Condition, Vitals};
use skerry_wire::stream::End;
use skerry_wire::{AppName, AppRef, Assignment, ContainerName, Digest, ImageRef, Timestamp};
use smol::channel::{Receiver, Sender, unbounded};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long a hook waits for an answer by HTTP.
const HOOK_HTTP: Duration = Duration::from_secs(30);

/// The machine that this agent runs on.
#[derive(Debug)]
pub struct RealMachine {
    config: RuntimeConfig,
    places: Places,
    /// The keeper's start, if it was begun before there was a machine.
    launch: RefCell<Option<Child>>,
    connected: RefCell<Option<(Runtime, Events)>>,
    images: Arc<ImageStore>,
    /// When images go that nobody needs.
    policy: Policy,
    /// What each container is made from.
    container_images: ContainerImages,
    /// Images that were whole and are not any more, and why.
    lost: Receiver<(Digest, String)>,
    lost_in: Sender<(Digest, String)>,
    network: MachineNetwork,
    hotplug: Hotplug,
    /// How containers are told to stop: their image may want another signal.
    signals: StopSignals,
    /// Blobs that were found missing, and their bytes.
    needs: RefCell<BTreeMap<Digest, Need>>,
    /// Blobs that are being written.
    writers: RefCell<BTreeMap<Digest, BlobWriter>>,
    /// Whether a container has been started since this program was.
    started: Cell<bool>,
}

impl RealMachine {
    /// Opens the image store. The runtime is reached by [`Machine::list`].
    pub fn new(
        config: RuntimeConfig,
        places: Places,
        pool: Pool,
        policy: Policy,
    ) -> Result<Self, image::StoreError> {
        let images = ImageStore::open(places.data_dir.join("images"), Limits::default())?;
        let signals = StopSignals::in_run_dir(&places.run_dir);
        let (lost_in, lost) = unbounded();
        Ok(Self {
            config,
            launch: RefCell::new(None),
            connected: RefCell::new(None),
            images: Arc::new(images),
            policy,
            container_images: ContainerImages::in_run_dir(&places.run_dir),
            lost,
            lost_in,
            network: MachineNetwork::new(&places.run_dir, pool),
            hotplug: Hotplug::new(places.devices.clone()),
            places,
            signals,
            needs: RefCell::new(BTreeMap::new()),
            writers: RefCell::new(BTreeMap::new()),
            started: Cell::new(false),
        })
    }

    /// Takes over a keeper that [`launch_ahead`](crate::runtime::launch_ahead)
    /// has begun to start.
    pub fn wait_for_launch(&self, launch: Option<Child>) {
        *self.launch.borrow_mut() = launch;
    }

    fn runtime(&self) -> Result<Runtime, String> {
        let connected = self.connected.borrow();
        let runtime = connected.as_ref().map(|(runtime, _)| runtime.clone());
        runtime.ok_or_else(|| "the keeper is not connected".into())
    }

    /// Takes the writer of a blob out; the caller puts it back. Looking at
    /// what is here already reads all of it.
    async fn writer(&self, need: Need) -> Result<BlobWriter, String> {
        if let Some(writer) = self.writers.borrow_mut().remove(&need.digest) {
            return Ok(writer);
        }
        let images = self.images.clone();
        smol::unblock(move || images.begin(&need))
            .await
            .map_err(|e| chain(&e))
    }

    async fn image_status(&self, image: ImageRef) -> Result<image::Status, String> {
        let images = self.images.clone();
        smol::unblock(move || match images.status(&image) {
            Ok(image::Status::Fetched) => images.unpack(&image),
            other => other,
        })
        .await
        .map_err(|e| chain(&e))
    }

    /// Sees whether the image is why a container cannot be started, and tells
    /// what of it is damaged.
    async fn suspect(&self, image: ImageRef) -> Result<Option<String>, String> {
        let (images, manifest) = (self.images.clone(), image.manifest);
        let damaged = smol::unblock(move || images.examine(&image)).await;
        let damaged = damaged.map_err(|e| chain(&e))?;
        let Some(first) = damaged.first() else {
            return Ok(None);
        };
        let others = match damaged.len() - 1 {
            0 => String::new(),
            1 => " and another layer".into(),
            n => format!(" and {n} other layers"),
        };
        let text = format!(
            "{first}{others}: files of it are gone or changed on this disk; it is fetched again as soon as the hub can be reached"
        );
        let _ = self.lost_in.try_send((manifest, text.clone()));
        Ok(Some(text))
    }

    /// What is missing, with the bytes of the first that are here already: it
    /// is the one that is fetched next.
    async fn missing(&self, needs: Vec<Need>) -> Result<Vec<MissingBlob>, String> {
        let mut missing = Vec::new();
        for (index, need) in needs.into_iter().enumerate() {
            self.needs.borrow_mut().insert(need.digest, need);
            let mut have = 0;
            if index == 0 {
                let writer = self.writer(need).await?;
                have = writer.offset();
                self.writers.borrow_mut().insert(need.digest, writer);
            }
            missing.push(MissingBlob {
                digest: need.digest,
                size: need.size,
                have,
            });
        }
        Ok(missing)
    }
}

fn stop_signal(image: &UnpackedImage) -> Signal {
    let text = image.config.stop_signal.trim();
    let named = text
        .parse::<i32>()
        .ok()
        .and_then(|n| Signal::try_from(n).ok());
    let full = if text.starts_with("SIG") {
        text.to_string()
    } else {
        format!("SIG{text}")
    };
    named
        .or_else(|| full.parse().ok())
        .unwrap_or(Signal::SIGTERM)
}

impl Machine for RealMachine {
    async fn list(&self) -> Result<Vec<(ContainerId, Status)>, String> {
        *self.connected.borrow_mut() = None;
        let launch = self.launch.borrow_mut().take();
        if let Some(mut launch) = launch {
            // Whether it went well is seen by connecting.
            let _ = smol::unblock(move || launch.wait()).await;
        }
        let runtime = Runtime::connect(self.config.clone()).await;
        let runtime = runtime.map_err(|e| chain(&e))?;
        let events = runtime.events();
        let states = runtime.list().await.map_err(|e| chain(&e))?;
        self.network.resume(&runtime).await;
        self.hotplug.tell_again();
        *self.connected.borrow_mut() = Some((runtime, events));
        Ok(states.into_iter().map(|s| (s.id, s.status)).collect())
    }

    async fn next_event(&self) -> MachineEvent {
        let events = self
            .connected
            .borrow()
            .as_ref()
            .map(|(_, events)| events.clone());
        let Some(events) = events else {
            return MachineEvent::Lost;
        };
        let of_runtime = async {
            match events.next().await {
                RuntimeEvent::Exited { id, exit } => MachineEvent::Exited(id, exit),
                RuntimeEvent::KeeperLost => MachineEvent::Lost,
            }
        };
        let of_volumes = async {
            match self.places.volumes.troubles.recv().await {
                Ok((reason, message)) => MachineEvent::Trouble(reason, message),
                Err(_) => smol::future::pending().await,
            }
        };
        let of_images = async {
            match self.lost.recv().await {
                Ok((manifest, why)) => MachineEvent::ImageLost(manifest, why),
                Err(_) => smol::future::pending().await,
            }
        };
        let of_disk = smol::future::or(of_volumes, of_images);
        let plugged = smol::future::or(self.hotplug.next_event(), of_disk);
        let others = smol::future::or(self.network.next_event(), plugged);
        smol::future::or(of_runtime, others).await
    }

    async fn create(&self, create: CreateContainer) -> Result<i32, String> {
        // That of now: once it is lost, another may list and plan anew, and
        // must not be given this container behind its back.
        let runtime = self.runtime()?;
        let of = create.spec().image.clone();
        let (images, wanted) = (self.images.clone(), of.clone());
        let usable = smol::unblock(move || images.usable(&wanted)).await;
        let Some(image) = usable.map_err(|e| chain(&e))? else {
            let text = format!(
                "image {}: parts of it are gone from this disk; they are fetched again as soon as the hub can be reached",
                of.reference
            );
            let _ = self.lost_in.try_send((of.manifest, text.clone()));
            return Err(text);
        };
        let wanted = create.spec().stop_signal.map(i32::from);
        let wanted = wanted.and_then(|number| Signal::try_from(number).ok());
        let signal = wanted.unwrap_or_else(|| stop_signal(&image));
        let id = create.id.clone();
        let places = self.places.clone();
        let shared = match create.assignment.pod.user_namespace {
            false => sandbox(&create, &places)?,
            // It may have to write down whose the users are.
            true => {
                let (create, places) = (create.clone(), places.clone());
                smol::unblock(move || sandbox(&create, &places)).await?
            }
        };
        let sandbox = match shared {
            // Found, if another container of the pod has been here before.
            Some(shared) => Some(runtime.make_sandbox(shared).await.map_err(|e| chain(&e))?),
            None => None,
        };
        let hostname = places.hostname(&create);
        let place = self.network.place(&create, sandbox.as_ref(), hostname);
        let place = place.await?;
        let keeper = runtime.keeper_pid();
        let given = places.devices.clone();
        let forget = |_: &String| given.forget(&id);
        let work = move || in_mounts_of(keeper, || compose(&create, &image, &places, &place));
        let spec = smol::unblock(work).await.inspect_err(forget)?;
        // Before it runs, so that no crash of ours comes in between.
        self.signals.keep(&id, signal).inspect_err(forget)?;
        self.container_images
            .keep(&id, &of.manifest)
            .inspect_err(forget)?;
        match runtime.create(spec).await {
            Ok(started) => {
                if !self.started.replace(true) {
                    crate::notify::phase(crate::notify::FIRST_APP);
                }
                Ok(started.pid)
            }
            Err(error) => {
                self.signals.forget(&id);
                self.container_images.forget(&id);
                given.forget(&id);
                let error = chain(&error);
                match self.suspect(of).await {
                    Ok(None) => Err(error),
                    Ok(Some(damage)) => Err(format!("{damage} ({error})")),
                    Err(reason) => Err(format!("{error}; its image cannot be read: {reason}")),
                }
            }
        }
    }

    async fn stop(&self, id: &ContainerId) -> Result<(), String> {
        let signal = self.signals.of(id);
        self.runtime()?
            .signal(id, signal)
            .await
            .map_err(|e| chain(&e))
    }

    async fn kill(&self, id: &ContainerId) -> Result<(), String> {
        self.runtime()?.kill(id).await.map_err(|e| chain(&e))
    }

    async fn remove(&self, id: &ContainerId) -> Result<(), String> {
        self.runtime()?.remove(id).await.map_err(|e| chain(&e))?;
        self.signals.forget(id);
        self.container_images.forget(id);
        self.places.devices.forget(id);
        Ok(())
    }

    async fn forget_exit(&self, id: &ContainerId) -> Result<(), String> {
        self.runtime()?.forget_exit(id).await.map_err(|e| chain(&e))
    }

    async fn remove_log(&self, log_name: &str) -> Result<(), String> {
        self.runtime()?
            .remove_log(log_name)
            .await
            .map_err(|e| chain(&e))
    }

    async fn keep_run_logs(&self, group: &str, runs: BTreeSet<u32>) -> Result<(), String> {
        self.runtime()?
            .keep_logs(group, runs.into_iter().collect())
            .await
            .map_err(|e| chain(&e))
    }

    async fn remove_scratch(&self, app: &AppRef, revision: &str) -> Result<(), String> {
        // First, so that it is off its network before its namespace goes.
        let detached = self.network.detach(app, revision).await;
        let shared = sandbox_id(app, revision);
        self.runtime()?
            .remove_sandbox(&shared)
            .await
            .map_err(|e| chain(&e))?;
        let dir = self.places.scratch(app, revision);
        let configs = self.places.config_dir(app, revision);
        let files = self.places.config_files.clone();
        let keeper = self.runtime()?.keeper_pid();
        let work = move || {
            let failed = |dir: &std::path::Path, error: std::io::Error| {
                format!("{}: {error}", dir.display())
            };
            let gone = files.remove(&configs).map_err(|e| failed(&configs, e));
            unmount_below(&dir);
            let removed = match std::fs::remove_dir_all(&dir) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    Err(failed(&dir, error))
                }
                _ => {
                    // The app's, unless another revision of it is still in
                    // there.
                    let _ = dir.parent().map(std::fs::remove_dir);
                    Ok(())
                }
            };
            gone.and(removed)
        };
        smol::unblock(move || in_mounts_of(keeper, work)).await?;
        detached
    }

    async fn write_configs(&self, apps: Vec<(Assignment, Configs)>) -> Result<(), String> {
        let places = self.places.clone();
        let keeper = self.runtime()?.keeper_pid();
        let work = move || {
            let mut first = Ok(());
            for (assignment, configs) in apps {
                first = first.and(rewrite_configs(&assignment, &configs, &places));
            }
            first
        };
        smol::unblock(move || in_mounts_of(keeper, work)).await
    }

    async fn prepare_image(&self, image: ImageRef) -> Result<ImageStatus, String> {
        match self.image_status(image).await? {
            image::Status::Ready(_) => Ok(ImageStatus::Ready),
            image::Status::Missing(needs) => self.missing(needs).await.map(ImageStatus::Missing),
            image::Status::Fetched => Err("the image store did not unpack the image".into()),
        }
    }

    async fn write_blob(&self, digest: Digest, offset: u64, bytes: Vec<u8>) -> Result<(), String> {
        let need = self.needs.borrow().get(&digest).copied();
        let need = need.ok_or("a blob that nobody misses")?;
        let mut writer = self.writer(need).await?;
        if writer.offset() != offset {
            return Err(format!(
                "blob {digest} has {} bytes, not {offset}",
                writer.offset()
            ));
        }
        let (writer, result) = smol::unblock(move || {
            let result = writer.write(&bytes);
            (writer, result)
        })
        .await;
        result.map_err(|e| chain(&e))?;
        self.writers.borrow_mut().insert(digest, writer);
        Ok(())
    }

    async fn finish_blob(&self, digest: Digest) -> Result<(), String> {
        let need = self.needs.borrow_mut().remove(&digest);
        let need = need.ok_or("a blob that nobody misses")?;
        let writer = self.writer(need).await?;
        smol::unblock(move || writer.finish())
            .await
            .map_err(|e| chain(&e))
    }

    async fn examine_image(&self, image: ImageRef) -> Result<(), String> {
        self.suspect(image).await.map(drop)
    }

    fn need_images(&self, manifests: BTreeSet<Digest>) {
        self.images.need(manifests);
    }

    async fn collect_images(
        &self,
        containers: Vec<(ContainerId, Status)>,
        now: Moment,
    ) -> Result<Collected, String> {
        let (images, of) = (self.images.clone(), self.container_images.clone());
        let (policy, data_dir) = (self.policy, self.places.data_dir.clone());
        let work = move || {
            let mut used = BTreeSet::new();
            for (id, status) in &containers {
                match (of.of(id).map_err(|e| e.to_string())?, status) {
                    (Some(manifest), _) => drop(used.insert(manifest)),
                    (None, Status::Running { .. }) => {
                        return Err(format!(
                            "nobody noted what container {id} runs from, so every image stays until it ends"
                        ));
                    }
                    // Of an earlier boot: nothing of it runs.
                    (None, Status::Lost | Status::Exited(_)) => {}
                }
            }
            let full = || full_percent(&data_dir);
            let collected = images.collect(&used, &now, &policy, full);
            collected.map_err(|e| chain(&e))
        };
        smol::unblock(work).await
    }

    async fn run_log(
        &self,
        place: LogPlace,
        request: LogsRequest,
        over: Receiver<()>,
        stream: StreamEnd,
    ) -> End {
        match self.runtime() {
            Ok(runtime) => logs::run(&runtime, place, &request, &over, &stream).await,
            Err(reason) => End::Failed(reason),
        }
    }

    async fn run_exec(&self, id: ContainerId, request: ExecRequest, stream: StreamEnd) -> End {
        match self.runtime() {
            Ok(runtime) => exec::run(&runtime, &id, &request, &stream).await,
            Err(reason) => End::Failed(reason),
        }
    }

    async fn run_volume(
        &self,
        request: VolumeRequest,
        users: BTreeMap<VolumeRef, BTreeSet<AppName>>,
        stream: StreamEnd,
    ) -> End {
        self.places
            .volumes
            .clone()
            .run(request, users, stream)
            .await
    }

    async fn probe(&self, question: Question) -> Answer {
        let timeout = Duration::from_secs(question.timeout_secs.into());
        let id = &question.id;
        let check = async {
            match &question.check {
                Check::Exec { command } => match self.runtime() {
                    Ok(runtime) => probe::exec(&runtime, id, command).await,
                    Err(why) => probe::Outcome::Untried(why),
                },
                Check::Http(request) => probe::http(request, self.network.address(id).await).await,
                Check::Tcp { host, port } => {
                    probe::tcp(host.as_deref(), self.network.address(id).await, *port).await
                }
            }
        };
        probe::within(timeout, check).await.into()
    }

    async fn run_hook(&self, id: &ContainerId, hook: Hook) -> Result<(), String> {
        let outcome = match hook {
            Hook::Exec { command } => probe::exec(&self.runtime()?, id, &command).await,
            Hook::Http(request) => {
                let asks = probe::http(&request, self.network.address(id).await);
                probe::within(HOOK_HTTP, asks).await
            }
            Hook::Sleep { seconds } => {
                smol::Timer::after(Duration::from_secs(seconds.into())).await;
                probe::Outcome::Good
            }
        };
        match outcome {
            probe::Outcome::Good => Ok(()),
            probe::Outcome::Bad(why) | probe::Outcome::Untried(why) => Err(why),
        }
    }

    fn shape_network(&self, pods: Vec<PodShape>) {
        self.network.shape(pods);
    }

    fn watch_devices(&self, devices: BTreeSet<WatchedDevice>) {
        self.hotplug.watch(devices);
    }

    async fn resize(&self, id: &ContainerId, resources: &Resources) -> Result<(), String> {
        let resized = self.runtime()?.resize(id, limits(resources)).await;
        resized.map_err(|error| chain(&error))
    }

    async fn usage(
        &self,
        containers: Vec<(ContainerId, AppRef, ContainerName)>,
    ) -> Vec<ContainerUsage> {
        let Ok(runtime) = self.runtime() else {
            return Vec::new();
        };
        let mut all = Vec::new();
        for (id, app, container) in containers {
            if let Ok(usage) = runtime.usage(&id).await {
                let at = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default();
                all.push(ContainerUsage {
                    app,
                    container,
                    cpu_usec: usage.cpu_usec,
                    memory_bytes: usage.memory_bytes,
                    pids: usage.pids,
                    pressure: usage.pressure.map(|pressure| Pressure {
                        cpu: pressure.cpu,
                        memory: pressure.memory,
                        io: pressure.io,
                    }),
                    at: Timestamp(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
                });
            }
        }
        all
    }

    async fn conditions(&self) -> Vec<Condition> {
        let data_dir = self.places.data_dir.clone();
        smol::unblock(move || crate::doctor::conditions(&data_dir)).await
    }

    async fn vitals(&self) -> Vitals {
        let data_dir = self.places.data_dir.clone();
        smol::unblock(move || facts::vitals(&facts::Host::machine(), &data_dir)).await
    }

    async fn diagnose(&self, known: Known) -> Vec<Finding> {
        let data_dir = self.places.data_dir.clone();
        smol::unblock(move || crate::doctor::examine(&data_dir, &known)).await
    }

    async fn shut_down(&self) -> Result<(), String> {
        let cleared = self.network.clear().await;
        let connected = self.connected.borrow_mut().take();
        if let Some((runtime, _)) = connected {
            runtime.shutdown().await.map_err(|e| chain(&e))?;
        }
        cleared
    }
}
