//! The sealed line: every message authenticated and encrypted end to end, so
//! that whoever owns the broker can drop messages and nothing else.
//!
//! HPKE (RFC 9180) single shot, mode auth, DHKEM(X25519, HKDF-SHA256),
//! HKDF-SHA256, ChaCha20-Poly1305. Both sides pin the other's static key. The
//! purpose is HPKE's `info`; header and topic are its `aad`, so a message is
//! worth nothing for another purpose, on another topic, or under another
//! number. A join comes in mode auth-PSK, with the token's secret as
//! pre-shared key, since the hub cannot know the device's key yet.
//!
//! ```text
//! message = version:u8 purpose:u8 seq:u64be enc:[32] ciphertext
//! join    = version:u8 purpose:u8 seq:u64be token:[8] sender:[32] enc:[32] ciphertext
//! ```

use crate::id::Seq;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256 as Kem;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable, Kem as _, OpModeR, OpModeS, PskBundle, Serializable};
use std::fmt;

/// The version of envelope and messages that this crate speaks.
pub const WIRE_VERSION: u8 = 1;
/// Longest sealed message, in bytes: what hosted brokers allow.
pub const MAX_MESSAGE_BYTES: usize = 128 * 1024;

const KEY_BYTES: usize = 32;
const TOKEN_ID_BYTES: usize = 8;
const HEADER_BYTES: usize = 1 + 1 + 8;
const TAG_BYTES: usize = 16;

/// What a message is for. New purposes are appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Purpose {
    /// [`crate::message::JoinRequest`].
    Join = 1,
    /// [`crate::message::JoinReply`].
    JoinReply = 2,
    /// [`crate::DesiredPart`].
    Desired = 3,
    /// [`crate::message::Command`].
    Command = 4,
    /// [`crate::message::Presence`].
    Presence = 5,
    /// [`crate::message::Gone`].
    Gone = 6,
    /// [`crate::report::Report`].
    Report = 7,
    /// [`crate::message::Reply`].
    Reply = 8,
    /// [`crate::stream::Frame`] to a device.
    StreamIn = 9,
    /// [`crate::stream::Frame`] from a device.
    StreamOut = 10,
}

impl Purpose {
    const ALL: [Purpose; 10] = [
        Purpose::Join,
        Purpose::JoinReply,
        Purpose::Desired,
        Purpose::Command,
        Purpose::Presence,
        Purpose::Gone,
        Purpose::Report,
        Purpose::Reply,
        Purpose::StreamIn,
        Purpose::StreamOut,
    ];

    fn info(self) -> &'static [u8] {
        match self {
            Purpose::Join => b"skerry/v1 join",
            Purpose::JoinReply => b"skerry/v1 join reply",
            Purpose::Desired => b"skerry/v1 desired",
            Purpose::Command => b"skerry/v1 command",
            Purpose::Presence => b"skerry/v1 presence",
            Purpose::Gone => b"skerry/v1 gone",
            Purpose::Report => b"skerry/v1 report",
            Purpose::Reply => b"skerry/v1 reply",
            Purpose::StreamIn => b"skerry/v1 stream in",
            Purpose::StreamOut => b"skerry/v1 stream out",
        }
    }
}

/// Why a message was refused. The words reach the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// Shorter than an empty message.
    #[error("the message is too short to be one of ours")]
    TooShort,
    /// Longer than [`MAX_MESSAGE_BYTES`].
    #[error("the message is longer than 128 KiB")]
    TooLong,
    /// Another [`WIRE_VERSION`].
    #[error("the message has wire version {0}, this program speaks version 1: update it")]
    Version(u8),
    /// A purpose that does not belong on this topic, or none of ours.
    #[error("the message has a purpose that does not belong on this topic")]
    Purpose,
    /// Not from the pinned key, not for us, altered, or moved from another
    /// topic: cryptography cannot tell which.
    #[error("the message is forged, altered, or moved from another topic")]
    Forged,
    /// A number that is not above the highest seen.
    #[error("the message was sent before (replayed or re-ordered)")]
    Replayed,
}

/// An X25519 key that stays where it was made.
#[derive(Clone)]
pub struct KeyPair {
    secret: <Kem as hpke::Kem>::PrivateKey,
    public: <Kem as hpke::Kem>::PublicKey,
}

