//! Names on the bridge of a namespace: apps and services by us, all others by
//! the resolvers of the device.
//!
//! `web`, `web.<namespace>` and `web.<namespace>.skerry.internal` are the pods
//! of the app `web` that are ready, or the service of that name. Other names
//! below `skerry.internal` do not exist; everything else is passed on as it
//! came, without a cache of ours.

mod names;
mod server;

pub use names::{Names, Reply, reply};
pub use server::{NamesError, Resolvers, Responder, SharedNames};
