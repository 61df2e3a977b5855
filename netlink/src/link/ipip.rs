//! IP-in-IP tunnels (RFC 2003).

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoIpTunnel, InfoKind, LinkAttribute, LinkFlags},
};

use super::{IfName, Mtu, message, with_kind};
use crate::Request;

/// A tunnel of IPv4 in IPv4 without a far end of its own: it sends to the gateways of the routes that lead to it.
#[derive(Debug, Clone)]
pub struct Ipip<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// What fits into it.
    pub mtu: Mtu,
    /// The host's IPv4 address that it sends from and receives at.
    pub local: IpAddr,
}

/// What the kernel says of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpipFacts {
    /// The address that it sends from.
    pub local: Option<IpAddr>,
    /// It sends to one host alone.
    pub has_remote: bool,
}

/// Hops that a packet may take from one end to the other, whatever is left to the one inside.
const TTL: u8 = 64;

/// Makes a tunnel that is up. The outer packets may not be cut, so that senders hear of what does not fit.
pub fn add_ipip(ipip: &Ipip<'_>) -> Request {
    let mut message = message(None);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(ipip.name.to_string()));
    message.attributes.push(LinkAttribute::Mtu(ipip.mtu.octets()));
    let data = vec![InfoIpTunnel::Local(ipip.local), InfoIpTunnel::Ttl(TTL), InfoIpTunnel::PMtuDisc(true)];
    message.attributes.push(with_kind(InfoKind::IpIp, Some(InfoData::IpTunnel(data))));
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

pub(super) fn parse(data: &[InfoIpTunnel]) -> IpipFacts {
    let mut facts = IpipFacts { local: None, has_remote: false };
    for attribute in data {
        match attribute {
            InfoIpTunnel::Local(address) if !address.is_unspecified() => facts.local = Some(*address),
            InfoIpTunnel::Remote(address) => facts.has_remote = !address.is_unspecified(),
            _ => {}
        }
    }
    facts
}
