//! What peers say, and what of it is stale.

use std::collections::BTreeMap;

use super::intern::AttrId;
use super::peer::{Excess, PeerId, PrefixLimit};
use super::state::Rib;
use super::table::{Path, SlotId, hash};
use crate::family::{Family, FamilySet};
use crate::prefix::Prefix;
use crate::wire::attr::Community;
use crate::wire::{Attributes, OwnedUpdate, PeerKind};

/// A peer announces more than it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LimitReached {
    /// Which peer.
    pub peer: PeerId,
    /// How many paths it announces.
    pub received: usize,
    /// How many it may.
    pub limit: PrefixLimit,
    /// How bad it is.
    pub excess: Excess,
}

/// Changed prefixes after which to decide rather than to take in more, while they are in the processor's cache.
const UNDECIDED: usize = 4096;

impl Rib {
    /// All paths of these families that the peer said are stale until it says them again (RFC 7313 `BoRR`). Gives how
    /// many there are.
    pub fn mark_stale(&mut self, id: PeerId, families: FamilySet) -> BTreeMap<Family, usize> {
        let mut stale: BTreeMap<Family, usize> = BTreeMap::new();
        if families.is_empty() {
            return stale;
        }
        for slot in self.table.all() {
            let slot = self.table.slot_mut(slot);
            let family = slot.prefix.family();
            if families.contains(family) {
                for path in slot.paths.as_mut_slice().iter_mut().filter(|path| path.peer == id) {
                    path.stale = true;
                    *stale.entry(family).or_default() += 1;
                }
            }
        }
        if let Some(held) = self.peers.find_mut(id).and_then(|peer| peer.held.as_mut()) {
            stale.clear();
            for ((prefix, _), held) in held.iter_mut() {
                let family = prefix.family();
                if families.contains(family) {
                    held.stale = true;
                    *stale.entry(family).or_default() += 1;
                }
            }
        }
        stale
    }

    /// Paths of these families that are still stale go.
    pub fn sweep(&mut self, id: PeerId, families: FamilySet) {
        self.remove_paths(id, |family, stale| stale && families.contains(family));
        if let Some(peer) = self.peers.find_mut(id) {
            peer.excused.retain(|family, _| !families.contains(*family));
        }
        self.look_at_limit(id);
        self.forget_if_gone(id);
    }

    /// The peer stays away: paths of these families that are still stale become those of last resort (RFC 9494).
    pub fn long_lived(&mut self, id: PeerId, families: FamilySet) {
        if self.peers.find(id).is_some_and(|peer| peer.held.is_some()) {
            for family in families.iter() {
                self.long_lived_held(id, family);
            }
            return self.forget_if_gone(id);
        }
        for slot in self.table.all() {
            if !families.contains(self.table.slot(slot).prefix.family()) {
                continue;
            }
            let paths = self.table.slot(slot).paths.as_slice();
            let stale: Vec<Path> =
                paths.iter().copied().filter(|path| path.peer == id && path.stale).collect();
            for path in stale {
                let attributes = self.interners.received.attributes(path.attr);
                if attributes.communities.contains(&Community::NO_LLGR) {
                    self.remove_path_of(id, path.remote_id, slot);
                } else if !attributes.communities.contains(&Community::LLGR_STALE) {
                    let mut attributes = attributes.clone();
                    attributes.communities.push(Community::LLGR_STALE);
                    let attr = self.intern(attributes);
                    self.put_path(id, path.remote_id, attr, slot);
                    self.mark_path_stale(id, path.remote_id, slot);
                }
            }
        }
        self.forget_if_gone(id);
    }

