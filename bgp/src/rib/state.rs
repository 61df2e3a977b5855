//! The tables together, and the way of a change through them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use super::adj_out::{AdjRibOut, Batch, Delta, Mark};
use super::decision::{Candidate, Source, select};
use super::export::{ExportKey, ExportView, export};
use super::intern::{AttrId, Exported, Interner};
use super::table::{Path, SlotId, Table};
use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::identifier::BgpIdentifier;
use crate::prefix::Prefix;
use crate::wire::attr::Community;
use crate::wire::{Attributes, NextHop};

/// The number of a neighbour, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl PeerId {
    /// Stands for this speaker as the source of the routes it originates.
    pub const LOCAL: PeerId = PeerId(0);
}

/// What the tables know about a peer whose session is up.
#[derive(Clone, Debug)]
pub struct PeerInfo {
    /// Its identifier, a tie-break.
    pub identifier: BgpIdentifier,
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
}

/// What was agreed on path identifiers (RFC 7911).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddPath {
    /// Families in which the peer sends them.
    pub receive: FamilySet,
    /// Families in which the peer takes them.
    pub send: FamilySet,
    /// Paths of a prefix that the peer is sent at most; `None` for all.
    pub send_limit: Option<std::num::NonZeroU8>,
}

/// A gateway for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FibNextHop {
    /// The router.
    pub via: IpAddr,
    /// Its interface, needed for link-local addresses only.
    pub ifindex: Option<u32>,
}

/// What the kernel should do with packets for a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FibRoute {
    /// Drop what no longer prefix covers.
    Blackhole,
    /// Send to one of these, at least one, in ascending order.
    Unicast(Vec<FibNextHop>),
}

/// The wanted kernel route of one prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FibChange {
    /// Which prefix.
    pub prefix: Prefix,
    /// The route; `None` for none.
    pub route: Option<FibRoute>,
}

/// One path, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// The prefix.
    pub prefix: Prefix,
    /// Who said so; [`PeerId::LOCAL`] for our own.
    pub peer: PeerId,
    /// With what attributes.
    pub attributes: Attributes,
    /// Whether it is the best path.
    pub best: bool,
    /// Whether it is the best path, or equal to it up to the IGP step.
    pub multipath: bool,
}

#[derive(Debug)]
struct Peer {
    info: PeerInfo,
    group: u32,
    received: usize,
    out: AdjRibOut,
    /// Whether the session is up; without it the peer is here for its stale paths only.
    up: bool,
}

/// Blackhole routes beneath originated prefixes, or none.
type Networks = BTreeMap<Prefix, bool>;

/// Adj-RIB-In of all peers, Loc-RIB and Adj-RIB-Out of all peers.
#[derive(Debug)]
pub struct Rib {
    local_as: Asn,
    table: Table,
    interner: Interner,
    networks: Networks,
    peers: BTreeMap<PeerId, Peer>,
    views: Vec<ExportView>,
    undecided: Vec<SlotId>,
    fib_marks: Vec<SlotId>,
    /// The last encoding of each group, good until attribute numbers can change.
    encoded: BTreeMap<u32, (Delta, Batch)>,
}

/// Prefixes looked at for one batch; bounds the memory of messages under way to a peer.
const EXPORT_LIMIT: usize = 16 * 1024;

impl Rib {
    /// Empty tables of a speaker in this AS.
    pub fn new(local_as: Asn) -> Self {
        Self {
            local_as,
            table: Table::default(),
            interner: Interner::default(),
            networks: Networks::new(),
            peers: BTreeMap::new(),
            views: Vec::new(),
            undecided: Vec::new(),
            fib_marks: Vec::new(),
            encoded: BTreeMap::new(),
        }
    }

    /// Sets our AS, which loops are found by; the sessions of another AS must be down.
    pub fn set_local_as(&mut self, local_as: Asn) {
        self.local_as = local_as;
    }

