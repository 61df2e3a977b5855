//! Messages octet by octet, as the figures of RFC 7854 have them.

use std::net::IpAddr;
use std::time::Duration;

use super::*;
use crate::wire::{AsWidth, Attributes, NextHop, Notification, attr::AsPath, encode, nlri};
use crate::{Asn, BgpIdentifier, Family};

fn neighbor(address: &str) -> MonitoredPeer {
    MonitoredPeer {
        instance: Instance::Neighbor(address.parse::<IpAddr>().unwrap()),
        asn: Asn::new(64501).unwrap(),
        identifier: BgpIdentifier::new("192.0.2.77".parse().unwrap()).unwrap(),
    }
}

fn time() -> Timestamp {
    Timestamp::from(Duration::new(0x6000_0000, 5_000))
}

/// The 42 octets of section 4.2 with this type, these flags and this address.
fn header(kind: u8, flags: u8, address: [u8; 16]) -> Vec<u8> {
    let mut octets = vec![kind, flags, 0, 0, 0, 0, 0, 0, 0, 0];
    octets.extend_from_slice(&address);
    octets.extend_from_slice(&[0, 0, 0xfb, 0xf5]);
    octets.extend_from_slice(&[192, 0, 2, 77]);
    octets.extend_from_slice(&[0x60, 0, 0, 0, 0, 0, 0, 5]);
    assert_eq!(octets.len(), 42);
    octets
}

fn ipv4_in_16() -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 192, 0, 2, 1]
}

/// A whole message of this type: version 3, the length of all of it, the type.
fn whole(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u32::try_from(body.len().saturating_add(6)).unwrap().to_be_bytes();
    [&[3][..], &length, &[kind], &body].concat()
}

fn made(make: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    make(&mut out);
    out
}

#[test]
fn initiation_has_sys_descr_and_sys_name() {
    let expected = whole(4, &[&[0, 1, 0, 3], b"rig", &[0, 2, 0, 4], b"edge"]);
    assert_eq!(made(|out| initiation("edge", "rig", out)), expected);
}

#[test]
fn termination_has_the_reason_in_two_octets() {
    let cases = [
        (TerminationReason::Administrative, 0),
        (TerminationReason::OutOfResources, 2),
        (TerminationReason::ForGood, 4),
    ];
    for (reason, code) in cases {
        assert_eq!(made(|out| termination(reason, out)), whole(5, &[&[0, 1, 0, 2, 0, code]]));
    }
}

#[test]
fn peer_up_has_both_ends_and_both_opens() {
    let open = |last: u8| [&[0xff; 16][..], &[0, 29, 1, 4, 0xfb, 0xf4, 0, 90, 192, 0, 2, last, 0]].concat();
    let ends = |local: &str, remote: &str| Some((local.parse().unwrap(), remote.parse().unwrap()));
    let opened = Opened { ends: ends("192.0.2.2:40000", "192.0.2.1:179"), sent: open(2), received: open(1) };
    let mut local = ipv4_in_16();
    local[15] = 2;
    let expected = whole(
        3,
        &[&header(0, 0, ipv4_in_16()), &local, &40000_u16.to_be_bytes(), &[0, 179], &open(2), &open(1)],
    );
    assert_eq!(made(|out| peer_up(&neighbor("192.0.2.1"), &opened, None, time(), out)), expected);

    let opened = Opened { ends: ends("[2001:db8::2]:179", "[2001:db8::1]:5"), ..opened };
    let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let (remote, local) = (octets("2001:db8::1"), octets("2001:db8::2"));
    let expected = whole(3, &[&header(0, 0x80, remote), &local, &[0, 179, 0, 5], &open(2), &open(1)]);
    assert_eq!(made(|out| peer_up(&neighbor("2001:db8::1"), &opened, None, time(), out)), expected);
}

#[test]
fn the_loc_rib_is_a_peer_of_type_3_without_address_with_a_name() {
    let peer = MonitoredPeer { instance: Instance::LocRib, ..neighbor("192.0.2.1") };
    let opened = Opened { ends: None, sent: vec![1], received: vec![1] };
    let name = [&[0, 3, 0, 6][..], b"global"].concat();
    let expected = whole(3, &[&header(3, 0, [0; 16]), &[0; 20], &[1, 1], &name]);
    assert_eq!(made(|out| peer_up(&peer, &opened, Some("global"), time(), out)), expected);
}

#[test]
fn peer_down_has_a_code_and_the_notification_of_either_side() {
    let mut notification = Vec::new();
    Notification::administrative_shutdown().encode(&mut notification);
    assert_eq!(notification[16..], [0, 21, 3, 6, 2]);
    let cases = [
        (crate::fsm::DownReason::Sent(Notification::administrative_shutdown()), 1, notification.as_slice()),
        (crate::fsm::DownReason::Received(Notification::administrative_shutdown()), 3, &notification),
        (crate::fsm::DownReason::ConnectionLost, 4, &[]),
    ];
    for (reason, code, data) in cases {
        let expected = whole(2, &[&header(0, 0, ipv4_in_16()), &[code], data]);
        let reason = DownReason::from(&reason);
        assert_eq!(made(|out| peer_down(&neighbor("192.0.2.1"), &reason, time(), out)), expected);
    }
}

#[test]
fn route_monitoring_has_one_update_and_the_l_flag_behind_the_policy() {
    let attributes = Attributes {
        as_path: AsPath::sequence([Asn::new(64501).unwrap()]),
        next_hop: NextHop::V4("192.0.2.1".parse().unwrap()),
        ..Attributes::default()
    };
    let update = made(|out| {
        let mut prefixes = Vec::new();
        nlri::encode(None, "198.51.100.0/24".parse().unwrap(), &mut prefixes);
        let announcement =
            encode::Announcement::new(Family::Ipv4Unicast, &attributes, AsWidth::Four, 4096).unwrap();
        announcement.append(&prefixes, out);
    });
    for (view, flags) in [(View::PrePolicy, 0), (View::PostPolicy, 0x40)] {
        let expected = whole(0, &[&header(0, flags, ipv4_in_16()), &update]);
        let append = |out: &mut Vec<u8>| out.extend_from_slice(&update);
        let made = made(|out| route_monitoring(&neighbor("192.0.2.1"), view, time(), out, append));
        assert_eq!(made, expected);
    }
}

#[test]
fn statistics_are_gauges_of_eight_octets_behind_the_family_where_there_is_one() {
    let list = [
        Statistic::AdjRibIn(258),
        Statistic::AdjRibInOf(Family::Ipv6Unicast, 2),
        Statistic::AdjRibOutOf(Family::Ipv4Unicast, 3),
    ];
    let expected = whole(
        1,
        &[
            &header(0, 0, ipv4_in_16()),
            &[0, 0, 0, 3],
            &[0, 7, 0, 8, 0, 0, 0, 0, 0, 0, 1, 2],
            &[0, 9, 0, 11, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 2],
            &[0, 17, 0, 11, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 3],
        ],
    );
    assert_eq!(made(|out| statistics(&neighbor("192.0.2.1"), &list, time(), out)), expected);
}

#[test]
fn messages_are_counted_by_their_lengths() {
    let messages = made(|out| {
        initiation("a", "b", out);
        termination(TerminationReason::Administrative, out);
    });
    assert_eq!([count(&messages), count(&[])], [2, 0]);
}
