//! Which addresses belong to whom: a network for each namespace out of the
//! pool, an address for each pod and each service.
//!
//! The pool is cut into networks of a /21: the lower /22 is for pods, the
//! upper one for services. A name always asks for the same place first (its
//! hash), so that an app mostly keeps its address even when the leases are
//! lost, and takes the next free one when another is there already.
//!
//! IPv6 follows IPv4: a prefix out of `fd00::/8` made from the device's name
//! (RFC 4193 wants 40 random bits, which a hash of a unique name is), then the
//! number of the network, then that of the pod.

use super::prefix::Prefix;
use super::wanted::{PodId, Wanted};
use serde::{Deserialize, Serialize};
use skerry_wire::{AppName, Digest, Namespace};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of a network's prefix: half for pods, half for services.
const NETWORK_BITS: u8 = 21;
/// Bits of the pods' prefix, and of the services'. 1,020 pods, a little less
/// than the 1,023 ports that a Linux bridge can have.
const HALF_BITS: u8 = 22;
/// Addresses in one half.
const HALF: u16 = 1 << (32 - HALF_BITS);
/// The first number for a pod or a service: 0 is the network's own, 1 the
/// bridge's.
const FIRST: u16 = 2;
/// How many numbers there are: the last address of a network is its
/// broadcast.
const NUMBERS: u16 = HALF - 1 - FIRST;

/// Where the networks of this device come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    range: Prefix,
    device: String,
}

/// A pool that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Not IPv4, or smaller than one network.
    #[error("the pool {0} must be an IPv4 range of /{NETWORK_BITS} or larger, as 10.209.0.0/16")]
    Range(Prefix),
}

impl Pool {
    /// Far from what Docker (172.17.0.0/16), Podman (10.88.0.0/16), K3s
    /// (10.42.0.0/15) and most home routers take. 32 networks.
    pub const DEFAULT_RANGE: Prefix = Prefix::v4(Ipv4Addr::new(10, 209, 0, 0), 16);

    /// The pool of a device. `device` has to be unique: the IPv6 prefix and
    /// the names of interfaces come from it.
    pub fn new(range: Prefix, device: &str) -> Result<Self, PoolError> {
        if !range.is_v4() || range.prefix_len() > NETWORK_BITS || range.prefix_len() < 8 {
            return Err(PoolError::Range(range));
        }
        Ok(Self {
            range: range.network(),
            device: device.into(),
        })
    }

    /// Four hex digits that tell this device's interfaces and table from those
    /// of another agent on the same machine.
    pub fn tag(&self) -> String {
        let hash = hash(&["skerry network tag", &self.device]);
        format!("{:02x}{:02x}", hash[0], hash[1])
    }

    fn networks(&self) -> u16 {
        let bits = NETWORK_BITS - self.range.prefix_len();
        // At most 2^13: the range is at least a /8.
        1 << bits
    }

    fn half(&self, network: u16, upper: bool) -> Ipv4Addr {
        let IpAddr::V4(base) = self.range.address() else {
            unreachable!("the pool is IPv4");
        };
        let halves = u32::from(network) * 2 + u32::from(upper);
        Ipv4Addr::from_bits(base.to_bits() + halves * u32::from(HALF))
    }

    fn half6(&self, network: u16, upper: bool) -> Ipv6Addr {
        let hash = hash(&["skerry network prefix", &self.device]);
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..6].copy_from_slice(&hash[..5]);
        octets[6..8].copy_from_slice(&(network * 2 + u16::from(upper)).to_be_bytes());
        Ipv6Addr::from(octets)
    }

    fn whole(&self, network: u16) -> Prefix {
        Prefix::v4(self.half(network, false), NETWORK_BITS)
    }
}

fn hash(parts: &[&str]) -> [u8; 32] {
    *Digest::of(parts.join("\0").as_bytes()).as_bytes()
}

/// A place between 0 and `count` that a name always asks for first.
fn place(parts: &[&str], count: u16) -> u16 {
    let hash = hash(parts);
    let number = u64::from_be_bytes(hash[..8].try_into().expect("eight of 32 bytes"));
    (number % u64::from(count)) as u16
}

