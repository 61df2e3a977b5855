//! Into a tunnel of VXLAN or of IP-in-IP, without its device: the headers that this would write are written here, and the packet goes on
//! to where the route of the outer packet leads.
//!
//! Nothing of a packet is changed before it is certain that it goes; what does not is left to the device.

use core::mem::transmute;

use aya_ebpf::{
    bindings::{
        BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
        bpf_fib_lookup as Lookup,
    },
    helpers::{bpf_get_hash_recalc, bpf_get_prandom_u32, bpf_skb_adjust_room},
};
use margay_ebpf_common::{
    counter::Counter,
    endpoint::FRAMES,
    flow::{SHORT_MARK, UDP},
    tunnel::{FIRST_SOURCE_PORT, IPIP, IPIP_OVERHEAD, IPIP_PROTOCOL, TunnelKey, VXLAN_OVERHEAD},
};

use crate::{
    maps::{TUNNELS, UPLINKS, count, value},
    parse::{ETHERNET, Headers, NETWORK, Packet},
    route::{AF_INET, find, one_hop_less},
    words::{OnStack, clear},
};

/// What `bpf_skb_adjust_room` is told: the size of segments stays as it is, as it was compared with the MTU of the outer route, and
/// each of them gets all outer headers.
const IPIP_FLAGS: u64 = BPF_F_ADJ_ROOM_FIXED_GSO as u64 | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 as u64;
const VXLAN_FLAGS: u64 = IPIP_FLAGS
    | BPF_F_ADJ_ROOM_ENCAP_L4_UDP as u64
    | BPF_F_ADJ_ROOM_ENCAP_L2_ETH as u64
    | (ETHERNET as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;

/// The loopback interface of every network namespace: routes of what the node itself sends are looked up as if it came from there.
const LOOPBACK: u32 = 1;
/// Version 4, and five words of header.
const VERSION_AND_LENGTH: u32 = 0x45;
/// As the kernel's device has it, if nobody has set `net.ipv4.ip_default_ttl`.
const HOPS: u32 = 64;
/// The VNI is there (RFC 7348 section 5).
const HAS_VNI: u32 = 0x0800_0000;
/// Explicit congestion notification: the bits of it, "congestion experienced" and ECT(0) (RFC 3168 section 5).
const ECN: u32 = 3;
const CE: u32 = 3;
const ECT_0: u32 = 2;
/// IPv4's "do not cut up" (RFC 791 section 3.1), in the word of the identification.
const WHOLE: u32 = 0x4000;
/// Where what stands behind the outer header of IPv4 begins: of IP-in-IP the packet that was there, of VXLAN the header of UDP.
const BEHIND: usize = NETWORK + IPIP_OVERHEAD as usize;
/// Where in VXLAN the packet that was there begins, and the `EtherType` in front of it.
const INNER: usize = NETWORK + VXLAN_OVERHEAD as usize;
const INNER_ETHERTYPE: usize = INNER - 2;

/// What [`enter`] has done with a packet: a number, as a function that is not inlined cannot return more.
pub(crate) struct Entered;

impl Entered {
    /// Nothing, and the look-up is as it was: there is no entry for it, or it is too large.
    pub(crate) const NOT: u32 = 0;
    /// Nothing, but the look-up is that of the outer packet.
    pub(crate) const NOT_AND_WAY_LOST: u32 = 1;
    /// It is in the tunnel, and is to go where the look-up leads, which is that of the outer packet.
    pub(crate) const TUNNEL: u32 = 2;
    /// It can neither go on nor back.
    pub(crate) const LOST: u32 = 3;
}

/// Puts a packet into the tunnel that a route of the node leads to, if there is an entry for it. `length` is that of the packet, or of
/// each of its segments, from the IP header on. The route of the outer packet is looked up in the place of that of the inner one: there
/// is no room on the stack for two.
///
/// Not inlined, as its variables want the stack to themselves.
#[inline(never)]
pub(crate) fn enter(packet: Packet, headers: &Headers, way: &mut OnStack<Lookup>, length: u32) -> u32 {
    let Some(to) = end(&way.0) else { return Entered::NOT };
    let [local, remote, .., port] = to;
    let is_ipip = is_ipip(port);
    // Its protocol number says what is inside, and that is IPv4.
    if is_ipip && headers.is_ipv6 {
        return Entered::NOT;
    }
    let overhead = if is_ipip { IPIP_OVERHEAD } else { VXLAN_OVERHEAD };
    // With all that stands behind it, as of a short packet in a frame of 60 octets.
    let octets = packet.len() - ETHERNET + overhead;
    let longest = if packet.gso_size() == 0 { octets } else { length + overhead };
    let (Ok(total), Ok(longest)) = (u16::try_from(octets), u16::try_from(longest)) else {
        return Entered::NOT;
    };
    let mut source_port = 0;
    if !is_ipip {
        // Of the flow that is inside, so that routers and network cards keep its packets in their order.
        // SAFETY: the context of this run.
        let hash = unsafe { bpf_get_hash_recalc(packet.as_ptr()) };
        source_port = u32::from(FIRST_SOURCE_PORT) | ((hash ^ hash >> 16) & 0x3fff);
    }

    let device = way.0.ifindex;
    clear::<Lookup, 8>(way);
    let lookup = &mut way.0;
    lookup.family = AF_INET;
    lookup.l4_protocol = if is_ipip { IPIP_PROTOCOL } else { UDP };
    lookup.sport = (source_port as u16).to_be();
    lookup.dport = port as u16;
    lookup.ifindex = LOOPBACK;
    lookup.__bindgen_anon_1.tot_len = longest;
    lookup.__bindgen_anon_3.ipv4_src = local;
    lookup.__bindgen_anon_4.ipv4_dst = remote;
    // A route of the outer packet into its own tunnel is for the device to complain of.
    if find(packet, lookup).is_none()
        || lookup.ifindex == device
        || value!(UPLINKS, &lookup.ifindex) != Some(FRAMES)
    {
        return Entered::NOT_AND_WAY_LOST;
    }

    // It refuses what is in a tunnel already, and what is cut up other than TCP and UDP are, and leaves that as it was
    // (`bpf_skb_net_grow`). What a network card summed up of the packet is not kept: nothing that is sent needs it.
    let flags = if is_ipip { IPIP_FLAGS } else { VXLAN_FLAGS };
    // SAFETY: the context of this run. No pointer into the packet exists here.
    if unsafe { bpf_skb_adjust_room(packet.as_ptr(), overhead as i32, BPF_ADJ_ROOM_MAC, flags) } != 0 {
        return Entered::NOT_AND_WAY_LOST;
    }
    // From here on it cannot go back. Nor need it: the headers that were read in place are in place still, in memory of the packet's own
    // (`skb_cow_head`), and what was made room for is before them.
    if write(packet, headers, &to, u32::from(total), source_port).is_none() {
        count(Counter::Lost);
        return Entered::LOST;
    }
    packet.set_tc_index(SHORT_MARK);
    count(Counter::ToTunnel);
    Entered::TUNNEL
}

/// What is known of the other end of the tunnel, by words: [`Tunnel`](margay_ebpf_common::tunnel::Tunnel), without its padding.
#[inline(always)]
fn end(way: &Lookup) -> Option<[u32; 7]> {
    // SAFETY: the widest member of a union that was zero before the kernel wrote to it.
    let next_hop = unsafe { way.__bindgen_anon_4.ipv6_dst };
    let [first, second, third, fourth] = next_hop;
    let words = if way.family == AF_INET {
        [way.ifindex, 0, 0, 0, 0xffff_u32.to_be(), first]
    } else {
        [way.ifindex, 0, first, second, third, fourth]
    };
    // SAFETY: both have 24 octets, and every bit pattern is a number or an octet.
    let key = OnStack(unsafe { transmute::<[u32; 6], TunnelKey>(words) });
    let entry = TUNNELS.get_ptr(&key.0)?;
    // SAFETY: the kernel gave this pointer, not null, to a value of 32 octets that is aligned to eight and readable while this program runs.
    Some(unsafe { entry.cast::<[u32; 7]>().read() })
}

/// Whether the last word of an end says so.
#[inline(always)]
const fn is_ipip(last: u32) -> bool {
    let [.., kind, _] = last.to_ne_bytes();
    kind == IPIP
}

/// Writes all headers into the room before the packet that was there, and takes a hop off that.
#[inline(always)]
fn write(packet: Packet, headers: &Headers, to: &[u32; 7], total: u32, source_port: u32) -> Option<()> {
    let [local, remote, vni, macs @ .., port] = to;
    let class = if headers.is_ipv6 { headers.class >> 20 } else { headers.class >> 16 };
    // RFC 6040 section 4.1 says to copy all of it; the kernel's device says ECT(0) of what met congestion before (RFC 3168 section 9.1.1),
    // and so does this.
    let ecn = if class & ECN == CE { ECT_0 } else { class & ECN };
    // SAFETY: the helper takes nothing.
    let identification = unsafe { bpf_get_prandom_u32() } & 0xffff;
    let first = VERSION_AND_LENGTH << 24 | ecn << 16 | total;
    let is_ipip = is_ipip(*port);
    let (fragment, protocol) = if is_ipip { (WHOLE, IPIP_PROTOCOL) } else { (0, UDP) };
    let third = HOPS << 24 | u32::from(protocol) << 16;
    let words = [first, identification << 16 | fragment, third, u32::from_be(*local), u32::from_be(*remote)];
    let [_, second, ..] = words;
    let third = third | checksum(words);
    packet.write(NETWORK, [first.to_be(), second.to_be(), third.to_be(), *local, *remote])?;
    if is_ipip {
        return one_hop_less::<BEHIND>(packet, headers);
    }
    let ports = source_port << 16 | u32::from(u16::from_be(*port as u16));
    let length = total - 20;
    let [a, b, c] = macs;
    let outer = [
        ports.to_be(),
        // Without a checksum: what is inside has its own (RFC 7348 section 5).
        (length << 16).to_be(),
        HAS_VNI.to_be(),
        *vni,
        *a,
        *b,
        *c,
    ];
    packet.write(BEHIND, outer)?;
    packet.write(INNER_ETHERTYPE, if headers.is_ipv6 { [0x86_u8, 0xdd] } else { [0x08, 0] })?;
    one_hop_less::<INNER>(packet, headers)
}

/// RFC 1071, of a header of IPv4 by words in the machine's order.
#[inline(always)]
const fn checksum(words: [u32; 5]) -> u32 {
    let [first, second, third, source, destination] = words;
    // Five numbers of 32 bits in one of 64.
    let sum = first as u64 + second as u64 + third as u64 + source as u64 + destination as u64;
    let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u32) & 0xffff
}
