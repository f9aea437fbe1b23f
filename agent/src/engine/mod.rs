//! The only loop: takes one event, asks the core, carries its effects out in
//! their order. Decides nothing.

mod apps;
mod asked;
mod clock_watch;
mod collect;
mod commit;
mod effects;
mod pause;
mod run;
mod updates;
mod volumes;

pub use asked::shown_broker;
pub use run::{Ending, Engine, EngineError, Setup};
