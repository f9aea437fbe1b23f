//! What a manifest says of a pod's network: which one it lives in, its ports
//! and its names. Around it there are [services and egress](super::services).

use super::decode::{Decoder, Fields, Path};
use super::probe;
use super::tree::{Node, Value};
use super::unsupported::Place;
use super::write::Fields as Written;
use super::yaml::Out;
use skerry_wire::PodSpec;
use skerry_wire::pod::{DnsConfig, HostAlias, Network, Port, Protocol};
use std::net::IpAddr;

/// Ports of one container, and of one service.
pub(super) const MAX_PORTS: usize = 64;
/// Lines for `/etc/hosts`, and names on one of them.
const MAX_ALIASES: usize = 64;
/// Name servers that a C library reads (`MAXNS` of resolv.conf(5)).
const MAX_NAMESERVERS: usize = 3;
/// Search domains, as in Kubernetes.
const MAX_SEARCHES: usize = 32;
/// Options of resolv.conf(5): it knows fewer.
const MAX_OPTIONS: usize = 32;
/// Longest name of a port (RFC 6335, section 5.1), in bytes.
const MAX_PORT_NAME_BYTES: usize = 15;
/// Longest domain name (RFC 1035), in bytes.
const MAX_DOMAIN_BYTES: usize = 253;

const NETWORKS: &str = "write host (the device's own), bridge (an address of its own) or none";

// --- the pod

/// `network` and Kubernetes' `hostNetwork`, and whether one of them is written.
pub(super) fn network(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
) -> (Network, bool) {
    let ours = fields.take("network");
    let theirs = fields.take("hostNetwork");
    let named = ours.and_then(|node| {
        let path = path.field("network");
        let text = d.text(node, &path)?;
        match text.as_str() {
            "host" => Some(Network::Host),
            "bridge" => Some(Network::Bridge),
            "none" => Some(Network::None),
            _ => {
                let shown: String = text.chars().take(80).collect();
                d.error(
                    node.at,
                    &path,
                    format!("there is no network '{shown}'"),
                    NETWORKS,
                );
                None
            }
        }
    });
    let flag = theirs.and_then(|node| d.boolean(node, &path.field("hostNetwork")));
    if let (Some(node), Some(network), Some(host)) = (theirs, named, flag)
        && host != (network == Network::Host)
    {
        d.error(
            node.at,
            &path.field("hostNetwork"),
            "says something else than 'network'",
            "remove one of the two",
        );
    }
    let network = match (named, flag) {
        (Some(network), _) => network,
        // Kubernetes' pod network.
        (None, Some(false)) => Network::Bridge,
        (None, Some(true) | None) => Network::Host,
    };
    (network, ours.is_some() || theirs.is_some())
}

/// `hostAliases`.
pub(super) fn host_aliases(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
) -> Vec<HostAlias> {
    let Some(node) = fields.take("hostAliases") else {
        return Vec::new();
    };
    let path = path.field("hostAliases");
    let items = d.bounded_sequence(node, &path, MAX_ALIASES);
    let mut aliases = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(mut fields) = d.mapping(item, &path) else {
            continue;
        };
        let ip = fields
            .require(d, &path, "ip", "write the address, as in ip: 10.0.0.9")
            .and_then(|node| address(d, node, &path.field("ip")));
        let names = fields.require(d, &path, "hostnames", "write its names, as in [plc]");
        let names = names.map(|node| domains(d, node, &path.field("hostnames"), MAX_ALIASES));
        fields.finish(d, &path, Place::Other);
        if let (Some(ip), Some(hostnames)) = (ip, names) {
            aliases.push(HostAlias { ip, hostnames });
        }
    }
    aliases
}

