//! MQTT's reason codes as words for the operator.

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnectReturnCode, DisconnectReasonCode, PubAckReason, SubscribeReasonCode,
};

pub(super) fn with_words(ours: &str, broker_said: Option<&str>) -> String {
    /// The most that we repeat of a broker's own words, in characters.
    const MAX_QUOTED: usize = 200;
    match broker_said {
        None | Some("") => ours.to_owned(),
        Some(said) => {
            let said: String = said
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_QUOTED)
                .collect();
            format!("{ours} (it says: {said})")
        }
    }
}

pub(super) fn refusal_in_words(code: ConnectReturnCode) -> &'static str {
    use ConnectReturnCode as C;
    match code {
        C::Success => "the broker accepted the connection",
        C::RefusedProtocolVersion | C::UnsupportedProtocolVersion => {
            "the broker does not speak MQTT 5"
        }
        C::BadClientId | C::ClientIdentifierNotValid => "the broker refused the client id",
        C::BadUserNamePassword => "the broker refused user name or password",
        C::NotAuthorized => "the broker does not let this client in (not authorized)",
        C::Banned => "the broker has banned this client",
        C::ServiceUnavailable | C::ServerUnavailable => "the broker is not available just now",
        C::ServerBusy => "the broker is busy",
        C::ConnectionRateExceeded => "the broker has too many new connections just now",
        C::QuotaExceeded => "the broker is full: a limit of its own is reached",
        C::PacketTooLarge => "the broker refused the connection: CONNECT is too large for it",
        C::UseAnotherServer | C::ServerMoved => "the broker has moved to another address",
        C::TopicNameInvalid => "the broker refused the topic of the will",
        C::BadAuthenticationMethod => "the broker wants another way of authentication",
        C::RetainNotSupported | C::QoSNotSupported | C::PayloadFormatInvalid => {
            "the broker refused the will"
        }
        C::MalformedPacket | C::ProtocolError => "the broker did not understand CONNECT",
        C::UnspecifiedError | C::ImplementationSpecificError => "the broker refused the connection",
    }
}

pub(super) fn disconnect_in_words(code: DisconnectReasonCode) -> &'static str {
    use DisconnectReasonCode as D;
    match code {
        D::SessionTakenOver => "another client came with the same client id and took over",
        D::KeepAliveTimeout => "the broker heard nothing from us for too long",
        D::ServerShuttingDown => "the broker is shutting down",
        D::ServerBusy => "the broker is busy",
        D::NotAuthorized => "the broker no longer lets this client in (not authorized)",
        D::AdministrativeAction => "an administrator ended the session",
        D::PacketTooLarge => "the broker found a packet of ours too large",
        D::MessageRateTooHigh => "the broker found that we send too fast",
        D::QuotaExceeded => "a limit of the broker is reached",
        D::ReceiveMaximumExceeded => "the broker found too many unacknowledged messages",
        D::UseAnotherServer | D::ServerMoved => "the broker has moved to another address",
        D::ConnectionRateExceeded => "the broker has too many new connections just now",
        D::MaximumConnectTime => "the broker ends connections after a time",
        D::TopicFilterInvalid | D::TopicNameInvalid => "the broker does not take one of our topics",
        D::MalformedPacket | D::ProtocolError => "the broker did not understand a packet of ours",
        D::NormalDisconnection
        | D::DisconnectWithWillMessage
        | D::UnspecifiedError
        | D::ImplementationSpecificError => "the broker ended the session",
        D::TopicAliasInvalid
        | D::PayloadFormatInvalid
        | D::RetainNotSupported
        | D::QoSNotSupported
        | D::SharedSubscriptionNotSupported
        | D::SubscriptionIdentifiersNotSupported
        | D::WildcardSubscriptionsNotSupported => "the broker lacks a feature that we used",
    }
}

pub(super) fn puback_in_words(reason: PubAckReason) -> &'static str {
    use PubAckReason as P;
    match reason {
        P::Success | P::NoMatchingSubscribers => "accepted",
        P::NotAuthorized => "this client may not publish there (not authorized)",
        P::TopicNameInvalid => "the broker does not take this topic",
        P::QuotaExceeded => "a limit of the broker is reached",
        P::PayloadFormatInvalid => "the broker does not take this payload",
        P::PacketIdentifierInUse | P::UnspecifiedError | P::ImplementationSpecificError => {
            "the broker refused it"
        }
    }
}

/// `None` for a subscription that holds.
pub(super) fn suback_in_words(code: SubscribeReasonCode) -> Option<&'static str> {
    use SubscribeReasonCode as S;
    Some(match code {
        S::Success(QoS::AtLeastOnce | QoS::ExactlyOnce) => return None,
        S::Success(QoS::AtMostOnce) => "it grants only QoS 0 there",
        S::NotAuthorized => "not authorized",
        S::TopicFilterInvalid => "it does not take this filter",
        S::QuotaExceeded => "a limit of the broker is reached",
        S::SharedSubscriptionsNotSupported => "it has no shared subscriptions",
        S::WildcardSubscriptionsNotSupported => "it has no wildcards",
        S::Failure
        | S::Unspecified
        | S::ImplementationSpecific
        | S::PkidInUse
        | S::SubscriptionIdNotSupported => "no reason given",
    })
}
