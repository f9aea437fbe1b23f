//! The agent's life: opens the store, becomes a device if it is none yet, then
//! runs the engine; and what `reset` takes away.

mod empty;
mod error;
mod join;
mod life;
mod open;
mod setup;

pub use empty::{reset_alone, stop_alone};
pub use error::AgentError;
pub use join::join_alone;
pub use life::{Next, run};
pub use open::probe;
