//! Answers on the bridge, by UDP and by TCP.

use super::names::{Names, Reply, datagram_bytes, failure, reply, too_long};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream, UdpSocket};
use smol::{LocalExecutor, Timer};
use std::cell::RefCell;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

/// Where names are asked for.
const PORT: u16 = 53;
/// Longest datagram that is taken or sent: what EDNS askers say today is 1232
/// to 4096.
const DATAGRAM_BYTES: usize = 4096;
/// Queries of one namespace that wait for the device's resolvers; what comes
/// beyond is refused at once.
const MAX_WAITING: usize = 64;
/// Open TCP connections of one namespace.
const MAX_CONNECTIONS: usize = 16;
/// A TCP connection is closed after so long without a query.
const IDLE: Duration = Duration::from_secs(10);
/// How long one resolver may take; a program asks again after 5 s.
const PATIENCE: Duration = Duration::from_secs(2);
/// As many resolvers as resolv.conf(5) knows.
const MAX_RESOLVERS: usize = 3;
/// Longest resolv.conf that is read, in bytes.
const MAX_RESOLV_CONF_BYTES: usize = 64 * 1024;

/// No names on a bridge.
#[derive(Debug, thiserror::Error)]
#[error(
    "names cannot be answered at {address} port {PORT}: if another name server of this device \
     listens on all addresses, let it listen on its own ones only (dnsmasq: bind-dynamic)"
)]
pub struct NamesError {
    /// Which bridge's.
    pub address: IpAddr,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Names that change while they are answered.
pub type SharedNames = Rc<RefCell<Names>>;

/// The device's own resolvers, read anew for every query: a device moves from
/// one network to another.
#[derive(Debug, Clone)]
pub struct Resolvers {
    /// `/etc/resolv.conf`
    pub file: PathBuf,
    /// 53, but for tests.
    pub port: u16,
}

impl Default for Resolvers {
    fn default() -> Self {
        Self {
            file: "/etc/resolv.conf".into(),
            port: PORT,
        }
    }
}

impl Resolvers {
    /// Those of the file, but not ourselves.
    fn list(&self, own: IpAddr) -> Vec<SocketAddr> {
        let Ok(text) = fs::read(&self.file) else {
            return Vec::new();
        };
        let text = String::from_utf8_lossy(&text[..text.len().min(MAX_RESOLV_CONF_BYTES)]);
        let servers = text.lines().filter_map(|line| {
            let rest = line.trim().strip_prefix("nameserver")?;
            rest.trim().parse::<IpAddr>().ok()
        });
        servers
            .filter(|server| *server != own)
            .take(MAX_RESOLVERS)
            .map(|server| SocketAddr::new(server, self.port))
            .collect()
    }
}

/// Names at one address. It stops when it is dropped.
#[derive(Debug)]
pub struct Responder {
    address: IpAddr,
    udp: UdpSocket,
    tcp: TcpListener,
    names: SharedNames,
    resolvers: Resolvers,
}

impl Responder {
    /// Listens at the bridge's address, which has to be there.
    pub async fn bind(
        address: IpAddr,
        names: SharedNames,
        resolvers: Resolvers,
    ) -> Result<Self, NamesError> {
        let failed = |source| NamesError { address, source };
        let udp = UdpSocket::bind((address, PORT)).await.map_err(failed)?;
        let tcp = TcpListener::bind((address, PORT)).await.map_err(failed)?;
        Ok(Self {
            address,
            udp,
            tcp,
            names,
            resolvers,
        })
    }

    /// Answers until it is dropped.
    pub async fn run(self) {
        let this = Rc::new(self);
        let tasks = Rc::new(LocalExecutor::new());
        let datagrams = this.clone().datagrams(tasks.clone());
        let connections = this.clone().connections(tasks.clone());
        tasks.run(datagrams.or(connections)).await;
    }

    async fn datagrams(self: Rc<Self>, tasks: Rc<LocalExecutor<'static>>) {
        let waiting = Rc::new(());
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            let (len, from) = match self.udp.recv_from(&mut buffer).await {
                Ok(received) => received,
                // Of a datagram before: the asker is gone.
                Err(_) => {
                    pause().await;
                    continue;
                }
            };
            let query = buffer[..len].to_vec();
            let decided = reply(&self.names.borrow(), &query);
            match decided {
                Reply::Ignore => (),
                Reply::Answer(answer) => self.send(&answer, from).await,
                Reply::Forward if Rc::strong_count(&waiting) > MAX_WAITING => {
                    if let Some(answer) = failure(&query) {
                        self.send(&answer, from).await;
                    }
                }
                Reply::Forward => {
                    let (this, waiting) = (self.clone(), waiting.clone());
                    let task = tasks.spawn(async move {
                        let answer = this.forward_datagram(&query).await;
                        if let Some(answer) = answer.or_else(|| failure(&query)) {
                            this.send(&answer, from).await;
                        }
                        drop(waiting);
                    });
                    task.detach();
                }
            }
        }
    }

