//! Rules of the decision, of export, and of what peers are told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::decision::{Candidate, decide};
use super::*;
use crate::wire::attr::{AsPath, Community, OpaqueAttribute, Origin};
use crate::wire::{
    AsWidth, Attributes, Frame, MAX_MESSAGE_LEN, Message, NextHop, PeerKind, RefreshKind, RouteRefresh,
    Update, UpdateContext,
};
use crate::{Asn, BgpIdentifier, Family, FamilySet, Prefix};

pub(super) const LOCAL_AS: u32 = 64500;

pub(super) fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

pub(super) fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

pub(super) fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

pub(super) fn via(last: u8) -> FibNextHop {
    FibNextHop::new(IpAddr::V4(address(last)), None)
}

pub(super) fn speaker() -> Speaker {
    Speaker::new(asn(LOCAL_AS), BgpIdentifier::new(address(254)).unwrap())
}

pub(super) fn announce(
    rib: &mut Rib,
    id: PeerId,
    attributes: Attributes,
    prefixes: impl IntoIterator<Item = Prefix>,
) {
    rib.announce(id, attributes, prefixes.into_iter().map(|prefix| (0, prefix)));
}

fn source(kind: PeerKind) -> Source {
    match kind {
        PeerKind::Internal => Source::Internal,
        PeerKind::External => Source::External,
    }
}

fn used(candidates: &[Candidate<'_>]) -> Vec<usize> {
    decide(candidates, DecisionOptions::default()).used
}

/// Attributes of a path through these ASes to the router `last`.
pub(super) fn path(last: u8, asns: &[u32]) -> Attributes {
    Attributes {
        as_path: AsPath::sequence(asns.iter().map(|number| asn(*number))),
        next_hop: NextHop::V4(address(last)),
        ..Attributes::default()
    }
}

/// A peer with the last octet of its address: 6 is a client, 7 and above take path identifiers, those below 3 know
/// long-lived stale paths.
pub(super) fn peer(last: u8, kind: PeerKind) -> PeerInfo {
    PeerInfo {
        identifier: BgpIdentifier::new(address(last)).unwrap(),
        remote_as: if kind == PeerKind::Internal { asn(LOCAL_AS) } else { asn(64500 + u32::from(last)) },
        address: IpAddr::V4(address(last)),
        families: FamilySet::from_iter(Family::ALL),
        view: ExportView {
            kind,
            local_as: asn(LOCAL_AS),
            as_width: AsWidth::Four,
            next_hop_ipv4: Some(address(254)),
            next_hop_ipv6: Some("2001:db8::fe".parse().unwrap()),
        },
        ifindex: Some(7),
        add_path: AddPath {
            send: if last >= 7 { FamilySet::from_iter(Family::ALL) } else { FamilySet::EMPTY },
            ..AddPath::default()
        },
        message_limit: MAX_MESSAGE_LEN,
        extended_next_hop: false,
        route_reflector_client: last == 6,
        long_lived: last < 3,
        policy: Policies::default(),
        prefix_limit: None,
    }
}

/// The kind that tests give a peer by its number.
pub(super) fn kind(id: u8) -> PeerKind {
    if id.is_multiple_of(2) { PeerKind::Internal } else { PeerKind::External }
}

pub(super) fn id(number: u8) -> PeerId {
    PeerId(number.into())
}

/// What a peer knows from the messages it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Knowledge {
    pub(super) routes: BTreeMap<(Prefix, u32), Attributes>,
    pub(super) end_of_rib: Vec<Family>,
    /// Whether it may hear of the end of what it never heard of, as a peer that joined or lagged may.
    pub(super) lenient: bool,
}

impl Knowledge {
    fn read(&mut self, octets: &[u8], number: u8) {
        let context = UpdateContext {
            as_width: AsWidth::Four,
            peer: kind(number),
            families: FamilySet::from_iter(Family::ALL),
            add_path: peer(number, kind(number)).add_path.send,
            extended_next_hop: false,
        };
        let mut rest = octets;
        while let Some(frame) = Frame::split(rest).unwrap() {
            let update = Update::decode(frame.body, context).unwrap();
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            for (path_id, prefix) in update.withdrawn.iter().flat_map(|nlri| nlri.paths()) {
                let known = self.routes.remove(&(prefix, path_id)).is_some();
                assert!(known || self.lenient, "{prefix} withdrawn but not known");
            }
            for reach in &update.announced {
                for (path_id, prefix) in reach.nlri.paths() {
                    let attributes = Attributes { next_hop: reach.next_hop, ..update.attributes.clone() };
                    self.routes.insert((prefix, path_id), attributes);
                }
            }
            self.end_of_rib.extend(update.end_of_rib);
            rest = &rest[frame.length..];
        }
        assert!(rest.is_empty());
    }

