//! Full tables of flows: what was silent longest goes, and nothing that is in use.

use margay_ebpf_common::{
    counter::Counter,
    flow::{TCP, UDP},
    verdict::{ALLOW, ANY_CLASS, EGRESS, INGRESS, VerdictKey},
};

use nix::{
    sched::{CpuSet, sched_getcpu, sched_setaffinity},
    unistd::Pid,
};

use crate::{
    dataplane::{ENTRIES, key},
    packet::{ACK, Packet, SYN},
    world::{CLIENT_EGRESS, From, SERVER_INGRESS, World, with_worlds},
};

/// Connections that are used all the time.
const BUSY: u32 = 64;
/// How many others begin between two packets of each of them.
const BETWEEN: u32 = 256;

fn with_open_worlds(test: impl Fn(&mut World) + Sync) {
    with_worlds(|world| {
        stay();
        for (set, way) in [(CLIENT_EGRESS, EGRESS), (SERVER_INGRESS, INGRESS)] {
            let any = VerdictKey { set, class: ANY_CLASS, way, ..VerdictKey::default() };
            world.dataplane.decide(VerdictKey::REST, any, ALLOW);
        }
        test(world);
    });
}

/// Has the thread stay on its processor. Each has the newest of its entries to itself, a hundred or so, and passes them on as it makes others
/// (`bpf_lru_list.c`): of a thread that has moved they would stay behind, however old they become.
fn stay() {
    let mut here = CpuSet::new();
    here.set(sched_getcpu().unwrap()).unwrap();
    sched_setaffinity(Pid::from_raw(0), &here).unwrap();
}

/// The first packet of a connection of the two pods: no two numbers have the same ports.
fn syn(world: &World, number: u32) -> Packet {
    let port = |number: u32| u16::try_from(1024 + number).unwrap();
    let (client, server) = (port(number % 50_000), port(number / 50_000));
    Packet::tcp((world.client.0, client), (world.server.0, server), SYN)
}

fn connect(world: &mut World, number: u32) {
    let syn = syn(world, number);
    world.expect(From::Client, &syn, Counter::ToPod);
    world.expect(From::Server, &syn.answer(SYN | ACK), Counter::ToPod);
}

/// A packet of an open connection.
fn later(world: &World, number: u32) -> Packet {
    Packet { flags: ACK, ..syn(world, number) }
}

fn use_busy(world: &mut World) {
    for number in 0..BUSY {
        world.expect(From::Client, &later(world, number), Counter::ToPod);
    }
}

#[test]
fn a_full_table_ends_what_was_silent_longest_and_new_connections_and_busy_ones_live() {
    with_open_worlds(|world| {
        for number in 0..BUSY {
            connect(world, number);
        }
        // Twice as many as there is room for.
        let last = BUSY + 2 * ENTRIES;
        for number in BUSY..last {
            connect(world, number);
            if number % BETWEEN == 0 {
                use_busy(world);
            }
        }
        use_busy(world);
        // The newest, and the oldest of those that were silent.
        for number in last - BETWEEN..last {
            world.expect(From::Client, &later(world, number), Counter::ToPod);
        }
        for number in BUSY..BUSY + BETWEEN {
            world.expect(From::Client, &later(world, number), Counter::NoFlow);
            // Whoever begins again is let in.
            connect(world, number);
        }
    });
}

#[test]
fn a_flood_of_first_packets_ends_no_connection() {
    with_open_worlds(|world| {
        for number in 0..BUSY {
            connect(world, number);
        }
        // Silent ones too.
        let flood = 10_000..10_000 + 2 * ENTRIES;
        for number in flood.clone() {
            world.expect(From::Client, &syn(world, number), Counter::ToPod);
        }
        for number in 0..BUSY {
            let key = key(TCP, ends(world, number).0, ends(world, number).1);
            assert!(world.dataplane.flow("FLOWS", key).is_some(), "{number}");
        }
        use_busy(world);
        let first = key(TCP, ends(world, flood.start).0, ends(world, flood.start).1);
        assert_eq!(world.dataplane.flow("EMBRYOS", first), None, "the table was full");
        // In the middle of the flood a connection is opened, as its answer comes before so many others.
        connect(world, flood.end);
        world.expect(From::Client, &later(world, flood.end), Counter::ToPod);
    });
}

