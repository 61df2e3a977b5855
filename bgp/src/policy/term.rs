//! A term: what it looks at, and what it does.

use std::net::IpAddr;
use std::sync::Arc;

use super::RouteKind;
use super::community::AnyCommunity;
use super::path_regex::PathRegex;
use super::prefix_list::PrefixList;
use super::{Announcer, Verdict};
use crate::asn::Asn;
use crate::family::Family;
use crate::prefix::Prefix;
use crate::wire::{Attributes, NextHop};

/// One step of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// For people.
    pub name: Option<String>,
    /// What is the same for all attributes.
    pub gate: Gate,
    /// What the attributes must have, all of it.
    pub conditions: Vec<AttributeMatch>,
    /// In place of `LOCAL_PREF`.
    pub local_preference: Option<u32>,
    /// In place of `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// Communities that replace all others.
    pub replace_communities: Option<Vec<AnyCommunity>>,
    /// Communities that go.
    pub remove_communities: Vec<AnyCommunity>,
    /// Communities that come.
    pub add_communities: Vec<AnyCommunity>,
    /// How often the nearest AS is said once more.
    pub prepend: u8,
    /// In place of `NEXT_HOP`.
    pub next_hop: Option<TermNextHop>,
    /// What is decided; `None` leaves it to the terms behind.
    pub then: Option<Verdict>,
}

/// A next hop that a term sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TermNextHop {
    /// Our address on the session.
    Own,
    /// This one, for routes of its family.
    Address(IpAddr),
}

/// What a term asks of a route besides its attributes; what is empty is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// Lists of which one must have the prefix.
    pub prefixes: Vec<Arc<PrefixList>>,
    /// The family.
    pub family: Option<Family>,
    /// Whose route it must be.
    pub peer: PeerMatch,
}

/// Whose route it must be; what is empty is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMatch {
    /// One of these has the neighbour's address.
    pub address: Vec<Prefix>,
    /// One of these is the neighbour's AS.
    pub asn: Vec<Asn>,
    /// The kind of the neighbour.
    pub kind: Option<RouteKind>,
}

/// What a term asks of the attributes; one of each list must be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeMatch {
    /// The AS is in `AS_PATH`.
    AsContained(Vec<Asn>),
    /// The AS is the last one of `AS_PATH`.
    AsOrigin(Vec<Asn>),
    /// The AS is the first one of `AS_PATH`.
    AsNeighbor(Vec<Asn>),
    /// The length of `AS_PATH` as route selection counts it.
    AsLength {
        /// At least.
        ge: usize,
        /// At most.
        le: usize,
    },
    /// `AS_PATH` fits the expression.
    AsPathRegex(Vec<PathRegex>),
    /// The path has the community.
    Community(Vec<AnyCommunity>),
    /// The next hop is in the prefix.
    NextHop(Vec<Prefix>),
}

impl Gate {
    /// Whether nothing is asked.
    pub fn is_open(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a route passes.
    pub fn admits(&self, prefix: Prefix, announcer: &Announcer) -> bool {
        self.family.is_none_or(|family| family == prefix.family())
            && self.peer.admits(announcer)
            && (self.prefixes.is_empty() || self.prefixes.iter().any(|list| list.contains(prefix)))
    }
}

impl PeerMatch {
    fn admits(&self, announcer: &Announcer) -> bool {
        let in_prefix = |address: IpAddr| self.address.iter().any(|prefix| prefix.contains(address));
        self.kind.is_none_or(|kind| kind == announcer.kind)
            && (self.address.is_empty() || announcer.address.is_some_and(in_prefix))
            && (self.asn.is_empty() || announcer.asn.is_some_and(|asn| self.asn.contains(&asn)))
    }
}

impl AttributeMatch {
    /// Whether the attributes meet it.
    pub fn is_met(&self, attributes: &Attributes) -> bool {
        let path = &attributes.as_path;
        match self {
            Self::AsContained(asns) => asns.iter().any(|asn| path.contains(*asn)),
            Self::AsOrigin(asns) => path.origin_as().is_some_and(|asn| asns.contains(&asn)),
            Self::AsNeighbor(asns) => path.neighbor_as().is_some_and(|asn| asns.contains(&asn)),
            Self::AsLength { ge, le } => (*ge..=*le).contains(&path.path_length()),
            Self::AsPathRegex(expressions) => expressions.iter().any(|expression| expression.is_match(path)),
            Self::Community(communities) => communities.iter().any(|community| community.is_in(attributes)),
            Self::NextHop(prefixes) => {
                let address: IpAddr = match attributes.next_hop {
                    NextHop::Local => return false,
                    NextHop::V4(address) => address.into(),
                    NextHop::V6 { global, .. } => global.into(),
                };
                prefixes.iter().any(|prefix| prefix.contains(address))
            }
        }
    }
}
