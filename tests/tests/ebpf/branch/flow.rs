//! How flows live and end.

use margay_ebpf_common::{
    counter::Counter,
    flow::{Flow, FlowKey, HIGH_FIN, LOW_FIN, OPENED_BY_HIGH, RESET, STACKED_TIMEOUT, Stacked},
};

use super::{connect, datagram, syn, tcp_key, udp_key, with_open_worlds};
use crate::{
    packet::{ACK, FIN, Packet, RST, SYN},
    world::{From, World, now},
};

const SECOND: u64 = 1_000_000_000;

#[test]
fn a_flow_is_an_embryo_until_its_other_end_answers() {
    with_open_worlds(|world| {
        world.expect(From::Client, &syn(world), Counter::ToPod);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        for key in [tcp_key(world), udp_key(world)] {
            let embryo = world.dataplane.flow("EMBRYOS", key).unwrap();
            assert_eq!((embryo.revision, embryo.state), (2, 0));
            assert_eq!(embryo.low.ifindex, world.ifindex(From::Client));
            assert_eq!(embryo.high.ifindex, world.ifindex(From::Server));
            assert_eq!(world.dataplane.flow("FLOWS", key), None);
        }
        world.expect(From::Server, &syn(world).answer(SYN | ACK), Counter::ToPod);
        world.expect(From::Server, &datagram(world).answer(0), Counter::ToPod);
        for key in [tcp_key(world), udp_key(world)] {
            assert!(world.dataplane.flow("FLOWS", key).is_some());
            assert_eq!(world.dataplane.flow("EMBRYOS", key), None);
        }
    });
}

#[test]
fn the_end_that_opens_is_noted_whichever_is_higher() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.server, (world.client.0, 53));
        world.expect(From::Server, &packet, Counter::ToPod);
        let key = crate::dataplane::key(17, world.server, (world.client.0, 53));
        assert_eq!(world.dataplane.flow("EMBRYOS", key).unwrap().state, OPENED_BY_HIGH);
        world.expect(From::Client, &packet.answer(0), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", key).unwrap().state, OPENED_BY_HIGH);
    });
}

#[test]
fn a_packet_of_tcp_that_opens_nothing_needs_a_flow() {
    with_open_worlds(|world| {
        for flags in [ACK, SYN | ACK, FIN | ACK, RST, 0] {
            world.expect(From::Client, &Packet { flags, ..syn(world) }, Counter::NoFlow);
        }
    });
}

#[test]
fn a_flow_that_the_stack_has_stays_there_until_it_is_long_silent() {
    with_open_worlds(|world| {
        for (key, packet) in [(tcp_key(world), syn(world)), (udp_key(world), datagram(world))] {
            // Its answer too.
            world.dataplane.hash("STACKED").insert(key, Stacked { seen: now() - SECOND }, 0).unwrap();
            world.expect(From::Client, &packet, Counter::Stacked);
            world.expect(From::Server, &packet.answer(ACK), Counter::Stacked);
            let stacked: Stacked = world.dataplane.hash("STACKED").get(&key, 0).unwrap();
            assert!(now() - stacked.seen < SECOND, "it is in use");
            if now() > STACKED_TIMEOUT + SECOND {
                world.dataplane.hash("STACKED").insert(key, Stacked { seen: 0 }, 0).unwrap();
                world.expect(From::Client, &packet, Counter::ToPod);
            }
        }
    });
}

#[test]
fn a_silent_flow_is_none() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        // Within its time, and seen.
        age(world, "FLOWS", tcp_key(world), 100 * SECOND, 0);
        world.expect(From::Client, &packet, Counter::ToPod);
        let flow = world.dataplane.flow("FLOWS", tcp_key(world)).unwrap();
        assert!(now() - flow.seen < SECOND);
        // Both ends have said all that they have to say.
        age(world, "FLOWS", tcp_key(world), 121 * SECOND, LOW_FIN | HIGH_FIN);
        world.expect(From::Client, &packet, Counter::NoFlow);
        age(world, "FLOWS", tcp_key(world), 121 * SECOND, RESET);
        world.expect(From::Client, &packet, Counter::NoFlow);
        age(world, "FLOWS", tcp_key(world), 121 * SECOND, LOW_FIN);
        world.expect(From::Client, &packet, Counter::ToPod);

        // An answer that comes too late begins a flow of its own, which policy is asked about.
        age(world, "EMBRYOS", udp_key(world), 31 * SECOND, 0);
        world.expect(From::Server, &datagram(world).answer(0), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", udp_key(world)), None);
        assert_eq!(world.dataplane.flow("EMBRYOS", udp_key(world)).unwrap().state, OPENED_BY_HIGH);
    });
}

