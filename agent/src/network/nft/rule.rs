//! A ruleset as values: chains, rules, and the expressions that rules are
//! made of. Every match loads into register 1 and compares; that is all that
//! our rules need.

use crate::network::prefix::Prefix;
use crate::network::wanted::Protocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A whole table of family `inet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// Its name.
    pub table: String,
    /// In no order that matters, except that a jump's target comes first.
    pub chains: Vec<Chain>,
    /// In the order of each chain.
    pub rules: Vec<Rule>,
}

/// A chain of rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// Where packets enter it; `None` for a chain that is only jumped to.
    pub base: Option<Base>,
}

/// Where packets enter a chain. Its policy is always accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// What it may do.
    pub kind: ChainKind,
    /// Where.
    pub hook: Hook,
    /// Its place among all chains of the hook; lower comes first.
    pub priority: i32,
}

/// What a chain may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainKind {
    /// Accept and drop.
    Filter,
    /// Change addresses, at the first packet of a connection.
    Nat,
}

/// A hook of the network stack, by the kernel's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// As it comes in.
    Prerouting = 0,
    /// For the device itself.
    Input = 1,
    /// Through the device.
    Forward = 2,
    /// From the device itself.
    Output = 3,
    /// As it goes out.
    Postrouting = 4,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Of which chain.
    pub chain: String,
    /// Shown by `nft list ruleset`; at most 120 bytes are kept.
    pub comment: String,
    /// All have to match, in this order; the last decides.
    pub exprs: Vec<Expr>,
}

/// How a loaded value compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// Equal.
    Is,
    /// Not equal.
    IsNot,
}

/// How a packet is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wall {
    /// A reset, for TCP only: a program sees "connection refused". It has no
    /// limit of its rate, as the others have.
    Reset,
    /// "Nobody listens": a program sees "connection refused".
    Port,
    /// "Forbidden": a program sees "no route to host".
    Forbidden,
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// The packet is IPv4, or IPv6.
    Family {
        /// IPv4.
        v4: bool,
    },
    /// It comes in by this interface, or by one whose name begins so.
    InterfaceIn(Compare, InterfaceName),
    /// It goes out by this interface, or by one whose name begins so.
    InterfaceOut(Compare, InterfaceName),
    /// Where it comes from. Goes after [`Expr::Family`].
    Source(Compare, Prefix),
    /// Where it goes. Goes after [`Expr::Family`].
    Destination(Compare, Prefix),
    /// Which protocol it carries, by number.
    L4(u8),
    /// From the first to the last destination port. Goes after [`Expr::L4`].
    Ports(u16, u16),
    /// The ICMP type. Goes after [`Expr::L4`].
    IcmpType(u8),
    /// It goes to an address of the device itself.
    ToLocal,
    /// It belongs to a connection that is known, or to one beside it.
    Established,
    /// It answers who began the connection.
    Answer,
    /// Its destination was changed by a rule.
    Redirected,
    /// Every n-th time.
    EachOf(u32),
    /// More than so many bytes a second, with so many at once.
    Over {
        /// Bytes in a second.
        rate: u64,
        /// Bytes.
        burst: u32,
    },
    /// Go through another chain, and come back.
    Jump(String),
    /// Back to the calling chain, or the end of this one.
    Return,
    /// Let it pass.
    Accept,
    /// Lose it.
    Drop,
    /// Refuse it with an answer.
    Reject(Wall),
    /// Send it there instead. A port of 0 leaves the port.
    Redirect(SocketAddr),
    /// Let it come from the address of the interface that it leaves by.
    Masquerade,
}

/// An interface's name, or how names of several begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceName {
    /// Just this one.
    One(String),
    /// All that begin so.
    Each(String),
}

impl From<&str> for InterfaceName {
    /// With a `*` at its end it is the beginning of names.
    fn from(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(begin) => Self::Each(begin.into()),
            None => Self::One(text.into()),
        }
    }
}

impl Rule {
    /// A rule that matches everything and does nothing yet.
    pub fn new(chain: &str, comment: impl Into<String>) -> Self {
        Self {
            chain: chain.into(),
            comment: comment.into(),
            exprs: Vec::new(),
        }
    }

    fn with(mut self, expr: Expr) -> Self {
        self.exprs.push(expr);
        self
    }

    /// Matches a family once: a rule about two addresses names it once.
    pub fn family(self, v4: bool) -> Self {
        let family = Expr::Family { v4 };
        match self.exprs.contains(&family) {
            true => self,
            false => self.with(family),
        }
    }

    /// `iifname`
    pub fn from_link(self, name: &str) -> Self {
        self.with(Expr::InterfaceIn(Compare::Is, name.into()))
    }

    /// `oifname`
    pub fn to_link(self, name: &str) -> Self {
        self.with(Expr::InterfaceOut(Compare::Is, name.into()))
    }

    /// `oifname !=`
    pub fn not_to_link(self, name: &str) -> Self {
        self.with(Expr::InterfaceOut(Compare::IsNot, name.into()))
    }

    /// `ip saddr`
    pub fn source(self, range: Prefix) -> Self {
        self.family(range.is_v4())
            .with(Expr::Source(Compare::Is, range))
    }

    /// `ip saddr !=`
    pub fn not_source(self, range: Prefix) -> Self {
        self.family(range.is_v4())
            .with(Expr::Source(Compare::IsNot, range))
    }

    /// `ip daddr`
    pub fn destination(self, range: Prefix) -> Self {
        self.family(range.is_v4())
            .with(Expr::Destination(Compare::Is, range))
    }

    /// `tcp dport`, `udp dport`
    pub fn ports(self, protocol: Protocol, first: u16, last: u16) -> Self {
        let number = match protocol {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
        };
        self.with(Expr::L4(number)).with(Expr::Ports(first, last))
    }

    /// `meta l4proto tcp`
    pub fn tcp(self) -> Self {
        self.with(Expr::L4(6))
    }

    /// `icmp type`
    pub fn icmp(self, kind: u8) -> Self {
        self.family(true)
            .with(Expr::L4(1))
            .with(Expr::IcmpType(kind))
    }

    /// `icmpv6 type`
    pub fn icmp6(self, kind: u8) -> Self {
        self.family(false)
            .with(Expr::L4(58))
            .with(Expr::IcmpType(kind))
    }

    /// `fib daddr type local`
    pub fn to_local(self) -> Self {
        self.with(Expr::ToLocal)
    }

    /// `ct state established,related`
    pub fn established(self) -> Self {
        self.with(Expr::Established)
    }

    /// `ct direction reply`
    pub fn answer(self) -> Self {
        self.with(Expr::Answer)
    }

    /// `ct status dnat`
    pub fn redirected(self) -> Self {
        self.with(Expr::Redirected)
    }

    /// `numgen inc mod`
    pub fn each_of(self, n: u32) -> Self {
        self.with(Expr::EachOf(n))
    }

    /// `limit rate over`
    pub fn over(self, rate: u64, burst: u32) -> Self {
        self.with(Expr::Over { rate, burst })
    }

    /// `jump`
    pub fn jump(self, chain: &str) -> Self {
        self.with(Expr::Jump(chain.into()))
    }

    /// `return`
    pub fn back(self) -> Self {
        self.with(Expr::Return)
    }

    /// `accept`
    pub fn accept(self) -> Self {
        self.with(Expr::Accept)
    }

    /// `drop`
    pub fn lose(self) -> Self {
        self.with(Expr::Drop)
    }

    /// `reject`
    pub fn reject(self, wall: Wall) -> Self {
        self.with(Expr::Reject(wall))
    }

    /// `dnat to`; a port of 0 leaves the port.
    pub fn redirect(self, to: IpAddr, port: u16) -> Self {
        self.family(to.is_ipv4())
            .with(Expr::Redirect(SocketAddr::new(to, port)))
    }

    /// `masquerade`
    pub fn masquerade(self) -> Self {
        self.with(Expr::Masquerade)
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The bytes of a mask of so many ones.
pub(super) fn mask(prefix: &Prefix) -> Vec<u8> {
    let ones = match prefix.is_v4() {
        true => IpAddr::V4(Ipv4Addr::from_bits(u32::MAX)),
        false => IpAddr::V6(Ipv6Addr::from_bits(u128::MAX)),
    };
    let all = Prefix::new(ones, prefix.prefix_len()).expect("the length fits the family");
    octets(all.network().address())
}
