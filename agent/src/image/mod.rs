//! Images on the device: what is there, what is missing, and how a layer
//! becomes a directory.
//!
//! Everything here is synchronous and belongs into `smol::unblock`. The network
//! is the caller's: it asks [`ImageStore::status`] what is missing, pushes bytes
//! into [`ImageStore::begin`]'s writer, and calls [`ImageStore::unpack`].
//!
//! ```text
//! Missing(manifest) -> Missing(config) -> Missing(layers) -> Fetched -> Ready
//! ```
//!
//! A power cut at any byte leaves a blob or a layer as it was or as it shall
//! be: both are made under another name, synced, and renamed.

mod blob;
mod collect;
mod dir;
mod error;
mod files;
mod layer;
pub mod manifest;
pub mod store;
pub mod tar;
mod tree;
pub mod unpack;

pub use blob::BlobWriter;
pub use collect::{Collected, Moment, Policy, full_percent};
pub use error::{LayerName, StoreError};
pub use manifest::{ImageConfig, ManifestError};
pub use store::{ImageStore, Limits, Need, NeedKind, Status, UnpackedImage};
pub use unpack::{UnpackError, Unpacked};
