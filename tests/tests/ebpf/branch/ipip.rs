//! What a packet of the short way looks like that is put into a tunnel of IP-in-IP, and which are left to the tunnel's device.

use std::{collections::BTreeSet, net::IpAddr};

use margay_ebpf_common::{
    address::Address,
    counter::Counter,
    tunnel::{IPIP, IPIP_OVERHEAD, Tunnel, TunnelKey},
};

use super::with_open_worlds;
use crate::{
    packet::{Packet, checksum},
    world::{From, UPLINK_MTU, World, ip, link},
};

/// Of the tunnel's device; the way behind it carries less.
const DEVICE_MTU: usize = 1390;
const OUTER: usize = 14 + IPIP_OVERHEAD as usize;

const ENTRY: Tunnel = Tunnel {
    local: [192, 0, 2, 2],
    remote: [198, 51, 100, 7],
    vni: [0; 4],
    destination_mac: [0; 6],
    source_mac: [0; 6],
    port: [0; 2],
    kind: IPIP,
    padding: [0; 5],
};

/// Runs a test where the way to the other node's pod is through a tunnel, whose entry is there. What stands for the device here sends
/// nothing: the packets of these tests end at the programs.
fn with_tunnels(test: impl Fn(&mut World, TunnelKey) + Sync) {
    with_open_worlds(|world| {
        ip("link add tunnel type veth peer name tunnel-far");
        ip("link set tunnel-far up");
        ip(&format!("link set tunnel up mtu {DEVICE_MTU}"));
        std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
        if world.is_ipv6 {
            ip("addr add 192.0.2.2/24 dev uplink");
        }
        ip("route add 198.51.100.0/24 via 192.0.2.1");
        let gateway = if world.is_ipv6 { "fe80::9" } else { "198.51.100.7" };
        ip(&format!("route replace {} via {gateway} dev tunnel onlink", world.remote.0));
        let (ifindex, _) = link("tunnel");
        world.dataplane.add_bare(ifindex);
        let next_hop = Address::from(gateway.parse::<IpAddr>().unwrap());
        let key = TunnelKey { ifindex, padding: [0; 4], next_hop };
        world.dataplane.hash("TUNNELS").insert(key, ENTRY, 0).unwrap();
        test(world, key);
    });
}

/// Likewise with IPv4, which alone is put into it.
fn with_tunnel(test: impl Fn(&mut World, TunnelKey) + Sync) {
    with_tunnels(|world, key| {
        if !world.is_ipv6 {
            test(world, key);
        }
    });
}

fn datagram(world: &World) -> Packet {
    Packet::udp(world.client, world.remote)
}

/// It goes to the device, as it would go to any other interface.
fn is_left_to_the_device(world: &mut World, packet: &Packet) {
    let fate = world.expect(From::Client, packet, Counter::ToNode);
    assert_eq!(fate.octets[14..], Packet { hops: packet.hops - 1, ..packet.clone() }.octets()[14..]);
}

#[test]
fn a_packet_has_the_header_of_its_tunnel_and_one_hop_less() {
    with_tunnel(|world, _| {
        // RFC 6040 section 4.1, but for what met congestion, of which the kernel's device says ECT(0) too.
        for (ecn, outer_ecn) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            for (payload, fragment) in [(0, 0), (1, 0x4000), (100, 0), (1000, 0x4000)] {
                let sent = Packet {
                    payload: vec![7; payload],
                    service: 0xb8 | ecn,
                    hops: 7,
                    fragment: (0, fragment),
                    ..datagram(world)
                };
                let octets = world.expect(From::Client, &sent, Counter::ToTunnel).octets;
                let inner = Packet { hops: 6, ..sent }.network();
                assert_eq!(octets[OUTER..], inner);
                assert_eq!(octets[12..14], [8, 0]);
                let outer = &octets[14..OUTER];
                assert_eq!(outer[..2], [0x45, outer_ecn]);
                assert_eq!(outer[2..4], u16::try_from(inner.len() + 20).unwrap().to_be_bytes());
                assert_eq!(outer[6..10], [0x40, 0, 64, 4], "it may not be cut up, and has IPv4 inside");
                assert_eq!(outer[12..20], [ENTRY.local, ENTRY.remote].concat());
                assert_eq!(checksum(outer), 0);
            }
        }
    });
}

#[test]
fn every_checksum_of_the_outer_header_is_right() {
    with_tunnel(|world, key| {
        let mut seen = BTreeSet::new();
        for number in 0..2000_u16 {
            let [high, low] = number.wrapping_mul(0x1235).to_be_bytes();
            let entry = Tunnel { local: [192, 0, high, low], ..ENTRY };
            world.dataplane.hash("TUNNELS").insert(key, entry, 0).unwrap();
            let octets = world.expect(From::Client, &datagram(world), Counter::ToTunnel).octets;
            assert_eq!(checksum(&octets[14..OUTER]), 0, "{:x?}", &octets[14..OUTER]);
            seen.insert([octets[18], octets[19]]);
        }
        assert!(seen.len() > 1000, "the identification differs from packet to packet: {}", seen.len());
    });
}

#[test]
fn ipv6_and_what_no_entry_is_for_are_left_to_the_device() {
    with_tunnels(|world, key| {
        let packet = datagram(world);
        if world.is_ipv6 {
            is_left_to_the_device(world, &packet);
            return;
        }
        world.expect(From::Client, &packet, Counter::ToTunnel);
        world.dataplane.hash::<TunnelKey, Tunnel>("TUNNELS").remove(&key).unwrap();
        is_left_to_the_device(world, &packet);
    });
}

#[test]
fn what_has_no_way_outside_the_tunnel_is_left_to_the_device() {
    with_tunnel(|world, key| {
        let packet = datagram(world);
        for way in ["unreachable 198.51.100.0/24", "198.51.100.0/24 dev server", "198.51.100.0/24 dev tunnel"]
        {
            world.expect(From::Client, &packet, Counter::ToTunnel);
            ip(&format!("route replace {way}"));
            is_left_to_the_device(world, &packet);
            ip("route replace 198.51.100.0/24 via 192.0.2.1");
        }
        // Nor is one through another such device one of the programs'.
        world.expect(From::Client, &packet, Counter::ToTunnel);
        let uplink = world.ifindex(From::Uplink);
        assert_ne!(uplink, key.ifindex);
        world.dataplane.add_bare(uplink);
        is_left_to_the_device(world, &packet);
    });
}

#[test]
fn what_is_too_large_for_the_way_outside_is_left_to_the_device() {
    with_tunnel(|world, _| {
        let of = |octets: usize| Packet { payload: vec![1; octets - 28], ..datagram(world) };
        let most = UPLINK_MTU - IPIP_OVERHEAD as usize;
        let [fits, large, too_large] = [most, most + 1, DEVICE_MTU + 1].map(of);
        world.expect(From::Client, &fits, Counter::ToTunnel);
        is_left_to_the_device(world, &large);
        world.expect(From::Client, &too_large, Counter::Unroutable);
    });
}

#[test]
fn what_has_no_hops_left_is_the_stacks() {
    with_tunnel(|world, _| {
        world.expect(From::Client, &Packet { hops: 1, ..datagram(world) }, Counter::Unroutable);
        let fate = world.expect(From::Client, &Packet { hops: 2, ..datagram(world) }, Counter::ToTunnel);
        assert_eq!(fate.octets[OUTER..], Packet { hops: 1, ..datagram(world) }.network());
    });
}
