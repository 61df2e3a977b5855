//! Addresses of both families as one key.

use core::{
    mem::{align_of, size_of},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Bits before the address of an IPv4 address that is mapped into IPv6.
pub const IPV4_PREFIX_LEN: u32 = 96;

/// An address: IPv6 in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// Of an IPv4 packet's field, whose octets are in network order.
    pub const fn from_ipv4(octets: [u8; 4]) -> Self {
        let [a, b, c, d] = octets;
        Self([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::from_ipv4(address.octets()),
            IpAddr::V6(address) => Self(address.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let address = Ipv6Addr::from(address.0);
        address.to_ipv4_mapped().map_or(Self::V6(address), |address: Ipv4Addr| Self::V4(address))
    }
}

const _: () = assert!(size_of::<Address>() == 16 && align_of::<Address>() == 1);

plain!(Address);
