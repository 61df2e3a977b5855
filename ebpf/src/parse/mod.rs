//! From octets to the headers of a packet.
//!
//! Reads through [`packet`] alone, and nothing but headers. It says of each packet that is not malformed what it is; whether
//! it may take the short way is for others.

mod extension;
mod packet;
mod wire;

use core::mem::transmute;

use margay_ebpf_common::{
    address::Address,
    flow::{TCP, UDP},
};

pub(crate) use self::packet::Packet;
use self::wire::{Ipv4, Ipv6, Ports, Tcp, Udp};
use crate::flow::order;
use crate::words::Zero;

/// Octets of an Ethernet header: where the IP header stands in most packets.
pub(crate) const ETHERNET: u32 = 14;
/// Where it stands in a packet that has no link-layer header.
pub(crate) const BARE: u32 = 0;
/// Where the IP header stands behind one of Ethernet.
pub(crate) const NETWORK: usize = 14;
const IPV4: u32 = 20;
const IPV6: u32 = 40;
/// Octets of the longest headers that are read in place: Ethernet, IP and TCP without options.
const IN_PLACE_IPV4: usize = 54;
const IN_PLACE_IPV6: usize = 74;
/// Of IP and TCP alone.
const IN_PLACE_BARE: usize = 40;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// Of an IPv4 packet's fragment field: where in the whole packet it begins.
const IPV4_OFFSET: u16 = 0x1fff;
/// That more follows.
const IPV4_MORE: u16 = 0x2000;
/// IPv6: a header that every hop looks at, and an option of it that has the length of the packet (RFC 2675 section 2).
const HOP_BY_HOP: u8 = 0;
const JUMBO: [u8; 2] = [0xc2, 4];
/// Octets of such a header, with that option alone.
const JUMBO_HEADER: u32 = 8;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Types that ask for an answer (RFC 792, RFC 4443).
const ECHO: u8 = 8;
const ECHO_V6: u8 = 128;

/// TCP: the sender will send no more.
pub(crate) const FIN: u8 = 1;
/// TCP: the first of a connection, or the answer to it.
pub(crate) const SYN: u8 = 2;
/// TCP: the connection is no more.
pub(crate) const RST: u8 = 4;
/// TCP: an answer.
pub(crate) const ACK: u8 = 16;

/// What a packet is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// None of what the programs care for, and nothing is wrong with it: not IP, or another protocol.
    Foreign,
    /// Truncated, malformed, or with headers that the programs do not understand.
    Unparsed,
    /// A whole packet of TCP or UDP.
    Whole,
    /// The first fragment of one, which has the ports.
    First,
    /// A later fragment of one.
    Later,
    /// An ICMP error.
    Error,
    /// A request for an echo, which the stack tracks.
    Asking,
}

/// The headers of a packet; which are set depends on its [`Kind`].
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(crate) struct Headers {
    /// Source address.
    pub(crate) source: Address,
    /// Destination address.
    pub(crate) destination: Address,
    /// Source port, in network order.
    pub(crate) source_port: [u8; 2],
    /// Destination port, in network order.
    pub(crate) destination_port: [u8; 2],
    /// Identification of a fragment: the octets in [`FragmentKey`](margay_ebpf_common::flow::FragmentKey), the first highest.
    pub(crate) identification: u32,
    /// Octets of the packet from its IP header on.
    pub(crate) length: u32,
    /// Where the header of TCP, UDP or ICMP begins, from the start of the packet.
    pub(crate) transport: u32,
    /// Where its payload begins, likewise.
    pub(crate) payload: u32,
    /// The octets before the length, the first highest: version, traffic class, flow label; of IPv4 the second is the type of
    /// service.
    pub(crate) class: u32,
    /// Protocol number.
    pub(crate) protocol: u8,
    /// TCP's flags.
    pub(crate) flags: u8,
    /// Time to live, or hop limit.
    pub(crate) hops: u8,
    /// Whether it has IPv4 options, or IPv6 headers that every hop looks at or that say which way to go.
    pub(crate) has_options: bool,
    /// Whether it is of IPv6.
    pub(crate) is_ipv6: bool,
    /// Zero.
    pub(crate) padding: [u8; 3],
}

