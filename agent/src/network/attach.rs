//! The pods of this device on their networks: what the machine calls. Attaches
//! and detaches pods, answers names on their bridges, and mends what somebody
//! else breaks.
//!
//! What is kept over restarts of the agent (addresses, ports) is one file in
//! the run directory, in memory: a reboot ends all pods, and their addresses
//! come again from their names. The network namespaces themselves are kept by
//! the container runtime, which hands them in again at [`PodNetworks::resume`].

use super::device::{NetworkError, Networks, Outcome, Trouble};
use super::dns::{Names, NamesError, Resolvers, Responder, SharedNames};
use super::lease::{Layout, Leases, Pool};
use super::wanted::{Egress, Endpoint, Pod, PodId, PublishedPort, Service, ServicePort, Wanted};
use super::watch::Watch;
use crate::chain::chain;
use crate::core::name::InstanceName;
use crate::openat2::way_to;
use crate::whole_file::replace;
use serde::{Deserialize, Serialize};
use skerry_wire::pod::Port;
use skerry_wire::{AppName, AppRef, Namespace, RevisionId, policy};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;
use smol::lock::Mutex;
use smol::{LocalExecutor, Task, Timer};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Changes of somebody else within this time are looked at together, and what
/// never rests costs one look for each.
const CALM: Duration = Duration::from_millis(250);
/// When what went wrong is tried again without being asked.
const AGAIN: Duration = Duration::from_secs(30);
/// What is kept, in the run directory.
pub const FILE: &str = "networks.json";
/// Longest file that is read back: 512 pods with some ports.
const MAX_KEPT_BYTES: u64 = 4 * 1024 * 1024;

/// What is known of an attached pod. Kept over changes of the agent, to another
/// release and back: a field that comes later needs a default, and one that is
/// not known is passed over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Whose pod it is; its name is the app's.
    pub app: AppRef,
    /// Of which revision.
    pub revision: RevisionId,
    /// The ports of all its containers; those with a host port are published.
    pub ports: Vec<Port>,
    /// Its containers that have been made: more may come.
    pub containers: BTreeSet<InstanceName>,
    /// What may change while it runs.
    pub shape: Shape,
}

/// What may change while a pod runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Whether names and services lead to it.
    pub ready: bool,
    /// The services that it is behind.
    pub services: Vec<policy::Service>,
    /// What it may reach; everything when absent.
    pub egress: Option<policy::Egress>,
}

impl PodId {
    /// The pod of this revision of this app.
    pub fn of(app: &AppRef, revision: RevisionId) -> Self {
        Self(format!("{app}@{}", revision.short()))
    }
}

/// Where a pod is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its IPv4 and IPv6 address.
    pub addresses: [IpAddr; 2],
    /// Who answers names for it.
    pub names: IpAddr,
}

