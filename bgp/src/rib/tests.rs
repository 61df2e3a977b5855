//! Rules of the decision and of export, then random histories against tables made from scratch.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::decision::{Candidate, select};
use super::*;
use crate::wire::attr::{AsPath, Community, Origin};
use crate::wire::{AsWidth, Attributes, Frame, MAX_MESSAGE_LEN, NextHop, PeerKind, Update, UpdateContext};
use crate::{Asn, BgpIdentifier, Family, FamilySet, Prefix};

const LOCAL_AS: u32 = 64500;

fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

fn via(last: u8) -> FibNextHop {
    FibNextHop { via: IpAddr::V4(address(last)), ifindex: None }
}

/// Attributes of a path through these ASes to the router `last`.
fn path(last: u8, asns: &[u32]) -> Attributes {
    Attributes {
        as_path: AsPath::sequence(asns.iter().map(|number| asn(*number))),
        next_hop: NextHop::V4(address(last)),
        ..Attributes::default()
    }
}

/// A peer with the last octet of its address; peers of one kind share an export view.
fn peer(last: u8, kind: PeerKind) -> PeerInfo {
    PeerInfo {
        identifier: BgpIdentifier::new(address(last)).unwrap(),
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
        add_path: AddPath::default(),
        message_limit: MAX_MESSAGE_LEN,
        extended_next_hop: false,
        route_reflector_client: false,
        long_lived: false,
    }
}

/// The kind that tests give a peer by its number.
fn kind(id: u8) -> PeerKind {
    if id.is_multiple_of(2) { PeerKind::Internal } else { PeerKind::External }
}

fn id(number: u8) -> PeerId {
    PeerId(number.into())
}

/// What a peer knows from the messages it was sent.
#[derive(Clone, Debug, Default, PartialEq)]
struct Knowledge {
    routes: BTreeMap<Prefix, Attributes>,
    end_of_rib: Vec<Family>,
}

impl Knowledge {
    fn read(&mut self, batch: &[u8], kind: PeerKind) {
        let context = UpdateContext {
            as_width: AsWidth::Four,
            peer: kind,
            families: FamilySet::from_iter(Family::ALL),
            add_path: FamilySet::EMPTY,
            extended_next_hop: false,
        };
        let mut rest = batch;
        while let Some(frame) = Frame::split(rest).unwrap() {
            let update = Update::decode(frame.body, context).unwrap();
            assert!(update.faults.is_empty(), "{:?}", update.faults);
            for prefix in update.withdrawn.iter().flat_map(|nlri| nlri.iter()) {
                assert!(self.routes.remove(&prefix).is_some(), "{prefix} withdrawn but not known");
            }
            for reach in &update.announced {
                for prefix in reach.nlri.iter() {
                    let attributes = Attributes { next_hop: reach.next_hop, ..update.attributes.clone() };
                    self.routes.insert(prefix, attributes);
                }
            }
            self.end_of_rib.extend(update.end_of_rib);
            rest = &rest[frame.length..];
        }
        assert!(rest.is_empty());
    }

    fn drain(&mut self, rib: &mut Rib, number: u8) {
        while let Some(batch) = rib.export(id(number)) {
            self.read(&batch, kind(number));
        }
    }
}

/// Tables with these peers up; odd ones are external.
fn rib(peers: &[u8]) -> Rib {
    let mut rib = Rib::new(asn(LOCAL_AS));
    for number in peers {
        rib.peer_up(id(*number), peer(*number, kind(*number)));
    }
    rib
}

fn told(rib: &mut Rib, number: u8) -> BTreeMap<Prefix, Attributes> {
    let mut knowledge = Knowledge::default();
    knowledge.drain(rib, number);
    knowledge.routes
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
            source: Source::Peer(*kind),
            peer: Some((BgpIdentifier::new(address(*last)).unwrap(), IpAddr::V4(address(*last)))),
        };
        let (winner, loser) = (&*Box::leak(Box::new(winner)), &*Box::leak(Box::new(loser)));
        assert_eq!(select(&[candidate(winner), candidate(loser)]).first(), Some(&0), "{step}");
        assert_eq!(select(&[candidate(loser), candidate(winner)]).first(), Some(&1), "{step}");
    }
}

#[test]
fn equal_identifiers_are_told_apart_by_the_peer_address() {
    let attributes = path(1, &[64501]);
    let candidate = |last| Candidate {
        attributes: &attributes,
        source: Source::Peer(PeerKind::External),
        peer: Some((BgpIdentifier::new(address(1)).unwrap(), IpAddr::V4(address(last)))),
    };
    assert_eq!(select(&[candidate(9), candidate(8)]), [1, 0]);
}

#[test]
fn med_is_not_compared_between_neighbouring_ases() {
    let cheap = Attributes { med: Some(1), ..path(1, &[64501, 64510]) };
    let dear = Attributes { med: Some(9), ..path(2, &[64502, 64510]) };
    let candidate = |attributes, last| Candidate {
        attributes,
        source: Source::Peer(PeerKind::External),
        peer: Some((BgpIdentifier::new(address(last)).unwrap(), IpAddr::V4(address(last)))),
    };
    assert_eq!(select(&[candidate(&cheap, 9), candidate(&dear, 1)]), [1, 0]);
}

