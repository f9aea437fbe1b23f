//! Identifiers, validated once: a value of these types is well formed.

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::str::FromStr;

/// Longest name (RFC 1123 label), in bytes.
pub const MAX_NAME_BYTES: usize = 63;

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The text is empty or longer than [`MAX_NAME_BYTES`].
    #[error("{what} '{text}' must have 1 to 63 characters")]
    Length {
        /// Which identifier was being read.
        what: &'static str,
        /// The text, cut to 80 characters.
        text: String,
    },
    /// A character outside a-z, 0-9 and '-', or '-' at either end.
    #[error(
        "{what} '{text}' may only use a-z, 0-9 and '-', and must start and end with a letter or digit"
    )]
    Characters {
        /// Which identifier was being read.
        what: &'static str,
        /// The text, cut to 80 characters.
        text: String,
    },
    /// Not `sha256:` and 64 lower-case hexadecimal digits.
    #[error("'{0}' is not a digest: expected sha256: and 64 hexadecimal digits")]
    Digest(String),
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn check_name(what: &'static str, text: &str) -> Result<(), IdError> {
    if text.is_empty() || text.len() > MAX_NAME_BYTES {
        return Err(IdError::Length {
            what,
            text: cut(text),
        });
    }
    let edge = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let inner = bytes.iter().all(|&b| edge(b) || b == b'-');
    if inner && edge(bytes[0]) && edge(bytes[bytes.len() - 1]) {
        Ok(())
    } else {
        Err(IdError::Characters {
            what,
            text: cut(text),
        })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Takes a valid name; see [`IdError`] for what is refused.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                check_name($what, &text)?;
                Ok(Self(text))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(d)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// The devices of one hub.
    FleetId, "fleet"
);
name_type!(
    /// One machine with an agent: a DNS label, unique in its fleet.
    DeviceId, "device"
);
name_type!(
    /// A config or secret: unique of its kind in its namespace.
    ConfigName, "config"
);
name_type!(
    /// A named volume: unique in its namespace on a device.
    VolumeName, "volume"
);
name_type!(
    /// A partition of the fleet for a team or an environment.
    Namespace, "namespace"
);
name_type!(
    /// The name of an app inside its namespace.
    AppName, "app"
);
name_type!(
    /// The name of a container inside its pod.
    ContainerName, "container"
);

impl Namespace {
    /// The namespace of whoever names none.
    pub fn default_namespace() -> Self {
        Self("default".into())
    }
}

/// An app, named in full.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AppRef {
    /// Where the name is unique.
    pub namespace: Namespace,
    /// The app's name.
    pub name: AppName,
}

impl fmt::Display for AppRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The SHA-256 of some bytes; shown as `sha256:` and 64 hexadecimal digits
/// (OCI image spec, descriptor digests).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm: what files are named by.
    pub fn hex(&self) -> String {
        // Names of containers are made of these at every decision of an agent:
        // by the formatter it takes twenty times as long.
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
        let halves = self.0.iter().flat_map(|byte| [byte >> 4, *byte]);
        halves.map(digit).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", &self.hex()[..12])
    }
}

impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError::Digest(cut(text));
        let hex = text.strip_prefix("sha256:").ok_or_else(wrong)?.as_bytes();
        let lower_hex = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
        if hex.len() != 64 || !hex.iter().all(lower_hex) {
            return Err(wrong());
        }
        let value = |b: u8| match b {
            b'0'..=b'9' => b - b'0',
            _ => b - b'a' + 10,
        };
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = value(pair[0]) << 4 | value(pair[1]);
        }
        Ok(Self(out))
    }
}

/// Text in formats that people read, 32 bytes in ours.
impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() {
            s.collect_str(self)
        } else {
            self.0.serialize(s)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            String::deserialize(d)?
                .parse()
                .map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(d).map(Self)
        }
    }
}

/// One immutable version of an app: the digest of its content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RevisionId(pub Digest);

impl RevisionId {
    /// Twelve hexadecimal digits: enough to tell revisions of one app apart.
    pub fn short(&self) -> String {
        self.0.hex()[..12].to_string()
    }
}

impl fmt::Display for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Debug for RevisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// The number of a device's desired state. It only rises; restoring a hub from
/// a backup adds [`Generation::RESTORE_STEP`], so that a device never meets an
/// old number with new content.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl Generation {
    /// What a restore adds: more than the applies of any hub's life.
    pub const RESTORE_STEP: u64 = 1 << 32;

    /// The generation after this one.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A sender's message number, which rises for as long as its keys live: the
/// count of its starts in the upper 32 bits, of its messages in the lower.
/// Starts are committed, messages are not, so numbering costs no write.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Seq(pub u64);

impl Seq {
    /// The number before the first message of the `start`th start.
    pub fn first_of_start(start: u32) -> Self {
        Self(u64::from(start) << 32)
    }

    /// Which start it is of.
    pub fn start(self) -> u32 {
        u32::try_from(self.0 >> 32).expect("32 of 64 bits")
    }

    /// The number after this one. A start that used up its 2^32 numbers flows
    /// over into the next start's, so a sender must stop there and start anew;
    /// at 1,000 messages a second that is after 49 days of one run.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A random number that an agent draws at each start. Commands carry it, so a
/// command recorded before a restart is worth nothing after it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionId(pub u64);

/// One stream (log, exec, blob) between hub and device. Streams that the hub
/// opens are even, those that a device opens odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StreamId(pub u64);

/// Milliseconds since 1970 by somebody's clock, which may be wrong: for people
/// to read, never to decide by on a device.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "kiosk-7", "0", &"x".repeat(63)] {
            assert!(DeviceId::new(good).is_ok(), "{good}");
        }
        for bad in [
            "", "-a", "a-", "A", "a.b", "a/b", "..", "a+", "#", "é", "a b",
        ] {
            assert!(DeviceId::new(bad).is_err(), "{bad}");
        }
        assert!(DeviceId::new("x".repeat(64)).is_err());
    }

    #[test]
    fn digest_reads_what_it_writes() {
        let digest = Digest::of(b"hello");
        assert_eq!(
            digest.to_string(),
            "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
        );
        assert_eq!(digest.to_string().parse::<Digest>(), Ok(digest));
        assert!("sha256:2CF2".parse::<Digest>().is_err());
        assert!(digest.to_string().to_uppercase().parse::<Digest>().is_err());
    }
}
