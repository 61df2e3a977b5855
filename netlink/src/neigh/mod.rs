//! Neighbours: which link-layer address a network address has.

mod add;
mod delete;
mod show;

use std::{fmt, net::IpAddr};

use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

pub use add::replace_permanent;
pub use delete::delete;
pub use show::list_on;

use crate::{MacAddr, link::IfIndex};

/// An entry of the neighbour table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The interface.
    pub link: IfIndex,
    /// The network address.
    pub address: IpAddr,
    /// The link-layer address, where it is known.
    pub mac: Option<MacAddr>,
    /// Never asked for and never forgotten.
    pub permanent: bool,
}

impl Neighbour {
    pub(crate) fn parse(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                    address = Some(IpAddr::V4(*ip));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                    address = Some(IpAddr::V6(*ip));
                }
                NeighbourAttribute::LinkLayerAddress(octets) => {
                    mac = octets.as_slice().try_into().ok().map(MacAddr::new);
                }
                _ => {}
            }
        }
        Some(Self {
            link: IfIndex::new(message.header.ifindex)?,
            address: address?,
            mac,
            permanent: message.header.state == NeighbourState::Permanent,
        })
    }
}

/// A neighbour message in words, for errors.
pub(crate) struct Described<'a>(pub(crate) &'a NeighbourMessage);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (Neighbour::parse(self.0), crate::fdb::Entry::parse(self.0)) {
            (Some(neighbour), _) => write!(f, "neighbour {} on link {}", neighbour.address, neighbour.link),
            (None, Some(entry)) => entry.fmt(f),
            (None, None) => f.write_str("neighbour"),
        }
    }
}

fn message(link: IfIndex, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = crate::addr::family(address);
    message.header.ifindex = link.number();
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message
}
