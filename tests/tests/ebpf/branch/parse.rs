//! What the programs read, and what they leave to the stack.

use margay_ebpf_common::{
    counter::Counter,
    flow::{TCP, UDP},
};

use super::{connect, datagram, syn, with_open_worlds};
use crate::{
    packet::{ACK, Packet, SYN},
    world::{From, World},
};

#[test]
fn a_packet_that_ends_too_early_is_the_stacks_wherever_it_ends() {
    with_open_worlds(|world| {
        let connection = connect(world);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        let network = if world.is_ipv6 { 54 } else { 34 };
        for packet in [connection, datagram(world)] {
            let mut octets = packet.octets();
            octets[..6].copy_from_slice(&world.mac(From::Client));
            assert_eq!(world.run_octets(From::Client, &octets, 0).counted, Some(Counter::ToPod));
            for length in 14..octets.len() {
                // The kernel itself refuses what is not even a whole IP header.
                let fate = world.try_octets(From::Client, &octets[..length]);
                let is_stacks = fate.as_ref().is_some_and(|fate| fate.counted == Some(Counter::Unparsed));
                assert!(is_stacks || (fate.is_none() && length < network), "{length} octets: {fate:?}");
            }
            // What comes after the packet is padding.
            let padded = [octets.clone(), vec![0; 30]].concat();
            assert_eq!(world.run_octets(From::Client, &padded, 0).counted, Some(Counter::ToPod));
        }
    });
}

#[test]
fn a_malformed_header_is_the_stacks() {
    with_open_worlds(|world| {
        let connection = connect(world);
        let transport = if world.is_ipv6 { 54 } else { 34 };
        let mut cases = vec![
            // The version says otherwise than the frame.
            (14, 0x05),
            (14, 0x95),
            // TCP's header is shorter than it can be, or longer than the packet.
            (transport + 12, 0x40),
            (transport + 12, 0xf0),
        ];
        if world.is_ipv6 {
            // Length: a jumbogram, or too long.
            cases.extend([(18, 0x70)]);
        } else {
            // A header of 16 octets; lengths that are too long and too short.
            cases.extend([(14, 0x44), (16, 0x70)]);
        }
        for (at, octet) in cases {
            let mut octets = connection.octets();
            octets[..6].copy_from_slice(&world.mac(From::Client));
            octets[at] = octet;
            assert_eq!(
                world.run_octets(From::Client, &octets, 0).counted,
                Some(Counter::Unparsed),
                "{at}: {octet:#x}"
            );
        }
        let (at, length) = if world.is_ipv6 { (18, 0) } else { (16, 19) };
        let mut octets = connection.octets();
        octets[..6].copy_from_slice(&world.mac(From::Client));
        octets[at] = 0;
        octets[at + 1] = length;
        assert_eq!(world.run_octets(From::Client, &octets, 0).counted, Some(Counter::Unparsed));
    });
}

/// Segments of TCP that are to be cut apart, of which the IP header has no length: the octets before it, and from it on.
fn large(world: &World, packet: &Packet, before: Option<[u8; 8]>) -> Vec<u8> {
    let packet = Packet { mac: world.mac(From::Client), ..packet.clone() };
    if !world.is_ipv6 {
        let mut octets = packet.octets();
        octets[16..18].fill(0);
        return octets;
    }
    let extensions = before.map(|header| (0, header.to_vec())).into_iter().collect();
    let mut octets = Packet { extensions, ..packet }.octets();
    octets[18..20].fill(0);
    if before.is_some() {
        let length = u32::try_from(octets.len() - 54).unwrap();
        octets[58..62].copy_from_slice(&length.to_be_bytes());
    }
    octets
}