#[test]
fn what_ends_a_connection_is_noted() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.expect(From::Client, &Packet { flags: FIN | ACK, ..packet.clone() }, Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().state, LOW_FIN);
        world.expect(From::Server, &packet.answer(FIN | ACK), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().state, LOW_FIN | HIGH_FIN);
        world.expect(From::Client, &packet, Counter::ToPod);
        world.expect(From::Server, &packet.answer(RST), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().state, LOW_FIN | HIGH_FIN | RESET);
        // A new connection of the same ends begins without all that.
        world.expect(From::Client, &syn(world), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)), None);
        assert_eq!(world.dataplane.flow("EMBRYOS", tcp_key(world)).unwrap().state, 0);
    });
}

#[test]
fn opening_a_live_connection_again_is_for_its_opener_alone() {
    with_open_worlds(|world| {
        connect(world);
        let before = world.dataplane.flow("FLOWS", tcp_key(world));
        world.expect(From::Server, &syn(world).answer(SYN), Counter::NoFlow);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)), before);
        world.expect(From::Client, &syn(world), Counter::ToPod);
        // Judged like the first.
        world.dataplane.control(3, 1);
        world.expect(From::Client, &syn(world), Counter::BeingWritten);
    });
}

#[test]
fn what_ends_a_flow_that_is_not_answered_yet_is_noted_too_and_that_it_is_in_use() {
    with_open_worlds(|world| {
        // Refused: such an entry is not to stay for as long as a connection.
        world.expect(From::Client, &syn(world), Counter::ToPod);
        world.expect(From::Server, &syn(world).answer(RST | ACK), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", tcp_key(world)).unwrap().state, RESET);

        world.expect(From::Client, &datagram(world), Counter::ToPod);
        age(world, "EMBRYOS", udp_key(world), 20 * SECOND, 0);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        assert!(now() - world.dataplane.flow("EMBRYOS", udp_key(world)).unwrap().seen < SECOND);
    });
}

#[test]
fn a_packet_for_which_its_flow_is_judged_anew_counts_like_any_other() {
    with_open_worlds(|world| {
        let packet = connect(world);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        age(world, "FLOWS", tcp_key(world), 20 * SECOND, 0);
        world.dataplane.control(4, 1);
        world.expect(From::Client, &Packet { flags: FIN | ACK, ..packet }, Counter::ToPod);
        let flow = world.dataplane.flow("FLOWS", tcp_key(world)).unwrap();
        assert_eq!((flow.state, flow.revision), (LOW_FIN, 4));
        assert!(now() - flow.seen < SECOND);
        // An answer, which makes it a flow of two ends.
        world.expect(From::Server, &datagram(world).answer(0), Counter::ToPod);
        assert_eq!(world.dataplane.flow("FLOWS", udp_key(world)).unwrap().revision, 4);
        assert_eq!(world.dataplane.flow("EMBRYOS", udp_key(world)), None);
    });
}

#[test]
fn a_flow_between_other_nodes_is_none_of_this_one() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.remote, world.server);
        world.expect(From::Uplink, &packet, Counter::ToPod);
        world.expect(From::Server, &packet.answer(0), Counter::ToNode);
        let key = crate::dataplane::key(17, world.remote, world.server);
        let mut flow = world.dataplane.flow("FLOWS", key).unwrap();
        // As if the pod were on another node, though nothing writes such an entry.
        (flow.low.ifindex, flow.high.ifindex) = (0, 0);
        world.dataplane.hash("FLOWS").insert(key, flow, 0).unwrap();
        world.expect(From::Uplink, &packet, Counter::NotAllowed);
    });
}

/// Makes a flow silent for so long, which needs a machine that has been up for longer.
fn age(world: &mut World, map: &str, key: FlowKey, silent: u64, state: u32) {
    let flow = world.dataplane.flow(map, key).unwrap();
    let seen = now().checked_sub(silent).expect("a machine that has been up for some minutes");
    world.dataplane.hash(map).insert(key, Flow { seen, state, ..flow }, 0).unwrap();
}
