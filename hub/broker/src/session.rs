//! What is kept for one client, with or without a connection. Pure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::limits::Class;
use crate::message::{ConnectionId, Message, Will};
use crate::packet::Qos;

/// One client's subscriptions and messages.
#[derive(Debug)]
pub(crate) struct Session {
    pub client_id: Arc<str>,
    /// Only this user gets the session again.
    pub username: Option<Box<str>>,
    pub class: Arc<Class>,
    pub connection: Option<ConnectionId>,
    /// How long it outlives its connection.
    pub expiry: Duration,
    /// When it ends; `None` while connected.
    pub expires_at: Option<Instant>,
    pub filters: Vec<Arc<str>>,
    pub queue: VecDeque<Queued>,
    pub queue_bytes: usize,
    pub in_flight: VecDeque<InFlight>,
    /// How many of `in_flight`, from the front, went over this connection.
    pub sent: usize,
    last_packet_id: u16,
    /// A will that waits, and when it is due.
    pub will: Option<(Will, Instant)>,
    /// Publishers wait until its queue is half empty.
    pub is_congested: bool,
}

/// A message that waits.
#[derive(Debug)]
pub(crate) struct Queued {
    pub message: Arc<Message>,
    pub qos: Qos,
    pub retain: bool,
    /// Its publisher waits for it, in the end.
    pub is_charged: bool,
}

/// A QoS 1 message that is not acknowledged.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub packet_id: u16,
    pub message: Arc<Message>,
    pub retain: bool,
    pub was_sent: bool,
}

/// Whether a message found room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Room {
    /// It may be queued.
    Yes,
    /// It may not, and its QoS 0 allows dropping it.
    Drop,
    /// It may not, and dropping it would break QoS 1's promise.
    Overflow,
}

impl Session {
    pub fn new(client_id: Arc<str>, username: Option<Box<str>>, class: Arc<Class>) -> Self {
        Self {
            client_id,
            username,
            class,
            connection: None,
            expiry: Duration::ZERO,
            expires_at: None,
            filters: Vec::new(),
            queue: VecDeque::new(),
            queue_bytes: 0,
            in_flight: VecDeque::new(),
            sent: 0,
            last_packet_id: 0,
            will: None,
            is_congested: false,
        }
    }

    /// Whether a message of this weight may be queued.
    pub fn room(&self, qos: Qos, weight: usize) -> Room {
        if qos == Qos::AtMostOnce {
            // Half is kept free for what must not be dropped.
            let fits = self.connection.is_some()
                && self.queue.len() < self.class.queue_messages / 2
                && self.queue_bytes + weight <= self.class.queue_bytes / 2;
            return if fits { Room::Yes } else { Room::Drop };
        }
        // Publishers wait for a patient reader; what they sent before they
        // were stopped still comes in.
        let waited_for = self.class.patient && self.connection.is_some();
        let factor = if waited_for { 2 } else { 1 };
        let fits = self.queue.len() < self.class.queue_messages.saturating_mul(factor)
            && self.queue_bytes + weight <= self.class.queue_bytes.saturating_mul(factor);
        if fits { Room::Yes } else { Room::Overflow }
    }

    /// Whether publishers are to wait from now on: for a patient reader that
    /// is there. One that is away would hold everybody up for too long.
    pub fn begins_congestion(&self) -> bool {
        let is_full = self.queue.len() >= self.class.queue_messages
            || self.queue_bytes >= self.class.queue_bytes;
        is_full && self.class.patient && self.connection.is_some() && !self.is_congested
    }

    /// Whether half of the queue is free.
    pub fn is_half_empty(&self) -> bool {
        self.queue.len() <= self.class.queue_messages / 2
            && self.queue_bytes <= self.class.queue_bytes / 2
    }

    pub fn push(&mut self, queued: Queued) {
        self.queue_bytes += queued.message.weight();
        self.queue.push_back(queued);
    }

    pub fn pop(&mut self) -> Option<Queued> {
        let queued = self.queue.pop_front()?;
        self.queue_bytes = self.queue_bytes.saturating_sub(queued.message.weight());
        if self.queue.is_empty() {
            // An idle client keeps no buffer.
            self.queue = VecDeque::new();
        }
        Some(queued)
    }

    /// A packet id that no unacknowledged message has. There is one, as far
    /// fewer than 65,535 are in flight.
    pub fn packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            let id = self.last_packet_id;
            if self.in_flight.iter().all(|m| m.packet_id != id) {
                return id;
            }
        }
    }

    /// The client has this message. `None` when it was never sent.
    pub fn acknowledge(&mut self, packet_id: u16) -> Option<Arc<Message>> {
        let sent = self.in_flight.iter().take(self.sent);
        let place = sent
            .into_iter()
            .position(|message| message.packet_id == packet_id)?;
        let message = self.in_flight.remove(place)?;
        self.sent -= 1;
        if self.in_flight.is_empty() {
            self.in_flight = VecDeque::new();
        }
        Some(message.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mqtt_protocol_core::mqtt::ArcPayload;

    fn session(class: Class) -> Session {
        Session::new("c".into(), None, Arc::new(class))
    }

    fn message(bytes: usize) -> Arc<Message> {
        Arc::new(Message {
            topic: "t".into(),
            payload: ArcPayload::new(Arc::from(vec![0; bytes]), 0, bytes),
            properties: Box::default(),
            expires: None,
            qos: Qos::AtLeastOnce,
            retain: false,
            origin: None,
        })
    }

    #[test]
    fn qos0_is_dropped_first_then_qos1_overflows() {
        let mut session = session(Class {
            queue_messages: 4,
            ..Class::device()
        });
        session.connection = Some(ConnectionId(1));
        for expected in [
            (Room::Yes, Room::Yes),
            (Room::Yes, Room::Yes),
            (Room::Drop, Room::Yes),
            (Room::Drop, Room::Yes),
            (Room::Drop, Room::Overflow),
        ] {
            let rooms = (
                session.room(Qos::AtMostOnce, 1),
                session.room(Qos::AtLeastOnce, 1),
            );
            assert_eq!(rooms, expected);
            session.push(Queued {
                message: message(1),
                qos: Qos::AtLeastOnce,
                retain: false,
                is_charged: false,
            });
        }
        assert_eq!(session.pop().map(|q| q.qos), Some(Qos::AtLeastOnce));
    }

    #[test]
    fn offline_clients_get_no_qos0() {
        let session = session(Class::device());
        assert_eq!(session.room(Qos::AtMostOnce, 1), Room::Drop);
        assert_eq!(session.room(Qos::AtLeastOnce, 1), Room::Yes);
    }

    #[test]
    fn bytes_count_and_are_given_back() {
        let mut session = session(Class::device());
        let weight = message(1000).weight();
        session.push(Queued {
            message: message(1000),
            qos: Qos::AtLeastOnce,
            retain: false,
            is_charged: false,
        });
        assert_eq!(session.queue_bytes, weight);
        session.pop();
        assert_eq!(session.queue_bytes, 0);
    }

    #[test]
    fn packet_ids_skip_those_in_flight_and_zero() {
        let mut session = session(Class::device());
        session.last_packet_id = u16::MAX - 1;
        session.in_flight.push_back(InFlight {
            packet_id: 1,
            message: message(1),
            retain: false,
            was_sent: true,
        });
        session.sent = 1;
        assert_eq!(session.packet_id(), u16::MAX);
        assert_eq!(session.packet_id(), 2);
        assert!(session.acknowledge(9).is_none());
        assert!(session.acknowledge(1).is_some());
        assert!(session.acknowledge(1).is_none());
    }
}
