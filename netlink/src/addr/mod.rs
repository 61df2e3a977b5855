//! Addresses of interfaces.

mod add;
mod delete;
mod show;

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
};

pub use add::add;
pub use delete::delete;
pub use show::{list, list_on};

use crate::link::IfIndex;

/// An address on an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The interface.
    pub link: IfIndex,
    /// The address with the length of its prefix.
    pub network: IpNetwork,
    /// Whether others than this host and link can use it (scope `global`).
    pub global: bool,
    /// Whether it can be used.
    pub state: State,
    /// Of IPv4, not the first of its subnet on the interface; of IPv6, one of those that change for privacy (RFC 8981).
    pub secondary: bool,
}

/// Whether an address can be used (RFC 4862 section 5.5.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// For everything.
    Preferred,
    /// For what uses it already.
    Deprecated,
    /// Not yet, as duplicate address detection has not finished, or never, as it has found another (IPv6).
    Tentative,
}

impl State {
    fn of(flags: AddressHeaderFlags) -> Self {
        if flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed) {
            Self::Tentative
        } else if flags.contains(AddressHeaderFlags::Deprecated) {
            Self::Deprecated
        } else {
            Self::Preferred
        }
    }
}

impl Address {
    pub(crate) fn parse(message: &AddressMessage) -> Option<Self> {
        let mut local = None;
        let mut peer = None;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(address) => local = Some(*address),
                AddressAttribute::Address(address) => peer = Some(*address),
                _ => {}
            }
        }
        Some(Self {
            link: IfIndex::new(message.header.index)?,
            network: IpNetwork::new(local.or(peer)?, message.header.prefix_len).ok()?,
            global: message.header.scope == AddressScope::Universe,
            state: State::of(message.header.flags),
            secondary: message.header.flags.contains(AddressHeaderFlags::Secondary),
        })
    }
}

/// An address message in words, for errors.
pub(crate) struct Described<'a>(pub(crate) &'a AddressMessage);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.0.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(address) => Some(*address),
            _ => None,
        });
        match address {
            Some(address) => write!(f, "address {address}/{}", self.0.header.prefix_len)?,
            None => f.write_str("address")?,
        }
        write!(f, " on link {}", self.0.header.index)
    }
}

fn message(link: IfIndex, network: IpNetwork) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(network.ip());
    message.header.prefix_len = network.prefix();
    message.header.index = link.number();
    message.attributes.push(AddressAttribute::Address(network.ip()));
    message.attributes.push(AddressAttribute::Local(network.ip()));
    message
}

pub(crate) fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
