//! What collectors are told of the tables by BMP (RFC 7854, RFC 9069).
//!
//! A collector is told what the tables have when it comes, piece by piece, and from then on each route that changed, as
//! it is when there is room to say so: what changes twice meanwhile is said once (section 5: state compression). For one
//! that lags there is a set of the routes that it must hear of yet, and nothing else. Where the set outgrows the tables
//! the collector must begin anew ([`Rib::monitor_is_lost`]).
//!
//! Without a collector all this is a flag that is not set, and the Peer Up of each session, for one that may come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Bound;

use super::bundle::{Bundles, Said};
use super::intern::AttrId;
use super::peer::PeerId;
use super::state::Rib;
use super::table::{SlotId, hash};
use crate::bmp::{self, DownReason, Instance, MonitoredPeer, Opened, Statistic, Timestamp, View};
use crate::family::{Family, FamilySet};
use crate::hold_time::HoldTime;
use crate::prefix::Prefix;
use crate::wire::{Capabilities, Open, encode};

/// The number of a collector's session, never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MonitorId(pub u32);

/// Which tables a collector is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Views {
    /// Adj-RIB-In before the import policy.
    pub pre_policy: bool,
    /// Adj-RIB-In behind it.
    pub post_policy: bool,
    /// The best paths.
    pub loc_rib: bool,
}

/// A peer that collectors are told of, the Loc-RIB included.
#[derive(Debug)]
pub(super) struct Monitored {
    pub(super) peer: MonitoredPeer,
    /// Families whose prefixes come with path identifiers.
    pub(super) path_ids: FamilySet,
    families: FamilySet,
    /// The Peer Up.
    up: Vec<u8>,
}

/// A route that a collector must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Route {
    peer: PeerId,
    view: View,
    prefix: Prefix,
    path_id: u32,
}

/// The way through the tables of what was there when the collector came.
#[derive(Clone, Copy, Debug)]
enum Scan {
    /// Through the table, from this slot on.
    Table(usize),
    /// Through what peers with an import policy said, behind this.
    Held(Option<(PeerId, Prefix, u32)>),
}

#[derive(Debug)]
struct Monitor {
    views: Views,
    /// Whole messages, which go before any route.
    first: VecDeque<Vec<u8>>,
    first_octets: usize,
    scan: Option<Scan>,
    changed: BTreeSet<Route>,
    /// The most routes that the tables had since it last knew all.
    most: usize,
    /// Where in `changed` the last message ended, so that no peer keeps the others waiting.
    after: Option<Route>,
    /// End-of-RIB markers that go when all that was there before is told.
    ends: BTreeSet<(PeerId, View, Family)>,
}

/// All collectors, and what they share.
#[derive(Debug, Default)]
pub(super) struct Monitoring {
    peers: BTreeMap<PeerId, Monitored>,
    monitors: BTreeMap<MonitorId, Monitor>,
    /// What the Loc-RIB has, by slot, with a reference each; empty unless somebody is told.
    best: Vec<Option<AttrId>>,
    /// Whether anybody is told of changes of Adj-RIBs-In.
    pub(super) sees_paths: bool,
    /// Whether anybody is told of changes of the Loc-RIB.
    pub(super) sees_best: bool,
}

/// Routes in one batch, about.
const PART: usize = if cfg!(test) { 4 } else { 8192 };
/// Slots looked at for one batch, about.
const SLOTS: usize = if cfg!(test) { 4 } else { 64 * 1024 };
/// Routes that may wait for a collector beside those that the tables have.
const SPARE: usize = if cfg!(test) { 8 } else { 256 * 1024 };
/// Octets of messages about sessions that may wait for a collector.
const FIRST_OCTETS: usize = 16 << 20;
/// The name of the one Loc-RIB (RFC 9069 section 4.4).
const TABLE_NAME: &str = "global";

impl Views {
    fn has(self, view: View) -> bool {
        match view {
            View::PrePolicy => self.pre_policy,
            View::PostPolicy => self.post_policy,
            View::LocRib => self.loc_rib,
        }
    }