#[test]
fn segments_without_a_length_of_them_all_take_the_short_way_if_each_fits() {
    with_open_worlds(|world| {
        let packet = Packet { payload: vec![1; 3000], ..connect(world) };
        let most = if world.is_ipv6 { 1440 } else { 1460 };
        let jumbo = [0, 0, 0xc2, 4, 0, 0, 0, 0];
        // Linux is about to leave the header away.
        for before in if world.is_ipv6 { vec![Some(jumbo), None] } else { vec![None] } {
            let octets = large(world, &packet, before);
            for (segment, counted) in
                [(100, Counter::ToPod), (most, Counter::ToPod), (most + 1, Counter::Unroutable)]
            {
                let fate = world.run_octets(From::Client, &octets, segment);
                assert_eq!(fate.counted, Some(counted), "segments of {segment}");
                if fate.is_short {
                    let hops = if world.is_ipv6 { 21 } else { 22 };
                    assert_eq!(fate.octets[hops], 63);
                    let rest = if world.is_ipv6 { 22 } else { 26 };
                    assert_eq!(
                        (&fate.octets[14..hops], &fate.octets[rest..]),
                        (&octets[14..hops], &octets[rest..])
                    );
                }
            }
            // What is one packet has a length.
            assert_eq!(world.run_octets(From::Client, &octets, 0).counted, Some(Counter::Unparsed));
            // All of the header of TCP has to be there.
            let transport = if before.is_some() {
                62
            } else if world.is_ipv6 {
                54
            } else {
                34
            };
            for length in [transport + 1, transport + 19] {
                let mut cut = octets[..length].to_vec();
                if before.is_some() {
                    cut[58..62].copy_from_slice(&u32::try_from(length - 54).unwrap().to_be_bytes());
                }
                assert_eq!(
                    world.run_octets(From::Client, &cut, 100).counted,
                    Some(Counter::Unparsed),
                    "{length}"
                );
            }
        }
    });
}

#[test]
fn segments_with_another_header_than_that_of_their_length_are_the_stacks() {
    with_open_worlds(|world| {
        if !world.is_ipv6 {
            return;
        }
        let packet = Packet { payload: vec![1; 3000], ..connect(world) };
        let right = large(world, &packet, Some([0, 0, 0xc2, 4, 0, 0, 0, 0]));
        assert_eq!(world.run_octets(From::Client, &right, 1000).counted, Some(Counter::ToPod));
        // Another protocol, a longer header, another option, a shorter one, and lengths that are not that of the packet.
        for (at, octet) in [(54, UDP), (55, 1), (56, 1), (57, 3), (60, right[60] + 1), (61, right[61] - 1)] {
            let mut octets = right.clone();
            octets[at] = octet;
            let fate = world.run_octets(From::Client, &octets, 1000);
            assert_eq!(fate.counted, Some(Counter::Unparsed), "{at}: {octet:#x}");
        }
        // It ends within that header.
        let fate = world.run_octets(From::Client, &right[..61], 1000);
        assert_eq!(fate.counted, Some(Counter::Unparsed));
    });
}

/// The octets of a packet of the client, of which the IP header says that so many come after it.
fn shortened(world: &World, packet: &Packet, after: u8) -> Vec<u8> {
    let mut octets = Packet { mac: world.mac(From::Client), ..packet.clone() }.octets();
    let (at, length) = if world.is_ipv6 { (19, after) } else { (17, 20 + after) };
    octets[at - 1] = 0;
    octets[at] = length;
    octets
}

#[test]
fn a_packet_that_is_shorter_than_its_transports_header_is_the_stacks_whatever_stands_behind_it() {
    with_open_worlds(|world| {
        let connection = connect(world);
        world.expect(From::Client, &datagram(world), Counter::ToPod);
        for (packet, header) in [(connection, 20), (datagram(world), 8)] {
            for after in [1, 4, header - 1] {
                let octets = shortened(world, &packet, after);
                let fate = world.run_octets(From::Client, &octets, 0);
                assert_eq!(fate.counted, Some(Counter::Unparsed), "{after} of {header}");
            }
            let whole = shortened(world, &packet, header);
            assert_eq!(world.run_octets(From::Client, &whole, 0).counted, Some(Counter::ToPod));
        }
        // Less of ICMP than its header has.
        let protocol = if world.is_ipv6 { 58 } else { 1 };
        let error = Packet { protocol, payload: vec![3; 7], ..datagram(world) };
        world.expect(From::Client, &error, Counter::Unparsed);
    });
}

