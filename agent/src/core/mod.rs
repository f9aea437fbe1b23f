//! The agent's brain: `Core::handle(now, event) -> effects`. Pure: no clock, no
//! randomness, no log, no path, nothing asynchronous. The shell commits, seals,
//! sends and acts; the simulation does the same on a virtual clock.
//!
//! Ledger (what we did) and observed (what the machine says) are kept apart,
//! and [`plan`](plan::plan) settles between them. Every effect that changes the
//! machine stands behind the commit of what it does to the ledger.

#![forbid(unsafe_code)]

pub mod action;
pub mod dependency;
pub mod devices;
pub mod event;
pub mod fetch;
pub mod health;
pub mod inbox;
pub mod join;
pub mod journal;
pub mod ledger;
pub mod name;
pub mod observed;
pub mod order;
pub mod plan;
pub mod record;
pub mod replace;
pub mod report;
pub mod resize;
pub mod streams;
pub mod update;
pub mod work;

mod asked;
mod command;
mod configs;
mod desired;
mod handle;
mod network;
mod outcome;
mod probes;
mod replacing;
mod settle;
mod view;

pub use asked::WaitingUpdate;
pub use devices::{DevicesSeen, Presence, WatchedDevice};
pub use event::{
    Configs, CreateContainer, Effect, Event, HookKind, ImageStatus, LogPlace, MissingBlob, Now,
    Outgoing, OutgoingReport,
};
pub use handle::{Core, Identity, Start};
pub use network::PodShape;
pub use record::{Change, DesiredRecord, Records};
pub use resize::Carried;
