//! The prefix that a route is about.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::family::Family;

/// An IPv4 or IPv6 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of this length around an address; `None` if the family has no such length.
    pub fn masked(address: IpAddr, length: u8) -> Option<Self> {
        let host_bits = u32::from(Family::of(address).address_bits().checked_sub(length)?);
        let address = match address {
            IpAddr::V4(v4) => {
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & u32::MAX.checked_shl(host_bits).unwrap_or(0)))
            }
            IpAddr::V6(v6) => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & u128::MAX.checked_shl(host_bits).unwrap_or(0)))
            }
        };
        Some(Self { address, length })
    }

    /// The prefix of one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: Family::of(address).address_bits() }
    }

    /// Whether the address is in the prefix.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Self::masked(address, self.length) == Some(self)
    }

    /// The first address.
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The number of leading bits that count.
    pub fn length(self) -> u8 {
        self.length
    }

    /// The family the prefix belongs to.
    pub fn family(self) -> Family {
        Family::of(self.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPrefix {
    /// Not of the form address/length.
    #[error("prefix `{0}`: expected address/length, such as 192.0.2.0/24")]
    Syntax(String),
    /// More bits than the family has.
    #[error("prefix `{0}`: the length is more than the address has bits")]
    Length(String),
    /// Bits set beyond the length.
    #[error("prefix `{text}`: has host bits set, did you mean {masked}?")]
    HostBits {
        /// What was written.
        text: String,
        /// The prefix without them.
        masked: Prefix,
    },
}

impl FromStr for Prefix {
    type Err = InvalidPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || InvalidPrefix::Syntax(text.to_owned());
        let (address, length) = text.split_once('/').ok_or_else(syntax)?;
        let address: IpAddr = address.parse().ok().ok_or_else(syntax)?;
        let length: u8 = length.parse().ok().ok_or_else(syntax)?;
        let masked = Self::masked(address, length).ok_or_else(|| InvalidPrefix::Length(text.to_owned()))?;
        if masked.address != address {
            return Err(InvalidPrefix::HostBits { text: text.to_owned(), masked });
        }
        Ok(masked)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_parsed_strictly() {
        let cases = [
            ("192.0.2.0/24", true),
            ("0.0.0.0/0", true),
            ("2001:db8::/32", true),
            ("::/0", true),
            ("2001:db8::1/128", true),
            ("192.0.2.1/24", false),
            ("192.0.2.0/33", false),
            ("2001:db8::/129", false),
            ("192.0.2.0", false),
            ("x/8", false),
        ];
        for (text, valid) in cases {
            let parsed = text.parse::<Prefix>();
            assert_eq!(parsed.is_ok(), valid, "{text}: {parsed:?}");
            if let Ok(prefix) = parsed {
                assert_eq!(prefix.to_string(), text);
            }
        }
    }
}