    /// Those that are told of a peer.
    fn of(self, peer: PeerId) -> impl Iterator<Item = View> {
        let views: &[View] =
            if peer == PeerId::LOCAL { &[View::LocRib] } else { &[View::PrePolicy, View::PostPolicy] };
        views.iter().copied().filter(move |view| self.has(*view))
    }
}

impl FromIterator<View> for Views {
    fn from_iter<I: IntoIterator<Item = View>>(list: I) -> Self {
        let mut views = Self::default();
        for view in list {
            match view {
                View::PrePolicy => views.pre_policy = true,
                View::PostPolicy => views.post_policy = true,
                View::LocRib => views.loc_rib = true,
            }
        }
        views
    }
}

impl Route {
    /// Before all others of a peer's table.
    fn first(peer: PeerId, view: View) -> Self {
        let prefix = Prefix::masked(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
            .unwrap_or(Prefix::host(IpAddr::V4(Ipv4Addr::UNSPECIFIED)));
        Self { peer, view, prefix, path_id: 0 }
    }
}

impl Monitor {
    fn say_first(&mut self, message: Vec<u8>) {
        self.first_octets += message.len();
        self.first.push_back(message);
    }

    /// The next routes that changed, from where the last message ended.
    fn take_changed(&mut self) -> Vec<Route> {
        let start = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut taken: Vec<Route> =
            self.changed.extract_if((start, Bound::Unbounded), |_| true).take(PART).collect();
        if taken.len() < PART {
            taken.extend(self.changed.extract_if(.., |_| true).take(PART - taken.len()));
        }
        self.after = taken.last().copied();
        taken
    }

    /// Markers whose routes are all told.
    fn take_ends(&mut self) -> Vec<(PeerId, View, Family)> {
        if self.scan.is_some() {
            return Vec::new();
        }
        let Self { ends, changed, .. } = self;
        ends.extract_if(.., |(peer, view, _)| {
            let next = changed.range(Route::first(*peer, *view)..).next();
            next.is_none_or(|route| (route.peer, route.view) != (*peer, *view))
        })
        .collect()
    }
}

impl Monitoring {
    fn mark(&mut self, route: Route) {
        if !self.peers.contains_key(&route.peer) {
            return;
        }
        for monitor in self.monitors.values_mut().filter(|monitor| monitor.views.has(route.view)) {
            monitor.changed.insert(route);
        }
    }

    fn note_monitors(&mut self) {
        let views = || self.monitors.values().map(|monitor| monitor.views);
        self.sees_paths = views().any(|views| views.pre_policy || views.post_policy);
        self.sees_best = views().any(|views| views.loc_rib);
    }
}

impl Rib {
    /// Collectors are told that a session is up, and of its routes from now on.
    pub fn session_opened(&mut self, id: PeerId, opened: &Opened, time: Timestamp) {
        let Some(peer) = self.peers.find(id) else { return };
        let info = &peer.info;
        let monitored = MonitoredPeer {
            instance: Instance::Neighbor(info.address),
            asn: info.remote_as,
            identifier: info.identifier,
        };
        let (families, path_ids) = (info.families, info.add_path.receive);
        let is_back = peer.announced() > 0;
        let mut up = Vec::new();
        bmp::peer_up(&monitored, opened, None, time, &mut up);
        for monitor in self.monitoring.monitors.values_mut() {
            monitor.say_first(up.clone());
        }
        self.monitoring.peers.insert(id, Monitored { peer: monitored, path_ids, families, up });
        if is_back && self.monitoring.sees_paths {
            self.note_all_paths(id);
        }
    }

