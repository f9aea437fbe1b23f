//! How connections and sessions end: by their clients, by the clock, by a
//! fault, or by the hub.

use std::sync::Arc;
use std::time::Instant;

use crate::core::{CLOSE_WITHIN, Closing, Core, Phase, WillFate};
use crate::encode;
use crate::message::{ConnectionId, SessionId};
use crate::packet::Version;
use crate::reason::Why;
use crate::session::Queued;

impl Core {
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
        // Nobody waits for a reader that is away.
        let eased = std::mem::take(&mut session.is_congested);
        let mut charged = Vec::new();
        for queued in session.queue.iter_mut().filter(|q| q.is_charged) {
            queued.is_charged = false;
            charged.push(Queued {
                message: queued.message.clone(),
                is_charged: true,
                ..*queued
            });
        }
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
        for queued in charged {
            self.credit_back(&queued);
        }
        if eased {
            self.congestion_over();
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
            self.credit_back(&queued);
        }
        if session.is_congested {
            self.congestion_over();
        }
        if let Some((will, _)) = session.will.take() {
            self.wills.push(will.into_message(now));
        }
    }

    /// The socket is gone.
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
}
