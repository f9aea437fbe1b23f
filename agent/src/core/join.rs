//! Becoming a device, as a state machine: asks, waits, and ends with an
//! answer. The shell makes and stores the keys before the first question.

use super::event::Now;
use skerry_wire::message::{JoinReply, JoinRequest};
use skerry_wire::seal::{KeyPair, PublicKey, Purpose, Refusal, ReplayGuard, open};
use skerry_wire::topic::Topic;
use skerry_wire::{DeviceId, FleetId, Seq, decode, encode};

/// The wait for an answer before the question is repeated, in milliseconds.
pub const ASK_AGAIN_MS: u64 = 5_000;
/// The longest wait between two questions in the lobby, in milliseconds.
const LOBBY_CAP_MS: u64 = 60_000;

/// How long nothing may change before the user is told again what is waited
/// for, in milliseconds; doubles from one time to the next.
const REMIND_MS: u64 = 15_000;
/// Its longest: often enough for who opens the log at any time.
const REMIND_CAP_MS: u64 = 600_000;

/// When somebody who waits is told again what for. A hub cannot answer who asks
/// with a token that it does not have, for an answer is sealed to a key that
/// only the token opens; so the words must come from this side.
#[derive(Debug, Clone)]
pub struct Reminder {
    since_ms: u64,
    due_ms: u64,
    wait_ms: u64,
}

impl Reminder {
    /// Something has changed, and was told.
    pub fn told(now: Now) -> Self {
        Self {
            since_ms: now.boot_ms,
            due_ms: now.boot_ms.saturating_add(REMIND_MS),
            wait_ms: REMIND_MS,
        }
    }

    /// When [`Reminder::due`] is wanted, in milliseconds since boot.
    pub fn wake_at(&self) -> u64 {
        self.due_ms
    }

    /// If it is time to tell it again: for how many seconds it has been so.
    pub fn due(&mut self, now: Now) -> Option<u64> {
        if now.boot_ms < self.due_ms {
            return None;
        }
        self.wait_ms = self.wait_ms.saturating_mul(2).min(REMIND_CAP_MS);
        self.due_ms = now.boot_ms.saturating_add(self.wait_ms);
        Some(self.since(now))
    }

    /// For how many seconds it has been so.
    pub fn since(&self, now: Now) -> u64 {
        now.boot_ms.saturating_sub(self.since_ms) / 1_000
    }
}

/// One attempt to join. Holds no secret of the token: the shell seals.
#[derive(Debug, Clone)]
pub struct Join {
    fleet: FleetId,
    attempt: String,
    key: KeyPair,
    hub: PublicKey,
    request: JoinRequest,
    last_seq: Seq,
    guard: ReplayGuard,
    /// When the question is (again) asked, in milliseconds since boot; `None`
    /// while the line is down.
    ask_at_ms: Option<u64>,
    wait_ms: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq)]
pub enum JoinStep {
    /// Seal with the token and publish.
    Ask {
        /// Its number.
        seq: Seq,
        /// The encoded request.
        body: Vec<u8>,
    },
    /// Tell the user; the question is repeated.
    Waiting {
        /// The name to approve.
        device: DeviceId,
    },
    /// The end: store this, then connect as this device.
    Accepted {
        /// The name it got.
        device: DeviceId,
        /// Its password at the broker.
        password: String,
        /// Ed25519 keys whose releases it may run as its own software.
        release_keys: Vec<[u8; 32]>,
    },
    /// The end: tell the user.
    Refused {
        /// Why, with the remedy.
        reason: String,
    },
    /// A message that is not the hub's; nothing else happened.
    Unheard(Refusal),
}

impl Join {
    /// An attempt under a random name of 32 hexadecimal digits.
    pub fn new(
        fleet: FleetId,
        attempt: String,
        key: KeyPair,
        hub: PublicKey,
        request: JoinRequest,
        starts: u32,
    ) -> Self {
        Self {
            fleet,
            attempt,
            key,
            hub,
            request,
            last_seq: Seq::first_of_start(starts),
            guard: ReplayGuard::default(),
            ask_at_ms: None,
            wait_ms: ASK_AGAIN_MS,
        }
    }

    /// Where the question goes.
    pub fn request_topic(&self) -> String {
        Topic::JoinRequest(self.attempt.clone()).in_fleet(&self.fleet)
    }

    /// Where the answer comes.
    pub fn reply_topic(&self) -> String {
        Topic::JoinReply(self.attempt.clone()).in_fleet(&self.fleet)
    }

    /// When [`Join::wake`] is wanted, in milliseconds since boot.
    pub fn wake_at(&self) -> Option<u64> {
        self.ask_at_ms
    }

    /// Connected.
    pub fn link_up(&mut self, now: Now) -> Option<JoinStep> {
        self.ask_at_ms = Some(now.boot_ms);
        self.wake(now)
    }

    /// Not connected.
    pub fn link_down(&mut self) {
        self.ask_at_ms = None;
    }

    /// Asks if it is time.
    pub fn wake(&mut self, now: Now) -> Option<JoinStep> {
        if self.ask_at_ms.is_none_or(|at| now.boot_ms < at) {
            return None;
        }
        self.ask_at_ms = Some(now.boot_ms.saturating_add(self.wait_ms));
        self.last_seq = self.last_seq.next();
        Some(JoinStep::Ask {
            seq: self.last_seq,
            body: encode(&self.request),
        })
    }

    /// A message came.
    pub fn heard(&mut self, now: Now, topic: &str, payload: &[u8]) -> JoinStep {
        if topic != self.reply_topic() {
            return JoinStep::Unheard(Refusal::Forged);
        }
        let opened =
            open(payload, &[Purpose::JoinReply], topic, &self.hub, &self.key).and_then(|opened| {
                self.guard.admit(opened.purpose, opened.seq)?;
                Ok(opened)
            });
        let opened = match opened {
            Ok(opened) => opened,
            Err(refusal) => return JoinStep::Unheard(refusal),
        };
        match decode("join reply", &opened.body) {
            Ok(JoinReply::Accepted {
                device,
                password,
                release_keys,
            }) => {
                self.ask_at_ms = None;
                JoinStep::Accepted {
                    device,
                    password,
                    release_keys,
                }
            }
            Ok(JoinReply::Waiting { device }) => {
                self.wait_ms = self.wait_ms.saturating_mul(2).min(LOBBY_CAP_MS);
                self.ask_at_ms = Some(now.boot_ms.saturating_add(self.wait_ms));
                JoinStep::Waiting { device }
            }
            Ok(JoinReply::Refused { reason }) => {
                self.ask_at_ms = None;
                JoinStep::Refused { reason }
            }
            Err(error) => JoinStep::Refused {
                reason: format!("the hub's answer cannot be read ({error}): update the agent"),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_wire::Timestamp;

    #[test]
    fn who_waits_is_told_again_and_less_and_less_often() {
        let at = |secs: u64| Now {
            boot_ms: secs * 1_000,
            wall: Timestamp(0),
        };
        let mut reminder = Reminder::told(at(100));
        assert_eq!(reminder.due(at(114)), None);
        assert_eq!(reminder.due(at(115)), Some(15));
        assert_eq!(reminder.wake_at(), 145_000);
        let mut now = 145;
        let mut times = Vec::new();
        while now < 3_700 {
            times.extend(reminder.due(at(now)));
            now += 1;
        }
        assert_eq!(times, [45, 105, 225, 465, 945, 1_545, 2_145, 2_745, 3_345]);
    }
}
