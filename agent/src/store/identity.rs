//! The record of who a device is.

use serde::{Deserialize, Serialize};
use skerry_wire::seal::{KeyPair, PublicKey, TokenSecret};
use skerry_wire::{DeviceId, FleetId};

/// Who this device is, and how it reaches its hub.
#[derive(Clone, Serialize, Deserialize)]
pub struct IdentityRecord {
    /// The secret of its own key. Never leaves the device.
    pub key: [u8; 32],
    /// Its fleet.
    pub fleet: FleetId,
    /// The broker's address.
    pub broker: String,
    /// The hub's key.
    pub hub: PublicKey,
    /// The certificate that must be in the broker's chain.
    pub tls_pin: Option<[u8; 32]>,
    /// How far it is.
    pub standing: Standing,
    /// Ed25519 keys whose releases it may run as its own software.
    pub release_keys: Vec<[u8; 32]>,
}

/// How far a device is with joining.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// It asks, with a token.
    Joining {
        /// The token's number.
        token_id: [u8; 8],
        /// Its secret.
        token_secret: [u8; 32],
    },
    /// It is one.
    Joined {
        /// Its name.
        device: DeviceId,
        /// Its password at the broker.
        password: String,
    },
}

impl IdentityRecord {
    /// The key, if its bytes are one.
    pub fn key_pair(&self) -> Option<KeyPair> {
        KeyPair::from_secret_bytes(&self.key)
    }

    /// The token's secret while joining.
    pub fn token(&self) -> Option<TokenSecret> {
        match &self.standing {
            Standing::Joining {
                token_id,
                token_secret,
            } => Some(TokenSecret {
                id: *token_id,
                secret: *token_secret,
            }),
            Standing::Joined { .. } => None,
        }
    }
}

impl std::fmt::Debug for IdentityRecord {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IdentityRecord")
            .field("fleet", &self.fleet)
            .field("broker", &self.broker)
            .field("hub", &self.hub)
            .finish_non_exhaustive()
    }
}