    pub(super) fn drain(&mut self, rib: &mut Rib, number: u8) {
        rib.write_pending();
        while let Some(batch) = rib.export(id(number)) {
            self.read_batch(&batch, number);
        }
    }

    pub(super) fn read_batch(&mut self, batch: &Batch, number: u8) {
        for segment in batch {
            self.read(segment, number);
        }
    }
}

/// Tables with these peers up; odd ones are external.
pub(super) fn rib(peers: &[u8]) -> Rib {
    let mut rib = Rib::new(speaker());
    for number in peers {
        rib.peer_up(id(*number), peer(*number, kind(*number)));
    }
    rib
}

pub(super) fn told(rib: &mut Rib, number: u8) -> BTreeMap<Prefix, Attributes> {
    let mut knowledge = Knowledge::default();
    knowledge.drain(rib, number);
    knowledge.routes.into_iter().map(|((prefix, _), attributes)| (prefix, attributes)).collect()
}

#[test]
fn each_tie_break_decides_when_those_before_it_are_equal() {
    use PeerKind::{External, Internal};
    let better = |change: fn(&mut Attributes)| {
        let mut attributes = path(1, &[64501, 64502]);
        change(&mut attributes);
        attributes
    };
    let base = path(1, &[64501, 64502]);
    // The winner first; identifiers and addresses speak for the loser wherever another step should decide.
    let cases = [
        ("local_pref", (better(|a| a.local_pref = Some(101)), Internal, 9), (base.clone(), External, 1)),
        ("as_path", (path(1, &[64501]), Internal, 9), (base.clone(), External, 1)),
        ("origin", (base.clone(), Internal, 9), (better(|a| a.origin = Origin::Incomplete), External, 1)),
        (
            "med of one neighbouring AS",
            (base.clone(), Internal, 9),
            (better(|a| a.med = Some(1)), External, 1),
        ),
        ("external", (base.clone(), External, 9), (base.clone(), Internal, 1)),
        ("identifier", (base.clone(), External, 1), (base.clone(), External, 9)),
    ];
    for (step, winner, loser) in cases {
        let candidate = |(attributes, kind, last): &'static (Attributes, PeerKind, u8)| Candidate {
            attributes,
            source: source(*kind),
            peer: Some((BgpIdentifier::new(address(*last)).unwrap(), IpAddr::V4(address(*last)))),
            path_id: 0,
            metric: Some(0),
        };
        let (winner, loser) = (&*Box::leak(Box::new(winner)), &*Box::leak(Box::new(loser)));
        assert_eq!(used(&[candidate(winner), candidate(loser)]).first(), Some(&0), "{step}");
        assert_eq!(used(&[candidate(loser), candidate(winner)]).first(), Some(&1), "{step}");
    }
}

#[test]
fn equal_identifiers_are_told_apart_by_the_peer_address() {
    let attributes = path(1, &[64501]);
    let candidate = |last| Candidate {
        attributes: &attributes,
        source: Source::External,
        peer: Some((BgpIdentifier::new(address(1)).unwrap(), IpAddr::V4(address(last)))),
        path_id: 0,
        metric: Some(0),
    };
    assert_eq!(used(&[candidate(9), candidate(8)]), [1, 0]);
}

#[test]
fn med_is_not_compared_between_neighbouring_ases() {
    let cheap = Attributes { med: Some(1), ..path(1, &[64501, 64510]) };
    let dear = Attributes { med: Some(9), ..path(2, &[64502, 64510]) };
    let candidate = |attributes, last| Candidate {
        attributes,
        source: Source::External,
        peer: Some((BgpIdentifier::new(address(last)).unwrap(), IpAddr::V4(address(last)))),
        path_id: 0,
        metric: Some(0),
    };
    assert_eq!(used(&[candidate(&cheap, 9), candidate(&dear, 1)]), [1, 0]);
}

