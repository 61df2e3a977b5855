//! The tables together, and the way of a change through them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::adj_in::LimitReached;
use super::decision::{Candidate, Decision, DecisionOptions, decide};
use super::fib::{Fib, FibChange, FibNextHop, FibRoute, gateway};
use super::group::{Group, GroupKey, Interners, Offer, Wanted};
use super::intern::AttrId;
use super::log::Batch;
use super::monitor::Monitoring;
use super::next_hop::{self, NextHops, Resolution, Tracking};
use super::peer::{Counts, Excess, Peer, PeerId, PeerInfo, Peers, Policy, Source};
use super::resolve::KernelRoutes;
use super::table::{Path, Slot, SlotId, Table, hash};
use super::weight::{Way, Ways, spread};
use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::identifier::BgpIdentifier;
use crate::prefix::Prefix;
use crate::wire::{Attributes, NextHop, PeerKind};

/// Who we are to our peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speaker {
    /// Our AS, which loops are found by.
    pub asn: Asn,
    /// Our identifier: a path that we brought into the AS ourselves is a loop.
    pub identifier: BgpIdentifier,
    /// The cluster that we reflect for (RFC 4456).
    pub cluster_id: Ipv4Addr,
}

impl Speaker {
    /// A speaker whose cluster has its identifier.
    pub fn new(asn: Asn, identifier: BgpIdentifier) -> Self {
        Self { asn, identifier, cluster_id: identifier.octets().into() }
    }
}

/// One path, for people to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathView {
    /// The prefix.
    pub prefix: Prefix,
    /// Who said so; [`PeerId::LOCAL`] for our own.
    pub peer: PeerId,
    /// The peer's number for the path.
    pub path_id: u32,
    /// With what attributes.
    pub attributes: Attributes,
    /// Whether it is the best path.
    pub best: bool,
    /// Whether it is the best path, or used beside it.
    pub multipath: bool,
    /// Whether the peer has yet to say it again.
    pub stale: bool,
}

/// How often next hops are resolved anew for what follows from resolving them. Paths that lead to each other's next hops
/// might change places for ever.
const RESOLUTIONS: usize = 8;

/// Adj-RIB-In of all peers, Loc-RIB, and Adj-RIB-Out of all groups of peers.
#[derive(Debug)]
pub struct Rib {
    pub(super) speaker: Speaker,
    options: DecisionOptions,
    fib: Fib,
    pub(super) table: Table,
    pub(super) interners: Interners,
    pub(super) next_hops: NextHops,
    /// What next hops are resolved by; without it, all count as next door.
    pub(super) kernel_routes: Option<Arc<KernelRoutes>>,
    /// Originated prefixes, with whether a blackhole route belongs beneath each.
    networks: BTreeMap<Prefix, bool>,
    pub(super) peers: Peers,
    pub(super) groups: Vec<Option<Group>>,
    pub(super) undecided: Vec<SlotId>,
    fib_marks: Vec<SlotId>,
    /// Prefixes of the UPDATE at hand with path identifiers and hashes; kept for its memory.
    pub(super) scratch: Vec<(u32, Prefix, u64)>,
    pub(super) found: Vec<Option<SlotId>>,
    pub(super) limits: Vec<LimitReached>,
    /// Families of which paths of peers are not selected yet (RFC 4724 section 4.1).
    deferred: FamilySet,
    pub(super) monitoring: Monitoring,
}

impl Rib {
    /// Empty tables.
    pub fn new(speaker: Speaker) -> Self {
        Self {
            speaker,
            options: DecisionOptions::default(),
            fib: Fib::default(),
            table: Table::default(),
            interners: Interners::default(),
            next_hops: NextHops::default(),
            kernel_routes: None,
            networks: BTreeMap::new(),
            peers: Peers::default(),
            groups: Vec::new(),
            undecided: Vec::new(),
            fib_marks: Vec::new(),
            scratch: Vec::new(),
            found: Vec::new(),
            limits: Vec::new(),
            deferred: FamilySet::EMPTY,
            monitoring: Monitoring::default(),
        }
    }

