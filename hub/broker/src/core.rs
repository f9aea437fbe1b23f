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

use crate::authority::{Denied, Grant, Peer};
use crate::encode::{self, Accepted};
use crate::limits::{Class, Limits};
use crate::message::{ConnectionId, Message, SessionId, Will};
use crate::packet::{ConnectIn, Version};
use crate::reason::Why;
use crate::router::{Reader, Router};
use crate::session::Session;
use crate::stats::Stats;
use crate::topic::{TopicFilter, check_topic};

/// Bytes that are encoded for one connection ahead of its socket.
pub(crate) const OUT_HIGH_BYTES: usize = 16 * 1024;
/// How long a closing connection may take for its last bytes.
const CLOSE_WITHIN: Duration = Duration::from_secs(2);
/// QoS 1 messages that a client may have on their way to us.
pub(crate) const RECEIVE_MAXIMUM: u16 = 64;
/// Topic aliases that a client may use.
pub(crate) const TOPIC_ALIASES: u16 = 8;
/// Messages of one publisher that may wait in a patient reader's queue; then
/// the publisher waits. So a flood delays its sender and nobody else.
pub(crate) const CREDIT_MESSAGES: u32 = 64;
/// The same in bytes.
pub(crate) const CREDIT_BYTES: usize = 512 * 1024;
/// How much may come at once on top of the average, as a time.
const BURST: Duration = Duration::from_secs(4);

pub(crate) struct Core {
    pub limits: Limits,
    last_id: u64,
    pub connections: HashMap<ConnectionId, Box<Connection>>,
    pub sessions: HashMap<SessionId, Box<Session>>,
    pub by_client: HashMap<Arc<str>, SessionId>,
    pub router: Router,
    origins: HashMap<IpAddr, Origin>,
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
    shutting_down: bool,
}

#[derive(Debug, Default)]
struct Origin {
    connections: usize,
    pending: usize,
}

pub(crate) struct Connection {
    peer: Peer,
    opened: Instant,
    /// Encoded for the socket.
    pub out: Vec<u8>,
    pub phase: Phase,
    closing: Option<Closing>,
    waker: Option<Waker>,
    /// Since when part of a packet has been waiting for its rest.
    partial_since: Option<Instant>,
}

struct Closing {
    by: Instant,
    /// `by` has passed.
    aborted: bool,
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