// SAFETY: octets, numbers and flags.
unsafe impl Zero for Headers {}

impl Headers {
    /// Whether it is of those that have flows.
    #[inline(always)]
    pub(crate) const fn has_flow(&self) -> bool {
        matches!(self.protocol, TCP | UDP)
    }

    /// Whether it asks for something new, whatever the stack knows of its ends; docs/ebpf.md has what is nevertheless another matter.
    #[inline(always)]
    pub(crate) const fn begins(&self) -> bool {
        self.is_opening() || !self.has_flow()
    }

    /// Whether it asks for a connection of TCP.
    #[inline(always)]
    pub(crate) const fn is_opening(&self) -> bool {
        self.protocol == TCP && self.flags & (SYN | ACK) == SYN
    }
}

/// Reads the headers of a packet whose IP header stands behind `LINK` octets: [`ETHERNET`], or [`BARE`], which is for IPv4 alone.
/// Not inlined: what calls it has the stack to itself, and the verifier less to tell apart.
#[inline(never)]
pub(crate) fn parse<const LINK: u32>(packet: Packet, headers: &mut Headers) -> Kind {
    if LINK == BARE {
        if packet.protocol() != u32::from(ETHERTYPE_IPV4.to_be()) {
            return Kind::Foreign;
        }
        packet.pull::<IN_PLACE_BARE>();
        return ipv4::<BARE>(packet, headers);
    }
    packet.pull::<IN_PLACE_IPV4>();
    let Some(ethertype) = packet.read::<[u8; 2]>(12) else {
        return Kind::Foreign;
    };
    match u16::from_be_bytes(ethertype) {
        ETHERTYPE_IPV4 => ipv4::<ETHERNET>(packet, headers),
        ETHERTYPE_IPV6 => {
            packet.pull::<IN_PLACE_IPV6>();
            ipv6(packet, headers)
        }
        _ => Kind::Foreign,
    }
}

/// RFC 791 section 3.1.
#[inline(always)]
fn ipv4<const LINK: u32>(packet: Packet, headers: &mut Headers) -> Kind {
    let Some(header) = packet.read::<Ipv4>(const { LINK as usize }) else {
        return Kind::Unparsed;
    };
    let octets = 4 * u32::from(header.version_and_length & 0xf);
    headers.length = u32::from(u16::from_be_bytes(header.length));
    // Segments of TCP that are longer together than the field can say ("BIG TCP", since Linux 6.3): all that is there.
    if headers.length == 0 && packet.gso_size() != 0 {
        headers.length = packet.len() - LINK;
    }
    if header.version_and_length >> 4 != 4
        || octets < IPV4
        || headers.length < octets
        || headers.length + LINK > packet.len()
    {
        return Kind::Unparsed;
    }
    headers.has_options = octets != IPV4;
    headers.class = u32::from(header.service) << 16;
    headers.hops = header.hops;
    headers.protocol = header.protocol;
    headers.source = mapped(header.source);
    headers.destination = mapped(header.destination);
    headers.transport = LINK + octets;
    let fragment = u16::from_be_bytes(header.fragment);
    let kind = if fragment & IPV4_OFFSET != 0 {
        Kind::Later
    } else if fragment & IPV4_MORE != 0 {
        Kind::First
    } else {
        Kind::Whole
    };
    if kind != Kind::Whole {
        headers.identification = u32::from(u16::from_be_bytes(header.identification)) << 16;
    }
    if headers.has_options {
        transport_far::<LINK>(packet, headers, kind)
    } else {
        transport::<LINK>(packet, const { (LINK + IPV4) as usize }, headers, kind)
    }
}

