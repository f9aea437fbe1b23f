//! One MQTT 5 session over any bytes: the only file that knows rumqttc.
//!
//! Of rumqttc it takes the codec and the client's state machine
//! ([`MqttState`]), which are free of I/O, and not its event loop: that one
//! runs on tokio, is not cancel-safe, has no way to bound a stuck write or a
//! missing pong by other than the keep-alive, and on a lost session drops what
//! was still queued. Pure but for the clock that `MqttState` reads for its log.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter,
    LastWill, LastWillProperties, Login, Packet, PubAckReason, Publish, Subscribe,
    SubscribeReasonCode,
};
use rumqttc::v5::{MqttState, Request, StateError};

use crate::outbox::Outgoing;
use crate::{LinkConfig, Qos, Will};

/// QoS 1 messages sent and not yet acknowledged. rumqttc allocates for it at
/// once (14 MB at its default of 65,535).
const MAX_IN_FLIGHT: u16 = 64;
/// Messages that the broker may send before we acknowledged the first.
const RECEIVE_MAXIMUM: u16 = 16;
/// A read buffer that grew beyond this is given back once it is empty.
const KEEP_BUFFER_BYTES: usize = 16 * 1024;

/// What came in, for the driver.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// The broker took us; SUBSCRIBE is on its way, if there is one.
    Accepted {
        session_present: bool,
        /// The broker's own keep-alive, which then counts instead of ours.
        keep_alive: Option<Duration>,
    },
    /// All subscriptions hold.
    Subscribed,
    Message {
        topic: String,
        payload: Vec<u8>,
    },
    /// The broker has this message.
    Acknowledged(Outgoing),
    /// The broker does not want this message.
    Refused(Outgoing, String),
    /// A pong, or whatever else needs no action.
    Nothing,
}

/// Why a message was not encoded.
#[derive(Debug)]
pub(crate) enum NotSent {
    /// The broker takes at most this many bytes.
    TooLarge(Outgoing, u32),
    /// The session is over.
    Broken(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Subscribing,
    Ready,
}

pub(crate) struct Mqtt {
    state: MqttState,
    phase: Phase,
    filters: Vec<String>,
    received: BytesMut,
    to_send: BytesMut,
    max_incoming: u32,
    max_outgoing: Option<u32>,
    max_in_flight: u16,
    /// QoS 1 messages in the order in which they were sent.
    unacknowledged: VecDeque<(u16, Outgoing)>,
}

impl Mqtt {
    /// A session whose CONNECT waits in [`Mqtt::to_send`].
    pub fn connect(config: &LinkConfig, will: Option<&Will>) -> Result<Self, String> {
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval = Some(seconds(config.session_expiry));
        properties.receive_maximum = Some(RECEIVE_MAXIMUM);
        properties.max_packet_size = Some(config.max_packet_bytes);
        let login = match (&config.username, &config.broker.login) {
            (Some(username), _) => Some(Login {
                username: username.clone(),
                password: config.password.clone().unwrap_or_default(),
            }),
            (None, Some(login)) => Some(Login {
                username: login.username.clone(),
                password: login.password.clone(),
            }),
            (None, None) => None,
        };
        let will = will.map(|will| LastWill {
            topic: Bytes::copy_from_slice(will.topic.as_bytes()),
            message: Bytes::copy_from_slice(&will.payload),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Some(LastWillProperties {
                delay_interval: Some(seconds(will.delay)),
                payload_format_indicator: None,
                message_expiry_interval: None,
                content_type: None,
                response_topic: None,
                correlation_data: None,
                user_properties: Vec::new(),
            }),
        });
        let connect = Connect {
            keep_alive: seconds(config.keep_alive).min(u32::from(u16::MAX)) as u16,
            client_id: config.client_id.clone(),
            clean_start: config.clean_start,
            properties: Some(properties),
        };
        let mut state = MqttState::new(MAX_IN_FLIGHT, false);
        // We empty it after each packet; its 100 places would be 25 KB.
        state.events = VecDeque::new();
        let mut mqtt = Self {
            state,
            phase: Phase::Connecting,
            filters: config.subscriptions.clone(),
            received: BytesMut::new(),
            to_send: BytesMut::new(),
            max_incoming: config.max_packet_bytes,
            max_outgoing: None,
            max_in_flight: MAX_IN_FLIGHT,
            unacknowledged: VecDeque::new(),
        };
        mqtt.encode(&Packet::Connect(connect, will, login))?;
        Ok(mqtt)
    }

    /// Bytes for the broker; the driver takes them from the front.
    pub fn to_send(&self) -> &[u8] {
        &self.to_send
    }

    /// The first `count` bytes are sent.
    pub fn sent(&mut self, count: usize) {
        self.to_send.advance(count);
        if self.to_send.is_empty() && self.to_send.capacity() > KEEP_BUFFER_BYTES {
            self.to_send = BytesMut::new();
        }
    }

    /// Bytes from the broker; [`Mqtt::next`] takes packets out of them.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
    }

