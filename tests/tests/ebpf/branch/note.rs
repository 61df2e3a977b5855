//! What the stack sends is the stack's from then on.

use margay_ebpf_common::{counter::Counter, flow::Stacked};

use super::{connect, datagram, syn, tcp_key, udp_key, with_open_worlds};
use crate::{
    packet::{ACK, Packet, SYN},
    world::{From, now},
};

#[test]
fn a_flow_that_the_stack_begins_ends_that_of_the_short_way() {
    with_open_worlds(|world| {
        for program in ["to_pod", "to_uplink"] {
            let packet = connect(world);
            world.expect(From::Client, &datagram(world), Counter::ToPod);
            world.stack_sends(program, &syn(world));
            world.stack_sends(program, &datagram(world));
            for key in [tcp_key(world), udp_key(world)] {
                assert!(world.dataplane.is_stacked(key));
                assert_eq!(world.dataplane.flow("FLOWS", key), None);
                assert_eq!(world.dataplane.flow("EMBRYOS", key), None);
                world.dataplane.hash::<_, Stacked>("STACKED").remove(&key).unwrap();
            }
            world.expect(From::Client, &packet, Counter::NoFlow);
        }
    });
}

#[test]
fn a_flow_that_the_stack_has_and_goes_on_with_is_noted_again() {
    with_open_worlds(|world| {
        let key = udp_key(world);
        world.stack_sends("to_pod", &datagram(world));
        let seen = now().checked_sub(20_000_000_000).expect("a machine that has been up for some seconds");
        world.dataplane.hash("STACKED").insert(key, Stacked { seen }, 0).unwrap();
        world.stack_sends("to_pod", &datagram(world));
        let stacked: Stacked = world.dataplane.hash("STACKED").get(&key, 0).unwrap();
        assert!(now() - stacked.seen < 1_000_000_000);
    });
}

#[test]
fn the_first_of_a_connection_counts_alone() {
    with_open_worlds(|world| {
        for flags in [ACK, SYN | ACK] {
            world.stack_sends("to_pod", &Packet { flags, ..syn(world) });
        }
        assert!(!world.dataplane.is_stacked(tcp_key(world)));
    });
}

#[test]
fn what_is_not_between_pods_is_not_noted() {
    with_open_worlds(|world| {
        for packet in [Packet::udp(world.outside, world.server), Packet::udp(world.client, world.outside)] {
            world.stack_sends("to_pod", &packet);
            let key = crate::dataplane::key(
                17,
                (packet.source, packet.ports.0),
                (packet.destination, packet.ports.1),
            );
            assert!(!world.dataplane.is_stacked(key));
        }
        world.stack_sends("to_uplink", &Packet::udp(world.client, world.remote));
        let key = crate::dataplane::key(17, world.client, world.remote);
        assert!(world.dataplane.is_stacked(key));
    });
}

#[test]
fn packets_with_options_are_noted_like_others() {
    with_open_worlds(|world| {
        let packet = if world.is_ipv6 {
            Packet { extensions: vec![(0, vec![0, 0, 1, 4, 0, 0, 0, 0])], ..datagram(world) }
        } else {
            Packet { options: vec![1; 4], ..datagram(world) }
        };
        world.stack_sends("to_pod", &packet);
        assert!(world.dataplane.is_stacked(udp_key(world)));
        world.expect(From::Server, &datagram(world).answer(0), Counter::Stacked);
    });
}

#[test]
fn the_first_fragment_of_a_datagram_is_noted_like_a_whole_one() {
    with_open_worlds(|world| {
        let packet = Packet { payload: vec![7; 64], ..datagram(world) };
        let packet = if world.is_ipv6 {
            Packet { extensions: vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 9])], ..packet }
        } else {
            Packet { fragment: (9, 0x2000), ..packet }
        };
        world.stack_sends("to_pod", &packet);
        assert!(world.dataplane.is_stacked(udp_key(world)));
    });
}

#[test]
fn an_address_of_a_pod_of_this_node_is_a_pods_whatever_ranges_pods_have() {
    with_open_worlds(|world| {
        let (address, link) = (world.outside.0, world.ifindex(From::Server));
        world.dataplane.add_address(address, link);
        for packet in [Packet::udp(world.client, world.outside), Packet::udp(world.outside, world.remote)] {
            world.stack_sends("to_uplink", &packet);
            let ends = [(packet.source, packet.ports.0), (packet.destination, packet.ports.1)];
            assert!(world.dataplane.is_stacked(crate::dataplane::key(17, ends[0], ends[1])));
        }
        let other = Packet::udp((world.client.0, 40001), world.outside);
        world.expect(From::Client, &other, Counter::ToPod);
        world.expect(From::Server, &other.answer(0), Counter::ToPod);
    });
}
