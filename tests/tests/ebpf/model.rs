//! Whatever is in the maps: the short way is taken by exactly those packets that a plain model of the judgement allows, and none are dropped
//! but those that it denies.

use std::net::IpAddr;

use margay_ebpf_common::{
    address::Address,
    counter::Counter,
    endpoint::{Endpoint, PEER},
    flow::{Flow, FlowKey, TCP, UDP},
    verdict::{ALLOW, ANY_CLASS, CLUSTER, EGRESS, INGRESS, ISOLATE, NO_CLASS, TELL, VerdictKey},
};
use proptest::{collection::vec, option, prelude::*, test_runner::TestRunner};

use crate::{
    dataplane::key,
    packet::{ACK, Packet, SYN},
    world::{From, World, with_worlds},
};

/// One state of the maps.
#[derive(Debug, Clone)]
struct Policy {
    /// The links that may talk: policy sets for ingress and egress; 0: none.
    client: Option<(u32, u32)>,
    server: Option<(u32, u32)>,
    /// Party, bits of its address, class.
    classes: Vec<(Party, u32, u32)>,
    verdicts: Vec<(u32, VerdictKey, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    Client,
    Server,
    Remote,
    Outside,
}

/// What is asked about.
#[derive(Debug, Clone, Copy)]
struct Flowing {
    source: Party,
    destination: Party,
    protocol: u8,
    port: u16,
}

/// A packet that may open a flow, and what comes of it when the maps have changed.
#[derive(Debug, Clone)]
struct Sent {
    from: From,
    source: Party,
    destination: Party,
    protocol: u8,
    port: u16,
    /// Whether the later packet is an answer, and from where.
    answer: Option<From>,
}

impl Sent {
    const fn flow(&self) -> Flowing {
        let Self { source, destination, protocol, port, .. } = *self;
        Flowing { source, destination, protocol, port }
    }
}

fn parties() -> impl Strategy<Value = Party> {
    prop_oneof![
        4 => Just(Party::Client),
        4 => Just(Party::Server),
        2 => Just(Party::Remote),
        1 => Just(Party::Outside)
    ]
}

fn links() -> impl Strategy<Value = From> {
    prop_oneof![Just(From::Client), Just(From::Server), Just(From::Uplink)]
}

fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![Just(80), Just(81), Just(88), Just(53), Just(40000)]
}

fn policies() -> impl Strategy<Value = Policy> {
    let sets = || option::weighted(0.95, (0..3_u32, 0..3_u32));
    let class = || prop_oneof![4 => 0..4_u32, 3 => Just(ANY_CLASS)];
    let verdict =
        (1..3_u32, class(), 0..2_u8, prop_oneof![Just(TCP), Just(UDP)], ports(), 0..4_u32, rulings())
            .prop_map(|(set, class, way, protocol, port, bits, ruling)| {
                let port = port.to_be_bytes();
                let key = VerdictKey { set, class, way, protocol, port };
                let bits = [VerdictKey::REST, VerdictKey::REST + 8, VerdictKey::PORT - 3, VerdictKey::PORT]
                    [bits as usize];
                (bits, key, ruling)
            });
    let classes = vec((parties(), prop_oneof![Just(8_u32), Just(12), Just(30), Just(32)], 0..4_u32), 0..6);
    (sets(), sets(), classes, vec(verdict, 0..24)).prop_map(|(client, server, classes, verdicts)| Policy {
        client,
        server,
        classes,
        verdicts,
    })
}

fn rulings() -> impl Strategy<Value = u32> {
    prop_oneof![6 => Just(ALLOW), 2 => Just(ISOLATE), 1 => Just(CLUSTER | 7), 1 => Just(TELL)]
}

fn packets() -> impl Strategy<Value = Sent> {
    // Most from where their sources are.
    let ends = (parties(), parties(), prop_oneof![4 => Just(None), 1 => links().prop_map(Some)]);
    (ends, prop_oneof![Just(TCP), Just(UDP)], ports(), any::<bool>(), option::weighted(0.1, links()))
        .prop_map(|((source, destination, elsewhere), protocol, port, is_answered, other)| Sent {
            from: elsewhere.unwrap_or(home(source)),
            source,
            destination,
            protocol,
            port,
            answer: is_answered.then(|| other.unwrap_or(home(destination))),
        })
}

const fn home(party: Party) -> From {
    match party {
        Party::Client => From::Client,
        Party::Server => From::Server,
        Party::Remote | Party::Outside => From::Uplink,
    }
}

