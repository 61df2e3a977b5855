//! The last step of the short way: out of an interface, with one hop less to live.
//!
//! Nothing of a packet is changed before it is certain that it goes.

use core::{
    mem::{MaybeUninit, size_of, transmute},
    ptr,
};

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_SUCCESS, TC_ACT_SHOT, TC_ACT_UNSPEC,
        bpf_fib_lookup as Lookup, bpf_redir_neigh as NextHop,
    },
    helpers::{
        bpf_csum_update, bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer,
        bpf_skb_change_head,
    },
};
use margay_ebpf_common::{
    counter::Counter,
    endpoint::{FRAMES, PEER},
    flow::{End, SHORT_MARK},
};

use crate::{
    maps::{UPLINKS, count, value},
    parse::{BARE, ETHERNET, Headers, NETWORK, Packet},
    tunnel::{self, Entered},
    words::{OnStack, Zero, clear, zero},
};

// SAFETY: integers, and unions of integers.
unsafe impl Zero for Lookup {}
// SAFETY: likewise.
unsafe impl Zero for NextHop {}

pub(crate) const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What a look-up of a way says that is none of the programs': no value of `UPLINKS`.
const NOWHERE: u32 = u32::MAX;

/// To an end of a flow. `None`: only the stack can tell the way, or what is wrong with the packet.
#[inline(always)]
pub(crate) fn go<const LINK: u32>(packet: Packet, headers: &Headers, to: &End) -> Option<i32> {
    if headers.hops <= 1 {
        return None;
    }
    // What is to be cut up is as long as its segments.
    let length = match packet.gso_size() {
        0 => headers.length,
        segment => headers.payload - LINK + segment,
    };
    if to.ifindex != 0 {
        return to_pod::<LINK>(packet, headers, to, length);
    }
    // What comes out of a tunnel is for a pod of this node, or the stack's.
    if LINK == BARE {
        return None;
    }
    match to_node(packet, headers, length) {
        TC_ACT_UNSPEC => None,
        action => Some(action),
    }
}

#[inline(always)]
fn to_pod<const LINK: u32>(packet: Packet, headers: &Headers, to: &End, length: u32) -> Option<i32> {
    if length > to.mtu {
        return None;
    }
    if LINK == BARE {
        // The pod's link has frames. The stack would not mind a packet that has room for a header in front and comes to it after all.
        // SAFETY: the context of this run. No pointer into the packet exists here.
        if unsafe { bpf_skb_change_head(packet.as_ptr(), ETHERNET, 0) } != 0 {
            return None;
        }
        packet.write(12, [8_u8, 0])?;
    }
    one_hop_less::<NETWORK>(packet, headers)?;
    // The pod's interface takes frames to its own address only. A redirect to the peer does not look at it again
    // (`skb_do_redirect`; seen with 6.18), but who captures packets in the pod does, and a bridge in it.
    packet.write(0, to.mac)?;
    packet.write(6, to.host_mac)?;
    let action = if u32::from(to.flags) & PEER == 0 {
        packet.set_tc_index(SHORT_MARK);
        // SAFETY: the helper takes any number; what names no interface would be dropped.
        unsafe { bpf_redirect(to.ifindex, 0) }
    } else {
        packet.set_tc_index(0);
        // SAFETY: likewise.
        unsafe { bpf_redirect_peer(to.ifindex, 0) }
    };
    count(Counter::ToPod);
    Some(action as i32)
}

/// A function that is not inlined, so that its variables have the stack to themselves, cannot return an `Option`.
#[inline(never)]
fn to_node(packet: Packet, headers: &Headers, length: u32) -> i32 {
    routed(packet, headers, length).unwrap_or(TC_ACT_UNSPEC)
}

#[inline(always)]
fn routed(packet: Packet, headers: &Headers, length: u32) -> Option<i32> {
    let mut way = MaybeUninit::uninit();
    let way = zero::<Lookup, 8>(&mut way);
    let mut out_of = find_way(packet, headers, length, way);
    if out_of == NOWHERE {
        return None;
    }
    match tunnel::enter(packet, headers, way, length) {
        Entered::TUNNEL => out_of = FRAMES,
        Entered::LOST => return Some(TC_ACT_SHOT),
        not => {
            if not == Entered::NOT_AND_WAY_LOST {
                clear::<Lookup, 8>(way);
                out_of = find_way(packet, headers, length, way);
                if out_of == NOWHERE {
                    return None;
                }
            }
            one_hop_less::<NETWORK>(packet, headers)?;
            packet.set_tc_index(SHORT_MARK);
            count(Counter::ToNode);
        }
    }
    Some(if out_of == FRAMES { to_neighbour(&way.0) } else { to_device(&way.0) })
}

