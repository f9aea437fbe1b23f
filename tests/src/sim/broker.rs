//! A broker that may do anything but read and forge: it loses, doubles,
//! delays, forgets its sessions, and remembers every message for the attacker.

use super::catalog::SECRET;
use super::laws::{Broken, Lawful, broken};
use skerry_wire::Seq;
use skerry_wire::seal::{MAX_MESSAGE_BYTES, Purpose};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// Messages that a session keeps for a client that is away.
const MAX_SESSION: usize = 64;
/// Messages that the attacker remembers.
const TAPE: usize = 256;

/// Who is on the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// The hub.
    Hub,
    /// A machine, by its number.
    Device(usize),
}

/// One message on its way.
#[derive(Debug, Clone)]
pub struct Message {
    /// Counts all messages of a world.
    pub id: u64,
    /// Who sealed it.
    pub from: Party,
    /// Who reads its topic.
    pub to: Party,
    /// Where.
    pub topic: Rc<str>,
    /// Sealed.
    pub payload: Rc<[u8]>,
    /// What is inside.
    pub purpose: Purpose,
    /// Its number.
    pub seq: Seq,
}

/// A client's line and session.
#[derive(Debug, Default)]
pub struct Client {
    /// The number of its line, while it has one.
    pub line: Option<u64>,
    kept: VecDeque<Message>,
}

/// The broker.
pub struct Broker {
    /// Whether anybody can connect.
    pub up: bool,
    clients: BTreeMap<Party, Client>,
    lines: u64,
    /// When the last message of a topic arrives: they do not overtake each
    /// other.
    last: BTreeMap<Rc<str>, u64>,
    tape: VecDeque<Message>,
}

/// One on which nobody is yet.
impl Default for Broker {
    fn default() -> Self {
        Self {
            up: true,
            clients: BTreeMap::new(),
            lines: 0,
            last: BTreeMap::new(),
            tape: VecDeque::new(),
        }
    }
}

impl Broker {
    /// Takes a message. Fails when it holds what nobody may read, or is longer
    /// than brokers allow.
    pub fn take(&mut self, message: &Message) -> Lawful {
        if message.payload.len() > MAX_MESSAGE_BYTES {
            return broken(
                "everything is bounded",
                format!("a message of {} bytes", message.payload.len()),
            );
        }
        if contains(&message.payload, SECRET.as_bytes()) {
            return broken(
                "secrets are never in the clear",
                format!("{:?} on {}", message.purpose, message.topic),
            );
        }
        if self.tape.len() == TAPE {
            self.tape.pop_front();
        }
        self.tape.push_back(message.clone());
        Ok::<(), Broken>(())
    }

    /// When a message on this topic arrives that takes `delay_ms` by itself.
    pub fn arrival(&mut self, topic: &Rc<str>, now_ms: u64, delay_ms: u64) -> u64 {
        let last = self.last.entry(topic.clone()).or_default();
        *last = (*last).max(now_ms + delay_ms);
        *last
    }

    /// The client's line; `None` while it has none.
    pub fn line(&self, party: Party) -> Option<u64> {
        self.clients.get(&party)?.line
    }

    /// Keeps a message for a client that is away.
    pub fn keep(&mut self, message: Message) {
        let kept = &mut self.clients.entry(message.to).or_default().kept;
        if kept.len() == MAX_SESSION {
            kept.pop_front();
        }
        kept.push_back(message);
    }

    /// A client connects: its line, and what was kept for it.
    pub fn connect(&mut self, party: Party) -> (u64, VecDeque<Message>) {
        self.lines += 1;
        let client = self.clients.entry(party).or_default();
        client.line = Some(self.lines);
        (self.lines, std::mem::take(&mut client.kept))
    }

    /// A line ends. Whether it was there.
    pub fn cut(&mut self, party: Party) -> bool {
        let client = self.clients.get_mut(&party);
        client.is_some_and(|client| client.line.take().is_some())
    }

    /// Everything is forgotten, every line ends.
    pub fn forget_all(&mut self) -> Vec<Party> {
        let lines = self.clients.iter().filter(|(_, c)| c.line.is_some());
        let cut = lines.map(|(party, _)| *party).collect();
        self.clients.clear();
        self.last.clear();
        cut
    }

    /// What went by.
    pub fn tape(&self) -> &VecDeque<Message> {
        &self.tape
    }
}

fn contains(bytes: &[u8], secret: &[u8]) -> bool {
    let mut rest = bytes;
    while rest.contains(&secret[0]) {
        let at = rest.iter().position(|b| *b == secret[0]).unwrap_or(0);
        if rest[at..].starts_with(secret) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}
