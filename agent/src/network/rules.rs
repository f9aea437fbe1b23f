//! The table that belongs to what is wanted. Pods have their addresses alone
//! (a /32), so that everything they send passes the device's own stack and
//! these chains, also what goes to a neighbour on the same bridge.
//!
//! | chain | what |
//! |---|---|
//! | `guard` | pods send neither from another network nor to the device's loopback |
//! | `incoming`, `local` | published ports and services, from outside and from the device itself |
//! | `leaving` | pods are seen with the device's address |
//! | `forward` | egress policies; namespaces apart; nobody else reaches pods |
//! | `input` | egress policies towards the device itself |
//! | `output` | no redirects: pods have to go through the device |
//! | `transit` | a device that was no router before it had pods stays none for others |
//! | `egress-*` | one pod's policy |

use super::lease::{Guard, Layout, Network, PodPlace};
use super::nft::{Base, Chain, ChainKind, Hook, Rule, Ruleset, Wall};
use super::prefix::Prefix;
use super::wanted::{
    Egress, Endpoint, Pod, PodId, Protocol, PublishedPort, Service, Verdict, Wanted,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NF_IP_PRI_RAW`: before connections are known.
const RAW: i32 = -300;
/// `NF_IP_PRI_NAT_DST`
const REDIRECT: i32 = -100;
/// `NF_IP_PRI_FILTER`
const FILTER: i32 = 0;
/// `NF_IP_PRI_NAT_SRC`
const LEAVE: i32 = 100;
/// The burst of a rate limit, in bytes: two large segments as offloading cards
/// hand them over, or nothing of them would ever pass at a low rate. The
/// kernel adds what one second allows.
const BURST_BYTES: u32 = 128 * 1024;

const LOOPBACK_V4: Prefix = Prefix::v4(Ipv4Addr::new(127, 0, 0, 0), 8);
const LOOPBACK_V6: Prefix = Prefix::v6(Ipv6Addr::LOCALHOST, 128);
const LINK_LOCAL_V6: Prefix = Prefix::v6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10);
const UNSPECIFIED_V6: Prefix = Prefix::v6(Ipv6Addr::UNSPECIFIED, 128);
const ICMP_REDIRECT: u8 = 5;
const ICMP6_REDIRECT: u8 = 137;
const ICMP6_NEIGHBOUR: [u8; 2] = [135, 136];
/// DNS.
const NAMES_PORT: u16 = 53;

/// A port of the device that two apps want.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "port {port} of the device is wanted by {loser}, but leads to {winner}: give one of them another hostPort"
)]
pub struct PortTaken {
    /// Which, with protocol and address.
    pub port: String,
    /// Who has it.
    pub winner: PodId,
    /// Who does not.
    pub loser: PodId,
}

/// The table and its name; none when there is nothing to say.
pub fn ruleset(
    table: &str,
    tag: &str,
    wanted: &Wanted,
    layout: &Layout,
    guard: Guard,
    outward: &[String],
) -> (Option<Ruleset>, Vec<PortTaken>) {
    if layout.networks.is_empty() {
        return (None, Vec::new());
    }
    let bridges = format!("sk{tag}b*");
    let (ports, taken) = published(wanted, layout);
    let mut rules = Vec::new();
    guards(&mut rules, &bridges, layout);
    redirects(&mut rules);
    for (id, place, port) in &ports {
        publish(&mut rules, id, place, port);
    }
    for service in &wanted.services {
        balance(&mut rules, wanted, layout, service);
    }
    leaving(&mut rules, wanted, layout, &ports);
    let mut chains = base_chains();
    for (id, pod, place) in placed(wanted, layout) {
        if let Some(egress) = &pod.egress {
            chains.push(Chain {
                name: egress_chain(place),
                base: None,
            });
            egress_rules(&mut rules, id, place, egress);
        }
    }
    filters(&mut rules, &bridges, wanted, layout);
    transit(&mut rules, guard, outward);
    let ruleset = Ruleset {
        table: table.into(),
        chains,
        rules,
    };
    (Some(ruleset), taken)
}

fn base_chains() -> Vec<Chain> {
    let base = |name: &str, kind, hook, priority| Chain {
        name: name.into(),
        base: Some(Base {
            kind,
            hook,
            priority,
        }),
    };
    let called = |name: &str| Chain {
        name: name.into(),
        base: None,
    };
    vec![
        called("published"),
        called("services"),
        called("transit"),
        base("guard", ChainKind::Filter, Hook::Prerouting, RAW),
        base("incoming", ChainKind::Nat, Hook::Prerouting, REDIRECT),
        base("local", ChainKind::Nat, Hook::Output, REDIRECT),
        base("leaving", ChainKind::Nat, Hook::Postrouting, LEAVE),
        base("forward", ChainKind::Filter, Hook::Forward, FILTER),
        base("input", ChainKind::Filter, Hook::Input, FILTER),
        base("output", ChainKind::Filter, Hook::Output, FILTER),
    ]
}

fn placed<'a>(
    wanted: &'a Wanted,
    layout: &'a Layout,
) -> impl Iterator<Item = (&'a PodId, &'a Pod, &'a PodPlace)> {
    let pods = wanted.pods.iter();
    pods.filter_map(|(id, pod)| Some((id, pod, layout.pods.get(id)?)))
}

fn both(place: &PodPlace) -> [Prefix; 2] {
    let pair = place.addresses;
    [Prefix::host(pair.v4.into()), Prefix::host(pair.v6.into())]
}

fn guards(rules: &mut Vec<Rule>, bridges: &str, layout: &Layout) {
    let rule = |comment: &str| Rule::new("guard", comment);
    // The loopback is only reachable at all because published ports work at
    // 127.0.0.1, see `route_localnet` in the plan.
    rules.push(
        rule("not to the device's loopback")
            .from_link(bridges)
            .destination(LOOPBACK_V4)
            .lose(),
    );
    for range in [LINK_LOCAL_V6, UNSPECIFIED_V6] {
        rules.push(
            rule("neighbours find each other")
                .from_link(bridges)
                .source(range)
                .accept(),
        );
    }
    for (namespace, network) in &layout.networks {
        for range in [network.pods4, network.pods6] {
            rules.push(
                rule(&format!("{namespace}: only from its own addresses"))
                    .from_link(&network.bridge)
                    .not_source(range)
                    .lose(),
            );
        }
    }
}

fn redirects(rules: &mut Vec<Rule>) {
    let local = |comment: &str| Rule::new("local", comment);
    // IPv6 has nothing like route_localnet.
    rules.push(local("::1 stays here").destination(LOOPBACK_V6).accept());
    for chain in ["incoming", "local"] {
        rules.push(
            Rule::new(chain, "published ports")
                .to_local()
                .jump("published"),
        );
        rules.push(Rule::new(chain, "services").jump("services"));
    }
}

type Claim<'a> = (&'a PodId, &'a PodPlace, &'a PublishedPort);

/// Who has which port: the app that came first, and of its revisions one that
/// is ready, so that a port goes to a new one no sooner than it can serve.
fn published<'a>(wanted: &'a Wanted, layout: &'a Layout) -> (Vec<Claim<'a>>, Vec<PortTaken>) {
    let mut first: BTreeMap<_, u64> = BTreeMap::new();
    for pod in wanted.pods.values() {
        let rank = first.entry((&pod.namespace, &pod.app)).or_insert(pod.rank);
        *rank = pod.rank.min(*rank);
    }
    let mut pods: Vec<_> = placed(wanted, layout).collect();
    pods.sort_by_key(|(id, pod, _)| {
        let app = (&pod.namespace, &pod.app);
        (first[&app], app, !pod.ready, pod.rank, *id)
    });
    let mut claims: Vec<Claim> = Vec::new();
    let mut taken = Vec::new();
    for (id, pod, place) in pods {
        for port in &pod.ports {
            let other = claims.iter().find(|(_, _, other)| same_port(other, port));
            match other {
                None => claims.push((id, place, port)),
                Some((winner, _, _)) => {
                    let of = &wanted.pods[*winner];
                    // Two revisions of one app hand over; that is no trouble.
                    if (&of.namespace, &of.app) != (&pod.namespace, &pod.app) {
                        taken.push(PortTaken {
                            port: describe(port),
                            winner: (*winner).clone(),
                            loser: id.clone(),
                        });
                    }
                }
            }
        }
    }
    (claims, taken)
}

fn same_port(one: &PublishedPort, other: &PublishedPort) -> bool {
    let overlap = match (one.host_ip, other.host_ip) {
        (None, _) | (_, None) => true,
        (Some(a), Some(b)) => {
            a == b || (a.is_ipv4() == b.is_ipv4() && (a.is_unspecified() || b.is_unspecified()))
        }
    };
    overlap && one.host_port == other.host_port && one.protocol == other.protocol
}

fn describe(port: &PublishedPort) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    match port.host_ip {
        None => format!("{protocol} {}", port.host_port),
        Some(ip) => format!("{protocol} {} at {ip}", port.host_port),
    }
}

fn publish(rules: &mut Vec<Rule>, id: &PodId, place: &PodPlace, port: &PublishedPort) {
    for to in both(place) {
        let at = match port.host_ip {
            Some(ip) if ip.is_ipv4() != to.is_v4() => continue,
            Some(ip) if !ip.is_unspecified() => Some(ip),
            _ => None,
        };
        let mut rule = Rule::new("published", format!("{id}")).family(to.is_v4());
        if let Some(ip) = at {
            rule = rule.destination(Prefix::host(ip));
        }
        rules.push(
            rule.ports(port.protocol, port.host_port, port.host_port)
                .redirect(to.address(), port.pod_port),
        );
    }
}

/// Each rule takes its share of what the ones before left: a third, then half
/// of the rest, then all of it.
fn balance(rules: &mut Vec<Rule>, wanted: &Wanted, layout: &Layout, service: &Service) {
    let key = (service.namespace.clone(), service.name.clone());
    let Some(address) = layout.services.get(&key) else {
        return;
    };
    let ready: Vec<(&Endpoint, &PodPlace)> = service
        .endpoints
        .iter()
        .filter(|endpoint| {
            let pod = wanted.pods.get(&endpoint.pod);
            pod.is_some_and(|pod| pod.ready && pod.namespace == service.namespace)
        })
        .filter_map(|endpoint| Some((endpoint, layout.pods.get(&endpoint.pod)?)))
        .collect();
    // Ports by name go before "all ports".
    let mut ports: BTreeSet<(bool, u16, bool)> = BTreeSet::new();
    for (endpoint, _) in &ready {
        if endpoint.ports.is_empty() {
            ports.insert((true, 0, false));
        }
        for port in &endpoint.ports {
            ports.insert((false, port.port, port.protocol == Protocol::Udp));
        }
    }
    let own = [
        Prefix::host(address.v4.into()),
        Prefix::host(address.v6.into()),
    ];
    for own in &own {
        for (all, port, udp) in &ports {
            let protocol = match udp {
                true => Protocol::Udp,
                false => Protocol::Tcp,
            };
            let behind: Vec<(&Endpoint, &PodPlace, u16)> = ready
                .iter()
                .filter_map(|(endpoint, place)| {
                    let mut declared = endpoint.ports.iter();
                    let to = match all {
                        true => declared.next().is_none().then_some(0),
                        false => declared
                            .find(|one| one.port == *port && one.protocol == protocol)
                            .map(|one| one.pod_port),
                    };
                    Some((*endpoint, *place, to?))
                })
                .collect();
            for (index, (endpoint, place, to)) in behind.iter().enumerate() {
                let comment = format!("{} to {}", service.name, endpoint.pod);
                let mut rule = Rule::new("services", comment).destination(*own);
                if !all {
                    rule = rule.ports(protocol, *port, *port);
                }
                let left = behind.len() - index;
                if left > 1 {
                    // At most as many as there are addresses in a network.
                    rule = rule.each_of(left as u32);
                }
                let pod: IpAddr = match own.is_v4() {
                    true => place.addresses.v4.into(),
                    false => place.addresses.v6.into(),
                };
                rules.push(rule.redirect(pod, *to));
            }
        }
    }
}

fn leaving(rules: &mut Vec<Rule>, wanted: &Wanted, layout: &Layout, ports: &[Claim]) {
    for (namespace, network) in &layout.networks {
        for range in [network.pods4, network.pods6] {
            rules.push(
                Rule::new("leaving", format!("{namespace}: as the device"))
                    .source(range)
                    .not_to_link(&network.bridge)
                    .masquerade(),
            );
        }
        rules.push(
            Rule::new(
                "leaving",
                format!("{namespace}: from the device's loopback"),
            )
            .to_link(&network.bridge)
            .source(LOOPBACK_V4)
            .masquerade(),
        );
    }
    // A pod that reaches itself through a published port or a service would
    // not take a packet from its own address.
    let mut reached: BTreeSet<&PodId> = ports.iter().map(|(id, _, _)| *id).collect();
    let behind = wanted.services.iter().flat_map(|s| &s.endpoints);
    reached.extend(behind.map(|endpoint| &endpoint.pod));
    for (id, _, place) in placed(wanted, layout).filter(|(id, _, _)| reached.contains(id)) {
        for own in both(place) {
            rules.push(
                Rule::new("leaving", format!("{id} to itself"))
                    .source(own)
                    .destination(own)
                    .masquerade(),
            );
        }
    }
}

fn egress_chain(place: &PodPlace) -> String {
    format!("egress-{}", place.veth)
}

fn egress_rules(rules: &mut Vec<Rule>, id: &PodId, place: &PodPlace, egress: &Egress) {
    let chain = egress_chain(place);
    let rule = |comment: &str| Rule::new(&chain, format!("{id}: {comment}"));
    if let Some(rate) = egress.bytes_per_second {
        rules.push(rule("not faster").over(rate.get(), BURST_BYTES).lose());
    }
    rules.push(rule("answers").answer().back());
    for wish in &egress.rules {
        let mut made = rule(match wish.verdict {
            Verdict::Allow => "may",
            Verdict::Deny => "may not",
        });
        if let Some(to) = wish.to {
            made = made.destination(to);
        }
        if let Some(ports) = wish.ports {
            made = made.ports(ports.protocol, ports.first, ports.last);
        }
        rules.push(decided(made, wish.verdict));
    }
    rules.push(decided(rule("everything else"), egress.otherwise));
}

fn decided(rule: Rule, verdict: Verdict) -> Rule {
    match verdict {
        Verdict::Allow => rule.back(),
        Verdict::Deny => rule.reject(Wall::Forbidden),
    }
}

/// Forwarding is one switch for all interfaces: a gateway between a plant and
/// the internet must not begin to join them because a pod came. Bridges of
/// others and tunnels are left alone.
fn transit(rules: &mut Vec<Rule>, guard: Guard, outward: &[String]) {
    for (guarded, v4) in [(guard.v4, true), (guard.v6, false)] {
        for name in outward.iter().filter(|_| guarded) {
            rules.push(
                Rule::new("forward", "this device was no router before it had pods")
                    .family(v4)
                    .from_link(name)
                    .jump("transit"),
            );
        }
    }
    if guard.v4 || guard.v6 {
        for name in outward {
            rules.push(
                Rule::new("transit", "this device was no router before it had pods")
                    .to_link(name)
                    .lose(),
            );
        }
    }
}

fn filters(rules: &mut Vec<Rule>, bridges: &str, wanted: &Wanted, layout: &Layout) {
    let networks: &BTreeMap<_, Network> = &layout.networks;
    let mut add = |rule: Rule| rules.push(rule);
    // Names and neighbours come before any policy.
    for network in networks.values() {
        for gateway in [network.gateway4.into(), network.gateway6.into()] {
            for protocol in [Protocol::Udp, Protocol::Tcp] {
                add(Rule::new("input", "names")
                    .from_link(&network.bridge)
                    .destination(Prefix::host(gateway))
                    .ports(protocol, NAMES_PORT, NAMES_PORT)
                    .accept());
            }
        }
    }
    for kind in ICMP6_NEIGHBOUR {
        add(Rule::new("input", "neighbours")
            .from_link(bridges)
            .icmp6(kind)
            .accept());
    }
    for (id, pod, place) in placed(wanted, layout) {
        if pod.egress.is_some() {
            for own in both(place) {
                for chain in ["forward", "input"] {
                    add(Rule::new(chain, format!("{id}"))
                        .source(own)
                        .jump(&egress_chain(place)));
                }
            }
        }
    }
    add(Rule::new("forward", "known connections")
        .established()
        .accept());
    for (namespace, network) in networks {
        for range in [network.services4, network.services6] {
            for chain in ["forward", "output"] {
                let comment = format!("{namespace}: no pod of the service is ready");
                let rule = Rule::new(chain, comment).destination(range);
                add(rule.clone().tcp().reject(Wall::Reset));
                add(rule.reject(Wall::Port));
            }
        }
    }
    for (namespace, network) in networks {
        add(Rule::new("forward", format!("within {namespace}"))
            .from_link(&network.bridge)
            .to_link(&network.bridge)
            .accept());
    }
    add(Rule::new("forward", "published ports and services")
        .to_link(bridges)
        .redirected()
        .accept());
    add(Rule::new("forward", "namespaces apart")
        .from_link(bridges)
        .to_link(bridges)
        .reject(Wall::Forbidden));
    add(Rule::new("forward", "pods only by published ports")
        .to_link(bridges)
        .lose());
    add(Rule::new("output", "pods go through the device")
        .to_link(bridges)
        .icmp(ICMP_REDIRECT)
        .lose());
    add(Rule::new("output", "pods go through the device")
        .to_link(bridges)
        .icmp6(ICMP6_REDIRECT)
        .lose());
}
