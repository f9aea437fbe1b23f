//! nftables without `nft`: a table of ours, written whole in one transaction
//! and read back to see whether it is still what we wrote.
//!
//! | file | what |
//! |---|---|
//! | `rule` | chains, rules and expressions as values |
//! | `encode` | those values as netlink messages |
//! | `view` | what the kernel holds, comparable with a ruleset |
//! | `socket` | sends, asks, listens |
//!
//! Numbers and layouts are those of the kernel's
//! `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`.

mod encode;
mod rule;
mod socket;
mod view;

pub use encode::batch;
pub use rule::{Base, Chain, ChainKind, Compare, Expr, Hook, Rule, Ruleset, Wall};
pub use socket::{Nftables, NftablesError, watch};
pub use view::TableView;
