//! Routes through policies, and what a change of policies changes.
//!
//! What a peer with an import policy said is kept as it said it ([`Held`]), refused paths included, so that another
//! policy can be asked without the peer's help. A peer without one costs nothing beyond its paths in the table.

use std::collections::BTreeMap;

use super::group::GroupKey;
use super::intern::AttrId;
use super::peer::{Counts, Peer, PeerId, Policies, Policy, Sizes};
use super::state::Rib;
use super::table::hash;
use crate::family::Family;
use crate::policy::RouteKind;
use crate::policy::{Announcer, Signature};
use crate::prefix::Prefix;
use crate::wire::attr::Community;
use crate::wire::{Attributes, PeerKind};

/// A path as the peer said it, before the import policy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    pub(super) attr: AttrId,
    pub(super) stale: bool,
}

/// All that a peer with an import policy said, by prefix and the peer's number for the path.
pub(super) type HeldPaths = BTreeMap<(Prefix, u32), Held>;

/// Results of one peer's import policy, each with a reference to its attributes.
pub(super) struct Importer {
    policy: Policy,
    announcer: Announcer,
    results: BTreeMap<(AttrId, Signature, Family), Option<AttrId>>,
}

/// Paths of each peer, by family.
pub type Tallies = BTreeMap<(PeerId, Family), Counts>;

/// A path that an import policy refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Who said so.
    pub peer: PeerId,
    /// The peer's number for the path.
    pub path_id: u32,
    /// Which term decided.
    pub decided: String,
}

/// A path as a peer said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedView {
    /// The prefix.
    pub prefix: Prefix,
    /// The peer's number for the path.
    pub path_id: u32,
    /// The attributes before the import policy.
    pub attributes: Attributes,
}

impl Policy {
    pub(super) fn signature(&self, prefix: Prefix, announcer: impl FnOnce() -> Announcer) -> Signature {
        match self {
            Self::Terms(policy) => policy.signature(prefix, &announcer()),
            Self::Everything | Self::Nothing => Signature::default(),
        }
    }

    /// Which term decides about a route, in words.
    pub(super) fn explain(&self, prefix: Prefix, announcer: Announcer, attributes: &Attributes) -> String {
        match self {
            Self::Everything => "no policy".to_owned(),
            Self::Nothing => "RFC 8212: the neighbour is external and has no policy".to_owned(),
            Self::Terms(policy) => {
                let signature = policy.signature(prefix, &announcer);
                policy.describe(policy.apply(signature, prefix.family(), attributes).term)
            }
        }
    }
}

impl Peer {
    pub(super) fn announcer(&self) -> Announcer {
        Announcer {
            kind: match self.info.view.kind {
                PeerKind::External => RouteKind::External,
                PeerKind::Internal => RouteKind::Internal,
            },
            address: Some(self.info.address),
            asn: Some(self.info.remote_as),
        }
    }
}

impl Rib {
    pub(super) fn announcer(&self, id: PeerId) -> Announcer {
        self.peers.find(id).map_or(Announcer::LOCAL, Peer::announcer)
    }

    /// What is needed to ask a peer's import policy; to be ended with [`Rib::end_import`].
    pub(super) fn importer(&self, id: PeerId) -> Importer {
        let policy = self.peers.find(id).map(|peer| peer.info.policy.import.clone()).unwrap_or_default();
        Importer { policy, announcer: self.announcer(id), results: BTreeMap::new() }
    }

    pub(super) fn end_import(&mut self, importer: Importer) {
        for attr in importer.results.into_values().flatten() {
            self.release(attr);
        }
    }

    /// A peer with an import policy announced paths.
    pub(super) fn announce_held(
        &mut self,
        id: PeerId,
        attributes: Attributes,
        paths: impl IntoIterator<Item = (u32, Prefix)>,
    ) {
        let attr = self.intern(attributes);
        let mut importer = self.importer(id);
        for (path_id, prefix) in paths {
            self.hold(id, path_id, prefix, Held { attr, stale: false });
            self.import(id, &mut importer, path_id, prefix, Held { attr, stale: false });
        }
        self.end_import(importer);
        self.release(attr);
    }

    fn hold(&mut self, id: PeerId, path_id: u32, prefix: Prefix, held: Held) {
        self.interners.received.acquire(held.attr, 1);
        let paths = self.peers.find_mut(id).and_then(|peer| peer.held.as_mut());
        let before = paths.and_then(|paths| paths.insert((prefix, path_id), held));
        if let Some(before) = before {
            self.release(before.attr);
        }
        if before.is_none_or(|before| before.attr != held.attr) {
            self.note_held(id, path_id, prefix);
        }
    }

    /// What a peer withdrew is not held any more.
    pub(super) fn release_held(&mut self, id: PeerId, path_id: u32, prefix: Prefix) {
        let paths = self.peers.find_mut(id).and_then(|peer| peer.held.as_mut());
        if let Some(held) = paths.and_then(|paths| paths.remove(&(prefix, path_id))) {
            self.release(held.attr);
            self.note_held(id, path_id, prefix);
        }
    }

