//! An MQTT broker for many small devices: sessions, access rules, limits.
//!
//! It speaks MQTT 5 and 3.1.1 with QoS 0 and 1, on TLS, TCP and a Unix socket,
//! on the caller's executor. Nothing is kept over a restart: MQTT is
//! transport, and the truth is in the stores of hub and devices.
//!
//! `core.rs` is the broker without sockets and clock; `connection.rs` and
//! `broker.rs` are the shell. Parsing is mqtt-protocol-core's and only
//! `packet.rs` (and the payload type in `message.rs`) knows it.
//!
//! No client can harm another. What each of them may use is in [`Limits`] and
//! [`Class`], and every field there is a bound that a test reaches.
#![forbid(unsafe_code)]

mod admit;
mod authority;
mod broker;
mod connection;
mod core;
mod deliver;
mod encode;
mod end;
#[cfg(test)]
mod fuzz;
mod handle;
mod limits;
mod message;
mod packet;
mod reason;
mod router;
mod session;
mod stats;
mod topic;

pub use authority::{Authority, Credentials, Denied, Grant, Peer, Refusal, RefusalKind};
pub use broker::{Broker, BrokerConfig, BrokerHandle, StartError};
pub use limits::{Class, Limits};
pub use stats::Stats;
pub use topic::{MAX_LEVELS, MAX_TOPIC_BYTES, TopicError, TopicFilter, check_topic};
