//! One MQTT 5 connection of a hub or a device.
//!
//! A [`Link`] dials its broker (TCP, TLS, or a Unix socket), subscribes, and
//! keeps doing so for as long as it lives, with growing, random waits between
//! attempts. It runs as one task on the caller's executor and has no thread of
//! its own, so that one process can hold thousands.
//!
//! MQTT is transport, not truth: a QoS 1 message that was acknowledged is at
//! the broker, not at its reader, and one that was not may arrive twice. What
//! must not get lost is kept by the caller until its reader has answered.
//!
//! TLS ends here, on smol, and rumqttc never sees it; `mqtt` is the only
//! module that knows rumqttc, of which it uses the codec and the client's state
//! machine.
#![forbid(unsafe_code)]

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_channel::{Receiver, Sender};
use bytes::Bytes;

mod backoff;
mod dial;
mod driver;
mod mqtt;
mod outbox;
mod probe;
mod trust;
mod url;

pub use backoff::STABLE_AFTER;
pub use dial::Doubt;
pub use probe::{NotBelieved, Probe, probe};
pub use rustls_pki_types::CertificateDer;
pub use trust::{CertPin, Trust, TrustError};
pub use url::{BrokerAddress, BrokerUrl, BrokerUrlError, Login, PLAIN_PORT, TLS_PORT};

use outbox::{Outbox, Outgoing};

/// Events that may wait for the caller. While they do, nothing more is read
/// from the broker, which then keeps the messages.
const EVENTS: usize = 16;

/// All that a link needs to know.
#[derive(Clone)]
pub struct LinkConfig {
    /// Where the broker is, and perhaps user and password.
    pub broker: BrokerUrl,
    /// MQTT's client id. Two links with one id throw each other out.
    pub client_id: String,
    /// The user name; if `None`, that of `broker` is used.
    pub username: Option<String>,
    /// The password that goes with `username`.
    pub password: Option<String>,
    /// Whom to believe on an `mqtts://` line.
    pub trust: Trust,
    /// Topic filters, subscribed with QoS 1 on every connection.
    pub subscriptions: Vec<String>,
    /// How long the line may be silent before we ping; 0 turns it off. Whole
    /// seconds, at most 65,535. A broker's own value goes before it.
    pub keep_alive: Duration,
    /// How long the broker keeps the session after a lost connection.
    pub session_expiry: Duration,
    /// Whether the broker forgets an older session on connect.
    pub clean_start: bool,
    /// The largest packet taken from the broker, in bytes, with its header.
    pub max_packet_bytes: u32,
    /// Messages that wait or are unacknowledged, at most.
    pub max_queued_messages: usize,
    /// Bytes of those messages, at most (one message always passes).
    pub max_queued_bytes: usize,
    /// The longest first wait after a failure.
    pub backoff_first: Duration,
    /// The longest wait of all.
    pub backoff_cap: Duration,
}

impl LinkConfig {
    /// A config with defaults that suit a device: keep-alive 15 minutes,
    /// sessions for an hour, packets of 192 KiB, a queue of 256 messages and
    /// 512 KiB, waits from 1 to 60 seconds, no pins.
    pub fn new(broker: BrokerUrl, client_id: impl Into<String>) -> Self {
        Self {
            broker,
            client_id: client_id.into(),
            username: None,
            password: None,
            trust: Trust::Pinned(Vec::new()),
            subscriptions: Vec::new(),
            keep_alive: Duration::from_secs(15 * 60),
            session_expiry: Duration::from_secs(3600),
            clean_start: false,
            max_packet_bytes: 192 * 1024,
            max_queued_messages: 256,
            max_queued_bytes: 512 * 1024,
            backoff_first: Duration::from_secs(1),
            backoff_cap: Duration::from_secs(60),
        }
    }
}

impl fmt::Debug for LinkConfig {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkConfig")
            .field("broker", &self.broker)
            .field("client_id", &self.client_id)
            .field("username", &self.username)
            .field("trust", &self.trust)
            .field("subscriptions", &self.subscriptions)
            .finish_non_exhaustive()
    }
}