    /// Collectors are told that a session ended, and nothing more of its routes.
    pub fn session_ended(&mut self, id: PeerId, reason: &DownReason, time: Timestamp) {
        let Some(monitored) = self.monitoring.peers.remove(&id) else { return };
        let mut down = Vec::new();
        bmp::peer_down(&monitored.peer, reason, time, &mut down);
        let routes = Route::first(id, View::PrePolicy)..Route::first(PeerId(id.0 + 1), View::PrePolicy);
        for monitor in self.monitoring.monitors.values_mut() {
            // All of them are withdrawn by it.
            let withdrawn = monitor.changed.extract_if(routes.clone(), |_| true).count();
            tracing::trace!(peer = %id, withdrawn, "nothing waits of a session that ended");
            monitor.ends.retain(|(peer, _, _)| *peer != id);
            monitor.say_first(down.clone());
        }
    }

    /// Begins to tell a collector: of all sessions that are up, of what the tables have, of what changes.
    pub fn begin_monitor(&mut self, id: MonitorId, views: Views, time: Timestamp) {
        self.decide();
        if views.loc_rib && !self.monitoring.sees_best {
            self.begin_loc_rib(time);
        }
        let mut monitor = Monitor {
            views,
            first: VecDeque::new(),
            first_octets: 0,
            scan: Some(Scan::Table(0)),
            changed: BTreeSet::new(),
            most: 0,
            after: None,
            ends: BTreeSet::new(),
        };
        for (peer, monitored) in &self.monitoring.peers {
            if *peer != PeerId::LOCAL || views.loc_rib {
                monitor.say_first(monitored.up.clone());
            }
            for view in views.of(*peer) {
                monitor.ends.extend(monitored.families.iter().map(|family| (*peer, view, family)));
            }
        }
        self.monitoring.monitors.insert(id, monitor);
        self.monitoring.note_monitors();
    }

    /// A collector is gone.
    pub fn end_monitor(&mut self, id: MonitorId) {
        self.monitoring.monitors.remove(&id);
        self.monitoring.note_monitors();
        if !self.monitoring.sees_best {
            self.monitoring.peers.remove(&PeerId::LOCAL);
            for attr in std::mem::take(&mut self.monitoring.best).into_iter().flatten() {
                self.release(attr);
            }
        }
    }

    /// Makes the Loc-RIB one of the peers (RFC 9069 section 5.1), whose OPENs are made up.
    fn begin_loc_rib(&mut self, time: Timestamp) {
        let speaker = self.speaker();
        let peer =
            MonitoredPeer { instance: Instance::LocRib, asn: speaker.asn, identifier: speaker.identifier };
        let families = FamilySet::from_iter(Family::ALL);
        let capabilities =
            Capabilities { families, four_octet_as: Some(speaker.asn.number()), ..Capabilities::default() };
        let open = Open {
            asn: speaker.asn,
            hold_time: HoldTime::NEVER,
            identifier: speaker.identifier,
            capabilities,
        };
        let mut octets = Vec::new();
        open.encode(&mut octets);
        let opened = Opened { ends: None, sent: octets.clone(), received: octets };
        let mut up = Vec::new();
        bmp::peer_up(&peer, &opened, Some(TABLE_NAME), time, &mut up);
        let monitored = Monitored { peer, path_ids: FamilySet::EMPTY, families, up };
        self.monitoring.peers.insert(PeerId::LOCAL, monitored);
        self.monitoring.sees_best = true;
        for slot in self.table.all() {
            self.note_best(slot);
        }
    }

    /// The peer has told all of a family.
    pub(super) fn note_end_of_rib(&mut self, id: PeerId, family: Family) {
        if !self.monitoring.peers.contains_key(&id) {
            return;
        }
        for monitor in self.monitoring.monitors.values_mut() {
            let views = monitor.views.of(id);
            monitor.ends.extend(views.map(|view| (id, view, family)));
        }
    }

    /// A path in the table came, changed or went. Costs nothing where nobody is told.
    #[inline]
    pub(super) fn note_path(&mut self, id: PeerId, path_id: u32, slot: SlotId) {
        if self.monitoring.sees_paths {
            self.mark_path(id, path_id, self.table.slot(slot).prefix);
        }
    }

