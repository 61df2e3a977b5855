//! What a packet of the short way looks like that is put into a tunnel, and which are left to the tunnel's device.

use margay_ebpf_common::{
    address::Address,
    counter::Counter,
    tunnel::{FIRST_SOURCE_PORT, Tunnel, TunnelKey, VXLAN, VXLAN_OVERHEAD},
};

use super::with_open_worlds;
use crate::{
    packet::{Packet, checksum},
    world::{From, UPLINK_MTU, World, ip, link},
};

/// Of the tunnel's device; the way behind it carries less.
const DEVICE_MTU: usize = 1380;
const DEVICE: [u8; 6] = [2, 0, 0, 0, 5, 1];
const FAR_DEVICE: [u8; 6] = [2, 0, 0, 0, 5, 2];
const OUTER: usize = 14 + VXLAN_OVERHEAD as usize;

const ENTRY: Tunnel = Tunnel {
    local: [192, 0, 2, 2],
    remote: [198, 51, 100, 7],
    vni: [0x12, 0x34, 0x56, 0],
    destination_mac: FAR_DEVICE,
    source_mac: DEVICE,
    port: 4789_u16.to_be_bytes(),
    kind: VXLAN,
    padding: [0; 5],
};

/// Runs a test where the way to the other node's pod is through a tunnel over IPv4, whose entry is there.
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
        let gateway = if world.is_ipv6 { "fe80::9" } else { "10.2.0.0" };
        ip(&format!("route replace {} via {gateway} dev tunnel onlink", world.remote.0));
        let (ifindex, _) = link("tunnel");
        world.dataplane.add_uplink(ifindex);
        let next_hop = Address::from(gateway.parse::<std::net::IpAddr>().unwrap());
        let key = TunnelKey { ifindex, padding: [0; 4], next_hop };
        world.dataplane.hash("TUNNELS").insert(key, ENTRY, 0).unwrap();
        test(world, key);
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
fn a_packet_has_all_headers_of_its_tunnel_and_one_hop_less() {
    with_tunnels(|world, _| {
        // RFC 6040 section 4.1, but for what met congestion, of which the kernel's device says ECT(0) too.
        for (ecn, outer_ecn) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            for payload in [0, 1, 100, 1000] {
                let sent = Packet { payload: vec![7; payload], service: 0xb8 | ecn, ..datagram(world) };
                let octets = world.expect(From::Client, &sent, Counter::ToTunnel).octets;
                let inner = Packet { hops: 63, ..sent }.network();
                assert_eq!(octets[OUTER..], inner);
                let ethertype: &[u8] = if world.is_ipv6 { &[0x86, 0xdd] } else { &[8, 0] };
                assert_eq!(octets[OUTER - 14..OUTER], [&FAR_DEVICE[..], &DEVICE, ethertype].concat());
                assert_eq!(octets[OUTER - 22..OUTER - 14], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);

                let udp = &octets[34..42];
                let length = u16::try_from(inner.len() + 30).unwrap();
                assert!(u16::from_be_bytes([udp[0], udp[1]]) >= FIRST_SOURCE_PORT, "{udp:?}");
                assert_eq!(udp[2..4], ENTRY.port);
                assert_eq!(udp[4..6], length.to_be_bytes());
                assert_eq!(udp[6..8], [0, 0], "no checksum");

                let ip = &octets[14..34];
                assert_eq!(ip[..2], [0x45, outer_ecn]);
                assert_eq!(ip[2..4], (length + 20).to_be_bytes());
                assert_eq!(ip[6..10], [0, 0, 64, 17], "it may be cut up");
                assert_eq!(ip[12..20], [ENTRY.local, ENTRY.remote].concat());
                assert_eq!(checksum(ip), 0);
            }
        }
    });
}

#[test]
fn every_checksum_of_the_outer_header_is_right() {
    with_tunnels(|world, key| {
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..2000_u16 {
            let [high, low] = number.wrapping_mul(0x1235).to_be_bytes();
            let entry = Tunnel { local: [192, 0, high, low], ..ENTRY };
            world.dataplane.hash("TUNNELS").insert(key, entry, 0).unwrap();
            let octets = world.expect(From::Client, &datagram(world), Counter::ToTunnel).octets;
            assert_eq!(checksum(&octets[14..34]), 0, "{:x?}", &octets[14..34]);
            seen.insert([octets[18], octets[19]]);
        }
        assert!(seen.len() > 1000, "the identification differs from packet to packet: {}", seen.len());
    });
}

