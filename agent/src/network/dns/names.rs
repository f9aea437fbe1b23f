//! What we answer ourselves. Pure: a query's bytes in, a reply's bytes out.

use crate::network::files::DOMAIN;
use crate::network::lease::Layout;
use crate::network::wanted::Wanted;
use simple_dns::rdata::{A, AAAA, RData};
use simple_dns::{CLASS, OPCODE, Packet, PacketFlag, QCLASS, QTYPE, RCODE, ResourceRecord, TYPE};
use skerry_wire::Namespace;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Seconds for which an answer may be kept: pods come and go.
const TTL_SECS: u32 = 5;
/// Most addresses in one answer: they fit into the 512 bytes that every
/// program takes.
const MAX_ADDRESSES: usize = 14;

/// The names of one namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    namespace: String,
    /// Empty for an app of which no pod is ready.
    addresses: BTreeMap<String, Vec<IpAddr>>,
}

/// What to do with a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Send this back.
    Answer(Vec<u8>),
    /// Ask the device's resolvers.
    Forward,
    /// No query at all: nothing is sent back.
    Ignore,
}

impl Names {
    /// The names of a namespace. A service goes before an app of its name.
    pub fn of(namespace: &Namespace, wanted: &Wanted, layout: &Layout) -> Self {
        let mut addresses: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (id, pod) in &wanted.pods {
            if pod.namespace != *namespace {
                continue;
            }
            let of_app = addresses.entry(pod.app.to_string()).or_default();
            if let Some(place) = layout.pods.get(id).filter(|_| pod.ready) {
                of_app.push(place.addresses.v4.into());
                of_app.push(place.addresses.v6.into());
            }
        }
        for ((of, name), pair) in &layout.services {
            if of == namespace {
                addresses.insert(name.to_string(), vec![pair.v4.into(), pair.v6.into()]);
            }
        }
        Self {
            namespace: namespace.to_string(),
            addresses,
        }
    }

    fn find(&self, name: &str) -> Found<'_> {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let below = name.strip_suffix(DOMAIN);
        let below = below.and_then(|rest| match rest {
            "" => Some(""),
            rest => rest.strip_suffix('.'),
        });
        let short = below.unwrap_or(&name);
        let own = short
            .strip_suffix(self.namespace.as_str())
            .and_then(|rest| rest.strip_suffix('.'));
        // A name alone is one of ours only without the domain: there the
        // namespace belongs to it.
        let key = match (own, below) {
            (Some(app), _) => Some(app),
            (None, None) => Some(short),
            (None, Some(_)) => None,
        };
        match key.and_then(|key| self.addresses.get(key)) {
            Some(addresses) => Found::Ours(addresses),
            None if below.is_some() => Found::Nobody,
            None => Found::Elsewhere,
        }
    }
}

enum Found<'a> {
    Ours(&'a [IpAddr]),
    Nobody,
    Elsewhere,
}

/// Decides on a query.
pub fn reply(names: &Names, query: &[u8]) -> Reply {
    let Ok(query) = Packet::parse(query) else {
        return Reply::Ignore;
    };
    if query.has_flags(PacketFlag::RESPONSE) {
        return Reply::Ignore;
    }
    let [question] = &query.questions[..] else {
        return Reply::Ignore;
    };
    if query.opcode() != OPCODE::StandardQuery {
        return built(&query, RCODE::NotImplemented, Vec::new());
    }
    if !matches!(question.qclass, QCLASS::CLASS(CLASS::IN) | QCLASS::ANY) {
        return Reply::Forward;
    }
    match names.find(&question.qname.to_string()) {
        Found::Elsewhere => Reply::Forward,
        Found::Nobody => built(&query, RCODE::NameError, Vec::new()),
        Found::Ours(addresses) => {
            let wanted = |address: &&IpAddr| match question.qtype {
                QTYPE::TYPE(TYPE::A) => address.is_ipv4(),
                QTYPE::TYPE(TYPE::AAAA) => address.is_ipv6(),
                QTYPE::ANY => true,
                _ => false,
            };
            let records = addresses.iter().filter(wanted).take(MAX_ADDRESSES);
            let records = records.map(|address| {
                let data = match address {
                    IpAddr::V4(v4) => RData::A(A::from(*v4)),
                    IpAddr::V6(v6) => RData::AAAA(AAAA::from(*v6)),
                };
                ResourceRecord::new(question.qname.clone(), CLASS::IN, TTL_SECS, data)
            });
            built(&query, RCODE::NoError, records.collect())
        }
    }
}