#[test]
fn paths_equal_up_to_the_igp_step_make_a_multipath_route() {
    let mut rib = rib(&[1, 3, 5]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(3), path(3, &[64503]), [prefix]);
    announce(&mut rib, id(1), path(1, &[64501]), [prefix]);
    announce(&mut rib, id(5), path(5, &[64505, 64506]), [prefix]);
    let route = FibRoute::Unicast(vec![via(1), via(3)]);
    assert_eq!(rib.take_fib_changes(), [FibChange { prefix, route: Some(route) }]);
    rib.peer_down(id(1), None);
    let route = FibRoute::Unicast(vec![via(3)]);
    assert_eq!(rib.take_fib_changes(), [FibChange { prefix, route: Some(route) }]);
}

#[test]
fn a_link_local_next_hop_goes_to_the_kernel_with_its_interface() {
    let mut rib = rib(&[1]);
    let link_local = "fe80::1".parse().unwrap();
    let next_hop = NextHop::V6 { global: link_local, link_local: None };
    announce(&mut rib, id(1), Attributes { next_hop, ..path(1, &[64501]) }, [prefix("2001:db8:1::/48")]);
    let hop = FibNextHop::new(link_local.into(), Some(7));
    assert_eq!(rib.take_fib_changes()[0].route, Some(FibRoute::Unicast(vec![hop])));
}

#[test]
fn a_link_local_next_hop_is_told_to_nobody() {
    let mut rib = rib(&[1, 2]);
    let next_hop = NextHop::V6 { global: "fe80::1".parse().unwrap(), link_local: None };
    let prefix = prefix("2001:db8:1::/48");
    announce(&mut rib, id(1), Attributes { next_hop, ..path(1, &[64501]) }, [prefix]);
    let own = NextHop::V6 { global: "2001:db8::fe".parse().unwrap(), link_local: None };
    assert_eq!(told(&mut rib, 2)[&prefix].next_hop, own);
}

#[test]
fn originated_prefixes_are_told_with_the_own_next_hop_and_have_a_blackhole() {
    let mut rib = rib(&[1, 2]);
    let (v4, v6) = (prefix("198.51.100.0/24"), prefix("2001:db8:1::/48"));
    rib.originate(BTreeMap::from([(v4, true), (v6, false)]));
    let mut changes = rib.take_fib_changes();
    changes.sort_by_key(|change| change.prefix);
    assert_eq!(changes[0].route, Some(FibRoute::Blackhole));
    assert_eq!(changes[1].route, None);

    let external = told(&mut rib, 1);
    assert_eq!(external[&v4].as_path, AsPath::sequence([asn(LOCAL_AS)]));
    assert_eq!(external[&v4].next_hop, NextHop::V4(address(254)));
    assert!(matches!(external[&v6].next_hop, NextHop::V6 { .. }));
    let internal = told(&mut rib, 2);
    assert!(internal[&v4].as_path.is_empty());
    assert_eq!(internal[&v4].local_pref, Some(100));

    rib.originate(BTreeMap::new());
    assert_eq!(rib.take_fib_changes().len(), 2);
}

#[test]
fn a_path_is_not_told_to_whom_it_came_from_nor_from_internal_to_internal() {
    let mut rib = rib(&[1, 2, 4]);
    let (from_external, from_internal) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    announce(&mut rib, id(1), path(1, &[64501]), [from_external]);
    let internal = Attributes { local_pref: Some(100), ..path(2, &[]) };
    announce(&mut rib, id(2), internal, [from_internal]);
    assert_eq!(told(&mut rib, 1).into_keys().collect::<Vec<_>>(), [from_internal]);
    assert_eq!(told(&mut rib, 2).into_keys().collect::<Vec<_>>(), [from_external]);
    assert_eq!(told(&mut rib, 4).into_keys().collect::<Vec<_>>(), [from_external]);
}

#[test]
fn an_external_path_keeps_its_next_hop_inside_and_loses_it_outside() {
    let mut rib = rib(&[1, 2, 3]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(1), Attributes { med: Some(5), ..path(1, &[64501]) }, [prefix]);
    let internal = &told(&mut rib, 2)[&prefix];
    assert_eq!((internal.next_hop, internal.med), (NextHop::V4(address(1)), Some(5)));
    let external = &told(&mut rib, 3)[&prefix];
    assert_eq!((external.next_hop, external.med), (NextHop::V4(address(254)), None));
    assert_eq!(external.as_path, AsPath::sequence([asn(LOCAL_AS), asn(64501)]));
    assert_eq!(external.local_pref, None);
}

