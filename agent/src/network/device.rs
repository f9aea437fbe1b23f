//! Makes the device's networks as wanted: looks, plans, changes only what
//! differs, and looks again until nothing does.

use super::lease::{Guard, Layout, LeaseError, Leases, Pool};
use super::nft::{self, Flows, Nftables, NftablesError};
use super::plan::{
    At, BRIDGE_RULES, Change, DISABLE_V6, FORWARD_V4, FORWARD_V6, Inside, Names, Observed,
    POD_LINK, alias_of, plan,
};
use super::prefix::Prefix;
use super::route::{Routing, open_namespace};
use super::rules::{PortTaken, ruleset};
use super::wanted::{PodId, Protocol, Wanted};
use crate::chain::chain;
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

/// How often it is looked, planned and changed at most. The second round finds
/// what the first could not know (a port's bridge made anew), the third is to
/// see that all is well.
const ROUNDS: u32 = 4;
/// Where kernel settings are.
const SETTINGS: &str = "/proc/sys";

/// The networks of the device cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No routing socket.
    #[error("the kernel's network cannot be reached")]
    Open(#[source] io::Error),
    /// Interfaces, addresses or routes cannot be read.
    #[error("the device's interfaces cannot be read")]
    Look(#[source] io::Error),
    /// nftables.
    #[error(transparent)]
    Rules(#[from] NftablesError),
}

/// What is not as wanted, and why.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// Somebody has no address.
    #[error(transparent)]
    Lease(#[from] LeaseError),
    /// A port goes to another.
    #[error(transparent)]
    Port(#[from] PortTaken),
    /// A pod's network namespace is not there.
    #[error("the network of {pod} cannot be entered")]
    Enter {
        /// Whose.
        pod: PodId,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A network that was given out before now overlaps with another.
    #[error(
        "the network {ours} of namespace {namespace} overlaps with {theirs}, which the device \
         reaches otherwise: set another networkPool in the agent's configuration"
    )]
    Overlap {
        /// Of which namespace.
        namespace: skerry_wire::Namespace,
        /// Our range.
        ours: Prefix,
        /// The other.
        theirs: Prefix,
    },
    /// A change did not happen.
    #[error("{change} failed")]
    Change {
        /// Which.
        change: Box<Change>,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The rules were not written.
    #[error(transparent)]
    Rules(#[from] NftablesError),
    /// Something undoes what we do.
    #[error("{0} does not last: something on this device undoes it")]
    Undone(String),
}

impl Trouble {
    /// Whether it keeps this pod from its network. What concerns the device
    /// concerns all of them.
    pub fn concerns(&self, id: &PodId) -> bool {
        match self {
            Trouble::Enter { pod, .. } => pod == id,
            Trouble::Port(taken) => taken.loser == *id,
            Trouble::Change { change, .. } => match &**change {
                Change::AddCable { pod, .. }
                | Change::Up(At::Pod(pod), _)
                | Change::AddAddress(At::Pod(pod), ..)
                | Change::DeleteAddress(At::Pod(pod), ..)
                | Change::AddRoute(At::Pod(pod), ..)
                | Change::AddNeighbour(At::Pod(pod), ..) => pod == id,
                Change::Plug { alias, .. } => *alias == alias_of(id),
                _ => true,
            },
            Trouble::Rules(_) => true,
            Trouble::Lease(_) | Trouble::Overlap { .. } | Trouble::Undone(_) => false,
        }
    }
}

/// What a reconciliation did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Everything that was changed, in order.
    pub changes: Vec<Change>,
    /// Who has which address.
    pub layout: Layout,
    /// What is not as wanted.
    pub troubles: Vec<Trouble>,
}

/// The device's networks. Belongs to the network namespace of the thread that
/// opened it, as do the kernel settings that it writes: use it on threads of
/// that namespace.
#[derive(Debug)]
pub struct Networks {
    pool: Pool,
    tag: String,
    names: Names,
    routing: Routing,
    nftables: Nftables,
}

impl Networks {
    /// Opens the sockets. Changes nothing.
    pub fn open(pool: Pool) -> Result<Self, NetworkError> {
        let tag = pool.tag();
        Ok(Self {
            names: Names::of(&tag),
            tag,
            pool,
            routing: Routing::open().map_err(NetworkError::Open)?,
            nftables: Nftables::open()?,
        })
    }

    /// What of the device's names belongs to us.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Makes it so. Idempotent; changes nothing where all is right. Does all
    /// that it can, and then tells what it could not. Blocks for milliseconds.
    pub fn reconcile(&self, wanted: &Wanted, leases: &mut Leases) -> Result<Outcome, NetworkError> {
        let mut outcome = Outcome::default();
        let mut namespaces = BTreeMap::new();
        for (id, pod) in &wanted.pods {
            match Pod::enter(&pod.netns) {
                Ok(entered) => {
                    namespaces.insert(id.clone(), entered);
                }
                Err(source) => outcome.troubles.push(Trouble::Enter {
                    pod: id.clone(),
                    source,
                }),
            }
        }
        let mut seen = self.look(&namespaces)?;
        let empty = wanted.pods.is_empty() && wanted.services.is_empty();
        if !empty {
            leases.guard = Guard {
                v4: leases.guard.v4 || seen.is(FORWARD_V4, "0"),
                v6: leases.guard.v6 || seen.is(FORWARD_V6, "0"),
            };
        }
        let (layout, errors) = leases.assign(&self.pool, wanted, &seen.foreign);
        outcome
            .troubles
            .extend(errors.into_iter().map(Trouble::from));
        for (namespace, network) in &layout.networks {
            let theirs = seen
                .foreign
                .iter()
                .find(|range| range.overlaps(&network.pods4) || range.overlaps(&network.services4));
            if let Some(theirs) = theirs {
                outcome.troubles.push(Trouble::Overlap {
                    namespace: namespace.clone(),
                    ours: network.pods4,
                    theirs: *theirs,
                });
            }
        }
        let mut failures = Vec::new();
        for round in 1..=ROUNDS {
            let outward = seen.outward();
            let (rules, taken) = ruleset(
                &self.names.table,
                &self.tag,
                wanted,
                &layout,
                leases.guard,
                &outward,
            );
            let changes = plan(
                &self.names,
                wanted,
                &layout,
                rules.as_ref(),
                leases.guard,
                &seen,
            );
            let settled = changes.is_empty();
            if settled || round == ROUNDS {
                outcome
                    .troubles
                    .extend(taken.into_iter().map(Trouble::from));
                if !settled && failures.is_empty() {
                    failures.extend(changes.iter().map(|c| Trouble::Undone(c.to_string())));
                }
                break;
            }
            failures.clear();
            let rewritten = changes
                .iter()
                .any(|change| matches!(change, Change::WriteTable(_)));
            for change in changes {
                match self.apply(&change, &namespaces) {
                    Ok(()) => outcome.changes.push(change),
                    Err(trouble) => failures.push(trouble),
                }
            }
            if rewritten {
                self.forget_stale(wanted, &layout, &seen);
            }
            seen = self.look(&namespaces)?;
        }
        outcome.troubles.append(&mut failures);
        if empty && outcome.troubles.is_empty() {
            leases.guard = Guard::default();
        }
        outcome.layout = layout;
        Ok(outcome)
    }

    /// A kernel without ctnetlink forgets by itself, after 30 s to 2 min
    /// without a datagram: no reason to fail.
    fn forget_stale(&self, wanted: &Wanted, layout: &Layout, seen: &Observed) {
        let networks = layout.networks.values();
        let places = layout.pods.values();
        let ports = wanted.pods.values().flat_map(|pod| &pod.ports);
        let flows = Flows {
            ranges: networks.flat_map(|n| [n.pods4, n.pods6]).collect(),
            pods: places
                .flat_map(|place| [place.addresses.v4.into(), place.addresses.v6.into()])
                .collect(),
            ports: ports
                .filter(|port| port.protocol == Protocol::Udp)
                .map(|port| port.host_port)
                .collect(),
            local: seen.local.clone(),
        };
        match self.nftables.forget_stale(&flows) {
            Ok(0) => (),
            Ok(count) => tracing::debug!("forgot {count} stale flows"),
            Err(error) => tracing::debug!("stale flows stay: {}", chain(&error)),
        }
    }

    fn look(&self, pods: &BTreeMap<PodId, Pod>) -> Result<Observed, NetworkError> {
        let mut seen = self.look_at_device().map_err(NetworkError::Look)?;
        seen.table = self.nftables.read(&self.names.table)?;
        for (id, pod) in pods {
            // A pod that ends while it is looked at is no trouble of the
            // others.
            if let Ok(inside) = pod.look() {
                seen.pods.insert(id.clone(), inside);
            }
        }
        Ok(seen)
    }

    fn look_at_device(&self) -> io::Result<Observed> {
        let links = self.routing.links()?;
        let ours: BTreeMap<u32, &String> = links
            .iter()
            .filter(|(name, _)| name.starts_with(&self.names.prefix))
            .map(|(name, link)| (link.index, name))
            .collect();
        let mut seen = Observed::default();
        for (index, prefix) in self.routing.addresses()? {
            seen.local.insert(prefix.address());
            match ours.get(&index) {
                Some(name) => {
                    seen.addresses.insert(((*name).clone(), prefix));
                }
                None => seen.foreign.push(prefix.network()),
            }
        }
        for route in self.routing.routes()? {
            match route.link.and_then(|index| ours.get(&index)) {
                Some(name) => {
                    seen.routes.insert(((*name).clone(), route.to));
                }
                // A default route is no claim to anything.
                None if route.to.prefix_len() > 0 => seen.foreign.push(route.to),
                None => (),
            }
        }
        for (index, address, mac) in self.routing.neighbours()? {
            if let Some(name) = ours.get(&index) {
                seen.neighbours.insert(((*name).clone(), address, mac));
            }
        }
        let mut settings: Vec<String> = [FORWARD_V4, FORWARD_V6, DISABLE_V6]
            .map(String::from)
            .into();
        settings.extend(BRIDGE_RULES.map(String::from));
        for name in links.keys() {
            settings.push(match name.starts_with(&self.names.prefix) {
                true => format!("net/ipv4/conf/{name}/route_localnet"),
                false => format!("net/ipv6/conf/{name}/accept_ra"),
            });
        }
        for setting in settings {
            match fs::read_to_string(Path::new(SETTINGS).join(&setting)) {
                Ok(value) => {
                    seen.settings.insert(setting, value.trim().into());
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => (),
                Err(error) => return Err(error),
            }
        }
        seen.links = links;
        Ok(seen)
    }

    fn apply(&self, change: &Change, pods: &BTreeMap<PodId, Pod>) -> Result<(), Trouble> {
        let failed = |source| Trouble::Change {
            change: Box::new(change.clone()),
            source,
        };
        let at = |at: &At| match at {
            At::Device => Ok(&self.routing),
            At::Pod(id) => match pods.get(id) {
                Some(pod) => Ok(&pod.routing),
                None => Err(failed(io::ErrorKind::NotFound.into())),
            },
        };
        let done = match change {
            Change::WriteTable(ruleset) => {
                let batch = nft::batch(&ruleset.table, Some(ruleset));
                return Ok(self.nftables.apply(&batch)?);
            }
            Change::DeleteTable(name) => {
                return Ok(self.nftables.apply(&nft::batch(name, None))?);
            }
            Change::Set(setting, value) => fs::write(Path::new(SETTINGS).join(setting), value),
            Change::DeleteLink(name) => self.routing.delete_link(name),
            Change::AddBridge { name, mac, alias } => self.routing.make_bridge(name, *mac, alias),
            Change::AddCable { pod, name, mac } => match pods.get(pod) {
                None => Err(io::ErrorKind::NotFound.into()),
                Some(entered) => {
                    let namespace = entered.namespace.as_fd();
                    self.routing.make_cable(name, POD_LINK, *mac, namespace)
                }
            },
            Change::Plug {
                name,
                bridge,
                alias,
                port,
            } => self.routing.plug(name, bridge, alias, *port),
            Change::Up(place, name) => at(place)?.up(name),
            Change::AddAddress(place, name, prefix) => at(place)?.add_address(name, *prefix),
            Change::DeleteAddress(place, name, prefix) => at(place)?.delete_address(name, *prefix),
            Change::AddRoute(place, name, to, via) => at(place)?.add_route(name, *to, *via),
            Change::AddNeighbour(place, name, address, mac) => {
                at(place)?.add_neighbour(name, *address, *mac)
            }
            Change::DeleteNeighbour(place, name, address) => {
                at(place)?.delete_neighbour(name, *address)
            }
        };
        done.map_err(failed)
    }
}

/// A pod's network namespace, entered.
#[derive(Debug)]
struct Pod {
    namespace: File,
    routing: Routing,
}

impl Pod {
    fn enter(path: &Path) -> io::Result<Self> {
        let namespace = open_namespace(path)?;
        let routing = Routing::open_in(&namespace)?;
        Ok(Self { namespace, routing })
    }

    fn look(&self) -> io::Result<Inside> {
        let links = self.routing.links()?;
        let name_of = |index: u32| {
            let named = links.iter().find(|(_, link)| link.index == index);
            named.map(|(name, _)| name.clone())
        };
        let mut inside = Inside::default();
        for (index, prefix) in self.routing.addresses()? {
            if let Some(name) = name_of(index) {
                inside.addresses.insert((name, prefix));
            }
        }
        for route in self.routing.routes()? {
            if let Some(name) = route.link.and_then(name_of) {
                inside.routes.insert((name, route.to, route.via));
            }
        }
        for (index, address, mac) in self.routing.neighbours()? {
            if let Some(name) = name_of(index) {
                inside.neighbours.insert((name, address, mac));
            }
        }
        inside.links = links;
        Ok(inside)
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            At::Device => f.write_str("the device"),
            At::Pod(id) => write!(f, "{id}"),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Set(name, value) => write!(f, "setting {} to {value}", name.replace('/', ".")),
            Change::DeleteLink(name) => write!(f, "removing interface {name}"),
            Change::AddBridge { name, .. } => write!(f, "making bridge {name}"),
            Change::AddCable { pod, name, .. } => write!(f, "making interface {name} for {pod}"),
            Change::Plug { name, bridge, .. } => write!(f, "joining {name} to bridge {bridge}"),
            Change::Up(at, name) => write!(f, "switching on {name} of {at}"),
            Change::AddAddress(at, name, prefix) => {
                write!(f, "giving {name} of {at} the address {prefix}")
            }
            Change::DeleteAddress(at, name, prefix) => {
                write!(f, "taking the address {prefix} from {name} of {at}")
            }
            Change::AddRoute(at, name, to, _) => {
                write!(f, "adding the route to {to} by {name} of {at}")
            }
            Change::AddNeighbour(at, name, address, _) => {
                write!(f, "making {address} a neighbour of {name} of {at}")
            }
            Change::DeleteNeighbour(at, name, address) => {
                write!(f, "forgetting neighbour {address} of {name} of {at}")
            }
            Change::WriteTable(ruleset) => write!(f, "writing nftables table {}", ruleset.table),
            Change::DeleteTable(name) => write!(f, "removing nftables table {name}"),
        }
    }
}
