//! Packets to bytes, straight into a connection's buffer.

use std::time::Duration;

use crate::limits::Class;
use crate::message::Message;
use crate::packet::{Qos, Version};
use crate::reason::Why;

/// The longest reason string that we send, in bytes.
const MAX_WORDS_BYTES: usize = 200;

/// What a CONNACK says besides its code.
pub(crate) struct Accepted<'a> {
    pub session_present: bool,
    pub session_expiry: Duration,
    pub keep_alive: Option<Duration>,
    pub assigned_client_id: Option<&'a str>,
    pub class: &'a Class,
    pub receive_maximum: u16,
    pub topic_aliases: u16,
}

/// CONNACK for a client that may come in.
pub(crate) fn accepted(out: &mut Vec<u8>, version: Version, said: &Accepted<'_>) {
    let present = u8::from(said.session_present);
    if version == Version::V4 {
        out.extend([0x20, 2, present, 0]);
        return;
    }
    let mut properties = Vec::with_capacity(64);
    properties.push(17);
    properties.extend(seconds(said.session_expiry).to_be_bytes());
    properties.push(33);
    properties.extend(said.receive_maximum.to_be_bytes());
    // Maximum QoS 1; subscription identifiers and shared subscriptions: none.
    properties.extend([36, 1, 41, 0, 42, 0]);
    if !said.class.may_retain {
        properties.extend([37, 0]);
    }
    properties.push(39);
    properties.extend(said.class.max_packet_bytes.to_be_bytes());
    if let Some(id) = said.assigned_client_id {
        properties.push(18);
        string(&mut properties, id);
    }
    properties.push(34);
    properties.extend(said.topic_aliases.to_be_bytes());
    if let Some(keep_alive) = said.keep_alive {
        properties.push(19);
        properties.extend((seconds(keep_alive).min(65_535) as u16).to_be_bytes());
    }
    with_properties(out, 0x20, &[present, 0], &properties);
}

/// CONNACK for a client that may not.
pub(crate) fn refused(out: &mut Vec<u8>, version: Version, why: Why, words: &str) {
    match version {
        Version::V4 => out.extend([0x20, 2, 0, why.code_v4()]),
        Version::V5 => with_properties(out, 0x20, &[0, why.code()], &reason_string(words)),
    }
}

/// DISCONNECT; nothing in 3.1.1, which has none from the server.
pub(crate) fn disconnect(out: &mut Vec<u8>, version: Version, why: Why, words: &str) {
    if version == Version::V5 {
        with_properties(out, 0xe0, &[why.code()], &reason_string(words));
    }
}

/// PUBACK. The code is 0 in 3.1.1, which has none.
pub(crate) fn puback(out: &mut Vec<u8>, version: Version, packet_id: u16, code: u8) {
    let [high, low] = packet_id.to_be_bytes();
    match (version, code) {
        (Version::V4, _) | (Version::V5, 0) => out.extend([0x40, 2, high, low]),
        (Version::V5, code) => out.extend([0x40, 3, high, low, code]),
    }
}

/// SUBACK, with MQTT 5's codes.
pub(crate) fn suback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[u8]) {
    acknowledge_many(out, version, 0x90, packet_id, codes, |code| {
        if code >= 0x80 { 0x80 } else { code }
    });
}

/// UNSUBACK; in 3.1.1 without codes.
pub(crate) fn unsuback(out: &mut Vec<u8>, version: Version, packet_id: u16, codes: &[u8]) {
    let codes = if version == Version::V5 { codes } else { &[] };
    acknowledge_many(out, version, 0xb0, packet_id, codes, |code| code);
}

fn acknowledge_many(
    out: &mut Vec<u8>,
    version: Version,
    header: u8,
    packet_id: u16,
    codes: &[u8],
    to_v4: impl Fn(u8) -> u8,
) {
    out.push(header);
    let no_properties = version == Version::V5;
    variable_length(out, 2 + usize::from(no_properties) + codes.len());
    out.extend(packet_id.to_be_bytes());
    match version {
        Version::V4 => out.extend(codes.iter().map(|code| to_v4(*code))),
        Version::V5 => {
            out.push(0);
            out.extend(codes);
        }
    }
}

/// PINGRESP.
pub(crate) fn pong(out: &mut Vec<u8>) {
    out.extend([0xd0, 0]);
}

/// How a message goes to one reader.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Delivery {
    pub qos: Qos,
    pub retain: bool,
    pub dup: bool,
    /// 0 for QoS 0.
    pub packet_id: u16,
    /// What is left of the message's expiry.
    pub expires_in: Option<Duration>,
}

/// PUBLISH, unless it is larger than what the reader takes.
#[must_use]
pub(crate) fn publish(
    out: &mut Vec<u8>,
    version: Version,
    message: &Message,
    how: Delivery,
    max_packet_bytes: u32,
) -> bool {
    let payload = message.payload.as_slice();
    let mut properties = 0;
    let mut length = 2 + message.topic.len() + payload.len();
    if how.qos == Qos::AtLeastOnce {
        length += 2;
    }
    if version == Version::V5 {
        properties = message.properties.len() + how.expires_in.map_or(0, |_| 5);
        length += properties + variable_length_bytes(properties);
    }
    if 1 + variable_length_bytes(length) + length > max_packet_bytes as usize {
        return false;
    }
    out.reserve(length + 5);
    let qos = match how.qos {
        Qos::AtMostOnce => 0,
        Qos::AtLeastOnce => 0b10,
    };
    out.push(0x30 | u8::from(how.dup) << 3 | qos | u8::from(how.retain));
    variable_length(out, length);
    string(out, &message.topic);
    if how.qos == Qos::AtLeastOnce {
        out.extend(how.packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        variable_length(out, properties);
        if let Some(left) = how.expires_in {
            out.push(2);
            out.extend(seconds(left).max(1).to_be_bytes());
        }
        out.extend_from_slice(&message.properties);
    }
    out.extend_from_slice(payload);
    true
}

fn with_properties(out: &mut Vec<u8>, header: u8, fixed: &[u8], properties: &[u8]) {
    out.push(header);
    let own_length = variable_length_bytes(properties.len());
    variable_length(out, fixed.len() + own_length + properties.len());
    out.extend_from_slice(fixed);
    variable_length(out, properties.len());
    out.extend_from_slice(properties);
}

fn reason_string(words: &str) -> Vec<u8> {
    let mut end = words.len().min(MAX_WORDS_BYTES);
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    let mut property = Vec::new();
    if end > 0 {
        property.push(31);
        string(&mut property, &words[..end]);
    }
    property
}

/// A length of two bytes, then the text; ours are all shorter than that.
fn string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len().min(65_535) as u16).to_be_bytes());
    out.extend(text.as_bytes().iter().take(65_535));
}

fn variable_length(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.push(byte);
            return;
        }
        out.push(byte | 0x80);
    }
}

fn variable_length_bytes(value: usize) -> usize {
    match value {
        0..=0x7f => 1,
        0x80..=0x3fff => 2,
        0x4000..=0x1f_ffff => 3,
        _ => 4,
    }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}
