//! VXLAN tunnels (RFC 7348).

use std::{fmt, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags},
};

use super::{IfName, Mtu, message, with_kind};
use crate::{MacAddr, Request};

/// A VXLAN network identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vni(u32);

impl Vni {
    /// The smallest that there is.
    pub const FIRST: Self = Self(1);
    /// The largest that there is: it has 24 bits.
    pub const MAX: u32 = (1 << 24) - 1;

    /// `None` outside 1..=16777215; 0 is what the kernel has of a device that has none.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 || number > Self::MAX { None } else { Some(Self(number)) }
    }

    /// Its number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tunnel that learns nothing and floods nothing: it sends to whom its forwarding entries say, and to nobody else.
#[derive(Debug, Clone)]
pub struct Vxlan<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its link-layer address.
    pub address: MacAddr,
    /// What fits into it.
    pub mtu: Mtu,
    /// Which network.
    pub vni: Vni,
    /// The UDP port that all ends listen on.
    pub port: u16,
    /// The host's address that it sends from; its family is that of the tunnel.
    pub local: IpAddr,
}

/// What the kernel says of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanFacts {
    /// Its VNI.
    pub vni: u32,
    /// The address that it sends from.
    pub local: Option<IpAddr>,
    /// The UDP port.
    pub port: u16,
    /// It learns who is where from what arrives.
    pub learns: bool,
    /// It sends to somebody what no entry is for.
    pub floods: bool,
}

/// Makes a tunnel that is up.
///
/// Over IPv4 its UDP checksum is zero (RFC 7348 section 5): what is inside has its own, and network cards that cannot
/// compute two at once need not. Over IPv6 it is there, as RFC 8200 section 8.1 wants: no other checksum protects the
/// addresses of the outer packet, and a kernel drops those without unless it is told otherwise.
pub fn add_vxlan(vxlan: &Vxlan<'_>) -> Request {
    let mut message = message(None);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(vxlan.name.to_string()));
    message.attributes.push(LinkAttribute::Address(vxlan.address.octets().to_vec()));
    message.attributes.push(LinkAttribute::Mtu(vxlan.mtu.octets()));
    let data = vec![
        InfoVxlan::Id(vxlan.vni.number()),
        match vxlan.local {
            IpAddr::V4(address) => InfoVxlan::Local(address),
            IpAddr::V6(address) => InfoVxlan::Local6(address),
        },
        InfoVxlan::Port(vxlan.port),
        InfoVxlan::Learning(false),
        // The attribute is about IPv4 alone; over IPv6 the kernel's default is a checksum.
        InfoVxlan::UDPCsum(false),
    ];
    message.attributes.push(with_kind(InfoKind::Vxlan, Some(InfoData::Vxlan(data))));
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

pub(super) fn parse(data: &[InfoVxlan]) -> VxlanFacts {
    let mut facts = VxlanFacts { vni: 0, local: None, port: 0, learns: false, floods: false };
    for attribute in data {
        match attribute {
            InfoVxlan::Id(vni) => facts.vni = *vni,
            InfoVxlan::Local(address) => facts.local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => facts.local = Some(IpAddr::V6(*address)),
            InfoVxlan::Port(port) => facts.port = *port,
            InfoVxlan::Learning(learns) => facts.learns = *learns,
            InfoVxlan::Group(_) | InfoVxlan::Group6(_) => facts.floods = true,
            _ => {}
        }
    }
    facts
}
