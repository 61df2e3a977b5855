//! What a collector knows from the messages it was sent, read by RFC 7854's figures and nothing of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::tests::{address, announce, id, kind, path, peer, prefix, rib, speaker};
use super::*;
use crate::bmp::{DownReason, Opened, Timestamp, View};
use crate::wire::{Attributes, NextHop, attr};
use crate::{Family, FamilySet, Prefix};

/// Values by type code, of `MP_REACH_NLRI` the next hop alone.
pub(super) type Values = BTreeMap<u8, Vec<u8>>;

/// Whose table: the address, `None` for the Loc-RIB, and whether it is behind the policy.
pub(super) type TableOf = (Option<IpAddr>, bool);

/// Whose counts, by their types.
type Report = (Option<IpAddr>, Vec<(u16, u64)>);

/// What a collector knows.
#[derive(Debug, Default)]
pub(super) struct Collector {
    pub(super) up: BTreeSet<Option<IpAddr>>,
    pub(super) routes: BTreeMap<(TableOf, Prefix, u32), Values>,
    pub(super) ends: Vec<(TableOf, Family)>,
    pub(super) reports: Vec<Report>,
    pub(super) downs: Vec<u8>,
    pub(super) messages: usize,
}

fn take<'a>(octets: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, rest) = octets.split_at(count);
    *octets = rest;
    taken
}

fn number(octets: &[u8]) -> u64 {
    octets.iter().fold(0, |number, octet| number << 8 | u64::from(*octet))
}

fn length(octets: &mut &[u8], size: usize) -> usize {
    usize::try_from(number(take(octets, size))).unwrap()
}

/// Prefixes with their path identifiers.
fn nlri(mut octets: &[u8], family: Family, with_ids: bool) -> Vec<(Prefix, u32)> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let path_id = if with_ids { u32::try_from(number(take(&mut octets, 4))).unwrap() } else { 0 };
        let bits = take(&mut octets, 1)[0];
        let mut whole = [0; 16];
        let count = usize::from(bits.div_ceil(8));
        whole[..count].copy_from_slice(take(&mut octets, count));
        let address = match family {
            Family::Ipv4Unicast => IpAddr::V4(Ipv4Addr::from(*whole.first_chunk::<4>().unwrap())),
            Family::Ipv6Unicast => IpAddr::V6(Ipv6Addr::from(whole)),
        };
        found.push((Prefix::masked(address, bits).unwrap(), path_id));
    }
    found
}

/// Attributes as type codes and values.
fn attributes(mut octets: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut found = BTreeMap::new();
    while !octets.is_empty() {
        let flags = take(&mut octets, 1)[0];
        let code = take(&mut octets, 1)[0];
        let count = length(&mut octets, if flags & 0x10 != 0 { 2 } else { 1 });
        assert!(found.insert(code, take(&mut octets, count).to_vec()).is_none(), "{code} is there twice");
    }
    found
}

/// The values that attributes of ours have.
pub(super) fn values(family: Family, of: &Attributes) -> Values {
    attributes(&attr::encode_for_table_dump(family, of))
}

impl Collector {
    /// Takes all that there is for it.
    pub(super) fn drain(&mut self, rib: &mut Rib, id: MonitorId) {
        rib.decide();
        while let Some(batch) = rib.monitor_batch(id, Timestamp::UNKNOWN) {
            self.read(&batch);
        }
    }

