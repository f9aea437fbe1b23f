//! What a device's own software and line shall be: orders that a device tries
//! and keeps only when they prove themselves (commit-confirmed).

use crate::codec::{decode, encode};
use crate::id::Digest;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A change of the device itself. It is tried once, and undone unless the
/// device passes its own checks and hears the hub's acknowledgement in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateOrder {
    /// Rises for each attempt of the fleet: a device never tries one twice.
    pub order: u64,
    /// Seconds from the switch until it must be confirmed.
    pub confirm_secs: u32,
    /// What to change.
    pub body: UpdateBody,
}

impl UpdateOrder {
    /// Least time to confirm in, in seconds: a slow board must boot in it.
    pub const MIN_CONFIRM_SECS: u32 = 10;
    /// Most, in seconds: one day.
    pub const MAX_CONFIRM_SECS: u32 = 86_400;
}

/// What an order changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateBody {
    /// Run this release. Its artifact is fetched as a blob by its digest.
    Release(SignedRelease),
    /// Reach the hub at another address from now on.
    Line {
        /// As in a join token: `mqtts://hub.example:8883`.
        broker: String,
        /// SHA-256 of the certificate that must be in the broker's chain.
        tls_pin: Option<[u8; 32]>,
    },
}

/// A [`Release`] as its maker signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRelease {
    /// The encoded [`Release`].
    pub statement: Vec<u8>,
    /// The Ed25519 key that signed it; the device must know it already.
    pub key: [u8; 32],
    /// Its signature over [`SignedRelease::CONTEXT`] and `statement`, 64 bytes.
    pub signature: Vec<u8>,
}

impl SignedRelease {
    /// Put before the statement when it is signed and verified, so that the
    /// signature can mean nothing else.
    pub const CONTEXT: &'static [u8] = b"skerry release v1\0";
    /// Longest statement, in bytes.
    pub const MAX_STATEMENT_BYTES: usize = 4096;
}

/// Why a release is not believed, or makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// The signer is a stranger.
    #[error(
        "the release is signed with key {key}, which is not trusted here ({trusted} other keys are)"
    )]
    UnknownKey {
        /// Its first digits.
        key: String,
        /// How many keys are trusted.
        trusted: usize,
    },
    /// Not what was signed.
    #[error("the release's signature is wrong: it was changed after it was signed")]
    Signature,
    /// Signed, but no statement.
    #[error("the release's statement cannot be read: {0}")]
    Unreadable(String),
    /// A statement that says nothing useful. The text says what is wrong.
    #[error("the release {0}")]
    Invalid(String),
    /// The key's secret is no key.
    #[error("this is no Ed25519 secret key")]
    Secret,
}

/// First digits of a release key, as people tell keys apart.
pub fn key_name(key: &[u8; 32]) -> String {
    key[..6].iter().map(|b| format!("{b:02x}")).collect()
}

/// The public key of a 32-byte Ed25519 secret.
pub fn release_key(secret: &[u8; 32]) -> Result<[u8; 32], ReleaseError> {
    let pair = Ed25519KeyPair::from_seed_unchecked(secret).map_err(|_| ReleaseError::Secret)?;
    let public = pair.public_key().as_ref();
    public.try_into().map_err(|_| ReleaseError::Secret)
}

impl SignedRelease {
    /// Signs a release with a 32-byte Ed25519 secret. Refuses one that no
    /// device would take.
    pub fn sign(release: &Release, secret: &[u8; 32]) -> Result<Self, ReleaseError> {
        release.check()?;
        let pair = Ed25519KeyPair::from_seed_unchecked(secret).map_err(|_| ReleaseError::Secret)?;
        let statement = encode(release);
        if statement.len() > Self::MAX_STATEMENT_BYTES {
            let text = format!("has more than {} bytes", Self::MAX_STATEMENT_BYTES);
            return Err(ReleaseError::Invalid(text));
        }
        let signature = pair.sign(&[Self::CONTEXT, &statement].concat());
        Ok(Self {
            key: release_key(secret)?,
            signature: signature.as_ref().to_vec(),
            statement,
        })
    }

