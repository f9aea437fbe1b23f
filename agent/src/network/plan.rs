//! What has to change for the device to be as wanted. Pure: what is there
//! comes in, changes go out; planning again after them gives none.

use super::lease::{Guard, Layout, Network, Pair, PodPlace};
use super::nft::{Ruleset, TableView};
use super::prefix::Prefix;
use super::wanted::{PodId, Wanted};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The pod's end of its cable.
pub const POD_LINK: &str = "eth0";
/// What our interfaces say of themselves before the name of whom they serve.
const ALIAS: &str = "skerry ";
/// What the device's end of a pod's cable says of itself.
pub fn alias_of(id: &PodId) -> String {
    format!("{ALIAS}{id}")
}

/// `net.ipv4.ip_forward`
pub const FORWARD_V4: &str = "net/ipv4/ip_forward";
/// `net.ipv6.conf.all.forwarding`
pub const FORWARD_V6: &str = "net/ipv6/conf/all/forwarding";
/// Whether bridged frames pass the rules of IPv4 and IPv6, which comes with
/// the module `br_netfilter`.
pub const BRIDGE_RULES: [&str; 2] = [
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
];
/// `net.ipv6.conf.default.disable_ipv6`
pub const DISABLE_V6: &str = "net/ipv6/conf/default/disable_ipv6";

/// What there is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Interfaces of the device by name, all of them.
    pub links: BTreeMap<String, Link>,
    /// Addresses of our interfaces, by name.
    pub addresses: BTreeSet<(String, Prefix)>,
    /// Routes over our interfaces, by name.
    pub routes: BTreeSet<(String, Prefix)>,
    /// Permanent neighbours on our interfaces.
    pub neighbours: BTreeSet<(String, IpAddr, [u8; 6])>,
    /// The device's own addresses.
    pub local: BTreeSet<IpAddr>,
    /// Ranges that the device uses otherwise.
    pub foreign: Vec<Prefix>,
    /// Inside of the pods' network namespaces. A pod whose namespace could not
    /// be looked into is not in it.
    pub pods: BTreeMap<PodId, Inside>,
    /// Kernel settings by path below `/proc/sys`. One that is not in it does
    /// not exist.
    pub settings: BTreeMap<String, String>,
    /// Our table.
    pub table: Option<TableView>,
}

impl Observed {
    /// Whether the kernel speaks IPv6, and new interfaces do.
    fn has_v6(&self) -> bool {
        self.settings.contains_key(FORWARD_V6) && !self.is(DISABLE_V6, "1")
    }

    /// Whether a kernel setting has this value.
    pub fn is(&self, setting: &str, value: &str) -> bool {
        self.settings.get(setting).map(String::as_str) == Some(value)
    }

    /// The interfaces by which the device hangs on networks of others.
    pub fn outward(&self) -> Vec<String> {
        let outward = |link: &Link| link.kind.is_none() && !link.mac.is_empty();
        let links = self
            .links
            .iter()
            .filter(|(name, link)| *name != "lo" && outward(link));
        links.map(|(name, _)| name.clone()).collect()
    }
}

/// An interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number of it.
    pub index: u32,
    /// `bridge`, `veth`.
    pub kind: Option<String>,
    /// Switched on.
    pub up: bool,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// The number of the bridge that it is a port of.
    pub master: Option<u32>,
    /// The number of a cable's other end, in whichever namespace that is.
    pub peer: Option<u32>,
    /// What it says of itself.
    pub alias: Option<String>,
    /// As a port of a bridge.
    pub port: Port,
}

/// How a bridge passes frames on between its ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Port {
    /// Not to other ports like it, only to the device.
    pub isolated: bool,
    /// Also back to where it came from.
    pub hairpin: bool,
}

impl Port {
    /// What ports have to be. Everything that pods send is meant to pass the
    /// device's own stack. Where `br_netfilter` is on (Docker and Kubernetes
    /// switch it on), a frame that a rule sends to another pod of the same
    /// bridge goes there at once, as from port to port, so they must let it.
    fn right(seen: &Observed) -> Self {
        let bridged = BRIDGE_RULES.iter().any(|setting| seen.is(setting, "1"));
        Self {
            isolated: !bridged,
            hairpin: bridged,
        }
    }
}

/// A pod's network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inside {
    /// By name.
    pub links: BTreeMap<String, Link>,
    /// By interface.
    pub addresses: BTreeSet<(String, Prefix)>,
    /// Destination and gateway of each route.
    pub routes: BTreeSet<(String, Prefix, Option<IpAddr>)>,
    /// Permanent neighbours.
    pub neighbours: BTreeSet<(String, IpAddr, [u8; 6])>,
}