#[test]
fn packets_of_a_flow_have_one_source_port_and_flows_have_many() {
    with_tunnels(|world, _| {
        let mut ports = std::collections::BTreeSet::new();
        for source in 40000..40064 {
            let packet = Packet::udp((world.client.0, source), world.remote);
            let [first, again] = [20, 900].map(|octets| {
                let packet = Packet { payload: vec![3; octets], ..packet.clone() };
                let octets = world.expect(From::Client, &packet, Counter::ToTunnel).octets;
                [octets[34], octets[35]]
            });
            assert_eq!(first, again);
            ports.insert(first);
        }
        assert!(ports.len() > 32, "{ports:?}");
    });
}

#[test]
fn what_no_entry_is_for_is_left_to_the_device() {
    with_tunnels(|world, key| {
        let packet = datagram(world);
        world.expect(From::Client, &packet, Counter::ToTunnel);
        world.dataplane.hash::<TunnelKey, Tunnel>("TUNNELS").remove(&key).unwrap();
        is_left_to_the_device(world, &packet);
        for other in [
            TunnelKey { ifindex: key.ifindex + 1, ..key },
            TunnelKey { next_hop: Address::from_ipv4([10, 2, 0, 1]), ..key },
        ] {
            world.dataplane.hash("TUNNELS").insert(other, ENTRY, 0).unwrap();
            is_left_to_the_device(world, &packet);
        }
    });
}

#[test]
fn a_device_without_programs_is_no_way_of_the_programs() {
    with_tunnels(|world, key| {
        let packet = datagram(world);
        world.dataplane.hash::<u32, u32>("UPLINKS").remove(&key.ifindex).unwrap();
        // What comes back by it would be the stack's.
        world.expect(From::Client, &packet, Counter::Unroutable);
    });
}

#[test]
fn what_has_no_way_outside_the_tunnel_is_left_to_the_device() {
    with_tunnels(|world, _| {
        let packet = datagram(world);
        for way in ["unreachable 198.51.100.0/24", "198.51.100.0/24 dev server", "198.51.100.0/24 dev tunnel"]
        {
            world.expect(From::Client, &packet, Counter::ToTunnel);
            ip(&format!("route replace {way}"));
            is_left_to_the_device(world, &packet);
            ip("route replace 198.51.100.0/24 via 192.0.2.1");
        }
        // The outer packet is the node's own, wherever the inner one came from.
        ip("rule add iif client to 198.51.100.0/24 unreachable");
        world.expect(From::Client, &packet, Counter::ToTunnel);
        ip("rule add iif lo to 198.51.100.0/24 unreachable");
        is_left_to_the_device(world, &packet);
    });
}

#[test]
fn what_is_too_large_for_the_way_outside_is_left_to_the_device() {
    with_tunnels(|world, _| {
        let headers = if world.is_ipv6 { 48 } else { 28 };
        let of = |octets: usize| Packet { payload: vec![1; octets - headers], ..datagram(world) };
        let most = UPLINK_MTU - VXLAN_OVERHEAD as usize;
        let [fits, large, too_large] = [most, most + 1, DEVICE_MTU + 1].map(of);
        world.expect(From::Client, &fits, Counter::ToTunnel);
        is_left_to_the_device(world, &large);
        world.expect(From::Client, &too_large, Counter::Unroutable);
    });
}

#[test]
fn what_the_kernel_makes_no_room_for_is_left_to_the_device_as_it_was() {
    with_tunnels(|world, _| {
        let mac = world.mac(From::Client);
        let packet = Packet { mac, payload: vec![1; 3000], ..datagram(world) };
        // It has no kind of segments in a test, as none that the kernel would put into a tunnel.
        let fate = world.run_octets(From::Client, &packet.octets(), 1000);
        assert_eq!(fate.counted, Some(Counter::ToNode));
        assert_eq!(fate.octets[14..], Packet { hops: 63, ..packet }.octets()[14..]);
    });
}

#[test]
fn what_has_no_hops_left_is_the_stacks() {
    with_tunnels(|world, _| {
        world.expect(From::Client, &Packet { hops: 1, ..datagram(world) }, Counter::Unroutable);
        let fate = world.expect(From::Client, &Packet { hops: 2, ..datagram(world) }, Counter::ToTunnel);
        assert_eq!(fate.octets[OUTER..], Packet { hops: 1, ..datagram(world) }.network());
    });
}
