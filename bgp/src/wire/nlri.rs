//! Prefixes in the form that UPDATE messages carry them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::reader::Reader;
use crate::family::Family;
use crate::prefix::Prefix;

/// Whether each prefix has a path identifier before it (RFC 7911 section 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PathIds {
    /// Four octets before each prefix.
    Present,
    /// None; all paths count as the one with identifier 0.
    Absent,
}

/// A run of prefixes of one family that was checked once and is read where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nlri<'a> {
    family: Family,
    path_ids: PathIds,
    bytes: &'a [u8],
}

impl<'a> Nlri<'a> {
    /// Checks that every length fits the family and the bytes; `None` if the prefixes cannot be told apart.
    pub(super) fn parse(family: Family, path_ids: PathIds, bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            next_path(family, path_ids, &mut reader)?;
        }
        Some(Self { family, path_ids, bytes })
    }

    /// The family of all the prefixes.
    pub fn family(self) -> Family {
        self.family
    }

    /// Whether there is no prefix.
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// The prefixes in the order of the message. Bits beyond a prefix's length are dropped (RFC 4271 section 4.3).
    pub fn iter(self) -> impl Iterator<Item = Prefix> + use<'a> {
        self.paths().map(|(_, prefix)| prefix)
    }

    /// The prefixes, each behind its path identifier, which is 0 where the session has none.
    pub fn paths(self) -> impl Iterator<Item = (u32, Prefix)> + use<'a> {
        let mut reader = Reader::new(self.bytes);
        std::iter::from_fn(move || next_path(self.family, self.path_ids, &mut reader))
    }
}

fn next_path(family: Family, path_ids: PathIds, reader: &mut Reader<'_>) -> Option<(u32, Prefix)> {
    let path_id = match path_ids {
        PathIds::Present => reader.u32()?,
        PathIds::Absent => 0,
    };
    Some((path_id, next_prefix(family, reader)?))
}

fn next_prefix(family: Family, reader: &mut Reader<'_>) -> Option<Prefix> {
    let length = reader.u8()?;
    let octets = reader.take(length.div_ceil(8).into())?;
    let address = match family {
        Family::Ipv4Unicast => IpAddr::V4(Ipv4Addr::from(padded::<4>(octets)?)),
        Family::Ipv6Unicast => IpAddr::V6(Ipv6Addr::from(padded::<16>(octets)?)),
    };
    Prefix::masked(address, length)
}

fn padded<const N: usize>(octets: &[u8]) -> Option<[u8; N]> {
    let mut array = [0; N];
    array.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(array)
}

/// Octets that the prefix takes on the wire, without a path identifier.
pub fn encoded_len(prefix: Prefix) -> usize {
    usize::from(prefix.length().div_ceil(8)).saturating_add(1)
}

/// Appends one prefix, behind its path identifier where the session has them.
pub fn encode(path_id: Option<u32>, prefix: Prefix, out: &mut Vec<u8>) {
    if let Some(path_id) = path_id {
        out.extend_from_slice(&path_id.to_be_bytes());
    }
    out.push(prefix.length());
    let octets = usize::from(prefix.length().div_ceil(8));
    match prefix.address() {
        IpAddr::V4(v4) => out.extend_from_slice(v4.octets().get(..octets).unwrap_or_default()),
        IpAddr::V6(v6) => out.extend_from_slice(v6.octets().get(..octets).unwrap_or_default()),
    }
}

/// A run of prefixes that was copied out of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedNlri {
    family: Family,
    path_ids: PathIds,
    bytes: Box<[u8]>,
}

impl OwnedNlri {
    /// The prefixes.
    pub fn borrowed(&self) -> Nlri<'_> {
        Nlri { family: self.family, path_ids: self.path_ids, bytes: &self.bytes }
    }
}

impl From<Nlri<'_>> for OwnedNlri {
    fn from(nlri: Nlri<'_>) -> Self {
        Self { family: nlri.family, path_ids: nlri.path_ids, bytes: nlri.bytes.into() }
    }
}