#[test]
fn headers_of_ipv6_that_end_too_early_are_the_stacks_wherever_they_end() {
    with_open_worlds(|world| {
        if !world.is_ipv6 {
            return;
        }
        let options = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        let fragment = (44, vec![0, 0, 0, 1, 0, 0, 0, 9]);
        for extensions in [vec![options.clone()], vec![options.clone(), fragment.clone()], vec![fragment]] {
            for packet in [syn(world), datagram(world)] {
                let packet = Packet { extensions: extensions.clone(), ..packet };
                world.expect(From::Client, &packet, Counter::ToPod);
                let header = if packet.protocol == TCP { 20 } else { 8 };
                let octets = Packet { mac: world.mac(From::Client), ..packet }.octets();
                for length in 55..54 + 8 * extensions.len() + header {
                    let mut cut = octets[..length].to_vec();
                    cut[19] = u8::try_from(length - 54).unwrap();
                    let fate = world.run_octets(From::Client, &cut, 0);
                    assert_eq!(fate.counted, Some(Counter::Unparsed), "{extensions:?}: {length}");
                }
            }
        }
    });
}

#[test]
fn a_frame_with_a_tag_is_nobodys() {
    with_open_worlds(|world| {
        let mut octets = datagram(world).octets();
        octets[..6].copy_from_slice(&world.mac(From::Client));
        octets.splice(12..12, [0x81, 0, 0, 5]);
        let fate = world.run_octets(From::Client, &octets, 0);
        assert_eq!((fate.is_short, fate.counted), (false, None));
    });
}

#[test]
fn options_and_headers_that_routers_look_at_are_the_stacks() {
    with_open_worlds(|world| {
        for packet in [connect(world), datagram(world)] {
            if world.is_ipv6 {
                let padding = vec![0, 0, 1, 4, 0, 0, 0, 0];
                for number in [0, 43] {
                    let packet = Packet { extensions: vec![(number, padding.clone())], ..packet.clone() };
                    world.expect(From::Client, &packet, Counter::Unparsed);
                }
            } else {
                for octets in [4, 40] {
                    let packet = Packet { options: vec![1; octets], ..packet.clone() };
                    world.expect(From::Client, &packet, Counter::Unparsed);
                }
            }
        }
    });
}

#[test]
fn addresses_of_ipv4_in_packets_of_ipv6_are_the_stacks() {
    with_open_worlds(|world| {
        if !world.is_ipv6 {
            return;
        }
        let mapped = "::ffff:10.0.0.1".parse().unwrap();
        let from = Packet::udp((mapped, 50000), world.server);
        let to = Packet::udp(world.client, (mapped, 50000));
        for packet in [from, to] {
            world.expect(From::Client, &packet, Counter::Unparsed);
        }
    });
}

#[test]
fn destination_options_are_walked_over_if_they_are_few() {
    with_open_worlds(|world| {
        if !world.is_ipv6 {
            return;
        }
        let short = (60, vec![0, 0, 1, 4, 0, 0, 0, 0]);
        let long = (60, [vec![0, 1, 1, 12], vec![0; 12]].concat());
        for (extensions, counted) in [
            (vec![short.clone()], Counter::ToPod),
            (vec![long.clone(), short.clone()], Counter::ToPod),
            (vec![short.clone(), long, short.clone()], Counter::ToPod),
            (vec![short.clone(); 4], Counter::ToPod),
            (vec![short.clone(); 5], Counter::Unparsed),
            // As long as it says, it ends behind the packet.
            (vec![(60, vec![0, 200, 1, 4, 0, 0, 0, 0])], Counter::Unparsed),
        ] {
            for packet in [syn(world), datagram(world)] {
                world.expect(From::Client, &Packet { extensions: extensions.clone(), ..packet }, counted);
            }
        }
        // A protocol that nobody knows.
        let packet = Packet { protocol: 99, extensions: vec![short], ..datagram(world) };
        assert_eq!(world.run(From::Client, &packet).counted, None);
    });
}

