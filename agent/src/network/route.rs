//! The routing socket: interfaces, addresses and routes of one network
//! namespace. A socket belongs to the namespace of the thread that opened it
//! and stays there, so only a short-lived thread ever enters a pod's.

use super::plan::{Link, Port};
use super::prefix::Prefix;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{
    InfoBridgePort, InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::sched::{CloneFlags, setns};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// How often a list is read again when it changed meanwhile.
const READS: u32 = 10;
/// More than any answer: the kernel fills at most 32 KiB at once.
const ANSWER_BYTES: usize = 64 * 1024;

/// A route of the main table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// By which interface, where it is one.
    pub link: Option<u32>,
    /// Where to.
    pub to: Prefix,
    /// By which neighbour.
    pub via: Option<IpAddr>,
}

/// The routing socket of one network namespace.
#[derive(Debug)]
pub struct Routing {
    socket: Socket,
}

/// Opens a pod's network namespace. The device's own is refused: what is meant
/// for a pod must never be done to the device.
pub fn open_namespace(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    let (pod, own) = (
        file.metadata()?,
        std::fs::metadata("/proc/thread-self/ns/net")?,
    );
    if (pod.dev(), pod.ino()) == (own.dev(), own.ino()) {
        let text = format!("{} is the device's own network", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(file)
}

impl Routing {
    /// In the network namespace of this thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self { socket })
    }

    /// In that network namespace.
    pub fn open_in(namespace: &File) -> io::Result<Self> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || {
                setns(namespace, CloneFlags::CLONE_NEWNET)?;
                Self::open()
            })?;
            thread.join().expect("opening a socket does not panic")
        })
    }

    /// All interfaces by name.
    pub fn links(&self) -> io::Result<BTreeMap<String, Link>> {
        let mut links = BTreeMap::new();
        let ask = RouteNetlinkMessage::GetLink(LinkMessage::default());
        for message in self.dump(ask)? {
            if let RouteNetlinkMessage::NewLink(message) = message
                && let Some((name, link)) = link(message)
            {
                links.insert(name, link);
            }
        }
        Ok(links)
    }

    /// The addresses of all interfaces, by the interface's number.
    pub fn addresses(&self) -> io::Result<Vec<(u32, Prefix)>> {
        let mut addresses = Vec::new();
        let ask = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        for message in self.dump(ask)? {
            let RouteNetlinkMessage::NewAddress(message) = message else {
                continue;
            };
            // IPv4 says Local where the two ends of a line differ, IPv6 mostly
            // has Address alone.
            let mut address = None;
            for attribute in message.attributes {
                match attribute {
                    AddressAttribute::Local(local) => address = Some(local),
                    AddressAttribute::Address(other) => address = address.or(Some(other)),
                    _ => (),
                }
            }
            let len = message.header.prefix_len;
            if let Some(prefix) = address.and_then(|address| Prefix::new(address, len)) {
                addresses.push((message.header.index, prefix));
            }
        }
        Ok(addresses)
    }

    /// The unicast routes of the main table.
    pub fn routes(&self) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            for message in self.dump(RouteNetlinkMessage::GetRoute(ask))? {
                let RouteNetlinkMessage::NewRoute(message) = message else {
                    continue;
                };
                let header = &message.header;
                if header.table == RouteHeader::RT_TABLE_MAIN && header.kind == RouteType::Unicast {
                    routes.push(route(&message));
                }
            }
        }
        Ok(routes)
    }

    /// The permanent neighbours, by the interface's number.
    pub fn neighbours(&self) -> io::Result<Vec<(u32, IpAddr, [u8; 6])>> {
        let mut neighbours = Vec::new();
        let ask = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        for message in self.dump(ask)? {
            let RouteNetlinkMessage::NewNeighbour(message) = message else {
                continue;
            };
            let mut address = None;
            let mut mac = None;
            for attribute in message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                        address = Some(IpAddr::from(v4));
                    }
                    NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                        address = Some(IpAddr::from(v6));
                    }
                    NeighbourAttribute::LinkLayerAddress(bytes) => {
                        mac = <[u8; 6]>::try_from(bytes).ok();
                    }
                    _ => (),
                }
            }
            if let (NeighbourState::Permanent, Some(address), Some(mac)) =
                (message.header.state, address, mac)
            {
                neighbours.push((message.header.ifindex, address, mac));
            }
        }
        Ok(neighbours)
    }

    /// Makes a bridge, or gives one that is there this address and alias.
    pub fn make_bridge(&self, name: &str, mac: [u8; 6], alias: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
        ];
        let made = self.ask(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        );
        match made {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => (),
        }
        let mut message = self.link_message(name)?;
        message.attributes = vec![
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::IfAlias(alias.into()),
        ];
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Makes a cable whose other end is born in another namespace.
    pub fn make_cable(
        &self,
        name: &str,
        peer: &str,
        mac: [u8; 6],
        namespace: BorrowedFd,
    ) -> io::Result<()> {
        let mut end = LinkMessage::default();
        end.attributes = vec![
            LinkAttribute::IfName(peer.into()),
            LinkAttribute::Address(mac.to_vec()),
            LinkAttribute::NetNsFd(namespace.as_raw_fd()),
        ];
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName(name.into()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end))),
            ]),
        ];
        self.ask(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Makes an interface a port of a bridge.
    pub fn plug(&self, name: &str, bridge: &str, alias: &str, port: Port) -> io::Result<()> {
        let bridge = self.index(bridge)?;
        let mut message = self.link_message(name)?;
        message.attributes = vec![
            LinkAttribute::Controller(bridge),
            LinkAttribute::IfAlias(alias.into()),
        ];
        self.ask(RouteNetlinkMessage::SetLink(message), 0)?;
        let mut message = self.link_message(name)?;
        let port = InfoPortData::BridgePort(vec![
            InfoBridgePort::Isolated(port.isolated),
            InfoBridgePort::HairpinMode(port.hairpin),
        ]);
        message.attributes = vec![LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(port),
        ])];
        self.ask(RouteNetlinkMessage::NewLink(message), 0)
    }

    /// Switches an interface on.
    pub fn up(&self, name: &str) -> io::Result<()> {
        let mut message = self.link_message(name)?;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.ask(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Removes an interface; one that is gone is fine.
    pub fn delete_link(&self, name: &str) -> io::Result<()> {
        let deleted = self
            .link_message(name)
            .and_then(|message| self.ask(RouteNetlinkMessage::DelLink(message), 0));
        match deleted {
            Err(error) if gone(&error) => Ok(()),
            other => other,
        }
    }

    /// Gives an interface an address, at once: nobody else can have it, so
    /// IPv6 need not ask for a second whether somebody does.
    pub fn add_address(&self, name: &str, prefix: Prefix) -> io::Result<()> {
        let message = self.address_message(name, prefix)?;
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewAddress(message), flags)
    }

    /// Takes an address away.
    pub fn delete_address(&self, name: &str, prefix: Prefix) -> io::Result<()> {
        let message = self.address_message(name, prefix)?;
        self.ask(RouteNetlinkMessage::DelAddress(message), 0)
    }

    /// Adds a route by an interface.
    pub fn add_route(&self, name: &str, to: Prefix, via: Option<IpAddr>) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to);
        message.header.destination_prefix_length = to.prefix_len();
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        message.header.scope = match via {
            None if to.is_v4() => RouteScope::Link,
            _ => RouteScope::Universe,
        };
        message.attributes = vec![RouteAttribute::Oif(self.index(name)?)];
        if to.prefix_len() > 0 {
            let to = RouteAddress::from(to.address());
            message.attributes.push(RouteAttribute::Destination(to));
        }
        if let Some(via) = via {
            message.attributes.push(RouteAttribute::Gateway(via.into()));
        }
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewRoute(message), flags)
    }

    /// Says for good which hardware address a neighbour has.
    pub fn add_neighbour(&self, name: &str, address: IpAddr, mac: [u8; 6]) -> io::Result<()> {
        let mut message = self.neighbour_message(name, address)?;
        let mac = NeighbourAttribute::LinkLayerAddress(mac.to_vec());
        message.attributes.push(mac);
        let flags = NLM_F_CREATE | NLM_F_REPLACE;
        self.ask(RouteNetlinkMessage::NewNeighbour(message), flags)
    }

    /// Forgets a neighbour.
    pub fn delete_neighbour(&self, name: &str, address: IpAddr) -> io::Result<()> {
        let message = self.neighbour_message(name, address)?;
        self.ask(RouteNetlinkMessage::DelNeighbour(message), 0)
    }

    fn neighbour_message(&self, name: &str, address: IpAddr) -> io::Result<NeighbourMessage> {
        let mut message = NeighbourMessage::default();
        message.header.family = family(Prefix::host(address));
        message.header.ifindex = self.index(name)?;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![NeighbourAttribute::Destination(address.into())];
        Ok(message)
    }

    fn address_message(&self, name: &str, prefix: Prefix) -> io::Result<AddressMessage> {
        let mut message = AddressMessage::default();
        message.header.family = family(prefix);
        message.header.prefix_len = prefix.prefix_len();
        message.header.index = self.index(name)?;
        message.header.scope = AddressScope::Universe;
        message.attributes = vec![
            AddressAttribute::Address(prefix.address()),
            AddressAttribute::Local(prefix.address()),
        ];
        if !prefix.is_v4() {
            message.header.flags = AddressHeaderFlags::Nodad;
            let flags = AddressAttribute::Flags(AddressFlags::Nodad);
            message.attributes.push(flags);
        }
        Ok(message)
    }

    fn link_message(&self, name: &str) -> io::Result<LinkMessage> {
        let mut message = LinkMessage::default();
        message.header.index = self.index(name)?;
        Ok(message)
    }

    fn index(&self, name: &str) -> io::Result<u32> {
        let mut ask = LinkMessage::default();
        ask.attributes = vec![LinkAttribute::IfName(name.into())];
        let answers = self.exchange(RouteNetlinkMessage::GetLink(ask), NLM_F_ACK)?;
        let found = answers.0.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        found.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    fn ask(&self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.exchange(message, NLM_F_ACK | flags).map(drop)
    }

    fn dump(&self, message: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..READS {
            let (answers, whole) = self.exchange(message.clone(), NLM_F_DUMP)?;
            if whole {
                return Ok(answers);
            }
        }
        let text = format!("the network changed {READS} times while it was read");
        Err(io::Error::other(text))
    }

    /// Sends and reads until the kernel is done; `false` when what was read
    /// changed meanwhile.
    fn exchange(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<(Vec<RouteNetlinkMessage>, bool)> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        message.header.sequence_number = 1;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send_to(&bytes, &SocketAddr::new(0, 0), 0)?;
        let mut answers = Vec::new();
        let mut whole = true;
        loop {
            let mut answer = Vec::with_capacity(ANSWER_BYTES);
            self.socket.recv(&mut answer, 0)?;
            let mut rest = &answer[..];
            while let Some(len) = rest
                .first_chunk()
                .map(|len| u32::from_ne_bytes(*len) as usize)
            {
                let Some(one) = rest.get(..len).filter(|one| one.len() >= 16) else {
                    break;
                };
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
                // An interface of a kind that the library does not know is
                // none of ours.
                let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(one) else {
                    continue;
                };
                whole &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => answers.push(inner),
                    NetlinkPayload::Done(_) => return Ok((answers, whole)),
                    NetlinkPayload::Error(error) if error.code.is_none() => {
                        return Ok((answers, whole));
                    }
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => (),
                }
            }
        }
    }
}

