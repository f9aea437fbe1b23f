//! Mutated packets at the parser and the core, in one process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::authority::{Grant, Peer};
use crate::core::Core;
use crate::limits::{Class, Limits};
use crate::message::ConnectionId;
use crate::packet::{Inbound, Version, frame, parse};

/// Packets of both versions, as a good client sends them.
const SEEDS: &[&[u8]] = &[
    b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04fuzz",
    b"\x10\x3e\x00\x04MQTT\x05\xce\x00\x3c\x05\x11\x00\x00\x00\x3c\x00\x04fuzz\x05\x18\x00\x00\x00\x01\x00\x06f/will\x00\x04gone\x00\x05dev-a\x00\x06secret\x00\x00",
    b"\x30\x0b\x00\x03f/a\x00hello!",
    b"\x32\x0d\x00\x03f/a\x00\x07\x00hello!",
    b"\x33\x0d\x00\x03f/a\x00\x07\x00hello!",
    b"\x32\x1d\x00\x03f/a\x00\x07\x10\x01\x01\x02\x00\x00\x00\x05\x23\x00\x03\x26\x00\x01k\x00\x01vhello!",
    b"\x30\x0b\x00\x00\x03\x23\x00\x03hello",
    b"\x34\x0d\x00\x03f/a\x00\x07\x00hello!",
    b"\x40\x02\x00\x01",
    b"\x40\x03\x00\x02\x10",
    b"\x82\x09\x00\x01\x00\x00\x03f/a\x01",
    b"\x82\x08\x00\x01\x00\x03f/+\x01",
    b"\x82\x12\x00\x01\x00\x00\x05f/a/+\x01\x00\x03f/#\x24",
    b"\x82\x12\x00\x01\x00\x00\x0c$share/g/f/a\x01",
    b"\xa2\x08\x00\x02\x00\x00\x03f/a",
    b"\xa2\x07\x00\x02\x00\x03f/a",
    b"\xc0\x00",
    b"\xe0\x00",
    b"\xe0\x02\x04\x00",
    b"\xe0\x07\x00\x05\x11\x00\x00\x00\x05",
    b"\xf0\x00",
    b"\x62\x02\x00\x01",
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.below(4) {
        let place = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[place] = random.next() as u8,
            1 => bytes[place] ^= 1 << random.below(8),
            2 => bytes.truncate(place.max(1)),
            3 => bytes.insert(place, random.next() as u8),
            4 => {
                bytes.remove(place);
            }
            _ => bytes[place] = [0, 1, 0x7f, 0x80, 0xff][random.below(5)],
        }
        if bytes.is_empty() {
            bytes.push(random.next() as u8);
        }
    }
    // A length that fits again lets most mutations get past the framing.
    if random.below(4) > 0 && (2..130).contains(&bytes.len()) {
        bytes[1] = (bytes.len() - 2) as u8;
    }
}

fn grant(random: &mut Random) -> Grant {
    let all = vec!["#".parse().expect("a filter")];
    let class = if random.below(3) == 0 {
        Class::hub()
    } else {
        Class {
            may_retain: true,
            queue_messages: 8,
            ..Class::device()
        }
    };
    Grant {
        publish: all.clone(),
        subscribe: all,
        class,
    }
}

struct Client {
    id: ConnectionId,
    version: Option<Version>,
}

#[test]
fn two_hundred_thousand_mutated_packets() {
    let mut random = Random(0x5eed_0f5c_e44b);
    let limits = Limits {
        sessions: 50,
        retained_messages: 20,
        queued_bytes: 64 * 1024,
        wildcard_filters: 20,
        ..Limits::default()
    };
    let mut core = Core::new(limits.clone());
    let mut now = Instant::now();
    let mut clients: Vec<Client> = Vec::new();
    let (mut parsed, mut refused) = (0u32, 0u32);
    let waker = std::task::Waker::noop();
    for _ in 0..200_000 {
        if clients.len() < 8 {
            let id = core.open(Peer::Unix, now).expect("room");
            clients.push(Client { id, version: None });
        }
        let place = random.below(clients.len());
        let Client { id, version } = clients[place];
        // Mostly what makes sense in this phase.
        let seed = match version {
            None if random.below(20) > 0 => random.below(2),
            _ => random.below(SEEDS.len()),
        };
        let mut bytes = SEEDS[seed].to_vec();
        // Most come in, or nothing behind CONNECT would be reached.
        if version.is_some() || random.below(3) == 0 {
            mutate(&mut random, &mut bytes);
        }
        let body = |f: &crate::packet::Frame| Arc::<[u8]>::from(&bytes[f.body.clone()]);
        let packet = match frame(&bytes, 4096) {
            Ok(None) => continue,
            Ok(Some(found)) => parse(version, found.header, &body(&found)),
            Err(why) => Err(why),
        };
        match packet {
            Ok(Inbound::Connect(connect)) if version.is_none() => {
                parsed += 1;
                clients[place].version = Some(connect.version);
                let grant = grant(&mut random);
                core.admit(id, *connect, false, grant, now);
            }
            Ok(packet) => {
                parsed += 1;
                core.heard(id, bytes.len(), now);
                core.handle(id, packet, now);
            }
            Err(why) => {
                refused += 1;
                if random.below(2) == 0 {
                    let fate = crate::core::WillFate::Published;
                    core.close(id, why, why.words(), fate, now);
                }
            }
        }
        core.wakers.clear();
        core.denied.clear();
        match core.turn(id, waker, random.below(3) > 0, now) {
            Some(turn) if !turn.ends => {}
            _ => {
                core.closed(id, now);
                clients.swap_remove(place);
            }
        }
        if random.below(50) == 0 {
            now += Duration::from_millis(random.next() % 5000);
            core.sweep(now);
            core.wakers.clear();
        }
        let stats = core.snapshot();
        assert!(stats.sessions <= limits.sessions);
        assert!(stats.queued_bytes <= limits.queued_bytes);
        assert!(stats.retained <= limits.retained_messages);
    }
    // Were most of them thrown away at once, this would test nothing.
    assert!(parsed > 50_000 && refused > 5_000, "{parsed} {refused}");
    for client in clients {
        core.closed(client.id, now);
    }
    now += Duration::from_secs(1_000_000);
    core.sweep(now);
    let stats = core.snapshot();
    assert_eq!((stats.connections, stats.sessions), (0, 0));
    assert_eq!((stats.subscriptions, stats.queued_bytes), (0, 0));
}