#[test]
fn paths_equal_up_to_the_igp_step_make_a_multipath_route() {
    let mut rib = rib(&[1, 3, 5]);
    let prefix = prefix("198.51.100.0/24");
    rib.announce(id(3), path(3, &[64503]), [prefix]);
    rib.announce(id(1), path(1, &[64501]), [prefix]);
    rib.announce(id(5), path(5, &[64505, 64506]), [prefix]);
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
    rib.announce(id(1), Attributes { next_hop, ..path(1, &[64501]) }, [prefix("2001:db8:1::/48")]);
    let hop = FibNextHop { via: link_local.into(), ifindex: Some(7) };
    assert_eq!(rib.take_fib_changes()[0].route, Some(FibRoute::Unicast(vec![hop])));
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
    rib.announce(id(1), path(1, &[64501]), [from_external]);
    let internal = Attributes { local_pref: Some(100), ..path(2, &[]) };
    rib.announce(id(2), internal, [from_internal]);
    assert_eq!(told(&mut rib, 1).into_keys().collect::<Vec<_>>(), [from_internal]);
    assert_eq!(told(&mut rib, 2).into_keys().collect::<Vec<_>>(), [from_external]);
    assert_eq!(told(&mut rib, 4).into_keys().collect::<Vec<_>>(), [from_external]);
}

#[test]
fn an_external_path_keeps_its_next_hop_inside_and_loses_it_outside() {
    let mut rib = rib(&[1, 2, 3]);
    let prefix = prefix("198.51.100.0/24");
    rib.announce(id(1), Attributes { med: Some(5), ..path(1, &[64501]) }, [prefix]);
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
        rib.announce(id(1), attributes, [prefix("198.51.100.0/24")]);
        assert_eq!(!told(&mut rib, 3).is_empty(), external, "{community}");
        assert_eq!(!told(&mut rib, 2).is_empty(), internal, "{community}");
    }
}

#[test]
fn a_path_through_our_own_as_replaces_the_earlier_one_by_nothing() {
    let mut rib = rib(&[1]);
    let prefix = prefix("198.51.100.0/24");
    rib.announce(id(1), path(1, &[64501]), [prefix]);
    rib.announce(id(1), path(1, &[64501, LOCAL_AS]), [prefix]);
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
    assert_eq!(rib.export(id(1)), None);
}

#[test]
fn route_refresh_tells_everything_again_without_losing_a_withdrawal() {
    let mut rib = rib(&[1, 3]);
    let (kept, gone) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
    rib.announce(id(1), path(1, &[64501]), [kept, gone]);
    let mut knowledge = Knowledge::default();
    knowledge.drain(&mut rib, 3);
    rib.withdraw(id(1), [gone]);
    rib.refresh(id(3), Family::Ipv4Unicast);
    let mut again = Knowledge { routes: knowledge.routes.clone(), ..Knowledge::default() };
    again.routes.remove(&kept);
    again.drain(&mut rib, 3);
    assert_eq!(again.routes.into_keys().collect::<Vec<_>>(), [kept]);
}

#[test]
fn peers_of_one_group_share_the_encoded_messages() {
    let mut rib = rib(&[1, 3, 5]);
    rib.announce(id(1), path(1, &[64501]), [prefix("198.51.100.0/24")]);
    let (third, fifth) = (rib.export(id(3)).unwrap(), rib.export(id(5)).unwrap());
    assert!(std::sync::Arc::ptr_eq(&third, &fifth));
}

#[derive(Clone, Debug)]
enum Step {
    Up(u8),
    Down(u8),
    Announce(u8, usize, Vec<u8>),
    Withdraw(u8, Vec<u8>),
    Originate(Vec<u8>),
    Refresh(u8),
    Read(u8),
    Decide,
}

const PEERS: std::ops::Range<u8> = 1..6;

fn attribute_sets() -> Vec<Attributes> {
    let mut sets = Vec::new();
    for (asns, local_pref) in [(&[64501][..], 100), (&[64502, 64510], 100), (&[64501, 64510], 200)] {
        for med in [None, Some(10)] {
            for communities in [vec![], vec![Community::NO_EXPORT]] {
                sets.push(Attributes { med, communities, local_pref: Some(local_pref), ..path(1, asns) });
            }
        }
    }
    sets.push(path(1, &[64501, LOCAL_AS]));
    sets
}

fn nth_prefix(number: u8) -> Prefix {
    let address = if number.is_multiple_of(2) {
        IpAddr::V4(Ipv4Addr::new(10, number, 0, 0))
    } else {
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, number.into(), 0, 0, 0, 0, 0))
    };
    Prefix::masked(address, if address.is_ipv4() { 16 } else { 48 }).unwrap()
}

