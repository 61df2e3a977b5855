//! Full tables of flows: what was silent longest goes, and nothing that is in use.

use margay_ebpf_common::{
    counter::Counter,
    flow::TCP,
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

fn ends(world: &World, number: u32) -> ((std::net::IpAddr, u16), (std::net::IpAddr, u16)) {
    let packet = syn(world, number);
    ((packet.source, packet.ports.0), (packet.destination, packet.ports.1))
}