#[test]
fn well_known_communities_bound_who_is_told() {
    let cases = [
        (Community::NO_EXPORT, false, true),
        (Community::NO_EXPORT_SUBCONFED, false, true),
        (Community::NO_ADVERTISE, false, false),
    ];
    for (community, external, internal) in cases {
        let mut rib = rib(&[1, 2, 3]);
        let attributes = Attributes { communities: vec![community], ..path(1, &[64501]) };
        announce(&mut rib, id(1), attributes, [prefix("198.51.100.0/24")]);
        assert_eq!(!told(&mut rib, 3).is_empty(), external, "{community}");
        assert_eq!(!told(&mut rib, 2).is_empty(), internal, "{community}");
    }
}

#[test]
fn a_path_through_our_own_as_replaces_the_earlier_one_by_nothing() {
    let mut rib = rib(&[1]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(1), path(1, &[64501]), [prefix]);
    announce(&mut rib, id(1), path(1, &[64501, LOCAL_AS]), [prefix]);
    assert_eq!(rib.paths(), []);
}

#[test]
fn end_of_rib_follows_the_initial_routes_of_each_family() {
    let mut rib = rib(&[]);
    rib.originate(BTreeMap::from([(prefix("198.51.100.0/24"), true)]));
    rib.peer_up(id(1), peer(1, PeerKind::External));
    let mut knowledge = Knowledge::default();
    knowledge.drain(&mut rib, 1);
    assert_eq!(knowledge.end_of_rib, Family::ALL);
    assert_eq!(knowledge.routes.len(), 1);
    assert!(rib.export(id(1)).is_none());
}

#[test]
fn after_a_restart_nothing_that_peers_say_is_told_before_all_have_said_it() {
    let mut rib = Rib::new(speaker());
    rib.defer(FamilySet::from_iter([Family::Ipv4Unicast]));
    let (own, theirs) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    rib.originate(BTreeMap::from([(own, true)]));
    for number in [1, 3, 5] {
        rib.peer_up(id(number), peer(number, PeerKind::External));
    }
    announce(&mut rib, id(1), path(1, &[64501, 64999]), [theirs]);
    let mut knowledge = Knowledge::default();
    knowledge.drain(&mut rib, 3);
    rib.refresh(id(3), Family::Ipv4Unicast);
    knowledge.drain(&mut rib, 3);
    let known =
        |knowledge: &Knowledge| knowledge.routes.keys().map(|(prefix, _)| *prefix).collect::<Vec<_>>();
    assert_eq!(known(&knowledge), [own], "what is originated waits for nobody");
    assert_eq!(knowledge.end_of_rib, [Family::Ipv6Unicast]);
    let changed =
        |rib: &mut Rib| rib.take_fib_changes().into_iter().map(|change| change.prefix).collect::<Vec<_>>();
    assert_eq!(changed(&mut rib), [own]);

    announce(&mut rib, id(5), path(5, &[64505]), [theirs]);
    assert!(rib.proceed());
    assert!(!rib.proceed(), "once");
    knowledge.drain(&mut rib, 3);
    assert_eq!(known(&knowledge), [own, theirs]);
    assert_eq!(knowledge.routes[&(theirs, 0)].as_path, AsPath::sequence([asn(LOCAL_AS), asn(64505)]));
    assert_eq!(knowledge.end_of_rib, [Family::Ipv6Unicast, Family::Ipv4Unicast]);
    assert_eq!(changed(&mut rib), [theirs]);
}

#[test]
fn a_network_of_ours_that_goes_while_paths_wait_goes_at_once() {
    let mut rib = Rib::new(speaker());
    rib.defer(FamilySet::from_iter(Family::ALL));
    let network = prefix("198.51.100.0/24");
    rib.originate(BTreeMap::from([(network, true)]));
    for number in [1, 3] {
        rib.peer_up(id(number), peer(number, PeerKind::External));
    }
    announce(&mut rib, id(1), path(1, &[64501]), [network]);
    let mut knowledge = Knowledge::default();
    knowledge.drain(&mut rib, 3);
    assert_eq!(knowledge.routes.len(), 1);
    rib.take_fib_changes();
    rib.originate(BTreeMap::new());
    knowledge.drain(&mut rib, 3);
    assert_eq!(knowledge.routes.len(), 0);
    assert_eq!(rib.take_fib_changes(), [FibChange { prefix: network, route: None }]);
    rib.proceed();
    knowledge.drain(&mut rib, 3);
    assert_eq!(knowledge.routes.len(), 1, "the peer's path, now that nothing waits");
}