/// In which network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// The device's own.
    Device,
    /// A pod's.
    Pod(PodId),
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a kernel setting, by path below `/proc/sys`.
    Set(String, String),
    /// Removes an interface of the device, and with it its other end.
    DeleteLink(String),
    /// Makes a bridge.
    AddBridge {
        /// Its name.
        name: String,
        /// Its hardware address.
        mac: [u8; 6],
        /// What it says of itself.
        alias: String,
    },
    /// Makes a cable into a pod, with [`POD_LINK`] at the other end.
    AddCable {
        /// Whose.
        pod: PodId,
        /// The device's end.
        name: String,
        /// The hardware address of the pod's end.
        mac: [u8; 6],
    },
    /// Makes a cable's end a port of a bridge.
    Plug {
        /// The cable's end.
        name: String,
        /// The bridge.
        bridge: String,
        /// What it says of itself.
        alias: String,
        /// How it passes frames on.
        port: Port,
    },
    /// Switches an interface on.
    Up(At, String),
    /// Gives an interface an address.
    AddAddress(At, String, Prefix),
    /// Takes an address from an interface.
    DeleteAddress(At, String, Prefix),
    /// Adds a route over an interface.
    AddRoute(At, String, Prefix, Option<IpAddr>),
    /// Says for good which hardware address a neighbour has.
    AddNeighbour(At, String, IpAddr, [u8; 6]),
    /// Forgets a neighbour.
    DeleteNeighbour(At, String, IpAddr),
    /// Writes the table anew, whole.
    WriteTable(Ruleset),
    /// Removes the table of this name.
    DeleteTable(String),
}

/// What of the device's own names belongs to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// How the names of our interfaces begin.
    pub prefix: String,
    /// Our table.
    pub table: String,
}

impl Names {
    /// Of the agent with this tag.
    pub fn of(tag: &str) -> Self {
        Self {
            prefix: format!("sk{tag}"),
            table: format!("skerry_{tag}"),
        }
    }
}

/// The changes in the order in which they have to happen. The rules are there
/// before pods are reachable, and go after them.
pub fn plan(
    names: &Names,
    wanted: &Wanted,
    layout: &Layout,
    ruleset: Option<&Ruleset>,
    guard: Guard,
    seen: &Observed,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = superfluous(names, wanted, layout, seen);
    changes.extend(gone.iter().cloned().map(Change::DeleteLink));
    let published = |network: &Network| {
        wanted.pods.iter().any(|(id, pod)| {
            !pod.ports.is_empty()
                && layout.pods.contains_key(id)
                && layout.networks.get(&pod.namespace) == Some(network)
        })
    };
    if let Some(ruleset) = ruleset
        && seen.table.as_ref() != Some(&TableView::of(ruleset))
    {
        changes.push(Change::WriteTable(ruleset.clone()));
    }
    if !layout.networks.is_empty() {
        forwarding(&mut changes, seen);
    } else {
        put_back(&mut changes, names, guard, seen);
    }
    for (namespace, network) in &layout.networks {
        let made = seen.links.get(&network.bridge);
        let made = made.filter(|_| !gone.contains(&network.bridge));
        bridge(&mut changes, namespace.as_str(), network, made, seen);
        if published(network) {
            let setting = format!("net/ipv4/conf/{}/route_localnet", network.bridge);
            if !seen.is(&setting, "1") {
                changes.push(Change::Set(setting, "1".into()));
            }
        }
    }
    for (id, pod) in &wanted.pods {
        let (Some(place), Some(network), Some(inside)) = (
            layout.pods.get(id),
            layout.networks.get(&pod.namespace),
            seen.pods.get(id),
        ) else {
            continue;
        };
        let cable = seen.links.get(&place.veth);
        let cable = cable.filter(|_| !gone.contains(&place.veth));
        plug(&mut changes, id, place, network, cable, seen, &gone);
        equip(
            &mut changes,
            id,
            place,
            network,
            cable.is_some(),
            inside,
            seen,
        );
    }
    neighbours(&mut changes, wanted, layout, seen, &gone);
    if ruleset.is_none() && seen.table.is_some() {
        changes.push(Change::DeleteTable(names.table.clone()));
    }
    changes
}

