//! The decision process: RFC 4271 section 9.1.2.2.

use std::cmp::Reverse;
use std::net::IpAddr;

use crate::identifier::BgpIdentifier;
use crate::wire::attr::Community;
use crate::wire::{Attributes, PeerKind};

/// Where a path came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Originated by this speaker.
    Local,
    /// Learned from a peer.
    Peer(PeerKind),
}

/// A path with what the decision looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) attributes: &'a Attributes,
    pub(super) source: Source,
    /// The peer's identifier and address; `None` for a local path.
    pub(super) peer: Option<(BgpIdentifier, IpAddr)>,
}

/// The degree of preference of a path that carries none.
pub(super) const DEFAULT_LOCAL_PREF: u32 = 100;

/// Puts the indices of the best path first, those equal to it up to the IGP step behind it in order of preference;
/// empty when there is no candidate.
pub(super) fn select(candidates: &[Candidate<'_>]) -> Vec<usize> {
    let mut alive: Vec<usize> = (0..candidates.len()).collect();
    // Section 9.1.1: a local route before all others, then the degree of preference; RFC 9494 section 4.3: what is
    // stale for long before neither.
    keep_least(&mut alive, |index| candidates[index].attributes.communities.contains(&Community::LLGR_STALE));
    keep_least(&mut alive, |index| candidates[index].source != Source::Local);
    keep_least(&mut alive, |index| {
        Reverse(candidates[index].attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF))
    });
    // a) the shortest AS_PATH
    keep_least(&mut alive, |index| candidates[index].attributes.as_path.path_length());
    // b) the lowest ORIGIN
    keep_least(&mut alive, |index| candidates[index].attributes.origin);
    // c) the lowest MULTI_EXIT_DISC among paths of one neighbouring AS; none counts as the lowest
    let neighbor = |index: usize| candidates[index].attributes.as_path.neighbor_as();
    let med = |index: usize| candidates[index].attributes.med.unwrap_or(0);
    let before = alive.clone();
    alive.retain(|&index| {
        !before.iter().any(|&other| neighbor(other) == neighbor(index) && med(other) < med(index))
    });
    // d) external before internal
    keep_least(&mut alive, |index| candidates[index].source == Source::Peer(PeerKind::Internal));
    // e) the interior cost to the next hop is the same for all: next hops are not resolved through an IGP.
    // f) the lowest BGP identifier, g) the lowest peer address
    alive.sort_by_key(|&index| candidates[index].peer);
    alive
}

fn keep_least<K: Ord>(alive: &mut Vec<usize>, key: impl Fn(usize) -> K) {
    if let Some(least) = alive.iter().map(|&index| key(index)).min() {
        alive.retain(|&index| key(index) == least);
    }
}
