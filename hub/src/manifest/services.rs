//! What a manifest says around a pod's network: the services that it is behind,
//! and what it may reach. It may change without a restart.

use super::decode::{Decoder, Path};
use super::network::{MAX_PORTS, number, protocol, unknown_port, write_protocol};
use super::quantity::{self, bytes_text};
use super::tree::{Node, Value};
use super::unsupported::Place;
use super::write::Fields as Written;
use skerry_wire::pod::{Network, Port, Protocol};
use skerry_wire::policy::{Access, Egress, EgressRule, Service, ServicePort};
use skerry_wire::{AppName, AppPolicy, PodSpec};
use std::net::IpAddr;

// --- services

/// Services and egress rules need an address of the pod's own.
fn needs_bridge<Image>(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, pod: &PodSpec<Image>) {
    if pod.network != Network::Bridge {
        d.error(
            node.at,
            path,
            "needs a pod with an address of its own",
            "write network: bridge in spec.template.spec",
        );
    }
}

/// `spec.services`.
pub(super) fn services<Image>(
    d: &mut Decoder<'_>,
    node: Option<&Node>,
    path: &Path<'_>,
    pod: &PodSpec<Image>,
) -> Vec<Service> {
    let Some(node) = node else {
        return Vec::new();
    };
    let items = d.bounded_sequence(node, path, AppPolicy::MAX_SERVICES);
    let items = items.unwrap_or_default();
    if !items.is_empty() {
        needs_bridge(d, node, path, pod);
    }
    let ports: Vec<&Port> = pod.all_containers().flat_map(|c| &c.ports).collect();
    let mut services: Vec<Service> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let path = path.index(index);
        let Some(service) = service(d, item, &path, &ports) else {
            continue;
        };
        if services.iter().any(|other| other.name == service.name) {
            let message = format!("there are two services named '{}'", service.name);
            d.error(item.at, &path.field("name"), message, "make one of them");
        }
        services.push(service);
    }
    services
}

fn service(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    pod_ports: &[&Port],
) -> Option<Service> {
    let mut fields = d.mapping(node, path)?;
    let name = fields
        .require(d, path, "name", "name the service, as in name: web")
        .and_then(|node| d.name(node, &path.field("name"), AppName::new));
    let mut ports: Vec<ServicePort> = Vec::new();
    if let Some(node) = fields.take("ports") {
        let path = path.field("ports");
        let items = d.bounded_sequence(node, &path, MAX_PORTS);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            let path = path.index(index);
            let Some(port) = service_port(d, item, &path, pod_ports) else {
                continue;
            };
            let same =
                |other: &ServicePort| (other.port, other.protocol) == (port.port, port.protocol);
            if ports.iter().any(same) {
                let message = format!("port {} is there twice", port.port);
                d.error(item.at, &path, message, "remove one");
            }
            ports.push(port);
        }
    }
    fields.finish(d, path, Place::Service);
    Some(Service { name: name?, ports })
}

fn service_port(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    pod_ports: &[&Port],
) -> Option<ServicePort> {
    let mut fields = d.mapping(node, path)?;
    let port = fields
        .require(d, path, "port", "write the service's port, as in port: 80")
        .and_then(|node| number(d, node, &path.field("port")));
    let written = match fields.take("protocol") {
        Some(node) => Some(protocol(d, node, &path.field("protocol"))?),
        None => None,
    };
    let target = match fields.take("targetPort") {
        Some(node) => Some(target_port(
            d,
            node,
            &path.field("targetPort"),
            written,
            pod_ports,
        )?),
        None => None,
    };
    fields.finish(d, path, Place::ServicePort);
    let port = port?;
    let (target_port, of_target) = target.unwrap_or((port, None));
    Some(ServicePort {
        port,
        target_port,
        protocol: written.or(of_target).unwrap_or_default(),
    })
}

/// By number, or by name with its protocol.
fn target_port(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    written: Option<Protocol>,
    ports: &[&Port],
) -> Option<(u16, Option<Protocol>)> {
    if let Value::Scalar(scalar) = &node.value
        && !scalar.text.starts_with(|c: char| c.is_ascii_digit())
    {
        let named = ports
            .iter()
            .filter(|p| p.name.as_ref() == Some(&scalar.text));
        let mut fits = named.filter(|port| written.is_none_or(|wanted| wanted == port.protocol));
        let found = fits.next();
        if found.is_none() {
            unknown_port(d, node, path, ports.iter().copied());
        }
        return found.map(|port| (port.container_port, Some(port.protocol)));
    }
    number(d, node, path).map(|port| (port, None))
}