    /// Lets go of held paths by family and staleness.
    pub(super) fn release_held_paths(&mut self, id: PeerId, condition: impl Fn(Family, bool) -> bool) {
        let Some(paths) = self.peers.find_mut(id).and_then(|peer| peer.held.as_mut()) else { return };
        let gone: Vec<_> =
            paths.extract_if(.., |(prefix, _), held| condition(prefix.family(), held.stale)).collect();
        for ((prefix, path_id), held) in gone {
            self.release(held.attr);
            self.note_held(id, path_id, prefix);
        }
    }

    /// Makes the table have of a held path what the import policy makes of it.
    fn import(&mut self, id: PeerId, importer: &mut Importer, path_id: u32, prefix: Prefix, held: Held) {
        let family = prefix.family();
        let signature = importer.policy.signature(prefix, || importer.announcer);
        let key = (held.attr, signature, family);
        let imported = if let Some(known) = importer.results.get(&key) {
            *known
        } else {
            let attributes = self.interners.received.attributes(held.attr);
            let imported = match &importer.policy {
                Policy::Everything => Some(attributes.clone()),
                Policy::Nothing => None,
                Policy::Terms(policy) => policy.apply(signature, family, attributes).imported(),
            };
            let imported = imported.map(|attributes| self.intern(attributes));
            importer.results.insert(key, imported);
            imported
        };
        let Some(attr) = imported else { return self.remove_path(id, path_id, prefix) };
        self.interners.received.acquire(attr, 1);
        let slot = self.table.slot_of(prefix, hash(prefix));
        self.put_path(id, path_id, attr, slot);
        if held.stale {
            self.mark_path_stale(id, path_id, slot);
        }
    }

    /// Held paths of a peer that stays away become those of last resort (RFC 9494).
    pub(super) fn long_lived_held(&mut self, id: PeerId, family: Family) {
        let paths = self.peers.find(id).and_then(|peer| peer.held.as_ref());
        let stale: Vec<_> = paths
            .into_iter()
            .flatten()
            .filter(|((prefix, _), held)| held.stale && prefix.family() == family)
            .map(|(key, held)| (*key, *held))
            .collect();
        let mut importer = self.importer(id);
        for ((prefix, path_id), held) in stale {
            let mut attributes = self.interners.received.attributes(held.attr).clone();
            if attributes.communities.contains(&Community::NO_LLGR) {
                self.release_held(id, path_id, prefix);
                self.remove_path(id, path_id, prefix);
                continue;
            }
            if !attributes.communities.contains(&Community::LLGR_STALE) {
                attributes.communities.push(Community::LLGR_STALE);
            }
            let held = Held { attr: self.intern(attributes), stale: true };
            self.hold(id, path_id, prefix, held);
            self.release(held.attr);
            self.import(id, &mut importer, path_id, prefix, held);
        }
        self.end_import(importer);
    }

    /// Puts other policies in force; sessions stay, and peers are told what is different.
    pub fn set_policies(&mut self, policies: &BTreeMap<PeerId, Policies>) {
        let import_changes = policies.iter().filter(|(id, policies)| {
            self.peers.find(**id).is_some_and(|peer| peer.info.policy.import != policies.import)
        });
        let import_changes: Vec<_> =
            import_changes.map(|(id, policies)| (*id, policies.import.clone())).collect();
        for (id, import) in import_changes {
            self.set_import(id, import);
        }
        self.decide();
        let mut wanted: BTreeMap<usize, Vec<(PeerId, Policy)>> = BTreeMap::new();
        for (id, policies) in policies {
            if let Some(peer) = self.peers.find_mut(*id)
                && peer.info.policy.export != policies.export
            {
                peer.info.policy.export = policies.export.clone();
                if peer.up {
                    wanted.entry(peer.group).or_default().push((*id, policies.export.clone()));
                }
            }
        }
        let mut changed = false;
        for (index, members) in wanted {
            changed |= self.regroup(index, &members);
        }
        if changed {
            self.redecide(|_| true);
            self.decide();
        }
    }

    /// Gives members of a group other export policies; whether the table is to be told again to the group.
    fn regroup(&mut self, index: usize, members: &[(PeerId, Policy)]) -> bool {
        let Some((_, first)) = members.first() else { return false };
        let Some(group) = self.groups[index].as_ref() else { return false };
        let key = group.key.with_policy(first.clone());
        let is_whole =
            group.members().count() == members.len() && members.iter().all(|(_, policy)| policy == first);
        let is_new = self.groups.iter().flatten().all(|other| other.key != key);
        if is_whole && is_new {
            // The usual case, a policy that was edited: one encoding of the differences for all of them.
            let Self { groups, interners, .. } = self;
            if let Some(group) = groups[index].as_mut() {
                group.set_key(key, &mut interners.told);
            }
            return true;
        }
        for (id, _) in members {
            self.move_to_group(*id, index);
        }
        false
    }