    pub(super) fn read(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            let whole = u32::from_be_bytes(octets[1..5].try_into().unwrap());
            let message = take(&mut octets, usize::try_from(whole).unwrap());
            assert_eq!(message[0], 3, "the version");
            self.messages += 1;
            self.message(message[5], &message[6..]);
        }
    }

    fn message(&mut self, kind: u8, mut body: &[u8]) {
        let header = take(&mut body, 42);
        let (peer_type, flags) = (header[0], header[1]);
        assert_eq!(flags & 0b0011_1111, 0, "A flag and reserved ones");
        let peer = match (peer_type, flags & 0x80 != 0) {
            (3, false) => None,
            (0, true) => Some(IpAddr::V6(<[u8; 16]>::try_from(&header[10..26]).unwrap().into())),
            (0, false) => {
                assert_eq!(header[10..22], [0; 12]);
                Some(IpAddr::V4(<[u8; 4]>::try_from(&header[22..26]).unwrap().into()))
            }
            other => panic!("peer type and V flag {other:?}"),
        };
        let table = (peer, flags & 0x40 != 0);
        match kind {
            0 => self.update(table, body),
            1 => {
                let count = number(take(&mut body, 4));
                let mut list = Vec::new();
                for _ in 0..count {
                    let kind = u16::try_from(number(take(&mut body, 2))).unwrap();
                    let size = length(&mut body, 2);
                    let value = take(&mut body, size);
                    list.push((kind, number(&value[size - 8..])));
                }
                assert!(body.is_empty());
                self.reports.push((peer, list));
            }
            2 => {
                assert!(self.up.remove(&peer), "{peer:?} goes down, but was not up");
                self.routes.retain(|((of, _), _, _), _| *of != peer);
                self.downs.push(body[0]);
            }
            3 => assert!(self.up.insert(peer), "{peer:?} comes up, but was up"),
            other => panic!("message type {other}"),
        }
    }

    fn update(&mut self, table: TableOf, mut message: &[u8]) {
        assert!(self.up.contains(&table.0), "{table:?} has no Peer Up");
        assert_eq!(take(&mut message, 16), [0xff; 16]);
        let whole = length(&mut message, 2);
        assert_eq!((whole, take(&mut message, 1)[0]), (message.len() + 19, 2), "one UPDATE, and only that");
        let with_ids = table.0.is_some();
        let count = length(&mut message, 2);
        let mut withdrawn = nlri(take(&mut message, count), Family::Ipv4Unicast, with_ids);
        let count = length(&mut message, 2);
        let mut values = attributes(take(&mut message, count));
        let mut announced = nlri(message, Family::Ipv4Unicast, with_ids);
        if values.is_empty() && withdrawn.is_empty() && announced.is_empty() {
            self.ends.push((table, Family::Ipv4Unicast));
        }
        let family = |value: &[u8]| if value[1] == 1 { Family::Ipv4Unicast } else { Family::Ipv6Unicast };
        if let Some(value) = values.remove(&15) {
            if value.len() == 3 {
                self.ends.push((table, family(&value)));
            }
            withdrawn.extend(nlri(&value[3..], family(&value), with_ids));
        }
        if let Some(value) = values.remove(&14) {
            let next_hop_end = 4 + usize::from(value[3]);
            announced.extend(nlri(&value[next_hop_end + 1..], family(&value), with_ids));
            values.insert(14, value[3..next_hop_end].to_vec());
        }
        for (prefix, path_id) in withdrawn {
            self.routes.remove(&(table, prefix, path_id));
        }
        for (prefix, path_id) in announced {
            self.routes.insert((table, prefix, path_id), values.clone());
        }
    }

    /// What it knows of a table.
    pub(super) fn table(&self, table: TableOf) -> BTreeMap<(Prefix, u32), Values> {
        let routes = self.routes.iter().filter(|((of, _, _), _)| *of == table);
        routes.map(|((_, prefix, path_id), values)| ((*prefix, *path_id), values.clone())).collect()
    }
}

pub(super) const MONITOR: MonitorId = MonitorId(1);

pub(super) fn opened() -> Opened {
    Opened { ends: None, sent: Vec::new(), received: Vec::new() }
}

/// Tables with these peers up, which send path identifiers.
fn monitored(peers: &[u8]) -> Rib {
    let mut rib = Rib::new(speaker());
    for number in peers {
        up(&mut rib, *number);
    }
    rib
}

fn up(rib: &mut Rib, number: u8) {
    let mut info = peer(number, kind(number));
    info.add_path.receive = FamilySet::from_iter(Family::ALL);
    rib.peer_up(id(number), info);
    rib.session_opened(id(number), &opened(), Timestamp::UNKNOWN);
}

fn views(list: &[View]) -> Views {
    list.iter().copied().collect()
}

const ALL: [View; 3] = [View::PrePolicy, View::PostPolicy, View::LocRib];

#[expect(clippy::unnecessary_wraps, reason = "the Loc-RIB has no address")]
fn v4(last: u8) -> Option<IpAddr> {
    Some(IpAddr::V4(address(last)))
}

fn prefixes(count: u32) -> impl Iterator<Item = Prefix> {
    (0..count).map(|number| Prefix::host(IpAddr::V4((0x0a00_0000 + number).into())))
}