    /// Whether CONNACK and SUBACK are still awaited.
    pub fn is_settling(&self) -> bool {
        self.phase != Phase::Ready
    }

    /// Whether an answer of the broker is due.
    pub fn awaits_answer(&self) -> bool {
        self.is_settling() || self.state.await_pingresp || !self.unacknowledged.is_empty()
    }

    /// Whether a ping is unanswered.
    pub fn awaits_pong(&self) -> bool {
        self.state.await_pingresp
    }

    /// Whether another message may be sent now.
    pub fn can_publish(&self) -> bool {
        self.phase != Phase::Connecting
            && self.state.collision.is_none()
            && self.unacknowledged.len() < usize::from(self.max_in_flight)
    }

    /// The next packet out of the received bytes, or `None` when more bytes
    /// are needed. The error says why the session is over.
    pub fn next(&mut self) -> Result<Option<Incoming>, String> {
        let Some(length) = self.frame_length()? else {
            return Ok(None);
        };
        let mut frame = self.received.split_to(length);
        // The decoder takes DISCONNECT's short forms for errors.
        if let [0xe0, 0 | 1, code @ ..] = &frame[..] {
            let code = code
                .first()
                .and_then(|&code| DisconnectReasonCode::try_from(code).ok());
            let code = code.unwrap_or(DisconnectReasonCode::NormalDisconnection);
            return Err(disconnect_in_words(code).into());
        }
        // That it wants more bytes of a whole packet means a length within
        // the packet that is wrong.
        let packet = Packet::read(&mut frame, None)
            .map_err(|error| format!("the broker sent bytes that are no MQTT: {error}"))?;
        if self.received.is_empty() && self.received.capacity() > KEEP_BUFFER_BYTES {
            self.received = BytesMut::new();
        }
        self.handle(packet).map(Some)
    }