/// Interfaces of ours that nobody wants, or that are not what they have to be.
fn superfluous(
    names: &Names,
    wanted: &Wanted,
    layout: &Layout,
    seen: &Observed,
) -> BTreeSet<String> {
    let bridges: BTreeMap<&str, &Network> = layout
        .networks
        .values()
        .map(|network| (network.bridge.as_str(), network))
        .collect();
    let cables: BTreeMap<&str, &PodId> = layout
        .pods
        .iter()
        .filter(|(id, _)| wanted.pods.contains_key(id))
        .map(|(id, place)| (place.veth.as_str(), id))
        .collect();
    let keep = |name: &str, link: &Link| {
        let kind = link.kind.as_deref();
        if bridges.contains_key(name) {
            return kind == Some("bridge");
        }
        let Some(id) = cables.get(name) else {
            return false;
        };
        // A cable has to end in its own pod; when that cannot be looked into,
        // nothing is torn down for it.
        let ends_there = match seen.pods.get(id) {
            None => true,
            Some(inside) => inside
                .links
                .get(POD_LINK)
                .is_some_and(|end| end.peer == Some(link.index) && link.peer == Some(end.index)),
        };
        kind == Some("veth") && ends_there
    };
    seen.links
        .iter()
        .filter(|(name, link)| name.starts_with(&names.prefix) && !keep(name, link))
        .map(|(name, _)| name.clone())
        .collect()
}

fn forwarding(changes: &mut Vec<Change>, seen: &Observed) {
    if !seen.is(FORWARD_V4, "1") {
        changes.push(Change::Set(FORWARD_V4.into(), "1".into()));
    }
    if seen.has_v6() && !seen.is(FORWARD_V6, "1") {
        // A device that learns its IPv6 route from its router would forget it
        // as soon as it forwards: 2 says "all the same".
        let learns = seen.settings.iter().filter(|(name, value)| {
            name.starts_with("net/ipv6/conf/") && name.ends_with("/accept_ra") && *value == "1"
        });
        for (name, _) in learns {
            changes.push(Change::Set(name.clone(), "2".into()));
        }
        changes.push(Change::Set(FORWARD_V6.into(), "1".into()));
    }
}

/// The device is no router any more, if it was none before us, and if nobody
/// with a bridge of his own (Docker, libvirt) has come to rely on it.
fn put_back(changes: &mut Vec<Change>, names: &Names, guard: Guard, seen: &Observed) {
    let others = seen.links.iter().any(|(name, link)| {
        link.kind.as_deref() == Some("bridge") && !name.starts_with(&names.prefix)
    });
    for (ours, setting) in [(guard.v4, FORWARD_V4), (guard.v6, FORWARD_V6)] {
        if ours && !others && seen.is(setting, "1") {
            changes.push(Change::Set(setting.into(), "0".into()));
        }
    }
}

fn bridge(
    changes: &mut Vec<Change>,
    namespace: &str,
    network: &Network,
    made: Option<&Link>,
    seen: &Observed,
) {
    let name = &network.bridge;
    let alias = format!("{ALIAS}{namespace}");
    let right = |link: &&Link| link.mac == network.mac && link.alias.as_ref() == Some(&alias);
    if made.filter(right).is_none() {
        changes.push(Change::AddBridge {
            name: name.clone(),
            mac: network.mac,
            alias,
        });
    }
    // Addresses and routes go with the bridge, and IPv4 routes when it is
    // switched off: the second look that follows puts them back.
    if !made.is_some_and(|link| link.up) {
        changes.push(Change::Up(At::Device, name.clone()));
    }
    let v6 = seen.has_v6();
    let pods4 = network.pods4.prefix_len();
    let pods6 = network.pods6.prefix_len();
    let addresses = [
        Prefix::new(network.gateway4.into(), pods4),
        Prefix::new(network.gateway6.into(), pods6),
    ];
    for address in addresses.into_iter().flatten() {
        let there = (name.clone(), address);
        if (address.is_v4() || v6) && (made.is_none() || !seen.addresses.contains(&there)) {
            changes.push(Change::AddAddress(At::Device, name.clone(), address));
        }
    }
    // So that the device itself finds services also without a default route,
    // and none of it ever goes to somebody else's network.
    for range in [network.services4, network.services6] {
        let there = (name.clone(), range);
        if (range.is_v4() || v6) && (made.is_none() || !seen.routes.contains(&there)) {
            changes.push(Change::AddRoute(At::Device, name.clone(), range, None));
        }
    }
}

