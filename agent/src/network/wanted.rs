//! What the device's networks shall be: pods, published ports, services and
//! what pods may reach. Values only; [`plan`](super::plan) compares them with
//! what is there.

use super::prefix::Prefix;
use serde::{Deserialize, Serialize};
use skerry_wire::{AppName, Namespace, policy};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;

pub use skerry_wire::pod::Protocol;

/// Names one pod on this device: its app and revision. Only compared, shown
/// and written beside its interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodId(pub String);

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// All that shall be there. Empty means that nothing of ours is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The pods with `network: bridge`. Those of the host and without network
    /// need nothing.
    pub pods: BTreeMap<PodId, Pod>,
    /// Services of the device, each name once in its namespace.
    pub services: Vec<Service>,
}

/// A pod on the bridge of its namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Whose bridge it is on.
    pub namespace: Namespace,
    /// The name that others reach it by.
    pub app: AppName,
    /// The file of its network namespace, which has to be there before and as
    /// long as the pod is wanted.
    pub netns: PathBuf,
    /// Only ready pods are behind their app's name.
    pub ready: bool,
    /// When it came: a port that two apps want stays with the one that was
    /// there first.
    pub rank: u64,
    /// Ports of the device that lead to it.
    pub ports: Vec<PublishedPort>,
    /// What it may reach; everything when absent.
    pub egress: Option<Egress>,
}

/// A port of the device that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishedPort {
    /// At which of the device's addresses: all of both families when absent,
    /// all of one family when it is `0.0.0.0` or `::`.
    pub host_ip: Option<IpAddr>,
    /// The device's port, from 1.
    pub host_port: u16,
    /// The pod's port, from 1.
    pub pod_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// What a pod may reach. Answers to what others began are always allowed, and
/// so are names (DNS of the bridge).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Egress {
    /// The first that fits decides.
    pub rules: Vec<EgressRule>,
    /// When none fits.
    pub otherwise: Verdict,
    /// Most bytes in a second, IPv4 and IPv6 together; more is dropped.
    pub bytes_per_second: Option<NonZeroU64>,
}

/// One rule of what a pod may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressRule {
    /// Where to; anywhere when absent.
    pub to: Option<Prefix>,
    /// Which ports; all protocols and ports when absent.
    pub ports: Option<PortRange>,
    /// Whether it may.
    pub verdict: Verdict,
}

/// Ports of one protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The first.
    pub first: u16,
    /// The last, not before the first.
    pub last: u16,
}

impl From<&policy::Egress> for Egress {
    /// A range that cannot be allows nothing and denies everything.
    fn from(egress: &policy::Egress) -> Self {
        let rules = egress.rules.iter().filter_map(|rule| {
            let verdict = Verdict::from(rule.access);
            let to = rule.to.map(|(address, len)| Prefix::new(address, len));
            let to = match to {
                Some(None) if verdict == Verdict::Allow => return None,
                to => to.flatten(),
            };
            let ports = rule.ports.map(|(protocol, first, last)| PortRange {
                protocol,
                first,
                last,
            });
            Some(EgressRule { to, ports, verdict })
        });
        Self {
            rules: rules.collect(),
            otherwise: egress.otherwise.into(),
            bytes_per_second: egress.bytes_per_second.and_then(NonZeroU64::new),
        }
    }
}

impl From<policy::Access> for Verdict {
    fn from(access: policy::Access) -> Self {
        match access {
            policy::Access::Allow => Self::Allow,
            policy::Access::Deny => Self::Deny,
        }
    }
}

/// May or may not. A refused packet is answered, so that programs see it at
/// once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// May.
    Allow,
    /// May not.
    Deny,
}

/// An address of its own that leads to pods of the same namespace, each new
/// connection to the next ready one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Whose.
    pub namespace: Namespace,
    /// Its name in that namespace.
    pub name: AppName,
    /// The pods behind it. Those that are not ready are left out.
    pub endpoints: Vec<Endpoint>,
}

/// A pod behind a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Which.
    pub pod: PodId,
    /// Which ports of the service lead to it; empty means all that no pod
    /// names, to the same port of the pod.
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServicePort {
    /// The service's.
    pub port: u16,
    /// The pod's.
    pub pod_port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}
