//! What must survive: one redb file, one commit for each change, none when
//! idle. The identity is also kept in a small file of its own, so that a broken
//! store costs a resync and not a new join.
//!
//! ```text
//! <data dir>/agent.redb      everything
//! <data dir>/identity        the identity once more, for the day the above breaks
//! <data dir>/agent.redb.broken-<n>   a store that could not be opened
//! <data dir>/agent.redb.before-update   as it was when another agent was tried
//! ```
//!
//! Values are a version byte and postcard. A released record type is frozen:
//! growth is a new version.

mod dir;
mod error;
mod identity;
mod probe;
mod records;
mod spare;

pub use dir::{Reopened, StoreDir, file, lay_memory, take_snapshot};
pub use error::StoreError;
pub use identity::{IdentityRecord, Standing};
pub use probe::probe;
pub use records::Store;
pub use spare::look_up_identity;
