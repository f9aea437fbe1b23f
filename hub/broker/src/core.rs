//! The broker without its sockets: connections, sessions, and time as an
//! argument. Pure but for the wakers, which it only hands back.
//!
//! A connection is `Pending` until its CONNECT is granted, then `Live`, and
//! `closing` once the broker has decided to end it: then its last bytes still
//! go out, and nothing that it says counts any more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use crate::authority::{Denied, Peer};
use crate::limits::{Class, Limits};
use crate::message::{ConnectionId, Message, SessionId, Will};
use crate::packet::Version;
use crate::reason::Why;
use crate::router::{Reader, Router};
use crate::session::Session;
use crate::stats::Stats;
use crate::topic::TopicFilter;

/// Bytes that are encoded for one connection ahead of its socket.
pub(crate) const OUT_HIGH_BYTES: usize = 16 * 1024;
/// How long a closing connection may take for its last bytes.
pub(crate) const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// QoS 1 messages that a client may have on their way to us.
pub(crate) const RECEIVE_MAXIMUM: u16 = 64;
/// Topic aliases that a client may use.
pub(crate) const TOPIC_ALIASES: u16 = 8;
/// Messages of one publisher that may wait in a patient reader's queue; then
/// the publisher waits. So a flood delays its sender and nobody else.
const CREDIT_MESSAGES: u32 = 64;
/// The same in bytes.
const CREDIT_BYTES: usize = 512 * 1024;
/// How much may come at once on top of the average, as a time.
const BURST: Duration = Duration::from_secs(4);

pub(crate) struct Core {
    pub limits: Limits,
    last_id: u64,
    pub connections: HashMap<ConnectionId, Box<Connection>>,
    pub sessions: HashMap<SessionId, Box<Session>>,
    pub by_client: HashMap<Arc<str>, SessionId>,
    pub router: Router,
    pub origins: HashMap<IpAddr, Origin>,
    pending: usize,
    pub queued_bytes: usize,
    /// Patient sessions whose queue is full.
    pub congested: usize,
    pub stats: Stats,
    /// To be woken once the lock is gone.
    pub wakers: Vec<Waker>,
    pub denied: Vec<Denied>,
    /// Wills and overflows wait here, so that one cannot nest in the other.
    pub wills: Vec<Message>,
    pub overflowed: Vec<SessionId>,
    pub readers: Vec<Reader>,
    /// Counts revocations: a grant from before the last one may be void.
    pub epoch: u64,
    pub shutting_down: bool,
}

/// What one address has open.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    pub connections: usize,
    pub pending: usize,
}

pub(crate) struct Connection {
    pub peer: Peer,
    pub opened: Instant,
    /// Encoded for the socket.
    pub out: Vec<u8>,
    pub phase: Phase,
    pub closing: Option<Closing>,
    pub waker: Option<Waker>,
    /// Since when part of a packet has been waiting for its rest.
    pub partial_since: Option<Instant>,
}

pub(crate) struct Closing {
    pub by: Instant,
    /// `by` has passed.
    pub aborted: bool,
}

pub(crate) enum Phase {
    Pending,
    Live(Box<Live>),
}

/// A connection whose client is known.
pub(crate) struct Live {
    pub version: Version,
    pub session: SessionId,
    pub publish: Box<[TopicFilter]>,
    pub subscribe: Box<[TopicFilter]>,
    pub class: Arc<Class>,
    pub keep_alive: Duration,
    pub last_heard: Instant,
    pub max_packet_bytes: u32,
    pub max_in_flight: u16,
    pub aliases: Vec<Option<Arc<str>>>,
    pub will: Option<Box<Will>>,
    /// What it sent and a patient reader has not got.
    pub credit_messages: u32,
    pub credit_bytes: usize,
    /// When all that it has sent would be due at its average rate.
    pub paid_until: Instant,
}

/// What happens to the will of a connection that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WillFate {
    Published,
    Discarded,
}

/// What a connection's task is to do next.
pub(crate) struct Turn {
    /// Bytes for the socket.
    pub bytes: Vec<u8>,
    /// Close the socket once they are out.
    pub ends: bool,
    /// Close it now.
    pub aborted: bool,
    pub read: Read,
}

/// Whether more may be read from a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Now,
    /// Not before it is woken.
    Wait,
    /// Not before this moment.
    At(Instant),
}