    #[cold]
    fn mark_path(&mut self, peer: PeerId, path_id: u32, prefix: Prefix) {
        // Our own routes have no Adj-RIB-In.
        if peer == PeerId::LOCAL {
            return;
        }
        self.monitoring.mark(Route { peer, view: View::PostPolicy, prefix, path_id });
        // Without an import policy, what is in the table is what the peer said.
        if self.peers.find(peer).is_some_and(|peer| peer.held.is_none()) {
            self.monitoring.mark(Route { peer, view: View::PrePolicy, prefix, path_id });
        }
    }

    /// What a peer with an import policy said came, changed or went.
    pub(super) fn note_held(&mut self, peer: PeerId, path_id: u32, prefix: Prefix) {
        if self.monitoring.sees_paths {
            self.monitoring.mark(Route { peer, view: View::PrePolicy, prefix, path_id });
        }
    }

    /// All that an earlier session of a peer left.
    fn note_all_paths(&mut self, id: PeerId) {
        for slot in self.table.all() {
            let paths = self.table.slot(slot).paths.as_slice().iter();
            let ids: Vec<u32> = paths.filter(|path| path.peer == id).map(|path| path.remote_id).collect();
            for path_id in ids {
                self.note_path(id, path_id, slot);
            }
        }
        let held = self.peers.find(id).and_then(|peer| peer.held.as_ref());
        let held: Vec<(Prefix, u32)> = held.into_iter().flat_map(BTreeMap::keys).copied().collect();
        for (prefix, path_id) in held {
            self.note_held(id, path_id, prefix);
        }
    }

    /// A prefix was decided about; `sees_best` says whether anybody cares.
    #[cold]
    pub(super) fn note_best(&mut self, id: SlotId) {
        let slot = self.table.slot(id);
        let prefix = slot.prefix;
        let now = slot.paths.as_slice().first().filter(|_| slot.used > 0).map(|path| path.attr);
        let best = &mut self.monitoring.best;
        let before = best.get(id.index()).copied().flatten();
        if before == now {
            return;
        }
        if best.len() <= id.index() {
            best.resize(id.index() + 1, None);
        }
        best[id.index()] = now;
        if let Some(attr) = now {
            self.interners.received.acquire(attr, 1);
        }
        if let Some(attr) = before {
            self.release(attr);
        }
        self.monitoring.mark(Route { peer: PeerId::LOCAL, view: View::LocRib, prefix, path_id: 0 });
    }

    /// The next messages for a collector; `None` when it knows all.
    pub fn monitor_batch(&mut self, id: MonitorId, now: Timestamp) -> Option<Vec<u8>> {
        // A part of the table may have nothing for it.
        while self.monitor_has_news(id) {
            if let Some(batch) = self.next_monitor_batch(id, now) {
                return Some(batch);
            }
        }
        None
    }

    fn next_monitor_batch(&mut self, id: MonitorId, now: Timestamp) -> Option<Vec<u8>> {
        let size = self.monitored_size();
        let monitor = self.monitoring.monitors.get_mut(&id)?;
        monitor.most = if monitor.changed.is_empty() { size } else { monitor.most.max(size) };
        let mut octets: Vec<u8> = std::mem::take(&mut monitor.first).into_iter().flatten().collect();
        monitor.first_octets = 0;
        if let Some(scan) = monitor.scan {
            let views = monitor.views;
            // Nobody knows when these came.
            let next = self.scan(scan, views, &mut octets);
            if let Some(monitor) = self.monitoring.monitors.get_mut(&id) {
                monitor.scan = next;
            }
        } else if !monitor.changed.is_empty() {
            let routes = monitor.take_changed();
            let mut bundles = Bundles::new(&self.monitoring.peers, &self.interners.received, now);
            for Route { peer, view, prefix, path_id } in routes {
                let attr = self.present(peer, view, prefix, path_id);
                let said = Said { peer, view, family: prefix.family(), attr };
                bundles.add(said, path_id, prefix, &mut octets);
            }
            bundles.finish(&mut octets);
        }
        let monitor = self.monitoring.monitors.get_mut(&id)?;
        for (peer, view, family) in monitor.take_ends() {
            if let Some(monitored) = self.monitoring.peers.get(&peer) {
                bmp::route_monitoring(&monitored.peer, view, now, &mut octets, |out| {
                    encode::encode_end_of_rib(family, out);
                });
            }
        }
        (!octets.is_empty()).then_some(octets)
    }

