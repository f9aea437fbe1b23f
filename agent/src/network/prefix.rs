//! A range of addresses, IPv4 or IPv6: `10.209.0.0/16`.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its first bits count. The other bits are kept:
/// `10.209.0.1/22` is an address on a link, and [`Prefix::network`] its range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

/// A text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no range of addresses: write it as 10.209.0.0/16 or fd00::/64")]
pub struct PrefixError(String);

impl Prefix {
    /// Everything of IPv4.
    pub const ALL_V4: Self = Self::v4(Ipv4Addr::UNSPECIFIED, 0);
    /// Everything of IPv6.
    pub const ALL_V6: Self = Self::v6(Ipv6Addr::UNSPECIFIED, 0);

    /// `None` when the length is more than the address has bits.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        (len <= bits(&address)).then_some(Self { address, len })
    }

    /// One address alone.
    pub const fn host(address: IpAddr) -> Self {
        let len = bits(&address);
        Self { address, len }
    }

    /// An IPv4 range. Panics beyond 32 bits: for constants.
    pub const fn v4(address: Ipv4Addr, len: u8) -> Self {
        assert!(len <= 32);
        let address = IpAddr::V4(address);
        Self { address, len }
    }

    /// An IPv6 range. Panics beyond 128 bits: for constants.
    pub const fn v6(address: Ipv6Addr, len: u8) -> Self {
        assert!(len <= 128);
        let address = IpAddr::V6(address);
        Self { address, len }
    }

    /// The address with all its bits.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many bits count.
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// Whether it is IPv4.
    pub fn is_v4(&self) -> bool {
        self.address.is_ipv4()
    }

    /// The same range with the bits that do not count set to zero.
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.len))
                    .unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        };
        Self { address, ..*self }
    }

    /// Whether the address is in the range.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.is_v4()
            && Self {
                address,
                len: self.len,
            }
            .network()
                == self.network()
    }

    /// Whether the two ranges have an address in common.
    pub fn overlaps(&self, other: &Self) -> bool {
        match self.len <= other.len {
            true => self.contains(other.address),
            false => other.contains(self.address),
        }
    }
}

const fn bits(address: &IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let parsed = match text.split_once('/') {
            None => text.parse().ok().map(Self::host),
            Some((address, len)) => match (address.parse(), len.parse()) {
                (Ok(address), Ok(len)) => Self::new(address, len),
                _ => None,
            },
        };
        parsed.ok_or_else(|| PrefixError(text.into()))
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_and_overlap() {
        let wide: Prefix = "10.209.0.0/16".parse().unwrap();
        let narrow: Prefix = "10.209.4.0/22".parse().unwrap();
        let other: Prefix = "10.210.0.0/16".parse().unwrap();
        assert!(wide.overlaps(&narrow) && narrow.overlaps(&wide));
        assert!(!wide.overlaps(&other) && !other.overlaps(&narrow));
        assert!(narrow.contains("10.209.7.255".parse().unwrap()));
        assert!(!narrow.contains("10.209.8.0".parse().unwrap()));
        assert!(Prefix::ALL_V4.contains("1.2.3.4".parse().unwrap()));
        assert!(!Prefix::ALL_V4.contains("::1".parse().unwrap()));
        let inside: Prefix = "fd00::7/64".parse().unwrap();
        assert_eq!(inside.network().to_string(), "fd00::/64");
        assert!("10.0.0.0/33".parse::<Prefix>().is_err());
        assert!("10.0.0".parse::<Prefix>().is_err());
    }
}