impl Core {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            last_id: 0,
            connections: HashMap::new(),
            sessions: HashMap::new(),
            by_client: HashMap::new(),
            router: Router::default(),
            origins: HashMap::new(),
            pending: 0,
            queued_bytes: 0,
            congested: 0,
            stats: Stats::default(),
            wakers: Vec::new(),
            denied: Vec::new(),
            wills: Vec::new(),
            overflowed: Vec::new(),
            readers: Vec::new(),
            epoch: 0,
            shutting_down: false,
        }
    }

    pub fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    pub fn count(&mut self, why: Why) {
        if why.is_refusal() {
            *self.stats.refused.entry(why.words()).or_default() += 1;
        }
    }

    pub fn count_failed_handshake(&mut self) {
        *self
            .stats
            .refused
            .entry("TLS handshake failed")
            .or_default() += 1;
    }

    /// A connection came in; an error when there is no room for it. The Unix
    /// socket is the hub's own and always has room.
    pub fn open(&mut self, peer: Peer, now: Instant) -> Result<ConnectionId, Why> {
        let refusal = match peer.origin() {
            _ if self.shutting_down => Some(Why::ShuttingDown),
            None => None,
            Some(_) if self.connections.len() >= self.limits.connections => {
                Some(Why::TooManyConnections)
            }
            Some(_) if self.pending >= self.limits.pending => Some(Why::TooManyPending),
            Some(address) => match self.origins.get(&address) {
                Some(o) if o.connections >= self.limits.connections_per_address => {
                    Some(Why::TooManyFromAddress)
                }
                Some(o) if o.pending >= self.limits.pending_per_address => {
                    Some(Why::TooManyPendingFromAddress)
                }
                _ => None,
            },
        };
        if let Some(why) = refusal {
            self.count(why);
            return Err(why);
        }
        if let Some(address) = peer.origin() {
            let origin = self.origins.entry(address).or_default();
            origin.connections += 1;
            origin.pending += 1;
        }
        self.pending += 1;
        let id = ConnectionId(self.next_id());
        let connection = Connection {
            peer,
            opened: now,
            out: Vec::new(),
            phase: Phase::Pending,
            closing: None,
            waker: None,
            partial_since: None,
        };
        self.connections.insert(id, Box::new(connection));
        Ok(id)
    }

    pub fn no_longer_pending(&mut self, peer: Peer) {
        self.pending = self.pending.saturating_sub(1);
        if let Some(address) = peer.origin()
            && let Some(origin) = self.origins.get_mut(&address)
        {
            origin.pending = origin.pending.saturating_sub(1);
        }
    }

    /// The connection, unless it is closing or gone.
    pub fn open_connection(&mut self, id: ConnectionId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(&id)?;
        connection.closing.is_none().then_some(&mut **connection)
    }

    /// The connection, if its client is known and it is not closing.
    pub fn live(&mut self, id: ConnectionId) -> Option<(&mut Live, &mut Vec<u8>)> {
        let connection = self.connections.get_mut(&id)?;
        if connection.closing.is_some() {
            return None;
        }
        match &mut connection.phase {
            Phase::Live(live) => Some((live, &mut connection.out)),
            Phase::Pending => None,
        }
    }

    pub fn wake(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && let Some(waker) = connection.waker.take()
        {
            self.wakers.push(waker);
        }
    }

    /// What a connection's task does next; keeps its waker for when that
    /// changes. `None` when the connection is gone.
    pub fn turn(
        &mut self,
        id: ConnectionId,
        waker: &Waker,
        wants_bytes: bool,
        now: Instant,
    ) -> Option<Turn> {
        let congested = self.congested;
        let connection = self.connections.get_mut(&id)?;
        match &mut connection.waker {
            Some(known) if known.will_wake(waker) => {}
            other => *other = Some(waker.clone()),
        }
        let bytes = if wants_bytes {
            std::mem::take(&mut connection.out)
        } else {
            Vec::new()
        };
        let mut session = None;
        let read = match (&connection.closing, &connection.phase) {
            (Some(_), _) => Read::Wait,
            (None, Phase::Pending) => Read::Now,
            (None, Phase::Live(live)) => {
                session = (!bytes.is_empty()).then_some(live.session);
                let free_at = live.paid_until.checked_sub(BURST).unwrap_or(now);
                if connection.out.len() >= OUT_HIGH_BYTES || live.must_wait(congested) {
                    Read::Wait
                } else if free_at > now {
                    Read::At(free_at)
                } else {
                    Read::Now
                }
            }
        };
        let turn = Turn {
            bytes,
            ends: connection.closing.is_some(),
            aborted: connection.closing.as_ref().is_some_and(|c| c.aborted),
            read,
        };
        // The socket takes these; encode the next ones meanwhile.
        if let Some(session) = session {
            self.fill(session, now);
        }
        Some(turn)
    }

    /// Part of a packet waits for its rest, or no longer does.
    pub fn partial(&mut self, id: ConnectionId, waits: bool, now: Instant) {
        if let Some(connection) = self.open_connection(id) {
            match (waits, connection.partial_since) {
                (true, None) => connection.partial_since = Some(now),
                (true, Some(_)) => {}
                (false, _) => connection.partial_since = None,
            }
        }
    }

    /// A packet came in whole; the next one has its own time.
    pub fn heard(&mut self, id: ConnectionId, bytes: usize, now: Instant) {
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        connection.partial_since = None;
        let Phase::Live(live) = &mut connection.phase else {
            return;
        };
        live.last_heard = now;
        let mut cost = Duration::ZERO;
        if let Some(each) = Duration::from_secs(1).checked_div(live.class.packets_per_second) {
            cost += each;
        }
        if live.class.bytes_per_second > 0 {
            let nanos = bytes as u64 * 1_000_000_000 / u64::from(live.class.bytes_per_second);
            cost += Duration::from_nanos(nanos);
        }
        live.paid_until = live.paid_until.max(now) + cost;
    }

    pub fn snapshot(&self) -> Stats {
        Stats {
            connections: self.connections.len(),
            pending: self.pending,
            sessions: self.sessions.len(),
            subscriptions: self.router.len(),
            retained: self.router.retained_count(),
            queued_bytes: self.queued_bytes,
            ..self.stats.clone()
        }
    }
}

impl Connection {
    pub fn take_waker(&mut self) -> Option<Waker> {
        self.waker.take()
    }
}

impl Live {
    /// Whether its messages wait for a patient reader.
    pub fn must_wait(&self, congested: usize) -> bool {
        !self.class.patient
            && (congested > 0
                || self.credit_messages >= CREDIT_MESSAGES
                || self.credit_bytes >= CREDIT_BYTES)
    }
}
