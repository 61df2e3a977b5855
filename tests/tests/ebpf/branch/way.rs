//! What a packet of the short way looks like when it goes, and where it goes.

use margay_ebpf_common::{
    counter::Counter,
    endpoint::{Endpoint, PEER},
};

use super::{connect, datagram, syn, with_open_worlds};
use crate::{
    packet::{ACK, Packet, SYN, checksum},
    world::{From, SERVER_HOST_MAC, SERVER_MAC, UPLINK_MTU, ip},
};

#[test]
fn a_packet_to_a_pod_has_one_hop_less_and_the_addresses_of_its_link() {
    with_open_worlds(|world| {
        let packet = connect(world);

        for hops in [2, 64, 255] {
            let sent = Packet { hops, ..packet.clone() };
            let fate = world.expect(From::Client, &sent, Counter::ToPod);

            let mut expected = Packet { hops: hops - 1, ..sent }.octets();
            expected[..12].copy_from_slice(&[SERVER_MAC, SERVER_HOST_MAC].concat());
            assert_eq!(fate.octets, expected);
            assert!(world.is_ipv6 || checksum(&fate.octets[14..34]) == 0);
        }
    });
}

#[test]
fn every_checksum_is_right_after_a_hop() {
    with_open_worlds(|world| {
        if world.is_ipv6 {
            return;
        }
        let packet = connect(world);
        for identification in 0..=u16::MAX {
            let sent = Packet { fragment: (identification, 0x4000), ..packet.clone() };
            // All that carry when a hop is taken off, and some of the others.
            let checksum = sent.octets()[24];
            if identification % 97 != 0 && checksum < 0xfe {
                continue;
            }
            let fate = world.expect(From::Client, &sent, Counter::ToPod);
            let expected = Packet { hops: 63, ..sent }.octets();
            assert_eq!(fate.octets[14..], expected[14..]);
        }
    });
}

#[test]
fn what_a_network_card_summed_up_of_a_packet_is_right_after_a_hop() {
    with_open_worlds(|world| {
        let packet = connect(world);
        let out = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &out, Counter::ToNode);
        if !world.sum_up() {
            return;
        }
        for number in (0..=u16::MAX).step_by(97) {
            let [high, low] = number.to_be_bytes();
            let hops = low.max(2);
            let of = |packet: Packet| Packet { hops, payload: vec![high, low, 7], ..packet };
            world.expect(From::Client, &of(packet.clone()), Counter::ToPod);
            world.expect(From::Client, &of(out.clone()), Counter::ToNode);
            world.expect(From::Uplink, &of(out.answer(0)), Counter::ToPod);
        }
    });
}

#[test]
fn a_packet_without_hops_left_is_the_stacks() {
    with_open_worlds(|world| {
        let packet = connect(world);
        for hops in [0, 1] {
            world.expect(From::Client, &Packet { hops, ..packet.clone() }, Counter::Unroutable);
        }
    });
}

#[test]
fn a_packet_larger_than_the_link_is_the_stacks_unless_it_is_cut_into_segments() {
    with_open_worlds(|world| {
        let packet = connect(world);
        let headers = if world.is_ipv6 { 60 } else { 40 };
        let mac = |world: &mut crate::world::World, packet: &Packet| {
            let mut octets = packet.octets();
            let addressed = world.run(From::Client, packet);
            assert!(addressed.octets.len() == octets.len());
            octets[..6].copy_from_slice(&world.mac(From::Client));
            octets
        };
        let fits = Packet { payload: vec![1; 1500 - headers], ..packet.clone() };
        world.expect(From::Client, &fits, Counter::ToPod);
        let large = Packet { payload: vec![1; 1500 - headers + 1], ..packet.clone() };
        world.expect(From::Client, &large, Counter::Unroutable);

        let segmented = Packet { payload: vec![1; 3000], ..packet };
        let octets = mac(world, &segmented);
        let segment = u32::try_from(1500 - headers).unwrap();
        assert_eq!(world.run_octets(From::Client, &octets, segment).counted, Some(Counter::ToPod));
        assert_eq!(world.run_octets(From::Client, &octets, segment + 1).counted, Some(Counter::Unroutable));
    });
}

#[test]
fn flows_with_another_node_go_both_ways_and_whoever_opens_them() {
    with_open_worlds(|world| {
        let syn = Packet::tcp(world.client, world.remote, SYN);
        world.expect(From::Client, &syn, Counter::ToNode);
        let fate = world.expect(From::Uplink, &syn.answer(SYN | ACK), Counter::ToPod);
        assert_eq!(fate.octets[14..], Packet { hops: 63, ..syn.answer(SYN | ACK) }.octets()[14..]);
        let fate = world.expect(From::Client, &Packet { flags: ACK, ..syn.clone() }, Counter::ToNode);
        assert_eq!(fate.octets[14..], Packet { hops: 63, flags: ACK, ..syn }.octets()[14..]);

        let syn = Packet::tcp((world.remote.0, 50000), world.server, SYN);
        let fate = world.expect(From::Uplink, &syn, Counter::ToPod);
        assert_eq!(fate.octets[..12], [SERVER_MAC, SERVER_HOST_MAC].concat());
        world.expect(From::Server, &syn.answer(SYN | ACK), Counter::ToNode);
        world.expect(From::Uplink, &Packet { flags: ACK, ..syn }, Counter::ToPod);
    });
}

