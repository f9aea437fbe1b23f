//! How a machine becomes a device: tokens, names, the lobby.

use super::record::{Change, DeviceRecord, Standing, TokenRecord};
use super::{Answer, Device, Fleet, RefusedKind, RequestId, Turn, refused};
use crate::model::Platform;
use skerry_wire::label::{MAX_LABELS, check_key, check_value};
use skerry_wire::message::{JoinReply, JoinRequest};
use skerry_wire::report::Facts;
use skerry_wire::seal::{
    KeyPair, PublicKey, Purpose, Refusal, TokenSecret, join_token_id, open_join,
};
use skerry_wire::topic::{RESERVED_DEVICE, Topic};
use skerry_wire::{DeviceId, Digest, Generation, Labels, Seq, SessionId, decode, encode};

/// Tokens that exist at once.
const MAX_TOKENS: usize = 1_000;
/// Devices that may join with one token.
const MAX_USES: u32 = 100_000;
/// Longest life of a token: a year.
const MAX_TOKEN_MS: u64 = 366 * 24 * 3600 * 1000;
/// An expired token is kept so long, to say that it has expired.
const TELL_EXPIRED_MS: u64 = 7 * 24 * 3600 * 1000;
/// Devices of one fleet, the lobby included.
const MAX_DEVICES: usize = 100_000;
/// Devices with the same wish for a name.
const MAX_SAME_NAME: u32 = 10_000;

/// A device's password at the hub's broker: from the hub's secret and the
/// device's key, so that nothing needs storing and asking again gives the same.
pub fn device_password(hub: &KeyPair, device: &PublicKey) -> String {
    let secret = hub.secret_bytes();
    let parts: [&[u8]; 4] = [
        b"skerry/v1 device password",
        &secret,
        device.as_bytes(),
        &secret,
    ];
    Digest::of(&parts.concat()).hex()
}

