//! The device's own software: two places for it on the disk, one in use and
//! one to try. See [`slot`]; what is decided, `core/update.rs` decides.

pub mod artifact;
pub mod binary;
pub mod guard;
pub mod slot;
pub mod software;
pub mod starts;
mod stop;

pub use software::Software;

use crate::chain::chain;
use crate::config::Config;
use slot::Slots;
use std::path::Path;

/// What of this device can be updated. `exe` is this program's file.
pub fn slots_of(config: &Config, exe: &Path) -> Vec<Box<dyn Slots>> {
    let mut all: Vec<Box<dyn Slots>> = Vec::new();
    match binary::BinarySlots::open(&config.data_dir, exe, crate::release()) {
        Ok(slots) => all.push(Box::new(slots)),
        Err(error) => tracing::error!("the agent cannot be updated: {}", chain(&error)),
    }
    if let Some(slots) = crate::init::os::OsSlots::open() {
        all.push(Box::new(slots));
    }
    all
}
