//! Rules of the wire format: vectors captured from BIRD 2.0.12, faults and what they cost, round trips.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::attr::{
    Aggregator, AsPath, Community, FaultAction, OpaqueAttribute, Origin, Segment, SegmentKind,
};
use super::*;
use crate::{Asn, BgpIdentifier, Family, FamilySet, HoldTime, Prefix};

const BIRD_OPEN: &str = "ffffffffffffffffffffffffffffffff003b01 04 fbf0 00f0 c0000201 1e 021c 010400010001 010400020001 0200 \
     40020078 41040000fbf0 4600 4700";
const BIRD_UPDATE_V4: &str = "ffffffffffffffffffffffffffffffff003a02000000 1f 40010100 400206 02010000fbf0 400304c0000201 \
     c00808fbf00001ffffff01 18c63364";
const BIRD_UPDATE_V6: &str = "ffffffffffffffffffffffffffffffff0062020000004b900e002b00020120 20010db8000000000000000000000001 \
     fe80000000000000a8d2a5fffe39acfa 00 2820010db801 40010100 400206 02010000fbf0 c0200c0000fbf00000000100000002";
const BIRD_WITHDRAW_V6: &str = "ffffffffffffffffffffffffffffffff0024020000000d900f00090002012820010db801";
const BIRD_EOR_V4: &str = "ffffffffffffffffffffffffffffffff00170200000000";
const BIRD_EOR_V6: &str = "ffffffffffffffffffffffffffffffff001d0200000006800f03000201";
const BIRD_SHUTDOWN: &str = "ffffffffffffffffffffffffffffffff0015030602";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u32> = hex.chars().filter_map(|c| c.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
}