    /// After a restart of ours (RFC 4724 section 4.1): of these families nothing that peers say is selected, told or
    /// given to the kernel, and nobody is told that it knows all, until [`Rib::proceed`]. What the speaker
    /// originates itself needs no peer's word, and is told at once. To be called before the first peer is there.
    pub fn defer(&mut self, families: FamilySet) {
        self.deferred = families;
    }

    /// Ends what [`Rib::defer`] began; says whether there was anything to end.
    pub fn proceed(&mut self) -> bool {
        let families = std::mem::take(&mut self.deferred);
        if families.is_empty() {
            return false;
        }
        self.redecide(|slot| waits(slot, families));
        self.decide();
        for group in self.groups.iter_mut().flatten() {
            group.release(&self.table);
        }
        true
    }

    /// Sets who we are; the sessions of another AS or identifier must be down.
    pub fn set_speaker(&mut self, speaker: Speaker) {
        self.speaker = speaker;
    }

    /// Sets how paths are compared.
    pub fn set_options(&mut self, options: DecisionOptions) {
        if self.options != options {
            self.options = options;
            self.redecide(|_| true);
        }
    }

    /// Sets whether [`Rib::take_fib_changes`] is asked at all.
    pub fn set_fib(&mut self, fib: Fib) {
        if self.fib != fib {
            self.fib = fib;
            self.redecide(|_| true);
        }
    }

    /// Sets all originated prefixes, each with whether a blackhole route belongs beneath it.
    pub fn originate(&mut self, networks: BTreeMap<Prefix, bool>) {
        let before = std::mem::replace(&mut self.networks, networks);
        for prefix in before.keys() {
            if !self.networks.contains_key(prefix) {
                self.remove_path(PeerId::LOCAL, 0, *prefix);
            }
        }
        let changed =
            self.networks.iter().filter(|(prefix, blackhole)| before.get(prefix) != Some(blackhole));
        let changed: Vec<Prefix> = changed.map(|(prefix, _)| *prefix).collect();
        for prefix in changed {
            let attr = self.intern(Attributes::default());
            let slot = self.table.slot_of(prefix, hash(prefix));
            self.put_path(PeerId::LOCAL, 0, attr, slot);
            // Whether there is a blackhole is no part of the attributes.
            self.mark_undecided(slot);
        }
    }

    /// A session came up: the peer gets all that it may know, then End-of-RIB. Paths that an earlier session left
    /// stay until they are swept.
    pub fn peer_up(&mut self, id: PeerId, info: PeerInfo) {
        if self.peers.find(id).is_some_and(|peer| peer.up) {
            self.peer_down(id, None);
        }
        self.decide();
        let (received, held, excused, import) = match self.peers.take(id) {
            Some(peer) => (peer.received, peer.held, peer.excused, peer.info.policy.import),
            None => (0, None, BTreeMap::new(), Policy::Everything),
        };
        let wanted_import = info.policy.import.clone();
        let key = GroupKey::of(&info);
        let mut peer = Peer { info, up: true, received, held, group: 0, excess: Excess::None, excused };
        peer.info.policy.import = import;
        self.peers.insert(id, peer);
        self.set_import_if_other(id, wanted_import);
        let index = self.join_group(id, key);
        if let Some(peer) = self.peers.find_mut(id) {
            peer.group = index;
        }
        if self.peers.find(id).is_some_and(|peer| peer.received > 0) {
            self.redecide(|slot| slot.paths.as_slice().iter().any(|path| path.peer == id));
            self.decide();
        }
        if let Some(group) = self.groups[index].as_mut() {
            group.begin(id);
        }
    }

    fn set_import_if_other(&mut self, id: PeerId, import: Policy) {
        if self.peers.find(id).is_some_and(|peer| peer.info.policy.import != import) {
            self.set_import(id, import);
            self.decide();
        }
    }

