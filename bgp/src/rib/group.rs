//! An update group: peers that are told the same.
//!
//! What was told is kept once for the group, by slot: the attributes, and the member who is left out because it said
//! so itself. A change is encoded once, into a log that the members read at their own pace. A member that joins reads
//! the table piece by piece, each piece at the place of the log at which it was made. One that lags so far behind that
//! the log would outgrow the table keeps the set of prefixes it has missed instead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::buckets::{Buckets, Form, Statement};
use super::export::{ExportView, Told, Withheld, export};
use super::intern::{AttrId, Interner};
use super::log::{Audience, Batch, Chunk, Draft, Log};
use super::peer::{AddPath, PeerId, PeerInfo, Policy, Source};
use super::policies::Tallies;
use super::table::{SlotId, Table, hash};
use crate::family::{Family, FamilySet};
use crate::policy::Signature;
use crate::prefix::Prefix;
use crate::wire::{Frame, Update, UpdateContext, encode};
use crate::wire::{RefreshKind, RouteRefresh};

/// All that makes two peers be told the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GroupKey {
    view: ExportView,
    families: FamilySet,
    add_path: AddPath,
    message_limit: usize,
    extended_next_hop: bool,
    client: bool,
    long_lived: bool,
    pub(super) policy: Policy,
}

/// The state of one prefix, or of one path of it, at the members of the group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// What they were told; `None` for nothing.
    attr: Option<AttrId>,
    /// The member who is left out; [`PeerId::LOCAL`], who is never a member, for none. With [`REJECTED`] there is a path
    /// that they are not told, as the policy rejects it; the member said it.
    except: u32,
}

/// Marks entries of paths that the policy rejects. No peer's number gets as far.
const REJECTED: u32 = 1 << 31;

/// A path that the group should be told, as it is exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) path_id: u32,
    /// `None` of a path that the policy rejects.
    pub(super) attr: Option<AttrId>,
    pub(super) peer: PeerId,
}

/// What a group is told in place of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exported {
    /// These attributes.
    Told(AttrId),
    /// Nothing, as the policy rejects it.
    Rejected,
    /// Nothing, as the protocol forbids it.
    Withheld,
}

impl Exported {
    fn attr(self) -> Option<AttrId> {
        match self {
            Self::Told(attr) => Some(attr),
            Self::Rejected | Self::Withheld => None,
        }
    }

    /// What the group should know of it.
    pub(super) fn wanted(self, path_id: u32, peer: PeerId) -> Option<Wanted> {
        match self {
            Self::Told(attr) => Some(Wanted { path_id, attr: Some(attr), peer }),
            Self::Rejected => Some(Wanted { path_id, attr: None, peer }),
            Self::Withheld => None,
        }
    }
}

/// A path before it is exported.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offer {
    pub(super) peer: PeerId,
    pub(super) attr: AttrId,
    pub(super) local_id: u16,
    pub(super) source: Source,
    pub(super) originator: Option<Ipv4Addr>,
    /// What the group's policy says of the prefix and the peer.
    pub(super) signature: Signature,
}

/// A transformation that was worked out before.
#[derive(Clone, Copy, Debug)]
struct Memo {
    source: Source,
    originator: Option<Ipv4Addr>,
    family: Family,
    told: Exported,
}

#[derive(Debug)]
struct Member {
    /// The next chunk of the log.
    cursor: u64,
    scan: Option<Scan>,
    /// Prefixes, with path identifiers, whose state it has missed.
    missed: BTreeSet<(Prefix, u32)>,
}

/// What a member knows that leaves one group for another.
#[derive(Debug)]
pub(super) struct Leaving {
    scan: Option<Scan>,
    missed: BTreeSet<(Prefix, u32)>,
    told: BTreeMap<(Prefix, u32), AttrId>,
}

/// The way of a member through the table.
#[derive(Clone, Copy, Debug)]
struct Scan {
    families: FamilySet,
    /// Families of which `BoRR` and `EoRR` mark begin and end (RFC 7313).
    marked: FamilySet,
    next: usize,
}

/// A piece of the table that other members may want too.
#[derive(Debug)]
struct Piece {
    version: u64,
    scan: Scan,
    next: usize,
    chunk: Chunk,
}

