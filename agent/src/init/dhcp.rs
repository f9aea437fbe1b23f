//! A DHCP client, RFC 2131, without socket or clock: messages in, messages and
//! leases out. Numbers of time are milliseconds of the boot clock.
//!
//! ```text
//! Selecting ─offer─► Requesting ─ack─► Bound ─T1─► renews ─T2─► rebinds
//!     ▲                  │ nak            │ nak, lease over        │
//!     └──────────────────┴────────────────┴────────────────────────┘
//! ```

use std::net::Ipv4Addr;

/// The client's port.
pub const CLIENT_PORT: u16 = 68;
/// The server's port.
pub const SERVER_PORT: u16 = 67;
/// Longest message that is looked at.
pub const MAX_MESSAGE_BYTES: usize = 1500;

/// First wait for an answer; it doubles.
const FIRST_WAIT_MS: u64 = 1_000;
/// Longest wait for an answer.
const MAX_WAIT_MS: u64 = 64_000;
/// Requests for an offer before another is looked for.
const MAX_REQUESTS: u32 = 4;
/// Least time between two renewals, RFC 2131 section 4.4.5.
const RENEW_GAP_MS: u64 = 60_000;
/// Shorter leases are taken to be this long, or we would do nothing else.
const MIN_LEASE_SECS: u32 = 60;
/// Name servers and time servers that are taken.
const MAX_SERVERS: usize = 3;
/// Fixed part, with the cookie.
const HEAD_BYTES: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// What a server gave us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// Our address.
    pub address: Ipv4Addr,
    /// Its network's mask.
    pub mask: Ipv4Addr,
    /// The way out, if there is one.
    pub gateway: Option<Ipv4Addr>,
    /// Name servers, at most three.
    pub dns: Vec<Ipv4Addr>,
    /// Time servers, at most three.
    pub ntp: Vec<Ipv4Addr>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// How long it lasts, in seconds.
    pub secs: u32,
}

/// What the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Send this message.
    Send {
        /// To whom: a server, or everybody.
        to: Ipv4Addr,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Take this address; it may be the one we have.
    Take(Lease),
    /// Stop using the address.
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Selecting { tries: u32 },
    Requesting { offer: Lease, tries: u32 },
    Bound { lease: Lease, since_ms: u64 },
}

/// One interface's client.
#[derive(Debug, Clone)]
pub struct Client {
    mac: [u8; 6],
    xid: u32,
    host_name: String,
    state: State,
    wake_ms: u64,
}

fn wait_ms(tries: u32) -> u64 {
    (FIRST_WAIT_MS << tries.min(10)).min(MAX_WAIT_MS)
}

impl Client {
    /// One that asks at once. `xid` must be random.
    pub fn new(mac: [u8; 6], xid: u32, host_name: &str, now_ms: u64) -> Self {
        Self {
            mac,
            xid,
            host_name: host_name.chars().filter(char::is_ascii).take(63).collect(),
            state: State::Selecting { tries: 0 },
            wake_ms: now_ms,
        }
    }

    /// When [`Client::wake`] is due.
    pub fn wake_at(&self) -> u64 {
        self.wake_ms
    }

    /// The cable is back, perhaps in another network: asks anew, and keeps the
    /// address until somebody says something else.
    pub fn plugged_in(&mut self, now_ms: u64) {
        self.state = State::Selecting { tries: 0 };
        self.wake_ms = now_ms;
    }

