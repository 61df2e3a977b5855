//! Forwarding entries: behind which address a tunnel finds a link-layer address.

mod add;
mod delete;
mod show;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_route::{
    AddressFamily,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};

pub use add::replace_permanent;
pub use delete::delete;
pub use show::list_on;

use crate::{MacAddr, link::IfIndex};

/// An entry of a tunnel's forwarding table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// The tunnel.
    pub link: IfIndex,
    /// The link-layer address inside of it.
    pub mac: MacAddr,
    /// The host that has it.
    pub destination: IpAddr,
    /// Never forgotten.
    pub permanent: bool,
}

impl Entry {
    pub(crate) fn parse(message: &NeighbourMessage) -> Option<Self> {
        if message.header.family != AddressFamily::Bridge {
            return None;
        }
        let (mut mac, mut destination) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(address) => destination = ip(address),
                NeighbourAttribute::LinkLayerAddress(octets) => {
                    mac = octets.as_slice().try_into().ok().map(MacAddr::new);
                }
                _ => {}
            }
        }
        Some(Self {
            link: IfIndex::new(message.header.ifindex)?,
            mac: mac?,
            destination: destination?,
            permanent: message.header.state == NeighbourState::Permanent,
        })
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "forwarding entry {} to {} on link {}", self.mac, self.destination, self.link)
    }
}

/// The family of a forwarding entry is that of bridges, so that only the length tells which address it has.
fn ip(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(address) => Some(IpAddr::V4(*address)),
        NeighbourAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        NeighbourAddress::Other(octets) => match <[u8; 4]>::try_from(octets.as_slice()) {
            Ok(octets) => Some(IpAddr::V4(Ipv4Addr::from(octets))),
            Err(_) => {
                <[u8; 16]>::try_from(octets.as_slice()).ok().map(|octets| IpAddr::V6(Ipv6Addr::from(octets)))
            }
        },
        _ => None,
    }
}

fn message(link: IfIndex, mac: MacAddr, destination: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link.number();
    message.header.flags = NeighbourFlags::Own;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(destination.into()));
    message
}
