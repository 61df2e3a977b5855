//! What policy allows, and who may use a flow.

use margay_ebpf_common::{
    counter::Counter,
    denial::{self, Denial},
    endpoint::Endpoint,
    flow::{TCP, UDP},
    verdict::{ALLOW, ANY_CLASS, CLUSTER, EGRESS, INGRESS, ISOLATE, TELL, VerdictKey},
};

use super::{allow_all, connect, datagram, syn, tcp_key, udp_key, with_open_worlds};
use crate::{
    packet::{ACK, Packet, SYN},
    world::{CLIENT_EGRESS, From, SERVER_INGRESS, World, with_worlds},
};

#[test]
fn each_end_must_allow_it_and_without_an_entry_none_does() {
    with_worlds(|world| {
        world.expect(From::Client, &syn(world), Counter::NotAllowed);
        allow_all(world, CLIENT_EGRESS, EGRESS);
        world.expect(From::Client, &syn(world), Counter::NotAllowed);
        allow_all(world, SERVER_INGRESS, INGRESS);
        world.expect(From::Client, &syn(world), Counter::ToPod);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
    });
}

#[test]
fn the_longest_prefix_of_the_port_decides() {
    with_worlds(|world| {
        allow_all(world, CLIENT_EGRESS, EGRESS);
        let of = |protocol, port: u16| VerdictKey {
            set: SERVER_INGRESS,
            class: ANY_CLASS,
            way: INGRESS,
            protocol,
            port: port.to_be_bytes(),
        };
        world.dataplane.decide(VerdictKey::REST, of(0, 0), ISOLATE);
        world.dataplane.decide(VerdictKey::REST + 8, of(UDP, 0), ALLOW);
        world.dataplane.decide(VerdictKey::PORT, of(UDP, 53), ISOLATE);
        // 8080 to 8087, without 8083.
        world.dataplane.decide(VerdictKey::PORT - 3, of(TCP, 8080), ALLOW);
        world.dataplane.decide(VerdictKey::PORT, of(TCP, 8083), ISOLATE);
        for (protocol, port, is_allowed) in [
            (TCP, 8079, false),
            (TCP, 8080, true),
            (TCP, 8083, false),
            (TCP, 8087, true),
            (TCP, 8088, false),
            (UDP, 8088, true),
            (UDP, 53, false),
        ] {
            let packet = Packet { flags: SYN, ..Packet::new(protocol, world.client, (world.server.0, port)) };
            let counted = match (is_allowed, protocol) {
                (true, _) => Counter::ToPod,
                (false, TCP) => Counter::Denied,
                (false, _) => Counter::NotAllowed,
            };
            world.expect(From::Client, &packet, counted);
        }
    });
}

#[test]
fn the_class_of_an_address_is_its_own_then_its_ranges_then_none() {
    with_worlds(|world| {
        allow_all(world, CLIENT_EGRESS, EGRESS);
        let rest = |class| VerdictKey { set: SERVER_INGRESS, class, way: INGRESS, ..VerdictKey::default() };
        world.dataplane.decide(VerdictKey::REST, rest(ANY_CLASS), ISOLATE);
        let client = world.client.0;
        let (network, host) = if world.is_ipv6 { (64, 128) } else { (16, 32) };

        world.dataplane.decide(VerdictKey::REST, rest(0), ALLOW);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        // Without an entry of its own, any.
        world.dataplane.classify((client, network), 5);
        world.expect(From::Client, &syn(world), Counter::Denied);
        world.dataplane.decide(VerdictKey::REST, rest(5), ALLOW);
        world.expect(From::Client, &syn(world), Counter::ToPod);
        world.dataplane.classify((client, host), 6);
        world.expect(From::Client, &syn(world), Counter::Denied);
        world.dataplane.decide(VerdictKey::REST, rest(6), ALLOW);
        world.expect(From::Client, &syn(world), Counter::ToPod);
    });
}

#[test]
fn a_class_with_entries_of_its_own_never_takes_those_of_any() {
    with_worlds(|world| {
        allow_all(world, CLIENT_EGRESS, EGRESS);
        allow_all(world, SERVER_INGRESS, INGRESS);
        let rest = VerdictKey { set: SERVER_INGRESS, class: 0, way: INGRESS, ..VerdictKey::default() };
        world.dataplane.decide(VerdictKey::REST, rest, ISOLATE);
        world.expect(From::Client, &syn(world), Counter::Denied);
    });
}

/// The request for an echo, or the answer.
fn echo(world: &World, is_request: bool) -> Packet {
    let (protocol, [request, answer]) = if world.is_ipv6 { (58, [128, 129]) } else { (1, [8, 0]) };
    let kind = if is_request { request } else { answer };
    Packet {
        payload: vec![kind, 0, 0, 0, 0, 7, 0, 1],
        ..Packet::new(protocol, (world.client.0, 0), (world.server.0, 0))
    }
}

