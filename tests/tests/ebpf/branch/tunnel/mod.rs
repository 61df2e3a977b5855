//! What a packet of the short way looks like that is put into a tunnel, and which are left to the tunnel's device.
//!
//! Here is what holds for each kind of tunnel.

mod ipip;
mod vxlan;

use std::{collections::BTreeSet, net::IpAddr};

use margay_ebpf_common::{
    address::Address,
    counter::Counter,
    tunnel::{Tunnel, TunnelKey},
};

use super::with_open_worlds;
use crate::{
    packet::{Packet, checksum},
    world::{From, UPLINK_MTU, World, ip, link},
};

/// What is to be known of a kind of tunnel.
struct Kind {
    entry: Tunnel,
    /// Octets in front of what was in the frame.
    overhead: usize,
    /// Of the device; the way behind it carries less.
    device_mtu: usize,
    /// The next hop of IPv4 packets through it.
    gateway: &'static str,
    has_frames: bool,
    carries_ipv6: bool,
}

const KINDS: [Kind; 2] = [vxlan::KIND, ipip::KIND];

impl Kind {
    /// Where the inner packet begins.
    const fn inner(&self) -> usize {
        14 + self.overhead
    }

    /// Runs a test where the way to the other node's pod is through such a tunnel over IPv4, whose entry is there. What stands for the
    /// device here sends nothing: the packets of these tests end at the programs.
    fn with_tunnels(&self, test: impl Fn(&mut World, TunnelKey) + Sync) {
        with_open_worlds(|world| {
            ip("link add tunnel type veth peer name tunnel-far");
            ip("link set tunnel-far up");
            ip(&format!("link set tunnel up mtu {}", self.device_mtu));
            std::fs::write("/proc/sys/net/ipv4/conf/all/forwarding", "1").unwrap();
            if world.is_ipv6 {
                ip("addr add 192.0.2.2/24 dev uplink");
            }
            ip("route add 198.51.100.0/24 via 192.0.2.1");
            let gateway = if world.is_ipv6 { "fe80::9" } else { self.gateway };
            ip(&format!("route replace {} via {gateway} dev tunnel onlink", world.remote.0));
            let (ifindex, _) = link("tunnel");
            self.add_device(world, ifindex);
            let next_hop = Address::from(gateway.parse::<IpAddr>().unwrap());
            let key = TunnelKey { ifindex, padding: [0; 4], next_hop };
            world.dataplane.hash("TUNNELS").insert(key, self.entry, 0).unwrap();
            test(world, key);
        });
    }

    fn add_device(&self, world: &mut World, ifindex: u32) {
        if self.has_frames {
            world.dataplane.add_uplink(ifindex);
        } else {
            world.dataplane.add_bare(ifindex);
        }
    }
}

/// Runs a test with each kind of tunnel, and each family that it carries.
fn with_all_tunnels(test: impl Fn(&mut World, &Kind, TunnelKey) + Sync) {
    for kind in &KINDS {
        kind.with_tunnels(|world, key| {
            if kind.carries_ipv6 || !world.is_ipv6 {
                test(world, kind, key);
            }
        });
    }
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
fn every_checksum_of_the_outer_header_is_right() {
    with_all_tunnels(|world, kind, key| {
        let mut seen = BTreeSet::new();
        for number in 0..2000_u16 {
            let [high, low] = number.wrapping_mul(0x1235).to_be_bytes();
            let entry = Tunnel { local: [192, 0, high, low], ..kind.entry };
            world.dataplane.hash("TUNNELS").insert(key, entry, 0).unwrap();
            let octets = world.expect(From::Client, &datagram(world), Counter::ToTunnel).octets;
            assert_eq!(checksum(&octets[14..34]), 0, "{:x?}", &octets[14..34]);
            seen.insert([octets[18], octets[19]]);
        }
        assert!(seen.len() > 1000, "the identification differs from packet to packet: {}", seen.len());
    });
}

#[test]
fn what_no_entry_is_for_is_left_to_the_device() {
    with_all_tunnels(|world, kind, key| {
        let packet = datagram(world);
        world.expect(From::Client, &packet, Counter::ToTunnel);
        world.dataplane.hash::<TunnelKey, Tunnel>("TUNNELS").remove(&key).unwrap();
        is_left_to_the_device(world, &packet);
        for other in [
            TunnelKey { ifindex: key.ifindex + 1, ..key },
            TunnelKey { next_hop: Address::from_ipv4([10, 2, 0, 1]), ..key },
        ] {
            world.dataplane.hash("TUNNELS").insert(other, kind.entry, 0).unwrap();
            is_left_to_the_device(world, &packet);
        }
    });
}

#[test]
fn a_device_without_programs_is_no_way_of_the_programs() {
    with_all_tunnels(|world, _, key| {
        let packet = datagram(world);
        world.dataplane.hash::<u32, u32>("UPLINKS").remove(&key.ifindex).unwrap();
        // What comes back by it would be the stack's.
        world.expect(From::Client, &packet, Counter::Unroutable);
    });
}

#[test]
fn what_has_no_way_outside_the_tunnel_is_left_to_the_device() {
    with_all_tunnels(|world, _, _| {
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
    with_all_tunnels(|world, kind, _| {
        let headers = if world.is_ipv6 { 48 } else { 28 };
        let of = |octets: usize| Packet { payload: vec![1; octets - headers], ..datagram(world) };
        let most = UPLINK_MTU - kind.overhead;
        let [fits, large, too_large] = [most, most + 1, kind.device_mtu + 1].map(of);
        world.expect(From::Client, &fits, Counter::ToTunnel);
        is_left_to_the_device(world, &large);
        world.expect(From::Client, &too_large, Counter::Unroutable);
    });
}

#[test]
fn what_has_no_hops_left_is_the_stacks() {
    with_all_tunnels(|world, kind, _| {
        world.expect(From::Client, &Packet { hops: 1, ..datagram(world) }, Counter::Unroutable);
        let fate = world.expect(From::Client, &Packet { hops: 2, ..datagram(world) }, Counter::ToTunnel);
        assert_eq!(fate.octets[kind.inner()..], Packet { hops: 1, ..datagram(world) }.network());
    });
}
