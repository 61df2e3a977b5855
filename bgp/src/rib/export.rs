//! What a peer is told about a path.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::decision::{DEFAULT_LOCAL_PREF, Source};
use crate::asn::Asn;
use crate::family::Family;
use crate::wire::attr::Community;
use crate::wire::{AsWidth, Attributes, NextHop, PeerKind, encode};

/// All that makes two peers be told the same (an update group).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportView {
    /// Whether the peers are in our AS.
    pub kind: PeerKind,
    /// Our AS.
    pub local_as: Asn,
    /// Octets of an AS number.
    pub as_width: AsWidth,
    /// Our own address as IPv4 next hop; without one no IPv4 route that needs it is told.
    pub next_hop_ipv4: Option<Ipv4Addr>,
    /// Our own address as IPv6 next hop; without one no IPv6 route that needs it is told.
    pub next_hop_ipv6: Option<Ipv6Addr>,
}

/// What a transformation depends on besides the attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExportKey {
    pub(super) group: u32,
    pub(super) source: Source,
    pub(super) family: Family,
}

impl ExportView {
    fn own_next_hop(&self, family: Family) -> Option<NextHop> {
        match family {
            Family::Ipv4Unicast => self.next_hop_ipv4.map(NextHop::V4),
            Family::Ipv6Unicast => self.next_hop_ipv6.map(|global| NextHop::V6 { global, link_local: None }),
        }
    }
}

/// The attributes to tell; `None` when the peers may not know the path or cannot.
pub(super) fn export(
    attributes: &Attributes,
    source: Source,
    family: Family,
    view: &ExportView,
) -> Option<Attributes> {
    // RFC 4271 section 9.2: what came from an internal peer is not told to another.
    if source == Source::Peer(PeerKind::Internal) && view.kind == PeerKind::Internal {
        return None;
    }
    let has = |community| attributes.communities.contains(&community);
    if has(Community::NO_ADVERTISE) {
        return None;
    }
    if view.kind == PeerKind::External && (has(Community::NO_EXPORT) || has(Community::NO_EXPORT_SUBCONFED)) {
        return None;
    }
    let mut told = attributes.clone();
    match view.kind {
        PeerKind::External => {
            told.as_path = told.as_path.prepended(view.local_as);
            told.next_hop = view.own_next_hop(family)?;
            told.local_pref = None;
            // Section 5.1.4: a MED from one neighbouring AS is not told to another.
            if source != Source::Local {
                told.med = None;
            }
        }
        PeerKind::Internal => {
            // Section 5.1.3: the next hop of an external path is left as it is.
            told.next_hop = match told.next_hop {
                NextHop::Local => view.own_next_hop(family)?,
                // A link-local address means nothing to a peer of another link.
                NextHop::V6 { global, .. } => NextHop::V6 { global, link_local: None },
                NextHop::V4(address) => NextHop::V4(address),
            };
            told.local_pref = told.local_pref.or(Some(DEFAULT_LOCAL_PREF));
        }
    }
    encode::fits(family, &told, view.as_width).then_some(told)
}
