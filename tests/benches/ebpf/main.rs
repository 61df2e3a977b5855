//! What the programs of the eBPF dataplane cost a packet, in nanoseconds, without anything around them.
//!
//! `BPF_PROG_TEST_RUN` runs a program on one packet again and again. Each of its runs takes a hop from the packet, so it is
//! as many as a packet has hops, and many times that. Needs root and `make ebpf`: `make bench BENCH=ebpf`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run ends"
)]
#![expect(clippy::print_stdout, reason = "its result is its output")]
#![expect(dead_code, reason = "the tests use more of what they share with this")]

#[path = "../../tests/ebpf/dataplane.rs"]
mod dataplane;
#[path = "../../tests/ebpf/packet.rs"]
mod packet;
#[path = "../../tests/ebpf/sys.rs"]
mod sys;
#[path = "../../tests/ebpf/world.rs"]
mod world;

use std::net::{IpAddr, Ipv4Addr};

use aya::programs::{TestRun, TestRunOptions};
use margay_ebpf_common::verdict::{ALLOW, ANY_CLASS, EGRESS, INGRESS, VerdictKey};

use crate::{
    packet::{ACK, Packet, SYN},
    world::{CLIENT_EGRESS, From, SERVER_INGRESS, World, with_worlds},
};

/// Runs of one call, which is how many hops a packet has to lose, and calls.
const RUNS: u32 = 250;
const CALLS: usize = 2000;
/// Classes and addresses that the maps have beside those that count.
const OTHERS: u32 = 1000;

fn main() {
    println!("Nanoseconds of one packet, median (p99) of {CALLS} times {RUNS}:\n");
    println!("| packet | family | ns |\n| --- | --- | --- |");
    with_worlds(|world| {
        fill(world);
        let open = |world: &mut World, from, to, syn: &Packet| {
            assert!(world.run(from, syn).is_short);
            assert!(world.run(to, &syn.answer(SYN | ACK)).is_short);
            Packet { flags: ACK, hops: 255, ..syn.clone() }
        };
        let here = Packet::tcp(world.client, world.server, SYN);
        let away = Packet::tcp(world.client, world.remote, SYN);
        let of_here = open(world, From::Client, From::Server, &here);
        let of_away = open(world, From::Client, From::Uplink, &away);
        let first = Packet { ports: (1, 80), hops: 255, ..here };
        let out = Packet { hops: 255, ..Packet::tcp(world.client, world.outside, ACK) };
        for (what, from, packet) in [
            ("of a flow, to a pod of this node", From::Client, &of_here),
            ("of a flow, to another node", From::Client, &of_away),
            ("of a flow, from another node", From::Uplink, &of_away.answer(ACK)),
            ("first of a flow, to a pod of this node", From::Client, &first),
            ("from a pod to outside, left to the stack", From::Client, &out),
        ] {
            row(world, what, from, packet);
        }
        row_of(world, "of the stack to a pod, noted a moment ago", "to_pod", From::Server, &first);
    });
}

/// Policy sets that allow, and others that nobody here asks about.
fn fill(world: &mut World) {
    for (set, way) in [(CLIENT_EGRESS, EGRESS), (SERVER_INGRESS, INGRESS)] {
        for class in (100..100 + OTHERS).chain([ANY_CLASS]) {
            let key = VerdictKey { set, class, way, ..VerdictKey::default() };
            world.dataplane.decide(VerdictKey::REST, key, ALLOW);
        }
    }
    for number in 0..OTHERS {
        let address = IpAddr::V4(Ipv4Addr::from(0x0a03_0000 + number));
        world.dataplane.classify((address, 32), 100 + number);
        world.dataplane.classify((address, 31), 100 + number);
    }
}

fn row(world: &mut World, what: &str, from: From, packet: &Packet) {
    let program = if from == From::Uplink { "from_uplink" } else { "from_pod" };
    row_of(world, what, program, from, packet);
}

fn row_of(world: &mut World, what: &str, program: &str, from: From, packet: &Packet) {
    let octets = Packet { mac: world.mac(from), ..packet.clone() }.octets();
    let mut nanoseconds: Vec<u128> = (0..CALLS).map(|_| repeat(world, program, from, &octets)).collect();
    nanoseconds.sort_unstable();
    let family = if world.is_ipv6 { "IPv6" } else { "IPv4" };
    println!("| {what} | {family} | {} ({}) |", nanoseconds[CALLS / 2], nanoseconds[CALLS - CALLS / 100]);
}

/// How long one run takes.
fn repeat(world: &mut World, program: &str, at: From, octets: &[u8]) -> u128 {
    let context = world.context(at, 0);
    let options = TestRunOptions {
        data_in: Some(octets),
        ctx_in: Some(&context),
        repeat: RUNS,
        ..TestRunOptions::new()
    };
    world.dataplane.program(program).test_run(options).unwrap().duration.as_nanos()
}