#[test]
fn a_collector_is_told_of_sessions_then_of_all_routes_then_of_their_end() {
    let mut rib = monitored(&[1, 2]);
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(20));
    rib.originate(BTreeMap::from([(prefix("2001:db8:1::/48"), false)]));
    rib.begin_monitor(MONITOR, views(&ALL), Timestamp::UNKNOWN);
    let mut collector = Collector::default();
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.up, BTreeSet::from([None, v4(1), v4(2)]));
    for table in [(v4(1), false), (v4(1), true)] {
        assert_eq!(collector.table(table).len(), 20);
    }
    let best = collector.table((None, false));
    assert_eq!(best.len(), 21);
    let own = &best[&(prefix("2001:db8:1::/48"), 0)];
    assert_eq!(own[&14], [&[16][..], &[0; 16]].concat(), "the next hop of our own routes");
    // Two families of two peers before and behind the policy, and of the Loc-RIB; each once.
    let ends: BTreeSet<_> = collector.ends.iter().collect();
    assert_eq!((collector.ends.len(), ends.len()), (10, 10));
}

#[test]
fn a_route_that_changed_often_while_the_collector_took_nothing_is_told_once() {
    let mut rib = monitored(&[1]);
    rib.begin_monitor(MONITOR, views(&[View::PrePolicy]), Timestamp::UNKNOWN);
    let mut collector = Collector::default();
    collector.drain(&mut rib, MONITOR);
    let before = collector.messages;
    for _ in 0..5 {
        announce(&mut rib, id(1), path(1, &[64501]), [prefix("198.51.100.0/24")]);
        announce(&mut rib, id(1), path(1, &[64501, 64510]), [prefix("198.51.100.0/24")]);
    }
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.messages, before + 1);
    let expected = values(Family::Ipv4Unicast, &path(1, &[64501, 64510]));
    assert_eq!(collector.table((v4(1), false))[&(prefix("198.51.100.0/24"), 0)], expected);
}

#[test]
fn the_table_behind_the_policy_lacks_what_it_refuses() {
    let mut rib = Rib::new(speaker());
    let info = PeerInfo { policy: Policies::NOTHING, ..peer(1, kind(1)) };
    rib.peer_up(id(1), info);
    rib.session_opened(id(1), &opened(), Timestamp::UNKNOWN);
    rib.begin_monitor(MONITOR, views(&ALL), Timestamp::UNKNOWN);
    while rib.monitor_batch(MONITOR, Timestamp::UNKNOWN).is_some() {}
    announce(&mut rib, id(1), path(1, &[64501]), [prefix("198.51.100.0/24")]);
    let octets = rib.monitor_batch(MONITOR, Timestamp::UNKNOWN).unwrap();
    // Type 0 with neither flag, and no path identifier, as the session has none.
    assert_eq!(octets[5..8], [0, 0, 0]);
    assert!(octets.ends_with(&[24, 198, 51, 100]));
    assert_eq!(octets.len(), usize::try_from(u32::from_be_bytes(octets[1..5].try_into().unwrap())).unwrap());
    assert_eq!(rib.monitor_batch(MONITOR, Timestamp::UNKNOWN), None);
}

#[test]
fn peer_down_ends_what_waits_of_the_peer_and_peer_up_tells_what_is_kept() {
    let mut rib = monitored(&[1]);
    rib.begin_monitor(MONITOR, views(&ALL), Timestamp::UNKNOWN);
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(3));
    rib.session_ended(id(1), &DownReason::RemoteLoss, Timestamp::UNKNOWN);
    rib.peer_down(id(1), Some(FamilySet::from_iter(Family::ALL)));
    let mut collector = Collector::default();
    collector.drain(&mut rib, MONITOR);
    assert_eq!((collector.downs.as_slice(), collector.table((v4(1), false)).len()), (&[4][..], 0));
    assert_eq!(collector.table((None, false)).len(), 3, "they are used on");
    up(&mut rib, 1);
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.table((v4(1), false)).len(), 3);
    rib.sweep(id(1), FamilySet::from_iter(Family::ALL));
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.routes, BTreeMap::new());
}