fn plug(
    changes: &mut Vec<Change>,
    id: &PodId,
    place: &PodPlace,
    network: &Network,
    cable: Option<&Link>,
    seen: &Observed,
    gone: &BTreeSet<String>,
) {
    let name = &place.veth;
    if cable.is_none() {
        changes.push(Change::AddCable {
            pod: id.clone(),
            name: name.clone(),
            mac: place.mac,
        });
    }
    let alias = alias_of(id);
    let port = Port::right(seen);
    let bridge = seen.links.get(&network.bridge);
    let bridge = bridge.filter(|_| !gone.contains(&network.bridge));
    let plugged = cable.is_some_and(|link| {
        bridge.is_some_and(|bridge| link.master == Some(bridge.index))
            && link.port == port
            && link.alias.as_ref() == Some(&alias)
    });
    if !plugged {
        changes.push(Change::Plug {
            name: name.clone(),
            bridge: network.bridge.clone(),
            alias,
            port,
        });
    }
    if !cable.is_some_and(|link| link.up) {
        changes.push(Change::Up(At::Device, name.clone()));
    }
}

/// The device knows where its pods are, and need not ask: nobody else can say
/// that he is a pod, and no first packet waits for an answer.
fn neighbours(
    changes: &mut Vec<Change>,
    wanted: &Wanted,
    layout: &Layout,
    seen: &Observed,
    gone: &BTreeSet<String>,
) {
    let mut right = BTreeSet::new();
    for (id, pod) in &wanted.pods {
        let place = layout.pods.get(id);
        if let (Some(place), Some(network)) = (place, layout.networks.get(&pod.namespace)) {
            let Pair { v4, v6 } = place.addresses;
            right.insert((network.bridge.clone(), IpAddr::from(v4), place.mac));
            if seen.has_v6() {
                right.insert((network.bridge.clone(), IpAddr::from(v6), place.mac));
            }
        }
    }
    for (link, address, mac) in &right {
        let there = !gone.contains(link) && seen.links.contains_key(link);
        if !there || !seen.neighbours.contains(&(link.clone(), *address, *mac)) {
            changes.push(Change::AddNeighbour(
                At::Device,
                link.clone(),
                *address,
                *mac,
            ));
        }
    }
    for (link, address, _) in &seen.neighbours {
        let wanted = right.iter().any(|(l, a, _)| (l, a) == (link, address));
        if !wanted && !gone.contains(link) {
            changes.push(Change::DeleteNeighbour(At::Device, link.clone(), *address));
        }
    }
}

/// What is inside of a pod: more of it than ours is the pod's own business.
fn equip(
    changes: &mut Vec<Change>,
    id: &PodId,
    place: &PodPlace,
    network: &Network,
    has_cable: bool,
    inside: &Inside,
    seen: &Observed,
) {
    let at = || At::Pod(id.clone());
    let up = |name: &str| inside.links.get(name).is_some_and(|link| link.up);
    if !up("lo") {
        changes.push(Change::Up(at(), "lo".into()));
    }
    let Pair { v4, v6 } = place.addresses;
    let mut families: Vec<(IpAddr, IpAddr, Prefix)> =
        vec![(v4.into(), network.gateway4.into(), Prefix::ALL_V4)];
    if seen.has_v6() {
        families.push((v6.into(), network.gateway6.into(), Prefix::ALL_V6));
    }
    let link = POD_LINK.to_string();
    for (own, _, _) in &families {
        let own = Prefix::host(*own);
        if !has_cable || !inside.addresses.contains(&(link.clone(), own)) {
            changes.push(Change::AddAddress(at(), link.clone(), own));
        }
    }
    let own: Vec<Prefix> = families
        .iter()
        .map(|(own, _, _)| Prefix::host(*own))
        .collect();
    for (of, address) in &inside.addresses {
        let ours = [network.pods4, network.pods6]
            .iter()
            .any(|range| range.contains(address.address()));
        if has_cable && *of == link && ours && !own.contains(address) {
            changes.push(Change::DeleteAddress(at(), link.clone(), *address));
        }
    }
    let was_up = has_cable && up(POD_LINK);
    if !was_up {
        changes.push(Change::Up(at(), link.clone()));
    }
    for (_, gateway, all) in families {
        let neighbour = (link.clone(), gateway, network.mac);
        if !was_up || !inside.neighbours.contains(&neighbour) {
            changes.push(Change::AddNeighbour(
                at(),
                link.clone(),
                gateway,
                network.mac,
            ));
        }
        for (to, via) in [(Prefix::host(gateway), None), (all, Some(gateway))] {
            if !was_up || !inside.routes.contains(&(link.clone(), to, via)) {
                changes.push(Change::AddRoute(at(), link.clone(), to, via));
            }
        }
    }
}
