//! Who listens is told of flows that begin.

use aya::maps::RingBuf;
use margay_ebpf_common::{
    control::{ADMITS, TELLS},
    counter::Counter,
    event::OCTETS,
    flow::FlowKey,
};

use super::{connect, datagram, syn, tcp_key, udp_key, with_open_worlds};
use crate::{
    packet::{ACK, Packet, SYN},
    world::{From, World},
};

/// The octets of the events since this was last asked.
fn told(world: &mut World) -> Vec<Vec<u8>> {
    let map = world.dataplane.ebpf.map_mut("EVENTS").unwrap();
    let mut ring: RingBuf<_> = map.try_into().unwrap();
    let mut events = Vec::new();
    while let Some(event) = ring.next() {
        events.push(event.to_vec());
    }
    events
}

fn is_of(event: &[u8], key: FlowKey) -> bool {
    event[8..24] == key.low.0
        && event[24..40] == key.high.0
        && event[40..42] == key.low_port
        && event[42..44] == key.high_port
        && event[44] == key.protocol
}

#[test]
fn a_flow_is_told_of_when_it_begins_and_somebody_listens() {
    with_open_worlds(|world| {
        let packet = connect(world);
        assert_eq!(told(world).len(), 0, "nobody listens");
        world.dataplane.control(2, ADMITS | TELLS);
        world.expect(From::Client, &packet, Counter::ToPod);
        world.expect(From::Server, &packet.answer(ACK), Counter::ToPod);
        assert_eq!(told(world).len(), 0, "it had begun");
        world.expect(From::Client, &syn(world), Counter::ToPod);
        world.expect(From::Server, &syn(world).answer(SYN | ACK), Counter::ToPod);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        let events = told(world);
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(is_of(&events[0], tcp_key(world)) && is_of(&events[1], udp_key(world)), "{events:?}");
        let number = |at: usize| u32::from_ne_bytes(events[0][at..at + 4].try_into().unwrap());
        assert_eq!(number(48), world.ifindex(From::Client));
        assert_eq!(number(52), world.ifindex(From::Server));
        assert_eq!((number(56), number(60)), (2, 0));
        // What the stack is to begin is not told of here.
        world.dataplane.control(2, TELLS);
        world.expect(From::Client, &syn(world), Counter::BeingWritten);
        assert_eq!(told(world).len(), 0);
    });
}

#[test]
fn what_finds_no_room_is_counted_and_takes_the_short_way_all_the_same() {
    with_open_worlds(|world| {
        world.dataplane.control(2, ADMITS | TELLS);
        // An event has sixty-four octets, and the kernel puts eight before it.
        let room = u64::from(OCTETS / 72);
        let flows = room + 100;
        for port in 0..flows {
            let from = (world.client.0, 1024 + u16::try_from(port).unwrap());
            world.expect(From::Client, &Packet::tcp(from, world.server, SYN), Counter::ToPod);
        }
        let events = u64::try_from(told(world).len()).unwrap();
        assert!((room - 1..=room).contains(&events), "{events}");
        assert_eq!(world.dataplane.untold(), flows - events);
        world.expect(From::Client, &syn(world), Counter::ToPod);
        assert_eq!(told(world).len(), 1, "there is room again");
    });
}
