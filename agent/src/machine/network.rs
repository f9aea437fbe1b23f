//! The machine's part in the networks of pods: who is attached when, the files
//! that a container sees, and what the core is told.
//!
//! The device's network is touched only once an app wants a bridge, or has
//! left one: a device whose apps use its own network keeps it as it is.

use super::MachineEvent;
use super::compose::sandbox_id;
use crate::chain::chain;
use crate::core::name::InstanceName;
use crate::core::{CreateContainer, PodShape};
use crate::network::dns::Resolvers;
use crate::network::files::{Source, files};
use crate::network::{AttachError, Attached, Attachment, PodId, PodNetworks, Pool, Shape};
use crate::runtime::{ContainerId, Mount, Runtime, Sandbox};
use skerry_wire::pod::{DnsConfig, Network};
use skerry_wire::{AppRef, Digest, RevisionId};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded};
use smol::lock::Mutex;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Where Linux lists interfaces of this thread's network.
const INTERFACES: &str = "/proc/thread-self/net/dev";
const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";
const HOSTNAME: &str = "/etc/hostname";
/// Longest of the device's own files that is copied into a pod's.
const MAX_FILE_BYTES: usize = 1024 * 1024;
/// A host that is looked up in the routing table only (RFC 5737): nothing is
/// sent to it.
const ELSEWHERE: (IpAddr, u16) = (IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// What a container finds of the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// The pod's addresses, the device's on its own network; none without
    /// network.
    pub pod: Vec<IpAddr>,
    /// The device's address towards everybody else, if it has one.
    pub host: Option<IpAddr>,
    /// Files about names, where they are not the device's own.
    pub files: Vec<Mount>,
}

/// The networks of this machine's pods.
#[derive(Debug)]
pub struct MachineNetwork {
    run_dir: PathBuf,
    pool: Pool,
    /// Held while they are opened, so that they are opened once.
    opened: Mutex<Option<Rc<PodNetworks>>>,
    tasks: LocalExecutor<'static>,
    /// How pods shall be; absent before it was said.
    shapes: RefCell<Option<BTreeMap<PodId, Shape>>>,
    /// What is wrong with pods that were left, and with networks at work.
    unresumed: RefCell<Option<String>>,
    troubles: Rc<RefCell<Vec<String>>>,
    news: (Sender<()>, Receiver<()>),
    /// News were taken, but not told yet.
    untold: Cell<bool>,
}

impl MachineNetwork {
    /// Touches no network.
    pub fn new(run_dir: &Path, pool: Pool) -> Self {
        Self {
            run_dir: run_dir.to_owned(),
            pool,
            opened: Mutex::default(),
            tasks: LocalExecutor::new(),
            shapes: RefCell::default(),
            unresumed: RefCell::default(),
            troubles: Rc::default(),
            news: bounded(1),
            untold: Cell::new(false),
        }
    }

    /// The networks, opened now if they are not.
    async fn open(&self) -> Result<Rc<PodNetworks>, String> {
        let mut opened = self.opened.lock().await;
        if let Some(networks) = &*opened {
            return Ok(networks.clone());
        }
        let networks = PodNetworks::open(&self.run_dir, self.pool.clone(), Resolvers::default());
        let networks = Rc::new(networks.map_err(|error| chain(&error))?);
        if let Some(shapes) = self.shapes.borrow().clone() {
            networks.shape(shapes);
        }
        let (runs, troubles) = (networks.clone(), self.troubles.clone());
        let news = self.news.0.clone();
        let run = async move {
            runs.run(|told| {
                for trouble in told {
                    tracing::warn!("network of pods: {trouble}");
                }
                *troubles.borrow_mut() = told.to_vec();
                let _ = news.try_send(());
            })
            .await;
        };
        self.tasks.spawn(run).detach();
        *opened = Some(networks.clone());
        Ok(networks)
    }

    /// Does something while the networks' own work goes on: it may hold what
    /// this waits for.
    async fn with_work<T>(&self, what: impl Future<Output = T>) -> T {
        self.tasks.run(what).await
    }

    /// Whether anything of ours may be there.
    fn is_needed(&self) -> bool {
        let ours = format!("sk{}", self.pool.tag());
        let links = fs::read_to_string(INTERFACES).unwrap_or_default();
        let mut links = links.lines();
        PodNetworks::has_kept(&self.run_dir)
            || links.any(|line| line.trim_start().starts_with(&ours))
    }

    /// Takes up the pods that the runtime still has, and lets go of others.
    /// Trouble keeps no app from running.
    pub async fn resume(&self, runtime: &Runtime) {
        if self.opened.lock().await.is_none() && !self.is_needed() {
            return;
        }
        let failed = self.with_work(self.try_resume(runtime)).await.err();
        if let Some(reason) = &failed {
            tracing::error!("network of pods: {reason}");
        }
        *self.unresumed.borrow_mut() = failed;
        let _ = self.news.0.try_send(());
    }