    /// The length of the first packet, once all of it is there. Checked before
    /// we wait for the rest.
    fn frame_length(&self) -> Result<Option<usize>, String> {
        let mut length = 0usize;
        for (index, byte) in self.received.iter().skip(1).take(4).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 != 0 {
                continue;
            }
            let whole = 2 + index + length;
            let max = self.max_incoming;
            if whole > max as usize {
                return Err(format!(
                    "the broker sent a packet of {whole} bytes; we take at most {max}"
                ));
            }
            return Ok((self.received.len() >= whole).then_some(whole));
        }
        if self.received.len() >= 5 {
            return Err("the broker sent bytes that are no MQTT: bad packet length".into());
        }
        Ok(None)
    }

    fn handle(&mut self, packet: Packet) -> Result<Incoming, String> {
        if let Packet::ConnAck(connack) = &packet
            && connack.code != ConnectReturnCode::Success
        {
            let said = connack.properties.as_ref();
            let said = said.and_then(|p| p.reason_string.as_deref());
            return Err(with_words(refusal_in_words(connack.code), said));
        }
        let is_connack = matches!(packet, Packet::ConnAck(_));
        if is_connack != (self.phase == Phase::Connecting) {
            return Err("the broker sent packets in an order that MQTT does not allow".into());
        }
        let incoming = match &packet {
            Packet::ConnAck(connack) => {
                let properties = connack.properties.as_ref();
                if let Some(limit) = properties.and_then(|p| p.receive_max) {
                    if limit == 0 {
                        return Err("the broker takes no messages (receive maximum 0)".into());
                    }
                    self.max_in_flight = limit.min(MAX_IN_FLIGHT);
                }
                if properties.and_then(|p| p.max_qos) == Some(0) {
                    return Err(
                        "the broker has no QoS 1 (maximum QoS 0), which Skerry needs".into(),
                    );
                }
                self.max_outgoing = properties.and_then(|p| p.max_packet_size);
                let keep_alive = properties.and_then(|p| p.server_keep_alive);
                Incoming::Accepted {
                    session_present: connack.session_present,
                    keep_alive: keep_alive.map(|s| Duration::from_secs(u64::from(s))),
                }
            }
            Packet::SubAck(suback) => self.subscribed(&suback.return_codes)?,
            Packet::Publish(publish) => {
                if publish.qos == QoS::ExactlyOnce
                    || publish
                        .properties
                        .as_ref()
                        .is_some_and(|p| p.topic_alias.is_some())
                {
                    return Err("the broker sent a message in a form that we did not offer".into());
                }
                let topic = String::from_utf8(publish.topic.to_vec())
                    .map_err(|_| "the broker sent a topic that is not UTF-8")?;
                Incoming::Message {
                    topic,
                    payload: publish.payload.to_vec(),
                }
            }
            Packet::PubAck(puback) => {
                let place = self
                    .unacknowledged
                    .iter()
                    .position(|(pkid, _)| *pkid == puback.pkid);
                match place.and_then(|place| self.unacknowledged.remove(place)) {
                    None => return Err("the broker acknowledged what was never sent".into()),
                    Some((_, message)) => match puback.reason {
                        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => {
                            Incoming::Acknowledged(message)
                        }
                        reason => Incoming::Refused(message, puback_in_words(reason).into()),
                    },
                }
            }
            Packet::PingResp(_) => Incoming::Nothing,
            Packet::Disconnect(disconnect) => {
                let said = disconnect.properties.as_ref();
                let said = said.and_then(|p| p.reason_string.as_deref());
                return Err(with_words(
                    disconnect_in_words(disconnect.reason_code),
                    said,
                ));
            }
            _ => return Err("the broker sent a packet that we did not ask for".into()),
        };
        let answer = self.state.handle_incoming_packet(packet).map_err(broken)?;
        self.state.events.clear();
        if let Some(answer) = answer {
            self.encode(&answer)?;
        }
        if is_connack {
            self.subscribe()?;
        }
        Ok(incoming)
    }

    fn subscribe(&mut self) -> Result<(), String> {
        if self.filters.is_empty() {
            self.phase = Phase::Ready;
            return Ok(());
        }
        self.phase = Phase::Subscribing;
        let filters = self.filters.iter();
        let filters = filters.map(|filter| Filter::new(filter.as_str(), QoS::AtLeastOnce));
        self.request(Request::Subscribe(Subscribe::new_many(filters, None)))
    }

    fn subscribed(&mut self, codes: &[SubscribeReasonCode]) -> Result<Incoming, String> {
        if self.phase != Phase::Subscribing || codes.len() != self.filters.len() {
            return Err("the broker answered a subscription that we did not ask for".into());
        }
        for (code, filter) in codes.iter().zip(&self.filters) {
            if let Some(why) = suback_in_words(*code) {
                return Err(format!(
                    "the broker refused the subscription to {filter}: {why}"
                ));
            }
        }
        self.phase = Phase::Ready;
        Ok(Incoming::Subscribed)
    }

    /// Encodes a message. Gives it back when it needs no acknowledgement.
    pub fn publish(&mut self, message: Outgoing) -> Result<Option<Outgoing>, NotSent> {
        let publish = Publish {
            dup: false,
            qos: match message.qos {
                Qos::AtMostOnce => QoS::AtMostOnce,
                Qos::AtLeastOnce => QoS::AtLeastOnce,
            },
            retain: false,
            topic: message.topic.clone(),
            pkid: 0,
            payload: message.payload.clone(),
            properties: None,
        };
        if let Some(max) = self.max_outgoing
            && publish.size() > max as usize
        {
            return Err(NotSent::TooLarge(message, max));
        }
        let packet = self
            .state
            .handle_outgoing_packet(Request::Publish(publish))
            .map_err(|error| NotSent::Broken(broken(error)))?;
        self.state.events.clear();
        // Without a packet it waits in the state for a packet id to get free.
        let pkid = match (&packet, &self.state.collision) {
            (Some(Packet::Publish(publish)), _) | (None, Some(publish)) => publish.pkid,
            _ => 0,
        };
        if let Some(packet) = packet {
            self.encode(&packet).map_err(NotSent::Broken)?;
        }
        match message.qos {
            Qos::AtMostOnce => Ok(Some(message)),
            Qos::AtLeastOnce => {
                self.unacknowledged.push_back((pkid, message));
                Ok(None)
            }
        }
    }

    /// Encodes a ping.
    pub fn ping(&mut self) -> Result<(), String> {
        self.request(Request::PingReq)
    }

    /// Encodes a farewell after which the broker publishes the will: whoever
    /// goes away is away, on purpose or not.
    pub fn farewell(&mut self) -> Result<(), String> {
        let reason = DisconnectReasonCode::DisconnectWithWillMessage;
        self.encode(&Packet::Disconnect(Disconnect::new(reason)))
    }

    /// What was sent but not acknowledged, oldest first.
    pub fn into_unacknowledged(self) -> impl DoubleEndedIterator<Item = Outgoing> {
        self.unacknowledged.into_iter().map(|(_, message)| message)
    }

    fn request(&mut self, request: Request) -> Result<(), String> {
        let packet = self.state.handle_outgoing_packet(request).map_err(broken)?;
        self.state.events.clear();
        match packet {
            Some(packet) => self.encode(&packet),
            None => Ok(()),
        }
    }

    fn encode(&mut self, packet: &Packet) -> Result<(), String> {
        match packet.write(&mut self.to_send, self.max_outgoing) {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("cannot encode an MQTT packet: {error}")),
        }
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

fn broken(error: StateError) -> String {
    match error {
        StateError::AwaitPingResp => "the broker stopped answering".into(),
        StateError::CollisionTimeout => "the broker stopped acknowledging".into(),
        other => format!("the broker broke MQTT's rules: {other}"),
    }
}

fn with_words(ours: &str, broker_said: Option<&str>) -> String {
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

fn refusal_in_words(code: ConnectReturnCode) -> &'static str {
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

fn disconnect_in_words(code: DisconnectReasonCode) -> &'static str {
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

fn puback_in_words(reason: PubAckReason) -> &'static str {
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
fn suback_in_words(code: SubscribeReasonCode) -> Option<&'static str> {
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
