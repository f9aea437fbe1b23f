//! The fleet core: `Fleet::handle(now, event) -> effects`. Pure: no clock, no
//! randomness, no log, no path, nothing asynchronous. The shell commits, seals
//! and sends; the simulation does the same on a virtual clock.

pub mod event;
pub mod record;

pub use event::{
    Answer, AppAction, Effect, Event, Input, Open, Outgoing, Refused, RefusedKind, RequestId,
    StreamOutput,
};
pub use record::{
    AppRecord, Change, DeviceRecord, EventRecord, HubRecord, Records, RevokedKey, Standing,
    TokenRecord,
};