/// `dnsPolicy` and `dnsConfig`.
pub(super) fn dns(
    d: &mut Decoder<'_>,
    fields: &mut Fields<'_>,
    path: &Path<'_>,
    network: Network,
) -> Option<DnsConfig> {
    let config = fields
        .take("dnsConfig")
        .and_then(|node| dns_config(d, node, &path.field("dnsConfig")));
    let Some(node) = fields.take("dnsPolicy") else {
        return config;
    };
    let path = path.field("dnsPolicy");
    let servers = config.as_ref().map_or(0, |c| c.nameservers.len());
    match (d.text(node, &path)?.as_str(), network) {
        ("None", _) if servers > 0 => {}
        ("None", _) => d.error(
            node.at,
            &path,
            "needs name servers",
            "write dnsConfig: { nameservers: [10.0.0.53] }, or remove it",
        ),
        // On the device's own network all of them mean the device's resolvers.
        ("Default" | "ClusterFirst", Network::Host | Network::None) => {}
        ("ClusterFirst", Network::Bridge) => {}
        ("Default", Network::Bridge) => d.error(
            node.at,
            &path,
            "is not supported on a bridge: names of apps are found first, all others by the device's resolvers",
            "remove it, or write None and dnsConfig with name servers",
        ),
        ("ClusterFirstWithHostNet", _) => d.error(
            node.at,
            &path,
            "is not supported: names of apps are answered on bridges only",
            "remove it, or write network: bridge",
        ),
        _ => d.error(
            node.at,
            &path,
            "is not a policy",
            "write ClusterFirst, Default or None, or remove it",
        ),
    }
    config
}

fn dns_config(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<DnsConfig> {
    let mut fields = d.mapping(node, path)?;
    let mut config = DnsConfig::default();
    if let Some(node) = fields.take("nameservers") {
        let path = path.field("nameservers");
        let items = d.bounded_sequence(node, &path, MAX_NAMESERVERS);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            config
                .nameservers
                .extend(address(d, item, &path.index(index)));
        }
    }
    if let Some(node) = fields.take("searches") {
        config.searches = domains(d, node, &path.field("searches"), MAX_SEARCHES);
    }
    if let Some(node) = fields.take("options") {
        let path = path.field("options");
        let items = d.bounded_sequence(node, &path, MAX_OPTIONS);
        for (index, item) in items.unwrap_or_default().iter().enumerate() {
            config
                .options
                .extend(dns_option(d, item, &path.index(index)));
        }
    }
    fields.finish(d, path, Place::Other);
    Some(config)
}

/// `{name: ndots, value: "2"}` as resolv.conf(5) has it.
fn dns_option(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let mut fields = d.mapping(node, path)?;
    let name = fields
        .require(d, path, "name", "name the option, as in name: ndots")
        .and_then(|node| Some((node.at, d.text(node, &path.field("name"))?)));
    let value = fields
        .take("value")
        .and_then(|node| d.text(node, &path.field("value")));
    fields.finish(d, path, Place::Other);
    let (at, name) = name?;
    let text = match value {
        Some(value) => format!("{name}:{value}"),
        None => name,
    };
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-:".contains(&b);
    if !text.is_empty() && text.bytes().all(good) {
        return Some(text);
    }
    let remedy = "write it as in name: ndots and value: \"2\"";
    d.error(at, path, "is not an option of resolv.conf", remedy);
    None
}

fn domains(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>, max: usize) -> Vec<String> {
    let items = d.bounded_sequence(node, path, max);
    let mut names = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        let Some(text) = d.text(item, &path) else {
            continue;
        };
        let good = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if text.is_empty() || text.len() > MAX_DOMAIN_BYTES || !text.bytes().all(good) {
            d.error(
                item.at,
                &path,
                "is not a name of a host or domain",
                "use letters, digits, '-' and '.', as in plc.example",
            );
            continue;
        }
        names.push(text);
    }
    names
}

