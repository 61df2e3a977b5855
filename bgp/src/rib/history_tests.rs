//! Random histories against tables that are worked out from scratch, from what was said last and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::export::export;
use super::group::GroupKey;
use super::monitor_tests::{Collector, opened, values};
use super::tests::{Knowledge, LOCAL_AS, address, asn, id, kind, path, peer, speaker};
use super::*;
use crate::bmp::{DownReason, Timestamp, View};
use crate::policy::Announcer;
use crate::policy::RouteKind;
use crate::wire::attr::Community;
use crate::wire::{Attributes, NextHop, PeerKind};
use crate::{Family, FamilySet, Prefix};

const PEERS: std::ops::Range<u8> = 1..9;
const BOTH: [Family; 2] = Family::ALL;

#[derive(Clone, Debug)]
enum Event {
    Up(u8),
    Down(u8, Option<FamilySet>),
    Announce(u8, usize, u32, Vec<u8>),
    Withdraw(u8, u32, Vec<u8>),
    Originate(Vec<u8>),
    Refresh(u8),
    Stale(u8),
    Sweep(u8, FamilySet),
    LongLived(u8, FamilySet),
    NextHop(u8, Option<u32>),
    Read(u8),
    Write,
    Decide,
    Policies(BTreeMap<u8, (usize, usize)>),
    /// A collector comes, or the one that is there goes.
    Monitor,
    /// It takes a batch.
    Collect,
}

fn attribute_sets() -> Vec<Attributes> {
    let mut sets = Vec::new();
    for (asns, local_pref) in [(&[64501][..], 100), (&[64502, 64510], 100), (&[64501, 64510], 200)] {
        for med in [None, Some(10)] {
            for communities in [vec![], vec![Community::NO_EXPORT], vec![Community::NO_LLGR]] {
                sets.push(Attributes { med, communities, local_pref: Some(local_pref), ..path(1, asns) });
            }
        }
    }
    sets.push(path(1, &[64501, LOCAL_AS]));
    sets.push(Attributes { communities: vec![Community::GRACEFUL_SHUTDOWN], ..path(1, &[64501]) });
    sets.push(Attributes { communities: vec![Community::LLGR_STALE], ..path(1, &[64501]) });
    let reflected = Attributes { local_pref: Some(100), ..path(1, &[64501]) };
    for cluster in [1, 254] {
        let cluster_list = vec![address(cluster), address(77)];
        sets.push(Attributes { originator_id: Some(address(9)), cluster_list, ..reflected.clone() });
    }
    sets.push(Attributes { originator_id: Some(address(254)), ..reflected });
    sets
}

fn nth_prefix(number: u8) -> Prefix {
    let address = if number.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::new(10, number, 0, 0))
    } else {
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 0))
    };
    Prefix::masked(address, if address.is_ipv4() { 16 } else { 48 }).unwrap()
}

/// Attributes in the family of the prefix, as one peer would send them.
fn attributes_for(peer: u8, set: usize, prefix: Prefix) -> Attributes {
    let mut attributes = attribute_sets().swap_remove(set);
    if kind(peer) == PeerKind::External {
        attributes.local_pref = None;
        attributes.originator_id = None;
        attributes.cluster_list.clear();
    }
    attributes.next_hop = match prefix.family() {
        Family::Ipv4Unicast => NextHop::V4(address(peer)),
        Family::Ipv6Unicast => {
            NextHop::V6 { global: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, peer.into()), link_local: None }
        }
    };
    attributes
}

