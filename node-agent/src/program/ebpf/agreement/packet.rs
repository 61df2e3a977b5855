//! The first packet of a flow, octet by octet.

use std::net::IpAddr;

use margay_policy::{Protocol, evaluate::Flow};

const HOPS: u8 = 64;

/// From the IP header on.
pub(super) fn first_of(flow: &Flow, source_port: u16) -> Vec<u8> {
    let ports = [source_port.to_be_bytes(), flow.port.to_be_bytes()].concat();
    let (mut segment, checksum_at) = match flow.protocol {
        // Sequence, acknowledgement, length of the header, SYN, window, checksum, urgent.
        Protocol::Tcp => {
            ([&ports[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat(), 16)
        }
        // Length, checksum, four octets.
        Protocol::Udp => ([&ports[..], &[0, 12, 0, 0], b"text"].concat(), 6),
        Protocol::Sctp => (init(&ports), 8),
    };
    let number = flow.protocol.number();
    let length = u8::try_from(segment.len()).unwrap();
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let addresses = [octets(flow.source), octets(flow.destination)].concat();
    // Conntrack looks at it (RFC 9293 section 3.1, RFC 768, RFC 9260 section 6.8).
    let sum = match flow.protocol {
        Protocol::Sctp => crc32c(&segment).to_le_bytes().to_vec(),
        _ => checksum(&[&addresses[..], &[0, number, 0, length], &segment].concat()).to_be_bytes().to_vec(),
    };
    segment[checksum_at..checksum_at + sum.len()].copy_from_slice(&sum);
    let mut header = match flow.source {
        IpAddr::V4(_) => vec![0x45, 0, 0, 20 + length, 0, 0, 0, 0, HOPS, number, 0, 0],
        IpAddr::V6(_) => vec![0x60, 0, 0, 0, 0, length, number, HOPS],
    };
    header.extend(addresses);
    if flow.source.is_ipv4() {
        let sum = checksum(&header).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
    [header, segment].concat()
}

/// With an Ethernet header, as a program sees it at an interface without an address of its own.
pub(super) fn framed(packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&[0; 12][..], &ethertype, packet].concat()
}

/// Whether a packet is this one on its way: with a hop less.
pub(super) fn is_on_its_way(packet: &[u8], sent: &[u8]) -> bool {
    let changed = if sent[0] >> 4 == 4 { 8..12 } else { 7..8 };
    let same = |at: usize| changed.contains(&at) || packet[at] == sent[at];
    packet.len() == sent.len() && (0..sent.len()).all(same) && packet[changed.start] == HOPS - 1
}

/// A packet of SCTP that begins an association (RFC 9260 section 3.3.2), without its checksum.
fn init(ports: &[u8]) -> Vec<u8> {
    let (no_tag, no_checksum, chunk) = ([0; 4], [0; 4], [1, 0, 0, 20]);
    // Tag, window, streams out and in, sequence.
    let rest = [0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1];
    [ports, &no_tag, &no_checksum, &chunk, &rest].concat()
}

/// RFC 9260 appendix A.
fn crc32c(octets: &[u8]) -> u32 {
    let shifted = |sum: u32, _| if sum & 1 == 0 { sum >> 1 } else { sum >> 1 ^ 0x82f6_3b78 };
    !octets.iter().fold(u32::MAX, |sum, octet| (0..8).fold(sum ^ u32::from(*octet), shifted))
}

/// RFC 1071.
fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