#[test]
fn an_enhanced_refresh_is_told_between_its_marks() {
    let mut rib = rib(&[1, 3]);
    announce(&mut rib, id(1), path(1, &[64501]), [prefix("198.51.100.0/24")]);
    Knowledge::default().drain(&mut rib, 3);
    // News on its way when the request comes is no part of the answer.
    announce(&mut rib, id(1), path(1, &[64501]), [prefix("203.0.113.0/24")]);
    rib.write_pending();
    rib.enhanced_refresh(id(3), Family::Ipv4Unicast);
    let octets: Vec<u8> =
        std::iter::from_fn(|| rib.export(id(3))).flatten().flat_map(|segment| segment.to_vec()).collect();
    let mut rest = &octets[..];
    let mut kinds = Vec::new();
    while let Some(frame) = Frame::split(rest).unwrap() {
        rest = &rest[frame.length..];
        kinds.push(match Message::decode(frame).unwrap() {
            Message::Update(body) if body.len() == 4 => "End-of-RIB",
            Message::Update(_) => "UPDATE",
            Message::RouteRefresh(RouteRefresh { content: Some((_, RefreshKind::Begin)) }) => "BoRR",
            Message::RouteRefresh(RouteRefresh { content: Some((_, RefreshKind::End)) }) => "EoRR",
            other => panic!("{other:?}"),
        });
    }
    assert_eq!(kinds, ["UPDATE", "BoRR", "UPDATE", "End-of-RIB", "EoRR"]);
}

#[test]
fn route_refresh_tells_everything_again_without_losing_a_withdrawal() {
    let mut rib = rib(&[1, 3]);
    let (kept, gone) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    announce(&mut rib, id(1), path(1, &[64501]), [kept, gone]);
    let mut knowledge = Knowledge::default();
    knowledge.drain(&mut rib, 3);
    rib.withdraw(id(1), [(0, gone)]);
    rib.refresh(id(3), Family::Ipv4Unicast);
    let mut again = Knowledge { routes: knowledge.routes.clone(), ..Knowledge::default() };
    again.routes.remove(&(kept, 0));
    again.drain(&mut rib, 3);
    assert_eq!(again.routes.into_keys().collect::<Vec<_>>(), [(kept, 0)]);
}

#[test]
fn peers_of_one_group_share_the_encoded_messages() {
    let mut rib = rib(&[1, 3, 5]);
    announce(&mut rib, id(1), path(1, &[64501]), [prefix("198.51.100.0/24")]);
    for number in [3, 5] {
        while rib.export(id(number)).is_some() {}
    }
    announce(&mut rib, id(1), path(1, &[64501, 64502]), [prefix("198.51.100.0/24")]);
    rib.write_pending();
    let (third, fifth) = (rib.export(id(3)).unwrap(), rib.export(id(5)).unwrap());
    assert_eq!(third.len(), 1);
    assert!(std::ptr::eq(&raw const third[0][..], &raw const fifth[0][..]));
}

#[test]
fn routes_are_reflected_from_and_to_clients_with_the_next_hop_unchanged() {
    // 2 and 4 are internal, 6 is a client.
    let mut rib = rib(&[2, 4, 6]);
    let (from_client, from_other) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    let internal = |last| Attributes { local_pref: Some(100), ..path(last, &[]) };
    announce(&mut rib, id(6), internal(6), [from_client]);
    announce(&mut rib, id(2), internal(2), [from_other]);
    assert_eq!(told(&mut rib, 2).into_keys().collect::<Vec<_>>(), [from_client]);
    assert_eq!(told(&mut rib, 4).into_keys().collect::<Vec<_>>(), [from_client]);
    let client = told(&mut rib, 6);
    assert_eq!(client.keys().collect::<Vec<_>>(), [&from_other]);
    let reflected = &client[&from_other];
    assert_eq!(reflected.next_hop, NextHop::V4(address(2)));
    assert_eq!(reflected.originator_id, Some(address(2)));
    assert_eq!(reflected.cluster_list, [address(254)]);
}

