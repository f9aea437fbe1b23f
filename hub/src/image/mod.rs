//! Images on the hub: where they come from, what is kept, what a name means.
//!
//! All of it is synchronous and belongs into `smol::unblock`. An image comes
//! from a file ([`import`]) or a registry ([`registry`]); its blobs are in a
//! [`BlobStore`], and what is known of it is an [`Image`](crate::model::Image), for
//! the caller to keep. One is only made when every blob that it names is whole,
//! verified and on the disk; every layer was also decompressed once and is what
//! the config says, so that a broken image fails here and not on each device.

mod address;
pub mod assemble;
pub mod blob;
mod challenge;
pub mod credentials;
pub mod document;
pub mod import;
mod member;
pub mod pull;
pub mod reference;
pub mod registry;

pub use assemble::ImageError;
pub use blob::{BlobError, BlobStore};
pub use credentials::Credentials;
pub use import::{ImportError, ImportOptions, import_archive, import_path};
pub use pull::{Progress, PullError};
pub use reference::{Reference, ReferenceError};
pub use registry::{Registry, RegistryOptions};