    /// Sets all originated prefixes, each with whether a blackhole route belongs beneath it.
    pub fn originate(&mut self, networks: BTreeMap<Prefix, bool>) {
        let before = std::mem::replace(&mut self.networks, networks);
        for prefix in before.keys() {
            if !self.networks.contains_key(prefix) {
                self.remove_path(PeerId::LOCAL, *prefix);
            }
        }
        let now: Vec<_> = self.networks.iter().map(|(prefix, blackhole)| (*prefix, *blackhole)).collect();
        for (prefix, blackhole) in now {
            if before.get(&prefix) != Some(&blackhole) {
                let attr = self.interner.intern(Attributes::default());
                self.put_path(PeerId::LOCAL, attr, prefix);
            }
        }
    }

    /// A session came up: the peer gets all that it may know, then End-of-RIB.
    pub fn peer_up(&mut self, id: PeerId, info: PeerInfo) {
        let received = self.retained(id);
        let group = self.views.iter().position(|view| *view == info.view).unwrap_or_else(|| {
            self.views.push(info.view);
            self.views.len() - 1
        });
        let group = u32::try_from(group).unwrap_or(u32::MAX);
        let families = info.families;
        self.peers.insert(id, Peer { info, group, received, out: AdjRibOut::default(), up: true });
        self.mark_all(id, families);
    }