/// "The device's resolvers do not answer."
pub(super) fn failure(query: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    match built(&query, RCODE::ServerFailure, Vec::new()) {
        Reply::Answer(bytes) => Some(bytes),
        Reply::Forward | Reply::Ignore => None,
    }
}

/// How many bytes the asker takes in one datagram.
pub(super) fn datagram_bytes(query: &[u8]) -> usize {
    const LEAST: usize = 512;
    let size = Packet::parse(query)
        .ok()
        .and_then(|query| query.opt().map(|opt| usize::from(opt.udp_packet_size)));
    size.unwrap_or(LEAST).max(LEAST)
}

/// The question alone with "too long": the asker comes again by TCP.
pub(super) fn too_long(query: &[u8]) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::TRUNCATION | PacketFlag::RECURSION_AVAILABLE);
    reply.questions.clone_from(&query.questions);
    reply.build_bytes_vec().ok()
}

fn built(query: &Packet, code: RCODE, answers: Vec<ResourceRecord>) -> Reply {
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER | PacketFlag::RECURSION_AVAILABLE);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED);
    }
    *reply.rcode_mut() = code;
    reply.questions.clone_from(&query.questions);
    reply.answers = answers;
    match reply.build_bytes_vec_compressed() {
        Ok(bytes) => Reply::Answer(bytes),
        Err(_) => Reply::Ignore,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use simple_dns::{Name, Question};

    fn names() -> Names {
        let addresses = ["10.209.0.7", "fd00::7"].map(|a| a.parse().unwrap());
        Names {
            namespace: "shop".into(),
            addresses: [("web".into(), addresses.into()), ("idle".into(), vec![])].into(),
        }
    }

    fn ask(name: &str, kind: TYPE) -> Reply {
        let mut query = Packet::new_query(77);
        query.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(name).unwrap();
        query.questions.push(Question::new(
            name,
            QTYPE::TYPE(kind),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        reply(&names(), &query.build_bytes_vec().unwrap())
    }

    fn answers(reply: Reply) -> (RCODE, Vec<IpAddr>) {
        let Reply::Answer(bytes) = reply else {
            panic!("{reply:?}");
        };
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!(packet.id(), 77);
        let addresses = packet.answers.iter().map(|record| match &record.rdata {
            RData::A(a) => IpAddr::V4(a.address.into()),
            RData::AAAA(a) => IpAddr::V6(a.address.into()),
            other => panic!("{other:?}"),
        });
        (packet.rcode(), addresses.collect())
    }

    #[test]
    fn apps_of_the_namespace_are_known_by_each_of_their_names() {
        for name in ["web", "WEB", "web.shop", "web.shop.skerry.internal"] {
            let (code, found) = answers(ask(name, TYPE::A));
            assert_eq!(code, RCODE::NoError, "{name}");
            assert_eq!(found, ["10.209.0.7".parse::<IpAddr>().unwrap()], "{name}");
            let (_, found) = answers(ask(name, TYPE::AAAA));
            assert_eq!(found, ["fd00::7".parse::<IpAddr>().unwrap()], "{name}");
            let (code, found) = answers(ask(name, TYPE::MX));
            assert_eq!((code, found.len()), (RCODE::NoError, 0), "{name}");
        }
        assert_eq!(answers(ask("idle", TYPE::A)), (RCODE::NoError, vec![]));
    }

    #[test]
    fn our_domain_never_leaves_the_device() {
        for name in [
            "nobody.shop.skerry.internal",
            "web.skerry.internal",
            "skerry.internal",
        ] {
            assert_eq!(answers(ask(name, TYPE::A)).0, RCODE::NameError, "{name}");
        }
        for name in [
            "example.org",
            "nas",
            "notskerry.internal",
            "web.other",
            "xshop",
        ] {
            assert_eq!(ask(name, TYPE::A), Reply::Forward, "{name}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_query_or_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            reply(&names(), &bytes);
            datagram_bytes(&bytes);
            too_long(&bytes);
            failure(&bytes);
        }
    }
}
