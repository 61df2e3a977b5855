//! IP-in-IP.

use margay_ebpf_common::{
    counter::Counter,
    tunnel::{IPIP, IPIP_OVERHEAD, Tunnel, TunnelKey},
};

use super::{Kind, datagram, is_left_to_the_device};
use crate::{
    packet::{Packet, checksum},
    world::{From, World},
};

pub(super) const KIND: Kind = Kind {
    entry: ENTRY,
    overhead: IPIP_OVERHEAD as usize,
    device_mtu: 1390,
    gateway: "198.51.100.7",
    has_frames: false,
    carries_ipv6: false,
};

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

/// Runs a test with IPv4, which alone is put into it.
fn with_ipv4(test: impl Fn(&mut World, TunnelKey) + Sync) {
    KIND.with_tunnels(|world, key| {
        if !world.is_ipv6 {
            test(world, key);
        }
    });
}

#[test]
fn a_packet_has_the_header_of_its_tunnel_and_one_hop_less() {
    with_ipv4(|world, _| {
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
                assert_eq!(octets[KIND.inner()..], inner);
                assert_eq!(octets[12..14], [8, 0]);
                let outer = &octets[14..KIND.inner()];
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
fn ipv6_is_left_to_the_device_though_there_is_an_entry() {
    KIND.with_tunnels(|world, _| {
        let packet = datagram(world);
        if world.is_ipv6 {
            is_left_to_the_device(world, &packet);
        } else {
            world.expect(From::Client, &packet, Counter::ToTunnel);
        }
    });
}

#[test]
fn a_way_through_another_such_device_is_none_of_the_programs() {
    with_ipv4(|world, key| {
        let packet = datagram(world);
        world.expect(From::Client, &packet, Counter::ToTunnel);
        let uplink = world.ifindex(From::Uplink);
        assert_ne!(uplink, key.ifindex);
        world.dataplane.add_bare(uplink);
        is_left_to_the_device(world, &packet);
    });
}