fn address(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<IpAddr> {
    let text = d.text(node, path)?;
    let address = text.parse().ok();
    if address.is_none() {
        let remedy = "write one of IPv4 or IPv6, as in 10.0.0.9";
        d.error(node.at, path, "is not an address", remedy);
    }
    address
}

// --- ports

/// A container's `ports`.
pub(super) fn ports(d: &mut Decoder<'_>, fields: &mut Fields<'_>, path: &Path<'_>) -> Vec<Port> {
    let Some(node) = fields.take("ports") else {
        return Vec::new();
    };
    let path = path.field("ports");
    let items = d.bounded_sequence(node, &path, MAX_PORTS);
    let mut ports = Vec::new();
    for (index, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.index(index);
        if let Value::Scalar(scalar) = &item.value
            && let Some((host, container)) = scalar.text.split_once(':')
        {
            let (host, container): (String, String) = (
                host.chars().take(20).collect(),
                container.chars().take(20).collect(),
            );
            let remedy = format!("write hostPort: {host} and containerPort: {container}");
            d.error(
                item.at,
                &path,
                "expects fields, but there is a single value",
                remedy,
            );
            continue;
        }
        ports.extend(port(d, item, &path));
    }
    ports
}

fn port(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Port> {
    let mut fields = d.mapping(node, path)?;
    let name = fields
        .take("name")
        .and_then(|node| port_name(d, node, &path.field("name")));
    let remedy = "write the port that the program listens on, as in containerPort: 80";
    let container_port = fields
        .require(d, path, "containerPort", remedy)
        .and_then(|node| number(d, node, &path.field("containerPort")));
    let host_port = fields
        .take("hostPort")
        .and_then(|node| number(d, node, &path.field("hostPort")));
    let host_ip = fields
        .take("hostIP")
        .and_then(|node| Some((node.at, address(d, node, &path.field("hostIP"))?)));
    let protocol = fields
        .take("protocol")
        .and_then(|node| protocol(d, node, &path.field("protocol")));
    fields.finish(d, path, Place::Port);
    if let Some((at, _)) = host_ip
        && host_port.is_none()
    {
        let remedy = "write hostPort too, or remove it";
        d.error(
            at,
            &path.field("hostIP"),
            "means nothing without hostPort",
            remedy,
        );
    }
    Some(Port {
        name,
        container_port: container_port?,
        host_port,
        host_ip: host_ip.map(|(_, ip)| ip),
        protocol: protocol.unwrap_or_default(),
    })
}

/// RFC 6335, section 5.1.
fn port_name(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<String> {
    let text = d.text(node, path)?;
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_name = (1..=MAX_PORT_NAME_BYTES).contains(&text.len())
        && text.bytes().all(good)
        && text.bytes().any(|b| b.is_ascii_lowercase())
        && !text.starts_with('-')
        && !text.ends_with('-')
        && !text.contains("--");
    if is_name {
        return Some(text);
    }
    d.error(
        node.at,
        path,
        "is not a port's name",
        "use 1 to 15 of a-z, 0-9 and '-', as in http",
    );
    None
}

pub(super) fn number(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<u16> {
    let number = d.integer(node, path, 1..=u64::from(u16::MAX))?;
    Some(number as u16)
}

pub(super) fn protocol(d: &mut Decoder<'_>, node: &Node, path: &Path<'_>) -> Option<Protocol> {
    match d.text(node, path)?.as_str() {
        "TCP" => return Some(Protocol::Tcp),
        "UDP" => return Some(Protocol::Udp),
        "SCTP" => d.error(node.at, path, "is not supported", "use TCP or UDP"),
        _ => d.error(node.at, path, "is not a protocol", "write TCP or UDP"),
    }
    None
}

/// A port by its number, or by the name that it has in `ports`.
pub(super) fn port_by_name(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    ports: &[Port],
) -> Option<u16> {
    if let Value::Scalar(scalar) = &node.value
        && !scalar.text.starts_with(|c: char| c.is_ascii_digit())
    {
        let name = &scalar.text;
        let found = ports.iter().find(|port| port.name.as_ref() == Some(name));
        if found.is_none() {
            unknown_port(d, node, path, ports.iter());
        }
        return found.map(|port| port.container_port);
    }
    number(d, node, path)
}

pub(super) fn unknown_port<'p>(
    d: &mut Decoder<'_>,
    node: &Node,
    path: &Path<'_>,
    ports: impl Iterator<Item = &'p Port>,
) {
    let names: Vec<&str> = ports.filter_map(|port| port.name.as_deref()).collect();
    let remedy = match names.is_empty() {
        true => {
            "write the port's number, as in 8080, or give it a name under the container's ports"
                .into()
        }
        false => format!("write its number, or one of {}", names.join(", ")),
    };
    d.error(
        node.at,
        path,
        "is neither a number nor the name of a port",
        remedy,
    );
}

/// What ports of one pod must not be, together and on this network.
/// `containers` are the lists as they are written, with the names of their
/// fields.
pub(super) fn check_ports<Image>(
    d: &mut Decoder<'_>,
    pod: &PodSpec<Image>,
    explicit: bool,
    containers: &[(&Node, &str)],
    path: &Path<'_>,
) {
    let mut seen: Vec<&Port> = Vec::new();
    let mut names: Vec<&str> = Vec::new();
    let nodes = containers.iter().flat_map(|(list, name)| {
        let items = match &list.value {
            Value::Sequence(items) => items.as_slice(),
            _ => &[],
        };
        items
            .iter()
            .enumerate()
            .map(move |(i, item)| (item, *name, i))
    });
    for (container, (node, list, index)) in pod.all_containers().zip(nodes) {
        let (list, ports) = (path.field(list), "ports");
        let item = list.index(index);
        if pod.network == Network::None {
            probe::check_reached(d, container, node, &item);
        }
        let ports = item.field(ports);
        for (index, port) in container.ports.iter().enumerate() {
            let path = ports.index(index);
            let at = find(node, "ports").and_then(|node| match &node.value {
                Value::Sequence(items) => items.get(index),
                _ => None,
            });
            let at = at.map_or(node.at, |node| node.at);
            if let Some(name) = &port.name {
                if names.contains(&name.as_str()) {
                    let message = format!("there are two ports named '{name}'");
                    d.error(
                        at,
                        &path.field("name"),
                        message,
                        "give one of them another name",
                    );
                }
                names.push(name);
            }
            let Some(host_port) = port.host_port else {
                continue;
            };
            let path = path.field("hostPort");
            let own = port.container_port;
            match (pod.network, explicit) {
                (Network::Bridge, _) => {}
                (Network::Host, false) => d.error(
                    at,
                    &path,
                    "means nothing with the device's own network, which an app has that names no other",
                    "write network: bridge, so that this port leads to the app; or hostNetwork: true, and let the app open the port itself",
                ),
                (Network::Host, true) if host_port == own => {}
                (Network::Host, true) => d.error(
                    at,
                    &path,
                    format!("has to be {own} as containerPort: with hostNetwork the app opens the device's port itself"),
                    format!("write {own}, remove it, or write network: bridge"),
                ),
                (Network::None, _) => d.error(
                    at,
                    &path,
                    "leads nowhere: this pod has no network",
                    "remove it, or write network: bridge",
                ),
            }
            if seen.iter().any(|other| same_port(other, port)) {
                d.error(
                    at,
                    &path,
                    format!("the device's port {host_port} is there twice"),
                    "give one of them another hostPort or hostIP",
                );
            }
            seen.push(port);
        }
    }
}

fn same_port(one: &Port, other: &Port) -> bool {
    let overlap = match (one.host_ip, other.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => {
            let any = a.is_unspecified() || b.is_unspecified();
            a == b || (any && a.is_ipv4() == b.is_ipv4())
        }
    };
    overlap && one.host_port == other.host_port && one.protocol == other.protocol
}

pub(super) fn find<'n>(node: &'n Node, key: &str) -> Option<&'n Node> {
    match &node.value {
        Value::Mapping(entries) => entries.iter().find(|e| e.key == key).map(|e| &e.value),
        _ => None,
    }
}

// --- writing

/// The pod's fields about its network.
pub(super) fn write_pod<Image>(pod: &PodSpec<Image>, out: &mut Written) {
    match pod.network {
        Network::Host => out.bare("hostNetwork", true),
        Network::Bridge => out.text("network", "bridge"),
        Network::None => out.text("network", "none"),
    }
    out.some_text("hostname", pod.hostname.as_deref());
    out.list(
        "hostAliases",
        pod.host_aliases.iter().map(|alias| {
            let mut out = Written::default();
            out.text("ip", alias.ip.to_string());
            out.list("hostnames", alias.hostnames.iter().cloned().map(Out::Text));
            out.done()
        }),
    );
    let Some(dns) = &pod.dns else { return };
    if !dns.nameservers.is_empty() {
        out.text("dnsPolicy", "None");
    }
    let mut config = Written::default();
    let servers = dns.nameservers.iter();
    config.list("nameservers", servers.map(|ip| Out::Text(ip.to_string())));
    config.list("searches", dns.searches.iter().cloned().map(Out::Text));
    config.list(
        "options",
        dns.options.iter().map(|option| {
            let mut out = Written::default();
            match option.split_once(':') {
                Some((name, value)) => {
                    out.text("name", name);
                    out.text("value", value);
                }
                None => out.text("name", option.as_str()),
            }
            out.done()
        }),
    );
    out.fields("dnsConfig", config);
}

/// A container's `ports`.
pub(super) fn write_ports(ports: &[Port]) -> impl Iterator<Item = Out> {
    ports.iter().map(|port| {
        let mut out = Written::default();
        out.some_text("name", port.name.as_deref());
        out.bare("containerPort", port.container_port);
        out.some_bare("hostPort", port.host_port);
        out.some_text("hostIP", port.host_ip.map(|ip| ip.to_string()));
        write_protocol(&mut out, port.protocol);
        out.done()
    })
}

pub(super) fn write_protocol(out: &mut Written, protocol: Protocol) {
    match protocol {
        Protocol::Tcp => {}
        Protocol::Udp => out.text("protocol", "UDP"),
    }
}