#[test]
fn a_path_that_passed_our_cluster_or_came_from_us_is_a_loop() {
    let mut rib = rib(&[6]);
    let prefix = prefix("198.51.100.0/24");
    let internal = Attributes { local_pref: Some(100), ..path(6, &[]) };
    for looped in [
        Attributes { cluster_list: vec![address(77), address(254)], ..internal.clone() },
        Attributes { originator_id: Some(address(254)), ..internal.clone() },
    ] {
        announce(&mut rib, id(6), internal.clone(), [prefix]);
        announce(&mut rib, id(6), looped, [prefix]);
        assert_eq!(rib.paths(), []);
    }
}

#[test]
fn a_peer_that_takes_path_identifiers_is_told_all_paths_but_its_own() {
    let mut rib = rib(&[1, 3, 7]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(1), path(1, &[64501]), [prefix]);
    rib.announce(id(3), path(3, &[64503]), [(8, prefix), (9, prefix)]);
    announce(&mut rib, id(7), path(7, &[64507]), [prefix]);
    let mut knowledge = Knowledge::default();
    knowledge.drain(&mut rib, 7);
    assert_eq!(knowledge.routes.len(), 3);
    rib.withdraw(id(3), [(8, prefix)]);
    knowledge.drain(&mut rib, 7);
    assert_eq!(knowledge.routes.len(), 2);
}

#[test]
fn stale_paths_stay_until_swept_and_not_if_said_again() {
    let mut rib = rib(&[1]);
    let (again, never) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    announce(&mut rib, id(1), path(1, &[64501]), [again, never]);
    rib.peer_down(id(1), Some(FamilySet::from_iter(Family::ALL)));
    assert!(rib.paths().iter().all(|view| view.stale));
    rib.peer_up(id(1), peer(1, PeerKind::External));
    announce(&mut rib, id(1), path(1, &[64501]), [again]);
    rib.sweep(id(1), FamilySet::from_iter(Family::ALL));
    assert_eq!(rib.paths().iter().map(|view| view.prefix).collect::<Vec<_>>(), [again]);
}

#[test]
fn long_lived_stale_paths_are_the_last_resort_and_told_to_those_who_know_what_they_are() {
    // 1 and 2 know, 3 and 5 do not.
    let mut rib = rib(&[1, 2, 3, 5]);
    let (kept, refused) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    announce(&mut rib, id(1), path(1, &[64501]), [kept]);
    let no_llgr = Attributes { communities: vec![Community::NO_LLGR], ..path(1, &[64501]) };
    announce(&mut rib, id(1), no_llgr, [refused]);
    let families = FamilySet::from_iter(Family::ALL);
    rib.peer_down(id(1), Some(families));
    rib.long_lived(id(1), families);
    assert_eq!(told(&mut rib, 2)[&kept].communities, [Community::LLGR_STALE]);
    assert!(told(&mut rib, 3).is_empty());
    announce(&mut rib, id(5), path(5, &[64505, 64506, 64507]), [kept]);
    assert_eq!(told(&mut rib, 3)[&kept].communities, []);
}

#[test]
fn a_path_whose_next_hop_cannot_be_reached_is_not_used_and_the_nearer_one_is_better() {
    let mut rib = rib(&[1, 3]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(1), path(1, &[64501]), [prefix]);
    announce(&mut rib, id(3), path(3, &[64503]), [prefix]);
    let begin = |last| Tracking::Begin(IpAddr::V4(address(last)));
    assert_eq!(rib.take_tracking(), [begin(1), begin(3)]);
    let fib = |rib: &mut Rib| rib.take_fib_changes().pop().unwrap().route;
    assert_eq!(fib(&mut rib), Some(FibRoute::Unicast(vec![via(1), via(3)])));
    rib.next_hop(IpAddr::V4(address(1)), Some(10));
    assert_eq!(fib(&mut rib), Some(FibRoute::Unicast(vec![via(3)])));
    rib.next_hop(IpAddr::V4(address(3)), None);
    assert_eq!(fib(&mut rib), Some(FibRoute::Unicast(vec![via(1)])));
    rib.next_hop(IpAddr::V4(address(1)), None);
    assert_eq!(fib(&mut rib), None);
    rib.peer_down(id(3), None);
    assert_eq!(rib.take_tracking(), [Tracking::End(IpAddr::V4(address(3)))]);
}

