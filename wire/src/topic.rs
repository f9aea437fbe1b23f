//! MQTT topics. Fixed for each device, so that one access rule a device does
//! on any broker, and a device never subscribes with a wildcard:
//! `skerry/v1/<fleet>/<device>/{desired,command,stream/in}` to the device,
//! `.../{presence,report,reply,stream/out}` from it, and
//! `skerry/v1/<fleet>/join/<attempt>/{request,reply}` before it has a name.

use crate::id::{DeviceId, FleetId};
use std::fmt;

/// A topic to or from one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Hub to device: [`crate::DesiredPart`].
    Desired,
    /// Hub to device: [`crate::message::Command`].
    Command,
    /// Hub to device: [`crate::stream::Frame`].
    StreamIn,
    /// Device to hub: [`crate::message::Presence`] and [`crate::message::Gone`].
    Presence,
    /// Device to hub: [`crate::report::Report`].
    Report,
    /// Device to hub: [`crate::message::Reply`].
    Reply,
    /// Device to hub: [`crate::stream::Frame`].
    StreamOut,
}

impl Lane {
    /// What a device subscribes to.
    pub const TO_DEVICE: [Lane; 3] = [Lane::Desired, Lane::Command, Lane::StreamIn];
    /// What a device publishes on.
    pub const FROM_DEVICE: [Lane; 4] = [Lane::Presence, Lane::Report, Lane::Reply, Lane::StreamOut];

    fn suffix(self) -> &'static str {
        match self {
            Lane::Desired => "desired",
            Lane::Command => "command",
            Lane::StreamIn => "stream/in",
            Lane::Presence => "presence",
            Lane::Report => "report",
            Lane::Reply => "reply",
            Lane::StreamOut => "stream/out",
        }
    }
}

/// The parts of one of our topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topic {
    /// A device's.
    Device(DeviceId, Lane),
    /// A joining machine asks; the text names the attempt.
    JoinRequest(String),
    /// The hub answers.
    JoinReply(String),
}

/// What every topic of a fleet starts with.
fn root(fleet: &FleetId) -> String {
    format!("skerry/v1/{fleet}/")
}

/// The name that no device may have: it stands where devices do.
pub const RESERVED_DEVICE: &str = "join";

/// Hexadecimal digits in the name of a join attempt.
pub const ATTEMPT_DIGITS: usize = 32;

impl Topic {
    /// The topic as MQTT has it.
    pub fn in_fleet(&self, fleet: &FleetId) -> String {
        format!("{}{self}", root(fleet))
    }

    /// Reads a topic of `fleet`; `None` for any that is not ours.
    pub fn parse(fleet: &FleetId, topic: &str) -> Option<Topic> {
        let rest = topic.strip_prefix(&root(fleet))?;
        let (first, rest) = rest.split_once('/')?;
        if first == RESERVED_DEVICE {
            let (attempt, kind) = rest.split_once('/')?;
            let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
            if attempt.len() != ATTEMPT_DIGITS || !attempt.bytes().all(hex) {
                return None;
            }
            return match kind {
                "request" => Some(Topic::JoinRequest(attempt.into())),
                "reply" => Some(Topic::JoinReply(attempt.into())),
                _ => None,
            };
        }
        let device = DeviceId::new(first).ok()?;
        Lane::TO_DEVICE
            .into_iter()
            .chain(Lane::FROM_DEVICE)
            .find(|lane| lane.suffix() == rest)
            .map(|lane| Topic::Device(device, lane))
    }

    /// What a hub subscribes to.
    pub fn hub_filters(fleet: &FleetId) -> Vec<String> {
        let root = root(fleet);
        Lane::FROM_DEVICE
            .into_iter()
            .map(|lane| format!("{root}+/{}", lane.suffix()))
            .chain([format!("{root}join/+/request")])
            .collect()
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Topic::Device(device, lane) => write!(f, "{device}/{}", lane.suffix()),
            Topic::JoinRequest(attempt) => write!(f, "{RESERVED_DEVICE}/{attempt}/request"),
            Topic::JoinReply(attempt) => write!(f, "{RESERVED_DEVICE}/{attempt}/reply"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let fleet = FleetId::new("acme").unwrap();
        let device = DeviceId::new("kiosk-7").unwrap();
        let attempt = "0123456789abcdef0123456789abcdef".to_string();
        let mut topics = vec![
            Topic::JoinRequest(attempt.clone()),
            Topic::JoinReply(attempt),
        ];
        for lane in Lane::TO_DEVICE.into_iter().chain(Lane::FROM_DEVICE) {
            topics.push(Topic::Device(device.clone(), lane));
        }
        for topic in topics {
            assert_eq!(Topic::parse(&fleet, &topic.in_fleet(&fleet)), Some(topic));
        }
        for other in [
            "skerry/v1/acme/kiosk-7",
            "skerry/v1/acme/kiosk-7/other",
            "skerry/v1/other/kiosk-7/desired",
            "skerry/v1/acme/KIOSK/desired",
            "skerry/v1/acme/join/0/request",
            "skerry/v1/acme/join/desired",
            "skerry/v2/acme/kiosk-7/desired",
            "",
        ] {
            assert_eq!(Topic::parse(&fleet, other), None, "{other}");
        }
    }
}
