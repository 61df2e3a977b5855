//! What the map `TUNNELS` holds: a hash from a device and a next hop behind it ([`TunnelKey`]) to what the kernel's own device
//! would put before a packet that is sent there ([`Tunnel`]).
//!
//! The agent's task for ways to other nodes writes it, and nobody else. An entry is there only while the kernel holds the device, and of
//! VXLAN its forwarding entry and its neighbour, as the entry says them: it goes before these are changed, and comes after. So it is
//! never wrong not to use one, and a program that finds none leaves the packet to the device. There is none where the device does more
//! than to write headers: over IPv6, which takes a checksum; where it computes the checksums of what is inside; where the node has
//! policies of xfrm (`IPsec`), which see what the stack sends alone.
//!
//! What stands here for both kinds is as the agent makes the devices: 64 hops, whatever the packet inside has left; the outer packet of VXLAN
//! may be cut up, that of IP-in-IP may not. Who changes these at a device (`ip tunnel change`) changes what goes through it alone.

use core::mem::{align_of, offset_of, size_of};

use crate::address::Address;

/// Where a route leads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(C)]
pub struct TunnelKey {
    /// Index of the tunnel's device.
    pub ifindex: u32,
    /// Zero.
    pub padding: [u8; 4],
    /// The route's gateway.
    pub next_hop: Address,
}

/// What a packet of VXLAN over IPv4 (RFC 7348 section 5) or of IP-in-IP (RFC 2003) has besides what is the same in all of its kind. In
/// network order, and in the order of the packet from the outer addresses to the inner ones, so that a program can copy them by words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(C, align(4))]
pub struct Tunnel {
    /// The outer source: this node's address.
    pub local: [u8; 4],
    /// The outer destination: the other node's.
    pub remote: [u8; 4],
    /// The VNI, and after its three octets a zero.
    pub vni: [u8; 4],
    /// Inner link-layer destination: of the other node's device.
    pub destination_mac: [u8; 6],
    /// Inner link-layer source: of this node's device.
    pub source_mac: [u8; 6],
    /// UDP port of the other node's device.
    pub port: [u8; 2],
    /// [`VXLAN`] or [`IPIP`], of which what stands between the addresses and this is zero.
    pub kind: u8,
    /// Zero.
    pub padding: [u8; 5],
}

/// A [kind](Tunnel::kind): VXLAN over IPv4.
pub const VXLAN: u8 = 0;
/// A kind: IPv4 in IPv4.
pub const IPIP: u8 = 1;

/// Octets before the packet that was there, of VXLAN: IPv4, UDP, VXLAN and Ethernet.
pub const VXLAN_OVERHEAD: u32 = 20 + 8 + 8 + 14;
/// Of IP-in-IP: IPv4 alone.
pub const IPIP_OVERHEAD: u32 = 20;

/// Protocol number of IPv4 in IPv4 (RFC 2003 section 3.1).
pub const IPIP_PROTOCOL: u8 = 4;

/// The source ports of packets in tunnels, from this one to the last (RFC 7348 section 5): one for each flow that is inside.
pub const FIRST_SOURCE_PORT: u16 = 49152;

const _: () = assert!(size_of::<TunnelKey>() == 24 && align_of::<TunnelKey>() == 4);
const _: () = assert!(offset_of!(TunnelKey, ifindex) == 0 && offset_of!(TunnelKey, next_hop) == 8);
const _: () = assert!(size_of::<Tunnel>() == 32 && align_of::<Tunnel>() == 4);
const _: () = assert!(offset_of!(Tunnel, local) == 0 && offset_of!(Tunnel, remote) == 4);
const _: () = assert!(offset_of!(Tunnel, vni) == 8 && offset_of!(Tunnel, destination_mac) == 12);
const _: () = assert!(offset_of!(Tunnel, source_mac) == 18 && offset_of!(Tunnel, port) == 24);
const _: () = assert!(offset_of!(Tunnel, kind) == 26);

plain!(TunnelKey);
plain!(Tunnel);
