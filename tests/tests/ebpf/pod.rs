//! What a pod does at its own end of its link: frames with tags, marks of its own, and segments larger than headers can say.

use std::{net::IpAddr, os::fd::AsRawFd};

use aya::util::KernelVersion;
use margay_ebpf_common::{
    counter::Counter,
    endpoint::PEER,
    flow::{SHORT_MARK, UDP},
};
use margay_netlink::netns::Namespace;
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, sendto,
        socket,
    },
};

use crate::{
    packet::{Packet, checksum},
    site::{connect, families, transfer, udp, with_site},
    traffic::{assert_short, serve, through_service},
    tunnel::packets,
    world::{ip, tc},
};

/// Link-layer address of the host end of the client's link.
const CLIENT_HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Sends frames as they are from a pod's interface.
fn send_frames(pod: &Namespace, frames: &[Vec<u8>]) {
    let _inside = pod.enter().unwrap();
    let interfaces = nix::ifaddrs::getifaddrs().unwrap();
    let mut of_eth0 = interfaces.filter(|it| it.interface_name == "eth0").filter_map(|it| it.address);
    let address = of_eth0.find_map(|it| it.as_link_addr().copied());
    // Of no protocol: it receives nothing.
    let wire = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(wire.as_raw_fd(), &address.unwrap()).unwrap();
    for frame in frames {
        assert_eq!(send(wire.as_raw_fd(), frame, MsgFlags::empty()), Ok(frame.len()));
    }
}

/// A datagram of the client's, as a frame with all checksums, and with such a tag of IEEE 802.1Q if any.
fn frame(source: (IpAddr, u16), destination: (IpAddr, u16), payload: &[u8], tag: Option<u16>) -> Vec<u8> {
    let packet = Packet { mac: CLIENT_HOST_MAC, payload: payload.into(), ..Packet::udp(source, destination) };
    let mut octets = packet.octets();
    let addresses = if source.0.is_ipv4() { 26..34 } else { 22..54 };
    let udp = addresses.end..octets.len();
    // RFC 768: with the addresses, the protocol, and the length once more.
    let length = u16::try_from(udp.len()).unwrap().to_be_bytes();
    let summed = [&octets[addresses], &[0, UDP], &length, &octets[udp.clone()]].concat();
    octets[udp][6..8].copy_from_slice(&checksum(&summed).to_be_bytes());
    if let Some(tag) = tag {
        let [high, low] = tag.to_be_bytes();
        octets.splice(12..12, [0x81, 0, high, low]);
    }
    octets
}

#[test]
fn a_frame_with_a_vlan_tag_is_the_stacks() {
    with_site(PEER, |site| {
        for f in families() {
            let server = udp(&site.server, f.server);
            let to = (f.server, server.local_addr().unwrap().port());
            let of = |port, payload: &[u8], tag| frame((f.client, port), to, payload, tag);
            let received = || {
                let mut buffer = [0; 100];
                let length = server.recv(&mut buffer).expect("the datagram arrives");
                String::from_utf8(buffer[..length].into()).unwrap()
            };
            let before = site.dataplane.all_counted();
            // The stack knows no such VLAN, and takes number 0 for a priority alone (IEEE 802.1Q section 6.9.1).
            send_frames(&site.client, &[of(1000, b"of VLAN 5", Some(5)), of(1000, b"first", Some(3 << 13))]);
            assert_eq!(received(), "first");
            assert_eq!(site.dataplane.all_counted(), before, "the programs do not look at either");
            // A flow that the stack has not seen takes the short way, without a tag.
            send_frames(&site.client, &[of(1001, b"of VLAN 5", Some(5)), of(1001, b"second", None)]);
            assert_eq!(received(), "second");
            let mut expected = before;
            expected[Counter::ToPod.index() as usize] += 1;
            assert_eq!(site.dataplane.all_counted(), expected);
        }
    });
}

#[test]
fn a_pod_that_marks_its_packets_as_those_of_the_short_way_gains_nothing() {
    for flags in [PEER, 0] {
        with_site(flags, |site| {
            for pod in [&site.client, &site.server] {
                let _inside = pod.enter().unwrap();
                tc("qdisc add dev eth0 clsact");
                // A filter's class becomes the packet's `tc_index`, which it keeps on its way through the link.
                tc(&format!(
                    "filter add dev eth0 egress protocol all u32 match u32 0 0 classid 1:{SHORT_MARK:x}"
                ));
            }
            for f in families() {
                // If `to_pod` believed the mark, it would not note these flows, and their answers would go round what translates them.
                serve(&f, f.server);
                through_service(site, &f, true);
            }
        });
    }
}