/// The first free number from the wished one on, around the end.
fn free(wished: u16, count: u16, is_free: impl Fn(u16) -> bool) -> Option<u16> {
    (0..count)
        .map(|step| ((u32::from(wished) + u32::from(step)) % u32::from(count)) as u16)
        .find(|number| is_free(*number))
}

/// What was given out. The caller keeps it from one reconciliation to the
/// next, and across restarts of the agent; losing it costs running pods their
/// address only where two names wish for the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leases {
    networks: BTreeMap<Namespace, u16>,
    pods: BTreeMap<PodId, u16>,
    /// By `namespace/name`.
    services: BTreeMap<String, u16>,
    /// Forwarding was off before us, so that nobody but our pods may use it.
    pub guard: Guard,
}

/// For which family the device was no router before us, and stays none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

/// Why a pod or service has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// No network is left for a namespace.
    #[error(
        "no network is free for namespace {namespace}: the pool {pool} is used up or overlaps \
         with routes of this device; set another networkPool in the agent's configuration"
    )]
    NoNetwork {
        /// Of which.
        namespace: Namespace,
        /// Out of which.
        pool: Prefix,
    },
    /// A namespace's network is full.
    #[error("the network of namespace {0} is full: it holds {NUMBERS} pods and as many services")]
    Full(Namespace),
}

/// A namespace's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its bridge.
    pub bridge: String,
    /// The bridge's own hardware address: it must not change when ports come
    /// and go, or pods send to nobody until their neighbour entries age.
    pub mac: [u8; 6],
    /// The pods' range.
    pub pods4: Prefix,
    /// The pods' range.
    pub pods6: Prefix,
    /// The services' range.
    pub services4: Prefix,
    /// The services' range.
    pub services6: Prefix,
    /// The bridge's address.
    pub gateway4: Ipv4Addr,
    /// The bridge's address.
    pub gateway6: Ipv6Addr,
}

/// A pod's or a service's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

/// Where a pod is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlace {
    /// Its addresses.
    pub addresses: Pair,
    /// The device's end of its cable.
    pub veth: String,
    /// The hardware address of its own end.
    pub mac: [u8; 6],
}

/// All addresses and names, worked out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// Of each namespace with pods or services.
    pub networks: BTreeMap<Namespace, Network>,
    /// Of each pod that has one.
    pub pods: BTreeMap<PodId, PodPlace>,
    /// Of each service that has one.
    pub services: BTreeMap<(Namespace, AppName), Pair>,
}

impl Leases {
    /// Gives everyone wanted an address, takes those back that nobody wants
    /// any more, and works all of it out. `taken` are ranges that the device
    /// uses otherwise; networks that were given out stay where they are.
    pub fn assign(
        &mut self,
        pool: &Pool,
        wanted: &Wanted,
        taken: &[Prefix],
    ) -> (Layout, Vec<LeaseError>) {
        let mut errors = Vec::new();
        let of_pods = wanted.pods.values().map(|pod| &pod.namespace);
        let of_services = wanted.services.iter().map(|service| &service.namespace);
        let namespaces: BTreeSet<&Namespace> = of_pods.chain(of_services).collect();
        let count = pool.networks();
        self.networks
            .retain(|namespace, number| namespaces.contains(namespace) && *number < count);
        for namespace in &namespaces {
            if self.networks.contains_key(*namespace) {
                continue;
            }
            let wished = place(&["network", namespace.as_str()], count);
            let is_free = |number: u16| {
                let whole = pool.whole(number);
                !self.networks.values().any(|given| *given == number)
                    && !taken.iter().any(|range| range.overlaps(&whole))
            };
            match free(wished, count, is_free) {
                Some(number) => {
                    self.networks.insert((*namespace).clone(), number);
                }
                None => errors.push(LeaseError::NoNetwork {
                    namespace: (*namespace).clone(),
                    pool: pool.range,
                }),
            }
        }
        let mut layout = Layout::default();
        for (namespace, number) in &self.networks {
            layout
                .networks
                .insert(namespace.clone(), network(pool, *number));
        }
        self.assign_pods(pool, wanted, &mut layout, &mut errors);
        self.assign_services(pool, wanted, &mut layout, &mut errors);
        (layout, errors)
    }