/// Whether two secrets are the same, in a time that tells nothing of where
/// they differ.
pub fn same_secret(a: &[u8], b: &[u8]) -> bool {
    let (a, b) = (Digest::of(a), Digest::of(b));
    let pairs = a.as_bytes().iter().zip(b.as_bytes());
    pairs.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

/// Sixteen digits, as people name tokens.
pub fn token_id_text(id: &[u8; 8]) -> String {
    format!("{:016x}", u64::from_be_bytes(*id))
}

/// Whether these labels are labels at all.
pub(super) fn check_labels(labels: &Labels) -> Result<(), String> {
    if labels.len() > MAX_LABELS {
        return Err(format!("a device has at most {MAX_LABELS} labels"));
    }
    for (key, value) in labels {
        check_key(key).map_err(|e| e.to_string())?;
        check_value(value).map_err(|e| e.to_string())?;
    }
    Ok(())
}

pub(super) fn platform_of(facts: &Facts) -> Platform {
    let cut = |text: &str| text.chars().take(32).collect::<String>();
    Platform::new(&cut(&facts.arch), &cut(&facts.variant))
}

impl Fleet {
    pub(super) fn create_token(&mut self, turn: &mut Turn, request: RequestId, token: TokenRecord) {
        let problem = if self.tokens.len() >= MAX_TOKENS {
            Some(format!("there are {MAX_TOKENS} tokens: delete some"))
        } else if token.uses_left == 0 || token.uses_left > MAX_USES {
            Some(format!("a token has 1 to {MAX_USES} uses"))
        } else if token.expires <= turn.now || token.expires.0 - turn.now.0 > MAX_TOKEN_MS {
            Some("a token is good for 1 second to 366 days".into())
        } else {
            check_labels(&token.labels).err()
        };
        if let Some(message) = problem {
            let no = refused(RefusedKind::Invalid, "InvalidToken", message);
            return turn.answer(request, no);
        }
        turn.changes.push(Change::PutToken(token.clone()));
        self.tokens.insert(token.id, token);
        turn.answer(request, Ok(Answer::Done));
    }

    pub(super) fn delete_token(&mut self, turn: &mut Turn, request: RequestId, id: [u8; 8]) {
        if self.tokens.remove(&id).is_none() {
            let message = format!(
                "there is no token {}: 'skerry token list' shows them",
                token_id_text(&id)
            );
            let no = refused(RefusedKind::NotFound, "TokenNotFound", message);
            return turn.answer(request, no);
        }
        turn.changes.push(Change::DeleteToken(id));
        turn.answer(request, Ok(Answer::Done));
    }

    pub(super) fn expire_tokens(&mut self, turn: &mut Turn) {
        let now = turn.now.0;
        let old = |t: &&TokenRecord| t.expires.0.saturating_add(TELL_EXPIRED_MS) <= now;
        let gone: Vec<[u8; 8]> = self.tokens.values().filter(old).map(|t| t.id).collect();
        for id in gone {
            self.tokens.remove(&id);
            turn.changes.push(Change::DeleteToken(id));
        }
    }

    /// A machine wants to join. Asking again with the same key is harmless: it
    /// gets the same name and password, and uses nothing up.
    pub(super) fn join(&mut self, turn: &mut Turn, attempt: String, topic: &str, message: &[u8]) {
        let token = match join_token_id(message) {
            Ok(id) => self.tokens.get(&id).cloned(),
            Err(why) => return self.refuse_join(turn, why),
        };
        let Some(token) = token else {
            let message = "a device wants to join with a token that this hub does not have: make a new one with 'skerry token create'";
            return self.warn(turn, None, None, "JoinRefused", message.into());
        };
        let secret = TokenSecret {
            id: token.id,
            secret: token.secret,
        };
        let opened = match open_join(message, &secret, topic, &self.key) {
            Ok(opened) => opened,
            Err(why) => return self.refuse_join(turn, why),
        };
        let wish: JoinRequest = match decode("join request", &opened.body) {
            Ok(wish) => wish,
            Err(error) => {
                let message = format!("a join request cannot be read: {error}");
                return self.warn(turn, None, None, "JoinRefused", message);
            }
        };
        let key = opened.device_key;
        if self.revoked.contains_key(&key) {
            let reason = "this device was shut out: run 'skerry-agent reset' on it, then join with a new token";
            return self.answer_no(turn, attempt, key, &wish.name, reason.into());
        }
        if let Some(name) = self.by_key.get(&key).cloned() {
            return self.join_again(turn, attempt, &name, opened.seq);
        }
        if token.expires <= turn.now {
            let reason = "the join token has expired: make a new one with 'skerry token create'";
            return self.answer_no(turn, attempt, key, &wish.name, reason.into());
        }
        if token.uses_left == 0 {
            let reason =
                "the join token has no uses left: make a new one with 'skerry token create'";
            return self.answer_no(turn, attempt, key, &wish.name, reason.into());
        }
        if self.devices.len() >= MAX_DEVICES {
            let reason = format!("this hub has {MAX_DEVICES} devices already");
            return self.answer_no(turn, attempt, key, &wish.name, reason);
        }
        let Some(name) = self.free_name(&wish.name) else {
            let reason = format!("too many devices are called '{}'", wish.name);
            return self.answer_no(turn, attempt, key, &wish.name, reason);
        };
        self.let_join(turn, attempt, name, key, opened.seq, &wish.facts, token);
    }

    #[allow(clippy::too_many_arguments)]
    fn let_join(
        &mut self,
        turn: &mut Turn,
        attempt: String,
        name: DeviceId,
        key: PublicKey,
        seq: Seq,
        facts: &Facts,
        mut token: TokenRecord,
    ) {
        token.uses_left -= 1;
        turn.changes.push(Change::PutToken(token.clone()));
        let labels = token.labels.clone();
        let manual = token.manual;
        self.tokens.insert(token.id, token);
        // A name that was freed by a revocation keeps its numbers rising.
        let before = self.devices.get(&name).map(|d| d.record.generation);
        let standing = if manual {
            Standing::Pending
        } else {
            Standing::Approved
        };
        let record = DeviceRecord {
            device: name.clone(),
            key,
            standing,
            labels,
            joined: turn.now,
            last_seen: turn.now,
            platform: platform_of(facts),
            generation: before.unwrap_or_default().max(self.hub.floor),
            content: Digest::from_bytes([0; 32]),
            applied: Generation(0),
            session: SessionId(0),
            connection: 0,
            events_seen: 0,
            join_seq: seq,
            presence_seq: Seq(0),
            gone_seq: Seq(0),
            report_seq: Seq(0),
        };
        if before.is_some() {
            turn.changes.push(Change::DeleteReport(name.clone()));
        }
        let mut device = Device::new(record);
        device.attempt = Some(attempt.clone().into());
        self.devices.insert(name.clone(), device);
        self.by_key.insert(key, name.clone());
        turn.dirty.insert(name.clone());
        if manual {
            let message = format!("waits in the lobby: 'skerry approve {name}' lets it in");
            self.note(turn, Some(&name), None, "JoinWaiting", message);
            let device = name;
            self.answer_join(turn, attempt, key, JoinReply::Waiting { device });
        } else {
            self.note(turn, Some(&name), None, "Joined", "joined the fleet".into());
            self.place(turn, &name, true);
            self.accept(turn, &name);
        }
    }

    fn join_again(&mut self, turn: &mut Turn, attempt: String, name: &DeviceId, seq: Seq) {
        let device = self.devices.get_mut(name).expect("keys name devices");
        if seq <= device.record.join_seq {
            return self.refuse(turn, name, Refusal::Replayed);
        }
        device.record.join_seq = seq;
        device.record.last_seen = turn.now;
        device.attempt = Some(attempt.clone().into());
        turn.dirty.insert(name.clone());
        let key = device.record.key;
        match device.record.standing {
            Standing::Approved => self.accept(turn, name),
            Standing::Pending => {
                let device = name.clone();
                self.answer_join(turn, attempt, key, JoinReply::Waiting { device });
            }
            // Its key is in `revoked`, which was asked first.
            Standing::Revoked => {}
        }
    }

    /// Tells a device its name and password where it last asked for them.
    pub(super) fn accept(&mut self, turn: &mut Turn, name: &DeviceId) {
        let Some(device) = self.devices.get_mut(name) else {
            return;
        };
        let key = device.record.key;
        let Some(attempt) = device.attempt.take() else {
            return;
        };
        let reply = JoinReply::Accepted {
            device: name.clone(),
            password: device_password(&self.key, &key),
            release_keys: self.release_keys().to_vec(),
        };
        self.answer_join(turn, attempt.into(), key, reply);
    }

    fn answer_no(
        &mut self,
        turn: &mut Turn,
        attempt: String,
        key: PublicKey,
        name: &DeviceId,
        reason: String,
    ) {
        let message = format!("a device that calls itself '{name}' may not join: {reason}");
        self.warn(turn, None, None, "JoinRefused", message);
        self.answer_join(turn, attempt, key, JoinReply::Refused { reason });
    }

    fn answer_join(&mut self, turn: &mut Turn, attempt: String, to: PublicKey, reply: JoinReply) {
        let topic = Topic::JoinReply(attempt);
        self.send(turn, to, topic, Purpose::JoinReply, encode(&reply));
    }

    fn refuse_join(&mut self, turn: &mut Turn, why: Refusal) {
        let message = format!("a join request was refused: {why}");
        self.warn(turn, None, None, "JoinRefused", message);
    }

    /// The wish, or the wish with the smallest free number. Names of devices
    /// that were shut out are free.
    fn free_name(&self, wish: &DeviceId) -> Option<DeviceId> {
        let free = |name: &DeviceId| {
            name.as_str() != RESERVED_DEVICE
                && self
                    .devices
                    .get(name)
                    .is_none_or(|d| d.record.standing == Standing::Revoked)
        };
        if free(wish) {
            return Some(wish.clone());
        }
        (2..MAX_SAME_NAME).find_map(|number| {
            let tail = format!("-{number}");
            let room = skerry_wire::id::MAX_NAME_BYTES - tail.len();
            let head = &wish.as_str()[..wish.as_str().len().min(room)];
            let name = DeviceId::new(format!("{}{tail}", head.trim_end_matches('-'))).ok()?;
            free(&name).then_some(name)
        })
    }
}