    /// Whether [`Rib::monitor_batch`] may have something.
    pub fn monitor_has_news(&self, id: MonitorId) -> bool {
        self.monitoring.monitors.get(&id).is_some_and(|monitor| {
            !monitor.first.is_empty()
                || monitor.scan.is_some()
                || !monitor.changed.is_empty()
                || !monitor.ends.is_empty()
        })
    }

    /// Routes that changed and that a collector must hear of yet.
    pub fn monitor_waiting(&self, id: MonitorId) -> usize {
        self.monitoring.monitors.get(&id).map_or(0, |monitor| monitor.changed.len())
    }

    /// Whether a collector lags so far behind that it has to begin anew.
    pub fn monitor_is_lost(&self, id: MonitorId) -> bool {
        let Some(monitor) = self.monitoring.monitors.get(&id) else { return false };
        if monitor.first_octets > FIRST_OCTETS {
            return true;
        }
        if monitor.changed.len() <= SPARE {
            return false;
        }
        // Routes that are gone were in the tables when it was last told of any.
        monitor.changed.len() > SPARE + monitor.most.max(self.monitored_size())
    }

    /// Routes in all tables. Each view may have each of them.
    fn monitored_size(&self) -> usize {
        let paths: usize = self.peers.iter().map(|(_, peer)| peer.announced() + peer.received).sum();
        paths + self.table.len()
    }

    /// Has a collector told how many routes there are.
    pub fn monitor_statistics(&mut self, id: MonitorId, now: Timestamp) {
        let Some(monitor) = self.monitoring.monitors.get(&id) else { return };
        // One that has not taken the last needs no other.
        if !monitor.first.is_empty() {
            return;
        }
        let (tally, _) = self.tally();
        let best: BTreeMap<Family, u64> =
            if monitor.views.loc_rib { self.count_best() } else { BTreeMap::new() };
        let with_loc_rib = monitor.views.loc_rib;
        let mut reports = Vec::new();
        for (peer, monitored) in &self.monitoring.peers {
            let mut statistics = Vec::new();
            if *peer == PeerId::LOCAL {
                if !with_loc_rib {
                    continue;
                }
                statistics.push(Statistic::LocRib(best.values().sum()));
                statistics.extend(best.iter().map(|(family, count)| Statistic::LocRibOf(*family, *count)));
            } else {
                let of = |family| tally.get(&(*peer, family)).copied().unwrap_or_default();
                let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
                let families = || monitored.families.iter();
                let received = families().map(|family| count(of(family).received));
                statistics.push(Statistic::AdjRibIn(received.sum()));
                let told = families().map(|family| count(of(family).advertised));
                statistics.push(Statistic::AdjRibOut(told.sum()));
                for family in families() {
                    statistics.push(Statistic::AdjRibInOf(family, count(of(family).received)));
                    statistics.push(Statistic::AdjRibOutOf(family, count(of(family).advertised)));
                }
            }
            bmp::statistics(&monitored.peer, &statistics, now, &mut reports);
        }
        if let Some(monitor) = self.monitoring.monitors.get_mut(&id)
            && !reports.is_empty()
        {
            monitor.say_first(reports);
        }
    }

    fn count_best(&self) -> BTreeMap<Family, u64> {
        let mut counts: BTreeMap<Family, u64> = Family::ALL.into_iter().map(|family| (family, 0)).collect();
        for slot in self.table.all().map(|slot| self.table.slot(slot)) {
            if slot.used > 0 && !slot.paths.as_slice().is_empty() {
                *counts.entry(slot.prefix.family()).or_default() += 1;
            }
        }
        counts
    }

