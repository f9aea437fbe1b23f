//! How a message gets from its publisher into its readers' sockets.

use std::sync::Arc;
use std::time::Instant;

use crate::core::{Core, OUT_HIGH_BYTES, Phase};
use crate::encode::{self, Delivery};
use crate::message::{ConnectionId, Message, SessionId};
use crate::packet::Qos;
use crate::router::delivered;
use crate::session::{InFlight, Queued, Room};

impl Core {
    /// Queues a message for all who read its topic; gives their number.
    pub fn route(
        &mut self,
        message: Arc<Message>,
        from: Option<ConnectionId>,
        now: Instant,
    ) -> usize {
        let own = from
            .and_then(|id| self.live(id))
            .map(|(live, _)| live.session);
        let mut readers = std::mem::take(&mut self.readers);
        self.router.readers(&message.topic, &mut readers);
        let mut count = 0;
        for reader in &readers {
            if reader.options.no_local && own == Some(reader.session) {
                continue;
            }
            count += 1;
            let qos = delivered(message.qos, reader.options.qos);
            let retain = message.retain && reader.options.retain_as_published;
            self.enqueue(reader.session, message.clone(), qos, retain, now);
        }
        /// Room kept for the next message.
        const KEEP_READERS: usize = 64;
        readers.clear();
        readers.shrink_to(KEEP_READERS);
        self.readers = readers;
        count
    }

    /// Queues a message for one session.
    pub fn enqueue(
        &mut self,
        session_id: SessionId,
        message: Arc<Message>,
        qos: Qos,
        retain: bool,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(&session_id) else {
            return;
        };
        let qos = delivered(message.qos, qos);
        let weight = message.weight();
        let mut room = session.room(qos, weight);
        if self.queued_bytes + weight > self.limits.queued_bytes {
            room = match qos {
                Qos::AtMostOnce => Room::Drop,
                Qos::AtLeastOnce => Room::Overflow,
            };
        }
        match room {
            Room::Yes => {}
            Room::Drop => {
                self.stats.dropped_qos0 += 1;
                return;
            }
            Room::Overflow => {
                if !self.overflowed.contains(&session_id) {
                    self.overflowed.push(session_id);
                }
                return;
            }
        }
        self.queued_bytes += weight;
        let is_charged = session.class.patient && session.connection.is_some();
        let origin = message.origin;
        session.push(Queued {
            message,
            qos,
            retain,
            is_charged,
        });
        if session.begins_congestion() {
            session.is_congested = true;
            self.congested += 1;
        }
        if is_charged
            && let Some(origin) = origin
            && let Some((publisher, _)) = self.live(origin)
        {
            publisher.credit_messages += 1;
            publisher.credit_bytes += weight;
        }
        self.fill(session_id, now);
    }

    /// Encodes what waits for a session, as far as its connection has room.
    pub fn fill(&mut self, session_id: SessionId, now: Instant) {
        loop {
            let Some(session) = self.sessions.get_mut(&session_id) else {
                return;
            };
            let Some(id) = session.connection else {
                return;
            };
            let Some(connection) = self.connections.get_mut(&id) else {
                return;
            };
            let Phase::Live(live) = &mut connection.phase else {
                return;
            };
            if connection.out.len() >= OUT_HIGH_BYTES {
                return;
            }
            // First what an earlier connection did not acknowledge.
            if let Some(again) = session.in_flight.get_mut(session.sent) {
                if session.sent >= usize::from(live.max_in_flight) {
                    return;
                }
                let how = Delivery {
                    qos: Qos::AtLeastOnce,
                    retain: again.retain,
                    dup: again.was_sent,
                    packet_id: again.packet_id,
                    expires_in: left(&again.message, now),
                };
                again.was_sent = true;
                let fits = encode::publish(
                    &mut connection.out,
                    live.version,
                    &again.message,
                    how,
                    live.max_packet_bytes,
                );
                if fits {
                    session.sent += 1;
                    self.stats.delivered += 1;
                } else {
                    let place = session.sent;
                    let removed = session.in_flight.remove(place);
                    self.stats.undeliverable += 1;
                    if let Some(removed) = removed {
                        self.freed(&removed.message);
                    }
                }
                self.wake(id);
                continue;
            }
            let Some(next) = session.queue.front() else {
                return;
            };
            let has_expired = next.message.has_expired(now);
            if !has_expired
                && next.qos == Qos::AtLeastOnce
                && session.in_flight.len() >= usize::from(live.max_in_flight)
            {
                return;
            }
            let Some(queued) = session.pop() else {
                return;
            };
            let mut is_kept = false;
            if !has_expired {
                let packet_id = match queued.qos {
                    Qos::AtMostOnce => 0,
                    Qos::AtLeastOnce => session.packet_id(),
                };
                let how = Delivery {
                    qos: queued.qos,
                    retain: queued.retain,
                    dup: false,
                    packet_id,
                    expires_in: left(&queued.message, now),
                };
                let fits = encode::publish(
                    &mut connection.out,
                    live.version,
                    &queued.message,
                    how,
                    live.max_packet_bytes,
                );
                if fits {
                    self.stats.delivered += 1;
                } else {
                    self.stats.undeliverable += 1;
                }
                is_kept = fits && queued.qos == Qos::AtLeastOnce;
                if is_kept {
                    session.in_flight.push_back(InFlight {
                        packet_id,
                        message: queued.message.clone(),
                        retain: queued.retain,
                        was_sent: true,
                    });
                    session.sent += 1;
                }
            } else {
                self.stats.undeliverable += 1;
            }
            let eased = session.is_congested && session.is_half_empty();
            if eased {
                session.is_congested = false;
            }
            self.wake(id);
            if !is_kept {
                self.freed(&queued.message);
            }
            self.credit_back(&queued);
            if eased {
                self.congestion_over();
            }
        }
    }

    /// A message is no longer kept for a reader.
    pub fn freed(&mut self, message: &Message) {
        self.queued_bytes = self.queued_bytes.saturating_sub(message.weight());
    }

    /// A message left a queue: gives its publisher the credit back.
    pub fn credit_back(&mut self, queued: &Queued) {
        let message = &queued.message;
        let Some(origin) = message.origin.filter(|_| queued.is_charged) else {
            return;
        };
        let Some((publisher, _)) = self.live(origin) else {
            return;
        };
        let waited = publisher.must_wait(0);
        publisher.credit_messages = publisher.credit_messages.saturating_sub(1);
        publisher.credit_bytes = publisher.credit_bytes.saturating_sub(message.weight());
        if waited && !publisher.must_wait(0) {
            self.wake(origin);
        }
    }

    /// One patient reader less holds everybody up.
    pub fn congestion_over(&mut self) {
        self.congested = self.congested.saturating_sub(1);
        if self.congested == 0 {
            let waiting = self.connections.values_mut();
            let wakers = waiting.filter_map(|connection| connection.take_waker());
            self.wakers.extend(wakers);
        }
    }
}

fn left(message: &Message, now: Instant) -> Option<std::time::Duration> {
    message
        .expires
        .map(|expires| expires.saturating_duration_since(now))
}