    /// A peer sent an UPDATE.
    pub fn update(&mut self, id: PeerId, update: OwnedUpdate) {
        let OwnedUpdate { withdrawn, mut announced, attributes, end_of_rib } = update;
        for nlri in &withdrawn {
            self.withdraw(id, nlri.borrowed().paths());
        }
        if let Some((last_hop, last)) = announced.pop() {
            for (next_hop, nlri) in &announced {
                let attributes = Attributes { next_hop: *next_hop, ..attributes.clone() };
                self.announce(id, attributes, nlri.borrowed().paths());
            }
            self.announce(id, Attributes { next_hop: last_hop, ..attributes }, last.borrowed().paths());
        }
        if let Some(family) = end_of_rib {
            self.sweep(id, FamilySet::from_iter([family]));
            self.note_end_of_rib(id, family);
        }
        if self.undecided.len() >= UNDECIDED {
            self.decide();
        }
    }

    /// A peer announced paths, all with these attributes: a path identifier, or 0, and a prefix each.
    pub fn announce(
        &mut self,
        id: PeerId,
        mut attributes: Attributes,
        paths: impl IntoIterator<Item = (u32, Prefix)>,
    ) {
        let Some(peer) = self.peers.find(id).filter(|peer| peer.up) else { return };
        // Beyond the limit the session is about to end.
        if peer.excess == Excess::Beyond && peer.info.prefix_limit.is_some_and(|limit| limit.enforced) {
            return;
        }
        if self.is_loop(&attributes) {
            return self.withdraw(id, paths);
        }
        if peer.info.view.kind == PeerKind::External
            && attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN)
        {
            // RFC 8326 section 4.2: the path of last resort in the AS.
            attributes.local_pref = Some(0);
        }
        if peer.held.is_some() {
            self.announce_held(id, attributes, paths);
            return self.look_at_limit(id);
        }
        self.look_up(paths);
        let attr = self.intern(attributes);
        let scratch = std::mem::take(&mut self.scratch);
        let found = std::mem::take(&mut self.found);
        let count = u32::try_from(scratch.len()).unwrap_or(u32::MAX);
        self.interners.received.acquire(attr, count);
        for ((path_id, prefix, hash), slot) in scratch.iter().zip(&found) {
            let slot = slot.unwrap_or_else(|| self.table.slot_of(*prefix, *hash));
            self.put_path(id, *path_id, attr, slot);
        }
        self.release(attr);
        (self.scratch, self.found) = (scratch, found);
        self.look_at_limit(id);
    }

    fn look_at_limit(&mut self, id: PeerId) {
        if let Some(peer) = self.peers.find_mut(id)
            && let Some(limit) = peer.info.prefix_limit
            && let Some(excess) = peer.new_excess(limit)
        {
            self.limits.push(LimitReached { peer: id, received: peer.announced(), limit, excess });
        }
    }

    /// Limits that peers reached since this was last asked.
    pub fn take_limits_reached(&mut self) -> Vec<LimitReached> {
        std::mem::take(&mut self.limits)
    }

    /// A peer withdrew paths: a path identifier, or 0, and a prefix each.
    pub fn withdraw(&mut self, id: PeerId, paths: impl IntoIterator<Item = (u32, Prefix)>) {
        self.look_up(paths);
        let scratch = std::mem::take(&mut self.scratch);
        let found = std::mem::take(&mut self.found);
        let holds = self.peers.find(id).is_some_and(|peer| peer.held.is_some());
        for ((path_id, prefix, _), slot) in scratch.iter().zip(&found) {
            if holds {
                self.release_held(id, *path_id, *prefix);
            }
            if let Some(slot) = slot {
                self.remove_path_of(id, *path_id, *slot);
            }
        }
        (self.scratch, self.found) = (scratch, found);
    }

    /// Finds the slots of a whole UPDATE in a loop of its own, whose waits for memory overlap.
    fn look_up(&mut self, paths: impl IntoIterator<Item = (u32, Prefix)>) {
        self.scratch.clear();
        self.scratch.extend(paths.into_iter().map(|(path_id, prefix)| (path_id, prefix, hash(prefix))));
        self.found.clear();
        self.found.extend(self.scratch.iter().map(|(_, prefix, hash)| self.table.find(*prefix, *hash)));
    }

    fn is_loop(&self, attributes: &Attributes) -> bool {
        // RFC 4271 section 9.1.2, RFC 4456 section 8.
        attributes.as_path.contains(self.speaker.asn)
            || attributes.originator_id.is_some_and(|id| id.octets() == self.speaker.identifier.octets())
            || attributes.cluster_list.contains(&self.speaker.cluster_id)
    }

    pub(super) fn intern(&mut self, attributes: Attributes) -> AttrId {
        let next_hop = attributes.next_hop;
        let (attr, new) = self.interners.received.intern(attributes);
        if new {
            self.next_hops.begin(next_hop);
        }
        attr
    }

    pub(super) fn release(&mut self, attr: AttrId) {
        if let Some(attributes) = self.interners.received.release(attr) {
            self.next_hops.end(attributes.next_hop);
        }
    }

    /// Puts a path in the place of the peer's earlier one; takes over a reference to `attr`.
    pub(super) fn put_path(&mut self, id: PeerId, path_id: u32, attr: AttrId, slot: SlotId) {
        let paths = &mut self.table.slot_mut(slot).paths;
        let mine = paths.as_mut_slice().iter_mut().find(|path| path.peer == id && path.remote_id == path_id);
        if let Some(path) = mine {
            path.stale = false;
            let before = std::mem::replace(&mut path.attr, attr);
            self.release(before);
            if before == attr {
                return;
            }
        } else {
            paths.push(Path { peer: id, attr, remote_id: path_id, local_id: 0, stale: false });
            if let Some(peer) = self.peers.find_mut(id) {
                peer.received += 1;
            }
        }
        self.note_path(id, path_id, slot);
        self.mark_undecided(slot);
    }

    pub(super) fn mark_path_stale(&mut self, id: PeerId, path_id: u32, slot: SlotId) {
        let paths = self.table.slot_mut(slot).paths.as_mut_slice();
        if let Some(path) = paths.iter_mut().find(|path| (path.peer, path.remote_id) == (id, path_id)) {
            path.stale = true;
        }
    }

    pub(super) fn has_path(&self, id: PeerId, path_id: u32, prefix: Prefix) -> bool {
        let slot = self.table.find(prefix, hash(prefix)).map(|slot| self.table.slot(slot));
        let paths = slot.map(|slot| slot.paths.as_slice()).unwrap_or_default();
        paths.iter().any(|path| (path.peer, path.remote_id) == (id, path_id))
    }

    pub(super) fn remove_path(&mut self, id: PeerId, path_id: u32, prefix: Prefix) {
        if let Some(slot) = self.table.find(prefix, hash(prefix)) {
            self.remove_path_of(id, path_id, slot);
        }
    }

    fn remove_path_of(&mut self, id: PeerId, path_id: u32, slot: SlotId) {
        let paths = &mut self.table.slot_mut(slot).paths;
        let mine = |path: &Path| path.peer == id && path.remote_id == path_id;
        let Some(position) = paths.as_slice().iter().position(mine) else { return };
        let attr = paths.as_slice()[position].attr;
        paths.remove(position);
        self.release(attr);
        if let Some(peer) = self.peers.find_mut(id) {
            peer.received -= 1;
        }
        self.note_path(id, path_id, slot);
        self.mark_undecided(slot);
    }

    pub(super) fn remove_paths(&mut self, id: PeerId, condition: impl Fn(Family, bool) -> bool) {
        self.release_held_paths(id, &condition);
        if self.peers.find(id).is_none_or(|peer| peer.received == 0) {
            return;
        }
        for slot in self.table.all() {
            loop {
                let entry = self.table.slot(slot);
                let mut paths = entry.paths.as_slice().iter();
                let family = entry.prefix.family();
                let Some(path) = paths.find(|path| path.peer == id && condition(family, path.stale)) else {
                    break;
                };
                self.remove_path_of(id, path.remote_id, slot);
            }
        }
    }
}