/// The fragment of a packet; the offset is in units of eight octets.
fn fragment(world: &World, of: &Packet, identification: u16, offset: u16, has_more: bool) -> Packet {
    let mut packet = of.clone();
    if offset != 0 {
        packet.protocol = of.protocol;
    }
    if world.is_ipv6 {
        let [o0, o1] = (offset << 3 | u16::from(has_more)).to_be_bytes();
        let [i0, i1] = identification.to_be_bytes();
        packet.extensions = vec![(44, vec![0, 0, o0, o1, i0, i1, 7, 7])];
    } else {
        packet.fragment = (identification, offset | u16::from(has_more) << 13);
    }
    packet
}

#[test]
fn later_fragments_go_where_the_first_went() {
    with_open_worlds(|world| {
        for protocol in [UDP, TCP] {
            let whole = Packet { flags: SYN, ..Packet::new(protocol, world.client, world.server) };
            let whole = Packet { payload: vec![7; 64], ..whole };
            let of = |world: &World, id, offset, more| fragment(world, &whole, id, offset, more);
            // Without the first one, nobody knows the ports.
            let later = of(world, 1, 8, false);
            world.expect(From::Client, &later, Counter::NoFlow);
            world.expect(From::Client, &of(world, 1, 0, true), Counter::ToPod);
            world.expect(From::Client, &of(world, 1, 8, true), Counter::ToPod);
            world.expect(From::Client, &later, Counter::ToPod);
            // Of another packet, or from another link.
            world.expect(From::Client, &of(world, 2, 8, false), Counter::NoFlow);
            world.expect(From::Server, &later, Counter::NoFlow);
            world.expect(From::Uplink, &later, Counter::NoFlow);
            // Of a flow that is established too.
            world.expect(From::Server, &whole.answer(SYN | ACK), Counter::ToPod);
            let established = Packet { flags: ACK, ..whole.clone() };
            world.expect(From::Client, &fragment(world, &established, 3, 0, true), Counter::ToPod);
            world.expect(From::Client, &of(world, 3, 8, false), Counter::ToPod);
            // Not when the flow is to be judged anew.
            world.dataplane.control(4, 1);
            world.expect(From::Client, &later, Counter::NoFlow);
            world.dataplane.control(2, 1);
        }
    });
}

#[test]
fn later_fragments_of_a_flow_that_has_ended_or_of_nobody_here_are_not_taken() {
    with_open_worlds(|world| {
        let whole = Packet { payload: vec![7; 64], ..datagram(world) };
        world.expect(From::Client, &fragment(world, &whole, 1, 0, true), Counter::ToPod);
        let later = fragment(world, &whole, 1, 8, false);
        world.expect(From::Client, &later, Counter::ToPod);
        world.stack_sends("to_pod", &whole);
        world.expect(From::Client, &later, Counter::NoFlow);
        // Between ends that are not both pods, of other protocols, and between pods of other nodes.
        let out = Packet { payload: vec![7; 64], ..Packet::udp(world.client, world.outside) };
        let passing = Packet { payload: vec![7; 64], ..Packet::udp(world.remote, world.remote) };
        let sctp = Packet { protocol: 132, ..whole.clone() };
        let echo = Packet { protocol: if world.is_ipv6 { 58 } else { 1 }, ..whole };
        for (from, packet) in
            [(From::Client, out), (From::Uplink, passing), (From::Client, sctp), (From::Client, echo)]
        {
            for (offset, has_more) in [(0, true), (8, false)] {
                if from == From::Client && packet.protocol == UDP && offset == 0 {
                    continue;
                }
                let fate = world.run(from, &fragment(world, &packet, 2, offset, has_more));
                assert_eq!((fate.is_short, fate.counted), (false, None), "{packet:?} {offset}");
            }
        }
    });
}

#[test]
fn fragments_of_what_has_more_headers_behind_that_of_the_fragment_are_the_stacks_all_of_them() {
    with_open_worlds(|world| {
        if !world.is_ipv6 {
            return;
        }
        let first = (44, vec![0, 0, 0, 1, 0, 0, 0, 9]);
        let options = vec![0, 0, 1, 4, 0, 0, 0, 0];
        for number in [0, 43, 44, 60] {
            let packet = Packet {
                payload: vec![7; 64],
                extensions: vec![first.clone(), (number, options.clone())],
                ..datagram(world)
            };
            world.expect(From::Client, &packet, Counter::Unparsed);
            // Whatever stands in it.
            let later = Packet {
                protocol: number,
                payload: [vec![UDP], options[1..].to_vec(), vec![7; 64]].concat(),
                extensions: vec![(44, vec![0, 0, 0, 64, 0, 0, 0, 9])],
                ..packet
            };
            let fate = world.run(From::Client, &later);
            assert_eq!((fate.is_short, fate.counted), (false, None), "{number}");
        }
    });
}