impl KeyPair {
    /// A new key from `rng`.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let (secret, public) = Kem::gen_keypair_with_rng(rng);
        Self { secret, public }
    }

    /// The key whose secret [`KeyPair::secret_bytes`] gave. `None` when the
    /// bytes are no X25519 secret.
    pub fn from_secret_bytes(bytes: &[u8]) -> Option<Self> {
        let secret = <Kem as hpke::Kem>::PrivateKey::from_bytes(bytes).ok()?;
        let public = Kem::sk_to_pk(&secret);
        Some(Self { secret, public })
    }

    /// The secret, for the owner's store only.
    pub fn secret_bytes(&self) -> [u8; KEY_BYTES] {
        self.secret.to_bytes().into()
    }

    /// What others may know.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.public.to_bytes().into())
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", self.public())
    }
}

/// The public half of a [`KeyPair`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PublicKey([u8; KEY_BYTES]);

impl PublicKey {
    /// From bytes that came from somewhere; a bad point is met when used.
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }

    fn point(&self) -> Result<<Kem as hpke::Kem>::PublicKey, Refusal> {
        <Kem as hpke::Kem>::PublicKey::from_bytes(&self.0).map_err(|_| Refusal::Forged)
    }
}

/// The first eight hexadecimal digits: enough for people to compare.
impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// A message that passed every check but the replay guard's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it is for.
    pub purpose: Purpose,
    /// Its sender's number; give it to a [`ReplayGuard`].
    pub seq: Seq,
    /// What was sealed.
    pub body: Vec<u8>,
}

/// A join request that passed every check but the replay guard's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenedJoin {
    /// The key that the device has made, proven to be in its hands.
    pub device_key: PublicKey,
    /// Its sender's number.
    pub seq: Seq,
    /// What was sealed.
    pub body: Vec<u8>,
}

fn header(purpose: Purpose, seq: Seq) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[0] = WIRE_VERSION;
    out[1] = purpose as u8;
    out[2..].copy_from_slice(&seq.0.to_be_bytes());
    out
}

fn read_header(message: &[u8], fixed_bytes: usize) -> Result<(Purpose, Seq), Refusal> {
    if message.len() > MAX_MESSAGE_BYTES {
        return Err(Refusal::TooLong);
    }
    // The version first: another one may be shorter.
    match message.first() {
        None => return Err(Refusal::TooShort),
        Some(&WIRE_VERSION) => {}
        Some(&other) => return Err(Refusal::Version(other)),
    }
    if message.len() < fixed_bytes + TAG_BYTES {
        return Err(Refusal::TooShort);
    }
    let purpose = Purpose::ALL
        .into_iter()
        .find(|p| *p as u8 == message[1])
        .ok_or(Refusal::Purpose)?;
    let seq = u64::from_be_bytes(message[2..HEADER_BYTES].try_into().expect("eight bytes"));
    Ok((purpose, Seq(seq)))
}

fn aad(bound: &[u8], topic: &str) -> Vec<u8> {
    [bound, topic.as_bytes()].concat()
}

/// Seals `body` from one key to another. Fails only when `to` is no point of
/// the curve.
pub fn seal(
    purpose: Purpose,
    seq: Seq,
    topic: &str,
    from: &KeyPair,
    to: &PublicKey,
    body: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Refusal> {
    let header = header(purpose, seq);
    let mode = OpModeS::Auth((from.secret.clone(), from.public.clone()));
    let (enc, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &mode,
        &to.point()?,
        purpose.info(),
        body,
        &aad(&header, topic),
        rng,
    )
    .map_err(|_| Refusal::Forged)?;
    Ok([&header[..], &enc.to_bytes(), &sealed].concat())
}

/// Opens a message that must come from `from`, on `topic`, for one of `purposes`.
pub fn open(
    message: &[u8],
    purposes: &[Purpose],
    topic: &str,
    from: &PublicKey,
    to: &KeyPair,
) -> Result<Opened, Refusal> {
    const FIXED: usize = HEADER_BYTES + KEY_BYTES;
    let (purpose, seq) = read_header(message, FIXED)?;
    if !purposes.contains(&purpose) {
        return Err(Refusal::Purpose);
    }
    let enc = encapped(&message[HEADER_BYTES..FIXED])?;
    let body = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::Auth(from.point()?),
        &to.secret,
        &enc,
        purpose.info(),
        &message[FIXED..],
        &aad(&message[..HEADER_BYTES], topic),
    )
    .map_err(|_| Refusal::Forged)?;
    Ok(Opened { purpose, seq, body })
}