#[test]
fn what_asks_for_something_new_is_dropped_when_policy_denies_it_and_counted_by_why() {
    with_worlds(|world| {
        allow_all(world, CLIENT_EGRESS, EGRESS);
        refuse(world);
        for packet in [syn(world), echo(world, true)] {
            world.expect(From::Client, &packet, Counter::Denied);
            world.expect(From::Client, &packet, Counter::Denied);
        }
        let ingress = Denial { by: denial::INGRESS, number: SERVER_INGRESS };
        assert_eq!(world.dataplane.denials(), [(ingress, 4)].into());
        // An answer to what the stack has looks like it.
        world.expect(From::Client, &datagram(world), Counter::NotAllowed);
        // An INIT of SCTP may be one of two that cross (RFC 9260 section 5.2.1).
        let sctp = Packet { payload: vec![1; 32], ..Packet::new(132, world.client, world.server) };
        for packet in [sctp, echo(world, false)] {
            assert_eq!(world.run(From::Client, &packet).counted, None);
        }
        world.expect(From::Client, &Packet { flags: ACK, ..syn(world) }, Counter::NoFlow);
        // Not while nobody knows.
        for (revision, flags) in [(3, 1), (2, 0)] {
            world.dataplane.control(revision, flags);
            for packet in [syn(world), echo(world, true)] {
                world.expect(From::Client, &packet, Counter::BeingWritten);
            }
        }
        world.dataplane.control(4, 1);
        // Nor from where it cannot come from.
        world.expect(From::Server, &echo(world, true), Counter::NotAllowed);

        // The opener's end is asked first.
        let of = |set, way| VerdictKey { set, class: ANY_CLASS, way, ..VerdictKey::default() };
        world.dataplane.decide(VerdictKey::REST, of(CLIENT_EGRESS, EGRESS), CLUSTER | 9);
        world.expect(From::Client, &syn(world), Counter::Denied);
        let cluster = Denial { by: denial::CLUSTER, number: 9 };
        assert_eq!(world.dataplane.denials(), [(ingress, 4), (cluster, 1)].into());
        // And what is to be told of is the stack's, whatever the other end says.
        world.dataplane.decide(VerdictKey::REST, of(CLIENT_EGRESS, EGRESS), TELL);
        world.expect(From::Client, &syn(world), Counter::NotAllowed);

        allow_all(world, CLIENT_EGRESS, EGRESS);
        allow_all(world, SERVER_INGRESS, INGRESS);
        world.expect(From::Client, &syn(world), Counter::ToPod);
        assert_eq!(world.run(From::Client, &echo(world, true)).counted, None, "the stack tracks it");
    });
}

#[test]
fn what_leaves_for_an_address_that_may_be_the_nodes_is_the_stacks_to_deny() {
    with_worlds(|world| {
        let any = VerdictKey { set: CLIENT_EGRESS, class: ANY_CLASS, way: EGRESS, ..VerdictKey::default() };
        let remote = Packet::tcp(world.client, world.remote, SYN);
        for denied in [ISOLATE, CLUSTER | 9] {
            world.dataplane.decide(VerdictKey::REST, any, denied);
            world.expect(From::Client, &remote, Counter::NotAllowed);
            world.expect(From::Client, &syn(world), Counter::Denied);
        }
        // What another node sends is for the pod.
        refuse(world);
        world.expect(From::Uplink, &Packet::tcp(world.remote, world.server, SYN), Counter::Denied);
    });
}

#[test]
fn a_first_syn_of_a_flow_that_the_stack_has_is_the_stacks_to_drop() {
    with_worlds(|world| {
        refuse(world);
        allow_all(world, CLIENT_EGRESS, EGRESS);
        world.stack_sends("to_pod", &syn(world));
        world.expect(From::Client, &syn(world), Counter::Stacked);
    });
}

#[test]
fn a_link_that_may_not_talk_yet_is_left_to_the_stack() {
    with_open_worlds(|world| {
        let server = world.ifindex(From::Server);
        world.dataplane.hash::<u32, Endpoint>("ENDPOINTS").remove(&server).unwrap();
        world.expect(From::Client, &syn(world), Counter::NotAllowed);
        world.expect(From::Server, &syn(world).answer(SYN), Counter::NotAllowed);
    });
}

#[test]
fn nobody_uses_the_address_of_another() {
    with_open_worlds(|world| {
        // A pod that of a local one, and that of a remote one.
        world.expect(From::Server, &syn(world), Counter::NotAllowed);
        world.expect(From::Client, &Packet::udp(world.remote, world.server), Counter::NotAllowed);
        // Another node that of a local pod.
        world.expect(From::Uplink, &datagram(world), Counter::NotAllowed);
        // Nor a flow of theirs that lives.
        let packet = connect(world);
        world.expect(From::Server, &packet, Counter::NotAllowed);
        world.expect(From::Uplink, &packet, Counter::NotAllowed);
        world.expect(From::Client, &packet.answer(ACK), Counter::NotAllowed);
        world.expect(From::Client, &packet, Counter::ToPod);

        let remote = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &remote, Counter::ToNode);
        world.expect(From::Server, &remote, Counter::NotAllowed);
        world.expect(From::Server, &remote.answer(0), Counter::NotAllowed);
        world.expect(From::Uplink, &remote.answer(0), Counter::ToPod);
        // A pod's packets to itself are none for the node.
        world.expect(From::Client, &Packet::udp(world.client, (world.client.0, 9)), Counter::NotAllowed);
    });
}