#[test]
fn a_later_fragment_that_is_shorter_than_its_header_is_the_stacks() {
    with_open_worlds(|world| {
        if world.is_ipv6 {
            return;
        }
        let whole = Packet { payload: vec![7; 64], ..datagram(world) };
        world.expect(From::Client, &fragment(world, &whole, 1, 0, true), Counter::ToPod);
        let later = fragment(world, &whole, 1, 8, false);
        world.expect(From::Client, &later, Counter::ToPod);
        for length in [0, 19] {
            let mut octets = Packet { mac: world.mac(From::Client), ..later.clone() }.octets();
            octets[16..18].copy_from_slice(&[0, length]);
            assert_eq!(
                world.run_octets(From::Client, &octets, 0).counted,
                Some(Counter::Unparsed),
                "{length}"
            );
        }
    });
}

#[test]
fn a_first_fragment_without_all_of_its_transports_header_is_the_stacks() {
    with_open_worlds(|world| {
        if world.is_ipv6 {
            return;
        }
        let mut octets = fragment(world, &syn(world), 1, 0, true).octets();
        octets[..6].copy_from_slice(&world.mac(From::Client));
        octets.truncate(34 + 8);
        octets[17] = 28;
        assert_eq!(world.run_octets(From::Client, &octets, 0).counted, Some(Counter::Unparsed));
    });
}

#[test]
fn a_fragment_that_is_all_of_its_packet_is_none() {
    with_open_worlds(|world| {
        if world.is_ipv6 {
            world.expect(From::Client, &fragment(world, &datagram(world), 1, 0, false), Counter::ToPod);
        }
    });
}

/// Type and code of what asks for smaller packets.
const fn too_big(world: &World) -> (u8, u8) {
    if world.is_ipv6 { (2, 0) } else { (3, 4) }
}

#[test]
fn icmp_errors_go_to_the_end_that_sent_what_they_are_about() {
    with_open_worlds(|world| {
        let out = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &out, Counter::ToNode);
        let inward = Packet::tcp((world.remote.0, 50000), world.server, SYN);
        world.expect(From::Uplink, &inward, Counter::ToPod);
        world.expect(From::Server, &inward.answer(SYN | ACK), Counter::ToNode);

        let kinds: &[(u8, u8)] = if world.is_ipv6 {
            &[(1, 4), (2, 0), (3, 0), (4, 1)]
        } else {
            &[(3, 3), (3, 4), (11, 0), (12, 0)]
        };
        for of in kinds {
            for from in [world.router, world.remote.0] {
                world.expect(From::Uplink, &out.error(from, *of), Counter::ToPod);
                world.expect(From::Uplink, &inward.answer(ACK).error(from, *of), Counter::ToPod);
            }
            // What the far end sent is about the far end, and only this node's end may say so.
            world.expect(From::Server, &inward.error(world.server.0, *of), Counter::ToNode);
            world.expect(From::Client, &inward.error(world.server.0, *of), Counter::NoFlow);
            world.expect(From::Server, &inward.error(world.router, *of), Counter::NoFlow);
        }

        let between = datagram(world);
        world.expect(From::Client, &between, Counter::ToPod);
        world.expect(From::Server, &between.error(world.server.0, kinds[0]), Counter::ToPod);
        world.expect(From::Client, &between.answer(0).error(world.client.0, kinds[0]), Counter::ToPod);
        world.expect(From::Client, &between.error(world.server.0, kinds[0]), Counter::NoFlow);
        world.expect(From::Uplink, &between.error(world.router, kinds[0]), Counter::NoFlow);
        // In the name of a pod of this node.
        world.expect(From::Uplink, &out.error(world.server.0, kinds[0]), Counter::NoFlow);
    });
}