    /// The release, if one of these keys signed it and it makes sense.
    pub fn open(&self, trusted: &[[u8; 32]]) -> Result<Release, ReleaseError> {
        if !trusted.contains(&self.key) {
            return Err(ReleaseError::UnknownKey {
                key: key_name(&self.key),
                trusted: trusted.len(),
            });
        }
        if self.statement.len() > Self::MAX_STATEMENT_BYTES {
            return Err(ReleaseError::Unreadable("it is too long".into()));
        }
        UnparsedPublicKey::new(&ED25519, &self.key)
            .verify(&[Self::CONTEXT, &self.statement].concat(), &self.signature)
            .map_err(|_| ReleaseError::Signature)?;
        let release: Release = decode("release", &self.statement)
            .map_err(|error| ReleaseError::Unreadable(error.to_string()))?;
        release.check()?;
        Ok(release)
    }
}

impl Release {
    /// Longest version, in bytes.
    pub const MAX_VERSION_BYTES: usize = 64;
    /// Most platforms of one release.
    pub const MAX_ARTIFACTS: usize = 32;
    /// Largest artifact: more than any system image of ours.
    pub const MAX_ARTIFACT_BYTES: u64 = 4 << 30;

    /// Whether this can be a release at all.
    pub fn check(&self) -> Result<(), ReleaseError> {
        let invalid = |text: String| Err(ReleaseError::Invalid(text));
        let fine = |b: u8| b.is_ascii_alphanumeric() || b".-+_~".contains(&b);
        let version = &self.version;
        if version.is_empty()
            || version.len() > Self::MAX_VERSION_BYTES
            || !version.bytes().all(fine)
        {
            return invalid(format!(
                "is called '{version}': a version has 1 to {} letters, digits and .-+_~",
                Self::MAX_VERSION_BYTES
            ));
        }
        if self.artifacts.is_empty() || self.artifacts.len() > Self::MAX_ARTIFACTS {
            return invalid(format!("has no file, or more than {}", Self::MAX_ARTIFACTS));
        }
        let mut platforms = BTreeSet::new();
        for artifact in &self.artifacts {
            let platform = artifact.platform();
            if artifact.size == 0 || artifact.size > Self::MAX_ARTIFACT_BYTES {
                return invalid(format!(
                    "has {} bytes for {platform}, 1 to {} are possible",
                    artifact.size,
                    Self::MAX_ARTIFACT_BYTES
                ));
            }
            if !platforms.insert(platform.clone()) {
                return invalid(format!("has {platform} twice"));
            }
        }
        Ok(())
    }

    /// The artifact that suits a machine best.
    pub fn artifact_for(&self, arch: &str, variant: &str) -> Option<&Artifact> {
        self.artifacts
            .iter()
            .filter_map(|a| Some((a.suits(arch, variant)?, a)))
            .max_by_key(|(level, _)| *level)
            .map(|(_, artifact)| artifact)
    }
}

impl Artifact {
    /// `arm64`, `arm/v7`.
    pub fn platform(&self) -> String {
        if self.variant.is_empty() {
            self.arch.clone()
        } else {
            format!("{}/{}", self.arch, self.variant)
        }
    }

    /// How well it suits a machine, the higher the better. Variants of one
    /// architecture run what lower ones run; none at all is the lowest.
    fn suits(&self, arch: &str, variant: &str) -> Option<u32> {
        let level = |text: &str| -> u32 {
            let digits = text.strip_prefix('v').unwrap_or(text);
            digits.parse().unwrap_or(0)
        };
        // Every arm64 is a v8, and says so or not.
        let (mine, theirs) = match arch {
            "arm64" => (level(&self.variant).max(8), level(variant).max(8)),
            _ => (level(&self.variant), level(variant)),
        };
        (self.arch == arch && mine <= theirs).then_some(mine)
    }
}

impl ReleaseKind {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            ReleaseKind::Agent => "agent",
            ReleaseKind::Os => "os",
        }
    }
}

