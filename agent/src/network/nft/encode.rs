//! A ruleset as the bytes of one nfnetlink transaction. All of it happens or
//! none of it, so packets never meet half a table.

use super::rule::{
    Base, Chain, ChainKind, Compare, Expr, InterfaceName, Rule, Ruleset, Wall, mask, octets,
};
use skerry_wire::Digest;

/// `NFNL_SUBSYS_NFTABLES`
const NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// `NLA_F_NESTED`
const NESTED: u16 = 1 << 15;

const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;

/// A comment in a rule's user data, as `nft` writes and reads it.
const USER_COMMENT: u8 = 0;
/// Our hash in a rule's user data, which `nft` passes over.
pub(super) const USER_HASH: u8 = 0x53;
/// Longest comment that `nft` shows, with its end: 128 bytes.
const MAX_COMMENT_BYTES: usize = 120;

/// What a rule is, in eight bytes of SHA-256 of its expressions.
pub(super) type RuleHash = [u8; 8];

/// One transaction, and what each of its messages is about.
#[derive(Debug)]
pub struct Batch {
    /// All messages.
    pub bytes: Vec<u8>,
    /// By sequence number.
    pub about: Vec<String>,
}

/// Replaces the table whole; with `None` removes the table of that name.
pub fn batch(table: &str, ruleset: Option<&Ruleset>) -> Batch {
    let mut batch = Batch {
        bytes: Vec::new(),
        about: Vec::new(),
    };
    batch.bound(NFNL_MSG_BATCH_BEGIN);
    // So that there is one to remove: removing none is an error.
    batch.table(NEW_TABLE, CREATE, table);
    batch.table(DELETE_TABLE, if ruleset.is_none() { ACK } else { 0 }, table);
    if let Some(ruleset) = ruleset {
        batch.table(NEW_TABLE, CREATE, table);
        for chain in &ruleset.chains {
            batch.chain(table, chain);
        }
        for (index, rule) in ruleset.rules.iter().enumerate() {
            let last = index + 1 == ruleset.rules.len();
            batch.rule(table, rule, if last { ACK } else { 0 });
        }
    }
    batch.bound(NFNL_MSG_BATCH_END);
    batch
}

/// A message that asks for all tables, chains or rules of the family.
pub(super) fn dump(kind: u16, sequence: u32) -> Vec<u8> {
    const DUMP: u16 = 0x300;
    let mut bytes = Vec::new();
    let header = Header {
        kind: NFTABLES << 8 | kind,
        flags: REQUEST | DUMP,
        sequence,
        family: INET,
        resource: 0,
    };
    message(&mut bytes, header, |_| ());
    bytes
}

struct Header {
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
}

fn message(bytes: &mut Vec<u8>, header: Header, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 4]);
    bytes.extend(header.kind.to_ne_bytes());
    bytes.extend(header.flags.to_ne_bytes());
    bytes.extend(header.sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    // `struct nfgenmsg`
    bytes.extend([header.family, 0]);
    bytes.extend(header.resource.to_be_bytes());
    body(bytes);
    let len = (bytes.len() - start) as u32;
    bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
}

