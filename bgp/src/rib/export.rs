//! What a peer is told about a path.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::decision::DEFAULT_LOCAL_PREF;
use super::peer::{Policy, Source};
use crate::asn::Asn;
use crate::family::Family;
use crate::policy::{Outcome, Signature, TermNextHop, Verdict};
use crate::wire::attr::Community;
use crate::wire::{AsWidth, Attributes, NextHop, PeerKind, encode};

/// The part of an update group's identity that comes from our end of the session.
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

/// What the transformation depends on besides the attributes and the family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    pub(super) view: ExportView,
    /// Octets in the longest message, without a path identifier.
    pub(super) message_limit: usize,
    pub(super) extended_next_hop: bool,
    pub(super) client: bool,
    pub(super) policy: Policy,
    pub(super) long_lived: bool,
    /// What we add to `CLUSTER_LIST`.
    pub(super) cluster_id: Ipv4Addr,
}

/// Why a path is not told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// It is the peer's own.
    OwnPath,
    /// The peer does not take the family.
    Family,
    /// RFC 4271 section 9.2: from an internal peer to another, neither of which is a client.
    NotReflected,
    /// `NO_ADVERTISE`.
    NoAdvertise,
    /// `NO_EXPORT` or `NO_EXPORT_SUBCONFED`.
    NoExport,
    /// Stale for long, and the peer does not know what that is.
    LongLivedStale,
    /// No address of ours, or of a form that the peer takes, to be its next hop.
    NoNextHop,
    /// The attributes do not fit in a message.
    TooLong,
    /// It is not among the paths that are told.
    NotBest,
    /// The peer has no session.
    Down,
    /// Its next hop cannot be reached.
    Unreachable,
    /// RFC 8212: the peer is external and has no policy.
    NoPolicy,
    /// The export policy rejects it.
    Policy,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OwnPath => "its own path",
            Self::Family => "the family is not negotiated",
            Self::NotReflected => "both are internal, and none is a client",
            Self::NoAdvertise => "no-advertise",
            Self::NoExport => "no-export",
            Self::LongLivedStale => "stale for long, and it does not know what that is",
            Self::NoNextHop => "there is no next hop that it takes",
            Self::TooLong => "the attributes do not fit in a message",
            Self::NotBest => "not the best path",
            Self::Down => "no session",
            Self::Unreachable => "the next hop cannot be reached",
            Self::NoPolicy => "external, and without export policy",
            Self::Policy => "rejected by the export policy",
        })
    }
}

impl ExportView {
    fn own_next_hop(&self, family: Family, extended: bool) -> Option<NextHop> {
        let v4 = self.next_hop_ipv4.map(NextHop::V4);
        let v6 = self.next_hop_ipv6.map(|global| NextHop::V6 { global, link_local: None });
        match family {
            Family::Ipv4Unicast => v4.or(v6.filter(|_| extended)),
            Family::Ipv6Unicast => v6,
        }
    }
}

/// The attributes to tell.
///
/// # Errors
/// Why the peers may not know the path, or cannot.
pub(super) fn export(
    attributes: &Attributes,
    source: Source,
    originator: Option<Ipv4Addr>,
    family: Family,
    told_to: &Told,
    signature: Signature,
) -> Result<Attributes, Withheld> {
    if told_to.policy == Policy::Nothing {
        return Err(Withheld::NoPolicy);
    }
    let view = &told_to.view;
    // RFC 4271 section 9.2, RFC 4456 section 6: between internal peers only for a client, or from one.
    if view.kind == PeerKind::Internal && source == Source::Internal && !told_to.client {
        return Err(Withheld::NotReflected);
    }
    let has = |community| attributes.communities.contains(&community);
    if has(Community::NO_ADVERTISE) {
        return Err(Withheld::NoAdvertise);
    }
    if view.kind == PeerKind::External && (has(Community::NO_EXPORT) || has(Community::NO_EXPORT_SUBCONFED)) {
        return Err(Withheld::NoExport);
    }
    if !told_to.long_lived && has(Community::LLGR_STALE) {
        return Err(Withheld::LongLivedStale);
    }
    let own_next_hop = || view.own_next_hop(family, told_to.extended_next_hop).ok_or(Withheld::NoNextHop);
    let (mut told, prepend, next_hop, med_is_set) = match &told_to.policy {
        Policy::Terms(policy) => {
            let Outcome { verdict, attributes, prepend, next_hop, med_is_set, .. } =
                policy.apply(signature, family, attributes);
            if verdict == Verdict::Reject {
                return Err(Withheld::Policy);
            }
            (attributes, prepend, next_hop, med_is_set)
        }
        Policy::Everything | Policy::Nothing => (attributes.clone(), 0, None, false),
    };
    if next_hop == Some(TermNextHop::Own) {
        told.next_hop = own_next_hop()?;
    }
    match view.kind {
        PeerKind::External => {
            for _ in 0..=prepend {
                told.as_path = told.as_path.prepended(view.local_as);
            }
            if next_hop.is_none() {
                told.next_hop = own_next_hop()?;
            }
            told.local_pref = None;
            // Section 5.1.4: a MED from one neighbouring AS is not told to another.
            if source != Source::Local && !med_is_set {
                told.med = None;
            }
            told.originator_id = None;
            told.cluster_list.clear();
            told.drop_non_transitive();
        }
        PeerKind::Internal => {
            // Section 5.1.3: the next hop of an external path is left as it is.
            told.next_hop = match told.next_hop {
                NextHop::Local => own_next_hop()?,
                // A link-local address means nothing to a peer of another link (RFC 2545 section 3).
                NextHop::V6 { global, .. } if global.is_unicast_link_local() => own_next_hop()?,
                NextHop::V6 { global, .. } => NextHop::V6 { global, link_local: None },
                NextHop::V4(address) => NextHop::V4(address),
            };
            told.local_pref = told.local_pref.or(Some(DEFAULT_LOCAL_PREF));
            if matches!(source, Source::Internal | Source::Client) {
                // RFC 4456 section 8.
                told.originator_id = told.originator_id.or(originator);
                told.cluster_list.insert(0, told_to.cluster_id);
            }
        }
    }
    if family == Family::Ipv4Unicast
        && matches!(told.next_hop, NextHop::V6 { .. })
        && !told_to.extended_next_hop
    {
        return Err(Withheld::NoNextHop);
    }
    if !encode::fits(family, &told, view.as_width, told_to.message_limit) {
        return Err(Withheld::TooLong);
    }
    Ok(told)
}