fn asn(number: u32) -> Asn {
    Asn::new(number).unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Messages that announce the prefixes, as full as they get.
fn announce(
    family: Family,
    attributes: &Attributes,
    width: AsWidth,
    prefixes: &[Prefix],
    out: &mut Vec<u8>,
) -> Result<(), encode::AttributesTooLong> {
    let announcement = encode::Announcement::new(family, attributes, width, MAX_MESSAGE_LEN)?;
    for octets in packed(prefixes, announcement.room()) {
        announcement.append(&octets, out);
    }
    Ok(())
}

fn withdraw(family: Family, prefixes: &[Prefix], out: &mut Vec<u8>) {
    for octets in packed(prefixes, encode::withdrawal_room(family, MAX_MESSAGE_LEN)) {
        encode::append_withdrawal(family, &octets, out);
    }
}

fn packed(prefixes: &[Prefix], room: usize) -> Vec<Vec<u8>> {
    let mut packed: Vec<Vec<u8>> = Vec::new();
    for prefix in prefixes {
        match packed.last_mut() {
            Some(last) if last.len().saturating_add(nlri::encoded_len(*prefix)) <= room => {
                nlri::encode(None, *prefix, last);
            }
            _ => {
                packed.push(Vec::new());
                nlri::encode(None, *prefix, packed.last_mut().unwrap());
            }
        }
    }
    packed
}

fn context(peer: PeerKind, as_width: AsWidth) -> UpdateContext {
    UpdateContext {
        as_width,
        peer,
        families: FamilySet::from_iter(Family::ALL),
        add_path: FamilySet::EMPTY,
        extended_next_hop: false,
    }
}

const EXTERNAL: fn() -> UpdateContext = || context(PeerKind::External, AsWidth::Four);

fn body(message: &[u8]) -> &[u8] {
    Frame::split(message).unwrap().unwrap().body
}

/// An UPDATE body of these attributes and one prefix, 192.0.2.0/24.
fn update_with(attributes: &str) -> Vec<u8> {
    let attributes = bytes(attributes);
    let mut body = vec![0, 0];
    body.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    body.extend(attributes);
    body.extend([24, 192, 0, 2]);
    body
}

const MANDATORY: &str = "40010100 400206 02010000fbf0 400304c0000201";
const PREFERENCE: &str = "40050400000064";

#[test]
fn messages_in_a_row_are_counted() {
    let mut octets = bytes(&format!("{BIRD_UPDATE_V4}{BIRD_EOR_V4}{BIRD_EOR_V6}"));
    header::encode_keepalive(&mut octets);
    assert_eq!(header::count(&octets), 4);
    assert_eq!(header::count(&[]), 0);
}

#[test]
fn open_of_bird_is_decoded() {
    let message = bytes(BIRD_OPEN);
    let open = Message::decode(Frame::split(&message).unwrap().unwrap());
    let expected = Open {
        asn: asn(64496),
        hold_time: HoldTime::new(240).unwrap(),
        identifier: BgpIdentifier::new(Ipv4Addr::new(192, 0, 2, 1)).unwrap(),
        capabilities: Capabilities {
            families: FamilySet::from_iter(Family::ALL),
            four_octet_as: Some(64496),
            route_refresh: true,
            enhanced_route_refresh: true,
            graceful_restart: Some(GracefulRestart { restart_time: 120, ..GracefulRestart::default() }),
            ..Capabilities::default()
        },
    };
    assert_eq!(open, Ok(Message::Open(expected)));
}

#[test]
fn ipv4_update_of_bird_is_decoded_and_encoded_to_the_same_bytes() {
    let message = bytes(BIRD_UPDATE_V4);
    let update = Update::decode(body(&message), EXTERNAL()).unwrap();
    let next_hop = NextHop::V4(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(update.announced.len(), 1);
    assert_eq!(update.announced[0].next_hop, next_hop);
    assert_eq!(update.announced[0].nlri.iter().collect::<Vec<_>>(), [prefix("198.51.100.0/24")]);
    assert_eq!(update.attributes.as_path, AsPath::sequence([asn(64496)]));
    assert_eq!(update.attributes.communities, [Community(0xfbf0_0001), Community::NO_EXPORT]);
    assert!(update.faults.is_empty());

    let mut out = Vec::new();
    let attributes = Attributes { next_hop, ..update.attributes };
    announce(Family::Ipv4Unicast, &attributes, AsWidth::Four, &[prefix("198.51.100.0/24")], &mut out)
        .unwrap();
    assert_eq!(out, message);
}

#[test]
fn ipv6_update_of_bird_is_decoded_and_encoded_to_the_same_bytes() {
    let message = bytes(BIRD_UPDATE_V6);
    let update = Update::decode(body(&message), EXTERNAL()).unwrap();
    let next_hop = NextHop::V6 {
        global: "2001:db8::1".parse().unwrap(),
        link_local: Some("fe80::a8d2:a5ff:fe39:acfa".parse().unwrap()),
    };
    assert_eq!(update.announced[0].next_hop, next_hop);
    assert_eq!(update.announced[0].nlri.iter().collect::<Vec<_>>(), [prefix("2001:db8:100::/40")]);
    assert_eq!(update.attributes.opaque.len(), 1);
    assert!(!update.attributes.opaque[0].partial, "large communities are understood well enough");

    let mut out = Vec::new();
    let attributes = Attributes { next_hop, ..update.attributes };
    let prefixes = [prefix("2001:db8:100::/40")];
    announce(Family::Ipv6Unicast, &attributes, AsWidth::Four, &prefixes, &mut out).unwrap();
    assert_eq!(out, message);
    out.clear();
    withdraw(Family::Ipv6Unicast, &prefixes, &mut out);
    assert_eq!(out, bytes(BIRD_WITHDRAW_V6));
}

#[test]
fn end_of_rib_of_bird_is_told_per_family_and_encoded_to_the_same_bytes() {
    for (hex, family) in [(BIRD_EOR_V4, Family::Ipv4Unicast), (BIRD_EOR_V6, Family::Ipv6Unicast)] {
        let message = bytes(hex);
        let update = Update::decode(body(&message), EXTERNAL()).unwrap();
        assert_eq!(update.end_of_rib, Some(family));
        let mut out = Vec::new();
        encode::encode_end_of_rib(family, &mut out);
        assert_eq!(out, message);
    }
}

#[test]
fn shutdown_of_bird_is_decoded_and_encoded_to_the_same_bytes() {
    let message = bytes(BIRD_SHUTDOWN);
    let expected = Notification::administrative_shutdown();
    let decoded = Message::decode(Frame::split(&message).unwrap().unwrap());
    assert_eq!(decoded, Ok(Message::Notification(expected.clone())));
    let mut out = Vec::new();
    expected.encode(&mut out);
    assert_eq!(out, message);
}

#[test]
fn header_faults_get_code_1_with_the_field_as_data() {
    let marker = "ffffffffffffffffffffffffffffffff";
    let cases = [
        ("00ffffffffffffffffffffffffffffff001304", (1, 1, vec![])),
        (&format!("{marker}001204"), (1, 2, vec![0, 0x12])),
        (&format!("{marker}100104"), (1, 2, vec![0x10, 1])),
        (&format!("{marker}001404"), (1, 2, vec![0, 0x14])),
        (&format!("{marker}001c01"), (1, 2, vec![0, 0x1c])),
        (&format!("{marker}001609"), (1, 3, vec![9])),
    ];
    for (hex, (code, subcode, data)) in cases {
        let error = Frame::split(&bytes(hex)).unwrap_err();
        assert_eq!(error, Notification { code, subcode, data }, "{hex}");
    }
}

#[test]
fn an_incomplete_message_is_waited_for() {
    let message = bytes(BIRD_OPEN);
    for end in 0..message.len() {
        assert!(Frame::split(&message[..end]).unwrap().is_none(), "{end}");
    }
}

#[test]
fn open_faults_get_code_2() {
    let cases = [
        ("03fbf000f0c0000201 00", (2, 1, vec![0, 4])),
        ("04000000f0c0000201 00", (2, 2, vec![])),
        ("04fbf000f000000000 00", (2, 3, vec![])),
        ("04fbf000f0c0000201 03010100", (2, 4, vec![])),
        ("04fbf00002c0000201 00", (2, 6, vec![])),
        ("04fbf000f0c0000201 05", (2, 0, vec![])),
        ("04fbf000f0c0000201 04 02024104", (2, 0, vec![])),
    ];
    for (hex, (code, subcode, data)) in cases {
        assert_eq!(Open::decode(&bytes(hex)), Err(Notification { code, subcode, data }), "{hex}");
    }
}

#[test]
fn an_open_without_multiprotocol_capability_means_ipv4_unicast() {
    let open = Open::decode(&bytes("04fbf000f0c0000201 00")).unwrap();
    assert_eq!(open.capabilities.families, FamilySet::from_iter([Family::Ipv4Unicast]));
    assert!(open.capabilities.four_octet_as.is_none());
}

#[test]
fn extended_optional_parameters_of_rfc_9072_are_read() {
    let open = Open::decode(&bytes("04fbf000f0c0000201 ff ff 0009 02 0006 4104 0000fbf1")).unwrap();
    assert_eq!(open.asn, asn(64497));
}

#[test]
fn update_faults_that_cost_the_session_get_code_3() {
    let cases = [
        ("withdrawn routes longer than the message", bytes("00ff 0000"), (3, 1, vec![])),
        ("attributes longer than the message", bytes("0000 00ff"), (3, 1, vec![])),
        ("withdrawn prefix longer than an address", bytes("0001 21 0000"), (3, 10, vec![])),
        ("announced prefix cut off", bytes("0000 0000 18c000"), (3, 10, vec![])),
        ("unknown well-known attribute", update_with("40630101"), (3, 2, bytes("40630101"))),
        (
            "MP_REACH_NLRI with a next hop of 5 octets",
            update_with("800e0a 000201 05 0102030405 00"),
            (3, 9, bytes("800e0a000201050102030405 00")),
        ),
        (
            "MP_UNREACH_NLRI with a prefix of 129 bits",
            update_with("800f04 000201 81"),
            (3, 9, bytes("800f0400020181")),
        ),
        ("two MP_UNREACH_NLRI", update_with("800f03000201 800f03000201"), (3, 1, vec![])),
    ];
    for (what, body, (code, subcode, data)) in cases {
        let error = Update::decode(&body, EXTERNAL()).unwrap_err();
        assert_eq!(error, Notification { code, subcode, data }, "{what}");
    }
}

#[test]
fn path_identifiers_come_before_prefixes_where_they_were_agreed() {
    let mut body = update_with(MANDATORY);
    // What `update_with` announces is one /24.
    body.truncate(body.len() - 4);
    body.extend([0, 0, 0, 7, 24, 192, 0, 2, 0, 0, 0, 8, 24, 192, 0, 2]);
    let add_path = FamilySet::from_iter([Family::Ipv4Unicast]);
    let update = Update::decode(&body, UpdateContext { add_path, ..EXTERNAL() }).unwrap();
    let paths: Vec<_> = update.announced[0].nlri.paths().collect();
    assert_eq!(paths, [(7, prefix("192.0.2.0/24")), (8, prefix("192.0.2.0/24"))]);
}

#[test]
fn an_ipv6_next_hop_of_ipv4_prefixes_is_taken_where_it_was_agreed() {
    let mp_reach = "800e19 0001 01 10 20010db8000000000000000000000001 00 18c00002";
    let mut body = update_with(&format!("40010100 400206 02010000fbf0 {mp_reach}"));
    body.truncate(body.len() - 4);
    assert!(Update::decode(&body, EXTERNAL()).is_err());
    let update = Update::decode(&body, UpdateContext { extended_next_hop: true, ..EXTERNAL() }).unwrap();
    let next_hop = NextHop::V6 { global: "2001:db8::1".parse().unwrap(), link_local: None };
    assert_eq!(update.announced[0].next_hop, next_hop);
    assert_eq!(update.announced[0].nlri.iter().collect::<Vec<_>>(), [prefix("192.0.2.0/24")]);
}

#[test]
fn a_next_hop_without_a_global_address_is_its_link_local_one() {
    // What BIRD sends over a session between link-local addresses.
    let next_hop = "00000000000000000000000000000000 fe800000000000000000000000000001";
    let mut body =
        update_with(&format!("40010100 400206 02010000fbf0 800e29 0001 01 20 {next_hop} 00 18c00002"));
    body.truncate(body.len() - 4);
    let update = Update::decode(&body, UpdateContext { extended_next_hop: true, ..EXTERNAL() }).unwrap();
    assert_eq!(update.faults, []);
    let address = "fe80::1".parse().unwrap();
    let next_hop = NextHop::V6 { global: address, link_local: Some(address) };
    assert_eq!(update.announced[0].next_hop, next_hop);
}

#[test]
fn attribute_faults_cost_the_routes_or_the_attribute_as_rfc_7606_says() {
    use FaultAction::{Discard, TreatAsWithdraw};
    let internal = context(PeerKind::Internal, AsWidth::Four);
    let external = EXTERNAL();
    let cases = [
        ("no ORIGIN", "400206 02010000fbf0 400304c0000201", external, TreatAsWithdraw),
        ("no AS_PATH", "40010100 400304c0000201", external, TreatAsWithdraw),
        ("no NEXT_HOP", "40010100 400206 02010000fbf0", external, TreatAsWithdraw),
        ("no LOCAL_PREF from inside", MANDATORY, internal, TreatAsWithdraw),
        ("ORIGIN 3", "40010103 400206 02010000fbf0 400304c0000201", external, TreatAsWithdraw),
        (
            "ORIGIN with optional flag",
            "c0010100 400206 02010000fbf0 400304c0000201",
            external,
            TreatAsWithdraw,
        ),
        ("AS 0 in AS_PATH", "40010100 400206 020100000000 400304c0000201", external, TreatAsWithdraw),
        (
            "confederation in AS_PATH",
            "40010100 400206 03010000fbf0 400304c0000201",
            external,
            TreatAsWithdraw,
        ),
        ("empty segment", "40010100 400202 0200 400304c0000201", external, TreatAsWithdraw),
        ("multicast NEXT_HOP", "40010100 400206 02010000fbf0 400304e0000001", external, TreatAsWithdraw),
        ("MED of 3 octets", &format!("{MANDATORY} 800403000000"), external, TreatAsWithdraw),
        ("LOCAL_PREF from outside", &format!("{MANDATORY} 40050400000064"), external, Discard),
        ("LOCAL_PREF of 1 octet", &format!("{MANDATORY} 40050100"), internal, TreatAsWithdraw),
        ("ATOMIC_AGGREGATE of 1 octet", &format!("{MANDATORY} 40060100"), external, Discard),
        ("AGGREGATOR of 6 octets", &format!("{MANDATORY} c00706fbf0c0000201"), external, Discard),
        ("COMMUNITIES of 3 octets", &format!("{MANDATORY} c00803010203"), external, TreatAsWithdraw),
        ("empty COMMUNITIES", &format!("{MANDATORY} c00800"), external, TreatAsWithdraw),
        ("MED twice", &format!("{MANDATORY} 80040400000001 80040400000002"), external, Discard),
        ("ORIGINATOR_ID from outside", &format!("{MANDATORY} 800904c0000209"), external, Discard),
        (
            "ORIGINATOR_ID of 3 octets",
            &format!("{MANDATORY} {PREFERENCE} 800903c00002"),
            internal,
            TreatAsWithdraw,
        ),
        ("CLUSTER_LIST from outside", &format!("{MANDATORY} 800a04c0000209"), external, Discard),
        (
            "CLUSTER_LIST of 6 octets",
            &format!("{MANDATORY} {PREFERENCE} 800a06c0000209c000"),
            internal,
            TreatAsWithdraw,
        ),
        ("empty CLUSTER_LIST", &format!("{MANDATORY} {PREFERENCE} 800a00"), internal, TreatAsWithdraw),
        (
            "EXTENDED_COMMUNITIES of 7 octets",
            &format!("{MANDATORY} c01007 00020000000000"),
            external,
            TreatAsWithdraw,
        ),
        (
            "LARGE_COMMUNITIES of 11 octets",
            &format!("{MANDATORY} c0200b 0000000000000000000000"),
            external,
            TreatAsWithdraw,
        ),
        ("empty LARGE_COMMUNITIES", &format!("{MANDATORY} c02000"), external, TreatAsWithdraw),
        ("NEXT_HOP of 5 octets", "40010100 400206 02010000fbf0 400305c000020100", external, TreatAsWithdraw),
        ("ORIGIN of 2 octets", "4001020000 400206 02010000fbf0 400304c0000201", external, TreatAsWithdraw),
        ("AS_PATH that overruns", "40010100 400206 02020000fbf0 400304c0000201", external, TreatAsWithdraw),
        ("AGGREGATOR of AS 0", &format!("{MANDATORY} c00708 00000000 c0000201"), external, Discard),
        (
            "AS4_PATH between four-octet speakers",
            &format!("{MANDATORY} c01106 02010000fbf0"),
            external,
            Discard,
        ),
        ("attribute overruns", &format!("{MANDATORY} 8004ff00"), external, TreatAsWithdraw),
    ];
    for (what, attributes, context, action) in cases {
        let body = update_with(attributes);
        let update = Update::decode(&body, context).unwrap();
        assert!(update.faults.iter().any(|fault| fault.action == action), "{what}: {:?}", update.faults);
        assert_eq!(update.announced.is_empty(), action == TreatAsWithdraw, "{what}");
        let withdrawn: Vec<_> = update.withdrawn.iter().flat_map(|nlri| nlri.iter()).collect();
        let expected = if action == TreatAsWithdraw { vec![prefix("192.0.2.0/24")] } else { vec![] };
        assert_eq!(withdrawn, expected, "{what}");
    }
}

#[test]
fn the_first_of_two_equal_attributes_counts() {
    let body = update_with(&format!("{MANDATORY} 80040400000001 80040400000002"));
    assert_eq!(Update::decode(&body, EXTERNAL()).unwrap().attributes.med, Some(1));
}

#[test]
fn unknown_attributes_are_kept_with_the_partial_bit_only_if_transitive() {
    let body = update_with(&format!("{MANDATORY} c06301aa 806401bb"));
    let update = Update::decode(&body, EXTERNAL()).unwrap();
    let kept = OpaqueAttribute { code: 0x63, partial: true, value: Box::new([0xaa]) };
    assert_eq!(update.attributes.opaque, [kept]);
}

#[test]
fn as4_path_is_merged_only_from_a_two_octet_speaker() {
    // AS_PATH 64500 23456 64501, AS4_PATH 4200000000 64501.
    let attributes = "40010100 400208 0203 fbf4 5ba0 fbf5 400304c0000201 c0110a 0202 fa56ea00 0000fbf5";
    let body = update_with(attributes);
    let two = Update::decode(&body, context(PeerKind::External, AsWidth::Two)).unwrap();
    let merged = AsPath::sequence([asn(64500), asn(4_200_000_000), asn(64501)]);
    assert_eq!(two.attributes.as_path, merged);
    assert!(two.faults.is_empty());

    let body = update_with(&format!("{MANDATORY} c0110a 0202 fa56ea00 0000fbf5"));
    let four = Update::decode(&body, EXTERNAL()).unwrap();
    assert_eq!(four.attributes.as_path, AsPath::sequence([asn(64496)]));
    assert_eq!(four.faults[0].action, FaultAction::Discard);
}

#[test]
fn as4_path_longer_than_as_path_is_ignored() {
    let attributes = "40010100 400204 0201 fbf4 400304c0000201 c0110a 0202 fa56ea00 0000fbf5";
    let body = update_with(attributes);
    let update = Update::decode(&body, context(PeerKind::External, AsWidth::Two)).unwrap();
    assert_eq!(update.attributes.as_path, AsPath::sequence([asn(64500)]));
}

#[test]
fn messages_are_split_at_4096_octets_and_filled_before_that() {
    let prefixes: Vec<Prefix> = (0..3000_u32)
        .map(|n| Prefix::masked(IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 | n << 8)), 24).unwrap())
        .collect();
    let attributes = Attributes {
        next_hop: NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
        as_path: AsPath::sequence([asn(64496)]),
        ..Attributes::default()
    };
    let mut out = Vec::new();
    announce(Family::Ipv4Unicast, &attributes, AsWidth::Four, &prefixes, &mut out).unwrap();
    let mut rest = &out[..];
    let mut lengths = Vec::new();
    let mut received = Vec::new();
    while let Some(frame) = Frame::split(rest).unwrap() {
        lengths.push(frame.length);
        let update = Update::decode(frame.body, EXTERNAL()).unwrap();
        received.extend(update.announced[0].nlri.iter());
        rest = &rest[frame.length..];
    }
    assert_eq!(received, prefixes);
    assert_eq!(lengths.len(), 3);
    assert!(lengths[..2].iter().all(|length| (4093..=4096).contains(length)), "{lengths:?}");
}

