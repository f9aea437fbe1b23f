//! Why a connection ends, as MQTT's code and as words.

use crate::authority::RefusalKind;

/// Why the broker ends a connection, or does not let it begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    // Before CONNECT.
    TooManyConnections,
    TooManyFromAddress,
    TooManyPending,
    TooManyPendingFromAddress,
    ConnectTooLate,
    NotConnect,
    UnknownVersion,
    Refused(RefusalKind),
    ClientIdTaken,
    ClientIdInvalid,
    AuthMethod,
    WillDenied,
    WillInvalid,
    SessionsFull,
    // At any time.
    Malformed,
    ProtocolError,
    PacketTooLarge,
    PacketTooSlow,
    PartialMemory,
    // After CONNECT.
    KeepAlive,
    TakenOver,
    SlowReader,
    PublishDenied,
    TopicInvalid,
    AliasInvalid,
    Qos2,
    RetainDenied,
    SubscriptionId,
    Revoked,
    ShuttingDown,
}

impl Why {
    /// MQTT 5's reason code, for CONNACK or DISCONNECT (section 2.4).
    pub fn code(self) -> u8 {
        match self {
            Self::TooManyConnections | Self::TooManyPending | Self::SessionsFull => 0x97,
            Self::TooManyFromAddress | Self::TooManyPendingFromAddress => 0x9f,
            Self::ConnectTooLate | Self::PacketTooSlow | Self::PartialMemory => 0x97,
            Self::NotConnect | Self::ProtocolError => 0x82,
            Self::UnknownVersion => 0x84,
            Self::Refused(RefusalKind::BadCredentials) => 0x86,
            Self::Refused(RefusalKind::NotAuthorized) => 0x87,
            Self::Refused(RefusalKind::Banned) => 0x8a,
            Self::Refused(RefusalKind::ClientId) => 0x85,
            Self::Refused(RefusalKind::Busy) => 0x89,
            Self::ClientIdTaken | Self::ClientIdInvalid => 0x85,
            Self::AuthMethod => 0x8c,
            Self::WillDenied | Self::PublishDenied => 0x87,
            Self::WillInvalid | Self::TopicInvalid => 0x90,
            Self::Malformed => 0x81,
            Self::PacketTooLarge => 0x95,
            Self::KeepAlive => 0x8d,
            Self::TakenOver => 0x8e,
            Self::SlowReader => 0x97,
            Self::AliasInvalid => 0x94,
            Self::Qos2 => 0x9b,
            Self::RetainDenied => 0x9a,
            Self::SubscriptionId => 0xa1,
            Self::Revoked => 0x98,
            Self::ShuttingDown => 0x8b,
        }
    }

    /// The code of a CONNACK in MQTT 3.1.1 (section 3.2.2.3).
    pub fn code_v4(self) -> u8 {
        match self {
            Self::UnknownVersion => 1,
            Self::ClientIdTaken | Self::ClientIdInvalid | Self::Refused(RefusalKind::ClientId) => 2,
            Self::Refused(RefusalKind::BadCredentials) => 4,
            Self::Refused(RefusalKind::NotAuthorized | RefusalKind::Banned)
            | Self::WillDenied
            | Self::AuthMethod => 5,
            _ => 3,
        }
    }

    /// In words, for statistics, logs, and MQTT 5's reason string.
    pub fn words(self) -> &'static str {
        match self {
            Self::TooManyConnections => "too many connections",
            Self::TooManyFromAddress => "too many connections from one address",
            Self::TooManyPending => "too many connections before CONNECT",
            Self::TooManyPendingFromAddress => {
                "too many connections before CONNECT from one address"
            }
            Self::ConnectTooLate => "no CONNECT in time",
            Self::NotConnect => "first packet is not CONNECT",
            Self::UnknownVersion => "neither MQTT 5 nor 3.1.1",
            Self::Refused(RefusalKind::BadCredentials) => "wrong user name or password",
            Self::Refused(RefusalKind::NotAuthorized) => "not authorized",
            Self::Refused(RefusalKind::Banned) => "revoked device",
            Self::Refused(RefusalKind::ClientId) => "client id is not for this user",
            Self::Refused(RefusalKind::Busy) => "busy",
            Self::ClientIdTaken => "client id belongs to another user's session",
            Self::ClientIdInvalid => "client id is empty, too long, or holds control characters",
            Self::AuthMethod => "no enhanced authentication here",
            Self::WillDenied => "will on a topic that this client may not publish to",
            Self::WillInvalid => "will with an invalid topic",
            Self::SessionsFull => "too many sessions",
            Self::Malformed => "malformed packet",
            Self::ProtocolError => "packet not allowed here",
            Self::PacketTooLarge => "packet too large",
            Self::PacketTooSlow => "packet took too long to come in",
            Self::PartialMemory => "too many bytes of unfinished packets",
            Self::KeepAlive => "nothing heard within the keep-alive",
            Self::TakenOver => "same client connected again",
            Self::SlowReader => "reads too slowly: its queue is full",
            Self::PublishDenied => "publish to a topic that this client may not publish to",
            Self::TopicInvalid => "publish to an invalid topic",
            Self::AliasInvalid => "invalid topic alias",
            Self::Qos2 => "QoS 2 is not supported",
            Self::RetainDenied => "this client may not leave retained messages",
            Self::SubscriptionId => "subscription identifiers are not supported",
            Self::Revoked => "ended by the hub",
            Self::ShuttingDown => "broker is shutting down",
        }
    }

    /// Whether it is somebody's fault, and so counted among the refusals.
    pub fn is_refusal(self) -> bool {
        !matches!(self, Self::TakenOver | Self::ShuttingDown)
    }
}