/// One version of a device's software, for every platform it was built for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which software.
    pub kind: ReleaseKind,
    /// As the software itself says it: `0.2.0`.
    pub version: String,
    /// One for each platform.
    pub artifacts: Vec<Artifact>,
}

/// Which software of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReleaseKind {
    /// The agent's program; containers keep running.
    Agent,
    /// The whole system of a device that runs our minimal image; reboots.
    Os,
}

/// A release's bytes for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// OCI's name of the architecture, as in [`Facts`](crate::report::Facts).
    pub arch: String,
    /// OCI's variant, or empty.
    pub variant: String,
    /// The program, or the system's image.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
}

/// How the newest order of one kind fares on a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    /// Which order.
    pub order: u64,
    /// How far it is.
    pub state: UpdateState,
}

/// How far an order is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateState {
    /// Bytes are on their way.
    Fetching {
        /// Bytes here.
        done_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// Switched, not confirmed yet.
    Trying,
    /// In use for good.
    Confirmed,
    /// Not even tried, and why, with the remedy.
    Refused {
        /// A sentence for people.
        reason: String,
    },
    /// Tried and undone, and why.
    RolledBack {
        /// A sentence for people.
        reason: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(arch: &str, variant: &str) -> Artifact {
        Artifact {
            arch: arch.into(),
            variant: variant.into(),
            digest: Digest::of(variant.as_bytes()),
            size: 7,
        }
    }

    fn release() -> Release {
        Release {
            kind: ReleaseKind::Agent,
            version: "0.2.0".into(),
            artifacts: vec![
                artifact("arm", "v6"),
                artifact("arm", "v7"),
                artifact("arm64", ""),
            ],
        }
    }

    #[test]
    fn only_what_a_known_key_signed_is_believed() {
        let (ours, other) = ([1; 32], [2; 32]);
        let signed = SignedRelease::sign(&release(), &ours).unwrap();
        let known = release_key(&ours).unwrap();
        assert_eq!(signed.open(&[[9; 32], known]).unwrap(), release());
        let stranger = SignedRelease::sign(&release(), &other).unwrap();
        assert!(matches!(
            stranger.open(&[known]),
            Err(ReleaseError::UnknownKey { trusted: 1, .. })
        ));
        // Another's statement under our key's name.
        let forged = SignedRelease {
            key: known,
            ..stranger
        };
        assert_eq!(forged.open(&[known]), Err(ReleaseError::Signature));
        for at in 0..signed.statement.len() {
            let mut changed = signed.clone();
            changed.statement[at] ^= 1;
            assert_eq!(changed.open(&[known]), Err(ReleaseError::Signature));
        }
        // A signature over the bare statement means something else.
        let pair = Ed25519KeyPair::from_seed_unchecked(&ours).unwrap();
        let mut bare = signed.clone();
        bare.signature = pair.sign(&signed.statement).as_ref().to_vec();
        assert_eq!(bare.open(&[known]), Err(ReleaseError::Signature));
    }

    #[test]
    fn what_no_device_would_take_is_not_signed() {
        for spoil in [
            |r: &mut Release| r.version = String::new(),
            |r: &mut Release| r.version = "../x".into(),
            |r: &mut Release| r.artifacts.clear(),
            |r: &mut Release| r.artifacts[0].size = 0,
            |r: &mut Release| r.artifacts[1] = r.artifacts[0].clone(),
        ] {
            let mut spoiled = release();
            spoil(&mut spoiled);
            assert!(SignedRelease::sign(&spoiled, &[1; 32]).is_err());
        }
    }

    #[test]
    fn a_machine_gets_the_best_that_it_can_run() {
        let release = release();
        let best = |arch, variant| release.artifact_for(arch, variant).map(Artifact::platform);
        assert_eq!(best("arm", "v7").as_deref(), Some("arm/v7"));
        assert_eq!(best("arm", "v6").as_deref(), Some("arm/v6"));
        assert_eq!(best("arm", ""), None);
        assert_eq!(best("arm64", "v8").as_deref(), Some("arm64"));
        assert_eq!(best("amd64", ""), None);
    }
}
