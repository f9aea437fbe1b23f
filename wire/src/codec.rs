//! Values to bytes and back: postcard, nothing left over.

use serde::{Serialize, de::DeserializeOwned};

/// Bytes that are not the value they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Cut short, or a value outside its type.
    #[error("malformed {what}: {source}")]
    Malformed {
        /// What was being decoded.
        what: &'static str,
        /// What postcard says.
        source: postcard::Error,
    },
    /// More bytes than the value has: another version's, or garbage.
    #[error("malformed {what}: {extra} bytes too many")]
    Trailing {
        /// What was being decoded.
        what: &'static str,
        /// How many bytes were left.
        extra: usize,
    },
}

/// The value as postcard. Memory is the only thing that can run out.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("types of this crate encode: no maps of unknown length")
}

/// The value that `bytes` hold, all of them. `what` names it in errors.
pub fn decode<T: DeserializeOwned>(what: &'static str, bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, rest) = postcard::take_from_bytes(bytes)
        .map_err(|source| DecodeError::Malformed { what, source })?;
    match rest.len() {
        0 => Ok(value),
        extra => Err(DecodeError::Trailing { what, extra }),
    }
}
