//! The BGP identifier of a speaker.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A router's identifier: four octets, not all zero (RFC 6286), written like an IPv4 address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BgpIdentifier(Ipv4Addr);

impl BgpIdentifier {
    /// The identifier, unless it is 0.0.0.0.
    pub fn new(octets: Ipv4Addr) -> Option<Self> {
        (!octets.is_unspecified()).then_some(Self(octets))
    }

    /// The identifier as it goes on the wire.
    pub fn octets(self) -> [u8; 4] {
        self.0.octets()
    }
}

impl fmt::Display for BgpIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for BgpIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for BgpIdentifier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BgpIdentifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(Ipv4Addr::deserialize(deserializer)?)
            .ok_or_else(|| serde::de::Error::custom("a BGP identifier cannot be 0.0.0.0"))
    }
}