    fn next_id(&mut self) -> u64 {
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

    fn no_longer_pending(&mut self, peer: Peer) {
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

    /// Ends a connection that CONNECT has not made live.
    pub fn refuse(
        &mut self,
        id: ConnectionId,
        version: Option<Version>,
        why: Why,
        words: &str,
        now: Instant,
    ) {
        self.count(why);
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        if let Some(version) = version {
            encode::refused(&mut connection.out, version, why, words);
        }
        connection.closing = Some(Closing {
            by: now + CLOSE_WITHIN,
            aborted: false,
        });
        self.wake(id);
    }

    /// Ends a connection from our side.
    pub fn close(&mut self, id: ConnectionId, why: Why, words: &str, fate: WillFate, now: Instant) {
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        let Phase::Live(live) = &connection.phase else {
            // Before CONNECT nobody is owed an answer.
            self.refuse(id, None, why, words, now);
            return;
        };
        let version = live.version;
        connection.out.clear();
        encode::disconnect(&mut connection.out, version, why, words);
        self.count(why);
        self.detach(id, fate, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.closing = Some(Closing {
                by: now + CLOSE_WITHIN,
                aborted: false,
            });
        }
        self.wake(id);
    }

    /// Ends a connection whose client has said goodbye.
    pub fn hang_up(&mut self, id: ConnectionId, now: Instant) {
        if let Some(connection) = self.open_connection(id) {
            connection.closing = Some(Closing {
                by: now + CLOSE_WITHIN,
                aborted: false,
            });
            self.wake(id);
        }
    }

    /// Lets a session go on without its connection.
    pub fn detach(&mut self, id: ConnectionId, fate: WillFate, now: Instant) {
        let Some((live, _)) = self.live(id) else {
            return;
        };
        let will = live.will.take();
        let session_id = live.session;
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return;
        };
        if session.connection != Some(id) {
            return;
        }
        session.connection = None;
        session.sent = 0;
        let expiry = session.expiry;
        session.expires_at = now.checked_add(expiry);
        if fate == WillFate::Published
            && let Some(will) = will
        {
            let delay = will.message.delay.min(expiry);
            if delay.is_zero() {
                self.wills.push(will.into_message(now));
            } else {
                session.will = now.checked_add(delay).map(|due| (*will, due));
            }
        }
        if expiry.is_zero() {
            self.end_session(session_id, now);
        }
    }

    /// Forgets a session. Its will, if one waits, is published.
    pub fn end_session(&mut self, id: SessionId, now: Instant) {
        let Some(mut session) = self.sessions.remove(&id) else {
            return;
        };
        self.by_client.remove(&session.client_id);
        for filter in &session.filters {
            self.router.unsubscribe(filter, id);
        }
        for in_flight in std::mem::take(&mut session.in_flight) {
            self.freed(&in_flight.message);
        }
        while let Some(queued) = session.pop() {
            self.freed(&queued.message);
            self.credit_back(&queued.message, session.class.patient);
        }
        if session.is_congested {
            self.congestion_over();
        }
        if let Some((will, _)) = session.will.take() {
            self.wills.push(will.into_message(now));
        }
    }

    /// The socket is gone. Returns what else there is to do.
    pub fn closed(&mut self, id: ConnectionId, now: Instant) {
        self.detach(id, WillFate::Published, now);
        let Some(connection) = self.connections.remove(&id) else {
            return;
        };
        if matches!(connection.phase, Phase::Pending) {
            self.no_longer_pending(connection.peer);
        }
        if let Some(address) = connection.peer.origin()
            && let Some(origin) = self.origins.get_mut(&address)
        {
            origin.connections = origin.connections.saturating_sub(1);
            if origin.connections == 0 {
                self.origins.remove(&address);
            }
        }
        self.settle(now);
    }

    /// Lets a client in whom the authority has granted entrance.
    pub fn admit(
        &mut self,
        id: ConnectionId,
        connect: ConnectIn,
        assigned: bool,
        grant: Grant,
        now: Instant,
    ) {
        let version = connect.version;
        if let Err(why) = check_connect(&connect, &grant) {
            return self.refuse(id, Some(version), why, why.words(), now);
        }
        let Some(connection) = self.open_connection(id) else {
            return;
        };
        let peer = connection.peer;
        if matches!(connection.phase, Phase::Live(_)) {
            return self.close(id, Why::ProtocolError, "", WillFate::Published, now);
        }
        let class = Arc::new(grant.class);
        let username = connect.username.map(String::into_boxed_str);
        let known = self.by_client.get(connect.client_id.as_str()).copied();
        if let Some(known) = known {
            let session = self.sessions.get(&known);
            if session.is_some_and(|session| session.username != username) {
                let why = Why::ClientIdTaken;
                return self.refuse(id, Some(version), why, why.words(), now);
            }
            self.take_over(known, connect.clean_start, now);
        } else if self.sessions.len() >= self.limits.sessions {
            let why = Why::SessionsFull;
            return self.refuse(id, Some(version), why, why.words(), now);
        }
        // Whoever takes over may have ended the session.
        let known = self.by_client.get(connect.client_id.as_str()).copied();
        let session_present = known.is_some();
        let session_id = known.unwrap_or_else(|| {
            let session_id = SessionId(self.next_id());
            let client_id: Arc<str> = connect.client_id.as_str().into();
            self.by_client.insert(client_id.clone(), session_id);
            let session = Session::new(client_id, username, class.clone());
            self.sessions.insert(session_id, Box::new(session));
            session_id
        });
        self.narrow(session_id, &grant.subscribe);
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return;
        };
        let asked = connect.session_expiry.map_or(Duration::MAX, |seconds| {
            Duration::from_secs(u64::from(seconds))
        });
        session.expiry = asked.min(class.max_session_expiry);
        session.expires_at = None;
        session.connection = Some(id);
        session.sent = 0;
        session.class = class.clone();
        let session_expiry = session.expiry;

        let asked = Duration::from_secs(u64::from(connect.keep_alive));
        let too_long = asked.is_zero() || asked > class.max_keep_alive;
        let keep_alive = if too_long && (version == Version::V5 || asked.is_zero()) {
            class.max_keep_alive
        } else {
            asked
        };
        self.no_longer_pending(peer);
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        let said = Accepted {
            session_present,
            session_expiry,
            keep_alive: too_long.then_some(keep_alive),
            assigned_client_id: assigned.then_some(connect.client_id.as_str()),
            class: &class,
            receive_maximum: RECEIVE_MAXIMUM,
            topic_aliases: TOPIC_ALIASES,
        };
        encode::accepted(&mut connection.out, version, &said);
        let will = connect.will.map(|message| {
            Box::new(Will {
                topic: message.topic.as_str().into(),
                message,
            })
        });
        connection.phase = Phase::Live(Box::new(Live {
            version,
            session: session_id,
            publish: grant.publish.into(),
            subscribe: grant.subscribe.into(),
            max_in_flight: connect.receive_maximum.min(class.max_in_flight).max(1),
            class,
            keep_alive,
            last_heard: now,
            max_packet_bytes: connect.max_packet_bytes,
            aliases: Vec::new(),
            will,
            credit_messages: 0,
            credit_bytes: 0,
            paid_until: now,
        }));
        self.fill(session_id, now);
        self.settle(now);
    }