/// Whether the error says that the interface is not there.
fn gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

fn family(prefix: Prefix) -> AddressFamily {
    match prefix.is_v4() {
        true => AddressFamily::Inet,
        false => AddressFamily::Inet6,
    }
}

fn link(message: LinkMessage) -> Option<(String, Link)> {
    let mut name = None;
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text),
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Link(index) => link.peer = Some(index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
                            link.port = Port {
                                isolated: port.contains(&InfoBridgePort::Isolated(true)),
                                hairpin: port.contains(&InfoBridgePort::HairpinMode(true)),
                            };
                        }
                        _ => (),
                    }
                }
            }
            _ => (),
        }
    }
    Some((name?, link))
}

fn route(message: &RouteMessage) -> Route {
    let v4 = message.header.address_family == AddressFamily::Inet;
    let mut route = Route {
        link: None,
        to: if v4 { Prefix::ALL_V4 } else { Prefix::ALL_V6 },
        via: None,
    };
    let ip = |address: &RouteAddress| match address {
        RouteAddress::Inet(v4) => Some(IpAddr::from(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::from(*v6)),
        _ => None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.link = Some(*index),
            RouteAttribute::Gateway(via) => route.via = ip(via),
            RouteAttribute::Destination(to) => {
                let len = message.header.destination_prefix_length;
                if let Some(to) = ip(to).and_then(|to| Prefix::new(to, len)) {
                    route.to = to;
                }
            }
            _ => (),
        }
    }
    route
}
