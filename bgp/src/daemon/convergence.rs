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
    /// `None` until somebody says.
    configured: Option<BTreeSet<PeerId>>,
    /// Whether neighbours may come of whom nobody knows before.
    others: bool,
    awaited: BTreeMap<PeerId, FamilySet>,
    told_all: BTreeSet<PeerId>,
    /// Who is up, but may be waiting for us, or never says that it has told all.
    unmarked: BTreeSet<PeerId>,
}

/// Whether a neighbour says when it has told all without waiting for what we tell it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marks {
    /// It does.
    Sends,
    /// It has no graceful restart, or has just restarted itself (RFC 4724 section 4.1).
    MaySend,
}

impl Convergence {
    /// Sets who is awaited, and whether others may come.
    pub(super) fn configure(&mut self, peers: BTreeSet<PeerId>, others: bool) {
        (self.configured, self.others) = (Some(peers), others);
    }

    pub(super) fn up(&mut self, peer: PeerId, families: FamilySet, marks: Marks) {
        self.down(peer);
        self.awaited.insert(peer, families);
        if marks == Marks::MaySend {
            self.unmarked.insert(peer);
        }
    }

    pub(super) fn down(&mut self, peer: PeerId) {
        self.awaited.remove(&peer);
        self.told_all.remove(&peer);
        self.unmarked.remove(&peer);
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

    /// Whether every neighbour has told all it knows; never true where others may come.
    pub(super) fn is_reached(&self) -> bool {
        !self.others && self.all(|peer| self.told_all.contains(peer))
    }

    /// Whether nobody is left to wait for before we tell what we know: two that wait for each other would do so to no
    /// end.
    pub(super) fn may_tell(&self) -> bool {
        !self.others && self.all(|peer| self.told_all.contains(peer) || self.unmarked.contains(peer))
    }

    fn all(&self, condition: impl Fn(&PeerId) -> bool) -> bool {
        self.configured.as_ref().is_some_and(|peers| peers.iter().all(condition))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Family;

    fn two_peers() -> Convergence {
        let mut convergence = Convergence::default();
        convergence.configure(BTreeSet::from([PeerId(1), PeerId(2)]), false);
        convergence
    }

    #[test]
    fn all_families_of_all_neighbours_are_awaited() {
        let mut convergence = two_peers();
        for peer in [PeerId(1), PeerId(2)] {
            convergence.up(peer, FamilySet::from_iter(Family::ALL), Marks::Sends);
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
            convergence.up(peer, FamilySet::from_iter(Family::ALL), Marks::Sends);
            convergence.keepalive(peer);
        }
        assert!(convergence.is_reached());
        convergence.down(PeerId(2));
        assert!(!convergence.is_reached());
    }

    #[test]
    fn whoever_may_wait_for_us_is_not_waited_for() {
        let mut convergence = two_peers();
        convergence.up(PeerId(1), FamilySet::from_iter(Family::ALL), Marks::MaySend);
        assert!(!convergence.may_tell());
        convergence.up(PeerId(2), FamilySet::from_iter(Family::ALL), Marks::Sends);
        assert!(!convergence.may_tell());
        for family in Family::ALL {
            convergence.end_of_rib(PeerId(2), family);
        }
        assert!(convergence.may_tell());
        assert!(!convergence.is_reached());
        convergence.down(PeerId(1));
        assert!(!convergence.may_tell());
    }

    #[test]
    fn nobody_is_told_before_those_may_have_come_of_whom_nobody_knows() {
        let mut convergence = Convergence::default();
        assert!(!convergence.may_tell(), "nothing is configured");
        convergence.configure(BTreeSet::new(), true);
        assert!(!convergence.may_tell() && !convergence.is_reached());
        convergence.configure(BTreeSet::new(), false);
        assert!(convergence.may_tell() && convergence.is_reached());
    }
}