/// A datagram of the two pods, of a flow of its own for each number.
fn datagram(world: &World, number: u32) -> Packet {
    let (client, server) = ends(world, number);
    Packet::udp(client, server)
}

fn is_stacked(world: &mut World, number: u32) -> bool {
    let (client, server) = ends(world, number);
    world.dataplane.is_stacked(key(UDP, client, server))
}

#[test]
fn a_full_table_of_the_stacks_flows_forgets_what_was_silent_longest_which_is_then_judged_as_a_flow_of_its_own()
 {
    with_open_worlds(|world| {
        let answers = |world: &mut World, counted| {
            for number in 0..BUSY {
                world.expect(From::Server, &datagram(world, number).answer(0), counted);
            }
        };
        // As if a Service had translated them.
        let last = BUSY + 2 * ENTRIES;
        for number in 0..last {
            world.stack_sends("to_pod", &datagram(world, number));
            if number >= BUSY && number % BETWEEN == 0 {
                answers(world, Counter::Stacked);
            }
        }
        answers(world, Counter::Stacked);
        for number in last - BETWEEN..last {
            world.expect(From::Server, &datagram(world, number).answer(0), Counter::Stacked);
        }
        for number in BUSY..BUSY + BETWEEN {
            assert!(!is_stacked(world, number), "{number}");
            world.expect(From::Server, &datagram(world, number).answer(0), Counter::ToPod);
            // The stack has it again once it has sent a packet of it.
            world.stack_sends("to_pod", &datagram(world, number));
            world.expect(From::Server, &datagram(world, number).answer(0), Counter::Stacked);
        }
        answers(world, Counter::Stacked);
    });
}

/// A fragment of the packet of this number, of the one flow that there is: its first, or its last.
fn fragment(world: &World, number: u32, is_first: bool) -> Packet {
    let identification = u16::try_from(number).unwrap();
    let (offset, more) = if is_first { (0, 1) } else { (1, 0) };
    let whole = Packet { payload: vec![7; 16], ..datagram(world, 0) };
    if world.is_ipv6 {
        let [i0, i1] = identification.to_be_bytes();
        Packet { extensions: vec![(44, vec![0, 0, 0, offset << 3 | more, 0, 0, i0, i1])], ..whole }
    } else {
        let word = u16::from(more) << 13 | u16::from(offset);
        Packet { fragment: (identification, word), ..whole }
    }
}

#[test]
fn a_full_table_of_fragments_leaves_the_rest_of_the_oldest_packets_to_the_stack_and_no_newer_ones() {
    with_open_worlds(|world| {
        // So many packets lack their last fragment.
        let last = 2 * ENTRIES;
        for number in 0..last {
            world.expect(From::Client, &fragment(world, number, true), Counter::ToPod);
            // Fragments that come one behind the other all go the same way, however full it is.
            if number % BETWEEN == 0 {
                world.expect(From::Client, &fragment(world, number, false), Counter::ToPod);
            }
        }
        for number in last - BETWEEN..last {
            world.expect(From::Client, &fragment(world, number, false), Counter::ToPod);
        }
        for number in 1..BETWEEN {
            world.expect(From::Client, &fragment(world, number, false), Counter::NoFlow);
        }
        // The flow itself is none the worse, nor is a packet that its sender begins again.
        world.expect(From::Client, &datagram(world, 0), Counter::ToPod);
        world.expect(From::Client, &fragment(world, 1, true), Counter::ToPod);
        world.expect(From::Client, &fragment(world, 1, false), Counter::ToPod);
    });
}

fn ends(world: &World, number: u32) -> ((std::net::IpAddr, u16), (std::net::IpAddr, u16)) {
    let packet = syn(world, number);
    ((packet.source, packet.ports.0), (packet.destination, packet.ports.1))
}