#[test]
fn attributes_that_fill_a_message_are_refused() {
    let attributes = Attributes {
        next_hop: NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
        communities: vec![Community(1); 1020],
        ..Attributes::default()
    };
    let mut out = Vec::new();
    let prefixes = [prefix("192.0.2.0/24")];
    let result = announce(Family::Ipv4Unicast, &attributes, AsWidth::Four, &prefixes, &mut out);
    assert!(result.is_err());
    assert!(out.is_empty());
}

fn any_prefix(family: Family) -> impl Strategy<Value = Prefix> {
    (any::<u128>(), 0..=family.address_bits()).prop_map(move |(bits, length)| {
        let address = match family {
            Family::Ipv4Unicast => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits >> 96).unwrap())),
            Family::Ipv6Unicast => IpAddr::V6(Ipv6Addr::from_bits(bits)),
        };
        Prefix::masked(address, length).unwrap()
    })
}

fn any_attributes() -> impl Strategy<Value = Attributes> {
    let segment =
        (any::<bool>(), proptest::collection::vec(1_u32.., 1..300)).prop_map(|(set, asns)| Segment {
            kind: if set { SegmentKind::Set } else { SegmentKind::Sequence },
            asns: asns.into_iter().filter_map(Asn::new).collect(),
        });
    let opaque =
        proptest::collection::btree_map(100_u8..110, proptest::collection::vec(any::<u8>(), 0..300), 0..3);
    (
        (0_usize..3, proptest::collection::vec(segment, 0..3)),
        (any::<Option<u32>>(), any::<u32>(), any::<bool>(), proptest::option::of((1_u32.., any::<u32>()))),
        proptest::collection::vec(any::<u32>().prop_map(Community), 0..20),
        opaque,
    )
        .prop_map(
            |((origin, segments), (med, local_pref, atomic_aggregate, aggregator), communities, opaque)| {
                Attributes {
                    origin: [Origin::Igp, Origin::Egp, Origin::Incomplete][origin],
                    as_path: AsPath::new(segments),
                    next_hop: NextHop::Local,
                    med,
                    local_pref: Some(local_pref),
                    atomic_aggregate,
                    aggregator: aggregator.map(|(asn, address)| Aggregator {
                        asn: Asn::new(asn).unwrap(),
                        address: Ipv4Addr::from_bits(address),
                    }),
                    originator_id: med.map(Ipv4Addr::from_bits),
                    cluster_list: communities
                        .iter()
                        .map(|community| Ipv4Addr::from_bits(community.0))
                        .collect(),
                    communities,
                    opaque: opaque
                        .into_iter()
                        .map(|(code, value)| OpaqueAttribute { code, partial: true, value: value.into() })
                        .collect(),
                }
            },
        )
}

