//! Packets made by hand, octet by octet.

use std::net::IpAddr;

use margay_ebpf_common::flow::{TCP, UDP};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

/// A packet between two addresses; what a test does not say is what most packets have.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) mac: [u8; 6],
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ports: (u16, u16),
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    pub(crate) hops: u8,
    /// IPv4's type of service, IPv6's traffic class.
    pub(crate) service: u8,
    pub(crate) payload: Vec<u8>,
    /// IPv4 options.
    pub(crate) options: Vec<u8>,
    /// IPv6 headers before that of the transport: number and octets, of which the first becomes the next number.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    /// IPv4: identification, and the word of flags and offset.
    pub(crate) fragment: (u16, u16),
}

impl Packet {
    pub(crate) fn new(protocol: u8, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            mac: [0; 6],
            source: source.0,
            destination: destination.0,
            ports: (source.1, destination.1),
            protocol,
            flags: ACK,
            hops: 64,
            service: 0,
            payload: b"payload".to_vec(),
            options: Vec::new(),
            extensions: Vec::new(),
            fragment: (0, 0),
        }
    }

    pub(crate) fn tcp(source: (IpAddr, u16), destination: (IpAddr, u16), flags: u8) -> Self {
        Self { flags, ..Self::new(TCP, source, destination) }
    }

    pub(crate) fn udp(source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self::new(UDP, source, destination)
    }

    pub(crate) fn answer(&self, flags: u8) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: (self.ports.1, self.ports.0),
            flags,
            ..self.clone()
        }
    }

    /// With the Ethernet header.
    pub(crate) fn octets(&self) -> Vec<u8> {
        let mut packet = [self.mac, [2, 0, 0, 0, 0, 9]].concat();
        packet.extend(if self.source.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        packet.extend(self.network());
        packet
    }

    /// From the IP header on.
    pub(crate) fn network(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        let mut next = self.protocol;
        for (number, header) in self.extensions.iter().rev() {
            let mut header = header.clone();
            header[0] = next;
            next = *number;
            rest.splice(0..0, header);
        }
        rest.extend(self.transport());
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let octets = 20 + self.options.len();
                let length = u16::try_from(octets + rest.len()).unwrap().to_be_bytes();
                let mut header =
                    vec![0x40 | u8::try_from(octets / 4).unwrap(), self.service, length[0], length[1]];
                header.extend(self.fragment.0.to_be_bytes());
                header.extend(self.fragment.1.to_be_bytes());
                header.extend([self.hops, next, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = checksum(&header).to_be_bytes();
                header[10..12].copy_from_slice(&sum);
                [header, rest].concat()
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
                let mut header = vec![0x60 | self.service >> 4, self.service << 4, 0, 0];
                header.extend([length[0], length[1], next, self.hops]);
                header.extend(source.octets());
                header.extend(destination.octets());
                [header, rest].concat()
            }
            _ => panic!("{} and {} are of two families", self.source, self.destination),
        }
    }

    fn transport(&self) -> Vec<u8> {
        let (source, destination) = (self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes());
        let mut header = [source, destination].concat();
        match self.protocol {
            TCP => header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, self.flags, 1, 0, 0, 0, 0, 0]),
            UDP => {
                header.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
                header.extend([0, 0]);
            }
            // What is to stand there is in the payload.
            _ => header.clear(),
        }
        header.extend(&self.payload);
        header
    }

    /// The ICMP error that tells its sender of it; `of` are type and code.
    pub(crate) fn error(&self, from: IpAddr, of: (u8, u8)) -> Self {
        let mut inner = self.network();
        inner.truncate(if from.is_ipv4() { 28 } else { 48 });
        let payload = [vec![of.0, of.1, 0, 0, 0, 0, 5, 0], inner].concat();
        let protocol = if from.is_ipv4() { 1 } else { 58 };
        Self { payload, ..Self::new(protocol, (from, 0), (self.source, 0)) }
    }
}

/// RFC 1071.
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    let mut sum: u32 = octets
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