// --- egress

/// `spec.egress`: Kubernetes' NetworkPolicy for one app, with an order.
pub(super) fn egress<Image>(
    d: &mut Decoder<'_>,
    node: Option<&Node>,
    path: &Path<'_>,
    pod: &PodSpec<Image>,
) -> Option<Egress> {
    let node = node?;
    needs_bridge(d, node, path, pod);
    let mut fields = d.mapping(node, path)?;
    let otherwise = fields
        .take("policy")
        .and_then(|node| access(d, node, &path.field("policy")));
    let rate = fields
        .take("rate")
        .and_then(|node| rate(d, node, &path.field("rate")));
    let mut rules = Vec::new();
    let rules_node = fields.take("rules");
    if let Some(node) = rules_node {
        let path = path.field("rules");
        let items = d.bounded_sequence(node, &path, Egress::MAX_RULES);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            rules.extend(rule(d, item, &path.index(index)));
        }
        if rules.len() > Egress::MAX_RULES {
            let message = format!(
                "are {} rules, each range with each port counted, more than {}",
                rules.len(),
                Egress::MAX_RULES
            );
            d.error(node.at, &path, message, "name larger ranges");
        }
    }
    fields.finish(d, path, Place::Egress);
    // As in Kubernetes: what rules do not name is refused. Without rules there
    // is only a rate.
    let usual = match rules_node.is_some() {
        true => Access::Deny,
        false => Access::Allow,
    };
    Some(Egress {
        rules,
        otherwise: otherwise.unwrap_or(usual),
        bytes_per_second: rate,
    })
}

fn access(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Access> {
    match d.text(node, path)?.as_str() {
        "Allow" => Some(Access::Allow),
        "Deny" => Some(Access::Deny),
        _ => {
            d.error(node.at, path, "is not a policy", "write Allow or Deny");
            None
        }
    }
}

fn rate(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<u64> {
    let text = d.quantity_text(node, path)?;
    match quantity::bytes_per_second(text) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            d.error(node.at, path, error.what, error.remedy);
            None
        }
    }
}

/// One rule as it is written: every range with every port.
fn rule(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Vec<EgressRule> {
    let Some(mut fields) = d.mapping(node, path) else {
        return Vec::new();
    };
    let access = match fields.take("policy") {
        Some(node) => access(d, node, &path.field("policy")),
        None => Some(Access::Allow),
    };
    let mut ranges: Vec<Option<(IpAddr, u8)>> = Vec::new();
    if let Some(node) = fields.take("to") {
        let path = path.field("to");
        let items = d.bounded_sequence(node, &path, Egress::MAX_RULES);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            ranges.extend(peer(d, item, &path.index(index)).map(Some));
        }
    } else {
        ranges.push(None);
    }
    let mut ports: Vec<Option<(Protocol, u16, u16)>> = Vec::new();
    if let Some(node) = fields.take("ports") {
        let path = path.field("ports");
        let items = d.bounded_sequence(node, &path, Egress::MAX_RULES);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            ports.extend(port_range(d, item, &path.index(index)).map(Some));
        }
    } else {
        ports.push(None);
    }
    fields.finish(d, path, Place::EgressRule);
    let Some(access) = access else {
        return Vec::new();
    };
    let each = ranges.iter().flat_map(|to| {
        ports.iter().map(move |ports| EgressRule {
            to: *to,
            ports: *ports,
            access,
        })
    });
    each.collect()
}