    async fn try_resume(&self, runtime: &Runtime) -> Result<(), String> {
        let networks = self.open().await?;
        let mut namespaces: BTreeMap<PodId, OwnedFd> = BTreeMap::new();
        for (id, pod) in networks.kept().await {
            let name = sandbox_id(&pod.app, &pod.revision.short());
            let found = runtime.find_sandbox(&name).await;
            if let Some(sandbox) = found.map_err(|error| chain(&error))? {
                namespaces.extend(sandbox.network.map(|network| (id, network)));
            }
        }
        let resumed = networks.resume(namespaces).await;
        resumed.map_err(|error| chain(&error))
    }

    /// Lets go of all pods.
    pub async fn clear(&self) -> Result<(), String> {
        if self.opened.lock().await.is_none() && !self.is_needed() {
            return Ok(());
        }
        let networks = self.open().await?;
        let cleared = self.with_work(networks.resume(BTreeMap::new())).await;
        cleared.map_err(|error| chain(&error))
    }

    /// Puts a container's pod where it belongs, before the container starts.
    pub async fn place(
        &self,
        create: &CreateContainer,
        sandbox: Option<&Sandbox>,
        hostname: &str,
    ) -> Result<Place, String> {
        let pod = &create.assignment.pod;
        let attached = match pod.network {
            Network::Bridge => Some(self.attach(create, sandbox).await?),
            Network::Host | Network::None => None,
        };
        let namespace = create.assignment.app.namespace.as_str();
        let host = host_address();
        let addresses = match (pod.network, &attached) {
            (Network::Host, _) => host.into_iter().collect(),
            (_, Some(attached)) => attached.addresses.to_vec(),
            (_, None) => Vec::new(),
        };
        let made = match pod.network {
            Network::Host => own_files(create, hostname),
            Network::Bridge | Network::None => {
                let files = files(Source {
                    hostname,
                    addresses: &addresses,
                    aliases: &pod.host_aliases,
                    names: attached.as_ref().map(|at| (at.names, namespace)),
                    dns: pod.dns.as_ref(),
                });
                vec![
                    (HOSTS, Some(files.hosts)),
                    (RESOLV_CONF, files.resolv_conf),
                    (HOSTNAME, Some(files.hostname)),
                ]
            }
        };
        let dir = self.dir(&create.assignment.app, &create.assignment.revision.short());
        let mut mounts = Vec::new();
        for (target, text) in made {
            let mut own = create.spec().volume_mounts.iter();
            let Some(text) = text.filter(|_| !own.any(|mount| mount.mount_path == target)) else {
                continue;
            };
            let source = dir.join(target.trim_start_matches("/etc/"));
            write(&source, &text).map_err(|error| format!("{}: {error}", source.display()))?;
            mounts.push(Mount {
                read_only: true,
                ..Mount::new(source, target)
            });
        }
        Ok(Place {
            pod: addresses,
            host,
            files: mounts,
        })
    }

    async fn attach(
        &self,
        create: &CreateContainer,
        sandbox: Option<&Sandbox>,
    ) -> Result<Attached, String> {
        let network = sandbox.and_then(|sandbox| sandbox.network.as_ref());
        let network = network.ok_or("the runtime gave the pod no network namespace")?;
        let network = network.try_clone().map_err(|error| error.to_string())?;
        let assignment = &create.assignment;
        let ports = assignment.pod.all_containers().flat_map(|one| &one.ports);
        let attachment = Attachment {
            app: assignment.app.clone(),
            revision: assignment.revision,
            ports: ports.cloned().collect(),
            containers: InstanceName::of(&create.id)
                .into_iter()
                .map(|(name, _)| name)
                .collect(),
            shape: Shape {
                ready: false,
                services: assignment.policy.services.clone(),
                egress: assignment.policy.egress.clone(),
            },
        };
        let id = PodId::of(&assignment.app, assignment.revision);
        let networks = self.open().await?;
        let attaching = networks.attach(&id, attachment, network);
        let attached = self.with_work(attaching).await;
        let _ = self.news.0.try_send(());
        attached.map_err(|error| chain(&error))
    }

