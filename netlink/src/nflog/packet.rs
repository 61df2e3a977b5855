//! What the headers of an IP packet say of where it goes.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Numbers of protocols, and of IPv6 extension headers (IANA).
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION_OPTIONS: u8 = 60;
const SCTP: u8 = 132;
const MOBILITY: u8 = 135;
const UDP_LITE: u8 = 136;
const HOST_IDENTITY: u8 = 139;
const SHIM6: u8 = 140;

/// Octets of an IPv4 header without options (RFC 791 section 3.1).
const IPV4_HEADER: usize = 20;
/// Octets of an IPv6 header (RFC 8200 section 3).
const IPV6_HEADER: usize = 40;

/// What a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Who sends it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// As in the IP header, after extension headers.
    pub protocol: u8,
    /// What of the protocol's header is told.
    pub transport: Transport,
}

/// What of a protocol's header is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Of TCP, UDP, UDP-Lite and SCTP.
    Ports {
        /// Of the sender.
        source: u16,
        /// Of the receiver.
        destination: u16,
    },
    /// Of ICMP and `ICMPv6`.
    Icmp {
        /// The type.
        kind: u8,
        /// The code.
        code: u8,
    },
    /// Of other protocols, of fragments but the first, and of packets that end too soon.
    Unknown,
}

impl Packet {
    /// Reads the beginning of a packet; `None` when not even its addresses are there.
    pub fn parse(octets: &[u8]) -> Option<Self> {
        match octets.first()? >> 4 {
            4 => ipv4(octets),
            6 => ipv6(octets),
            _ => None,
        }
    }
}

fn ipv4(octets: &[u8]) -> Option<Packet> {
    let header = octets.first_chunk::<IPV4_HEADER>()?;
    let [first, _, _, _, _, _, flags, offset, _, protocol, _, _, s0, s1, s2, s3, d0, d1, d2, d3] = *header;
    let words = usize::from(first & 0xf);
    let is_first = u16::from_be_bytes([flags & 0x1f, offset]) == 0;
    // Fewer than five words are no header.
    let rest = octets.get(words.saturating_mul(4)..).filter(|_| words >= 5 && is_first);
    Some(Packet {
        source: Ipv4Addr::new(s0, s1, s2, s3).into(),
        destination: Ipv4Addr::new(d0, d1, d2, d3).into(),
        protocol,
        transport: transport(protocol, rest),
    })
}

fn ipv6(octets: &[u8]) -> Option<Packet> {
    let (header, mut rest) = octets.split_first_chunk::<IPV6_HEADER>()?;
    let (addresses, mut next) = (header.get(8..)?, *header.get(6)?);
    let (source, destination) = addresses.split_first_chunk::<16>()?;
    let destination = destination.first_chunk::<16>()?;
    let mut is_first = true;
    let mut end = None;
    // Each header takes octets away, so that this ends.
    loop {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HOST_IDENTITY | SHIM6 => {
                // In units of eight octets, without the first (RFC 8200 section 4.2).
                rest.get(1).map(|units| usize::from(*units).saturating_add(1).saturating_mul(8))
            }
            // In units of four octets, without the first two (RFC 4302 section 2.2).
            AUTHENTICATION => {
                rest.get(1).map(|units| usize::from(*units).saturating_add(2).saturating_mul(4))
            }
            FRAGMENT => {
                let offset = rest.get(2).zip(rest.get(3));
                is_first &= offset.is_some_and(|(high, low)| u16::from_be_bytes([*high, *low]) & 0xfff8 == 0);
                Some(8)
            }
            _ => {
                end = Some(rest);
                break;
            }
        };
        let Some((following, after)) = length.and_then(|length| Some((*rest.first()?, rest.get(length..)?)))
        else {
            break;
        };
        (next, rest) = (following, after);
        // What follows in a later fragment is the middle of something.
        if !is_first {
            break;
        }
    }
    Some(Packet {
        source: Ipv6Addr::from(*source).into(),
        destination: Ipv6Addr::from(*destination).into(),
        protocol: next,
        transport: transport(next, end.filter(|_| is_first)),
    })
}