/// Why a pod is not on its network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The networks of the device cannot be worked on.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The thread that does it cannot be started, or ended.
    #[error("the network's thread is not there")]
    Thread(#[source] Option<io::Error>),
    /// What is kept over restarts cannot be written or read.
    #[error("{path} cannot be used")]
    Kept {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something is not as it has to be.
    #[error("{0}")]
    Trouble(String),
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Kept {
    leases: Leases,
    /// With when each came.
    pods: BTreeMap<PodId, (u64, Attachment)>,
}

/// One reconciliation, numbered: who asks may be dropped before the answer
/// comes.
type Job = (u64, Wanted, Leases);
type Done = (u64, Result<Outcome, NetworkError>, Leases);

/// What is not as wanted after a reconciliation.
#[derive(Debug, Default)]
struct Settled {
    troubles: Vec<Trouble>,
    names: Vec<NamesError>,
}

impl Settled {
    /// In words; with `id`, only what keeps that pod from its network.
    fn words(&self, id: Option<&PodId>) -> Vec<String> {
        let concerns = |trouble: &&Trouble| id.is_none_or(|id| trouble.concerns(id));
        let troubles = self.troubles.iter().filter(concerns);
        let mut words: Vec<String> = troubles.map(|trouble| chain(trouble)).collect();
        if id.is_none() {
            words.extend(self.names.iter().map(|error| chain(error)));
        }
        words
    }
}

/// The networks of the device's pods.
#[derive(Debug)]
pub struct PodNetworks {
    file: PathBuf,
    jobs: Sender<Job>,
    done: Receiver<Done>,
    resolvers: Resolvers,
    /// Held from the question to the answer, so that there is one at a time.
    state: Mutex<State>,
    tasks: LocalExecutor<'static>,
    watch: Watch,
    /// How pods shall be from now on, also those that are not attached yet;
    /// absent before it was said.
    shapes: RefCell<Option<BTreeMap<PodId, Shape>>>,
    reshaped: (Sender<()>, Receiver<()>),
    /// Pods that are to be attached with the next settling.
    arriving: RefCell<Vec<(PodId, Attachment, OwnedFd)>>,
}

#[derive(Debug, Default)]
struct State {
    kept: Kept,
    namespaces: BTreeMap<PodId, OwnedFd>,
    layout: Layout,
    responders: BTreeMap<Namespace, (SharedNames, Task<()>)>,
    /// Nothing is torn down before it is known what runs.
    resumed: bool,
    /// Pods have come that no settling has seen to its end.
    unsettled: bool,
    /// What the newest settling left.
    settled: Settled,
    jobs: u64,
}

impl PodNetworks {
    /// Whether anything was kept there.
    pub fn has_kept(run_dir: &Path) -> bool {
        run_dir.join(FILE).exists()
    }

    /// Reads what was kept. Touches no network. Everything happens in the
    /// network namespace of this thread.
    pub fn open(run_dir: &Path, pool: Pool, resolvers: Resolvers) -> Result<Self, AttachError> {
        let file = run_dir.join(FILE);
        let kept = read(&file).map_err(|source| AttachError::Kept {
            path: file.clone(),
            source,
        })?;
        let (jobs, jobs_in) = bounded::<Job>(1);
        let (done_out, done) = bounded::<Done>(1);
        let (opened_out, opened) = std::sync::mpsc::sync_channel(1);
        std::thread::Builder::new()
            .name("network".into())
            .spawn(move || {
                let networks = match Networks::open(pool) {
                    Ok(networks) => networks,
                    Err(error) => {
                        opened_out.send(Err(error)).ok();
                        return;
                    }
                };
                opened_out.send(Ok(())).ok();
                while let Ok((number, wanted, mut leases)) = jobs_in.recv_blocking() {
                    let outcome = networks.reconcile(&wanted, &mut leases);
                    if done_out.send_blocking((number, outcome, leases)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|error| AttachError::Thread(Some(error)))?;
        opened.recv().map_err(|_| AttachError::Thread(None))??;
        let watch = Watch::open().map_err(|error| NetworkError::Open(error).into());
        Ok(Self {
            file,
            jobs,
            done,
            resolvers,
            state: Mutex::new(State {
                // Where nobody was, nobody has to be found first.
                resumed: kept.pods.is_empty(),
                kept,
                ..State::default()
            }),
            tasks: LocalExecutor::new(),
            watch: watch.map_err(|error: AttachError| error)?,
            shapes: RefCell::default(),
            reshaped: bounded(1),
            arriving: RefCell::default(),
        })
    }

    /// The pods that are attached, or were when the agent ended.
    pub async fn kept(&self) -> BTreeMap<PodId, Attachment> {
        let state = self.state.lock().await;
        let pods = state.kept.pods.iter();
        pods.map(|(id, (_, pod))| (id.clone(), pod.clone()))
            .collect()
    }

    /// The IPv4 and IPv6 addresses of the attached pods.
    pub async fn addresses(&self) -> BTreeMap<PodId, [IpAddr; 2]> {
        let state = self.state.lock().await;
        let pods = state.layout.pods.iter();
        pods.map(|(id, place)| {
            let pair = place.addresses;
            (id.clone(), [pair.v4.into(), pair.v6.into()])
        })
        .collect()
    }

    /// Where the pod of this container is.
    pub async fn address_of(&self, container: &InstanceName) -> Option<IpAddr> {
        let state = self.state.lock().await;
        let mut pods = state.kept.pods.iter();
        let (id, _) = pods.find(|(_, (_, pod))| pod.containers.contains(container))?;
        Some(state.layout.pods.get(id)?.addresses.v4.into())
    }

    /// Takes up the pods that still have a network namespace, and lets go of
    /// all others. Touches nothing that is right.
    pub async fn resume(&self, namespaces: BTreeMap<PodId, OwnedFd>) -> Result<(), AttachError> {
        let mut state = self.state.lock().await;
        state.kept.pods.retain(|id, _| namespaces.contains_key(id));
        state.namespaces = namespaces;
        state.resumed = true;
        // Without pods and rules there is nothing to look at either.
        self.settle(&mut state).await
    }

    /// Puts a pod on the network of its namespace, before its first process
    /// starts. Again for a pod that is there, for each of its containers:
    /// changes what differs. Its shape is the newest that was said by
    /// [`PodNetworks::shape`], and that of `pod` only before the first.
    pub async fn attach(
        &self,
        id: &PodId,
        pod: Attachment,
        namespace: OwnedFd,
    ) -> Result<Attached, AttachError> {
        let of = pod.app.namespace.clone();
        self.arriving
            .borrow_mut()
            .push((id.clone(), pod, namespace));
        // Those who come while this waits are settled in one go: a device that
        // starts brings all its pods at once.
        let mut state = self.state.lock().await;
        for (id, pod, namespace) in self.arriving.take() {
            let shapes = self.shapes.borrow();
            let told = shapes.as_ref().and_then(|all| all.get(&id)).cloned();
            state.arrive(id, pod, namespace, told);
        }
        if state.unsettled {
            self.settle(&mut state).await?;
        }
        let troubles = state.settled.words(Some(id));
        let place = state.layout.pods.get(id);
        match (place, state.layout.networks.get(&of)) {
            (Some(place), Some(network)) if troubles.is_empty() => Ok(Attached {
                addresses: [place.addresses.v4.into(), place.addresses.v6.into()],
                names: network.gateway4.into(),
            }),
            (Some(_), Some(_)) => Err(AttachError::Trouble(troubles.join("; "))),
            // It has no address, and one of all troubles says why.
            _ => Err(AttachError::Trouble(state.settled.words(None).join("; "))),
        }
    }

    /// Takes a pod off its network. One that is not on it is fine.
    pub async fn detach(&self, id: &PodId) -> Result<(), AttachError> {
        let mut state = self.state.lock().await;
        state.namespaces.remove(id);
        match state.kept.pods.remove(id) {
            None => Ok(()),
            Some(_) => self.settle(&mut state).await,
        }
    }

    /// Says how all pods shall be from now on; those that are left out are
    /// about to go, and not ready. [`PodNetworks::run`] makes it so.
    pub fn shape(&self, shapes: BTreeMap<PodId, Shape>) {
        *self.shapes.borrow_mut() = Some(shapes);
        // When one is there already, it is this news too.
        let _ = self.reshaped.0.try_send(());
    }

    /// Answers names, mends damage and gives pods their newest shape for as
    /// long as it is polled. What goes wrong is told once, and when it changes.
    pub async fn run(&self, mut tell: impl FnMut(&[String])) {
        let mend = async {
            let mut told = Vec::new();
            loop {
                let reshaped = async {
                    let _ = self.reshaped.1.recv().await;
                    Some(true)
                };
                let changed = async { self.watch.changed().await.ok().map(|()| false) };
                let again = async {
                    match told.is_empty() {
                        true => std::future::pending().await,
                        false => Timer::after(AGAIN).await,
                    };
                    Some(false)
                };
                let reshaped = match reshaped.or(changed).or(again).await {
                    Some(reshaped) => reshaped,
                    None => {
                        // A socket that fails once fails again: not at once.
                        Timer::after(AGAIN).await;
                        false
                    }
                };
                if !reshaped {
                    Timer::after(CALM).await;
                }
                let mut state = self.state.lock().await;
                let other = self
                    .shapes
                    .borrow()
                    .as_ref()
                    .is_some_and(|all| state.reshape(all));
                if !state.resumed || (reshaped && !other) {
                    continue;
                }
                let troubles = match self.settle(&mut state).await {
                    Ok(()) => state.settled.words(None),
                    Err(error) => vec![chain(&error)],
                };
                if troubles != told {
                    tell(&troubles);
                    told = troubles;
                }
            }
        };
        self.tasks.run(mend).await
    }

    async fn settle(&self, state: &mut State) -> Result<(), AttachError> {
        let wanted = state.wanted();
        // Before anything is there, so that a crash in between leaves nothing
        // that nobody knows of.
        self.keep(&state.kept)?;
        let gone = || AttachError::Thread(None);
        state.jobs += 1;
        let job = (state.jobs, wanted.clone(), state.kept.leases.clone());
        let sent = self.jobs.send(job).await;
        sent.map_err(|_| gone())?;
        let (outcome, leases) = loop {
            let (number, outcome, leases) = self.done.recv().await.map_err(|_| gone())?;
            if number == state.jobs {
                break (outcome?, leases);
            }
        };
        if leases != state.kept.leases {
            state.kept.leases = leases;
            self.keep(&state.kept)?;
        }
        for change in &outcome.changes {
            tracing::debug!("{change}");
        }
        state.layout = outcome.layout;
        state.settled = Settled {
            names: self.answer_names(state, &wanted).await,
            troubles: outcome.troubles,
        };
        state.unsettled = false;
        Ok(())
    }

    async fn answer_names(&self, state: &mut State, wanted: &Wanted) -> Vec<NamesError> {
        let mut troubles = Vec::new();
        let networks = &state.layout.networks;
        state
            .responders
            .retain(|namespace, _| networks.contains_key(namespace));
        for (namespace, network) in networks {
            let names = Names::of(namespace, wanted, &state.layout);
            if let Some((shared, _)) = state.responders.get(namespace) {
                *shared.borrow_mut() = names;
                continue;
            }
            let shared: SharedNames = Rc::new(RefCell::new(names));
            let address = network.gateway4.into();
            let bound = Responder::bind(address, shared.clone(), self.resolvers.clone()).await;
            match bound {
                Ok(responder) => {
                    let task = self.tasks.spawn(responder.run());
                    state.responders.insert(namespace.clone(), (shared, task));
                }
                Err(error) => troubles.push(error),
            }
        }
        troubles
    }

    fn keep(&self, kept: &Kept) -> Result<(), AttachError> {
        write(&self.file, kept).map_err(|source| AttachError::Kept {
            path: self.file.clone(),
            source,
        })
    }
}

impl State {
    /// A pod is there, or another container of one that is.
    fn arrive(&mut self, id: PodId, mut pod: Attachment, namespace: OwnedFd, told: Option<Shape>) {
        let last = self.kept.pods.values().map(|(rank, _)| *rank).max();
        let rank = match self.kept.pods.get(&id) {
            Some((rank, old)) => {
                pod.containers.extend(old.containers.iter().cloned());
                pod.shape = old.shape.clone();
                *rank
            }
            None => last.map_or(0, |rank| rank.saturating_add(1)),
        };
        if let Some(shape) = told {
            pod.shape = shape;
        }
        self.kept.pods.insert(id.clone(), (rank, pod));
        self.namespaces.insert(id, namespace);
        self.unsettled = true;
    }

    /// Whether any pod has another shape now.
    fn reshape(&mut self, shapes: &BTreeMap<PodId, Shape>) -> bool {
        let mut other = false;
        for (id, (_, pod)) in &mut self.kept.pods {
            let shape = match shapes.get(id) {
                Some(shape) => shape.clone(),
                None => Shape {
                    ready: false,
                    ..pod.shape.clone()
                },
            };
            if shape != pod.shape {
                pod.shape = shape;
                other = true;
            }
        }
        other
    }

    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::default();
        for (id, (rank, pod)) in &self.kept.pods {
            let Some(namespace) = self.namespaces.get(id) else {
                continue;
            };
            let ports = pod.ports.iter().filter_map(|port| {
                Some(PublishedPort {
                    host_ip: port.host_ip,
                    host_port: port.host_port?,
                    pod_port: port.container_port,
                    protocol: port.protocol,
                })
            });
            let pod = Pod {
                namespace: pod.app.namespace.clone(),
                app: pod.app.name.clone(),
                netns: way_to(namespace),
                ready: pod.shape.ready,
                rank: *rank,
                ports: ports.collect(),
                egress: pod.shape.egress.as_ref().map(Egress::from),
            };
            wanted.pods.insert(id.clone(), pod);
        }
        wanted.services = self.services();
        wanted
    }

    /// Each name once in its namespace, with the pods of all apps that
    /// declare it.
    fn services(&self) -> Vec<Service> {
        let mut services: BTreeMap<(&Namespace, &AppName), Vec<Endpoint>> = BTreeMap::new();
        for (id, (_, pod)) in &self.kept.pods {
            if !self.namespaces.contains_key(id) {
                continue;
            }
            for service in &pod.shape.services {
                let ports = service.ports.iter().map(|port| ServicePort {
                    port: port.port,
                    pod_port: port.target_port,
                    protocol: port.protocol,
                });
                let of = (&pod.app.namespace, &service.name);
                services.entry(of).or_default().push(Endpoint {
                    pod: id.clone(),
                    ports: ports.collect(),
                });
            }
        }
        let services = services.into_iter();
        services
            .map(|((namespace, name), endpoints)| Service {
                namespace: namespace.clone(),
                name: name.clone(),
                endpoints,
            })
            .collect()
    }
}

/// What was kept; nothing, when there is no file or it is not whole: the file
/// is gone with every reboot anyway.
fn read(file: &Path) -> io::Result<Kept> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::default()),
        Err(error) => return Err(error),
        Ok(metadata) if metadata.len() > MAX_KEPT_BYTES => return Ok(Kept::default()),
        Ok(_) => (),
    }
    Ok(serde_json::from_slice(&fs::read(file)?).unwrap_or_default())
}

fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    let text = serde_json::to_vec(kept)?;
    if fs::read(file).is_ok_and(|old| old == text) {
        return Ok(());
    }
    replace(file, &text)
}
