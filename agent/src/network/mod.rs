//! Networks of pods: a bridge for each namespace, addresses, published ports,
//! services, names, and what pods may reach.
//!
//! | file | what |
//! |---|---|
//! | `attach` | what the machine calls: attach, detach, mend, answer names |
//! | `wanted` | what shall be |
//! | `lease` | who has which address |
//! | `rules` | the nftables table that belongs to it (pure) |
//! | `plan` | what has to change (pure) |
//! | `device` | looks, plans, changes, looks again |
//! | `route`, `nft` | netlink: interfaces and routes; nftables |
//! | `watch` | wakes up when somebody else changes something |
//! | `dns` | names on the bridge |
//! | `files` | `/etc/hosts`, `resolv.conf`, `hostname` |
//!
//! No program of the device is run: neither `ip` nor `nft` needs to be there.

pub mod attach;
pub mod device;
pub mod dns;
pub mod files;
pub mod lease;
pub mod nft;
pub mod plan;
#[cfg(test)]
mod plan_tests;
pub mod prefix;
mod route;
pub mod rules;
pub mod wanted;
pub mod watch;

pub use attach::{AttachError, Attached, Attachment, PodNetworks, Shape};
pub use device::{NetworkError, Networks, Outcome, Trouble};
pub use lease::{Layout, Leases, Pool};
pub use prefix::Prefix;
pub use wanted::{Pod, PodId, Wanted};
pub use watch::Watch;
