//! Networks of pods on a device of namespaces: the device is a network
//! namespace of its own, "outside" another one beside it, and each pod one.
//! Nothing here touches the network of the machine that it runs on.
//!
//! `ip` and `nft` build what is around and look from outside; the agent itself
//! needs neither.

mod attach;
mod damage;
mod names;
mod rules;
mod traffic;
mod world;
