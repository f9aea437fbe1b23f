//! How much a client, and all together, may use.

use std::time::Duration;

/// What one kind of client may use. Every field is a bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Its name in logs and statistics.
    pub name: &'static str,
    /// The largest packet taken from it, in bytes.
    pub max_packet_bytes: u32,
    /// Topic filters that one session may hold.
    pub max_subscriptions: usize,
    /// Messages that wait for it at most. Half of that is open to QoS 0.
    pub queue_messages: usize,
    /// Bytes that wait for it at most.
    pub queue_bytes: usize,
    /// QoS 1 messages sent to it and not acknowledged.
    pub max_in_flight: u16,
    /// How long its session may outlive the connection; 0 for not at all.
    pub max_session_expiry: Duration,
    /// The longest keep-alive, also for a client that asks for none.
    pub max_keep_alive: Duration,
    /// Packets taken from it per second, on average; 0 for no bound.
    pub packets_per_second: u32,
    /// Bytes taken from it per second, on average; 0 for no bound.
    pub bytes_per_second: u32,
    /// Whether it may leave retained messages.
    pub may_retain: bool,
    /// Publishers wait for this client when it is slow, instead of its being
    /// thrown out: for the hub, to which everybody talks.
    pub patient: bool,
}

impl Class {
    /// A device of the fleet.
    pub fn device() -> Self {
        Self {
            name: "device",
            max_packet_bytes: 192 * 1024,
            max_subscriptions: 16,
            queue_messages: 256,
            queue_bytes: 2 * 1024 * 1024,
            max_in_flight: 16,
            max_session_expiry: Duration::from_secs(24 * 3600),
            max_keep_alive: Duration::from_secs(3600),
            packets_per_second: 500,
            bytes_per_second: 8 * 1024 * 1024,
            may_retain: false,
            patient: false,
        }
    }

    /// Somebody with a join token and no name yet.
    pub fn joining() -> Self {
        Self {
            name: "joining",
            max_packet_bytes: 16 * 1024,
            max_subscriptions: 2,
            queue_messages: 16,
            queue_bytes: 64 * 1024,
            max_in_flight: 4,
            max_session_expiry: Duration::ZERO,
            max_keep_alive: Duration::from_secs(120),
            packets_per_second: 10,
            bytes_per_second: 64 * 1024,
            may_retain: false,
            patient: false,
        }
    }

    /// The hub's own connection.
    pub fn hub() -> Self {
        Self {
            name: "hub",
            max_packet_bytes: 256 * 1024,
            max_subscriptions: 256,
            queue_messages: 65_536,
            queue_bytes: 64 * 1024 * 1024,
            max_in_flight: 64,
            max_session_expiry: Duration::from_secs(3600),
            max_keep_alive: Duration::from_secs(3600),
            packets_per_second: 0,
            bytes_per_second: 0,
            may_retain: true,
            patient: true,
        }
    }
}

/// What all clients together may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections, of whatever kind.
    pub connections: usize,
    /// Connections of one address (IPv6: of one /64).
    pub connections_per_address: usize,
    /// Connections that have not shown who they are.
    pub pending: usize,
    /// The same, of one address.
    pub pending_per_address: usize,
    /// How long a connection may take for TLS and CONNECT together.
    pub connect_within: Duration,
    /// The largest packet taken before a client is known, in bytes.
    pub connect_bytes: u32,
    /// How long the rest of a packet may take.
    pub packet_within: Duration,
    /// Sessions, with and without a connection.
    pub sessions: usize,
    /// Bytes of messages that wait, over all sessions.
    pub queued_bytes: usize,
    /// Bytes of packets that have come in half, over all connections.
    pub partial_bytes: usize,
    /// Filters with wildcards, over all sessions; each costs a comparison for
    /// each message.
    pub wildcard_filters: usize,
    /// Retained messages.
    pub retained_messages: usize,
    /// Bytes of retained messages.
    pub retained_bytes: usize,
}

impl Default for Limits {
    /// For a hub with up to 60,000 devices and some 2 GiB to spare.
    fn default() -> Self {
        Self {
            connections: 65_536,
            connections_per_address: 16_384,
            pending: 4_096,
            pending_per_address: 1_024,
            connect_within: Duration::from_secs(15),
            connect_bytes: 16 * 1024,
            packet_within: Duration::from_secs(120),
            sessions: 131_072,
            queued_bytes: 1024 * 1024 * 1024,
            partial_bytes: 256 * 1024 * 1024,
            wildcard_filters: 1_024,
            retained_messages: 10_000,
            retained_bytes: 16 * 1024 * 1024,
        }
    }
}
