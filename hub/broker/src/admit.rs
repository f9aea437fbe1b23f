//! How a client comes in: CONNECT, once the authority has granted it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::authority::Grant;
use crate::core::{Core, Live, Phase, RECEIVE_MAXIMUM, TOPIC_ALIASES, WillFate};
use crate::encode::{self, Accepted};
use crate::message::{ConnectionId, SessionId, Will};
use crate::packet::{ConnectIn, Version};
use crate::reason::Why;
use crate::session::Session;
use crate::topic::{TopicFilter, check_topic};

impl Core {
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
        if session.begins_congestion() {
            session.is_congested = true;
            self.congested += 1;
        }

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
        let mut waiting = Vec::new();
        while let Some(queued) = session.pop() {
            waiting.push(queued);
        }
        let in_flight = std::mem::take(&mut session.in_flight);
        let eased = std::mem::take(&mut session.is_congested);
        for filter in lost {
            self.router.unsubscribe(&filter, session_id);
        }
        for message in in_flight {
            self.freed(&message.message);
        }
        for queued in waiting {
            self.freed(&queued.message);
            self.credit_back(&queued);
        }
        if eased {
            self.congestion_over();
        }
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