#[test]
fn no_flow_begins_while_the_maps_are_written_or_before_or_when_none_may() {
    with_open_worlds(|world| {
        for (revision, flags) in [(3, 1), (0, 1), (1, 1), (2, 0)] {
            world.dataplane.control(revision, flags);
            world.expect(From::Client, &syn(world), Counter::BeingWritten);
            world.expect(From::Client, &datagram(world), Counter::BeingWritten);
        }
        assert_eq!(world.dataplane.flow("EMBRYOS", tcp_key(world)), None);
        world.dataplane.control(2, 1);
        world.expect(From::Client, &syn(world), Counter::ToPod);
    });
}

#[test]
fn what_was_judged_before_holds_while_the_maps_are_written_and_is_judged_anew_then() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.dataplane.control(3, 1);
        world.expect(From::Client, &packet, Counter::ToPod);
        world.expect(From::Server, &packet.answer(ACK), Counter::ToPod);

        world.dataplane.control(4, 1);
        world.expect(From::Server, &packet.answer(ACK), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().revision, 4);
        world.dataplane.control(6, 0);
        world.expect(From::Client, &packet, Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().revision, 6);

        // Two revisions ago, and nobody can say now.
        world.dataplane.control(9, 1);
        world.expect(From::Client, &packet, Counter::BeingWritten);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().revision, 6);
    });
}

#[test]
fn what_is_no_more_allowed_ends_at_its_next_packet_whoever_sends_it() {
    with_open_worlds(|world| {
        for from_opener in [true, false] {
            world.dataplane.control(2, 1);
            allow_all(world, SERVER_INGRESS, INGRESS);
            let packet = connect(world);
            world.expect(From::Client, &datagram(world), Counter::ToPod);

            world.dataplane.control(3, 1);
            refuse(world);
            world.dataplane.control(4, 1);
            let sent = |packet: &Packet| {
                if from_opener { (From::Client, packet.clone()) } else { (From::Server, packet.answer(ACK)) }
            };
            for packet in [packet, datagram(world)] {
                let (from, packet) = sent(&packet);
                world.expect(from, &packet, Counter::NotAllowed);
            }
            assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)), None);
            assert_eq!(world.dataplane.flow("EMBRYOS", udp_key(world)), None);
        }
    });
}

#[test]
fn what_is_to_be_told_of_begins_with_the_stack_and_ends_no_flow() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.dataplane.control(3, 1);
        let all = VerdictKey { set: SERVER_INGRESS, class: ANY_CLASS, way: INGRESS, ..VerdictKey::default() };
        world.dataplane.decide(VerdictKey::REST, all, TELL);
        world.dataplane.control(4, 1);
        world.expect(From::Client, &packet, Counter::ToPod);
        world.expect(From::Server, &packet.answer(ACK), Counter::ToPod);
        for begins in [syn(world), datagram(world)] {
            world.expect(From::Client, &begins, Counter::NotAllowed);
        }
    });
}

#[test]
fn a_flow_whose_pod_is_not_known_for_a_while_goes_on_when_it_is_again() {
    with_open_worlds(|world| {
        let packet = connect(world);
        let server = world.server.0;
        let link = world.dataplane.take_address(server);
        world.dataplane.control(4, 1);
        // It could be elsewhere; no uplink leads there.
        world.expect(From::Client, &packet, Counter::Unroutable);
        world.dataplane.add_address(server, link);
        world.dataplane.control(6, 1);
        world.expect(From::Client, &packet, Counter::ToPod);
    });
}

#[test]
fn a_flow_is_judged_anew_with_the_links_that_its_pods_have_then() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.dataplane.control(3, 1);
        let (server, uplink) = (world.server.0, world.ifindex(From::Uplink));
        // Somebody else has the address now: its link is the uplink, for want of another.
        world.dataplane.add_pod(
            uplink,
            Endpoint { mtu: 1500, mac: [9; 6], ..Endpoint::default() },
            &[server],
        );
        world.dataplane.control(4, 1);
        let fate = world.expect(From::Client, &packet, Counter::ToPod);
        assert_eq!(fate.octets[..6], [9; 6]);
        world.expect(From::Server, &packet.answer(ACK), Counter::NotAllowed);
    });
}

#[test]
fn who_uses_the_addresses_of_a_flow_that_is_to_be_judged_anew_does_not_end_it() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.dataplane.control(4, 1);
        world.expect(From::Server, &packet, Counter::NotAllowed);
        world.expect(From::Uplink, &packet, Counter::NotAllowed);
        world.expect(From::Client, &packet, Counter::ToPod);
    });
}

fn refuse(world: &mut World) {
    let any = VerdictKey { set: SERVER_INGRESS, class: ANY_CLASS, way: INGRESS, ..VerdictKey::default() };
    world.dataplane.decide(VerdictKey::REST, any, ISOLATE);
}