    /// An asker that is gone is no trouble of ours.
    async fn send(&self, answer: &[u8], to: SocketAddr) {
        self.udp.send_to(answer, to).await.ok();
    }

    async fn forward_datagram(&self, query: &[u8]) -> Option<Vec<u8>> {
        let answer = self.forward(query).await?;
        match answer.len() <= datagram_bytes(query).min(DATAGRAM_BYTES) {
            true => Some(answer),
            false => too_long(query),
        }
    }

    async fn forward(&self, query: &[u8]) -> Option<Vec<u8>> {
        for server in self.resolvers.list(self.address) {
            let asked = async { ask(server, query).await.ok() };
            if let Some(answer) = asked.or(late()).await {
                return Some(answer);
            }
        }
        None
    }

    async fn connections(self: Rc<Self>, tasks: Rc<LocalExecutor<'static>>) {
        let open = Rc::new(());
        loop {
            let stream = match self.tcp.accept().await {
                Ok((stream, _)) => stream,
                // No descriptors left.
                Err(_) => {
                    pause().await;
                    continue;
                }
            };
            if Rc::strong_count(&open) > MAX_CONNECTIONS {
                continue;
            }
            let (this, open) = (self.clone(), open.clone());
            let task = tasks.spawn(async move {
                this.connection(stream).await.ok();
                drop(open);
            });
            task.detach();
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let read = async { Some(read_message(&mut stream).await) };
            let idle = async {
                Timer::after(IDLE).await;
                None
            };
            let Some(query) = read.or(idle).await else {
                return Ok(());
            };
            let query = query?;
            let decided = reply(&self.names.borrow(), &query);
            let answer = match decided {
                Reply::Ignore => return Ok(()),
                Reply::Answer(answer) => Some(answer),
                Reply::Forward => self.forward(&query).await.or_else(|| failure(&query)),
            };
            let Some(answer) = answer else {
                return Ok(());
            };
            let written = async { Some(write_message(&mut stream, &answer).await) };
            match written.or(late()).await {
                Some(done) => done?,
                None => return Ok(()),
            }
        }
    }
}

async fn late<T>() -> Option<T> {
    Timer::after(PATIENCE).await;
    None
}

/// An error that comes again at once must not become a hot loop.
async fn pause() {
    Timer::after(Duration::from_millis(100)).await;
}

/// Asks by UDP from a port of its own, and by TCP when the answer is too long.
/// The number of the query is new, so that nobody who sees ours can guess it.
async fn ask(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut sent = query.to_vec();
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    sent[..2].copy_from_slice(&id);
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&sent).await?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut answer = loop {
        let len = socket.recv(&mut buffer).await?;
        if answers(&buffer[..len], &sent) {
            break buffer[..len].to_vec();
        }
    };
    const TOO_LONG: u8 = 0b10;
    if answer[2] & TOO_LONG != 0 {
        let mut stream = TcpStream::connect(server).await?;
        write_message(&mut stream, &sent).await?;
        let whole = read_message(&mut stream).await?;
        if answers(&whole, &sent) {
            answer = whole;
        }
    }
    answer[..2].copy_from_slice(&query[..2]);
    Ok(answer)
}

/// Same number, and the same question.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    let parsed = (
        simple_dns::Packet::parse(answer),
        simple_dns::Packet::parse(query),
    );
    let (Ok(answer), Ok(query)) = parsed else {
        return false;
    };
    let asked = |packet: &simple_dns::Packet| {
        let question = packet.questions.first();
        question.map(|q| (q.qname.to_string().to_ascii_lowercase(), q.qtype))
    };
    answer.has_flags(simple_dns::PacketFlag::RESPONSE)
        && answer.id() == query.id()
        && asked(&answer) == asked(&query)
}

/// RFC 1035, 4.2.2: two bytes of length before each message, which bound it.
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut len = [0; 2];
    stream.read_exact(&mut len).await?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let len = u16::try_from(message.len()).map_err(io::Error::other)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend(message);
    stream.write_all(&framed).await
}
