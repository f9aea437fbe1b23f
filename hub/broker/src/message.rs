//! A message on its way from one publisher to any number of readers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mqtt_protocol_core::mqtt::ArcPayload;

use crate::packet::{Qos, WillIn};

/// A connection, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ConnectionId(pub u64);

/// A session, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub u64);

/// One message; its bytes are shared by all who wait for it.
#[derive(Debug)]
pub(crate) struct Message {
    pub topic: Arc<str>,
    pub payload: ArcPayload,
    /// Encoded MQTT 5 properties for the readers.
    pub properties: Box<[u8]>,
    pub expires: Option<Instant>,
    pub qos: Qos,
    pub retain: bool,
    /// Who sent it, as long as the connection lasts.
    pub origin: Option<ConnectionId>,
}

impl Message {
    /// What it counts against bounds on bytes.
    pub fn weight(&self) -> usize {
        /// The message's own fields and its place in a queue.
        const OVERHEAD_BYTES: usize = 160;
        self.topic.len() + self.payload.len() + self.properties.len() + OVERHEAD_BYTES
    }

    pub fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// When a message expires that is given `seconds`; `None` stands for never.
pub(crate) fn expiry(now: Instant, seconds: Option<u32>) -> Option<Instant> {
    now.checked_add(Duration::from_secs(u64::from(seconds?)))
}

/// What is published for a client when it goes.
#[derive(Debug)]
pub(crate) struct Will {
    pub message: WillIn,
    pub topic: Arc<str>,
}

impl Will {
    /// The message; its expiry begins now.
    pub fn into_message(self, now: Instant) -> Message {
        Message {
            topic: self.topic,
            payload: self.message.payload,
            properties: self.message.properties,
            expires: expiry(now, self.message.expiry),
            qos: self.message.qos,
            retain: self.message.retain,
            origin: None,
        }
    }
}
