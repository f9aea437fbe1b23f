//! One MQTT 5 session over any bytes: the only module that knows rumqttc.
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

mod words;

use words::{disconnect_in_words, puback_in_words, refusal_in_words, suback_in_words, with_words};

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

#[cfg(test)]
mod tests {
    use super::*;

    const CONNACK: &[u8] = b"\x20\x15\x00\x00\x12\x11\x00\x00\x0e\x10\x21\x00\x40\x24\x01\x27\x00\x03\x00\x00\x22\x00\x08";
    /// What a broker may send.
    const SEEDS: &[&[u8]] = &[
        CONNACK,
        b"\x90\x04\x00\x01\x00\x01",
        b"\x30\x06\x00\x01a\x00hi",
        b"\x32\x08\x00\x01a\x00\x07\x00hi",
        b"\x32\x13\x00\x01a\x00\x07\x0b\x01\x01\x02\x00\x00\x00\x05\x26\x00\x00\x00\x00hi",
        b"\x40\x02\x00\x02",
        b"\x40\x04\x00\x03\x87\x00",
        b"\x50\x02\x00\x02",
        b"\x62\x02\x00\x02",
        b"\x70\x02\x00\x02",
        b"\xb0\x04\x00\x01\x00\x00",
        b"\xd0\x00",
        b"\xe0\x00",
        b"\xe0\x02\x8e\x00",
        b"\xf0\x00",
    ];

    fn config() -> LinkConfig {
        let url = "mqtt://localhost".parse().expect("a URL");
        let mut config = LinkConfig::new(url, "x");
        config.subscriptions = vec!["a".into()];
        config.max_packet_bytes = 1024;
        config
    }

    fn message() -> Outgoing {
        Outgoing {
            topic: Bytes::from_static(b"t"),
            payload: Bytes::from_static(b"p"),
            qos: Qos::AtLeastOnce,
            failures: 0,
        }
    }

    #[test]
    fn a_hundred_thousand_mutated_packets() {
        let mut seed = 0x5eed_u64;
        let mut random = move |below: usize| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed % below as u64) as usize
        };
        let config = config();
        let (mut handled, mut ended) = (0u32, 0u32);
        let mut mqtt = Mqtt::connect(&config, None).expect("a CONNECT");
        let mut fresh = true;
        for _ in 0..100_000 {
            let mut bytes = if fresh && random(10) > 0 {
                CONNACK.to_vec()
            } else {
                let mut bytes = SEEDS[random(SEEDS.len())].to_vec();
                for _ in 0..random(3) {
                    let place = random(bytes.len());
                    match random(4) {
                        0 => bytes[place] = random(256) as u8,
                        1 => bytes[place] ^= 1 << random(8),
                        2 => bytes.truncate(place.max(2)),
                        _ => bytes.insert(place, random(256) as u8),
                    }
                }
                bytes
            };
            if random(4) > 0 {
                bytes[1] = (bytes.len() - 2) as u8;
            }
            fresh = false;
            mqtt.receive(&bytes);
            let over = loop {
                match mqtt.next() {
                    Ok(None) => break false,
                    Ok(Some(_)) => handled += 1,
                    Err(_) => break true,
                }
            };
            if mqtt.can_publish() && random(3) == 0 {
                let _ = mqtt.publish(message());
            }
            let sent = mqtt.to_send().len();
            mqtt.sent(sent);
            assert!(mqtt.received.len() <= 1100 && mqtt.unacknowledged.len() <= 64);
            if over {
                ended += 1;
                mqtt = Mqtt::connect(&config, None).expect("a CONNECT");
                fresh = true;
            }
        }
        assert!(handled > 20_000 && ended > 10_000, "{handled} {ended}");
    }

    #[test]
    fn what_is_not_acknowledged_comes_back_in_order() {
        let mut mqtt = Mqtt::connect(&config(), None).expect("a CONNECT");
        assert!(!mqtt.can_publish());
        mqtt.receive(CONNACK);
        assert!(matches!(mqtt.next(), Ok(Some(Incoming::Accepted { .. }))));
        let sent: Vec<Outgoing> = (0..u8::MAX)
            .map(|n| Outgoing {
                payload: vec![n].into(),
                ..message()
            })
            .take_while(|message| {
                let room = mqtt.can_publish();
                if room {
                    assert!(matches!(mqtt.publish(message.clone()), Ok(None)));
                }
                room
            })
            .collect();
        assert_eq!(sent.len(), 64);
        // SUBSCRIBE took packet id 1, so the third message has id 4.
        mqtt.receive(&[0x40, 2, 0, 4]);
        let acknowledged = mqtt.next();
        assert!(matches!(&acknowledged, Ok(Some(Incoming::Acknowledged(m))) if m == &sent[2]));
        let rest: Vec<_> = mqtt.into_unacknowledged().collect();
        assert_eq!(rest, [&sent[..2], &sent[3..]].concat());
    }
}
