//! The HTTP API: JSON over HTTP/1.1 with a bearer token, as `openapi.json`
//! says. `routes.rs` is the list of what there is; the other files answer.

mod apps;
mod body;
mod configs;
mod devices;
mod error;
mod fits;
mod fleet;
mod images;
mod releases;
mod routes;
mod serve;
mod streams;
pub mod types;
mod view;
mod volumes;

pub use error::Failure;
pub use images::UPLOADS_DIR;
pub use routes::{documented, router};
pub use serve::{Listener, serve};

use crate::images::Images;
use crate::shell::Hub;
use crate::store::Store;
use skerry_wire::Timestamp;
use std::path::PathBuf;
use std::sync::Arc;

/// The document that describes the API.
pub const OPENAPI: &str = include_str!("openapi.json");

/// What the handlers need.
pub struct Api {
    /// The door to the fleet.
    pub hub: Hub,
    /// Images and blobs.
    pub images: Arc<dyn Images>,
    /// For backups.
    pub store: Arc<Store>,
    /// The data directory.
    pub data: PathBuf,
    /// What operators must show.
    pub operator_token: String,
    /// What devices dial.
    pub device_broker: String,
    /// The broker is ours.
    pub embedded_broker: bool,
    /// What a device finds in that broker's chain.
    pub tls_pin: Option<[u8; 32]>,
    /// Devices wait in the lobby unless their token says otherwise.
    pub manual_approval: bool,
    /// When this hub started.
    pub started: Timestamp,
    /// Where streams run.
    pub executor: Arc<smol::Executor<'static>>,
}

/// What handlers get.
pub type State = axum::extract::State<Arc<Api>>;