/// Everything, nothing, and policies that look at all there is to look at.
fn nth_policy(number: usize) -> Policy {
    static POLICIES: std::sync::LazyLock<Vec<Policy>> = std::sync::LazyLock::new(|| {
        let text = "
asn: 64500
router_id: 192.0.2.254
prefix_lists:
  some: [{prefix: 10.0.0.0/13, le: 16}, {prefix: '2001:db8::/46', ge: 48}]
policies:
  a:
    default: accept
    terms:
    - {match: {prefix: [some]}, set: {local_preference: 300, communities: {add: ['64500:1']}}, then: accept}
    - {match: {as_path: {origin: [64510]}}, then: reject}
  b:
    default: accept
    terms:
    - {match: {peer: {kind: external, address: [192.0.2.0/30]}}, set: {med: 7, prepend: 2}, then: next}
    - {match: {communities: [no-export]}, then: reject}
    - {match: {family: ipv6-unicast}, set: {communities: {replace: ['64500:1:2', 'rt:64500:1']}}, then: accept}
  c:
    terms:
    - {match: {prefix: [some], peer: {kind: local}}, then: accept}
    - {match: {as_path: {length: {le: 1}}}, set: {next_hop: 192.0.2.200, communities: {remove: [no-export]}}, then: accept}
";
        let checked = crate::config::Config::from_yaml(text).unwrap().check().unwrap();
        let terms = checked.policies.into_values().map(Policy::Terms);
        [Policy::Everything, Policy::Nothing].into_iter().chain(terms).collect()
    });
    POLICIES[number].clone()
}