#[test]
fn what_the_kernel_has_no_way_for_to_another_node_is_the_stacks() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &packet, Counter::ToNode);

        let headers = if world.is_ipv6 { 48 } else { 28 };
        let fits = Packet { payload: vec![1; UPLINK_MTU - headers], ..packet.clone() };
        world.expect(From::Client, &fits, Counter::ToNode);
        let large = Packet { payload: vec![1; UPLINK_MTU - headers + 1], ..packet.clone() };
        world.expect(From::Client, &large, Counter::Unroutable);
        world.expect(From::Client, &Packet { hops: 1, ..packet.clone() }, Counter::Unroutable);

        // A neighbour that is not known yet is no hindrance.
        ip(&format!("neigh del {} dev uplink", world.router));
        world.expect(From::Client, &packet, Counter::ToNode);

        // A link of this node is no way to another, whatever its routes say.
        ip(&format!("route replace {} dev server", world.remote.0));
        world.expect(From::Client, &packet, Counter::Unroutable);
        ip(&format!("route replace unreachable {}", world.remote.0));
        world.expect(From::Client, &packet, Counter::Unroutable);
    });
}

#[test]
fn rules_of_the_node_by_all_that_a_packet_says_but_its_mark_are_obeyed() {
    with_open_worlds(|world| {
        let packet = Packet { service: 0x10, ..Packet::udp(world.client, world.remote) };
        let tcp = Packet { service: 0x10, ..Packet::tcp(world.client, world.remote, SYN) };
        let (family, from, to) =
            (if world.is_ipv6 { "-6" } else { "-4" }, world.client.0.to_string(), world.remote.0.to_string());
        for (rule, is_of_tcp) in [
            ("iif client".to_owned(), true),
            (format!("from {from}"), true),
            (format!("to {to}"), true),
            ("tos 0x10".to_owned(), true),
            ("ipproto udp".to_owned(), false),
            ("ipproto udp sport 40000".to_owned(), false),
            ("ipproto udp dport 80".to_owned(), false),
        ] {
            for (name, counted) in [("add", Counter::Unroutable), ("del", Counter::ToNode)] {
                ip(&format!("{family} rule {name} {rule} unreachable"));
                world.expect(From::Client, &packet, counted);
                world.expect(From::Client, &tcp, if is_of_tcp { counted } else { Counter::ToNode });
            }
        }
        // Of others, and of marks, which the look-up does not know.
        world.mark = 1;
        for rule in ["iif server", "tos 0x08", "sport 40001", "dport 81", "fwmark 1"] {
            ip(&format!("{family} rule add {rule} unreachable"));
            world.expect(From::Client, &packet, Counter::ToNode);
        }
    });
}

#[test]
fn both_ways_into_a_pod_are_taken() {
    with_open_worlds(|world| {
        let ifindex = world.ifindex(From::Server);
        for flags in [0, PEER] {
            let endpoint = Endpoint {
                flags,
                mtu: 1500,
                mac: SERVER_MAC,
                host_mac: SERVER_HOST_MAC,
                ..Endpoint::default()
            };
            let server = world.server.0;
            world.dataplane.add_pod(ifindex, endpoint, &[server]);
            let fate = world.expect(From::Client, &syn(world), Counter::ToPod);
            assert_eq!(fate.octets[..12], [SERVER_MAC, SERVER_HOST_MAC].concat());
        }
    });
}

#[test]
fn what_is_not_between_two_pods_is_neither_taken_nor_counted() {
    with_open_worlds(|world| {
        for packet in [
            Packet::udp(world.client, world.outside),
            Packet::tcp(world.client, world.outside, SYN),
            Packet::tcp(world.client, world.outside, ACK),
        ] {
            assert_eq!(world.run(From::Client, &packet).counted, None);
        }
        for packet in [
            Packet::udp(world.outside, world.server),
            Packet::tcp(world.outside, world.server, SYN),
            // Between other nodes.
            Packet::udp(world.remote, world.remote),
        ] {
            assert_eq!(world.run(From::Uplink, &packet).counted, None);
        }
        let echo =
            Packet { protocol: if world.is_ipv6 { 58 } else { 1 }, payload: vec![128; 8], ..datagram(world) };
        assert_eq!(world.run(From::Client, &echo).counted, None);
        let sctp = Packet { protocol: 132, payload: vec![0; 20], ..datagram(world) };
        assert_eq!(world.run(From::Client, &sctp).counted, None);
        // For somebody else at the same switch.
        assert_eq!(world.run_octets(From::Client, &datagram(world).octets(), 0).counted, None);
    });
}
