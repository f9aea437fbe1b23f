//! Bytes to packets: framing, limits, and parsing. The only file that knows
//! mqtt-protocol-core, whose packet parsers it uses.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mqtt_protocol_core::mqtt::ArcPayload;
use mqtt_protocol_core::mqtt::packet::{
    Properties, Property, Qos as LibQos, RetainHandling, SubEntry, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::MqttError;

use crate::reason::Why;

/// The largest packet other than PUBLISH, in bytes: a CONNECT with a will, or
/// some dozen filters.
const MAX_CONTROL_BYTES: usize = 16 * 1024;
/// The most bytes of properties in a PUBLISH.
const MAX_PROPERTIES_BYTES: usize = 4 * 1024;
/// The longest client id, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 128;

/// The two versions of MQTT that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 3.1.1.
    V4,
    V5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Qos {
    AtMostOnce,
    AtLeastOnce,
}

/// A packet from a client.
#[derive(Debug)]
pub(crate) enum Inbound {
    Connect(Box<ConnectIn>),
    Publish(PublishIn),
    PubAck(u16),
    Subscribe(SubscribeIn),
    Unsubscribe(UnsubscribeIn),
    Ping,
    Disconnect(DisconnectIn),
}

#[derive(Debug)]
pub(crate) struct ConnectIn {
    pub version: Version,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub clean_start: bool,
    /// 0 for none.
    pub keep_alive: u16,
    /// `None` in 3.1.1 without clean session: as long as it is allowed.
    pub session_expiry: Option<u32>,
    pub receive_maximum: u16,
    pub max_packet_bytes: u32,
    pub will: Option<WillIn>,
    pub has_auth_method: bool,
}

#[derive(Debug)]
pub(crate) struct WillIn {
    pub topic: String,
    pub payload: ArcPayload,
    pub qos: Qos,
    pub is_qos2: bool,
    pub retain: bool,
    pub delay: Duration,
    pub expiry: Option<u32>,
    pub properties: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct PublishIn {
    /// Empty when `alias` stands for it.
    pub topic: String,
    pub alias: Option<u16>,
    /// 0 for QoS 0.
    pub packet_id: u16,
    pub is_qos2: bool,
    pub retain: bool,
    pub payload: ArcPayload,
    /// Seconds.
    pub expiry: Option<u32>,
    /// Encoded properties that go to the readers as they are.
    pub properties: Box<[u8]>,
}

#[derive(Debug)]
pub(crate) struct SubscribeIn {
    pub packet_id: u16,
    pub has_subscription_id: bool,
    pub filters: Vec<(String, SubscribeOptions)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SubscribeOptions {
    pub qos: Qos,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub send_retained: SendRetained,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SendRetained {
    Always,
    IfNew,
    Never,
}

#[derive(Debug)]
pub(crate) struct UnsubscribeIn {
    pub packet_id: u16,
    pub filters: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct DisconnectIn {
    pub publish_will: bool,
    pub session_expiry: Option<u32>,
}

/// One packet's place in a buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub header: u8,
    pub body: Range<usize>,
}

/// Finds the first packet. `None` when more bytes are needed; an error as soon
/// as the length shows that there is no point in waiting for them.
pub(crate) fn frame(bytes: &[u8], max_packet_bytes: u32) -> Result<Option<Frame>, Why> {
    let Some(&header) = bytes.first() else {
        return Ok(None);
    };
    let mut length = 0usize;
    for (index, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 != 0 {
            continue;
        }
        let start = 2 + index;
        let end = start + length;
        let is_publish = header >> 4 == 3;
        if end > max_packet_bytes as usize || (!is_publish && end > MAX_CONTROL_BYTES) {
            return Err(Why::PacketTooLarge);
        }
        if bytes.len() < end {
            return Ok(None);
        }
        return Ok(Some(Frame {
            header,
            body: start..end,
        }));
    }
    if bytes.len() >= 5 {
        return Err(Why::Malformed);
    }
    Ok(None)
}

/// Parses a packet's body. `version` is `None` before CONNECT, and then
/// nothing else is taken.
pub(crate) fn parse(version: Option<Version>, header: u8, body: &[u8]) -> Result<Inbound, Why> {
    let kind = header >> 4;
    let flags = header & 0x0f;
    let flags_are_right = match kind {
        3 => true,
        6 | 8 | 10 => flags == 2,
        _ => flags == 0,
    };
    let Some(version) = version else {
        return match kind {
            1 if flags_are_right => parse_connect(body),
            _ => Err(Why::NotConnect),
        };
    };
    if !flags_are_right {
        return Err(Why::Malformed);
    }
    match (kind, version) {
        (3, _) => parse_publish(version, flags, body),
        (4, Version::V4) => {
            let packet = whole(body, v3_1_1::Puback::parse)?;
            Ok(Inbound::PubAck(packet.packet_id()))
        }
        (4, Version::V5) => {
            let packet = whole(body, v5_0::Puback::parse)?;
            Ok(Inbound::PubAck(packet.packet_id()))
        }
        (8, Version::V4) => {
            let packet = whole(body, v3_1_1::Subscribe::parse)?;
            subscribe(packet.packet_id(), false, packet.entries())
        }
        (8, Version::V5) => {
            let packet = whole(body, v5_0::Subscribe::parse)?;
            let has_id = packet
                .props()
                .iter()
                .any(|p| matches!(p, Property::SubscriptionIdentifier(_)));
            subscribe(packet.packet_id(), has_id, packet.entries())
        }
        (10, Version::V4) => {
            let packet = whole(body, v3_1_1::Unsubscribe::parse)?;
            let filters = packet.entries().iter().map(|f| f.as_str().to_owned());
            unsubscribe(packet.packet_id(), filters.collect())
        }
        (10, Version::V5) => {
            let packet = whole(body, v5_0::Unsubscribe::parse)?;
            let filters = packet.entries().iter().map(|f| f.as_str().to_owned());
            unsubscribe(packet.packet_id(), filters.collect())
        }
        (12, _) if body.is_empty() => Ok(Inbound::Ping),
        (14, Version::V4) if body.is_empty() => Ok(Inbound::Disconnect(DisconnectIn {
            publish_will: false,
            session_expiry: None,
        })),
        (14, Version::V5) => {
            let packet = whole(body, v5_0::Disconnect::parse)?;
            let expiry = packet.props().as_ref().and_then(|props| {
                props.iter().find_map(|p| match p {
                    Property::SessionExpiryInterval(p) => Some(p.val()),
                    _ => None,
                })
            });
            Ok(Inbound::Disconnect(DisconnectIn {
                publish_will: body.first().is_some_and(|code| *code != 0),
                session_expiry: expiry,
            }))
        }
        (12 | 14, _) => Err(Why::Malformed),
        // Whatever a client may not send, QoS 2's packets, AUTH, and 0.
        _ => Err(Why::ProtocolError),
    }
}

/// Parses and requires that nothing is left over.
fn whole<T>(
    body: &[u8],
    parse: impl FnOnce(&[u8]) -> Result<(T, usize), MqttError>,
) -> Result<T, Why> {
    match parse(body) {
        Ok((packet, used)) if used == body.len() => Ok(packet),
        Ok(_) => Err(Why::Malformed),
        Err(MqttError::ProtocolError) => Err(Why::ProtocolError),
        Err(_) => Err(Why::Malformed),
    }
}

fn parse_connect(body: &[u8]) -> Result<Inbound, Why> {
    if body.get(..6) != Some(b"\x00\x04MQTT") {
        // MQTT 3.1 calls itself MQIsdp; the rest is no MQTT at all.
        return Err(match body.get(..8) {
            Some(b"\x00\x06MQIsdp") => Why::UnknownVersion,
            _ => Why::NotConnect,
        });
    }
    let version = match body.get(6) {
        Some(4) => Version::V4,
        Some(5) => Version::V5,
        Some(_) => return Err(Why::UnknownVersion),
        None => return Err(Why::Malformed),
    };
    let flags = body.get(7).copied().unwrap_or(0xff);
    let has_will = flags & 0b100 != 0;
    let will_qos = flags >> 3 & 0b11;
    if flags & 1 != 0 || will_qos == 3 || (!has_will && flags & 0b0011_1000 != 0) {
        return Err(Why::Malformed);
    }
    let connect = match version {
        Version::V4 => connect_v4(whole(body, v3_1_1::Connect::parse)?),
        Version::V5 => connect_v5(whole(body, v5_0::Connect::parse)?)?,
    };
    let id = &connect.client_id;
    if id.len() > MAX_CLIENT_ID_BYTES || id.chars().any(char::is_control) {
        return Err(Why::ClientIdInvalid);
    }
    Ok(Inbound::Connect(Box::new(connect)))
}

fn connect_v4(packet: v3_1_1::Connect) -> ConnectIn {
    let will = packet.will_topic().map(|topic| WillIn {
        topic: topic.to_owned(),
        payload: payload(packet.will_payload().unwrap_or_default()),
        // 3.1.1 has no way to say no to QoS 2; QoS 1 keeps what it promises
        // but for the duplicates.
        qos: qos(packet.will_qos()),
        is_qos2: false,
        retain: packet.will_retain(),
        delay: Duration::ZERO,
        expiry: None,
        properties: Box::default(),
    });
    ConnectIn {
        version: Version::V4,
        client_id: packet.client_id().to_owned(),
        username: packet.user_name().map(str::to_owned),
        password: packet.password().map(<[u8]>::to_vec),
        clean_start: packet.clean_session(),
        keep_alive: packet.keep_alive(),
        session_expiry: packet.clean_session().then_some(0),
        receive_maximum: u16::MAX,
        max_packet_bytes: u32::MAX,
        will,
        has_auth_method: false,
    }
}

fn connect_v5(packet: v5_0::Connect) -> Result<ConnectIn, Why> {
    let mut connect = ConnectIn {
        version: Version::V5,
        client_id: packet.client_id().to_owned(),
        username: packet.user_name().map(str::to_owned),
        password: packet.password().map(<[u8]>::to_vec),
        clean_start: packet.clean_start(),
        keep_alive: packet.keep_alive(),
        session_expiry: Some(0),
        receive_maximum: u16::MAX,
        max_packet_bytes: u32::MAX,
        will: None,
        has_auth_method: false,
    };
    for property in packet.props() {
        match property {
            Property::SessionExpiryInterval(p) => connect.session_expiry = Some(p.val()),
            Property::ReceiveMaximum(p) => connect.receive_maximum = p.val(),
            Property::MaximumPacketSize(p) => connect.max_packet_bytes = p.val(),
            Property::AuthenticationMethod(_) => connect.has_auth_method = true,
            _ => {}
        }
    }
    if connect.receive_maximum == 0 || connect.max_packet_bytes == 0 {
        return Err(Why::ProtocolError);
    }
    if let Some(topic) = packet.will_topic() {
        let forwarded = forward(packet.will_props());
        let delay = packet.will_props().iter().find_map(|p| match p {
            Property::WillDelayInterval(p) => Some(p.val()),
            _ => None,
        });
        connect.will = Some(WillIn {
            topic: topic.to_owned(),
            payload: payload(packet.will_payload().unwrap_or_default()),
            qos: qos(packet.will_qos()),
            is_qos2: packet.will_qos() == LibQos::ExactlyOnce,
            retain: packet.will_retain(),
            delay: Duration::from_secs(u64::from(delay.unwrap_or(0))),
            expiry: forwarded.expiry,
            properties: forwarded.encoded,
        });
    }
    Ok(connect)
}

fn parse_publish(version: Version, flags: u8, body: &[u8]) -> Result<Inbound, Why> {
    let qos = flags >> 1 & 0b11;
    if qos == 3 || (qos == 0 && flags & 0b1000 != 0) {
        return Err(Why::Malformed);
    }
    let retain = flags & 1 != 0;
    let publish = match version {
        Version::V4 => {
            let (packet, _) =
                v3_1_1::Publish::parse(flags, Arc::from(body)).map_err(|_| Why::Malformed)?;
            PublishIn {
                topic: packet.topic_name().to_owned(),
                alias: None,
                packet_id: packet.packet_id().unwrap_or(0),
                is_qos2: qos == 2,
                retain,
                payload: packet.payload().clone(),
                expiry: None,
                properties: Box::default(),
            }
        }
        Version::V5 => {
            check_publish_properties(qos, body)?;
            let (packet, _) =
                v5_0::Publish::parse(flags, Arc::from(body)).map_err(|_| Why::Malformed)?;
            let forwarded = forward(packet.props());
            PublishIn {
                topic: packet.topic_name().to_owned(),
                alias: forwarded.alias,
                packet_id: packet.packet_id().unwrap_or(0),
                is_qos2: qos == 2,
                retain,
                payload: packet.payload().clone(),
                expiry: forwarded.expiry,
                properties: forwarded.encoded,
            }
        }
    };
    if qos > 0 && publish.packet_id == 0 {
        return Err(Why::Malformed);
    }
    Ok(Inbound::Publish(publish))
}

/// Bounds the properties before the parser makes a list of them, and demands
/// their length, which the parser takes for optional.
fn check_publish_properties(qos: u8, body: &[u8]) -> Result<(), Why> {
    let topic = body.get(..2).ok_or(Why::Malformed)?;
    let mut at = 2 + usize::from(u16::from_be_bytes([topic[0], topic[1]]));
    if qos > 0 {
        at += 2;
    }
    let rest = body.get(at..).ok_or(Why::Malformed)?;
    let mut length = 0usize;
    for (index, byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return if length <= MAX_PROPERTIES_BYTES {
                Ok(())
            } else {
                Err(Why::PacketTooLarge)
            };
        }
    }
    Err(Why::Malformed)
}

struct Forwarded {
    alias: Option<u16>,
    expiry: Option<u32>,
    encoded: Box<[u8]>,
}

/// Splits a message's properties into those that we act on and those that go
/// to the readers unchanged, in their order (section 3.3.2.3).
fn forward(properties: &Properties) -> Forwarded {
    let mut alias = None;
    let mut expiry = None;
    let mut encoded = Vec::new();
    for property in properties {
        match property {
            Property::TopicAlias(p) => alias = Some(p.val()),
            Property::MessageExpiryInterval(p) => expiry = Some(p.val()),
            Property::PayloadFormatIndicator(_)
            | Property::ContentType(_)
            | Property::ResponseTopic(_)
            | Property::CorrelationData(_)
            | Property::UserProperty(_) => encoded.extend(property.to_continuous_buffer()),
            _ => {}
        }
    }
    Forwarded {
        alias,
        expiry,
        encoded: encoded.into(),
    }
}

fn subscribe(
    packet_id: u16,
    has_subscription_id: bool,
    entries: &[SubEntry],
) -> Result<Inbound, Why> {
    if packet_id == 0 {
        return Err(Why::Malformed);
    }
    let filters = entries.iter().map(|entry| {
        let options = entry.sub_opts();
        let options = SubscribeOptions {
            qos: qos(options.qos()),
            no_local: options.nl(),
            retain_as_published: options.rap(),
            send_retained: match options.rh() {
                RetainHandling::SendRetained => SendRetained::Always,
                RetainHandling::SendRetainedIfNotExists => SendRetained::IfNew,
                RetainHandling::DoNotSendRetained => SendRetained::Never,
            },
        };
        (entry.topic_filter().to_owned(), options)
    });
    Ok(Inbound::Subscribe(SubscribeIn {
        packet_id,
        has_subscription_id,
        filters: filters.collect(),
    }))
}

fn unsubscribe(packet_id: u16, filters: Vec<String>) -> Result<Inbound, Why> {
    if packet_id == 0 {
        return Err(Why::Malformed);
    }
    Ok(Inbound::Unsubscribe(UnsubscribeIn { packet_id, filters }))
}

/// QoS 2 becomes 1, which is the most that we grant.
fn qos(qos: LibQos) -> Qos {
    match qos {
        LibQos::AtMostOnce => Qos::AtMostOnce,
        LibQos::AtLeastOnce | LibQos::ExactlyOnce => Qos::AtLeastOnce,
    }
}

fn payload(bytes: &[u8]) -> ArcPayload {
    ArcPayload::new(Arc::from(bytes), 0, bytes.len())
}
