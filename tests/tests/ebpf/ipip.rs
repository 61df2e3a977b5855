//! Real packets in tunnels of IP-in-IP: into them by the programs, and out of them by a device without link-layer headers.

use std::net::IpAddr;

use margay_ebpf_common::{
    counter::Counter,
    endpoint::PEER,
    flow::{TCP, UDP},
    tunnel::{Tunnel, TunnelKey},
};

use crate::{
    branch::with_open_worlds,
    dataplane::key,
    packet::{ACK, Packet, SYN},
    site::{Family, IPIP_DEVICE, Site, connect, families, ifindex, ping, transfer, udp, with_site},
    tun,
    tunnel::packets,
    world::World,
};

const LARGE: usize = 4 << 20;

/// Runs a test at a site with such a tunnel; packets into the pods go as `flags` of their links say.
fn with_tunnel(flags: u32, test: impl FnOnce(&mut Site, &Family) + Send) {
    with_site(flags, |site| {
        let _ends = site.ipip();
        let [v4, _] = families();
        test(site, &v4);
        assert_eq!(site.dataplane.counted(Counter::Lost), 0);
    });
}

#[test]
fn streams_arrive_whole_and_leave_in_large_pieces_whichever_end_opens_them() {
    for flags in [PEER, 0] {
        with_tunnel(flags, |site, f| {
            let before = site.dataplane.counted(Counter::ToTunnel);
            let (near, far) = connect(&site.client, &site.remote, f.remote, |port| (f.remote, port).into());
            transfer(&near, &far, LARGE);
            // Of 1,400 octets each there would be some 3,000: they are cut up behind the programs, in the tunnel.
            let pieces = site.dataplane.counted(Counter::ToTunnel) - before;
            assert!((20..1500).contains(&pieces), "{pieces} packets for {LARGE} octets");
            let before = site.dataplane.counted(Counter::ToPod);
            transfer(&far, &near, LARGE);
            assert!(site.dataplane.counted(Counter::ToPod) - before > 1000);
            let (near, far) = connect(&site.remote, &site.server, f.server, |port| (f.server, port).into());
            transfer(&near, &far, LARGE);
            transfer(&far, &near, LARGE);
            assert_eq!(packets(IPIP_DEVICE)[0], 0, "the device has sent nothing");
        });
    }
}

#[test]
fn datagrams_arrive_in_one_piece_and_in_fragments() {
    with_tunnel(PEER, |site, f| {
        let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
        let before = site.dataplane.all_counted();
        for octets in [1, 100, 1400, 4000, 20000] {
            ping(&client, &remote, remote.local_addr().unwrap(), octets);
        }
        for counter in Counter::ALL {
            let counted = site.dataplane.counted(counter) - before[counter.index() as usize];
            let is_short = matches!(counter, Counter::ToTunnel | Counter::ToPod);
            assert!(if is_short { counted >= 20 } else { counted == 0 }, "{counter:?}: {counted}");
        }
        assert_eq!(packets(IPIP_DEVICE)[0], 0);
    });
}

#[test]
fn what_no_entry_is_for_goes_through_the_device_and_arrives() {
    with_tunnel(PEER, |site, f| {
        let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
        ping(&client, &remote, remote.local_addr().unwrap(), 100);
        let keys: Vec<TunnelKey> =
            site.dataplane.hash::<TunnelKey, Tunnel>("TUNNELS").keys().map(Result::unwrap).collect();
        for key in keys {
            site.dataplane.hash::<TunnelKey, Tunnel>("TUNNELS").remove(&key).unwrap();
        }
        let before = site.dataplane.all_counted();
        ping(&client, &remote, remote.local_addr().unwrap(), 1400);
        for (counter, packets) in [(Counter::ToTunnel, 0), (Counter::ToNode, 1), (Counter::ToPod, 1)] {
            let index = counter.index() as usize;
            assert_eq!(site.dataplane.counted(counter) - before[index], packets, "{counter:?}");
        }
        assert_eq!(packets(IPIP_DEVICE)[0], 1, "the device has sent it");
    });
}

#[test]
fn what_the_stack_sends_through_the_device_is_the_stacks_and_so_are_its_answers() {
    with_tunnel(PEER, |site, f| {
        let (client, remote) = (udp(&site.client, f.client), udp(&site.remote, f.remote));
        let to = remote.local_addr().unwrap();
        // No flow may begin on the short way now.
        site.dataplane.control(2, 0);
        ping(&client, &remote, to, 100);
        let flow = key(UDP, (f.client, client.local_addr().unwrap().port()), (f.remote, to.port()));
        assert!(site.dataplane.is_stacked(flow));
        site.dataplane.control(2, 1);
        let before = site.dataplane.counted(Counter::Stacked);
        ping(&client, &remote, to, 100);
        assert_eq!(site.dataplane.counted(Counter::Stacked) - before, 2, "a packet and its answer");
        assert_eq!(packets(IPIP_DEVICE)[0], 2);
    });
}