fn any_families() -> impl Strategy<Value = FamilySet> {
    prop_oneof![
        Just(FamilySet::from_iter(BOTH)),
        Just(FamilySet::from_iter([Family::Ipv4Unicast])),
        Just(FamilySet::EMPTY),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let numbers = || proptest::collection::vec(0_u8..12, 1..6);
    prop_oneof![
        2 => PEERS.prop_map(Event::Up),
        1 => (PEERS, proptest::option::of(any_families())).prop_map(|(peer, retain)| Event::Down(peer, retain)),
        8 => (PEERS, 0..attribute_sets().len(), 0_u32..3, numbers())
            .prop_map(|(peer, set, path_id, n)| Event::Announce(peer, set, path_id, n)),
        4 => (PEERS, 0_u32..3, numbers()).prop_map(|(peer, path_id, n)| Event::Withdraw(peer, path_id, n)),
        1 => numbers().prop_map(Event::Originate),
        1 => PEERS.prop_map(Event::Refresh),
        1 => PEERS.prop_map(Event::Stale),
        1 => (PEERS, any_families()).prop_map(|(peer, families)| Event::Sweep(peer, families)),
        1 => (PEERS, any_families()).prop_map(|(peer, families)| Event::LongLived(peer, families)),
        1 => (PEERS, proptest::option::of(0_u32..3)).prop_map(|(peer, metric)| Event::NextHop(peer, metric)),
        4 => PEERS.prop_map(Event::Read),
        1 => Just(Event::Write),
        2 => Just(Event::Decide),
        1 => proptest::collection::btree_map(PEERS, (0_usize..5, 0_usize..5), 1..9).prop_map(Event::Policies),
        1 => Just(Event::Monitor),
        3 => Just(Event::Collect),
    ]
}

#[derive(Clone, Debug, PartialEq)]
struct Said {
    attributes: Attributes,
    stale: bool,
}

/// What was said last, and nothing else.
#[derive(Default)]
struct Truth {
    up: BTreeSet<u8>,
    said: BTreeMap<(Prefix, u8, u32), Said>,
    networks: BTreeSet<Prefix>,
    metrics: BTreeMap<IpAddr, Option<u32>>,
    policies: BTreeMap<u8, Policies>,
}

/// A path with all that the comparison of two looks at.
struct Rival {
    peer: u8,
    path_id: u32,
    attributes: Attributes,
}

impl Truth {
    fn info(&self, number: u8) -> PeerInfo {
        let policy = self.policies.get(&number).cloned().unwrap_or_default();
        let mut info = PeerInfo { policy, ..peer(number, kind(number)) };
        // What is said here has path identifiers.
        info.add_path.receive = FamilySet::from_iter(BOTH);
        info
    }

    fn announcer(number: u8) -> Announcer {
        match number {
            0 => Announcer::LOCAL,
            _ => Announcer {
                kind: if kind(number) == PeerKind::External {
                    RouteKind::External
                } else {
                    RouteKind::Internal
                },
                address: Some(IpAddr::V4(address(number))),
                asn: Some(peer(number, kind(number)).remote_as),
            },
        }
    }

    /// What was said, as far as import policies accept it and as they do.
    fn accepted(&self) -> BTreeMap<(Prefix, u8, u32), Said> {
        let said = self.said.iter().filter_map(|((prefix, number, path_id), said)| {
            let attributes = match self.info(*number).policy.import {
                Policy::Everything => said.attributes.clone(),
                Policy::Nothing => return None,
                Policy::Terms(policy) => {
                    let signature = policy.signature(*prefix, &Self::announcer(*number));
                    policy.apply(signature, prefix.family(), &said.attributes).imported()?
                }
            };
            Some(((*prefix, *number, *path_id), Said { attributes, stale: said.stale }))
        });
        said.collect()
    }

    fn announce(&mut self, peer: u8, path_id: u32, prefix: Prefix, mut attributes: Attributes) {
        if !self.up.contains(&peer) {
            return;
        }
        let is_loop = attributes.as_path.contains(asn(LOCAL_AS))
            || attributes.originator_id == Some(address(254))
            || attributes.cluster_list.contains(&address(254));
        if is_loop {
            self.said.remove(&(prefix, peer, path_id));
            return;
        }
        if kind(peer) == PeerKind::External && attributes.communities.contains(&Community::GRACEFUL_SHUTDOWN)
        {
            attributes.local_pref = Some(0);
        }
        self.said.insert((prefix, peer, path_id), Said { attributes, stale: false });
    }

    fn long_lived(&mut self, peer: u8, families: FamilySet) {
        self.said.retain(|(prefix, who, _), said| {
            if *who != peer || !said.stale || !families.contains(prefix.family()) {
                return true;
            }
            let communities = &mut said.attributes.communities;
            if communities.contains(&Community::NO_LLGR) {
                return false;
            }
            if !communities.contains(&Community::LLGR_STALE) {
                communities.push(Community::LLGR_STALE);
            }
            true
        });
    }

    fn metric(&self, attributes: &Attributes) -> Option<u32> {
        let address: IpAddr = match attributes.next_hop {
            NextHop::Local => return Some(0),
            NextHop::V4(address) => address.into(),
            NextHop::V6 { global, .. } => global.into(),
        };
        self.metrics.get(&address).copied().unwrap_or(Some(0))
    }

    fn has_next_hop(&self, address: IpAddr) -> bool {
        self.said.values().chain(self.accepted().values()).any(|said| match said.attributes.next_hop {
            NextHop::Local => false,
            NextHop::V4(v4) => IpAddr::V4(v4) == address,
            NextHop::V6 { global, .. } => IpAddr::V6(global) == address,
        })
    }

    /// The paths that can be used: those the decision leaves at its IGP step, the best one first.
    fn used(&self, prefix: Prefix) -> Vec<Rival> {
        if self.networks.contains(&prefix) {
            return vec![Rival { peer: 0, path_id: 0, attributes: Attributes::default() }];
        }
        let accepted = self.accepted();
        let mut rivals: Vec<Rival> = accepted
            .iter()
            .filter(|((of, ..), said)| *of == prefix && self.metric(&said.attributes).is_some())
            .map(|((_, peer, path_id), said)| Rival {
                peer: *peer,
                path_id: *path_id,
                attributes: said.attributes.clone(),
            })
            .collect();
        let rank = |rival: &Rival| {
            let a = &rival.attributes;
            (
                a.communities.contains(&Community::LLGR_STALE),
                u32::MAX - a.local_pref.unwrap_or(100),
                a.as_path.path_length(),
                a.origin,
            )
        };
        let best = rivals.iter().map(rank).min();
        rivals.retain(|rival| Some(rank(rival)) == best);
        let meds: Vec<_> = rivals
            .iter()
            .map(|rival| (rival.attributes.as_path.neighbor_as(), rival.attributes.med.unwrap_or(0)))
            .collect();
        rivals.retain(|rival| {
            let (neighbor, med) = (rival.attributes.as_path.neighbor_as(), rival.attributes.med.unwrap_or(0));
            !meds.iter().any(|(other, lower)| *other == neighbor && *lower < med)
        });
        let rank = |rival: &Rival| (kind(rival.peer) == PeerKind::Internal, self.metric(&rival.attributes));
        let best = rivals.iter().map(rank).min();
        rivals.retain(|rival| Some(rank(rival)) == best);
        rivals.sort_by_key(|rival| {
            let identifier = rival.attributes.originator_id.unwrap_or(address(rival.peer));
            (identifier, rival.attributes.cluster_list.len(), rival.peer, rival.path_id)
        });
        rivals
    }

    fn prefixes(&self) -> BTreeSet<Prefix> {
        self.said.keys().map(|(prefix, ..)| *prefix).chain(self.networks.iter().copied()).collect()
    }

    /// What a peer should know of a prefix, whatever the path identifiers are.
    fn told(&self, to: u8, prefix: Prefix) -> Vec<Attributes> {
        self.exported(to, prefix).into_iter().filter_map(Result::ok).collect()
    }

    /// How many paths to a prefix a peer is not told for the policy alone.
    fn rejected(&self, to: u8, prefix: Prefix) -> usize {
        self.exported(to, prefix).into_iter().filter(|told| *told == Err(Withheld::Policy)).count()
    }

    /// What a peer is told of each path to a prefix of others, or why it is not.
    fn exported(&self, to: u8, prefix: Prefix) -> Vec<Result<Attributes, Withheld>> {
        let info = self.info(to);
        let told_to = GroupKey::of(&info).told(address(254), prefix.family());
        let tell = |rival: &Rival| {
            let (source, originator) = match rival.peer {
                0 => (Source::Local, None),
                from if kind(from) == PeerKind::External => (Source::External, None),
                from => (peer(from, kind(from)).source(), Some(address(from))),
            };
            let told = {
                let announcer = || Self::announcer(rival.peer);
                let signature = info.policy.export.signature(prefix, announcer);
                export(&rival.attributes, source, originator, prefix.family(), &told_to, signature)
            };
            (rival.peer != to).then_some(told)
        };
        if !info.add_path.send.contains(prefix.family()) {
            return self.used(prefix).first().and_then(tell).into_iter().collect();
        }
        assert!(
            info.add_path.send_limit.is_none(),
            "which of the others are the better ones is not modelled"
        );
        let local = self.networks.contains(&prefix).then(|| Rival {
            peer: 0,
            path_id: 0,
            attributes: Attributes::default(),
        });
        let accepted = self.accepted();
        let learned = accepted
            .iter()
            .filter(|((of, ..), said)| *of == prefix && self.metric(&said.attributes).is_some());
        let learned = learned.map(|((_, peer, path_id), said)| Rival {
            peer: *peer,
            path_id: *path_id,
            attributes: said.attributes.clone(),
        });
        local.into_iter().chain(learned).filter_map(|rival| tell(&rival)).collect()
    }
}

fn sorted(mut sets: Vec<Attributes>) -> Vec<String> {
    let mut texts: Vec<String> = sets.drain(..).map(|set| format!("{set:?}")).collect();
    texts.sort();
    texts
}

struct History {
    rib: Rib,
    truth: Truth,
    known: BTreeMap<u8, Knowledge>,
    fib: BTreeMap<Prefix, FibRoute>,
    collector: Option<(MonitorId, Collector)>,
    next_monitor: u32,
}

impl History {
    fn new() -> Self {
        Self {
            rib: Rib::new(speaker()),
            truth: Truth::default(),
            known: BTreeMap::new(),
            fib: BTreeMap::new(),
            collector: None,
            next_monitor: 1,
        }
    }

    fn happen(&mut self, event: Event) {
        let Self { rib, truth, known, .. } = self;
        match event {
            Event::Up(number) => self.come_up(number),
            Event::Down(number, retain) => {
                truth.up.remove(&number);
                rib.session_ended(id(number), &DownReason::RemoteLoss, Timestamp::UNKNOWN);
                rib.peer_down(id(number), retain);
                known.remove(&number);
                let retain = retain.unwrap_or(FamilySet::EMPTY);
                truth.said.retain(|(prefix, peer, _), said| {
                    if *peer == number {
                        said.stale = true;
                    }
                    *peer != number || retain.contains(prefix.family())
                });
            }
            Event::Announce(number, set, path_id, numbers) => {
                for prefix in numbers.into_iter().map(nth_prefix) {
                    let attributes = attributes_for(number, set, prefix);
                    rib.announce(id(number), attributes.clone(), [(path_id, prefix)]);
                    truth.announce(number, path_id, prefix, attributes);
                }
            }
            Event::Withdraw(number, path_id, numbers) => {
                for prefix in numbers.into_iter().map(nth_prefix) {
                    if truth.up.contains(&number) {
                        rib.withdraw(id(number), [(path_id, prefix)]);
                        truth.said.remove(&(prefix, number, path_id));
                    }
                }
            }
            Event::Originate(numbers) => {
                let networks: BTreeMap<_, _> =
                    numbers.into_iter().map(|number| (nth_prefix(number), number % 3 == 0)).collect();
                rib.originate(networks.clone());
                truth.networks = networks.into_keys().collect();
            }
            Event::Refresh(number) => rib.refresh(id(number), Family::Ipv4Unicast),
            Event::Stale(number) => {
                let families = FamilySet::from_iter([Family::Ipv4Unicast]);
                rib.mark_stale(id(number), families);
                for ((prefix, peer, _), said) in &mut truth.said {
                    said.stale |= *peer == number && families.contains(prefix.family());
                }
            }
            Event::Sweep(number, families) => {
                rib.sweep(id(number), families);
                truth.said.retain(|(prefix, peer, _), said| {
                    *peer != number || !said.stale || !families.contains(prefix.family())
                });
            }
            Event::LongLived(number, families) => {
                rib.long_lived(id(number), families);
                truth.long_lived(number, families);
            }
            Event::NextHop(number, metric) => {
                let next_hop = IpAddr::V4(address(number));
                rib.next_hop(next_hop, metric);
                if truth.has_next_hop(next_hop) {
                    truth.metrics.insert(next_hop, metric);
                }
            }
            Event::Read(number) => {
                if let Some(knowledge) = known.get_mut(&number)
                    && let Some(batch) = rib.export(id(number))
                {
                    knowledge.read_batch(&batch, number);
                }
                rib.tidy();
                self.look_at_fib();
            }
            Event::Write => rib.write_pending(),
            Event::Decide => rib.decide(),
            Event::Policies(numbers) => {
                for (number, (import, export)) in numbers {
                    let policies = Policies { import: nth_policy(import), export: nth_policy(export) };
                    truth.policies.insert(number, policies);
                }
                let policies =
                    truth.policies.iter().map(|(number, policies)| (id(*number), policies.clone()));
                rib.set_policies(&policies.collect());
            }
            Event::Monitor => self.toggle_collector(),
            Event::Collect => self.collect(),
        }
        let Self { truth, .. } = self;
        let forgotten: Vec<IpAddr> =
            truth.metrics.keys().copied().filter(|next_hop| !truth.has_next_hop(*next_hop)).collect();
        for next_hop in forgotten {
            truth.metrics.remove(&next_hop);
        }
    }

    fn come_up(&mut self, number: u8) {
        let Self { rib, truth, known, .. } = self;
        if truth.up.contains(&number) {
            // A session that comes up again without having gone down has.
            truth.said.retain(|(_, peer, _), _| *peer != number);
            rib.session_ended(id(number), &DownReason::RemoteLoss, Timestamp::UNKNOWN);
        }
        rib.peer_up(id(number), truth.info(number));
        rib.session_opened(id(number), &opened(), Timestamp::UNKNOWN);
        truth.up.insert(number);
        known.insert(number, Knowledge { lenient: true, ..Knowledge::default() });
    }

    fn collect(&mut self) {
        if let Some((monitor, collector)) = &mut self.collector
            && let Some(batch) = self.rib.monitor_batch(*monitor, Timestamp::UNKNOWN)
        {
            collector.read(&batch);
        }
    }

    fn toggle_collector(&mut self) {
        if let Some((gone, _)) = self.collector.take() {
            return self.rib.end_monitor(gone);
        }
        let monitor = MonitorId(self.next_monitor);
        self.next_monitor += 1;
        let views = [View::PrePolicy, View::PostPolicy, View::LocRib].into_iter().collect();
        self.rib.begin_monitor(monitor, views, Timestamp::UNKNOWN);
        self.collector = Some((monitor, Collector::default()));
    }

    /// A collector that has taken all knows the tables of all peers, and no others.
    fn check_collector(&mut self) {
        let Some((monitor, collector)) = &mut self.collector else { return };
        collector.drain(&mut self.rib, *monitor);
        let address_of = |number: u8| Some(IpAddr::V4(address(number)));
        let up = self.truth.up.iter().map(|number| address_of(*number)).chain([None]);
        assert_eq!(collector.up, up.collect());
        let accepted = self.truth.accepted();
        for number in PEERS {
            let is_up = self.truth.up.contains(&number);
            for (said, behind_policy) in [(&self.truth.said, false), (&accepted, true)] {
                let said = said.iter().filter(|((_, peer, _), _)| *peer == number && is_up);
                let wanted: BTreeMap<_, _> = said
                    .map(|((prefix, _, path_id), said)| {
                        ((*prefix, *path_id), values(prefix.family(), &said.attributes))
                    })
                    .collect();
                let known = collector.table((address_of(number), behind_policy));
                assert_eq!(known, wanted, "a collector of peer {number}, behind policy: {behind_policy}");
            }
        }
        let best = self.truth.prefixes().into_iter().filter_map(|prefix| {
            let best = self.truth.used(prefix).into_iter().next()?;
            Some(((prefix, 0), values(prefix.family(), &best.attributes)))
        });
        assert_eq!(collector.table((None, false)), best.collect(), "a collector of the Loc-RIB");
    }

    fn look_at_fib(&mut self) {
        for change in self.rib.take_fib_changes() {
            match change.route {
                Some(route) => self.fib.insert(change.prefix, route),
                None => self.fib.remove(&change.prefix),
            };
        }
    }

    fn check(&mut self) {
        self.look_at_fib();
        self.check_collector();
        let views = self.rib.paths();
        let accepted = self.truth.accepted();
        assert_eq!(views.len(), accepted.len() + self.truth.networks.len());
        for view in &views {
            if view.peer != PeerId::LOCAL {
                let number = u8::try_from(view.peer.0).unwrap();
                let said = &accepted[&(view.prefix, number, view.path_id)];
                assert_eq!((&view.attributes, view.stale), (&said.attributes, said.stale), "{}", view.prefix);
            }
        }
        for prefix in self.truth.prefixes() {
            let used = self.truth.used(prefix);
            let wanted: Vec<_> = used.iter().map(|rival| (id(rival.peer), rival.path_id)).collect();
            let views = views.iter().filter(|view| view.prefix == prefix && view.multipath);
            let found: Vec<_> = views.map(|view| (view.peer, view.path_id)).collect();
            assert_eq!(found, wanted, "{prefix}");
            let has_route = match used.first() {
                None => false,
                Some(best) => best.peer != 0 || (0..12).any(|n| nth_prefix(n) == prefix && n % 3 == 0),
            };
            assert_eq!(self.fib.contains_key(&prefix), has_route, "{prefix}");
        }
        assert_eq!(self.fib.keys().filter(|prefix| !self.truth.prefixes().contains(prefix)).count(), 0);
        let numbers: Vec<u8> = self.known.keys().copied().collect();
        for number in numbers {
            let knowledge = self.known.get_mut(&number).unwrap();
            knowledge.drain(&mut self.rib, number);
            let mut prefixes = self.truth.prefixes();
            prefixes.extend(knowledge.routes.keys().map(|(prefix, _)| *prefix));
            for prefix in prefixes {
                let known = knowledge.routes.range((prefix, 0)..=(prefix, u32::MAX));
                let known = known.map(|(_, attributes)| attributes.clone()).collect();
                let wanted = self.truth.told(number, prefix);
                assert_eq!(sorted(known), sorted(wanted), "{prefix} at peer {number}");
            }
            let received = self.truth.said.keys().filter(|(_, peer, _)| *peer == number).count();
            let accepted = accepted.keys().filter(|(_, peer, _)| *peer == number).count();
            let export_rejected =
                self.truth.prefixes().into_iter().map(|prefix| self.truth.rejected(number, prefix)).sum();
            let advertised = knowledge.routes.len();
            let counts = Counts { received, accepted, advertised, export_rejected };
            assert_eq!(self.rib.counts(id(number)), counts, "peer {number}");
            let (tally, _) = self.rib.tally();
            let told: usize = Family::ALL
                .iter()
                .filter_map(|of| tally.get(&(id(number), *of)))
                .map(|counts| counts.advertised)
                .sum();
            assert_eq!(told, counts.advertised, "tally of peer {number}");
            let rejected: usize = Family::ALL
                .iter()
                .filter_map(|of| tally.get(&(id(number), *of)))
                .map(|counts| counts.export_rejected)
                .sum();
            assert_eq!(rejected, counts.export_rejected, "tally of what peer {number} is not told");
            let said: Vec<_> =
                self.rib.received(id(number)).into_iter().map(|view| view.attributes).collect();
            let wanted = self.truth.said.iter().filter(|((_, peer, _), _)| *peer == number);
            let wanted: Vec<_> = wanted.map(|(_, said)| said.attributes.clone()).collect();
            assert_eq!(said, wanted, "received from peer {number}");
        }
    }

    fn end(mut self) {
        if self.collector.is_some() {
            self.toggle_collector();
        }
        self.rib.originate(BTreeMap::new());
        for number in PEERS {
            self.rib.peer_down(id(number), None);
        }
        self.rib.take_fib_changes();
        self.rib.decide();
        assert_eq!(self.rib.sizes(), (0, 0, 0), "prefixes and attributes left behind");
    }
}

/// Histories tried; `MARGAY_FUZZ_FACTOR` multiplies them.
fn cases() -> u32 {
    let factor = std::env::var("MARGAY_FUZZ_FACTOR").ok().and_then(|factor| factor.parse::<u32>().ok());
    256 * factor.unwrap_or(1)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn any_history_ends_like_tables_made_from_scratch(
        events in proptest::collection::vec(any_event(), 1..120),
        checks in proptest::collection::btree_set(0_usize..120, 0..4),
    ) {
        let mut history = History::new();
        for (index, event) in events.into_iter().enumerate() {
            history.happen(event);
            if checks.contains(&index) {
                history.check();
            }
        }
        history.check();
        history.end();
    }
}

#[test]
fn other_options_leave_the_routes_alone_whose_prefix_had_another_slot_before() {
    let mut history = History::new();
    let slots_change = [Event::Originate(vec![7, 1, 10, 5]), Event::Originate(vec![3]), Event::Read(1)];
    for event in slots_change.into_iter().chain([Event::Up(7), Event::Announce(7, 0, 0, vec![5])]) {
        history.happen(event);
    }
    history.rib.set_options(DecisionOptions { always_compare_med: true, ..DecisionOptions::default() });
    history.check();
}