    /// Moves a peer from a group to the one of its present policy, and has it told where they differ.
    fn move_to_group(&mut self, id: PeerId, from: usize) {
        let Some(key) = self.peers.find(id).map(|peer| GroupKey::of(&peer.info)) else { return };
        let Some(before) = self.groups[from].as_mut().and_then(|group| group.extract(id, &self.table)) else {
            return;
        };
        let to = self.join_group(id, key);
        // What it says itself is not for it there either.
        self.redecide(|slot| slot.paths.as_slice().iter().any(|path| path.peer == id));
        self.decide();
        if let Some(group) = self.groups[to].as_mut() {
            group.adopt(id, before, &self.table);
        }
        if let Some(peer) = self.peers.find_mut(id) {
            peer.group = to;
        }
        self.dissolve_if_empty(from);
    }

    /// Puts another import policy in force.
    pub(super) fn set_import(&mut self, id: PeerId, import: Policy) {
        let Some(peer) = self.peers.find_mut(id) else { return };
        peer.info.policy.import = import;
        if peer.held.is_none() {
            self.begin_holding(id);
        }
        let paths = self.peers.find(id).and_then(|peer| peer.held.clone()).unwrap_or_default();
        let mut importer = self.importer(id);
        for ((prefix, path_id), held) in paths {
            self.import(id, &mut importer, path_id, prefix, held);
        }
        self.end_import(importer);
        if self.peers.find(id).is_some_and(|peer| peer.info.policy.import == Policy::Everything) {
            self.release_held_paths(id, |_, _| true);
            if let Some(peer) = self.peers.find_mut(id) {
                peer.held = None;
            }
        }
    }

    /// What is in the table of a peer without import policy is what it said.
    fn begin_holding(&mut self, id: PeerId) {
        let mut held = HeldPaths::new();
        for slot in self.table.all() {
            let slot = self.table.slot(slot);
            for path in slot.paths.as_slice().iter().filter(|path| path.peer == id) {
                self.interners.received.acquire(path.attr, 1);
                held.insert((slot.prefix, path.remote_id), Held { attr: path.attr, stale: path.stale });
            }
        }
        if let Some(peer) = self.peers.find_mut(id) {
            peer.held = Some(held);
        }
    }

    /// Paths to a prefix that import policies refuse.
    pub fn refused(&self, prefix: Prefix) -> Vec<Refused> {
        let mut refused = Vec::new();
        for (id, peer) in self.peers.iter() {
            let held = peer.held.iter().flat_map(|held| held.range((prefix, 0)..=(prefix, u32::MAX)));
            for ((_, path_id), held) in held {
                let attributes = self.interners.received.attributes(held.attr);
                if !self.has_path(id, *path_id, prefix) {
                    let decided = peer.info.policy.import.explain(prefix, peer.announcer(), attributes);
                    refused.push(Refused { peer: id, path_id: *path_id, decided });
                }
            }
        }
        refused
    }

    /// Paths of each peer by family, and what the tables hold.
    pub fn tally(&self) -> (Tallies, Sizes) {
        let mut tally = Tallies::new();
        for slot in self.table.all().map(|slot| self.table.slot(slot)) {
            for path in slot.paths.as_slice() {
                let counts = tally.entry((path.peer, slot.prefix.family())).or_default();
                counts.accepted += 1;
                counts.received += 1;
            }
        }
        for (id, peer) in self.peers.iter() {
            if let Some(held) = &peer.held {
                for family in Family::ALL {
                    let received = held.keys().filter(|(prefix, _)| prefix.family() == family).count();
                    tally.entry((id, family)).or_default().received = received;
                }
            }
        }
        for group in self.groups.iter().flatten() {
            group.tally(&self.table, &mut tally);
        }
        let sizes = Sizes {
            prefixes: self.table.len(),
            attributes: self.interners.received.len(),
            told: self.interners.told.len(),
        };
        (tally, sizes)
    }

    /// What a peer said, before its import policy.
    pub fn received(&self, id: PeerId) -> Vec<ReceivedView> {
        let Some(peer) = self.peers.find(id) else { return Vec::new() };
        let view = |prefix, path_id, attr| ReceivedView {
            prefix,
            path_id,
            attributes: self.interners.received.attributes(attr).clone(),
        };
        if let Some(held) = &peer.held {
            return held.iter().map(|((prefix, path_id), held)| view(*prefix, *path_id, held.attr)).collect();
        }
        let mut views: Vec<ReceivedView> = Vec::new();
        for slot in self.table.all().map(|slot| self.table.slot(slot)) {
            let paths = slot.paths.as_slice().iter().filter(|path| path.peer == id);
            views.extend(paths.map(|path| view(slot.prefix, path.remote_id, path.attr)));
        }
        views.sort_by_key(|view| (view.prefix, view.path_id));
        views
    }

    /// What a peer is told, or is being told.
    pub fn advertised(&mut self, id: PeerId) -> Vec<ReceivedView> {
        self.decide();
        let Some(peer) = self.peers.find(id).filter(|peer| peer.up) else { return Vec::new() };
        let Some(group) = self.groups[peer.group].as_ref() else { return Vec::new() };
        let told = group.told_to(id, &self.table).into_iter();
        told.map(|((prefix, path_id), attr)| ReceivedView {
            prefix,
            path_id,
            attributes: self.interners.told.attributes(attr).clone(),
        })
        .collect()
    }
}