#[test]
fn a_collector_that_takes_nothing_is_lost_when_more_waits_than_the_tables_have() {
    let mut rib = monitored(&[1]);
    rib.begin_monitor(MONITOR, views(&[View::PrePolicy]), Timestamp::UNKNOWN);
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(1000));
    rib.decide();
    assert!(!rib.monitor_is_lost(MONITOR), "a table that grows is no reason");
    rib.withdraw(id(1), prefixes(1000).map(|prefix| (0, prefix)));
    // The kernel has taken what it is told.
    rib.take_fib_changes();
    assert!(rib.monitor_is_lost(MONITOR));
    rib.end_monitor(MONITOR);
    assert!(!rib.monitor_has_news(MONITOR) && !rib.monitor_is_lost(MONITOR));
}

#[test]
fn a_collector_that_knows_all_hears_of_a_large_table_that_goes() {
    let mut rib = monitored(&[1]);
    rib.begin_monitor(MONITOR, views(&[View::PrePolicy, View::LocRib]), Timestamp::UNKNOWN);
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(1000));
    rib.decide();
    let mut collector = Collector::default();
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.table((None, false)).len(), 1000);
    rib.withdraw(id(1), prefixes(1000).map(|prefix| (0, prefix)));
    rib.decide();
    rib.take_fib_changes();
    assert!(!rib.monitor_is_lost(MONITOR));
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.routes, BTreeMap::new());
}

#[test]
fn a_best_path_that_is_back_before_anything_is_decided_about_it_is_told() {
    let mut rib = monitored(&[1]);
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(1));
    rib.begin_monitor(MONITOR, views(&[View::LocRib]), Timestamp::UNKNOWN);
    rib.withdraw(id(1), prefixes(1).map(|prefix| (0, prefix)));
    let mut collector = Collector::default();
    collector.read(&rib.monitor_batch(MONITOR, Timestamp::UNKNOWN).unwrap());
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(1));
    collector.drain(&mut rib, MONITOR);
    assert_eq!(collector.table((None, false)).len(), 1);
}

#[test]
fn no_peer_keeps_the_others_waiting() {
    let mut rib = monitored(&[1, 3]);
    rib.begin_monitor(MONITOR, views(&[View::PrePolicy]), Timestamp::UNKNOWN);
    let mut collector = Collector::default();
    collector.drain(&mut rib, MONITOR);
    announce(&mut rib, id(3), path(3, &[64503]), prefixes(1));
    for round in 0..9 {
        // The first peer has news faster than they are taken.
        announce(&mut rib, id(1), path(1, &[64501, 64510 - round % 2]), prefixes(50));
        collector.read(&rib.monitor_batch(MONITOR, Timestamp::UNKNOWN).unwrap());
    }
    assert!(collector.table((v4(3), false)).is_empty(), "fifty take more batches than that");
    for round in 0..9 {
        announce(&mut rib, id(1), path(1, &[64501, 64510 - round % 2]), prefixes(50));
        collector.read(&rib.monitor_batch(MONITOR, Timestamp::UNKNOWN).unwrap());
    }
    assert_eq!(collector.table((v4(3), false)).len(), 1);
}

#[test]
fn reports_count_routes_by_table_and_family() {
    let mut rib = monitored(&[1]);
    let next_hop = NextHop::V6 { global: "2001:db8::1".parse().unwrap(), link_local: None };
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(2));
    let ipv6 = Attributes { next_hop, ..path(1, &[64501]) };
    announce(&mut rib, id(1), ipv6, [prefix("2001:db8:1::/48")]);
    rib.begin_monitor(MONITOR, views(&ALL), Timestamp::UNKNOWN);
    let mut collector = Collector::default();
    collector.drain(&mut rib, MONITOR);
    rib.monitor_statistics(MONITOR, Timestamp::UNKNOWN);
    collector.drain(&mut rib, MONITOR);
    let expected = [
        (None, vec![(8, 3), (10, 2), (10, 1)]),
        (v4(1), vec![(7, 3), (15, 0), (9, 2), (17, 0), (9, 1), (17, 0)]),
    ];
    assert_eq!(collector.reports, expected);
}

#[test]
fn nothing_is_kept_for_collectors_that_are_gone() {
    let mut rib = rib(&[1]);
    announce(&mut rib, id(1), path(1, &[64501]), prefixes(9));
    rib.begin_monitor(MONITOR, views(&ALL), Timestamp::UNKNOWN);
    rib.end_monitor(MONITOR);
    rib.peer_down(id(1), None);
    rib.decide();
    rib.take_fib_changes();
    rib.decide();
    assert_eq!(rib.sizes(), (0, 0, 0));
}