/// Sets the way of a packet, in a place where all is zero: as the node's own routes say, rules included, as if the packet came in where it
/// did. Says what `UPLINKS` has of its interface; [`NOWHERE`] when it is none to another node.
#[inline(never)]
fn find_way(packet: Packet, headers: &Headers, length: u32, way: &mut OnStack<Lookup>) -> u32 {
    let Ok(length) = u16::try_from(length) else { return NOWHERE };
    let lookup = &mut way.0;
    lookup.l4_protocol = headers.protocol;
    lookup.sport = u16::from_ne_bytes(headers.source_port);
    lookup.dport = u16::from_ne_bytes(headers.destination_port);
    lookup.ifindex = packet.ifindex();
    lookup.__bindgen_anon_1.tot_len = length;
    if headers.is_ipv6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_2.flowinfo = (headers.class & 0x0fff_ffff).to_be();
        lookup.__bindgen_anon_3.ipv6_src = words(headers.source.0);
        lookup.__bindgen_anon_4.ipv6_dst = words(headers.destination.0);
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_2.tos = (headers.class >> 16) as u8;
        lookup.__bindgen_anon_3.ipv4_src = last(headers.source.0);
        lookup.__bindgen_anon_4.ipv4_dst = last(headers.destination.0);
    }
    // Not to a pod of this node that may not talk yet; nor through a tunnel whose device has no programs yet that would know the answer.
    if find(packet, lookup).is_none() {
        return NOWHERE;
    }
    value!(UPLINKS, &lookup.ifindex).unwrap_or(NOWHERE)
}

/// Asks the kernel for the way of a packet: its interface and its next hop are there then.
#[inline(always)]
pub(crate) fn find(packet: Packet, lookup: &mut Lookup) -> Option<()> {
    let octets = const { size_of::<Lookup>() as i32 };
    // SAFETY: the context of this run, and a structure of as many octets as are told.
    let result = unsafe { bpf_fib_lookup(packet.as_ptr().cast(), &raw mut *lookup, octets, 0) };
    // Both have an interface and a next hop. The link-layer address in the first is not used: only the kernel's own output
    // asks an old neighbour again whether it still has it.
    let is_found =
        result == i64::from(BPF_FIB_LKUP_RET_SUCCESS) || result == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH);
    is_found.then_some(())
}

/// Out of the interface that was found, to the next hop.
#[inline(always)]
fn to_neighbour(lookup: &Lookup) -> i32 {
    let mut next_hop = MaybeUninit::uninit();
    let next_hop = &mut zero::<NextHop, 3>(&mut next_hop).0;
    next_hop.nh_family = u32::from(lookup.family);
    // SAFETY: the widest member of a union that was zero before the kernel wrote to it.
    next_hop.__bindgen_anon_1.ipv6_nh = unsafe { lookup.__bindgen_anon_4.ipv6_dst };
    let octets = const { size_of::<NextHop>() as i32 };
    // SAFETY: a structure of as many octets as are told.
    let action = unsafe { bpf_redirect_neigh(lookup.ifindex, &raw mut *next_hop, octets, 0) };
    action as i32
}

/// Out of a device that has no neighbours: it sends to the next hop of the route that the packet has (`ip_tunnel_xmit`). So the kernel looks
/// that up a second time, among those through the device, and gives it to the packet.
#[inline(always)]
fn to_device(lookup: &Lookup) -> i32 {
    // SAFETY: no structure, of no octets.
    let action = unsafe { bpf_redirect_neigh(lookup.ifindex, ptr::null_mut(), 0, 0) };
    action as i32
}

/// Counts the hop, as routers do, in the IP header that stands at a place.
#[inline(always)]
pub(crate) fn one_hop_less<const AT: usize>(packet: Packet, headers: &Headers) -> Option<()> {
    let hops = headers.hops - 1;
    if headers.is_ipv6 {
        packet.write(AT + 7, [hops])?;
        // Where the network card summed the packet up, the sum is of what it was. IPv4 has a checksum that undoes the change.
        let one = u32::from(1_u16.to_be());
        // SAFETY: the context of this run.
        unsafe { bpf_csum_update(packet.as_ptr(), !one) };
    } else {
        let checksum = u16::from_be_bytes(packet.read(AT + 10)?);
        // RFC 1624 section 3 for a word that becomes smaller by 0x100.
        let sum = u32::from(checksum) + 0x100;
        let checksum = (sum + u32::from(sum >= 0xffff)) & 0xffff;
        let word = u32::from(hops) << 24 | u32::from(headers.protocol) << 16 | checksum;
        packet.write(AT + 8, word.to_be())?;
    }
    Some(())
}

/// In the order that they have.
#[inline(always)]
const fn words(octets: [u8; 16]) -> [u32; 4] {
    // SAFETY: four times four octets are sixteen, and every bit pattern is a number.
    unsafe { transmute::<[u8; 16], [u32; 4]>(octets) }
}

/// The last four octets, in the order that they have.
#[inline(always)]
const fn last(octets: [u8; 16]) -> u32 {
    let [.., a, b, c, d] = octets;
    u32::from_ne_bytes([a, b, c, d])
}
