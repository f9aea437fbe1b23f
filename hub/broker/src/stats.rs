//! What the broker counts.

use std::collections::BTreeMap;

/// A snapshot of the broker's counts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Open connections, those before CONNECT included.
    pub connections: usize,
    /// Connections before CONNECT.
    pub pending: usize,
    /// Sessions, with and without a connection.
    pub sessions: usize,
    /// Subscriptions, over all sessions.
    pub subscriptions: usize,
    /// Retained messages.
    pub retained: usize,
    /// Bytes of messages that wait for their readers.
    pub queued_bytes: usize,
    /// Messages taken from publishers.
    pub published: u64,
    /// Messages sent to readers.
    pub delivered: u64,
    /// QoS 0 messages dropped because a reader was slow or away.
    pub dropped_qos0: u64,
    /// Messages that ran out of time in a queue, or were too large for their
    /// reader.
    pub undeliverable: u64,
    /// Publishes that a grant did not allow.
    pub publishes_denied: u64,
    /// Subscriptions that a grant did not allow.
    pub subscriptions_denied: u64,
    /// Connections refused or ended, by reason.
    pub refused: BTreeMap<&'static str, u64>,
}