    fn assign_pods(
        &mut self,
        pool: &Pool,
        wanted: &Wanted,
        layout: &mut Layout,
        errors: &mut Vec<LeaseError>,
    ) {
        self.pods.retain(|id, number| {
            wanted.pods.contains_key(id) && (FIRST..FIRST + NUMBERS).contains(number)
        });
        let mut used: BTreeMap<&Namespace, BTreeSet<u16>> = BTreeMap::new();
        for (id, number) in &self.pods {
            let namespace = &wanted.pods[id].namespace;
            used.entry(namespace).or_default().insert(*number);
        }
        for (id, pod) in &wanted.pods {
            let Some(network) = self.networks.get(&pod.namespace) else {
                continue;
            };
            let used = used.entry(&pod.namespace).or_default();
            let number = self.pods.get(id).copied().or_else(|| {
                let wished = place(&["pod", pod.namespace.as_str(), pod.app.as_str()], NUMBERS);
                free(wished, NUMBERS, |n| !used.contains(&(n + FIRST))).map(|n| n + FIRST)
            });
            let Some(number) = number else {
                errors.push(LeaseError::Full(pod.namespace.clone()));
                continue;
            };
            used.insert(number);
            self.pods.insert(id.clone(), number);
            let addresses = pair(pool, *network, false, number);
            let [a, b, c, d] = addresses.v4.octets();
            let place = PodPlace {
                addresses,
                veth: format!("sk{}p{network:x}-{number:x}", pool.tag()),
                mac: [0x02, 0x53, a, b, c, d],
            };
            layout.pods.insert(id.clone(), place);
        }
    }

    fn assign_services(
        &mut self,
        pool: &Pool,
        wanted: &Wanted,
        layout: &mut Layout,
        errors: &mut Vec<LeaseError>,
    ) {
        let key = |namespace: &Namespace, name: &AppName| format!("{namespace}/{name}");
        let keys: BTreeSet<String> = wanted
            .services
            .iter()
            .map(|service| key(&service.namespace, &service.name))
            .collect();
        self.services.retain(|service, number| {
            keys.contains(service) && (FIRST..FIRST + NUMBERS).contains(number)
        });
        for service in &wanted.services {
            let Some(network) = self.networks.get(&service.namespace) else {
                continue;
            };
            let own = key(&service.namespace, &service.name);
            let number = self.services.get(&own).copied().or_else(|| {
                let within = format!("{}/", service.namespace);
                let used: BTreeSet<u16> = self
                    .services
                    .iter()
                    .filter(|(other, _)| other.starts_with(&within))
                    .map(|(_, number)| *number)
                    .collect();
                let wished = place(&["service", &own], NUMBERS);
                free(wished, NUMBERS, |n| !used.contains(&(n + FIRST))).map(|n| n + FIRST)
            });
            let Some(number) = number else {
                errors.push(LeaseError::Full(service.namespace.clone()));
                continue;
            };
            self.services.insert(own, number);
            layout.services.insert(
                (service.namespace.clone(), service.name.clone()),
                pair(pool, *network, true, number),
            );
        }
    }
}

fn pair(pool: &Pool, network: u16, upper: bool, number: u16) -> Pair {
    let v4 = pool.half(network, upper).to_bits() + u32::from(number);
    let v6 = pool.half6(network, upper).to_bits() + u128::from(number);
    Pair {
        v4: Ipv4Addr::from_bits(v4),
        v6: Ipv6Addr::from_bits(v6),
    }
}

fn network(pool: &Pool, number: u16) -> Network {
    let gateway = pair(pool, number, false, 1);
    let [a, b, c, d] = gateway.v4.octets();
    Network {
        bridge: format!("sk{}b{number:x}", pool.tag()),
        mac: [0x02, 0x53, a, b, c, d],
        pods4: Prefix::v4(pool.half(number, false), HALF_BITS),
        pods6: Prefix::v6(pool.half6(number, false), 64),
        services4: Prefix::v4(pool.half(number, true), HALF_BITS),
        services6: Prefix::v6(pool.half6(number, true), 64),
        gateway4: gateway.v4,
        gateway6: gateway.v6,
    }
}

