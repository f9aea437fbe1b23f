//! Datagrams that the kernel still sends where a rule once said. A rule is
//! asked for the first packet of a connection only, and UDP "connections" live
//! as long as somebody sends: a sensor that reports every ten seconds would
//! talk to a pod that is gone for ever, or to nobody, because it began before
//! the pod was there.

use super::encode::{Header, attr, message};
use super::socket::{Nftables, NftablesError};
use super::view::attributes_of;
use crate::network::prefix::Prefix;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NFNL_SUBSYS_CTNETLINK`
const CONNTRACK: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// `IPPROTO_UDP`
const UDP: u8 = 17;
/// `CTA_TUPLE_ORIG`
const ORIGINAL: u16 = 1;
/// `CTA_TUPLE_REPLY`
const REPLY: u16 = 2;
/// `CTA_ZONE`
const ZONE: u16 = 18;

/// How flows have to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flows {
    /// Where pods are.
    pub ranges: Vec<Prefix>,
    /// The pods that are there.
    pub pods: BTreeSet<IpAddr>,
    /// Published UDP ports.
    pub ports: BTreeSet<u16>,
    /// Addresses of the device itself.
    pub local: BTreeSet<IpAddr>,
}

/// One end to the other, as the kernel tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tuple {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    destination_port: u16,
}

impl Flows {
    fn is_stale(&self, original: Tuple, reply: Tuple) -> bool {
        // Who answers is who the rules chose.
        let target = reply.source;
        let redirected = target != original.destination;
        let to_pod = self.ranges.iter().any(|range| range.contains(target));
        let gone = redirected && to_pod && !self.pods.contains(&target);
        let missed = !redirected
            && self.local.contains(&original.destination)
            && self.ports.contains(&original.destination_port);
        original.protocol == UDP && (gone || missed)
    }
}

impl Nftables {
    /// Forgets flows that the rules would send elsewhere today; how many.
    pub fn forget_stale(&self, flows: &Flows) -> Result<usize, NftablesError> {
        let mut stale = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            self.dump(CONNTRACK << 8 | GET, family, |attributes| {
                let of = |wanted: u16| {
                    let mut all = attributes_of(attributes);
                    all.find_map(|(kind, value)| (kind == wanted).then_some(value))
                };
                let (Some(original), Some(reply)) = (of(ORIGINAL), of(REPLY)) else {
                    return;
                };
                if let (Some(one), Some(other)) = (tuple(original), tuple(reply))
                    && flows.is_stale(one, other)
                {
                    let zone = of(ZONE).map(<[u8]>::to_vec);
                    stale.push((family, original.to_vec(), zone));
                }
            })?;
        }
        for (family, original, zone) in &stale {
            let mut bytes = Vec::new();
            let header = Header::of(CONNTRACK << 8 | DELETE, *family);
            message(&mut bytes, header, |bytes| {
                const NESTED: u16 = 1 << 15;
                attr(bytes, ORIGINAL | NESTED, original);
                if let Some(zone) = zone {
                    attr(bytes, ZONE, zone);
                }
            });
            self.ask(&bytes)?;
        }
        Ok(stale.len())
    }
}

fn tuple(nested: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    let (mut protocol, mut destination_port) = (None, 0);
    for (kind, value) in attributes_of(nested) {
        for (inner, value) in attributes_of(value) {
            match (kind, inner) {
                (1, 1 | 3) => source = ip(value),
                (1, 2 | 4) => destination = ip(value),
                (2, 1) => protocol = value.first().copied(),
                (2, 3) => destination_port = u16::from_be_bytes(value.try_into().ok()?),
                _ => (),
            }
        }
    }
    Some(Tuple {
        source: source?,
        destination: destination?,
        protocol: protocol?,
        destination_port,
    })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value)
            .ok()
            .map(|o| Ipv4Addr::from(o).into()),
        16 => <[u8; 16]>::try_from(value)
            .ok()
            .map(|o| Ipv6Addr::from(o).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_to_pods_that_are_gone_and_flows_that_missed_a_pod_are_stale() {
        let at = |text: &str| text.parse::<IpAddr>().unwrap();
        let flows = Flows {
            ranges: vec!["10.209.0.0/22".parse().unwrap()],
            pods: [at("10.209.0.7")].into(),
            ports: [53].into(),
            local: [at("192.0.2.1")].into(),
        };
        let tuple = |source: &str, destination: &str, destination_port| Tuple {
            source: at(source),
            destination: at(destination),
            protocol: UDP,
            destination_port,
        };
        let outside = "198.51.100.1";
        let asked = tuple(outside, "192.0.2.1", 53);
        let answer = |from: &str| tuple(from, outside, 999);
        assert!(!flows.is_stale(asked, answer("10.209.0.7")));
        assert!(flows.is_stale(asked, answer("10.209.0.8")));
        assert!(flows.is_stale(asked, answer("192.0.2.1")));
        // Another port of the device, somebody else's port, a pod that asks,
        // and TCP.
        let other = tuple(outside, "192.0.2.1", 54);
        assert!(!flows.is_stale(other, answer("192.0.2.1")));
        let elsewhere = tuple(outside, "203.0.113.1", 53);
        assert!(!flows.is_stale(elsewhere, answer("203.0.113.1")));
        let asks = tuple("10.209.0.9", outside, 53);
        assert!(!flows.is_stale(asks, tuple(outside, "192.0.2.1", 999)));
        let tcp = Tuple {
            protocol: 6,
            ..asked
        };
        assert!(!flows.is_stale(tcp, answer("10.209.0.8")));
    }
}
