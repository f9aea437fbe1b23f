//! What waits to be sent: bounded, first in first out.
//!
//! Order matters: messages carry a rising number, and one that overtook
//! another would make the other look like a replay.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::Qos;

/// Connections that may end over one message before it is given up. A broker
/// that hangs up over a message would otherwise be sent it for ever.
const MAX_FAILURES: u8 = 8;

/// One message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub topic: Bytes,
    pub payload: Bytes,
    pub qos: Qos,
    /// Connections that ended while it was in flight.
    pub failures: u8,
}

impl Outgoing {
    /// What it counts against the bound.
    pub fn weight(&self) -> usize {
        self.topic.len() + self.payload.len()
    }
}

/// The messages that wait, and a way to wake who sends them. The weight of a
/// QoS 1 message counts until it is acknowledged, so that the bound holds for
/// everything that the link keeps in memory.
#[derive(Debug)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    max_messages: usize,
    max_bytes: usize,
    wake: async_channel::Sender<()>,
    woken: async_channel::Receiver<()>,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Outgoing>,
    /// Messages taken but not yet acknowledged.
    in_flight: usize,
    /// Bytes of waiting and in-flight messages.
    bytes: usize,
    /// A publish was refused since the queue was last half empty.
    refused: bool,
    closed: bool,
}

impl Outbox {
    pub fn new(max_messages: usize, max_bytes: usize) -> Self {
        let (wake, woken) = async_channel::bounded(1);
        Self {
            inner: Mutex::default(),
            max_messages: max_messages.max(1),
            max_bytes: max_bytes.max(1),
            wake,
            woken,
        }
    }

    /// Adds a message, or gives `false` when there is no room. An empty queue
    /// takes a message of any size.
    pub fn push(&self, message: Outgoing) -> bool {
        {
            let mut inner = self.lock();
            let count = inner.waiting.len() + inner.in_flight;
            let bytes = inner.bytes.saturating_add(message.weight());
            if inner.closed || count >= self.max_messages || (count > 0 && bytes > self.max_bytes) {
                inner.refused = true;
                return false;
            }
            inner.bytes = bytes;
            inner.waiting.push_back(message);
        }
        self.poke();
        true
    }

    /// Takes the oldest message that waits; it counts as in flight until
    /// [`Outbox::settle`] is called for it.
    pub fn take(&self) -> Option<Outgoing> {
        let mut inner = self.lock();
        let message = inner.waiting.pop_front()?;
        inner.in_flight += 1;
        Some(message)
    }

    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// Frees the room of a message that was taken. `true` when a publish was
    /// refused before and there is room again (half of both bounds).
    pub fn settle(&self, message: &Outgoing) -> bool {
        let mut inner = self.lock();
        inner.in_flight = inner.in_flight.saturating_sub(1);
        inner.bytes = inner.bytes.saturating_sub(message.weight());
        let room = inner.waiting.len() + inner.in_flight <= self.max_messages / 2
            && inner.bytes <= self.max_bytes / 2;
        let tell = room && inner.refused;
        if tell {
            inner.refused = false;
        }
        tell
    }

    /// After a lost connection: puts what was not acknowledged back to the
    /// front, oldest first. Gives back, still in flight, what has been on too
    /// many connections that ended: it may be the reason.
    pub fn put_back(
        &self,
        unacknowledged: impl DoubleEndedIterator<Item = Outgoing>,
    ) -> Vec<Outgoing> {
        let mut given_up = Vec::new();
        let mut inner = self.lock();
        for mut message in unacknowledged.rev() {
            message.failures = message.failures.saturating_add(1);
            if message.failures >= MAX_FAILURES {
                given_up.push(message);
                continue;
            }
            inner.in_flight = inner.in_flight.saturating_sub(1);
            inner.waiting.push_front(message);
        }
        given_up
    }

    /// While the line is down: drops QoS 0 messages, which would be stale
    /// when it is up again. `true` as for [`Outbox::settle`].
    pub fn drop_stale(&self) -> bool {
        let stale: VecDeque<Outgoing> = {
            let mut inner = self.lock();
            let (keep, stale) = std::mem::take(&mut inner.waiting)
                .into_iter()
                .partition(|message| message.qos == Qos::AtLeastOnce);
            inner.waiting = keep;
            inner.in_flight += stale.len();
            stale
        };
        stale
            .iter()
            .fold(false, |tell, message| self.settle(message) | tell)
    }

    pub fn close(&self) {
        self.lock().closed = true;
        self.poke();
    }

    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Waits until something was pushed or the outbox was closed.
    pub async fn woken(&self) {
        let _ = self.woken.recv().await;
    }

    /// Waits until the outbox is closed.
    pub async fn closed(&self) {
        while !self.is_closed() {
            self.woken().await;
        }
        // Another wait may need the same news.
        self.poke();
    }

    fn poke(&self) {
        let _ = self.wake.try_send(());
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str, qos: Qos) -> Outgoing {
        Outgoing {
            topic: Bytes::from_static(b"t"),
            payload: Bytes::from_static(text.as_bytes()),
            qos,
            failures: 0,
        }
    }

    #[test]
    fn room_is_freed_only_by_the_acknowledgement() {
        let outbox = Outbox::new(2, 1000);
        assert!(outbox.push(message("1", Qos::AtLeastOnce)));
        assert!(outbox.push(message("2", Qos::AtLeastOnce)));
        assert!(!outbox.push(message("3", Qos::AtLeastOnce)));
        let first = outbox.take().unwrap();
        assert!(!outbox.push(message("3", Qos::AtLeastOnce)));
        assert!(outbox.settle(&first), "room again, and someone was refused");
        assert!(outbox.push(message("3", Qos::AtLeastOnce)));
    }

    #[test]
    fn bytes_are_bounded_but_one_large_message_always_passes() {
        let outbox = Outbox::new(100, 4);
        assert!(outbox.push(message("longer than four", Qos::AtMostOnce)));
        assert!(!outbox.push(message("x", Qos::AtMostOnce)));
        let large = outbox.take().unwrap();
        assert!(outbox.settle(&large));
        assert!(outbox.push(message("x", Qos::AtMostOnce)));
    }

    #[test]
    fn what_was_not_acknowledged_goes_first_again_and_qos0_is_dropped() {
        let outbox = Outbox::new(10, 1000);
        for (text, qos) in [
            ("1", Qos::AtLeastOnce),
            ("2", Qos::AtLeastOnce),
            ("3", Qos::AtMostOnce),
            ("4", Qos::AtLeastOnce),
        ] {
            assert!(outbox.push(message(text, qos)));
        }
        let taken = [outbox.take().unwrap(), outbox.take().unwrap()];
        outbox.put_back(taken.into_iter());
        outbox.drop_stale();
        let order: Vec<_> = std::iter::from_fn(|| outbox.take())
            .map(|m| m.payload)
            .collect();
        assert_eq!(order, ["1", "2", "4"]);
    }

    #[test]
    fn a_message_that_ends_every_connection_is_given_up() {
        let outbox = Outbox::new(10, 1000);
        assert!(outbox.push(message("bad", Qos::AtLeastOnce)));
        for round in 1..=MAX_FAILURES {
            let sent = outbox.take().unwrap();
            let given_up = outbox.put_back(std::iter::once(sent));
            assert_eq!(given_up.len(), usize::from(round == MAX_FAILURES));
        }
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_closed_outbox_takes_nothing() {
        let outbox = Outbox::new(10, 1000);
        outbox.close();
        assert!(!outbox.push(message("1", Qos::AtLeastOnce)));
        smol::block_on(outbox.closed());
        smol::block_on(outbox.closed());
    }
}