#[test]
fn the_nodes_own_packets_come_out_of_the_tunnel_to_the_node() {
    with_tunnel(PEER, |site, f| {
        let own: IpAddr = "10.1.0.0".parse().unwrap();
        crate::world::ip(&format!("addr add {own}/32 dev {IPIP_DEVICE}"));
        let node = std::net::UdpSocket::bind((own, 0)).unwrap();
        node.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let remote = udp(&site.remote, f.remote);
        let before = site.dataplane.counted(Counter::ToPod);
        ping(&remote, &node, node.local_addr().unwrap(), 1000);
        assert_eq!(site.dataplane.counted(Counter::ToPod), before);
    });
}

/// Runs a test with what comes out of a device without link-layer headers, where policy allows everything.
fn with_packets(test: impl Fn(&mut World, &mut dyn FnMut(&mut World, &[u8]) -> Vec<Counter>) + Sync) {
    with_open_worlds(|world| {
        let mut device = tun::device("bare", 1500);
        world.dataplane.attach("bare", "from_tunnel", "to_tunnel");
        world.dataplane.add_bare(ifindex("bare"));
        test(world, &mut |world, octets| {
            use std::io::Write;
            let before = world.dataplane.all_counted();
            device.write_all(octets).unwrap();
            let is_counted =
                |counter: &Counter| world.dataplane.counted(*counter) != before[counter.index() as usize];
            Counter::ALL.into_iter().filter(is_counted).collect()
        });
    });
}

#[test]
fn each_kind_of_packet_without_a_link_layer_header_is_known() {
    with_packets(|world, run| {
        let datagram = Packet::udp(world.remote, world.server);
        if world.is_ipv6 {
            assert_eq!(run(world, &datagram.network()), [], "only IPv4 is in a tunnel of IP-in-IP");
            return;
        }
        let segment = Packet::tcp(world.remote, world.server, SYN);
        let (client, server, remote) = (world.client, world.server, world.remote);
        let mut check = |packet: &Packet, wanted: &[Counter]| {
            assert_eq!(run(world, &packet.network()), wanted, "{packet:?}");
        };
        check(&datagram, &[Counter::ToPod]);
        check(&Packet { payload: vec![1; 1400], ..datagram.clone() }, &[Counter::ToPod]);
        check(&Packet { payload: vec![1; 1480], ..datagram.clone() }, &[Counter::Unroutable]);
        check(&Packet { payload: vec![], ..datagram.clone() }, &[Counter::ToPod]);
        check(&segment, &[Counter::ToPod]);
        check(&Packet { ports: (7, 7), flags: ACK, ..segment.clone() }, &[Counter::NoFlow]);
        check(&Packet { hops: 1, ..datagram.clone() }, &[Counter::Unroutable]);
        check(&Packet { options: vec![1; 4], ..datagram.clone() }, &[Counter::Unparsed]);
        // The first fragment of a packet, the second, and the second of another.
        let first = Packet { payload: vec![1; 16], fragment: (9, 0x2000), ..datagram.clone() };
        let second = Packet { protocol: UDP, fragment: (9, 3), ..first.clone() };
        check(&second, &[Counter::NoFlow]);
        check(&first, &[Counter::ToPod]);
        check(&second, &[Counter::ToPod]);
        // From a pod of this node, to none of it, and what is neither TCP nor UDP.
        check(&Packet::udp(client, server), &[Counter::NotAllowed]);
        check(&Packet::udp(remote, remote), &[]);
        check(&Packet::new(47, remote, server), &[]);
    });
}

#[test]
fn what_is_cut_off_or_says_another_length_is_the_stacks() {
    with_packets(|world, run| {
        if world.is_ipv6 {
            return;
        }
        for protocol in [TCP, UDP] {
            let whole = Packet { flags: SYN, ..Packet::new(protocol, world.remote, world.server) }.network();
            for length in 1..whole.len() {
                assert_eq!(run(world, &whole[..length]), [Counter::Unparsed], "{length} octets");
            }
            assert_eq!(run(world, &whole), [Counter::ToPod]);
            let mut short = whole.clone();
            short[0] = 0x44;
            assert_eq!(run(world, &short), [Counter::Unparsed]);
            // What stands behind it is nobody's.
            assert_eq!(run(world, &[whole, vec![0; 9]].concat()), [Counter::ToPod]);
        }
    });
}