    /// A session ended: what the peer said holds no more, but paths of the families to retain stay, stale.
    pub fn peer_down(&mut self, id: PeerId, retain: Option<FamilySet>) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        self.encoded.clear();
        peer.up = false;
        let (marks, told) = std::mem::take(&mut peer.out).into_holds();
        let slots: Vec<SlotId> = self.table.all().collect();
        for slot in marks {
            self.table.slot_mut(slot).holds -= 1;
        }
        for (index, attr) in told {
            self.table.slot_mut(slots[index]).holds -= 1;
            self.interner.release(attr);
        }
        let retain = retain.unwrap_or(FamilySet::EMPTY);
        for slot in slots {
            if retain.contains(self.table.slot(slot).prefix.family()) {
                self.mark_stale(id, slot);
            } else {
                self.remove_path_of(id, slot);
            }
            self.table.free_unused(slot);
        }
        if self.peers.get(&id).is_some_and(|peer| peer.received == 0) {
            self.peers.remove(&id);
        }
    }

    /// All paths of these families that the peer said are stale until it says them again (RFC 7313 `BoRR`).
    pub fn mark_all_stale(&mut self, id: PeerId, families: FamilySet) {
        for slot in self.table.all().collect::<Vec<_>>() {
            if families.contains(self.table.slot(slot).prefix.family()) {
                self.mark_stale(id, slot);
            }
        }
    }

    /// Paths of these families that are still stale go.
    pub fn sweep(&mut self, id: PeerId, families: FamilySet) {
        for slot in self.table.all().collect::<Vec<_>>() {
            if self.stale_path(id, slot, families).is_some() {
                self.remove_path_of(id, slot);
            }
        }
        if self.peers.get(&id).is_some_and(|peer| peer.received == 0 && !peer.up) {
            self.peers.remove(&id);
        }
    }

    /// The peer stays away: paths of these families that are still stale become those of last resort (RFC 9494).
    pub fn long_lived(&mut self, id: PeerId, families: FamilySet) {
        for slot in self.table.all().collect::<Vec<_>>() {
            let Some(path) = self.stale_path(id, slot, families) else { continue };
            let attributes = self.interner.attributes(path.attr);
            if attributes.communities.contains(&Community::NO_LLGR) {
                self.remove_path_of(id, slot);
            } else if !attributes.communities.contains(&Community::LLGR_STALE) {
                let mut attributes = attributes.clone();
                attributes.communities.push(Community::LLGR_STALE);
                let attr = self.interner.intern(attributes);
                self.put_path(id, attr, self.table.slot(slot).prefix);
                self.mark_stale(id, slot);
            }
        }
    }

    /// A peer announced prefixes, all with these attributes.
    pub fn announce(
        &mut self,
        id: PeerId,
        attributes: Attributes,
        prefixes: impl IntoIterator<Item = Prefix>,
    ) {
        if !self.peers.get(&id).is_some_and(|peer| peer.up) {
            return;
        }
        // RFC 4271 section 9.1.2: a path through our own AS is a loop.
        if attributes.as_path.contains(self.local_as) {
            return self.withdraw(id, prefixes);
        }
        let attr = self.interner.intern(attributes);
        for prefix in prefixes {
            self.interner.acquire(attr);
            self.put_path(id, attr, prefix);
        }
        self.interner.release(attr);
    }

    /// A peer withdrew prefixes.
    pub fn withdraw(&mut self, id: PeerId, prefixes: impl IntoIterator<Item = Prefix>) {
        for prefix in prefixes {
            self.remove_path(id, prefix);
        }
    }

    /// A peer wants all routes of a family again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        self.decide();
        let slots: Vec<SlotId> = self.table.all().collect();
        for slot in slots {
            if self.table.slot(slot).prefix.family() != family || self.table.slot(slot).selected.is_none() {
                continue;
            }
            let Some(peer) = self.peers.get_mut(&id) else { return };
            if peer.out.mark(slot, Mark::Refresh) {
                self.table.slot_mut(slot).holds += 1;
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.out.end_of_rib.insert(family);
        }
    }

    /// Selects paths wherever something changed, and marks what follows from it.
    pub fn decide(&mut self) {
        if self.undecided.is_empty() {
            return;
        }
        self.encoded.clear();
        for slot in std::mem::take(&mut self.undecided) {
            self.decide_slot(slot);
        }
    }

    /// The kernel routes that may have changed since they were last taken.
    pub fn take_fib_changes(&mut self) -> Vec<FibChange> {
        self.decide();
        let marks = std::mem::take(&mut self.fib_marks);
        let mut changes = Vec::with_capacity(marks.len());
        for id in marks {
            let slot = self.table.slot_mut(id);
            slot.fib_marked = false;
            slot.holds -= 1;
            changes.push(FibChange { prefix: self.table.slot(id).prefix, route: self.fib_route(id) });
            self.table.free_unused(id);
        }
        changes
    }

    /// Whether [`Rib::take_fib_changes`] may have any.
    pub fn has_fib_changes(&self) -> bool {
        !self.fib_marks.is_empty() || !self.undecided.is_empty()
    }

    /// The next messages for a peer; `None` when it knows all. Call again until then.
    pub fn export(&mut self, id: PeerId) -> Option<Batch> {
        self.decide();
        loop {
            let peer = self.peers.get_mut(&id)?;
            let marks = peer.out.take_marks(EXPORT_LIMIT);
            let mut delta = self.delta(id, marks);
            let peer = self.peers.get_mut(&id)?;
            if !peer.out.is_marked() {
                delta.end_of_rib = std::mem::take(&mut peer.out.end_of_rib);
            }
            if delta.is_empty() {
                if peer.out.is_marked() {
                    continue;
                }
                return None;
            }
            let group = peer.group;
            if let Some((known, batch)) = self.encoded.get(&group)
                && *known == delta
            {
                return Some(Batch::clone(batch));
            }
            let batch = delta.encode(&self.interner, peer.info.view.as_width);
            self.encoded.insert(group, (delta, Batch::clone(&batch)));
            return Some(batch);
        }
    }

    /// Prefixes that a peer announced and was announced.
    pub fn counts(&self, id: PeerId) -> (usize, usize) {
        self.peers.get(&id).map_or((0, 0), |peer| (peer.received, peer.out.count))
    }

    /// Every path, by prefix and preference.
    pub fn paths(&self) -> Vec<PathView> {
        let mut views = Vec::new();
        for id in self.table.all() {
            let slot = self.table.slot(id);
            for (index, path) in slot.paths.iter().enumerate() {
                views.push(PathView {
                    prefix: slot.prefix,
                    peer: path.peer,
                    attributes: self.interner.attributes(path.attr).clone(),
                    best: index == 0 && slot.multipath > 0,
                    multipath: index < usize::from(slot.multipath),
                });
            }
        }
        // Stable: paths of one prefix stay in order of preference.
        views.sort_by_key(|view| view.prefix);
        views
    }

    /// The number of paths that an earlier session left.
    fn retained(&mut self, id: PeerId) -> usize {
        if self.peers.get(&id).is_some_and(|peer| peer.up) {
            self.peer_down(id, None);
        }
        self.peers.get(&id).map_or(0, |peer| peer.received)
    }

    fn stale_path(&self, id: PeerId, slot: SlotId, families: FamilySet) -> Option<Path> {
        let slot = self.table.slot(slot);
        let path = slot.paths.iter().find(|path| path.peer == id && path.stale)?;
        families.contains(slot.prefix.family()).then_some(*path)
    }

    fn mark_stale(&mut self, id: PeerId, slot: SlotId) {
        if let Some(path) = self.table.slot_mut(slot).paths.iter_mut().find(|path| path.peer == id) {
            path.stale = true;
        }
    }

    fn source(&self, id: PeerId) -> Source {
        self.peers.get(&id).map_or(Source::Local, |peer| Source::Peer(peer.info.view.kind))
    }

    fn mark_all(&mut self, id: PeerId, families: FamilySet) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        for slot in self.table.all() {
            let entry = self.table.slot_mut(slot);
            if entry.selected.is_some()
                && families.contains(entry.prefix.family())
                && peer.out.mark(slot, Mark::Changed)
            {
                entry.holds += 1;
            }
        }
        peer.out.end_of_rib = families;
    }

    /// Puts a path in the place of the peer's earlier one; takes over a reference to `attr`.
    fn put_path(&mut self, id: PeerId, attr: AttrId, prefix: Prefix) {
        let slot = self.table.slot_of(prefix);
        let paths = &mut self.table.slot_mut(slot).paths;
        if let Some(path) = paths.iter_mut().find(|path| path.peer == id) {
            path.stale = false;
            let before = std::mem::replace(&mut path.attr, attr);
            self.interner.release(before);
        } else {
            paths.push(Path { peer: id, attr, stale: false });
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.received += 1;
            }
        }
        self.mark_undecided(slot);
    }

    fn remove_path(&mut self, id: PeerId, prefix: Prefix) {
        if let Some(slot) = self.table.find(prefix) {
            self.remove_path_of(id, slot);
        }
    }

    fn remove_path_of(&mut self, id: PeerId, slot: SlotId) {
        let paths = &mut self.table.slot_mut(slot).paths;
        let Some(position) = paths.iter().position(|path| path.peer == id) else { return };
        let path = paths.remove(position);
        self.interner.release(path.attr);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.received -= 1;
        }
        self.mark_undecided(slot);
    }

    fn mark_undecided(&mut self, id: SlotId) {
        let slot = self.table.slot_mut(id);
        // Until the next decision no path is known to be the best one.
        slot.multipath = 0;
        if !std::mem::replace(&mut slot.undecided, true) {
            slot.holds += 1;
            self.undecided.push(id);
        }
    }

    fn decide_slot(&mut self, id: SlotId) {
        let slot = self.table.slot(id);
        let candidates: Vec<Candidate<'_>> = slot
            .paths
            .iter()
            .map(|path| Candidate {
                attributes: self.interner.attributes(path.attr),
                source: self.source(path.peer),
                peer: self.peers.get(&path.peer).map(|peer| (peer.info.identifier, peer.info.address)),
            })
            .collect();
        let chosen = select(&candidates);
        let mut order: Vec<Path> = chosen.iter().map(|&index| slot.paths[index]).collect();
        let mut rest: Vec<Path> = slot.paths.iter().copied().filter(|path| !order.contains(path)).collect();
        rest.sort_by_key(|path| path.peer);
        order.extend(rest);
        let best = order.first().copied();
        let before = slot.selected;
        let family = slot.prefix.family();

        let slot = self.table.slot_mut(id);
        slot.paths = order;
        slot.multipath = u16::try_from(chosen.len()).unwrap_or(u16::MAX);
        slot.undecided = false;
        slot.holds -= 1;
        slot.selected = best;
        if !std::mem::replace(&mut slot.fib_marked, true) {
            slot.holds += 1;
            self.fib_marks.push(id);
        }
        let told = |path: Option<Path>| path.map(|path| (path.peer, path.attr));
        if told(best) != told(before) {
            for peer in self.peers.values_mut() {
                if peer.up && peer.info.families.contains(family) && peer.out.mark(id, Mark::Changed) {
                    slot.holds += 1;
                }
            }
            if let Some(path) = best {
                self.interner.acquire(path.attr);
            }
            if let Some(path) = before {
                self.interner.release(path.attr);
            }
        }
        self.table.free_unused(id);
    }

    /// What the marked slots come to for one peer; records it as told.
    fn delta(&mut self, id: PeerId, marks: Vec<(SlotId, Mark)>) -> Delta {
        let mut delta = Delta::default();
        for (slot, mark) in marks {
            let wanted = self.wanted(id, slot);
            let Some(peer) = self.peers.get_mut(&id) else { break };
            let entry = self.table.slot_mut(slot);
            entry.holds -= 1;
            let told = peer.out.told(slot);
            if told != wanted || (mark == Mark::Refresh && told.is_some()) {
                let family = entry.prefix.family();
                match wanted {
                    Some(attr) => {
                        self.interner.acquire(attr);
                        entry.holds += 1;
                        delta.announced.entry((family, attr)).or_default().push(entry.prefix);
                    }
                    None => delta.withdrawn.entry(family).or_default().push(entry.prefix),
                }
                if let Some(before) = peer.out.tell(slot, wanted) {
                    self.interner.release(before);
                    entry.holds -= 1;
                }
            }
            self.table.free_unused(slot);
        }
        delta
    }

    /// The attributes that a peer should know for a slot.
    fn wanted(&mut self, id: PeerId, slot: SlotId) -> Option<AttrId> {
        let slot = self.table.slot(slot);
        let path = slot.selected.filter(|path| path.peer != id)?;
        let peer = self.peers.get(&id)?;
        let is_long_lived =
            || self.interner.attributes(path.attr).communities.contains(&Community::LLGR_STALE);
        if !peer.info.long_lived && is_long_lived() {
            return None;
        }
        let key =
            ExportKey { group: peer.group, source: self.source(path.peer), family: slot.prefix.family() };
        if let Exported::As(known) = self.interner.exported(path.attr, key) {
            return known;
        }
        let told = export(self.interner.attributes(path.attr), key.source, key.family, &peer.info.view);
        self.interner.remember(path.attr, key, told)
    }

    fn fib_route(&self, id: SlotId) -> Option<FibRoute> {
        let slot = self.table.slot(id);
        let best = slot.selected?;
        if best.peer == PeerId::LOCAL {
            let blackhole = self.networks.get(&slot.prefix).copied().unwrap_or(false);
            return blackhole.then_some(FibRoute::Blackhole);
        }
        let mut next_hops: Vec<FibNextHop> = slot.paths[..usize::from(slot.multipath)]
            .iter()
            .filter_map(|path| {
                let ifindex = self.peers.get(&path.peer)?.info.ifindex;
                fib_next_hop(self.interner.attributes(path.attr).next_hop, ifindex)
            })
            .collect();
        next_hops.sort();
        next_hops.dedup();
        (!next_hops.is_empty()).then_some(FibRoute::Unicast(next_hops))
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.table.len(), self.interner.len())
    }
}

fn fib_next_hop(next_hop: NextHop, ifindex: Option<u32>) -> Option<FibNextHop> {
    match next_hop {
        NextHop::Local => None,
        NextHop::V4(address) => Some(FibNextHop { via: address.into(), ifindex: None }),
        NextHop::V6 { global, link_local } => {
            if !global.is_unicast_link_local() {
                return Some(FibNextHop { via: global.into(), ifindex: None });
            }
            // A peer without a global address on the link puts its link-local one in both places.
            let via = link_local.unwrap_or(global).into();
            ifindex.map(|ifindex| FibNextHop { via, ifindex: Some(ifindex) })
        }
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}
