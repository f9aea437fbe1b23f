//! Who may come to the hub's own broker, and what they may do there. Follows
//! the store: what is committed counts, from then on and at once.

use crate::core::{Change, Records, Standing, device_password, same_secret};
use skerry_broker::{Authority, Class, Credentials, Grant, Peer, Refusal, RefusalKind};
use skerry_broker::{Denied, TopicFilter};
use skerry_wire::seal::{KeyPair, PublicKey, TokenSecret};
use skerry_wire::token::{JOINING_PREFIX, joining_password, joining_token_id};
use skerry_wire::topic::{ATTEMPT_DIGITS, Lane, Topic};
use skerry_wire::{DeviceId, FleetId, Timestamp};
use std::collections::HashMap;
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the hub's own client is called; no device's name has a dot.
pub const HUB_CLIENT: &str = "skerry.hub";

/// Who is who.
pub struct Roster {
    fleet: FleetId,
    key: KeyPair,
    known: RwLock<Known>,
    /// The hub listens: what devices say is heard.
    is_open: AtomicBool,
}

#[derive(Default)]
struct Known {
    /// Those that were let in.
    devices: HashMap<DeviceId, PublicKey>,
    tokens: HashMap<[u8; 8], KnownToken>,
}

struct KnownToken {
    password: String,
}

/// The wall clock; 1970 when it is before that.
pub fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp(since.map_or(0, |d| d.as_millis() as u64))
}

impl Roster {
    /// The roster that the store has.
    pub fn new(fleet: FleetId, key: KeyPair, records: &Records) -> Self {
        let mut known = Known::default();
        for device in &records.devices {
            if device.standing == Standing::Approved {
                known.devices.insert(device.device.clone(), device.key);
            }
        }
        for token in &records.tokens {
            known.add_token(token);
        }
        Self {
            fleet,
            key,
            known: RwLock::new(known),
            is_open: AtomicBool::new(false),
        }
    }

    /// From now on devices may come. Before the hub's own line is up, nobody
    /// would hear their presence, and the broker would drop it.
    pub fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }

    /// Whether devices may come.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Takes over what was committed.
    pub fn follow(&self, changes: &[Change]) {
        let mut known = self.known.write().expect("no panic while held");
        for change in changes {
            match change {
                Change::PutDevice(device) => match device.standing {
                    Standing::Approved => {
                        known.devices.insert(device.device.clone(), device.key);
                    }
                    Standing::Pending | Standing::Revoked => {
                        known.devices.remove(&device.device);
                    }
                },
                Change::DeleteDevice(device) => {
                    known.devices.remove(device);
                }
                Change::PutToken(token) => known.add_token(token),
                Change::DeleteToken(id) => {
                    known.tokens.remove(id);
                }
                Change::PutHub(_)
                | Change::PutConfig(_)
                | Change::DeleteConfig(_)
                | Change::PutReport(..)
                | Change::DeleteReport(_)
                | Change::PutRevokedKey(_)
                | Change::PutApp(_)
                | Change::DeleteApp(_)
                | Change::PutEvent(_)
                | Change::DeleteEvent(_)
                | Change::PutImage(_)
                | Change::PutRelease(_)
                | Change::DeleteRelease(..)
                | Change::PutRollout(_)
                | Change::DeleteRollout(_)
                | Change::PutAttempt(_)
                | Change::DeleteAttempt(..) => {}
            }
        }
    }

    fn device(&self, who: &Credentials<'_>, user: &str) -> Result<Grant, Refusal> {
        let known = self.known.read().expect("no panic while held");
        let device = DeviceId::new(user).ok();
        let found = device.and_then(|device| {
            let key = known.devices.get(&device)?;
            Some((device, *key))
        });
        let Some((device, key)) = found else {
            let words = "no such device, or it was shut out: join again with a token";
            return Err(Refusal::new(RefusalKind::BadCredentials, words));
        };
        drop(known);
        let password = device_password(&self.key, &key);
        if !same_secret(who.password.unwrap_or_default(), password.as_bytes()) {
            let words = "the password is not this device's: join again with a token";
            return Err(Refusal::new(RefusalKind::BadCredentials, words));
        }
        if who.client_id != device.as_str() {
            let words = "the client id must be the device's name";
            return Err(Refusal::new(RefusalKind::ClientId, words));
        }
        let topic = |lane| filter(&Topic::Device(device.clone(), lane).in_fleet(&self.fleet));
        Ok(Grant {
            publish: Lane::FROM_DEVICE.into_iter().map(topic).collect(),
            subscribe: Lane::TO_DEVICE.into_iter().map(topic).collect(),
            class: Class::device(),
        })
    }

    fn joining(&self, who: &Credentials<'_>, user: &str) -> Result<Grant, Refusal> {
        let known = self.known.read().expect("no panic while held");
        let token = joining_token_id(user).and_then(|id| known.tokens.get(&id));
        let good = token.is_some_and(|token| {
            let given = who.password.unwrap_or_default();
            same_secret(given, token.password.as_bytes())
        });
        // One that has expired or is used up may ask all the same: the core
        // says no to it, sealed and as an event, and yes to a device that was
        // taken into the lobby while the token was good.
        if !good {
            let words =
                "this hub does not have that join token: make a new one with 'skerry token create'";
            return Err(Refusal::new(RefusalKind::BadCredentials, words));
        }
        let attempt = who.client_id.strip_prefix("join-").unwrap_or_default();
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if attempt.len() != ATTEMPT_DIGITS || !attempt.bytes().all(hex) {
            let words = "the client id must be join- and the attempt's 32 digits";
            return Err(Refusal::new(RefusalKind::ClientId, words));
        }
        let request = Topic::JoinRequest(attempt.into()).in_fleet(&self.fleet);
        let reply = Topic::JoinReply(attempt.into()).in_fleet(&self.fleet);
        Ok(Grant {
            publish: vec![filter(&request)],
            subscribe: vec![filter(&reply)],
            class: Class::joining(),
        })
    }
}

impl Known {
    fn add_token(&mut self, token: &crate::core::TokenRecord) {
        let secret = TokenSecret {
            id: token.id,
            secret: token.secret,
        };
        let known = KnownToken {
            password: joining_password(&secret),
        };
        self.tokens.insert(token.id, known);
    }
}

fn filter(text: &str) -> TopicFilter {
    text.parse().expect("our topics are filters")
}

impl Authority for Roster {
    fn connect(&self, who: &Credentials<'_>) -> Result<Grant, Refusal> {
        match (who.peer, who.username) {
            // Only this user can reach the socket, and only the hub does.
            (Peer::Unix, _) if who.client_id == HUB_CLIENT => Ok(Grant {
                publish: vec![filter("#")],
                subscribe: vec![filter("#")],
                class: Class::hub(),
            }),
            _ if !self.is_open() => {
                let words = "the hub is starting: try again in a moment";
                Err(Refusal::new(RefusalKind::Busy, words))
            }
            (_, Some(user)) if user.starts_with(JOINING_PREFIX) => self.joining(who, user),
            (_, Some(user)) => self.device(who, user),
            (_, None) => Err(Refusal::new(
                RefusalKind::BadCredentials,
                "a device needs its name and password, or a join token",
            )),
        }
    }

    fn denied(&self, what: &Denied) {
        tracing::warn!(client = %what.client_id, topic = %what.topic, verb = what.verb, "denied by the broker's access rules");
    }
}