    /// Something is due.
    pub fn wake(&mut self, now_ms: u64) -> Vec<Effect> {
        match self.state.clone() {
            State::Selecting { tries } => {
                self.state = State::Selecting {
                    tries: tries.saturating_add(1),
                };
                self.wake_ms = now_ms + wait_ms(tries);
                self.xid = self.xid.wrapping_add(1);
                vec![self.send(DISCOVER, Ipv4Addr::BROADCAST, None, None)]
            }
            State::Requesting { tries, .. } if tries >= MAX_REQUESTS => {
                self.state = State::Selecting { tries: 0 };
                self.wake(now_ms)
            }
            State::Requesting { offer, tries } => {
                self.wake_ms = now_ms + wait_ms(tries);
                let effect = self.send(REQUEST, Ipv4Addr::BROADCAST, Some(&offer), None);
                self.state = State::Requesting {
                    offer,
                    tries: tries + 1,
                };
                vec![effect]
            }
            State::Bound { lease, since_ms } => self.renew(now_ms, &lease, since_ms),
        }
    }

    fn renew(&mut self, now_ms: u64, lease: &Lease, since_ms: u64) -> Vec<Effect> {
        let (half, late, end) = times(lease, since_ms);
        if now_ms >= end {
            self.state = State::Selecting { tries: 0 };
            let mut effects = vec![Effect::Drop];
            effects.extend(self.wake(now_ms));
            return effects;
        }
        if now_ms < half {
            self.wake_ms = half;
            return Vec::new();
        }
        // To its server first, then to anyone.
        let (to, until) = if now_ms < late {
            (lease.server, late)
        } else {
            (Ipv4Addr::BROADCAST, end)
        };
        let half_way = (until - now_ms) / 2;
        self.wake_ms = (now_ms + half_way.max(RENEW_GAP_MS)).min(until.max(now_ms + 1));
        vec![self.send(REQUEST, to, None, Some(lease.address))]
    }

    /// A message came.
    pub fn heard(&mut self, now_ms: u64, message: &[u8]) -> Vec<Effect> {
        let Some(answer) = Answer::parse(message, self.xid, self.mac) else {
            return Vec::new();
        };
        match (&self.state, answer) {
            (State::Selecting { .. }, Answer::Offer(offer)) => {
                self.state = State::Requesting { offer, tries: 0 };
                self.wake(now_ms)
            }
            (State::Requesting { .. } | State::Bound { .. }, Answer::Ack(lease)) => {
                self.state = State::Bound {
                    lease: lease.clone(),
                    since_ms: now_ms,
                };
                self.wake_ms = times(&lease, now_ms).0;
                vec![Effect::Take(lease)]
            }
            (State::Requesting { .. }, Answer::Nak) => {
                self.state = State::Selecting { tries: 1 };
                self.wake_ms = now_ms + wait_ms(1);
                Vec::new()
            }
            (State::Bound { .. }, Answer::Nak) => {
                self.state = State::Selecting { tries: 0 };
                self.wake_ms = now_ms;
                vec![Effect::Drop]
            }
            // Late, or not for this state.
            (State::Selecting { .. }, Answer::Ack(_) | Answer::Nak)
            | (State::Requesting { .. } | State::Bound { .. }, Answer::Offer(_)) => Vec::new(),
        }
    }