#[cfg(test)]
mod tests {
    use super::super::wanted::Pod;
    use super::*;
    use proptest::prelude::*;

    fn pod(namespace: &str, app: &str) -> Pod {
        Pod {
            namespace: namespace.parse().unwrap(),
            app: app.parse().unwrap(),
            netns: "/nowhere".into(),
            ready: true,
            rank: 0,
            ports: vec![],
            egress: None,
        }
    }

    fn wanted(apps: &BTreeSet<(u8, u8)>) -> Wanted {
        let pods = apps.iter().map(|(namespace, app)| {
            let (namespace, app) = (format!("n{namespace}"), format!("a{app}"));
            (PodId(format!("{namespace}/{app}")), pod(&namespace, &app))
        });
        Wanted {
            pods: pods.collect(),
            services: vec![],
        }
    }

    fn pool() -> Pool {
        Pool::new(Pool::DEFAULT_RANGE, "device-1").unwrap()
    }

    #[test]
    fn networks_avoid_what_the_device_uses() {
        let pool = Pool::new("10.209.0.0/20".parse().unwrap(), "d").unwrap();
        let wanted = wanted(&[(1, 1)].into());
        for taken in ["10.209.0.0/21", "10.209.8.0/21"] {
            let taken: Prefix = taken.parse().unwrap();
            let (layout, errors) = Leases::default().assign(&pool, &wanted, &[taken]);
            assert_eq!(errors, []);
            let network = layout.networks.values().next().unwrap();
            assert!(!taken.overlaps(&network.pods4));
        }
        let all: Prefix = "10.0.0.0/8".parse().unwrap();
        let (layout, errors) = Leases::default().assign(&pool, &wanted, &[all]);
        assert!(layout.pods.is_empty());
        assert!(matches!(errors[..], [LeaseError::NoNetwork { .. }]));
    }

    #[test]
    fn names_fit_an_interface() {
        let wide = Pool::new("10.0.0.0/8".parse().unwrap(), "d").unwrap();
        let all: BTreeSet<_> = (0..40).map(|n| (n, 1)).collect();
        let (layout, _) = Leases::default().assign(&wide, &wanted(&all), &[]);
        assert_eq!(layout.pods.len(), 40);
        for place in layout.pods.values() {
            assert!(place.veth.len() <= 15, "{}", place.veth);
        }
        assert!(Pool::new("10.0.0.0/24".parse().unwrap(), "d").is_err());
        assert!(Pool::new("fd00::/16".parse().unwrap(), "d").is_err());
    }

    #[test]
    fn devices_have_prefixes_of_their_own() {
        let other = Pool::new(Pool::DEFAULT_RANGE, "device-2").unwrap();
        assert_ne!(pool().half6(0, false), other.half6(0, false));
        assert!(pool().half6(0, false).is_unique_local());
    }

    proptest! {
        #[test]
        fn addresses_are_unique_and_stay(
            first in proptest::collection::btree_set((0u8..4, 0u8..60), 0..80),
            second in proptest::collection::btree_set((0u8..4, 0u8..60), 0..80),
        ) {
            let mut leases = Leases::default();
            let (before, errors) = leases.assign(&pool(), &wanted(&first), &[]);
            prop_assert!(errors.is_empty());
            let (again, _) = leases.assign(&pool(), &wanted(&first), &[]);
            prop_assert_eq!(&before, &again);
            let (after, _) = leases.assign(&pool(), &wanted(&second), &[]);
            let unique: BTreeSet<_> = after.pods.values().map(|p| p.addresses.v4).collect();
            prop_assert_eq!(unique.len(), second.len());
            for (id, place) in &after.pods {
                if let Some(old) = before.pods.get(id) {
                    prop_assert_eq!(old, place);
                }
            }
            let text = serde_json::to_string(&leases).unwrap();
            prop_assert_eq!(serde_json::from_str::<Leases>(&text).unwrap(), leases);
        }
    }
}
