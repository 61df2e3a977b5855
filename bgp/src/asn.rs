//! The autonomous system number.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A four-octet autonomous system number (RFC 6793). Never zero, which RFC 7607 reserves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Asn(u32);

impl Asn {
    /// What stands for a number above 65535 towards a speaker that knows two octets only (RFC 6793 section 9).
    pub const TRANS: Asn = Asn(23456);

    /// The number, unless it is zero.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The number as it goes on the wire.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Asn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AS{}", self.0)
    }
}

/// Text that is not an AS number between 1 and 4294967295.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("AS number `{0}`: expected a number from 1 to 4294967295")]
pub struct InvalidAsn(String);

impl FromStr for Asn {
    type Err = InvalidAsn;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| InvalidAsn(text.to_owned()))
    }
}

impl Serialize for Asn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.0)
    }
}

impl<'de> Deserialize<'de> for Asn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        Self::new(number).ok_or_else(|| serde::de::Error::custom(InvalidAsn(number.to_string())))
    }
}