fn attr(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    // Values are addresses, names and numbers of ours, far below 64 KiB.
    bytes.extend(((value.len() + 4) as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut value = value.as_bytes().to_vec();
    value.push(0);
    attr(bytes, kind, &value);
}

fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attr(bytes, kind, &value.to_be_bytes());
}

fn nest(bytes: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = bytes.len();
    bytes.extend([0; 2]);
    bytes.extend((kind | NESTED).to_ne_bytes());
    body(bytes);
    let len = (bytes.len() - start) as u16;
    bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
}

impl Batch {
    fn bound(&mut self, kind: u16) {
        let header = Header {
            kind,
            flags: REQUEST,
            sequence: self.about.len() as u32,
            family: 0,
            resource: NFTABLES,
        };
        self.about.push("the transaction".into());
        message(&mut self.bytes, header, |_| ());
    }

    fn add(&mut self, kind: u16, flags: u16, about: String, body: impl FnOnce(&mut Vec<u8>)) {
        let header = Header {
            kind: NFTABLES << 8 | kind,
            flags: REQUEST | flags,
            sequence: self.about.len() as u32,
            family: INET,
            resource: 0,
        };
        self.about.push(about);
        message(&mut self.bytes, header, body);
    }

    fn table(&mut self, kind: u16, flags: u16, name: &str) {
        self.add(kind, flags, format!("table {name}"), |bytes| {
            text(bytes, 1, name);
        });
    }

    fn chain(&mut self, table: &str, chain: &Chain) {
        let about = format!("chain {}", chain.name);
        self.add(NEW_CHAIN, CREATE, about, |bytes| {
            text(bytes, 1, table);
            text(bytes, 3, &chain.name);
            if let Some(Base {
                kind,
                hook,
                priority,
            }) = chain.base
            {
                nest(bytes, 4, |bytes| {
                    number(bytes, 1, hook as u32);
                    attr(bytes, 2, &priority.to_be_bytes());
                });
                const ACCEPT: u32 = 1;
                number(bytes, 5, ACCEPT);
                text(
                    bytes,
                    7,
                    match kind {
                        ChainKind::Filter => "filter",
                        ChainKind::Nat => "nat",
                    },
                );
            }
        });
    }

    fn rule(&mut self, table: &str, rule: &Rule, flags: u16) {
        let about = format!("rule '{}' of chain {}", rule.comment, rule.chain);
        let exprs = expressions(rule);
        let mut user = Vec::new();
        let mut comment = rule.comment.as_str();
        while comment.len() > MAX_COMMENT_BYTES {
            comment = &comment[..comment.floor_char_boundary(MAX_COMMENT_BYTES)];
        }
        user.extend([USER_COMMENT, comment.len() as u8 + 1]);
        user.extend(comment.as_bytes());
        user.push(0);
        let hash = hash(&exprs);
        user.extend([USER_HASH, hash.len() as u8]);
        user.extend(hash);
        self.add(NEW_RULE, CREATE | APPEND | flags, about, |bytes| {
            text(bytes, 1, table);
            text(bytes, 2, &rule.chain);
            nest(bytes, 4, |bytes| bytes.extend(&exprs));
            attr(bytes, 7, &user);
        });
    }
}

/// The hash that goes with a rule.
pub(super) fn rule_hash(rule: &Rule) -> RuleHash {
    hash(&expressions(rule))
}

fn hash(exprs: &[u8]) -> RuleHash {
    let digest = Digest::of(exprs);
    digest.as_bytes()[..8].try_into().expect("eight of 32")
}

fn expressions(rule: &Rule) -> Vec<u8> {
    let mut bytes = Vec::new();
    for expr in &rule.exprs {
        encode(&mut bytes, expr);
    }
    bytes
}

/// One `NFTA_LIST_ELEM` of an expression's name and data.
fn expr(bytes: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    nest(bytes, 1, |bytes| {
        text(bytes, 1, name);
        nest(bytes, 2, data);
    });
}

fn value(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    nest(bytes, kind, |bytes| attr(bytes, 1, value));
}

fn compare(bytes: &mut Vec<u8>, operator: u32, with: &[u8]) {
    expr(bytes, "cmp", |bytes| {
        number(bytes, 1, REG_1);
        number(bytes, 2, operator);
        value(bytes, 3, with);
    });
}

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

fn operator(compare: Compare) -> u32 {
    match compare {
        Compare::Is => EQUAL,
        Compare::IsNot => NOT_EQUAL,
    }
}

/// Loads something about the packet: `NFT_META_*`.
fn meta(bytes: &mut Vec<u8>, key: u32) {
    expr(bytes, "meta", |bytes| {
        number(bytes, 1, REG_1);
        number(bytes, 2, key);
    });
}

fn conntrack(bytes: &mut Vec<u8>, key: u32) {
    expr(bytes, "ct", |bytes| {
        number(bytes, 1, REG_1);
        number(bytes, 2, key);
    });
}

/// Loads bytes of the packet.
fn payload(bytes: &mut Vec<u8>, base: u32, offset: u32, len: u32) {
    expr(bytes, "payload", |bytes| {
        number(bytes, 1, REG_1);
        number(bytes, 2, base);
        number(bytes, 3, offset);
        number(bytes, 4, len);
    });
}

/// Keeps the bits of the mask.
fn masked(bytes: &mut Vec<u8>, mask: &[u8]) {
    expr(bytes, "bitwise", |bytes| {
        number(bytes, 1, REG_1);
        number(bytes, 2, REG_1);
        number(bytes, 3, mask.len() as u32);
        value(bytes, 4, mask);
        value(bytes, 5, &vec![0; mask.len()]);
    });
}

fn immediate(bytes: &mut Vec<u8>, register: u32, data: impl FnOnce(&mut Vec<u8>)) {
    expr(bytes, "immediate", |bytes| {
        number(bytes, 1, register);
        nest(bytes, 2, data);
    });
}

fn verdict(bytes: &mut Vec<u8>, code: i32, chain: Option<&str>) {
    immediate(bytes, REG_VERDICT, |bytes| {
        nest(bytes, 2, |bytes| {
            attr(bytes, 1, &code.to_be_bytes());
            if let Some(chain) = chain {
                text(bytes, 2, chain);
            }
        });
    });
}

/// `IFNAMSIZ`
const INTERFACE_NAME_BYTES: usize = 16;

fn interface(bytes: &mut Vec<u8>, key: u32, how: Compare, name: &InterfaceName) {
    meta(bytes, key);
    match name {
        InterfaceName::One(name) => {
            let mut padded = name.as_bytes().to_vec();
            padded.resize(INTERFACE_NAME_BYTES, 0);
            compare(bytes, operator(how), &padded);
        }
        InterfaceName::Each(begin) => compare(bytes, operator(how), begin.as_bytes()),
    }
}

/// Compares a range with the addresses at these offsets of the header.
fn address(
    bytes: &mut Vec<u8>,
    how: Compare,
    range: &crate::network::prefix::Prefix,
    v4_offset: u32,
    v6_offset: u32,
) {
    const NETWORK_HEADER: u32 = 1;
    let (offset, len) = match range.is_v4() {
        true => (v4_offset, 4),
        false => (v6_offset, 16),
    };
    payload(bytes, NETWORK_HEADER, offset, len);
    if u32::from(range.prefix_len()) < len * 8 {
        masked(bytes, &mask(range));
    }
    compare(bytes, operator(how), &octets(range.network().address()));
}

fn encode(bytes: &mut Vec<u8>, what: &Expr) {
    const TRANSPORT_HEADER: u32 = 2;
    match what {
        Expr::Family { v4 } => {
            meta(bytes, 15);
            compare(bytes, EQUAL, &[if *v4 { 2 } else { 10 }]);
        }
        Expr::InterfaceIn(how, name) => interface(bytes, 6, *how, name),
        Expr::InterfaceOut(how, name) => interface(bytes, 7, *how, name),
        Expr::Source(how, range) => address(bytes, *how, range, 12, 8),
        Expr::Destination(how, range) => address(bytes, *how, range, 16, 24),
        Expr::L4(protocol) => {
            meta(bytes, 16);
            compare(bytes, EQUAL, &[*protocol]);
        }
        Expr::Ports(first, last) => {
            payload(bytes, TRANSPORT_HEADER, 2, 2);
            if first == last {
                compare(bytes, EQUAL, &first.to_be_bytes());
            } else {
                compare(bytes, AT_LEAST, &first.to_be_bytes());
                compare(bytes, AT_MOST, &last.to_be_bytes());
            }
        }
        Expr::IcmpType(kind) => {
            payload(bytes, TRANSPORT_HEADER, 0, 1);
            compare(bytes, EQUAL, &[*kind]);
        }
        Expr::ToLocal => {
            const ADDRESS_TYPE: u32 = 3;
            const OF_DESTINATION: u32 = 2;
            const RTN_LOCAL: u32 = 2;
            expr(bytes, "fib", |bytes| {
                number(bytes, 1, REG_1);
                number(bytes, 2, ADDRESS_TYPE);
                number(bytes, 3, OF_DESTINATION);
            });
            compare(bytes, EQUAL, &RTN_LOCAL.to_ne_bytes());
        }
        Expr::Established => {
            const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
            conntrack(bytes, 0);
            masked(bytes, &ESTABLISHED_OR_RELATED.to_ne_bytes());
            compare(bytes, NOT_EQUAL, &0u32.to_ne_bytes());
        }
        Expr::Answer => {
            conntrack(bytes, 1);
            compare(bytes, EQUAL, &[1]);
        }
        Expr::Redirected => {
            const DNAT: u32 = 1 << 5;
            conntrack(bytes, 2);
            masked(bytes, &DNAT.to_ne_bytes());
            compare(bytes, NOT_EQUAL, &0u32.to_ne_bytes());
        }
        Expr::EachOf(n) => {
            expr(bytes, "numgen", |bytes| {
                number(bytes, 1, REG_1);
                number(bytes, 2, *n);
                number(bytes, 3, 0);
                number(bytes, 4, 0);
            });
            compare(bytes, EQUAL, &0u32.to_ne_bytes());
        }
        Expr::Over { rate, burst } => expr(bytes, "limit", |bytes| {
            const BYTES: u32 = 1;
            const OVER: u32 = 1;
            attr(bytes, 1, &rate.to_be_bytes());
            attr(bytes, 2, &1u64.to_be_bytes());
            number(bytes, 3, *burst);
            number(bytes, 4, BYTES);
            number(bytes, 5, OVER);
        }),
        Expr::Jump(chain) => verdict(bytes, -3, Some(chain)),
        Expr::Return => verdict(bytes, -5, None),
        Expr::Accept => verdict(bytes, 1, None),
        Expr::Drop => verdict(bytes, 0, None),
        Expr::Reject(wall) => expr(bytes, "reject", |bytes| {
            // `NFT_REJECT_*`, and a code where it is an ICMP error.
            const RESET: u32 = 1;
            const EITHER_FAMILY: u32 = 2;
            let code = match wall {
                Wall::Reset => return number(bytes, 1, RESET),
                Wall::Port => 1,
                Wall::Forbidden => 3,
            };
            number(bytes, 1, EITHER_FAMILY);
            attr(bytes, 2, &[code]);
        }),
        Expr::Redirect(to) => {
            immediate(bytes, REG_1, |bytes| attr(bytes, 1, &octets(to.ip())));
            if to.port() != 0 {
                immediate(bytes, REG_2, |bytes| {
                    attr(bytes, 1, &to.port().to_be_bytes());
                });
            }
            expr(bytes, "nat", |bytes| {
                const DESTINATION: u32 = 1;
                number(bytes, 1, DESTINATION);
                number(bytes, 2, if to.is_ipv4() { 2 } else { 10 });
                number(bytes, 3, REG_1);
                if to.port() != 0 {
                    number(bytes, 5, REG_2);
                }
            });
        }
        Expr::Masquerade => expr(bytes, "masq", |_| ()),
    }
}