/// `{ipBlock: {cidr: 10.0.0.0/8}}`.
fn peer(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<(IpAddr, u8)> {
    let mut fields = d.mapping(node, path)?;
    let remedy = "write ipBlock: { cidr: 10.0.0.0/8 }";
    let at = fields.at;
    let block = fields.take("ipBlock");
    if block.is_none() && fields.left().count() == 0 {
        d.error(at, path, "does not say where to", remedy);
    }
    let range = block.and_then(|node| {
        let path = path.field("ipBlock");
        let mut fields = d.mapping(node, &path)?;
        let node = fields.require(d, &path, "cidr", remedy);
        fields.finish(d, &path, Place::IpBlock);
        cidr(d, node?, &path.field("cidr"))
    });
    fields.finish(d, path, Place::Peer);
    range
}

fn cidr(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<(IpAddr, u8)> {
    let text = d.text(node, path)?;
    if let Ok(address) = text.parse::<IpAddr>() {
        let len = width(address);
        let remedy = format!("write {address}/{len} for this address alone");
        d.error(node.at, path, "is an address, not a range", remedy);
        return None;
    }
    let range = text.split_once('/').and_then(|(address, len)| {
        let address: IpAddr = address.parse().ok()?;
        let len: u8 = len.parse().ok()?;
        (len <= width(address)).then_some((address, len))
    });
    let Some((address, len)) = range else {
        let remedy = "write an address and a length, as in 10.0.0.0/8 or fd00::/8";
        d.error(node.at, path, "is not a range", remedy);
        return None;
    };
    let first = first_of(address, len);
    if first != address {
        let remedy = format!("write {first}/{len}, or {address}/{} alone", width(address));
        d.error(
            node.at,
            path,
            "has more of an address than its length says",
            remedy,
        );
        return None;
    }
    Some((address, len))
}

fn width(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

/// The first address of a range.
fn first_of(address: IpAddr, len: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(u32::from(32 - len)).unwrap_or(0);
            std::net::Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(u32::from(128 - len)).unwrap_or(0);
            std::net::Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

fn port_range(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<(Protocol, u16, u16)> {
    let mut fields = d.mapping(node, path)?;
    let before = d.count();
    let protocol = match fields.take("protocol") {
        Some(node) => protocol(d, node, &path.field("protocol")),
        None => Some(Protocol::default()),
    };
    let first = fields
        .take("port")
        .map(|node| (node.at, number(d, node, &path.field("port"))));
    let last = fields
        .take("endPort")
        .map(|node| (node.at, number(d, node, &path.field("endPort"))));
    fields.finish(d, path, Place::Other);
    if d.count() > before {
        return None;
    }
    let (first, last) = match (first, last) {
        (None, None) => (Some(1), Some(u16::MAX)),
        (Some((_, first)), None) => (first, first),
        (Some((_, first)), Some((at, last))) => {
            if last < first {
                d.error(at, &path.field("endPort"), "is before port", "swap them");
            }
            (first, last)
        }
        (None, Some((at, _))) => {
            let remedy = "write port for the first one";
            d.error(
                at,
                &path.field("endPort"),
                "means nothing without port",
                remedy,
            );
            return None;
        }
    };
    Some((protocol?, first?, last?))
}

// --- writing

/// `spec.services` and `spec.egress`.
pub(super) fn write_policy(policy: &AppPolicy, out: &mut Written) {
    out.list(
        "services",
        policy.services.iter().map(|service| {
            let mut out = Written::default();
            out.text("name", service.name.as_str());
            out.list(
                "ports",
                service.ports.iter().map(|port| {
                    let mut out = Written::default();
                    out.bare("port", port.port);
                    if port.target_port != port.port {
                        out.bare("targetPort", port.target_port);
                    }
                    write_protocol(&mut out, port.protocol);
                    out.done()
                }),
            );
            out.done()
        }),
    );
    if let Some(egress) = &policy.egress {
        out.fields("egress", write_egress(egress));
    }
}

fn write_egress(egress: &Egress) -> Written {
    let word = |access| match access {
        Access::Allow => "Allow",
        Access::Deny => "Deny",
    };
    let mut out = Written::default();
    out.text("policy", word(egress.otherwise));
    out.some_bare("rate", egress.bytes_per_second.map(bytes_text));
    out.list(
        "rules",
        egress.rules.iter().map(|rule| {
            let mut out = Written::default();
            // Written also where it is what is usual: rules are read one by one.
            out.text("policy", word(rule.access));
            out.list(
                "to",
                rule.to.iter().map(|(address, len)| {
                    let mut block = Written::default();
                    block.text("cidr", format!("{address}/{len}"));
                    let mut out = Written::default();
                    out.fields("ipBlock", block);
                    out.done()
                }),
            );
            out.list(
                "ports",
                rule.ports.iter().map(|(protocol, first, last)| {
                    let mut out = Written::default();
                    match protocol {
                        Protocol::Tcp => out.text("protocol", "TCP"),
                        Protocol::Udp => out.text("protocol", "UDP"),
                    }
                    if (*first, *last) != (1, u16::MAX) {
                        out.bare("port", first);
                    }
                    if last != first && (*first, *last) != (1, u16::MAX) {
                        out.bare("endPort", last);
                    }
                    out.done()
                }),
            );
            out.done()
        }),
    );
    out
}