/// A token's public number and its secret.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenSecret {
    /// Which token: not secret.
    pub id: [u8; TOKEN_ID_BYTES],
    /// Proves that somebody was given the token.
    pub secret: [u8; KEY_BYTES],
}

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenSecret({:02x?})", self.id)
    }
}

/// Seals a join request from a key that the hub has not seen yet.
pub fn seal_join(
    token: &TokenSecret,
    seq: Seq,
    topic: &str,
    from: &KeyPair,
    to: &PublicKey,
    body: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, Refusal> {
    let sender: [u8; KEY_BYTES] = from.public.to_bytes().into();
    let bound = [&header(Purpose::Join, seq)[..], &token.id, &sender].concat();
    let psk = PskBundle::new(&token.secret, &token.id).map_err(|_| Refusal::Forged)?;
    let mode = OpModeS::AuthPsk((from.secret.clone(), from.public.clone()), psk);
    let (enc, sealed) = hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &mode,
        &to.point()?,
        Purpose::Join.info(),
        body,
        &aad(&bound, topic),
        rng,
    )
    .map_err(|_| Refusal::Forged)?;
    Ok([&bound[..], &enc.to_bytes(), &sealed].concat())
}

const JOIN_BOUND: usize = HEADER_BYTES + TOKEN_ID_BYTES + KEY_BYTES;
const JOIN_FIXED: usize = JOIN_BOUND + KEY_BYTES;

/// Which token a join request claims; the hub looks its secret up by it.
pub fn join_token_id(message: &[u8]) -> Result<[u8; TOKEN_ID_BYTES], Refusal> {
    match read_header(message, JOIN_FIXED)? {
        (Purpose::Join, _) => Ok(message[HEADER_BYTES..HEADER_BYTES + TOKEN_ID_BYTES]
            .try_into()
            .expect("eight bytes")),
        _ => Err(Refusal::Purpose),
    }
}

/// Opens a join request made with `token`.
pub fn open_join(
    message: &[u8],
    token: &TokenSecret,
    topic: &str,
    to: &KeyPair,
) -> Result<OpenedJoin, Refusal> {
    if join_token_id(message)? != token.id {
        return Err(Refusal::Forged);
    }
    let (_, seq) = read_header(message, JOIN_FIXED)?;
    let device_key = PublicKey(
        message[HEADER_BYTES + TOKEN_ID_BYTES..JOIN_BOUND]
            .try_into()
            .expect("32 bytes"),
    );
    let psk = PskBundle::new(&token.secret, &token.id).map_err(|_| Refusal::Forged)?;
    let enc = encapped(&message[JOIN_BOUND..JOIN_FIXED])?;
    let body = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeR::AuthPsk(device_key.point()?, psk),
        &to.secret,
        &enc,
        Purpose::Join.info(),
        &message[JOIN_FIXED..],
        &aad(&message[..JOIN_BOUND], topic),
    )
    .map_err(|_| Refusal::Forged)?;
    Ok(OpenedJoin {
        device_key,
        seq,
        body,
    })
}

fn encapped(bytes: &[u8]) -> Result<<Kem as hpke::Kem>::EncappedKey, Refusal> {
    <Kem as hpke::Kem>::EncappedKey::from_bytes(bytes).map_err(|_| Refusal::Forged)
}

/// The highest number seen of one sender, for each purpose: messages of one
/// purpose keep their order on the way, those of different purposes need not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReplayGuard {
    highest: [Seq; Purpose::ALL.len()],
}

impl ReplayGuard {
    /// Takes `seq` if it is above all before it.
    pub fn admit(&mut self, purpose: Purpose, seq: Seq) -> Result<(), Refusal> {
        let highest = &mut self.highest[purpose as usize - 1];
        if seq <= *highest {
            return Err(Refusal::Replayed);
        }
        *highest = seq;
        Ok(())
    }

    /// The highest number taken for `purpose`, to be stored.
    pub fn highest(&self, purpose: Purpose) -> Seq {
        self.highest[purpose as usize - 1]
    }

    /// Puts back what was stored.
    pub fn restore(&mut self, purpose: Purpose, seq: Seq) {
        self.highest[purpose as usize - 1] = seq;
    }
}