    /// What the Loc-RIB has, as of the last decision.
    fn best(&self, slot: SlotId) -> Option<AttrId> {
        self.monitoring.best.get(slot.index()).copied().flatten()
    }

    /// What a table has now.
    fn present(&self, peer: PeerId, view: View, prefix: Prefix, path_id: u32) -> Option<AttrId> {
        if view == View::PrePolicy
            && let Some(held) = self.peers.find(peer).and_then(|peer| peer.held.as_ref())
        {
            return held.get(&(prefix, path_id)).map(|held| held.attr);
        }
        let slot = self.table.find(prefix, hash(prefix))?;
        if view == View::LocRib {
            return self.best(slot);
        }
        let mut paths = self.table.slot(slot).paths.as_slice().iter();
        let found = paths.find(|path| (path.peer, path.remote_id) == (peer, path_id));
        found.map(|path| path.attr)
    }

    /// Appends the next part of what was there when the collector came; gives where it goes on.
    fn scan(&self, scan: Scan, views: Views, out: &mut Vec<u8>) -> Option<Scan> {
        let mut bundles = Bundles::new(&self.monitoring.peers, &self.interners.received, Timestamp::UNKNOWN);
        let next = match scan {
            Scan::Table(start) => self.scan_table(start, views, &mut bundles, out),
            Scan::Held(behind) => self.scan_held(behind, views, &mut bundles, out),
        };
        bundles.finish(out);
        next
    }

    fn scan_table(
        &self,
        start: usize,
        views: Views,
        bundles: &mut Bundles<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Scan> {
        let end = self.table.end().min(start.saturating_add(SLOTS));
        let mut said = 0;
        for index in start..end {
            let slot = self.table.slot(SlotId::of(index));
            let (prefix, family) = (slot.prefix, slot.prefix.family());
            let paths = slot.paths.as_slice();
            for path in paths {
                let held = self.peers.find(path.peer).is_some_and(|peer| peer.held.is_some());
                for view in views.of(path.peer).filter(|view| *view != View::LocRib) {
                    // What the peer itself said comes from elsewhere.
                    if view == View::PrePolicy && held {
                        continue;
                    }
                    let path_said = Said { peer: path.peer, view, family, attr: Some(path.attr) };
                    bundles.add(path_said, path.remote_id, prefix, out);
                    said += 1;
                }
            }
            if let Some(best) = self.best(SlotId::of(index)).filter(|_| views.loc_rib) {
                let attr = Some(best);
                bundles.add(Said { peer: PeerId::LOCAL, view: View::LocRib, family, attr }, 0, prefix, out);
                said += 1;
            }
            if said >= PART {
                return Some(Scan::Table(index + 1));
            }
        }
        if end < self.table.end() {
            return Some(Scan::Table(end));
        }
        views.pre_policy.then_some(Scan::Held(None))
    }

    fn scan_held(
        &self,
        behind: Option<(PeerId, Prefix, u32)>,
        views: Views,
        bundles: &mut Bundles<'_>,
        out: &mut Vec<u8>,
    ) -> Option<Scan> {
        let (mut said, mut last) = (0, behind);
        debug_assert!(views.pre_policy, "nobody else asks");
        for (id, peer) in self.peers.iter() {
            let Some(held) = &peer.held else { continue };
            let start = match behind {
                Some((done, _, _)) if id < done => continue,
                Some((done, prefix, path_id)) if id == done => Bound::Excluded((prefix, path_id)),
                _ => Bound::Unbounded,
            };
            for ((prefix, path_id), held) in held.range((start, Bound::Unbounded)) {
                if said >= PART {
                    return Some(Scan::Held(last));
                }
                let family = prefix.family();
                let view = View::PrePolicy;
                bundles.add(Said { peer: id, view, family, attr: Some(held.attr) }, *path_id, *prefix, out);
                (said, last) = (said + 1, Some((id, *prefix, *path_id)));
            }
        }
        None
    }
}