/// Octets that a segment of TCP may have before it is cut up, with "BIG TCP".
const LARGEST: u32 = 180_000;

/// Lets a pod's interface have TCP send such segments.
fn send_large_segments(pod: &Namespace) {
    const NLM_F_REQUEST_AND_ACK: u16 = 1 | 4;
    const RTM_SETLINK: u16 = 19;
    const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
    let _inside = pod.enter().unwrap();
    ip(&format!("link set eth0 gso_max_size {LARGEST}"));
    // The `ip` of Debian 12 does not know that of IPv4. A message, an interface, an attribute (`rtnetlink(7)`).
    let index = if_nametoindex("eth0").unwrap();
    let message = [
        [40_u32.to_ne_bytes(), two(RTM_SETLINK, NLM_F_REQUEST_AND_ACK), [0; 4], [0; 4]],
        [[0; 4], index.to_ne_bytes(), [0; 4], [0; 4]],
    ];
    let attribute = [two(8, IFLA_GSO_IPV4_MAX_SIZE), LARGEST.to_ne_bytes()];
    let message = [message.as_flattened().as_flattened(), attribute.as_flattened()].concat();
    let (kind, protocol) = (SockType::Raw, SockProtocol::NetlinkRoute);
    let kernel = socket(AddressFamily::Netlink, kind, SockFlag::SOCK_CLOEXEC, protocol).unwrap();
    sendto(kernel.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty()).unwrap();
    let mut answer = [0; 128];
    assert!(recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap() >= 20);
    assert_eq!(answer[16..20], [0; 4], "the kernel refuses to have larger segments");
}

fn two(one: u16, other: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
    [a, b, c, d]
}

/// Octets that are sent at once.
const OCTETS: usize = 16 << 20;
/// How often, until some of them went in large segments: TCP makes segments as large as the way seems to take, which is found out on the way,
/// and later on a busy machine.
const MOST_TIMES: u32 = 20;

/// Whether this kernel has them: with IPv4 since Linux 6.3.
fn can_have_large_segments(to: IpAddr) -> bool {
    to.is_ipv6() || KernelVersion::current().unwrap() >= KernelVersion::new(6, 3, 0)
}

/// Sends from the client to another pod and back, in large segments where this kernel has them.
fn transfer_in_large_segments(client: &Namespace, to: &Namespace, address: IpAddr) {
    let (near, far) = connect(client, to, address, |port| (address, port).into());
    let sent = || {
        let _inside = client.enter().unwrap();
        packets("eth0")[0]
    };
    let has_large = || {
        let before = sent();
        transfer(&near, &far, OCTETS);
        // Fewer than there could be if none had more than 64 KiB.
        sent() - before < (OCTETS / 65_536).try_into().unwrap()
    };
    if can_have_large_segments(address) {
        assert!((0..MOST_TIMES).any(|_| has_large()), "no large segments to {address}");
    } else {
        assert!(!has_large());
    }
    transfer(&far, &near, OCTETS);
}

#[test]
fn segments_too_large_for_the_length_in_their_headers_take_the_short_way_too() {
    for flags in [PEER, 0] {
        with_site(flags, |site| {
            send_large_segments(&site.client);
            for f in families() {
                let before = site.dataplane.all_counted();
                transfer_in_large_segments(&site.client, &site.server, f.server);
                assert_short(site, before, Counter::ToPod, 20);
                let before = site.dataplane.all_counted();
                transfer_in_large_segments(&site.client, &site.remote, f.remote);
                assert_short(site, before, Counter::ToNode, 20);
            }
        });
    }
}

#[test]
fn segments_too_large_for_a_tunnels_headers_go_through_its_device_and_arrive() {
    with_site(PEER, |site| {
        site.tunnel();
        send_large_segments(&site.client);
        for f in families() {
            let before = site.dataplane.all_counted();
            transfer_in_large_segments(&site.client, &site.remote, f.remote);
            // To the device.
            assert_short(site, before, Counter::ToNode, u64::from(can_have_large_segments(f.remote)));
            assert_short(site, before, Counter::ToTunnel, 1);
            assert_eq!(site.dataplane.counted(Counter::Lost), 0);
        }
    });
}
