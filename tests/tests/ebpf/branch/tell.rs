//! Who listens is told of flows that begin.

use aya::maps::RingBuf;
use margay_ebpf_common::{
    control::{ADMITS, TELLS_DENIALS, TELLS_FLOWS},
    counter::{Counter, UNTOLD, UNTOLD_DENIALS},
    denial::{self, Denial},
    event::{OCTETS, Told},
    flow::FlowKey,
    verdict::{ANY_CLASS, INGRESS, ISOLATE, VerdictKey},
};

use super::{connect, datagram, syn, tcp_key, udp_key, with_open_worlds};
use crate::{
    packet::{ACK, Packet, SYN},
    world::{From, SERVER_INGRESS, World},
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
        world.dataplane.control(2, ADMITS | TELLS_FLOWS);
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
        world.dataplane.control(2, TELLS_FLOWS);
        world.expect(From::Client, &syn(world), Counter::BeingWritten);
        assert_eq!(told(world).len(), 0);
    });
}

#[test]
fn a_packet_that_is_dropped_is_told_of_when_somebody_listens_to_such() {
    with_open_worlds(|world| {
        let any = VerdictKey { set: SERVER_INGRESS, class: ANY_CLASS, way: INGRESS, ..VerdictKey::default() };
        world.dataplane.decide(VerdictKey::REST, any, ISOLATE);
        world.dataplane.control(4, ADMITS | TELLS_FLOWS);
        world.expect(From::Client, &syn(world), Counter::Denied);
        assert_eq!(told(world).len(), 0, "to flows alone");
        world.dataplane.control(4, ADMITS | TELLS_DENIALS);
        world.expect(From::Client, &syn(world), Counter::Denied);
        let events = told(world);
        assert_eq!(events.len(), 1, "{events:?}");
        let event = Told::from_octets(&events[0]).unwrap();
        let (client, server) = (world.ifindex(From::Client), world.ifindex(From::Server));
        assert_eq!((event.key, event.low_ifindex, event.high_ifindex), (tcp_key(world), client, server));
        assert_eq!(
            event.key.opened(event.state).map(|(_, port)| u16::from_be_bytes(port)),
            [world.client.1, world.server.1]
        );
        assert_eq!(event.denial, Denial { by: denial::INGRESS, number: SERVER_INGRESS });
        assert!(event.is_denied() && event.revision == 4, "{event:?}");
        // What finds no room is counted apart from flows.
        let room = u64::from(OCTETS / 80);
        for _ in 0..room + 5 {
            world.expect(From::Client, &syn(world), Counter::Denied);
        }
        let told = u64::try_from(told(world).len()).unwrap();
        assert_eq!([UNTOLD, UNTOLD_DENIALS].map(|index| world.dataplane.untold(index)), [0, room + 5 - told]);
    });
}

#[test]
fn what_finds_no_room_is_counted_and_takes_the_short_way_all_the_same() {
    with_open_worlds(|world| {
        world.dataplane.control(2, ADMITS | TELLS_FLOWS);
        // An event has seventy-two octets, and the kernel puts eight before it.
        let room = u64::from(OCTETS / 80);
        let flows = room + 100;
        for port in 0..flows {
            let from = (world.client.0, 1024 + u16::try_from(port).unwrap());
            world.expect(From::Client, &Packet::tcp(from, world.server, SYN), Counter::ToPod);
        }
        let events = u64::try_from(told(world).len()).unwrap();
        assert!((room - 1..=room).contains(&events), "{events}");
        assert_eq!(world.dataplane.untold(UNTOLD), flows - events);
        world.expect(From::Client, &syn(world), Counter::ToPod);
        assert_eq!(told(world).len(), 1, "there is room again");
    });
}