fn any_step() -> impl Strategy<Value = Step> {
    let numbers = || proptest::collection::vec(0_u8..12, 1..6);
    prop_oneof![
        1 => PEERS.prop_map(Step::Up),
        1 => PEERS.prop_map(Step::Down),
        6 => (PEERS, 0..attribute_sets().len(), numbers()).prop_map(|(peer, set, n)| Step::Announce(peer, set, n)),
        3 => (PEERS, numbers()).prop_map(|(peer, n)| Step::Withdraw(peer, n)),
        1 => numbers().prop_map(Step::Originate),
        1 => PEERS.prop_map(Step::Refresh),
        3 => PEERS.prop_map(Step::Read),
        1 => Just(Step::Decide),
    ]
}

/// What was said last, and nothing else.
#[derive(Default)]
struct Truth {
    up: BTreeMap<u8, BTreeMap<Prefix, Attributes>>,
    networks: BTreeMap<Prefix, bool>,
}

/// Attributes in the family of the prefix, as one peer would send them.
fn attributes_for(peer: u8, set: usize, prefix: Prefix) -> Attributes {
    let mut attributes = attribute_sets().swap_remove(set);
    if kind(peer) == PeerKind::External {
        attributes.local_pref = None;
    }
    attributes.next_hop = match prefix.family() {
        Family::Ipv4Unicast => NextHop::V4(address(peer)),
        Family::Ipv6Unicast => NextHop::V6 {
            global: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, peer.into()),
            link_local: None,
        },
    };
    attributes
}

proptest! {
    #[test]
    fn any_history_ends_like_tables_made_from_scratch(steps in proptest::collection::vec(any_step(), 1..80)) {
        let mut rib = Rib::new(asn(LOCAL_AS));
        let mut truth = Truth::default();
        let mut known: BTreeMap<u8, Knowledge> = BTreeMap::new();
        let mut fib: BTreeMap<Prefix, FibRoute> = BTreeMap::new();
        let apply_fib = |fib: &mut BTreeMap<Prefix, FibRoute>, rib: &mut Rib| {
            for change in rib.take_fib_changes() {
                match change.route {
                    Some(route) => fib.insert(change.prefix, route),
                    None => fib.remove(&change.prefix),
                };
            }
        };
        for step in steps {
            match step {
                Step::Up(peer_number) => {
                    rib.peer_up(id(peer_number), peer(peer_number, kind(peer_number)));
                    truth.up.insert(peer_number, BTreeMap::new());
                    known.insert(peer_number, Knowledge::default());
                }
                Step::Down(peer) => {
                    rib.peer_down(id(peer), None);
                    truth.up.remove(&peer);
                    known.remove(&peer);
                }
                Step::Announce(peer, set, numbers) => {
                    for prefix in numbers.into_iter().map(nth_prefix) {
                        let attributes = attributes_for(peer, set, prefix);
                        rib.announce(id(peer), attributes.clone(), [prefix]);
                        if let Some(said) = truth.up.get_mut(&peer) {
                            if attributes.as_path.contains(asn(LOCAL_AS)) {
                                said.remove(&prefix);
                            } else {
                                said.insert(prefix, attributes);
                            }
                        }
                    }
                }
                Step::Withdraw(peer, numbers) => {
                    for prefix in numbers.into_iter().map(nth_prefix) {
                        rib.withdraw(id(peer), [prefix]);
                        truth.up.get_mut(&peer).map(|said| said.remove(&prefix));
                    }
                }
                Step::Originate(numbers) => {
                    let networks: BTreeMap<_, _> =
                        numbers.into_iter().map(|number| (nth_prefix(number), number % 3 == 0)).collect();
                    rib.originate(networks.clone());
                    truth.networks = networks;
                }
                Step::Refresh(peer) => rib.refresh(id(peer), Family::Ipv4Unicast),
                Step::Read(peer) => {
                    if let Some(knowledge) = known.get_mut(&peer)
                        && let Some(batch) = rib.export(id(peer))
                    {
                        knowledge.read(&batch, kind(peer));
                    }
                    apply_fib(&mut fib, &mut rib);
                }
                Step::Decide => rib.decide(),
            }
        }
        let mut scratch = Rib::new(asn(LOCAL_AS));
        scratch.originate(truth.networks.clone());
        for (number, said) in truth.up.iter().rev() {
            scratch.peer_up(id(*number), peer(*number, kind(*number)));
            for (prefix, attributes) in said.iter().rev() {
                scratch.announce(id(*number), attributes.clone(), [*prefix]);
            }
        }
        apply_fib(&mut fib, &mut rib);
        let mut fresh_fib = BTreeMap::new();
        apply_fib(&mut fresh_fib, &mut scratch);
        prop_assert_eq!(fib, fresh_fib);
        for (number, knowledge) in &mut known {
            knowledge.drain(&mut rib, *number);
            prop_assert_eq!(&knowledge.routes, &told(&mut scratch, *number), "peer {}", number);
            prop_assert_eq!(rib.counts(id(*number)).1, knowledge.routes.len());
            prop_assert_eq!(rib.counts(id(*number)).0, truth.up[number].len());
        }
        prop_assert_eq!(rib.paths(), scratch.paths());

        rib.originate(BTreeMap::new());
        for number in PEERS {
            rib.peer_down(id(number), None);
        }
        rib.take_fib_changes();
        prop_assert_eq!(rib.sizes(), (0, 0), "prefixes and attributes left behind");
    }
}
