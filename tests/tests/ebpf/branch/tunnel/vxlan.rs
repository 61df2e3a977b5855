//! VXLAN.

use std::collections::BTreeSet;

use margay_ebpf_common::{
    counter::Counter,
    tunnel::{FIRST_SOURCE_PORT, Tunnel, VXLAN, VXLAN_OVERHEAD},
};

use super::{Kind, datagram};
use crate::{
    packet::{Packet, checksum},
    world::From,
};

const DEVICE: [u8; 6] = [2, 0, 0, 0, 5, 1];
const FAR_DEVICE: [u8; 6] = [2, 0, 0, 0, 5, 2];

pub(super) const KIND: Kind = Kind {
    entry: ENTRY,
    overhead: VXLAN_OVERHEAD as usize,
    device_mtu: 1380,
    gateway: "10.2.0.0",
    has_frames: true,
    carries_ipv6: true,
};

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

#[test]
fn a_packet_has_all_headers_of_its_tunnel_and_one_hop_less() {
    KIND.with_tunnels(|world, _| {
        // RFC 6040 section 4.1, but for what met congestion, of which the kernel's device says ECT(0) too.
        for (ecn, outer_ecn) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            for payload in [0, 1, 100, 1000] {
                let sent = Packet { payload: vec![7; payload], service: 0xb8 | ecn, ..datagram(world) };
                let octets = world.expect(From::Client, &sent, Counter::ToTunnel).octets;
                let inner = Packet { hops: 63, ..sent }.network();
                let begin = KIND.inner();
                assert_eq!(octets[begin..], inner);
                let ethertype: &[u8] = if world.is_ipv6 { &[0x86, 0xdd] } else { &[8, 0] };
                assert_eq!(octets[begin - 14..begin], [&FAR_DEVICE[..], &DEVICE, ethertype].concat());
                assert_eq!(octets[begin - 22..begin - 14], [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);

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
fn packets_of_a_flow_have_one_source_port_and_flows_have_many() {
    KIND.with_tunnels(|world, _| {
        let mut ports = BTreeSet::new();
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
fn what_the_kernel_makes_no_room_for_is_left_to_the_device_as_it_was() {
    KIND.with_tunnels(|world, _| {
        let mac = world.mac(From::Client);
        let packet = Packet { mac, payload: vec![1; 3000], ..datagram(world) };
        // It has no kind of segments in a test, as none that the kernel would put into a tunnel.
        let fate = world.run_octets(From::Client, &packet.octets(), 1000);
        assert_eq!(fate.counted, Some(Counter::ToNode));
        assert_eq!(fate.octets[14..], Packet { hops: 63, ..packet }.octets()[14..]);
    });
}
