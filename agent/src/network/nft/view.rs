//! What the kernel holds of our table, as far as it matters: read back from
//! its answers, or worked out from a ruleset. Equal views mean that nothing
//! has to be written.
//!
//! A rule is known by the hash that we put into its user data: whoever
//! replaces it with another leaves that out.

use super::encode::{RuleHash, USER_HASH, rule_hash};
use super::rule::Ruleset;
use std::collections::BTreeMap;

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableView {
    /// `NFT_TABLE_F_DORMANT` and others: 0 for one that works.
    pub flags: u32,
    /// By name.
    pub chains: BTreeMap<String, ChainView>,
}

/// A chain of a table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChainView {
    /// Hook and priority.
    pub base: Option<(u32, i32)>,
    /// `NF_ACCEPT` is 1; 1 also where there is none.
    pub policy: u32,
    /// In order; `None` for one that is not ours.
    pub rules: Vec<Option<RuleHash>>,
}

impl TableView {
    /// How the ruleset looks once it is in the kernel.
    pub fn of(ruleset: &Ruleset) -> Self {
        let mut view = Self::default();
        for chain in &ruleset.chains {
            let shown = ChainView {
                base: chain.base.map(|base| (base.hook as u32, base.priority)),
                policy: 1,
                rules: Vec::new(),
            };
            view.chains.insert(chain.name.clone(), shown);
        }
        for rule in &ruleset.rules {
            let chain = view.chains.entry(rule.chain.clone()).or_default();
            chain.rules.push(Some(rule_hash(rule)));
        }
        view
    }

    /// Takes one answer about a chain; `false` when it is of another table.
    pub(super) fn add_chain(&mut self, table: &str, attributes: &[u8]) -> bool {
        let mut chain = ChainView {
            policy: 1,
            ..ChainView::default()
        };
        let mut name = None;
        let mut of = None;
        for (kind, value) in attributes_of(attributes) {
            match kind {
                1 => of = text(value),
                3 => name = text(value),
                4 => chain.base = base(value),
                5 => chain.policy = number(value).unwrap_or(0),
                _ => (),
            }
        }
        let (Some(name), Some(of)) = (name, of) else {
            return false;
        };
        if of == table {
            self.chains.insert(name, chain);
        }
        of == table
    }

    /// Takes one answer about a rule; `false` when it is of another table.
    pub(super) fn add_rule(&mut self, table: &str, attributes: &[u8]) -> bool {
        let mut hash = None;
        let mut chain = None;
        let mut of = None;
        for (kind, value) in attributes_of(attributes) {
            match kind {
                1 => of = text(value),
                2 => chain = text(value),
                7 => hash = user_hash(value),
                _ => (),
            }
        }
        let (Some(chain), Some(of)) = (chain, of) else {
            return false;
        };
        if of == table {
            self.chains.entry(chain).or_default().rules.push(hash);
        }
        of == table
    }
}

/// The table's name and flags in an answer about a table.
pub(super) fn table(attributes: &[u8]) -> Option<(String, u32)> {
    let mut name = None;
    let mut flags = 0;
    for (kind, value) in attributes_of(attributes) {
        match kind {
            1 => name = text(value),
            2 => flags = number(value)?,
            _ => (),
        }
    }
    Some((name?, flags))
}

fn base(nested: &[u8]) -> Option<(u32, i32)> {
    let mut hook = None;
    let mut priority = None;
    for (kind, value) in attributes_of(nested) {
        match kind {
            1 => hook = number(value),
            2 => priority = number(value),
            _ => (),
        }
    }
    Some((hook?, priority? as i32))
}

/// Kind, length, value; each a byte, a byte and bytes.
fn user_hash(mut user: &[u8]) -> Option<RuleHash> {
    while let [kind, len, rest @ ..] = user {
        let value = rest.get(..usize::from(*len))?;
        if *kind == USER_HASH {
            return value.try_into().ok();
        }
        user = &rest[value.len()..];
    }
    None
}

fn text(value: &[u8]) -> Option<String> {
    let value = value.strip_suffix(&[0]).unwrap_or(value);
    String::from_utf8(value.to_vec()).ok()
}

fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// Netlink attributes as far as they are whole; flags are taken off the kind.
pub(super) fn attributes_of(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [a, b, c, d, ..] = *bytes else {
            return None;
        };
        let len = usize::from(u16::from_ne_bytes([a, b]));
        let kind = u16::from_ne_bytes([c, d]) & 0x3fff;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut view = TableView::default();
            view.add_chain("t", &bytes);
            view.add_rule("t", &bytes);
            table(&bytes);
            user_hash(&bytes);
            base(&bytes);
        }
    }
}