/// An IPv4 address as one of both families, written by words.
#[inline(always)]
const fn mapped(octets: [u8; 4]) -> Address {
    let low = 0xffff_0000_0000 | u32::from_be_bytes(octets) as u64;
    // SAFETY: both have sixteen octets, and every bit pattern is an address.
    unsafe { transmute::<[u64; 2], Address>([0, low.to_be()]) }
}

/// RFC 8200 section 3.
#[inline(always)]
fn ipv6(packet: Packet, headers: &mut Headers) -> Kind {
    let Some(header) = packet.read::<Ipv6>(NETWORK) else {
        return Kind::Unparsed;
    };
    let class = u32::from_be_bytes(header.class);
    let payload = u32::from(u16::from_be_bytes(header.length));
    // No payload is a jumbogram (RFC 2675), or nothing; or, likewise, segments of TCP (since Linux 5.19).
    let is_large = payload == 0 && packet.gso_size() != 0;
    headers.length = if is_large { packet.len() - ETHERNET } else { IPV6 + payload };
    if class >> 28 != 6 || headers.length == IPV6 || headers.length + ETHERNET > packet.len() {
        return Kind::Unparsed;
    }
    headers.is_ipv6 = true;
    headers.class = class;
    headers.hops = header.hops;
    headers.protocol = header.next;
    headers.source = Address(header.source);
    headers.destination = Address(header.destination);
    // In the maps these are addresses of IPv4, which no packet of IPv6 has (RFC 4291 section 2.5.5.2).
    if is_mapped(&headers.source) || is_mapped(&headers.destination) {
        return Kind::Unparsed;
    }
    headers.transport = ETHERNET + IPV6;
    if is_large && headers.protocol == HOP_BY_HOP {
        return large(packet, headers);
    }
    match headers.protocol {
        TCP | UDP | ICMPV6 => transport::<ETHERNET>(packet, 54, headers, Kind::Whole),
        _ => match extension::walk(packet, headers) {
            kind @ (Kind::Whole | Kind::First | Kind::Later) => {
                transport_far::<ETHERNET>(packet, headers, kind)
            }
            kind => kind,
        },
    }
}

/// What has the length of all segments before the header of TCP. The kernel takes that off when it cuts them apart, so it is not counted.
#[inline(always)]
fn large(packet: Packet, headers: &mut Headers) -> Kind {
    let Some([TCP, 0, option, octets, a, b, c, d]) = packet.read_far::<[u8; 8]>(headers.transport) else {
        return Kind::Unparsed;
    };
    if [option, octets] != JUMBO || u32::from_be_bytes([a, b, c, d]) + IPV6 != headers.length {
        return Kind::Unparsed;
    }
    headers.protocol = TCP;
    headers.transport += JUMBO_HEADER;
    let kind = transport_far::<ETHERNET>(packet, headers, Kind::Whole);
    if kind == Kind::Whole {
        headers.payload -= JUMBO_HEADER;
    }
    kind
}

#[inline(always)]
fn is_mapped(address: &Address) -> bool {
    let (high, low) = order(address);
    high == 0 && low >> 32 == 0xffff
}

/// Reads the header of TCP, UDP or ICMP at the place that it has in nearly every packet.
#[inline(always)]
fn transport<const LINK: u32>(packet: Packet, at: usize, headers: &mut Headers, kind: Kind) -> Kind {
    match (headers.protocol, kind) {
        (TCP | UDP, Kind::Later) => Kind::Later,
        (TCP, _) => match packet.read::<Tcp>(at) {
            Some(header) => tcp::<LINK>(headers, header, kind),
            None => Kind::Unparsed,
        },
        (UDP, _) => match packet.read::<Udp>(at) {
            Some(header) => udp::<LINK>(headers, header, kind),
            None => Kind::Unparsed,
        },
        (ICMP | ICMPV6, Kind::Whole) => match packet.read::<[u8; 8]>(at) {
            Some([of, ..]) => icmp(headers, of),
            None => Kind::Unparsed,
        },
        _ => Kind::Foreign,
    }
}