    /// Takes a revision's pod off its network, and removes its files.
    pub async fn detach(&self, app: &AppRef, revision: &str) -> Result<(), String> {
        let opened = self.opened.lock().await.clone();
        if let Some(networks) = opened {
            let detaching = async {
                let kept = networks.kept().await;
                let ours = |pod: &Attachment| pod.app == *app && pod.revision.short() == revision;
                for (id, _) in kept.into_iter().filter(|(_, pod)| ours(pod)) {
                    networks.detach(&id).await?;
                }
                Ok(())
            };
            let detached: Result<(), AttachError> = self.with_work(detaching).await;
            let _ = self.news.0.try_send(());
            detached.map_err(|error| chain(&error))?;
        }
        let dir = self.dir(app, revision);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", dir.display()))
            }
            _ => Ok(()),
        }
    }

    /// Says how all pods on bridges shall be.
    pub fn shape(&self, pods: Vec<PodShape>) {
        let shapes: BTreeMap<PodId, Shape> = pods
            .into_iter()
            .map(|pod| {
                let shape = Shape {
                    ready: pod.ready,
                    services: pod.services,
                    egress: pod.egress,
                };
                (PodId::of(&pod.app, pod.revision), shape)
            })
            .collect();
        *self.shapes.borrow_mut() = Some(shapes.clone());
        if let Some(opened) = self.opened.try_lock()
            && let Some(networks) = &*opened
        {
            networks.shape(shapes);
        }
    }

    /// Where a container is reached: on the device's own network, and without
    /// any, at the device's own loopback.
    pub async fn address(&self, id: &ContainerId) -> IpAddr {
        let opened = self.opened.lock().await.clone();
        let own = match (opened, InstanceName::of(id)) {
            (Some(networks), Some((name, _))) => self.with_work(networks.address_of(&name)).await,
            _ => None,
        };
        own.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Works, and waits for something to tell. Safe to drop and call again.
    pub async fn next_event(&self) -> MachineEvent {
        self.with_work(async {
            if !self.untold.get() {
                let _ = self.news.1.recv().await;
                self.untold.set(true);
            }
            let addresses = self.addresses().await;
            self.untold.set(false);
            let mut troubles = self.troubles.borrow().clone();
            troubles.extend(self.unresumed.borrow().clone());
            MachineEvent::Network {
                addresses,
                troubles,
            }
        })
        .await
    }

    async fn addresses(&self) -> Vec<(AppRef, RevisionId, IpAddr)> {
        let Some(networks) = self.opened.lock().await.clone() else {
            return Vec::new();
        };
        let at = networks.addresses().await;
        let kept = networks.kept().await.into_iter();
        let found = kept.filter_map(|(id, pod)| {
            let [first, _] = at.get(&id)?;
            Some((pod.app, pod.revision, *first))
        });
        found.collect()
    }

    /// Where the files of a revision are.
    fn dir(&self, app: &AppRef, revision: &str) -> PathBuf {
        let app = &Digest::of(app.to_string().as_bytes()).hex()[..16];
        self.run_dir.join("names").join(app).join(revision)
    }
}

/// The device's address towards everybody else.
fn host_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(ELSEWHERE).ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_unspecified()).then_some(address)
}

/// Files of a pod on the device's own network: the device's, and what the
/// manifest adds. Without that, what is mounted is the device's file itself.
fn own_files(create: &CreateContainer, hostname: &str) -> Vec<(&'static str, Option<String>)> {
    let pod = &create.assignment.pod;
    let mut made = Vec::new();
    if !pod.host_aliases.is_empty() {
        let mut text = read(HOSTS);
        if !text.ends_with('\n') {
            text.push('\n');
        }
        for alias in &pod.host_aliases {
            text.push_str(&format!("{} {}\n", alias.ip, alias.hostnames.join(" ")));
        }
        made.push((HOSTS, Some(text)));
    }
    if let Some(dns) = &pod.dns {
        let whole = files(Source {
            hostname,
            addresses: &[],
            aliases: &[],
            names: None,
            dns: Some(&completed(dns, &read(RESOLV_CONF))),
        });
        made.push((RESOLV_CONF, whole.resolv_conf));
    }
    if pod.hostname.is_some() {
        made.push((HOSTNAME, Some(format!("{hostname}\n"))));
    }
    made
}

/// What the manifest leaves open, out of the device's resolv.conf(5).
fn completed(dns: &DnsConfig, device: &str) -> DnsConfig {
    let mut dns = dns.clone();
    let words = |line: &str, name: &str| -> Option<Vec<String>> {
        let rest = line.trim().strip_prefix(name)?;
        rest.starts_with([' ', '\t'])
            .then(|| rest.split_ascii_whitespace().map(String::from).collect())
    };
    let (no_servers, no_searches) = (dns.nameservers.is_empty(), dns.searches.is_empty());
    for line in device.lines() {
        if let Some(servers) = words(line, "nameserver").filter(|_| no_servers) {
            dns.nameservers.extend(
                servers
                    .iter()
                    .filter_map(|server| server.parse::<IpAddr>().ok()),
            );
        }
        // The last line of its kind counts.
        if let Some(searches) = words(line, "search").filter(|_| no_searches) {
            dns.searches = searches;
        }
    }
    dns
}

/// A file of the device; empty where there is none.
fn read(path: &str) -> String {
    let mut bytes = fs::read(path).unwrap_or_default();
    bytes.truncate(MAX_FILE_BYTES);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes a file in place: containers that run have it mounted.
fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|old| old == text.as_bytes()) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(path, text)?;
    // For programs of any user in the container.
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_manifest_leaves_open_is_the_devices() {
        let device =
            "# by hand\nnameserver 192.0.2.7\nnameserver fe80::1%eth0\nsearch a b\nsearch lan\n";
        let dns = DnsConfig {
            options: vec!["ndots:1".into()],
            ..DnsConfig::default()
        };
        let whole = completed(&dns, device);
        assert_eq!(whole.nameservers, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(whole.searches, ["lan"]);
        assert_eq!(whole.options, ["ndots:1"]);
        let own = DnsConfig {
            nameservers: vec!["9.9.9.9".parse().unwrap()],
            searches: vec!["own".into()],
            options: Vec::new(),
        };
        assert_eq!(completed(&own, device), own);
    }
}