impl Policy {
    /// Writes it to the maps, from which what was there is taken.
    fn write(&self, world: &mut World, before: Option<&Self>) {
        for (link, sets) in [(From::Client, self.client), (From::Server, self.server)] {
            let ifindex = world.ifindex(link);
            let mut map = world.dataplane.hash::<u32, Endpoint>("ENDPOINTS");
            match sets {
                Some((ingress, egress)) => {
                    let endpoint =
                        Endpoint { ingress, egress, flags: PEER, mtu: 1500, ..Endpoint::default() };
                    map.insert(ifindex, endpoint, 0).unwrap();
                }
                // It may be gone already.
                None => drop(map.remove(&ifindex)),
            }
        }
        if let Some(before) = before {
            for (bits, key, _) in &before.verdicts {
                world.dataplane.forget_verdict(*bits, *key);
            }
            for (party, bits, _) in &before.classes {
                let network = before.network(world, *party, *bits);
                world.dataplane.forget_class(network);
            }
        }
        for (bits, key, verdict) in &self.verdicts {
            world.dataplane.decide(*bits, *key, *verdict);
        }
        for (party, bits, class) in &self.classes {
            let network = self.network(world, *party, *bits);
            world.dataplane.classify(network, *class);
        }
    }

    #[expect(clippy::unused_self, reason = "reads like the others")]
    fn network(&self, world: &World, party: Party, bits: u32) -> (IpAddr, u32) {
        let bits = match (world.is_ipv6, bits) {
            (false, bits) => bits,
            (true, 32) => 128,
            (true, bits) => bits + 4,
        };
        (address(world, party), bits)
    }

    /// Whether it allows a flow; the ends are where they are.
    fn allows(&self, world: &World, flow: Flowing, has_begun: bool) -> bool {
        self.at_ends(world, flow)
            .into_iter()
            .all(|said| matches!(said, Some(ALLOW)) || has_begun && said == Some(TELL))
    }

    /// Whether it denies it at the end that is asked first of those that do not plainly allow it.
    fn denies(&self, world: &World, flow: Flowing) -> bool {
        let said = self.at_ends(world, flow);
        let first = said.into_iter().find(|said| *said != Some(ALLOW)).flatten();
        // What leaves may be for the node.
        flow.destination != Party::Remote && first.is_some_and(|it| it == ISOLATE || it & CLUSTER != 0)
    }

    /// What it says at each end, that of the sender first; `None` where it says nothing.
    fn at_ends(&self, world: &World, flow: Flowing) -> [Option<u32>; 2] {
        let Flowing { source, destination, protocol, port } = flow;
        let ends = [(source, destination, EGRESS), (destination, source, INGRESS)];
        ends.map(|(own, other, way)| {
            let sets = match own {
                Party::Client => self.client,
                Party::Server => self.server,
                Party::Remote | Party::Outside => return Some(ALLOW),
            };
            // Not without a link that may talk.
            let (ingress, egress) = sets?;
            let set = if way == INGRESS { ingress } else { egress };
            if set == 0 {
                return Some(ALLOW);
            }
            self.verdict(set, self.class(world, other), way, protocol, port)
        })
    }

    fn class(&self, world: &World, of: Party) -> u32 {
        let octets = Address::from(address(world, of)).0;
        let full = if world.is_ipv6 { 128 } else { 32 };
        let before = if world.is_ipv6 { 0 } else { 96 };
        // The last of the same prefix stands in the map.
        let found = self.classes.iter().filter_map(|(party, bits, class)| {
            let (address, bits) = self.network(world, *party, *bits);
            let is_own = bits == full;
            shares(&Address::from(address).0, &octets, before + bits).then_some((is_own, bits, *class))
        });
        found.max_by_key(|(is_own, bits, _)| (*is_own, *bits)).map_or(NO_CLASS, |(_, _, class)| class)
    }

    fn verdict(&self, set: u32, class: u32, way: u8, protocol: u8, port: u16) -> Option<u32> {
        for class in [class, ANY_CLASS] {
            let asked = octets(VerdictKey { set, class, way, protocol, port: port.to_be_bytes() });
            let found = self.verdicts.iter().filter(|(bits, key, _)| shares(&octets(*key), &asked, *bits));
            if let Some((_, _, verdict)) = found.max_by_key(|(bits, ..)| *bits) {
                return Some(*verdict);
            }
        }
        None
    }
}

