//! Each branch of the programs, one packet at a time.

mod flow;
mod judge;
mod note;
mod parse;
mod tell;
mod tunnel;
mod way;

use margay_ebpf_common::{
    counter::Counter,
    flow::{FlowKey, TCP, UDP},
    verdict::{ALLOW, ANY_CLASS, EGRESS, INGRESS, VerdictKey},
};

use crate::{
    dataplane::key,
    packet::{ACK, Packet, SYN},
    world::{CLIENT_EGRESS, From, SERVER_INGRESS, World, with_worlds},
};

/// Runs a test where policy allows everything.
pub(crate) fn with_open_worlds(test: impl Fn(&mut World) + Sync) {
    with_worlds(|world| {
        allow_all(world, CLIENT_EGRESS, EGRESS);
        allow_all(world, SERVER_INGRESS, INGRESS);
        test(world);
    });
}

fn allow_all(world: &mut World, set: u32, way: u8) {
    let any = VerdictKey { set, class: ANY_CLASS, way, ..VerdictKey::default() };
    world.dataplane.decide(VerdictKey::REST, any, ALLOW);
}

/// What asks for a connection of the two pods.
fn syn(world: &World) -> Packet {
    Packet::tcp(world.client, world.server, SYN)
}

fn datagram(world: &World) -> Packet {
    Packet::udp(world.client, world.server)
}

fn tcp_key(world: &World) -> FlowKey {
    key(TCP, world.client, world.server)
}

fn udp_key(world: &World) -> FlowKey {
    key(UDP, world.client, world.server)
}

/// Opens a connection between the two pods; returns a packet of its opener.
fn connect(world: &mut World) -> Packet {
    let syn = syn(world);
    world.expect(From::Client, &syn, Counter::ToPod);
    world.expect(From::Server, &syn.answer(SYN | ACK), Counter::ToPod);
    Packet { flags: ACK, ..syn }
}