    fn send(
        &self,
        kind: u8,
        to: Ipv4Addr,
        offer: Option<&Lease>,
        ours: Option<Ipv4Addr>,
    ) -> Effect {
        let mut bytes = vec![0; HEAD_BYTES];
        // A request by an Ethernet address of six bytes.
        bytes[..4].copy_from_slice(&[1, 1, 6, 0]);
        bytes[4..8].copy_from_slice(&self.xid.to_be_bytes());
        if ours.is_none() {
            // Answers to everybody: an interface without address hears nothing
            // else.
            bytes[10] = 0x80;
        }
        bytes[12..16].copy_from_slice(&ours.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes[28..34].copy_from_slice(&self.mac);
        bytes[236..240].copy_from_slice(&COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            bytes.push(code);
            bytes.push(value.len() as u8);
            bytes.extend_from_slice(value);
        };
        option(53, &[kind]);
        let mut id = vec![1];
        id.extend_from_slice(&self.mac);
        option(61, &id);
        option(57, &(MAX_MESSAGE_BYTES as u16).to_be_bytes());
        // Mask, router, name servers, time servers, lease time.
        option(55, &[1, 3, 6, 42, 51, 54]);
        if !self.host_name.is_empty() {
            option(12, self.host_name.as_bytes());
        }
        if let Some(offer) = offer {
            option(50, &offer.address.octets());
            option(54, &offer.server.octets());
        }
        bytes.push(255);
        Effect::Send { to, bytes }
    }
}

/// When a lease is renewed with its server, then with anyone, then over.
fn times(lease: &Lease, since_ms: u64) -> (u64, u64, u64) {
    let whole = u64::from(lease.secs.max(MIN_LEASE_SECS)) * 1000;
    (
        since_ms.saturating_add(whole / 2),
        since_ms.saturating_add(whole / 8 * 7),
        since_ms.saturating_add(whole),
    )
}

enum Answer {
    Offer(Lease),
    Ack(Lease),
    Nak,
}

impl Answer {
    /// An answer to our question; `None` for anything else.
    fn parse(message: &[u8], xid: u32, mac: [u8; 6]) -> Option<Self> {
        let head = message.get(..HEAD_BYTES)?;
        let ours = head[0] == 2
            && head[4..8] == xid.to_be_bytes()
            && head[28..34] == mac
            && head[236..240] == COOKIE;
        if !ours {
            return None;
        }
        let options = Options(&message[HEAD_BYTES..]);
        let kind = *options.get(53)?.first()?;
        if kind == NAK {
            return Some(Self::Nak);
        }
        let address = address(&head[16..20])?;
        let usable = !address.is_unspecified()
            && !address.is_broadcast()
            && !address.is_loopback()
            && !address.is_multicast();
        let one = |code| {
            options
                .get(code)
                .and_then(|v| addresses(v).into_iter().next())
        };
        let many = |code| options.get(code).map(addresses).unwrap_or_default();
        let secs = options.get(51).and_then(|v| <[u8; 4]>::try_from(v).ok());
        let lease = Lease {
            address,
            mask: one(1).unwrap_or(Ipv4Addr::new(255, 255, 255, 0)),
            gateway: one(3),
            dns: many(6),
            ntp: many(42),
            server: one(54)?,
            secs: secs.map_or(3600, u32::from_be_bytes),
        };
        match kind {
            OFFER if usable => Some(Self::Offer(lease)),
            ACK if usable => Some(Self::Ack(lease)),
            _ => None,
        }
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn addresses(bytes: &[u8]) -> Vec<Ipv4Addr> {
    let all = bytes.chunks_exact(4).filter_map(address);
    all.take(MAX_SERVERS).collect()
}

/// The options of a message, looked up by code.
struct Options<'a>(&'a [u8]);

impl<'a> Options<'a> {
    fn get(&self, wanted: u8) -> Option<&'a [u8]> {
        let mut rest = self.0;
        loop {
            rest = match rest {
                [0, after @ ..] => after,
                [255, ..] | [] | [_] => return None,
                [code, length, after @ ..] => {
                    let value = after.get(..usize::from(*length))?;
                    if *code == wanted {
                        return Some(value);
                    }
                    &after[usize::from(*length)..]
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    fn sent(effects: &[Effect]) -> (Ipv4Addr, Vec<u8>) {
        let found = effects.iter().find_map(|effect| match effect {
            Effect::Send { to, bytes } => Some((*to, bytes.clone())),
            Effect::Take(_) | Effect::Drop => None,
        });
        found.expect("something is sent")
    }

    /// What a server says to a question.
    fn reply(question: &[u8], kind: u8, secs: u32) -> Vec<u8> {
        let mut bytes = question[..HEAD_BYTES].to_vec();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        for (code, value) in [
            (53, vec![kind]),
            (54, vec![10, 0, 2, 2]),
            (1, vec![255, 255, 255, 0]),
            (3, vec![10, 0, 2, 2]),
            (6, vec![10, 0, 2, 3]),
            (51, secs.to_be_bytes().to_vec()),
        ] {
            bytes.push(code);
            bytes.push(value.len() as u8);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }

    fn bound(secs: u32) -> Client {
        let mut client = Client::new(MAC, 7, "kiosk-1", 0);
        let (_, discover) = sent(&client.wake(0));
        let (_, request) = sent(&client.heard(10, &reply(&discover, OFFER, secs)));
        let taken = client.heard(20, &reply(&request, ACK, secs));
        assert!(
            matches!(&taken[..], [Effect::Take(lease)] if lease.address == Ipv4Addr::new(10, 0, 2, 15))
        );
        client
    }

    #[test]
    fn takes_what_is_offered_and_renews_it_half_way() {
        let mut client = bound(3600);
        assert_eq!(client.wake_at(), 20 + 1_800_000);
        let (to, renewal) = sent(&client.wake(client.wake_at()));
        assert_eq!(to, Ipv4Addr::new(10, 0, 2, 2));
        // Renewals say the address in the head and name no server.
        assert_eq!(renewal[12..16], [10, 0, 2, 15]);
        assert_eq!(Options(&renewal[HEAD_BYTES..]).get(54), None);
        let effects = client.heard(1_800_100, &reply(&renewal, ACK, 3600));
        assert!(matches!(effects[..], [Effect::Take(_)]));
        assert_eq!(client.wake_at(), 1_800_100 + 1_800_000);
    }

    #[test]
    fn asks_everybody_late_and_drops_the_address_in_the_end() {
        let mut client = bound(3600);
        let mut asked = Vec::new();
        loop {
            let at = client.wake_at();
            let effects = client.wake(at);
            if effects.contains(&Effect::Drop) {
                assert_eq!(at, 20 + 3_600_000);
                break;
            }
            asked.push((at, sent(&effects).0));
        }
        assert!(asked.len() < 20, "{asked:?}");
        assert!(asked.iter().any(|(_, to)| *to == Ipv4Addr::BROADCAST));
        let by_time = asked.windows(2).all(|w| w[0].0 < w[1].0);
        assert!(by_time, "{asked:?}");
    }

    #[test]
    fn a_refusal_begins_anew() {
        let mut client = bound(600);
        let (_, renewal) = sent(&client.wake(client.wake_at()));
        let effects = client.heard(400_000, &reply(&renewal, NAK, 0));
        assert_eq!(effects, [Effect::Drop]);
        assert_eq!(client.wake_at(), 400_000);
    }

    #[test]
    fn waits_longer_and_longer_but_not_too_long() {
        let mut client = Client::new(MAC, 1, "", 0);
        let mut waits = Vec::new();
        for _ in 0..100 {
            let at = client.wake_at();
            client.wake(at);
            waits.push(client.wake_at() - at);
        }
        assert_eq!(waits[..3], [1_000, 2_000, 4_000]);
        assert_eq!(waits[99], MAX_WAIT_MS);
    }

    #[test]
    fn what_is_not_ours_is_not_heard() {
        let mut client = Client::new(MAC, 7, "", 0);
        let (_, discover) = sent(&client.wake(0));
        let good = reply(&discover, OFFER, 60);
        for at in [0, 4, 28, 236] {
            let mut other = good.clone();
            other[at] ^= 1;
            assert!(client.clone().heard(1, &other).is_empty(), "byte {at}");
        }
        assert!(!client.heard(1, &good).is_empty());
    }

    proptest! {
        #[test]
        fn no_message_breaks_it(mut message in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut client = Client::new(MAC, 7, "", 0);
            let (_, discover) = sent(&client.wake(0));
            client.heard(1, &message);
            // And with a head that is right.
            let mut whole = discover[..HEAD_BYTES].to_vec();
            whole[0] = 2;
            whole.append(&mut message);
            client.heard(2, &whole);
            prop_assert!(client.wake_at() >= 1);
        }
    }
}
