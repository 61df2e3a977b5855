//! What the tables know about a peer.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;

use super::export::ExportView;
use super::policies::HeldPaths;
use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::identifier::BgpIdentifier;
use crate::wire::PeerKind;

/// The number of a neighbour, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Stands for this speaker as the source of the routes it originates.
    pub const LOCAL: PeerId = PeerId(0);
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}

/// What was agreed on path identifiers (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddPath {
    /// Families in which the peer sends them.
    pub receive: FamilySet,
    /// Families in which the peer takes them.
    pub send: FamilySet,
    /// Paths of a prefix that the peer is sent at most; `None` for all.
    pub send_limit: Option<NonZeroU8>,
}

/// What the tables know about a peer whose session is up.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its identifier, a tie-break.
    pub identifier: BgpIdentifier,
    /// Its AS.
    pub remote_as: Asn,
    /// Its address, the last tie-break.
    pub address: IpAddr,
    /// Families negotiated.
    pub families: FamilySet,
    /// What makes other peers be told the same.
    pub view: ExportView,
    /// The interface on which its link-local addresses are, if it is on a link of ours.
    pub ifindex: Option<u32>,
    /// Families whose prefixes have path identifiers.
    pub add_path: AddPath,
    /// Octets in the longest message it takes.
    pub message_limit: usize,
    /// Whether IPv4 prefixes may have an IPv6 next hop.
    pub extended_next_hop: bool,
    /// Whether we reflect routes for it.
    pub route_reflector_client: bool,
    /// Whether it understands long-lived graceful restart, and so may be told stale paths.
    pub long_lived: bool,
    /// What is accepted from it and told to it.
    pub policy: Policies,
    /// How many paths it may announce.
    pub prefix_limit: Option<PrefixLimit>,
}

/// What is accepted from a peer and told to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// What is accepted.
    pub import: Policy,
    /// What is told.
    pub export: Policy,
}

impl Policies {
    /// RFC 8212: nothing either way.
    pub const NOTHING: Policies = Policies { import: Policy::Nothing, export: Policy::Nothing };
}

/// What passes in one direction. Two that say the same are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Everything.
    #[default]
    Everything,
    /// RFC 8212: nothing, as the peer is external and nobody said what.
    Nothing,
    /// What a policy says.
    Terms(Arc<crate::policy::Policy>),
}

/// How many paths a peer may announce in all its families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLimit {
    /// More is too much.
    pub maximum: u32,
    /// From this share of the maximum on, a warning is due.
    pub warn_percent: u8,
    /// Whether the session is to end beyond it, and nothing more is taken.
    pub enforced: bool,
}

/// How a peer stands to its limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Excess {
    /// Well within.
    #[default]
    None,
    /// So near that somebody should be told.
    Near,
    /// Beyond.
    Beyond,
}

/// Where a path came from, as far as others may be told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Originated by this speaker.
    Local,
    /// From a peer of another AS.
    External,
    /// From a peer of our AS.
    Internal,
    /// From a peer of our AS for which we reflect.
    Client,
}

impl PeerInfo {
    pub(super) fn source(&self) -> Source {
        match (self.view.kind, self.route_reflector_client) {
            (PeerKind::External, _) => Source::External,
            (PeerKind::Internal, false) => Source::Internal,
            (PeerKind::Internal, true) => Source::Client,
        }
    }
}

/// A peer with a session, or with paths of one that ended.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) info: PeerInfo,
    /// Whether the session is up; without it the peer is here for its stale paths only.
    pub(super) up: bool,
    /// Its paths in the table.
    pub(super) received: usize,
    /// What it said before the import policy; `None` without one.
    pub(super) held: Option<HeldPaths>,
    /// The update group that it belongs to, or did.
    pub(super) group: usize,
    /// The worst that was said about its limit in this session.
    pub(super) excess: Excess,
    /// Paths that became stale in a restart and are not swept yet, said again or not: they do not count towards the
    /// limit, or a peer that comes back with other routes would exceed it with what it no longer says.
    pub(super) excused: BTreeMap<Family, usize>,
}

/// Paths of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// That it announced.
    pub received: usize,
    /// That the import policy accepted.
    pub accepted: usize,
    /// That it is told.
    pub advertised: usize,
    /// That it would be told, did the export policy not reject them.
    pub export_rejected: usize,
}

/// What the tables hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Prefixes.
    pub prefixes: usize,
    /// Sets of attributes that were received.
    pub attributes: usize,
    /// Sets of attributes that are told.
    pub told: usize,
}

impl Peer {
    /// Paths that it announced, refused ones included.
    pub(super) fn announced(&self) -> usize {
        self.held.as_ref().map_or(self.received, HeldPaths::len)
    }

    /// How it stands to its limit, if that is worse than what was said before.
    pub(super) fn new_excess(&mut self, limit: PrefixLimit) -> Option<Excess> {
        let counted = self.announced().saturating_sub(self.excused.values().sum());
        let (received, maximum) = (u64::try_from(counted).unwrap_or(u64::MAX), u64::from(limit.maximum));
        let excess = if received > maximum {
            Excess::Beyond
        } else if received.saturating_mul(100) >= maximum * u64::from(limit.warn_percent) {
            Excess::Near
        } else {
            Excess::None
        };
        let is_news = excess > self.excess;
        self.excess = excess.max(self.excess);
        is_news.then_some(excess)
    }
}

/// All peers, by number.
#[derive(Debug, Default)]
pub(super) struct Peers {
    peers: Vec<Option<Box<Peer>>>,
}

impl Peers {
    pub(super) fn find(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(index(id))?.as_deref()
    }

    pub(super) fn find_mut(&mut self, id: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(index(id))?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (PeerId, &Peer)> {
        (0..).map(PeerId).zip(&self.peers).filter_map(|(id, peer)| Some((id, peer.as_deref()?)))
    }

    pub(super) fn insert(&mut self, id: PeerId, peer: Peer) {
        if self.peers.len() <= index(id) {
            self.peers.resize_with(index(id) + 1, || None);
        }
        self.peers[index(id)] = Some(Box::new(peer));
    }

    pub(super) fn take(&mut self, id: PeerId) -> Option<Peer> {
        self.peers.get_mut(index(id))?.take().map(|peer| *peer)
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        if let Some(place) = self.peers.get_mut(index(id)) {
            *place = None;
        }
    }
}

fn index(id: PeerId) -> usize {
    usize::try_from(id.0).unwrap_or(usize::MAX)
}