    /// Ends the connection that holds a session, for another of its client.
    fn take_over(&mut self, session_id: SessionId, clean_start: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return;
        };
        let old = session.connection;
        if clean_start {
            if let Some(old) = old {
                let why = Why::TakenOver;
                self.close(old, why, why.words(), WillFate::Published, now);
            }
            self.end_session(session_id, now);
            return;
        }
        // The session goes on, so a will that would wait is not due.
        session.will = None;
        if let Some(old) = old {
            let keep = std::mem::replace(&mut session.expiry, Duration::MAX);
            let why = Why::TakenOver;
            self.close(old, why, why.words(), WillFate::Published, now);
            if let Some(session) = self.sessions.get_mut(&session_id) {
                session.expiry = keep;
                session.will = None;
            }
            if keep.is_zero() {
                self.end_session(session_id, now);
            }
        }
    }

    /// Drops the subscriptions that a new grant does not cover, and with them
    /// what waits, as nobody knows which filter it came by.
    fn narrow(&mut self, session_id: SessionId, granted: &[TopicFilter]) {
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return;
        };
        let (keep, lost): (Vec<_>, Vec<_>) = std::mem::take(&mut session.filters)
            .into_iter()
            .partition(|filter| {
                let filter = filter.parse::<TopicFilter>();
                filter.is_ok_and(|filter| granted.iter().any(|g| g.covers(&filter)))
            });
        session.filters = keep;
        if lost.is_empty() {
            return;
        }
        let patient = session.class.patient;
        let mut waiting = Vec::new();
        while let Some(queued) = session.pop() {
            waiting.push(queued.message);
        }
        let in_flight = std::mem::take(&mut session.in_flight);
        let eased = std::mem::take(&mut session.is_congested);
        for filter in lost {
            self.router.unsubscribe(&filter, session_id);
        }
        for message in in_flight {
            self.freed(&message.message);
        }
        for message in waiting {
            self.freed(&message);
            self.credit_back(&message, patient);
        }
        if eased {
            self.congestion_over();
        }
    }

    /// Publishes the wills and ends the sessions that the last event brought
    /// about, and those that these bring about in turn.
    pub fn settle(&mut self, now: Instant) {
        loop {
            if let Some(session_id) = self.overflowed.pop() {
                let connection = self.sessions.get(&session_id).and_then(|s| s.connection);
                if let Some(id) = connection {
                    let why = Why::SlowReader;
                    self.close(id, why, why.words(), WillFate::Published, now);
                } else if self.sessions.contains_key(&session_id) {
                    self.count(Why::SlowReader);
                }
                self.end_session(session_id, now);
            } else if let Some(will) = self.wills.pop() {
                self.route(Arc::new(will), None, now);
            } else {
                return;
            }
        }
    }

    /// Looks at all that has run out of time. Called about once a second.
    pub fn sweep(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (id, connection) in &mut self.connections {
            if let Some(closing) = &mut connection.closing {
                if closing.by <= now {
                    closing.aborted = true;
                    self.wakers.extend(connection.waker.take());
                }
                continue;
            }
            match &mut connection.phase {
                Phase::Pending => {
                    if now.saturating_duration_since(connection.opened) > self.limits.connect_within
                    {
                        late.push((*id, Why::ConnectTooLate));
                    }
                }
                Phase::Live(live) => {
                    // One and a half times the keep-alive (section 3.1.2.10).
                    let patience = live.keep_alive.saturating_mul(3) / 2;
                    let waits = connection.partial_since.is_some_and(|since| {
                        now.saturating_duration_since(since) > self.limits.packet_within
                    });
                    if waits {
                        late.push((*id, Why::PacketTooSlow));
                    } else if live.must_wait(self.congested) {
                        // We do not listen, so we cannot complain.
                        live.last_heard = now;
                    } else if now.saturating_duration_since(live.last_heard) > patience {
                        late.push((*id, Why::KeepAlive));
                    }
                }
            }
        }
        for (id, why) in late {
            self.close(id, why, why.words(), WillFate::Published, now);
        }
        let mut over = Vec::new();
        for (id, session) in &mut self.sessions {
            if session.expires_at.is_some_and(|at| at <= now) {
                over.push(*id);
            } else if session.will.as_ref().is_some_and(|(_, due)| *due <= now)
                && let Some((will, _)) = session.will.take()
            {
                self.wills.push(will.into_message(now));
            }
        }
        for id in over {
            self.end_session(id, now);
        }
        self.router.expire(now);
        self.settle(now);
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

    /// Ends a client's connection and session at once, with its messages and
    /// its will. `false` when there is no such client.
    pub fn revoke(&mut self, client_id: &str, words: &str, now: Instant) -> bool {
        self.epoch += 1;
        let Some(session_id) = self.by_client.get(client_id).copied() else {
            return false;
        };
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.will = None;
            if let Some(id) = session.connection {
                self.close(id, Why::Revoked, words, WillFate::Discarded, now);
            }
        }
        self.end_session(session_id, now);
        self.settle(now);
        true
    }

    /// Ends all connections, in good order.
    pub fn shut_down(&mut self, now: Instant) {
        self.shutting_down = true;
        let ids: Vec<_> = self.connections.keys().copied().collect();
        for id in ids {
            let why = Why::ShuttingDown;
            self.close(id, why, why.words(), WillFate::Discarded, now);
        }
    }

    /// Ends all connections, now.
    pub fn abort(&mut self, now: Instant) {
        self.shut_down(now);
        for connection in self.connections.values_mut() {
            connection.closing = Some(Closing {
                by: now,
                aborted: true,
            });
            self.wakers.extend(connection.waker.take());
        }
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

fn check_connect(connect: &ConnectIn, grant: &Grant) -> Result<(), Why> {
    if connect.has_auth_method {
        return Err(Why::AuthMethod);
    }
    let Some(will) = &connect.will else {
        return Ok(());
    };
    if check_topic(&will.topic).is_err() {
        return Err(Why::WillInvalid);
    }
    if !grant.publish.iter().any(|f| f.matches(&will.topic)) {
        return Err(Why::WillDenied);
    }
    if will.is_qos2 {
        return Err(Why::Qos2);
    }
    if will.retain && !grant.class.may_retain {
        return Err(Why::RetainDenied);
    }
    Ok(())
}
