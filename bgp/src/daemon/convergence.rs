//! Whether all neighbours have told all they know after a start.

use std::collections::{BTreeMap, BTreeSet};

use crate::family::FamilySet;
use crate::rib::PeerId;

/// What is still awaited from the configured neighbours.
///
/// A neighbour has told all once it sent End-of-RIB for every family, or a KEEPALIVE on the established session,
/// which a speaker without End-of-RIB sends only when it has no routes left to send (RFC 4724 section 4.1).
#[derive(Debug, Default)]
pub(super) struct Convergence {
    configured: BTreeSet<PeerId>,
    awaited: BTreeMap<PeerId, FamilySet>,
    told_all: BTreeSet<PeerId>,
}

impl Convergence {
    pub(super) fn configure(&mut self, peers: BTreeSet<PeerId>) {
        self.configured = peers;
    }

    pub(super) fn up(&mut self, peer: PeerId, families: FamilySet) {
        self.awaited.insert(peer, families);
        self.told_all.remove(&peer);
    }

    pub(super) fn down(&mut self, peer: PeerId) {
        self.awaited.remove(&peer);
        self.told_all.remove(&peer);
    }

    pub(super) fn end_of_rib(&mut self, peer: PeerId, family: crate::Family) {
        let Some(families) = self.awaited.get_mut(&peer) else { return };
        families.remove(family);
        if families.is_empty() {
            self.told_all.insert(peer);
        }
    }

    pub(super) fn keepalive(&mut self, peer: PeerId) {
        if self.awaited.contains_key(&peer) {
            self.told_all.insert(peer);
        }
    }

    /// Whether every configured neighbour has told all it knows.
    pub(super) fn is_reached(&self) -> bool {
        self.configured.is_subset(&self.told_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    fn two_peers() -> Convergence {
        let mut convergence = Convergence::default();
        convergence.configure(BTreeSet::from([PeerId(1), PeerId(2)]));
        convergence
    }

    #[test]
    fn all_families_of_all_neighbours_are_awaited() {
        let mut convergence = two_peers();
        for peer in [PeerId(1), PeerId(2)] {
            convergence.up(peer, FamilySet::from_iter(Family::ALL));
            for family in Family::ALL {
                assert!(!convergence.is_reached());
                convergence.end_of_rib(peer, family);
            }
        }
        assert!(convergence.is_reached());
    }

    #[test]
    fn a_keepalive_stands_for_end_of_rib_and_a_lost_session_is_awaited_again() {
        let mut convergence = two_peers();
        convergence.keepalive(PeerId(1));
        for peer in [PeerId(1), PeerId(2)] {
            convergence.up(peer, FamilySet::from_iter(Family::ALL));
            convergence.keepalive(peer);
        }
        assert!(convergence.is_reached());
        convergence.down(PeerId(2));
        assert!(!convergence.is_reached());
    }
}