#[test]
fn an_explanation_names_the_step_and_the_better_path() {
    let mut rib = rib(&[1, 2, 3]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(1), path(1, &[64501]), [prefix]);
    announce(&mut rib, id(3), path(3, &[64503, 64510]), [prefix]);
    announce(&mut rib, id(2), Attributes { local_pref: Some(50), ..path(2, &[64501]) }, [prefix]);
    let key = |number| PathKey { peer: id(number), path_id: 0 };
    let explanations = rib.explain(prefix);
    let found: Vec<_> = explanations.iter().map(|e| (e.path, e.lost_at, e.lost_to, e.used)).collect();
    let better = Some(key(1));
    assert_eq!(
        found,
        [
            (key(1), None, None, true),
            (key(3), Some(Step::AsPathLength), better, false),
            (key(2), Some(Step::LocalPref), better, false)
        ]
    );
    let withheld = |rib: &mut Rib, to| {
        let advertisements = rib.advertisements(prefix, id(to));
        advertisements.into_iter().map(|advertisement| advertisement.withheld).collect::<Vec<_>>()
    };
    let not_best = Some(Withheld::NotBest);
    assert_eq!(withheld(&mut rib, 1), [Some(Withheld::OwnPath), not_best, not_best]);
    assert_eq!(withheld(&mut rib, 2), [None, not_best, not_best]);
    assert_eq!(withheld(&mut rib, 4), [Some(Withheld::Down); 3]);
}

#[test]
fn paths_used_at_once_are_bounded_by_the_kind_of_the_best_one() {
    let mut rib = rib(&[1, 3, 5]);
    rib.set_options(DecisionOptions { external_paths: 2, ..DecisionOptions::default() });
    let prefix = prefix("198.51.100.0/24");
    for number in [5, 3, 1] {
        announce(&mut rib, id(number), path(number, &[64501]), [prefix]);
    }
    let route = FibRoute::Unicast(vec![via(1), via(3)]);
    assert_eq!(rib.take_fib_changes(), [FibChange { prefix, route: Some(route) }]);
}

#[test]
fn meds_of_different_neighbours_are_compared_when_asked_for() {
    let mut rib = rib(&[1, 3]);
    let prefix = prefix("198.51.100.0/24");
    announce(&mut rib, id(1), Attributes { med: Some(9), ..path(1, &[64501]) }, [prefix]);
    announce(&mut rib, id(3), Attributes { med: Some(1), ..path(3, &[64503]) }, [prefix]);
    assert_eq!(rib.explain(prefix)[0].path.peer, id(1));
    rib.set_options(DecisionOptions { always_compare_med: true, ..DecisionOptions::default() });
    assert_eq!(rib.explain(prefix)[0].path.peer, id(3));
}

#[test]
fn a_limit_warns_once_then_stops_what_exceeds_it() {
    let mut rib = Rib::new(speaker());
    let limit = PrefixLimit { maximum: 4, warn_percent: 75, enforced: true };
    rib.peer_up(id(1), PeerInfo { prefix_limit: Some(limit), ..peer(1, PeerKind::External) });
    let numbers = ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16", "10.5.0.0/16"];
    let mut said = Vec::new();
    for text in numbers {
        announce(&mut rib, id(1), path(1, &[64501]), [prefix(text)]);
        said.extend(rib.take_limits_reached().into_iter().map(|reached| (reached.received, reached.excess)));
    }
    assert_eq!(said, [(3, Excess::Near), (5, Excess::Beyond)]);
    assert_eq!(rib.counts(id(1)).received, 5);
}

#[test]
fn a_limit_that_only_warns_lets_everything_in() {
    let mut rib = Rib::new(speaker());
    let limit = PrefixLimit { maximum: 1, warn_percent: 100, enforced: false };
    rib.peer_up(id(1), PeerInfo { prefix_limit: Some(limit), ..peer(1, PeerKind::External) });
    for text in ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"] {
        announce(&mut rib, id(1), path(1, &[64501]), [prefix(text)]);
    }
    let said: Vec<Excess> = rib.take_limits_reached().into_iter().map(|reached| reached.excess).collect();
    assert_eq!(said, [Excess::Near, Excess::Beyond], "each once");
    assert_eq!(rib.counts(id(1)).received, 3);
}

/// An external peer that may announce two paths.
fn limited_to_two() -> PeerInfo {
    let limit = PrefixLimit { maximum: 2, warn_percent: 100, enforced: true };
    PeerInfo { prefix_limit: Some(limit), ..peer(1, PeerKind::External) }
}

/// Tables in which such a peer has announced two paths.
fn rib_at_its_limit() -> Rib {
    let mut rib = Rib::new(speaker());
    rib.peer_up(id(1), limited_to_two());
    announce(&mut rib, id(1), path(1, &[64501]), ["10.0.0.0/16", "10.1.0.0/16"].map(prefix));
    rib
}