/// Interned attributes, as received and as told.
#[derive(Debug, Default)]
pub(super) struct Interners {
    pub(super) received: Interner,
    pub(super) told: Interner,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) key: GroupKey,
    cluster_id: Ipv4Addr,
    members: BTreeMap<PeerId, Member>,
    /// By slot, for families without path identifiers.
    entries: Vec<Entry>,
    /// The epoch in which an entry changed last, by slot.
    epochs: Vec<u8>,
    /// By slot and path identifier, for families with them.
    paths: BTreeMap<SlotId, BTreeMap<u32, Entry>>,
    memos: Vec<Option<Memo>>,
    /// For policies that look at prefixes, and those that they name.
    signed_memos: BTreeMap<(AttrId, Signature), Memo>,
    buckets: Buckets,
    /// Counts up when all is written that was pending: what changed in an earlier epoch is in the log.
    epoch: u8,
    /// Counts changes of entries.
    version: u64,
    draft: Draft,
    log: Log,
    piece: Option<Piece>,
    /// Changes of entries are told to nobody: they concern a member only that is about to be told everything.
    silent: bool,
    /// Families of which no member is told yet that it knows all.
    held: FamilySet,
}

/// Slots in one piece of the table.
const PIECE: usize = if cfg!(test) { 4 } else { 64 * 1024 };
/// Missed prefixes in one batch.
const MISSED: usize = if cfg!(test) { 3 } else { 256 * 1024 };
/// Octets of log that are kept for a slow member however small the table is.
const LOG_OCTETS: usize = if cfg!(test) { 400 } else { 16 << 20 };

impl GroupKey {
    pub(super) fn of(info: &PeerInfo) -> Self {
        Self {
            view: info.view,
            families: info.families,
            add_path: AddPath { receive: FamilySet::EMPTY, ..info.add_path },
            message_limit: info.message_limit,
            extended_next_hop: info.extended_next_hop,
            client: info.route_reflector_client,
            long_lived: info.long_lived,
            policy: info.policy.export.clone(),
        }
    }

    pub(super) fn with_policy(&self, policy: Policy) -> Self {
        Self { policy, ..self.clone() }
    }

    fn form(&self) -> Form {
        Form { width: self.view.as_width, limit: self.message_limit }
    }

    pub(super) fn has_path_ids(&self, family: Family) -> bool {
        self.add_path.send.contains(family)
    }

    pub(super) fn told(&self, cluster_id: Ipv4Addr, family: Family) -> Told {
        Told {
            view: self.view,
            message_limit: self.message_limit - if self.has_path_ids(family) { 4 } else { 0 },
            extended_next_hop: self.extended_next_hop,
            client: self.client,
            policy: self.policy.clone(),
            long_lived: self.long_lived,
            cluster_id,
        }
    }

    /// Paths of one prefix that the peers are told.
    pub(super) fn limit(&self, family: Family) -> usize {
        match (self.has_path_ids(family), self.add_path.send_limit) {
            (false, _) => 1,
            (true, Some(limit)) => limit.get().into(),
            (true, None) => usize::MAX,
        }
    }
}

impl Entry {
    fn audience(self) -> Audience {
        match PeerId(self.except) {
            PeerId::LOCAL => Audience::All,
            peer => Audience::Except(peer),
        }
    }
}

impl Group {
    /// An empty group, with the families whose End-of-RIB waits for [`Group::release`].
    pub(super) fn new(key: GroupKey, cluster_id: Ipv4Addr, held: FamilySet) -> Self {
        Self {
            key,
            cluster_id,
            members: BTreeMap::new(),
            entries: Vec::new(),
            epochs: Vec::new(),
            paths: BTreeMap::new(),
            memos: Vec::new(),
            signed_memos: BTreeMap::new(),
            buckets: Buckets::default(),
            epoch: 1,
            version: 0,
            draft: Draft::default(),
            log: Log::default(),
            piece: None,
            silent: false,
            held,
        }
    }