    /// Makes a peer a member of the group with this key, which knows then all that it is to be told.
    pub(super) fn join_group(&mut self, id: PeerId, key: GroupKey) -> usize {
        let found = self.groups.iter().position(|group| group.as_ref().is_some_and(|group| group.key == key));
        let index = found.unwrap_or_else(|| {
            let free = self.groups.iter().position(Option::is_none);
            let index = free.unwrap_or(self.groups.len());
            self.groups.resize_with(self.groups.len().max(index + 1), || None);
            self.groups[index] = Some(Group::new(key, self.speaker.cluster_id, self.deferred));
            index
        });
        let Some(group) = self.groups[index].as_mut() else { return index };
        let members: Vec<PeerId> = group.members().collect();
        group.join(id);
        // A group of one is not told what that one says, and an empty one nothing.
        if let [] | [_] = members[..] {
            self.fill(index, members.first().copied());
        }
        if let Some(group) = self.groups[index].as_mut() {
            group.joined();
        }
        index
    }

    /// A session ended: what the peer said holds no more, but paths of the families to retain stay, stale.
    pub fn peer_down(&mut self, id: PeerId, retain: Option<FamilySet>) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        if std::mem::replace(&mut peer.up, false) {
            let index = peer.group;
            let retained = retain.is_some();
            // Others may be told in the end what the last one said.
            if let Some(group) = self.groups[index].as_mut() {
                group.leave(id);
            }
            if !retained || self.groups[index].as_ref().is_some_and(Group::is_empty) {
                self.dissolve_if_empty(index);
            }
        }
        let retain = retain.unwrap_or(FamilySet::EMPTY);
        let stale = self.mark_stale(id, retain);
        if let Some(peer) = self.peers.find_mut(id) {
            peer.excused = stale;
        }
        self.remove_paths(id, |family, _| !retain.contains(family));
        self.forget_if_gone(id);
    }

    /// A peer wants all routes of a family again (RFC 2918).
    pub fn refresh(&mut self, id: PeerId, family: Family) {
        self.refresh_with_marks(id, family, FamilySet::EMPTY);
    }

    /// The same, between `BoRR` and `EoRR` (RFC 7313).
    pub fn enhanced_refresh(&mut self, id: PeerId, family: Family) {
        self.refresh_with_marks(id, family, FamilySet::from_iter([family]));
    }

    fn refresh_with_marks(&mut self, id: PeerId, family: Family, marked: FamilySet) {
        self.decide();
        let Some(peer) = self.peers.find(id).filter(|peer| peer.up) else { return };
        if let Some(group) = self.groups[peer.group].as_mut()
            && group.takes(family)
        {
            group.refresh(id, FamilySet::from_iter([family]), marked);
        }
    }

    /// What it costs to reach a next hop, `None` if it cannot be reached. Next hops of which nothing is said cost 0.
    /// For callers that resolve next hops themselves.
    pub fn next_hop(&mut self, address: IpAddr, metric: Option<u32>) {
        if self.next_hops.set(address, Resolution { metric, gateways: None }) {
            self.redecide_next_hops(&BTreeSet::from([address]));
        }
    }

    /// Decides anew about all paths that have one of these next hops.
    pub(super) fn redecide_next_hops(&mut self, addresses: &BTreeSet<IpAddr>) {
        if addresses.is_empty() {
            return;
        }
        let sets = self.interners.received.iter();
        let concerned: BTreeSet<AttrId> = sets
            .filter(|(_, attributes)| {
                next_hop::address(attributes.next_hop).is_some_and(|address| addresses.contains(&address))
            })
            .map(|(attr, _)| attr)
            .collect();
        self.redecide(|slot| slot.paths.as_slice().iter().any(|path| concerned.contains(&path.attr)));
    }

    /// Next hops to tell [`Rib::next_hop`] of, or not any more, since this was last asked.
    pub fn take_tracking(&mut self) -> Vec<Tracking> {
        self.next_hops.take_changes()
    }

    /// Selects paths wherever something changed, and encodes what follows from it as far as it fills messages.
    pub fn decide(&mut self) {
        if self.undecided.is_empty() {
            return;
        }
        self.resolve_begun();
        self.decide_undecided();
        // What leads to distant next hops may be among what was decided, and what follows from that too.
        for _ in 0..RESOLUTIONS {
            self.resolve_again();
            if self.undecided.is_empty() {
                return;
            }
            self.decide_undecided();
        }
    }

    fn decide_undecided(&mut self) {
        if self.undecided.is_empty() {
            return;
        }
        let mut undecided = std::mem::take(&mut self.undecided);
        for slot in &undecided {
            self.decide_slot(*slot);
        }
        self.table.free_unused(&undecided);
        undecided.clear();
        self.undecided = undecided;
        for attr in self.interners.received.take_forgotten() {
            for group in self.groups.iter_mut().flatten() {
                group.forget(attr, &mut self.interners.told);
            }
        }
        self.interners.told.take_forgotten();
        for group in self.groups.iter_mut().flatten() {
            group.seal();
        }
    }

    /// Gives memory back that is not needed any more; to be called when all who can have taken what there is.
    pub fn tidy(&mut self) {
        for group in self.groups.iter_mut().flatten() {
            group.tidy(&self.table);
        }
        if self.table.end() == 0 {
            (self.scratch, self.found, self.undecided) = (Vec::new(), Vec::new(), Vec::new());
        }
    }

    /// Encodes everything, full messages or not.
    pub fn write_pending(&mut self) {
        self.decide();
        for group in self.groups.iter_mut().flatten() {
            group.write_pending();
        }
    }

    /// Whether [`Rib::write_pending`] has something to do.
    pub fn is_pending(&self) -> bool {
        !self.undecided.is_empty() || self.groups.iter().flatten().any(Group::is_pending)
    }

    /// The kernel routes that may have changed since they were last taken.
    pub fn take_fib_changes(&mut self) -> Vec<FibChange> {
        self.decide();
        let marks = std::mem::take(&mut self.fib_marks);
        let mut changes = Vec::with_capacity(marks.len());
        for id in &marks {
            self.table.slot_mut(*id).fib_marked = false;
            changes.push(FibChange { prefix: self.table.slot(*id).prefix, route: self.fib_route(*id) });
        }
        self.table.free_unused(&marks);
        changes
    }

    /// Whether [`Rib::take_fib_changes`] may have any.
    pub fn has_fib_changes(&self) -> bool {
        !self.fib_marks.is_empty() || (self.fib == Fib::Wanted && !self.undecided.is_empty())
    }

    /// Whether [`Rib::export`] may have something for a peer.
    pub fn has_news(&self, id: PeerId) -> bool {
        let peer = self.peers.find(id).filter(|peer| peer.up);
        let group = peer.and_then(|peer| self.groups[peer.group].as_ref());
        group.is_some_and(|group| group.has_news(id))
    }

    /// The next messages for a peer, of what is encoded; `None` when it has all that. Call again until then.
    pub fn export(&mut self, id: PeerId) -> Option<Batch> {
        let peer = self.peers.find(id).filter(|peer| peer.up)?;
        let group = self.groups[peer.group].as_mut()?;
        while group.has_news(id) {
            if let Some(batch) = group.next_batch(id, &self.table, &self.interners) {
                return Some(batch);
            }
        }
        None
    }

    /// Paths that a peer announced and was announced.
    pub fn counts(&self, id: PeerId) -> Counts {
        let Some(peer) = self.peers.find(id) else { return Counts::default() };
        let group = self.groups[peer.group].as_ref().filter(|_| peer.up);
        Counts {
            received: peer.announced(),
            accepted: peer.received,
            advertised: group.map_or(0, |group| group.count(id)),
            export_rejected: group.map_or(0, |group| group.count_rejected(id)),
        }
    }

    /// Every path, by prefix and preference.
    pub fn paths(&self) -> Vec<PathView> {
        let mut views = Vec::new();
        for id in self.table.all() {
            let slot = self.table.slot(id);
            for (index, path) in slot.paths.as_slice().iter().enumerate() {
                views.push(PathView {
                    prefix: slot.prefix,
                    peer: path.peer,
                    path_id: path.remote_id,
                    attributes: self.interners.received.attributes(path.attr).clone(),
                    best: index == 0 && slot.used > 0,
                    multipath: index < usize::from(slot.used),
                    stale: path.stale,
                });
            }
        }
        // Stable: paths of one prefix stay in order of preference.
        views.sort_by_key(|view| view.prefix);
        views
    }

    pub(super) fn forget_if_gone(&mut self, id: PeerId) {
        if self.peers.find(id).is_some_and(|peer| peer.received == 0 && peer.announced() == 0 && !peer.up) {
            // The decision about its last paths needs it no more than any other.
            self.peers.remove(id);
        }
    }

    pub(super) fn dissolve_if_empty(&mut self, index: usize) {
        if let Some(group) = self.groups[index].take_if(|group| group.is_empty()) {
            group.dissolve(&mut self.interners.told);
        }
    }

    pub(super) fn redecide(&mut self, condition: impl Fn(&Slot) -> bool) {
        for slot in self.table.all() {
            let entry = self.table.slot(slot);
            // One without paths is free, and what it was about may be in another by now.
            if !entry.paths.as_slice().is_empty() && condition(entry) {
                self.mark_undecided(slot);
            }
        }
    }

    pub(super) fn mark_undecided(&mut self, id: SlotId) {
        let slot = self.table.slot_mut(id);
        if !std::mem::replace(&mut slot.undecided, true) {
            self.undecided.push(id);
        }
    }

    /// The paths of a prefix as the decision sees them.
    pub(super) fn decision(&self, slot: &Slot) -> Decision {
        let candidates: Vec<Candidate<'_>> = slot
            .paths
            .as_slice()
            .iter()
            .map(|path| {
                let peer = self.peers.find(path.peer);
                let attributes = self.interners.received.attributes(path.attr);
                Candidate {
                    attributes,
                    source: peer.map_or(Source::Local, |peer| peer.info.source()),
                    peer: peer.map(|peer| (peer.info.identifier, peer.info.address)),
                    path_id: path.remote_id,
                    metric: self.next_hops.metric(attributes.next_hop),
                }
            })
            .collect();
        decide(&candidates, self.options)
    }

    fn decide_slot(&mut self, id: SlotId) {
        let slot = self.table.slot(id);
        let waits = waits(slot, self.deferred);
        if waits && slot.used == 0 {
            self.table.slot_mut(id).undecided = false;
            return;
        }
        let used = match slot.paths.as_slice() {
            // Until now there was a path of our own.
            _ if waits => 0,
            [] => 0,
            [only] => usize::from(self.is_reachable(only)),
            paths => {
                let decision = self.decision(slot);
                // Behind those in use, whoever lost later is better.
                let mut rest: Vec<usize> =
                    (0..paths.len()).filter(|index| !decision.used.contains(index)).collect();
                rest.sort_by_key(|index| {
                    let step = decision.losses[*index].map(|loss| loss.step);
                    (Reverse(step), paths[*index].peer, paths[*index].remote_id)
                });
                let order: Vec<Path> = decision.used.iter().chain(&rest).map(|index| paths[*index]).collect();
                self.table.slot_mut(id).paths.as_mut_slice().copy_from_slice(&order);
                decision.used.len()
            }
        };
        let fib = self.fib;
        let slot = self.table.slot_mut(id);
        slot.used = u8::try_from(used).unwrap_or(u8::MAX);
        slot.undecided = false;
        if fib == Fib::Wanted && !std::mem::replace(&mut slot.fib_marked, true) {
            self.fib_marks.push(id);
        }
        if self.monitoring.sees_best {
            self.note_best(id);
        }
        for index in 0..self.groups.len() {
            self.tell_group(index, id);
        }
    }

    pub(super) fn is_reachable(&self, path: &Path) -> bool {
        let next_hop = self.interners.received.attributes(path.attr).next_hop;
        self.next_hops.metric(next_hop).is_some()
    }

    pub(super) fn speaker(&self) -> Speaker {
        self.speaker
    }

    /// A path as a group with this policy sees it.
    pub(super) fn offer(&self, path: &Path, prefix: Prefix, policy: &Policy) -> Offer {
        let peer = self.peers.find(path.peer);
        Offer {
            peer: path.peer,
            attr: path.attr,
            local_id: path.local_id,
            source: peer.map_or(Source::Local, |peer| peer.info.source()),
            originator: peer
                .filter(|peer| peer.info.view.kind == PeerKind::Internal)
                .map(|peer| peer.info.identifier.octets().into()),
            signature: policy.signature(prefix, || self.announcer(path.peer)),
        }
    }

    /// The paths that a group may be told of, in order of preference.
    fn offers(&self, slot: &Slot, limit: usize, policy: &Policy) -> Vec<Offer> {
        let paths = slot.paths.as_slice().iter().filter(|path| self.is_reachable(path));
        paths.take(limit).map(|path| self.offer(path, slot.prefix, policy)).collect()
    }

    /// Makes a group know what it should of a prefix.
    fn tell_group(&mut self, index: usize, id: SlotId) {
        let slot = self.table.slot(id);
        let (prefix, family) = (slot.prefix, slot.prefix.family());
        let Some(group) = self.groups[index].as_ref().filter(|group| group.takes(family)) else { return };
        let limit = group.key.limit(family);
        if limit == 1 && !group.key.has_path_ids(family) {
            let best =
                slot.paths.as_slice().first().filter(|path| slot.used > 0 && !group.is_only(path.peer));
            let offer = best.map(|path| self.offer(path, prefix, &group.key.policy));
            let Self { groups, interners, .. } = self;
            let Some(group) = groups[index].as_mut() else { return };
            let wanted =
                offer.and_then(|offer| group.exported(offer, family, interners).wanted(0, offer.peer));
            group.tell(id, prefix, wanted, interners);
            return;
        }
        let offers = self.offers(slot, limit, &group.key.policy);
        let Self { groups, interners, .. } = self;
        let Some(group) = groups[index].as_mut() else { return };
        let wanted: Vec<Wanted> = offers
            .into_iter()
            .filter_map(|offer| {
                group.exported(offer, family, interners).wanted(offer.local_id.into(), offer.peer)
            })
            .collect();
        group.tell_all(id, prefix, &wanted, interners);
    }

    /// Makes a group that gets its first or second member know what that member makes it know: all, or what the only
    /// one before said. Nobody is told: the new member is about to be told everything.
    fn fill(&mut self, index: usize, only: Option<PeerId>) {
        for id in self.table.all() {
            let slot = self.table.slot(id);
            let best = slot.paths.as_slice().first();
            if only.is_none() || best.is_some_and(|path| Some(path.peer) == only) {
                self.tell_group(index, id);
            }
        }
    }

    /// The routers on the way to the next hop of a path.
    fn gateways(&self, path: &Path) -> Vec<FibNextHop> {
        let next_hop = self.interners.received.attributes(path.attr).next_hop;
        if let Some(gateways) = self.next_hops.gateways(next_hop) {
            return gateways.to_vec();
        }
        let ifindex = self.peers.find(path.peer).and_then(|peer| peer.info.ifindex);
        gateway(next_hop, ifindex).into_iter().collect()
    }

    /// The same with the path's bandwidth, by what tells next hops apart.
    fn way(&self, path: &Path) -> ((NextHop, Option<u32>), Way) {
        let attributes = self.interners.received.attributes(path.attr);
        let gateways = self.gateways(path);
        // Only a link-local next hop is another one on another link.
        let link = gateways.first().and_then(|gateway| gateway.ifindex);
        ((attributes.next_hop, link), Way { bandwidth: attributes.link_bandwidth(), gateways })
    }

    fn fib_route(&self, id: SlotId) -> Option<FibRoute> {
        let slot = self.table.slot(id);
        let used = slot.paths.as_slice().get(..slot.used.into())?;
        let best = used.first()?;
        if best.peer == PeerId::LOCAL {
            let blackhole = self.networks.get(&slot.prefix).copied().unwrap_or(false);
            return blackhole.then_some(FibRoute::Blackhole);
        }
        let next_hops = if let [only] = used {
            self.gateways(only)
        } else {
            let ways: Ways = used.iter().map(|path| self.way(path)).collect();
            spread(&ways)
        };
        (!next_hops.is_empty()).then_some(FibRoute::Unicast(next_hops))
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.table.len(), self.interners.received.len(), self.interners.told.len())
    }
}

/// Whether another peer may yet have a better path to a prefix of one of these families.
fn waits(slot: &Slot, families: FamilySet) -> bool {
    let paths = slot.paths.as_slice();
    families.contains(slot.prefix.family())
        && !paths.is_empty()
        && paths.iter().all(|path| path.peer != PeerId::LOCAL)
}