#[test]
fn what_a_restarted_peer_has_yet_to_say_again_does_not_count_towards_its_limit() {
    let all = FamilySet::from_iter(Family::ALL);
    let mut rib = rib_at_its_limit();
    rib.take_limits_reached();
    rib.peer_down(id(1), Some(all));
    rib.peer_up(id(1), limited_to_two());
    announce(&mut rib, id(1), path(1, &[64501]), ["10.2.0.0/16", "10.3.0.0/16"].map(prefix));
    rib.sweep(id(1), all);
    let excess = |rib: &mut Rib| rib.take_limits_reached().last().map(|reached| reached.excess);
    assert_eq!(excess(&mut rib), Some(Excess::Near));
    announce(&mut rib, id(1), path(1, &[64501]), [prefix("10.4.0.0/16")]);
    assert_eq!(excess(&mut rib), Some(Excess::Beyond));
}

#[test]
fn begins_of_refreshes_excuse_nothing() {
    let mut rib = Rib::new(speaker());
    rib.peer_up(id(1), limited_to_two());
    for text in ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"] {
        rib.mark_stale(id(1), FamilySet::from_iter(Family::ALL));
        announce(&mut rib, id(1), path(1, &[64501]), [prefix(text)]);
    }
    assert_eq!(rib.take_limits_reached().last().map(|reached| reached.excess), Some(Excess::Beyond));
}

#[test]
fn a_restarted_peer_with_more_than_its_limit_is_found_out_when_it_has_said_all() {
    let all = FamilySet::from_iter(Family::ALL);
    let mut rib = rib_at_its_limit();
    rib.peer_down(id(1), Some(all));
    rib.peer_up(id(1), limited_to_two());
    rib.take_limits_reached();
    announce(&mut rib, id(1), path(1, &[64501]), ["10.0.0.0/16", "10.1.0.0/16", "10.2.0.0/16"].map(prefix));
    rib.sweep(id(1), all);
    let reached = rib.take_limits_reached();
    assert_eq!(reached.last().map(|reached| (reached.received, reached.excess)), Some((3, Excess::Beyond)));
}

#[test]
fn an_external_peer_without_a_policy_exchanges_nothing() {
    let mut rib = rib(&[2]);
    rib.peer_up(id(1), PeerInfo { policy: Policies::NOTHING, ..peer(1, PeerKind::External) });
    announce(&mut rib, id(1), path(1, &[64501]), [prefix("198.51.100.0/24")]);
    rib.originate(BTreeMap::from([(prefix("203.0.113.0/24"), true)]));
    assert_eq!(told(&mut rib, 2).into_keys().collect::<Vec<_>>(), [prefix("203.0.113.0/24")]);
    assert!(told(&mut rib, 1).is_empty());
    let advertisements = rib.advertisements(prefix("203.0.113.0/24"), id(1));
    assert_eq!(advertisements[0].withheld, Some(Withheld::NoPolicy));
}

#[test]
fn non_transitive_extended_communities_stay_in_the_as() {
    let mut rib = rib(&[1, 2, 3]);
    let prefix = prefix("198.51.100.0/24");
    let (transitive, not) = ([0, 2, 0xfb, 0xf4, 0, 0, 0, 1], [0x40, 4, 0xfb, 0xf4, 0, 0, 0, 2]);
    let opaque = vec![OpaqueAttribute { code: 16, partial: false, value: [transitive, not].concat().into() }];
    announce(&mut rib, id(1), Attributes { opaque, ..path(1, &[64501]) }, [prefix]);
    assert_eq!(told(&mut rib, 2)[&prefix].opaque[0].value.len(), 16);
    assert_eq!(*told(&mut rib, 3)[&prefix].opaque[0].value, transitive);
}

#[test]
fn a_path_about_to_go_is_the_last_choice() {
    let mut rib = rib(&[1, 3]);
    let prefix = prefix("198.51.100.0/24");
    let leaving = Attributes { communities: vec![Community::GRACEFUL_SHUTDOWN], ..path(1, &[64501]) };
    announce(&mut rib, id(1), leaving, [prefix]);
    announce(&mut rib, id(3), path(3, &[64503, 64510, 64511]), [prefix]);
    assert_eq!(rib.explain(prefix)[0].path.peer, id(3));
}