    pub(super) fn takes(&self, family: Family) -> bool {
        self.key.families.contains(family)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether nobody but this peer is in the group, so that nobody is told what it says.
    pub(super) fn is_only(&self, peer: PeerId) -> bool {
        self.members.len() == 1 && self.members.contains_key(&peer)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = PeerId> {
        self.members.keys().copied()
    }

    /// Adds a member. Entries that it changes come next, of which nobody is told, then [`Group::joined`].
    pub(super) fn join(&mut self, peer: PeerId) {
        self.write_pending();
        self.silent = true;
        let member = Member { cursor: self.log.head(), scan: None, missed: BTreeSet::new() };
        self.members.insert(peer, member);
    }

    /// Ends the silence of [`Group::join`].
    pub(super) fn joined(&mut self) {
        self.silent = false;
    }

    /// Begins to tell a member all, from the table as it is now.
    pub(super) fn begin(&mut self, peer: PeerId) {
        self.write_pending();
        if let Some(member) = self.members.get_mut(&peer) {
            member.cursor = self.log.head();
            member.scan = Some(Scan { families: self.key.families, marked: FamilySet::EMPTY, next: 0 });
        }
        self.trim();
    }

    /// Sends the members the End-of-RIB that was held, behind all that was decided.
    pub(super) fn release(&mut self, table: &Table) {
        self.write_pending();
        let families = std::mem::take(&mut self.held).intersection(self.key.families);
        if families.is_empty() {
            return;
        }
        for member in self.members.values_mut() {
            // Who is being told all gets it at the end of that.
            let scan =
                member.scan.get_or_insert(Scan { families, marked: FamilySet::EMPTY, next: table.end() });
            scan.families = scan.families.union(families);
        }
    }

    pub(super) fn leave(&mut self, peer: PeerId) {
        self.members.remove(&peer);
        self.trim();
    }

    /// Tells a member all of some families again.
    pub(super) fn refresh(&mut self, peer: PeerId, families: FamilySet, marked: FamilySet) {
        if let Some(member) = self.members.get_mut(&peer) {
            let before = member.scan.unwrap_or(Scan { families, marked, next: 0 });
            member.scan = Some(Scan {
                families: families.union(before.families),
                marked: marked.union(before.marked),
                next: 0,
            });
        }
    }

    /// What the group is told in place of a path; holds the reference to it itself.
    pub(super) fn exported(&mut self, offer: Offer, family: Family, interners: &mut Interners) -> Exported {
        let index = offer.attr.index();
        let originator = offer.originator;
        let signed = offer.signature != Signature::default();
        let memo = if signed {
            self.signed_memos.get(&(offer.attr, offer.signature))
        } else {
            self.memos.get(index).and_then(Option::as_ref)
        };
        if let Some(memo) = memo
            && (memo.source, memo.originator, memo.family) == (offer.source, originator, family)
        {
            return memo.told;
        }
        let attributes = interners.received.attributes(offer.attr);
        let told_to = self.key.told(self.cluster_id, family);
        let told = match export(attributes, offer.source, originator, family, &told_to, offer.signature) {
            Ok(attributes) => Exported::Told(interners.told.intern(attributes).0),
            Err(Withheld::Policy) => Exported::Rejected,
            Err(_) => Exported::Withheld,
        };
        let memo = Memo { source: offer.source, originator, family, told };
        let before = if signed {
            self.signed_memos.insert((offer.attr, offer.signature), memo)
        } else {
            if self.memos.len() <= index {
                self.memos.resize(index + 1, None);
            }
            self.memos[index].replace(memo)
        };
        if let Some(Memo { told: Exported::Told(before), .. }) = before {
            interners.told.release(before);
        }
        told
    }

    /// Forgets what it knew of attributes whose number gets another meaning.
    pub(super) fn forget(&mut self, attr: AttrId, told: &mut Interner) {
        if let Some(place) = self.memos.get_mut(attr.index())
            && let Some(Memo { told: Exported::Told(before), .. }) = place.take()
        {
            told.release(before);
        }
        if self.signed_memos.is_empty() {
            return;
        }
        let all = (attr, Signature(0))..=(attr, Signature(u64::MAX));
        for (_, memo) in self.signed_memos.extract_if(all, |_, _| true) {
            if let Some(before) = memo.told.attr() {
                told.release(before);
            }
        }
    }

    /// Another policy for all members; the caller goes on to tell the group all of the table.
    pub(super) fn set_key(&mut self, key: GroupKey, told: &mut Interner) {
        self.key = key;
        let signed = std::mem::take(&mut self.signed_memos).into_values();
        for memo in std::mem::take(&mut self.memos).into_iter().flatten().chain(signed) {
            if let Some(before) = memo.told.attr() {
                told.release(before);
            }
        }
    }

    /// What a member was told or is being told.
    pub(super) fn told_to(&self, peer: PeerId, table: &Table) -> BTreeMap<(Prefix, u32), AttrId> {
        let mut told = BTreeMap::new();
        for slot in (0..table.end()).map(SlotId::of) {
            let prefix = table.slot(slot).prefix;
            self.for_each_entry(slot, |path_id, entry| {
                if let Some(attr) = entry.attr.filter(|_| entry.audience().includes(peer)) {
                    told.insert((prefix, path_id.unwrap_or(0)), attr);
                }
            });
        }
        told
    }

    /// Counts what each member is told, in one pass for all of them.
    pub(super) fn tally(&self, table: &Table, tally: &mut Tallies) {
        let mut told: BTreeMap<Family, usize> = BTreeMap::new();
        let mut rejected: BTreeMap<Family, usize> = BTreeMap::new();
        let mut left_out: BTreeMap<(u32, Family), usize> = BTreeMap::new();
        for slot in (0..table.end()).map(SlotId::of) {
            let family = table.slot(slot).prefix.family();
            self.for_each_entry(slot, |_, entry| {
                let counts = match (entry.attr, entry.except & REJECTED) {
                    (Some(_), _) => &mut told,
                    (None, REJECTED) => &mut rejected,
                    (None, _) => return,
                };
                *counts.entry(family).or_default() += 1;
                *left_out.entry((entry.except, family)).or_default() += 1;
            });
        }
        for peer in self.members() {
            for (family, count) in &rejected {
                let own = left_out.get(&(peer.0 | REJECTED, *family)).copied().unwrap_or(0);
                tally.entry((peer, *family)).or_default().export_rejected = count - own;
            }
            for (family, count) in &told {
                let own = left_out.get(&(peer.0, *family)).copied().unwrap_or(0);
                tally.entry((peer, *family)).or_default().advertised = count - own;
            }
        }
    }

    /// Takes a member out, with what it knows, to be put into another group.
    pub(super) fn extract(&mut self, peer: PeerId, table: &Table) -> Option<Leaving> {
        self.write_pending();
        self.absorb(peer);
        let told = self.told_to(peer, table);
        let Member { scan, missed, .. } = self.members.remove(&peer)?;
        self.trim();
        Some(Leaving { scan, missed, told })
    }

    /// Has a member that has just joined told where this group differs from the one it left.
    pub(super) fn adopt(&mut self, peer: PeerId, leaving: Leaving, table: &Table) {
        let Leaving { scan, mut missed, told: before } = leaving;
        self.write_pending();
        let now = self.told_to(peer, table);
        let differing = before.iter().filter(|(key, attr)| now.get(*key) != Some(*attr)).map(|(key, _)| *key);
        missed.extend(differing);
        missed.extend(now.keys().filter(|key| !before.contains_key(*key)));
        if let Some(member) = self.members.get_mut(&peer) {
            *member = Member { cursor: self.log.head(), scan, missed };
        }
        self.trim();
    }

    /// Makes the group know one path of a prefix, or none; a family without path identifiers.
    pub(super) fn tell(
        &mut self,
        slot: SlotId,
        prefix: Prefix,
        wanted: Option<Wanted>,
        interners: &mut Interners,
    ) {
        let wanted = wanted.map_or(Entry::default(), |wanted| self.entry(wanted));
        let known = self.entries.get(slot.index()).copied().unwrap_or_default();
        if known == wanted {
            return;
        }
        if self.entries.len() <= slot.index() {
            self.entries.resize(slot.index() + 1, Entry::default());
            self.epochs.resize(slot.index() + 1, 0);
        }
        // Nobody is told of what the policy rejects, before and after.
        if known.attr.is_none() && wanted.attr.is_none() {
            self.entries[slot.index()] = wanted;
            return;
        }
        if self.epochs[slot.index()] == self.epoch {
            self.write_pending();
        }
        self.epochs[slot.index()] = self.epoch;
        self.entries[slot.index()] = wanted;
        self.change(prefix, None, known, wanted, interners);
    }

    /// Makes the group know these paths of a prefix; a family with path identifiers.
    pub(super) fn tell_all(
        &mut self,
        slot: SlotId,
        prefix: Prefix,
        wanted: &[Wanted],
        interners: &mut Interners,
    ) {
        let wanted: BTreeMap<u32, Entry> =
            wanted.iter().map(|wanted| (wanted.path_id, self.entry(*wanted))).collect();
        let known = self.paths.remove(&slot).unwrap_or_default();
        let is_told = |entries: &BTreeMap<u32, Entry>| entries.values().any(|entry| entry.attr.is_some());
        if known != wanted && (is_told(&known) || is_told(&wanted)) {
            // Seldom enough to go without epochs: what is pending may be about the same path.
            self.write_pending();
            for (path_id, entry) in &known {
                if !wanted.contains_key(path_id) {
                    self.change(prefix, Some(*path_id), *entry, Entry::default(), interners);
                }
            }
            for (path_id, entry) in &wanted {
                let before = known.get(path_id).copied().unwrap_or_default();
                if before != *entry {
                    self.change(prefix, Some(*path_id), before, *entry, interners);
                }
            }
        }
        if !wanted.is_empty() {
            self.paths.insert(slot, wanted);
        }
    }

    fn entry(&self, wanted: Wanted) -> Entry {
        let PeerId(except) =
            if self.members.contains_key(&wanted.peer) { wanted.peer } else { PeerId::LOCAL };
        let mark = if wanted.attr.is_none() { REJECTED } else { 0 };
        Entry { attr: wanted.attr, except: except | mark }
    }

    /// Says what makes members that know `before` know `after`.
    fn change(
        &mut self,
        prefix: Prefix,
        path_id: Option<u32>,
        before: Entry,
        after: Entry,
        interners: &mut Interners,
    ) {
        self.version += 1;
        if let Some(attr) = after.attr {
            interners.told.acquire(attr, 1);
        }
        let left_out = |entry: Entry| Some(PeerId(entry.except)).filter(|peer| *peer != PeerId::LOCAL);
        let mut say = |attr, audience| {
            if self.silent {
                return;
            }
            let statement = Statement { family: prefix.family(), attr, audience };
            self.buckets.add(statement, path_id, prefix, &interners.told, self.key.form(), &mut self.draft);
        };
        match (before.attr, after.attr) {
            (Some(_), None) => say(None, before.audience()),
            (None, Some(_)) => say(after.attr, after.audience()),
            (Some(old), Some(new)) => {
                if old != new {
                    say(after.attr, after.audience());
                } else if let Some(peer) = left_out(before) {
                    say(after.attr, Audience::Only(peer));
                }
                if before.except != after.except
                    && let Some(peer) = left_out(after)
                {
                    say(None, Audience::Only(peer));
                }
            }
            (None, None) => {}
        }
        if let Some(attr) = before.attr {
            interners.told.release(attr);
        }
    }

    /// Encodes what is not in a full message yet.
    pub(super) fn write_pending(&mut self) {
        if !self.buckets.is_empty() {
            self.buckets.drain(&mut self.draft);
            self.epoch = self.epoch.wrapping_add(1);
        }
        self.seal();
    }

    /// Whether something is not in a full message yet.
    pub(super) fn is_pending(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// Lets the members read what is encoded, within what a slow one may cost.
    pub(super) fn seal(&mut self) {
        if !self.draft.is_empty() {
            let chunk = self.draft.finish();
            self.log.push(chunk);
        }
        if self.log.octets() > 0 {
            self.trim();
        }
        let limit = LOG_OCTETS + 16 * self.entries.len();
        while self.log.octets() > limit {
            let Some(slowest) = self.members.values().map(|member| member.cursor).min() else { break };
            let lagging: Vec<PeerId> = self
                .members
                .iter()
                .filter(|(_, member)| member.cursor == slowest)
                .map(|(peer, _)| *peer)
                .collect();
            for peer in lagging {
                self.absorb(peer);
            }
            self.trim();
        }
    }

    fn trim(&mut self) {
        let slowest = self.members.values().map(|member| member.cursor).min();
        self.log.trim(slowest.unwrap_or(u64::MAX));
    }

    /// Turns what a member has not read into the set of prefixes that it has missed.
    fn absorb(&mut self, peer: PeerId) {
        let Some(member) = self.members.get_mut(&peer) else { return };
        let mut batch = Batch::new();
        self.log.read(member.cursor, peer, &mut batch);
        member.cursor = self.log.head();
        let context = UpdateContext {
            as_width: self.key.view.as_width,
            peer: self.key.view.kind,
            families: self.key.families,
            add_path: self.key.add_path.send,
            extended_next_hop: true,
        };
        for segment in &batch {
            let mut rest: &[u8] = segment;
            while let Ok(Some(frame)) = Frame::split_within(rest, self.key.message_limit) {
                rest = rest.get(frame.length..).unwrap_or_default();
                // We wrote it, so it can be read.
                if let Ok(update) = Update::decode(frame.body, context) {
                    let announced = update.announced.iter().map(|reach| reach.nlri);
                    let nlri = update.withdrawn.iter().copied().chain(announced);
                    member.missed.extend(nlri.flat_map(|nlri| nlri.paths().map(|(id, prefix)| (prefix, id))));
                }
            }
        }
    }

    /// The next messages for a member; `None` when it knows all.
    pub(super) fn next_batch(&mut self, peer: PeerId, table: &Table, interners: &Interners) -> Option<Batch> {
        let member = self.members.get(&peer)?;
        let mut batch = Batch::new();
        if !member.missed.is_empty() {
            self.write_pending();
            self.absorb(peer);
            batch.push(self.missed(peer, table, interners).into());
            return Some(batch);
        }
        let scanning = member.scan;
        if scanning.is_some() {
            self.write_pending();
        }
        let member = self.members.get_mut(&peer)?;
        if member.cursor < self.log.head() {
            self.log.read(member.cursor, peer, &mut batch);
            member.cursor = self.log.head();
        }
        if let Some(scan) = scanning {
            if scan.next == 0 && !scan.marked.is_empty() {
                let mut markers = Vec::new();
                for family in scan.marked.iter() {
                    RouteRefresh::encode(family, RefreshKind::Begin, &mut markers);
                }
                batch.push(markers.into());
            }
            let next = self.piece(scan, peer, table, interners, &mut batch);
            let done = next >= table.end();
            if let Some(member) = self.members.get_mut(&peer) {
                member.scan = (!done).then_some(Scan { next, ..scan });
            }
            if done {
                let mut markers = Vec::new();
                for family in scan.families.difference(self.held).iter() {
                    encode::encode_end_of_rib(family, &mut markers);
                }
                for family in scan.marked.iter() {
                    RouteRefresh::encode(family, RefreshKind::End, &mut markers);
                }
                if !markers.is_empty() {
                    batch.push(markers.into());
                }
            }
        }
        (!batch.is_empty()).then_some(batch)
    }

    /// Whether [`Group::next_batch`] may have something.
    pub(super) fn has_news(&self, peer: PeerId) -> bool {
        self.members.get(&peer).is_some_and(|member| {
            member.cursor < self.log.head() || member.scan.is_some() || !member.missed.is_empty()
        })
    }

    /// Appends what a scan comes to next for a member; gives where it goes on.
    fn piece(
        &mut self,
        scan: Scan,
        peer: PeerId,
        table: &Table,
        interners: &Interners,
        batch: &mut Batch,
    ) -> usize {
        let next = table.end().min(scan.next + PIECE);
        if let Some(piece) = &self.piece
            && (piece.version, piece.next) == (self.version, next)
            && (piece.scan.next, piece.scan.families) == (scan.next, scan.families)
        {
            piece.chunk.append_for(peer, batch);
            return next;
        }
        let (mut buckets, mut draft) = (Buckets::default(), Draft::default());
        for slot in (scan.next..next).map(SlotId::of) {
            let prefix = table.slot(slot).prefix;
            if !scan.families.contains(prefix.family()) {
                continue;
            }
            self.for_each_entry(slot, |path_id, entry| {
                if entry.attr.is_some() {
                    let (family, audience) = (prefix.family(), entry.audience());
                    let statement = Statement { family, attr: entry.attr, audience };
                    buckets.add(statement, path_id, prefix, &interners.told, self.key.form(), &mut draft);
                }
            });
        }
        buckets.drain(&mut draft);
        let chunk = draft.finish();
        chunk.append_for(peer, batch);
        self.piece = Some(Piece { version: self.version, scan, next, chunk });
        next
    }

    fn for_each_entry(&self, slot: SlotId, mut visit: impl FnMut(Option<u32>, Entry)) {
        if let Some(entry) = self.entries.get(slot.index()) {
            visit(None, *entry);
        }
        for (path_id, entry) in self.paths.get(&slot).into_iter().flatten() {
            visit(Some(*path_id), *entry);
        }
    }

    /// The present state of prefixes that a member has missed.
    fn missed(&mut self, peer: PeerId, table: &Table, interners: &Interners) -> Vec<u8> {
        let (mut buckets, mut draft) = (Buckets::default(), Draft::default());
        for _ in 0..MISSED {
            let member = self.members.get_mut(&peer);
            let Some((prefix, path_id)) = member.and_then(|member| member.missed.pop_first()) else { break };
            let path_id = self.key.has_path_ids(prefix.family()).then_some(path_id);
            let entry = table.find(prefix, hash(prefix)).and_then(|slot| self.known(slot, path_id));
            let attr = entry.filter(|entry| entry.audience().includes(peer)).and_then(|entry| entry.attr);
            let statement = Statement { family: prefix.family(), attr, audience: Audience::All };
            buckets.add(statement, path_id, prefix, &interners.told, self.key.form(), &mut draft);
        }
        buckets.drain(&mut draft);
        draft.octets
    }

    fn known(&self, slot: SlotId, path_id: Option<u32>) -> Option<Entry> {
        match path_id {
            None => self.entries.get(slot.index()).copied(),
            Some(path_id) => self.paths.get(&slot)?.get(&path_id).copied(),
        }
    }

    /// Paths that a member has been told or is being told.
    pub(super) fn count(&self, peer: PeerId) -> usize {
        let plain = self.entries.iter();
        plain
            .chain(self.paths.values().flat_map(BTreeMap::values))
            .filter(|entry| entry.attr.is_some() && entry.audience().includes(peer))
            .count()
    }

    /// Paths of others that the policy rejects.
    pub(super) fn count_rejected(&self, peer: PeerId) -> usize {
        let entries = self.entries.iter().chain(self.paths.values().flat_map(BTreeMap::values));
        let is_rejected = |entry: &&Entry| entry.attr.is_none() && entry.except & REJECTED != 0;
        entries.filter(is_rejected).filter(|entry| entry.except != peer.0 | REJECTED).count()
    }

    /// Gives the memory back of what all members have taken, and of entries when the table is empty.
    pub(super) fn tidy(&mut self, table: &Table) {
        if self.log.octets() > 0 {
            self.trim();
        }
        // Until then their number says how much a slow member may cost.
        if table.end() == 0 && self.log.octets() == 0 && !self.entries.is_empty() {
            (self.entries, self.epochs, self.piece) = (Vec::new(), Vec::new(), None);
        }
    }

    /// Gives all references back; the group is of no use afterwards.
    pub(super) fn dissolve(self, told: &mut Interner) {
        let entries = self.entries.iter().chain(self.paths.values().flat_map(BTreeMap::values));
        let memos =
            self.memos.iter().flatten().chain(self.signed_memos.values()).filter_map(|memo| memo.told.attr());
        for attr in entries.filter_map(|entry| entry.attr).chain(memos) {
            told.release(attr);
        }
    }
}