fn octets(key: VerdictKey) -> Vec<u8> {
    let numbers = [key.set.to_ne_bytes(), key.class.to_ne_bytes()].concat();
    [numbers, vec![key.way, key.protocol], key.port.to_vec()].concat()
}

/// Whether two keys are of the same prefix.
fn shares(one: &[u8], other: &[u8], bits: u32) -> bool {
    (0..bits as usize).all(|bit| (one[bit / 8] ^ other[bit / 8]) & (0x80 >> (bit % 8)) == 0)
}

const fn address(world: &World, party: Party) -> IpAddr {
    match party {
        Party::Client => world.client.0,
        Party::Server => world.server.0,
        Party::Remote => world.remote.0,
        Party::Outside => world.outside.0,
    }
}

/// Whether the programs have anything to do with a packet: between two pods, of which one is here, from where it says.
fn is_between(from: From, source: Party, destination: Party) -> bool {
    let is_pod = |party| party != Party::Outside;
    let is_here = |party| matches!(party, Party::Client | Party::Server);
    is_pod(source)
        && is_pod(destination)
        && source != destination
        && home(source) == from
        && (is_here(source) || is_here(destination))
}

#[test]
fn the_short_way_is_for_what_policy_allows_and_for_nothing_else() {
    with_worlds(|world| {
        let mut runner =
            TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() });
        let last = std::cell::RefCell::new((world, None::<Policy>));
        runner
            .run(&(policies(), policies(), vec(packets(), 1..6)), |(first, second, packets)| {
                let (world, before) = &mut *last.borrow_mut();
                check(world, before, &first, &second, &packets);
                *before = Some(second);
                Ok(())
            })
            .unwrap();
    });
}

fn check(world: &mut World, before: &mut Option<Policy>, first: &Policy, second: &Policy, packets: &[Sent]) {
    world.dataplane.control(2, 1);
    first.write(world, before.as_ref());
    *before = Some(first.clone());
    let mut lives = Vec::new();
    for (index, sent) in packets.iter().enumerate() {
        let fate = world.run(sent.from, &packet(world, index, sent));
        let is_between = is_between(sent.from, sent.source, sent.destination);
        let expected = is_between && first.allows(world, sent.flow(), false);
        assert_eq!(fate.is_short, expected, "{sent:?}: {fate:?}");
        // A datagram may be an answer.
        let is_dropped = is_between && sent.protocol == TCP && first.denies(world, sent.flow());
        assert_eq!(fate.counted == Some(Counter::Denied), is_dropped, "{sent:?}: {fate:?}");
        lives.push(expected);
    }
    world.dataplane.control(3, 1);
    second.write(world, Some(first));
    *before = Some(second.clone());
    world.dataplane.control(4, 1);
    for (index, (sent, lives)) in packets.iter().zip(lives).enumerate() {
        let opening = packet(world, index, sent);
        let (from, later) = match sent.answer {
            Some(from) => (from, opening.answer(if sent.protocol == TCP { SYN | ACK } else { 0 })),
            None => (sent.from, Packet { flags: ACK, ..opening.clone() }),
        };
        let (source, destination) = if sent.answer.is_some() {
            (sent.destination, sent.source)
        } else {
            (sent.source, sent.destination)
        };
        let is_allowed = if lives {
            second.allows(world, sent.flow(), true)
        } else {
            // What lives not begins, if it may: as whoever sends now begins it.
            let begins = Flowing { source, destination, protocol: UDP, port: later.ports.1 };
            sent.protocol == UDP && second.allows(world, begins, false)
        };
        let fate = world.run(from, &later);
        let expected = is_between(from, source, destination) && is_allowed;
        assert_eq!(fate.is_short, expected, "{sent:?}, later: {fate:?}");
        assert_ne!(fate.counted, Some(Counter::Denied), "{sent:?}, later: it begins nothing");
    }
    for (index, sent) in packets.iter().enumerate() {
        let opening = packet(world, index, sent);
        let of =
            key(sent.protocol, (opening.source, opening.ports.0), (opening.destination, opening.ports.1));
        for map in ["FLOWS", "EMBRYOS"] {
            // Most are in one of the two, or in none.
            drop(world.dataplane.hash::<FlowKey, Flow>(map).remove(&of));
        }
    }
}

/// No two of one case are of one flow.
fn packet(world: &World, index: usize, sent: &Sent) -> Packet {
    let source = (address(world, sent.source), 1000 + u16::try_from(index).unwrap());
    let destination = (address(world, sent.destination), sent.port);
    Packet { flags: SYN, ..Packet::new(sent.protocol, source, destination) }
}
