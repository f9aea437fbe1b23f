//! From bytes off the line to things that the hub said: verified, in order,
//! each once. Whoever owns the broker gets nothing through here.

use skerry_wire::message::Command;
use skerry_wire::seal::{KeyPair, PublicKey, Purpose, Refusal, ReplayGuard, open};
use skerry_wire::stream::Frame;
use skerry_wire::topic::{Lane, Topic};
use skerry_wire::{Desired, DesiredPart, DeviceId, Digest, FleetId, Generation, Seq, decode};
use std::collections::VecDeque;

/// Parts that the longest desired state has.
const MAX_PARTS: usize = Desired::MAX_BYTES.div_ceil(DesiredPart::MAX_BYTES);
/// Messages by which one that the broker delivers twice is known: as many as
/// may be on their way without an acknowledgement, and more. 32 bytes each.
const RECENT: usize = 64;

/// Something that the hub said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// A whole desired state that may be new.
    Desired {
        /// The generation it claims.
        generation: Generation,
        /// Its encoded bytes: digest checked, content not.
        bytes: Vec<u8>,
        /// The number of the message that completed it.
        seq: Seq,
    },
    /// A part of one; more follow.
    Part,
    /// What was heard just now, byte for byte: QoS 1 may deliver twice.
    Again,
    /// A command.
    Command(Command),
    /// A frame of a stream.
    Frame(Frame),
}

/// Why a message was refused. The words reach the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// Not one of this device's topics.
    #[error("a message came on a topic that is not ours")]
    Topic,
    /// The sealed line refused it.
    #[error("refused on {lane:?}: {}", words(refusal))]
    Refused {
        /// Where it came.
        lane: Lane,
        /// Why.
        refusal: Refusal,
    },
    /// From the hub, but not understood: another version's.
    #[error("the hub's message on {lane:?} cannot be read: {text}; update the agent")]
    Malformed {
        /// Where it came.
        lane: Lane,
        /// What is wrong.
        text: String,
    },
    /// A part that does not fit its whole.
    #[error("a part of a desired state does not fit: {0}")]
    Part(&'static str),
}

/// A refusal in words that hold nothing of the message: otherwise an attacker
/// could write events at will.
fn words(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Version(_) => {
            "the message has another wire version than this agent: update the older side".into()
        }
        Refusal::TooShort
        | Refusal::TooLong
        | Refusal::Purpose
        | Refusal::Forged
        | Refusal::Replayed => refusal.to_string(),
    }
}

/// Parts of a desired state that is not complete.
#[derive(Debug, Clone)]
struct Assembly {
    generation: Generation,
    whole: Digest,
    parts: Vec<Option<Vec<u8>>>,
}

/// Verifies, orders and completes.
#[derive(Debug, Clone)]
pub struct Inbox {
    fleet: FleetId,
    device: DeviceId,
    hub: PublicKey,
    key: KeyPair,
    guard: ReplayGuard,
    /// Digests of the newest messages that were heard.
    recent: VecDeque<Digest>,
    assembly: Option<Assembly>,
}

impl Inbox {
    /// Takes up where the store left off: no number up to `seen` is heard
    /// again on the lane of desired states. Commands of earlier runs carry an
    /// old session, frames an unknown stream.
    pub fn new(fleet: FleetId, device: DeviceId, hub: PublicKey, key: KeyPair, seen: Seq) -> Self {
        let mut guard = ReplayGuard::default();
        for purpose in [Purpose::Desired, Purpose::Command, Purpose::StreamIn] {
            guard.restore(purpose, Seq(0));
        }
        guard.restore(Purpose::Desired, seen);
        Self {
            fleet,
            device,
            hub,
            key,
            guard,
            recent: VecDeque::new(),
            assembly: None,
        }
    }

    /// Hears one message.
    pub fn hear(&mut self, topic: &str, payload: &[u8]) -> Result<Said, Unheard> {
        let lane = match Topic::parse(&self.fleet, topic) {
            Some(Topic::Device(device, lane)) if device == self.device => lane,
            Some(_) | None => return Err(Unheard::Topic),
        };
        let purpose = match lane {
            Lane::Desired => Purpose::Desired,
            Lane::Command => Purpose::Command,
            Lane::StreamIn => Purpose::StreamIn,
            Lane::Presence | Lane::Report | Lane::Reply | Lane::StreamOut => {
                return Err(Unheard::Topic);
            }
        };
        let refused = |refusal| Unheard::Refused { lane, refusal };
        let opened = open(payload, &[purpose], topic, &self.hub, &self.key).map_err(refused)?;
        let digest = Digest::of(payload);
        match self.guard.admit(purpose, opened.seq) {
            Ok(()) => {}
            Err(Refusal::Replayed) if self.recent.contains(&digest) => return Ok(Said::Again),
            Err(refusal) => return Err(refused(refusal)),
        }
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(digest);
        let malformed = |error: skerry_wire::DecodeError| Unheard::Malformed {
            lane,
            text: error.to_string(),
        };
        match lane {
            Lane::Desired => {
                let part = decode("desired part", &opened.body).map_err(malformed)?;
                self.assemble(part, opened.seq)
            }
            Lane::Command => decode("command", &opened.body)
                .map(Said::Command)
                .map_err(malformed),
            Lane::StreamIn | Lane::Presence | Lane::Report | Lane::Reply | Lane::StreamOut => {
                decode("frame", &opened.body)
                    .map(Said::Frame)
                    .map_err(malformed)
            }
        }
    }

    fn assemble(&mut self, part: DesiredPart, seq: Seq) -> Result<Said, Unheard> {
        let (index, count) = (usize::from(part.index), usize::from(part.count));
        if count == 0 || count > MAX_PARTS || index >= count {
            return Err(Unheard::Part("its number is out of range"));
        }
        if part.bytes.len() > DesiredPart::MAX_BYTES {
            return Err(Unheard::Part("it is too long"));
        }
        let same = |a: &Assembly| {
            a.generation == part.generation && a.whole == part.whole && a.parts.len() == count
        };
        // Another whole begins: what was there will never be complete.
        let mut assembly = match self.assembly.take().filter(same) {
            Some(assembly) => assembly,
            None => Assembly {
                generation: part.generation,
                whole: part.whole,
                parts: vec![None; count],
            },
        };
        assembly.parts[index] = Some(part.bytes);
        if assembly.parts.iter().any(Option::is_none) {
            self.assembly = Some(assembly);
            return Ok(Said::Part);
        }
        let bytes: Vec<u8> = assembly.parts.into_iter().flatten().flatten().collect();
        if Digest::of(&bytes) != assembly.whole {
            return Err(Unheard::Part("the whole has another digest"));
        }
        Ok(Said::Desired {
            generation: assembly.generation,
            bytes,
            seq,
        })
    }
}