/// Likewise at any place.
#[inline(never)]
fn transport_far<const LINK: u32>(packet: Packet, headers: &mut Headers, kind: Kind) -> Kind {
    match (headers.protocol, kind) {
        (TCP | UDP, Kind::Later) => Kind::Later,
        (TCP, _) => match packet.read_far::<Tcp>(headers.transport) {
            Some(header) => tcp::<LINK>(headers, header, kind),
            None => Kind::Unparsed,
        },
        (UDP, _) => match packet.read_far::<Udp>(headers.transport) {
            Some(header) => udp::<LINK>(headers, header, kind),
            None => Kind::Unparsed,
        },
        (ICMP | ICMPV6, Kind::Whole) => match packet.read_far::<[u8; 8]>(headers.transport) {
            Some([of, ..]) => icmp(headers, of),
            None => Kind::Unparsed,
        },
        _ => Kind::Foreign,
    }
}

#[inline(always)]
fn tcp<const LINK: u32>(headers: &mut Headers, header: Tcp, kind: Kind) -> Kind {
    ports(headers, header.ports);
    headers.flags = header.flags;
    let octets = u32::from(header.length >> 4) * 4;
    headers.payload = headers.transport + octets;
    if octets < 20 || headers.payload > headers.length + LINK {
        return Kind::Unparsed;
    }
    kind
}

#[inline(always)]
fn udp<const LINK: u32>(headers: &mut Headers, header: Udp, kind: Kind) -> Kind {
    ports(headers, header.ports);
    headers.payload = headers.transport + 8;
    if headers.payload > headers.length + LINK {
        return Kind::Unparsed;
    }
    kind
}

#[inline(always)]
const fn ports(headers: &mut Headers, ports: Ports) {
    headers.source_port = ports.source;
    headers.destination_port = ports.destination;
}

/// Destination unreachable, time exceeded and parameter problem (RFC 792), and packet too big (RFC 4443).
#[inline(always)]
fn icmp(headers: &mut Headers, of: u8) -> Kind {
    headers.payload = headers.transport + 8;
    match (headers.is_ipv6, headers.protocol, of) {
        (false, ICMP, 3 | 11 | 12) | (true, ICMPV6, 1..=4) => Kind::Error,
        (false, ICMP, ECHO) | (true, ICMPV6, ECHO_V6) => Kind::Asking,
        _ => Kind::Foreign,
    }
}

/// Reads the packet that an ICMP error tells of: addresses, protocol and ports. Only plain ones are looked for.
#[inline(always)]
pub(crate) fn inner(packet: Packet, error: &Headers, headers: &mut Headers) -> Kind {
    let at = error.payload;
    let transport = if error.is_ipv6 {
        let Some(header) = packet.read_far::<Ipv6>(at) else {
            return Kind::Unparsed;
        };
        headers.protocol = header.next;
        headers.source = Address(header.source);
        headers.destination = Address(header.destination);
        let [version, ..] = header.class;
        if version >> 4 != 6 {
            return Kind::Unparsed;
        }
        at + IPV6
    } else {
        let Some(header) = packet.read_far::<Ipv4>(at) else {
            return Kind::Unparsed;
        };
        headers.protocol = header.protocol;
        headers.source = mapped(header.source);
        headers.destination = mapped(header.destination);
        if header.version_and_length != 0x45 || u16::from_be_bytes(header.fragment) & IPV4_OFFSET != 0 {
            return Kind::Unparsed;
        }
        at + IPV4
    };
    if headers.protocol != TCP && headers.protocol != UDP {
        return Kind::Foreign;
    }
    let Some(found) = packet.read_far::<Ports>(transport) else {
        return Kind::Unparsed;
    };
    ports(headers, found);
    Kind::Whole
}
