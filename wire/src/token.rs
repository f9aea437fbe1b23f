//! The join token: one line of text that holds all a new device needs.

use crate::codec;
use crate::id::{Digest, FleetId};
use crate::seal::{PublicKey, TokenSecret};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "skerry1.";
/// Longest token, in characters: a 400-character broker address fits.
const MAX_CHARS: usize = 1024;

/// What `skerry token create` prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Which fleet.
    pub fleet: FleetId,
    /// The broker's address as devices see it, `mqtts://hub.example:8883`.
    pub broker: String,
    /// The hub's key: everything else is trusted because of it.
    pub hub_key: PublicKey,
    /// SHA-256 of the certificate that must be in the broker's chain; absent
    /// for a broker without TLS or with a public certificate.
    pub tls_pin: Option<[u8; 32]>,
    /// Proves the right to join.
    pub secret: TokenSecret,
}

#[derive(Serialize, Deserialize)]
struct Encoded {
    fleet: FleetId,
    broker: String,
    hub_key: PublicKey,
    tls_pin: Option<[u8; 32]>,
    id: [u8; 8],
    secret: [u8; 32],
}

/// Why a text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Another kind of text.
    #[error("a join token starts with 'skerry1.': copy it whole from 'skerry token create'")]
    Prefix,
    /// Cut short or altered.
    #[error("the join token is damaged: copy it whole from 'skerry token create'")]
    Damaged,
}

/// What user names of joining devices start with; no device name does.
pub const JOINING_PREFIX: &str = "join.";

/// User name at the hub's broker of a device that joins with this token.
pub fn joining_username(id: &[u8; 8]) -> String {
    use fmt::Write;
    let mut out = JOINING_PREFIX.to_string();
    for byte in id {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// The token's number in a joining device's user name.
pub fn joining_token_id(username: &str) -> Option<[u8; 8]> {
    let hex = username.strip_prefix(JOINING_PREFIX)?;
    if hex.len() != 16 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(u64::from_str_radix(hex, 16).ok()?.to_be_bytes())
}

/// Password at the hub's broker of a device that joins with this token.
pub fn joining_password(secret: &TokenSecret) -> String {
    Digest::of(&[b"skerry/v1 broker password", &secret.secret[..]].concat()).hex()
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encoded = Encoded {
            fleet: self.fleet.clone(),
            broker: self.broker.clone(),
            hub_key: self.hub_key,
            tls_pin: self.tls_pin,
            id: self.secret.id,
            secret: self.secret.secret,
        };
        let mut bytes = codec::encode(&encoded);
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.as_bytes()[..4]);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = TokenError;
    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let body = text.strip_prefix(PREFIX).ok_or(TokenError::Prefix)?;
        if body.len() > MAX_CHARS {
            return Err(TokenError::Damaged);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TokenError::Damaged)?;
        let (bytes, check) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if Digest::of(bytes).as_bytes()[..4] != *check {
            return Err(TokenError::Damaged);
        }
        let encoded: Encoded =
            codec::decode("join token", bytes).map_err(|_| TokenError::Damaged)?;
        Ok(Self {
            fleet: encoded.fleet,
            broker: encoded.broker,
            hub_key: encoded.hub_key,
            tls_pin: encoded.tls_pin,
            secret: TokenSecret {
                id: encoded.id,
                secret: encoded.secret,
            },
        })
    }
}