/// Counts a link's attempts to connect: 1, 2, 3 and so on. Goes into the will,
/// so that a late will cannot speak for a newer connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(pub u64);

/// What the broker publishes for us (QoS 1, not retained) when the connection
/// is lost, or when the link is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    /// Where to.
    pub topic: String,
    /// What.
    pub payload: Vec<u8>,
    /// How long the broker waits for us to come back before it does; whole
    /// seconds.
    pub delay: Duration,
}

/// How hard a message is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    /// Sent once if the line is up, and lost with it.
    AtMostOnce,
    /// Sent until the broker has it, over reconnects too; may arrive twice.
    AtLeastOnce,
}

/// What a link tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected, and all subscriptions hold.
    Up {
        /// The broker still had our session.
        session_present: bool,
        /// Which attempt this was; the will was made for it.
        attempt: Attempt,
    },
    /// Not connected, and why, in words for the operator. Comes once for each
    /// failed attempt, also when there was no `Up` before. The next attempt
    /// follows by itself.
    Down {
        /// Such as `cannot reach broker at mqtt://hub:1883: connection refused`.
        reason: String,
    },
    /// A message for one of the subscriptions.
    Message {
        /// Its topic.
        topic: String,
        /// Its content.
        payload: Vec<u8>,
    },
    /// The broker will not take a message that was published; it is dropped.
    Refused {
        /// Its topic.
        topic: String,
        /// Why, in words.
        reason: String,
    },
    /// After a refused [`Link::publish`]: at least half of the queue is free.
    Room,
}

/// The queue is full, or the link is closed. [`LinkEvent::Room`] tells when to
/// try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the queue to the broker is full")]
pub struct Full;

/// A line to a broker that mends itself. Dropping it ends it; the broker then
/// publishes the will.
#[derive(Debug)]
pub struct Link {
    outbox: Arc<Outbox>,
    ended: Receiver<()>,
}

impl Link {
    /// A link whose will is the same at every attempt, on `executor`.
    pub fn start(
        executor: &smol::Executor<'_>,
        config: LinkConfig,
        will: Option<Will>,
    ) -> (Link, Receiver<LinkEvent>) {
        let (link, events, driver) = Link::new(config, move |_| will.clone());
        executor.spawn(driver).detach();
        (link, events)
    }

    /// A link whose will is asked for before each attempt, its events, and the
    /// task that drives it, for whatever executor the caller has. Nothing
    /// happens until that task runs; dropping the task cuts the line.
    pub fn new(
        config: LinkConfig,
        will: impl FnMut(Attempt) -> Option<Will> + Send + 'static,
    ) -> (
        Link,
        Receiver<LinkEvent>,
        impl Future<Output = ()> + Send + 'static,
    ) {
        let outbox = Arc::new(Outbox::new(
            config.max_queued_messages,
            config.max_queued_bytes,
        ));
        let (events_in, events) = async_channel::bounded(EVENTS);
        let (running, ended): (Sender<()>, _) = async_channel::bounded(1);
        let link = Link {
            outbox: outbox.clone(),
            ended,
        };
        let driver = async move {
            driver::drive(config, Box::new(will), outbox, events_in).await;
            drop(running);
        };
        (link, events, driver)
    }

    /// Queues a message; never waits. Messages leave in the order in which
    /// they came, also those that are sent again after a reconnect. While the
    /// line is down, QoS 1 messages wait, and QoS 0 ones are dropped with the
    /// next failed attempt.
    pub fn publish(&self, topic: &str, payload: Vec<u8>, qos: Qos) -> Result<(), Full> {
        let message = Outgoing {
            topic: Bytes::copy_from_slice(topic.as_bytes()),
            payload: Bytes::from(payload),
            qos,
            failures: 0,
        };
        if self.outbox.push(message) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// Whether nothing waits to be sent. QoS 1 messages that left but are not
    /// acknowledged do not count.
    pub fn is_idle(&self) -> bool {
        self.outbox.is_empty()
    }

    /// Ends the link and waits until it has: what is queued leaves if it can
    /// within a second, and the broker publishes the will.
    pub async fn close(self) {
        self.outbox.close();
        let _ = self.ended.recv().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.outbox.close();
    }
}