fn transport(protocol: u8, octets: Option<&[u8]>) -> Transport {
    let head = octets.and_then(|octets| octets.first_chunk::<4>());
    match (protocol, head) {
        (TCP | UDP | UDP_LITE | SCTP, Some([s0, s1, d0, d1])) => Transport::Ports {
            source: u16::from_be_bytes([*s0, *s1]),
            destination: u16::from_be_bytes([*d0, *d1]),
        },
        (ICMP | ICMPV6, Some([kind, code, ..])) => Transport::Icmp { kind: *kind, code: *code },
        _ => Transport::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{Packet, Transport};

    fn octets(text: &str) -> Vec<u8> {
        let digits: String = text.split_whitespace().collect();
        let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn check(text: &str, [source, destination]: [&str; 2], protocol: u8, transport: Transport) {
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let expected = Packet { source, destination, protocol, transport };
        assert_eq!(Packet::parse(&octets(text)), Some(expected), "{text}");
    }

    const V4: [&str; 2] = ["192.0.2.1", "198.51.100.7"];
    const V6: [&str; 2] = ["2001:db8::1", "2001:db8::2"];
    const V6_ADDRESSES: &str = "20010db8000000000000000000000001 20010db8000000000000000000000002";

    #[test]
    fn ports_and_types_are_found_behind_options_and_extension_headers() {
        let ports = |source, destination| Transport::Ports { source, destination };
        let v4 = |head: &str, rest: &str| format!("{head} 0000 c0000201 c6336407 {rest}");
        let v6 = |next: &str, rest: &str| format!("60000000 0028 {next} 40 {V6_ADDRESSES} {rest}");
        check(&v4("4500003c 1c464000 4006", "a2c30050 00000000"), V4, 6, ports(0xa2c3, 80));
        // Record route, which makes the header six words long.
        check(&v4("4600003c 1c464000 4011", "07040400 d431 0035 0008 0000"), V4, 17, ports(54321, 53));
        check(&v4("45000054 00004000 4001", "0800f7ff"), V4, 1, Transport::Icmp { kind: 8, code: 0 });
        check(&v4("45000054 00002000 4011", "00010002"), V4, 17, ports(1, 2));
        check(&v4("45000054 00002001 4011", "00010002"), V4, 17, Transport::Unknown);
        check(&v4("45000054 00004000 402f", "00000800"), V4, 47, Transport::Unknown);
        check(&v6("84", "0bb8 0bb9 00000000"), V6, 132, ports(3000, 3001));
        check(&v6("3a", "8100 0000"), V6, 58, Transport::Icmp { kind: 129, code: 0 });
        // Hop-by-hop, destination options of 16 octets, the first fragment, authentication of 24 octets.
        let chain = "3c00050200000000 2c01010c 000000000000000000000000 3300000100000007 06040000 00000001 00000001 000000000000000000000000 a2c301bb";
        check(&v6("00", chain), V6, 6, ports(0xa2c3, 443));
        check(&v6("2c", "1100 0008 00000007 00010002"), V6, 17, Transport::Unknown);
        // The end comes before the ports do.
        check(&v6("06", "a2c3"), V6, 6, Transport::Unknown);
        check(&v6("3c", "06ff000000000000 a2c301bb"), V6, 60, Transport::Unknown);
    }

    #[test]
    fn what_is_no_packet_is_none() {
        for text in
            ["", "45", "4500003c1c4640004006", "60000000", "5500003c 1c464000 4006 0000 c0000201 c6336407"]
        {
            assert_eq!(Packet::parse(&octets(text)), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn octets_of_any_kind_are_read_without_panic(
            octets in vec(any::<u8>(), 0..160),
            version in prop_oneof![Just(0x45_u8), Just(0x60), any::<u8>()],
            next in prop_oneof![Just(0_u8), Just(43), Just(44), Just(51), Just(60), any::<u8>()],
        ) {
            let mut octets = octets;
            for (place, octet) in [(0, version), (6, next), (40, next)] {
                if let Some(found) = octets.get_mut(place) {
                    *found = octet;
                }
            }
            let _read = Packet::parse(&octets);
        }
    }
}