proptest! {
    #[test]
    fn what_is_announced_is_what_arrives(
        attributes in any_attributes(),
        v4 in proptest::collection::vec(any_prefix(Family::Ipv4Unicast), 1..1500),
        v6 in proptest::collection::vec(any_prefix(Family::Ipv6Unicast), 1..600),
    ) {
        let next_hops = [
            NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
            NextHop::V6 { global: "2001:db8::1".parse().unwrap(), link_local: None },
        ];
        for (family, prefixes, next_hop) in
            [(Family::Ipv4Unicast, v4, next_hops[0]), (Family::Ipv6Unicast, v6, next_hops[1])]
        {
            let sent = Attributes { next_hop, ..attributes.clone() };
            let mut out = Vec::new();
            prop_assume!(
                announce(family, &sent, AsWidth::Four, &prefixes, &mut out).is_ok()
            );
            let mut rest = &out[..];
            let mut received = Vec::new();
            while let Some(frame) = Frame::split(rest).unwrap() {
                let update = Update::decode(frame.body, context(PeerKind::Internal, AsWidth::Four)).unwrap();
                prop_assert!(update.faults.is_empty(), "{:?}", update.faults);
                prop_assert_eq!(update.announced.len(), 1);
                prop_assert_eq!(update.announced[0].next_hop, next_hop);
                prop_assert_eq!(&update.attributes, &attributes);
                received.extend(update.announced[0].nlri.iter());
                rest = &rest[frame.length..];
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(&received, &prefixes);
            let mut out = Vec::new();
            withdraw(family, &prefixes, &mut out);
            let mut rest = &out[..];
            let mut received = Vec::new();
            while let Some(frame) = Frame::split(rest).unwrap() {
                let update = Update::decode(frame.body, EXTERNAL()).unwrap();
                received.extend(update.withdrawn.iter().flat_map(|nlri| nlri.iter()));
                rest = &rest[frame.length..];
            }
            prop_assert_eq!(&received, &prefixes);
        }
    }

    #[test]
    fn a_two_octet_speaker_carries_four_octet_paths_unharmed(
        asns in proptest::collection::vec(1_u32.., 0..40),
    ) {
        let asns = asns.into_iter().filter_map(Asn::new);
        let sent = Attributes {
            as_path: AsPath::sequence(asns),
            next_hop: NextHop::V4(Ipv4Addr::new(192, 0, 2, 1)),
            ..Attributes::default()
        };
        let mut out = Vec::new();
        let prefixes = [prefix("192.0.2.0/24")];
        announce(Family::Ipv4Unicast, &sent, AsWidth::Two, &prefixes, &mut out).unwrap();
        let update = Update::decode(body(&out), context(PeerKind::External, AsWidth::Two)).unwrap();
        prop_assert_eq!(update.attributes.as_path, sent.as_path);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let split = Frame::split(&bytes).is_ok();
        let open = Open::decode(&bytes).is_ok();
        let update = Update::decode(&bytes, EXTERNAL()).is_ok();
        let mut framed = vec![0xff; 16];
        framed.extend(u16::try_from(bytes.len().saturating_add(19)).unwrap().to_be_bytes());
        for kind in 1..=5 {
            let mut framed = framed.clone();
            framed.push(kind);
            framed.extend(&bytes);
            if let Ok(Some(frame)) = Frame::split(&framed) {
                prop_assert!(Message::decode(frame).is_ok() || !bytes.is_empty());
            }
        }
        prop_assert!(split || !open || !update || !bytes.is_empty());
    }

    #[test]
    fn a_damaged_update_of_bird_never_panics(
        which in 0_usize..3, place in any::<proptest::sample::Index>(), value in any::<u8>(),
    ) {
        let mut message = bytes([BIRD_UPDATE_V4, BIRD_UPDATE_V6, BIRD_WITHDRAW_V6][which]);
        let place = place.index(message.len());
        message[place] = value;
        for as_width in [AsWidth::Two, AsWidth::Four] {
            if let Ok(Some(frame)) = Frame::split(&message)
                && let Ok(update) = Update::decode(frame.body, context(PeerKind::Internal, as_width))
            {
                prop_assert!(update.withdrawn.iter().flat_map(|nlri| nlri.iter()).count() < 4096);
            }
        }
    }
}