#[test]
fn icmp_errors_behind_other_headers_are_read_too() {
    with_open_worlds(|world| {
        if !world.is_ipv6 {
            return;
        }
        let packet = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &packet, Counter::ToNode);
        let extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        let error = Packet { extensions, ..packet.error(world.router, too_big(world)) };
        world.expect(From::Uplink, &error, Counter::ToPod);
        let payload = error.payload[..7].to_vec();
        world.expect(From::Uplink, &Packet { payload, ..error }, Counter::Unparsed);
    });
}

#[test]
fn what_is_no_error_of_its_familys_icmp_is_nobodys() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &packet, Counter::ToNode);
        let error = packet.error(world.router, too_big(world));
        world.expect(From::Uplink, &error, Counter::ToPod);
        // The other family's protocol with an error of its own; a redirect, source quench, echoes and what asks for neighbours.
        let others: &[(u8, u8)] = if world.is_ipv6 {
            &[(1, 3), (58, 0), (58, 5), (58, 128), (58, 129), (58, 135), (58, 137)]
        } else {
            &[(58, 2), (1, 0), (1, 4), (1, 5), (1, 8), (1, 10), (1, 13)]
        };
        for (protocol, of) in others {
            let mut other = Packet { protocol: *protocol, ..error.clone() };
            other.payload[0] = *of;
            let fate = world.run(From::Uplink, &other);
            assert_eq!((fate.is_short, fate.counted), (false, None), "{protocol}: {of}");
        }
    });
}

#[test]
fn icmp_errors_about_a_flow_that_holds_arrive_while_its_pod_is_not_known() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &packet, Counter::ToNode);
        world.dataplane.take_address(world.client.0);
        world.expect(From::Client, &packet, Counter::ToNode);
        world.expect(From::Uplink, &packet.error(world.router, too_big(world)), Counter::ToPod);
    });
}

#[test]
fn icmp_errors_about_no_known_flow_are_the_stacks() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.client, world.remote);
        let error = packet.error(world.router, too_big(world));
        assert_eq!(world.run(From::Uplink, &error).counted, None);
        world.expect(From::Client, &packet, Counter::ToNode);
        world.expect(From::Uplink, &error, Counter::ToPod);
        // To another than the sender of the inner packet.
        let other = Packet { destination: world.server.0, ..error.clone() };
        assert_eq!(world.run(From::Uplink, &other).counted, None);
        // Cut off before the ports.
        for cut in 1..error.payload.len() - 8 {
            let payload = error.payload[..error.payload.len() - cut].to_vec();
            let fate = world.run(From::Uplink, &Packet { payload, ..error.clone() });
            assert_eq!(fate.is_short, cut <= 4, "{cut} octets cut off");
        }
        // The flow is to be judged anew.
        world.dataplane.control(4, 1);
        world.expect(From::Uplink, &error, Counter::NoFlow);
    });
}

#[test]
fn icmp_errors_about_what_is_no_plain_packet_are_not_taken() {
    with_open_worlds(|world| {
        let packet = Packet::udp(world.client, world.remote);
        world.expect(From::Client, &packet, Counter::ToNode);
        let error = packet.error(world.router, too_big(world));
        world.expect(From::Uplink, &error, Counter::ToPod);
        // In the packet that it tells of, which stands behind eight octets: another version, a protocol without ports, and of IPv4 options,
        // a header that is too short, and a later fragment.
        let mut cases = vec![(0, 0x55), (if world.is_ipv6 { 6 } else { 9 }, 132)];
        if !world.is_ipv6 {
            cases.extend([(0, 0x46), (0, 0x44), (7, 1), (6, 0x1f)]);
        }
        for (at, octet) in cases {
            let mut error = error.clone();
            error.payload[8 + at] = octet;
            let fate = world.run(From::Uplink, &error);
            assert_eq!((fate.is_short, fate.counted), (false, None), "{at}: {octet:#x}");
        }
        // What is to be cut up further, and what may not be, is plain.
        if !world.is_ipv6 {
            for octet in [0x20, 0x40] {
                let mut error = error.clone();
                error.payload[8 + 6] = octet;
                world.expect(From::Uplink, &error, Counter::ToPod);
            }
        }
    });
}
