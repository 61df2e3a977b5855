//! Network interfaces.

mod add;
mod delete;
mod ipip;
mod name;
mod set;
mod show;
mod vxlan;

use std::fmt;

use netlink_packet_route::{
    AddressFamily,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
};

pub use add::{Bridge, End, Veth, add_bridge, add_veth};
pub use delete::{delete, delete_by_index};
pub use ipip::{Ipip, IpipFacts, add_ipip};
pub use name::{IfName, IfNameError};
pub use set::{set_controller, set_mtu, set_name, set_up};
pub use show::{by_index, by_name, index_of, list};
pub use vxlan::{Vni, Vxlan, VxlanFacts, add_vxlan};

use crate::MacAddr;

/// The kernel's number for an interface, unique within a network namespace. Never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfIndex(u32);

impl IfIndex {
    /// The index with this number; `None` for zero, which names no interface.
    pub const fn new(number: u32) -> Option<Self> {
        if number == 0 { None } else { Some(Self(number)) }
    }

    /// The kernel's number.
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "if{}", self.0)
    }
}

/// A maximum transmission unit, in octets of the network layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u32);

impl Mtu {
    /// The least that IPv4 allows (RFC 791). IPv6 needs 1280.
    pub const MIN: u32 = 68;
    /// The most that an IP packet can be.
    pub const MAX: u32 = 65_535;

    /// `None` outside 68..=65535.
    pub const fn new(octets: u32) -> Option<Self> {
        if octets < Self::MIN || octets > Self::MAX { None } else { Some(Self(octets)) }
    }

    /// Its size in octets.
    pub const fn octets(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What the kernel says of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its number.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// Its link-layer address, when it is Ethernet.
    pub address: Option<MacAddr>,
    /// Its MTU in octets.
    pub mtu: u32,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// With a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Ready to send (`IFF_RUNNING`): the kernel drops what is sent from when there is a carrier until then.
    pub running: bool,
    /// The loopback interface.
    pub loopback: bool,
    /// The kind that made it: `veth`, `bridge`, `vxlan`; empty for hardware.
    pub kind: String,
    /// The interface that it is a port of.
    pub controller: Option<IfIndex>,
    /// What it tunnels, when it is of the kind `vxlan`.
    pub vxlan: Option<VxlanFacts>,
    /// Its ends, when it is of the kind `ipip`.
    pub ipip: Option<IpipFacts>,
}

impl Link {
    pub(crate) fn parse(message: &LinkMessage) -> Option<Self> {
        let mut link = Self {
            index: IfIndex::new(message.header.index)?,
            name: String::new(),
            address: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: message.header.flags.contains(LinkFlags::LowerUp),
            running: message.header.flags.contains(LinkFlags::Running),
            loopback: message.header.flags.contains(LinkFlags::Loopback),
            kind: String::new(),
            controller: None,
            vxlan: None,
            ipip: None,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name.clone_from(name),
                LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
                LinkAttribute::Address(octets) => {
                    link.address = octets.as_slice().try_into().ok().map(MacAddr::new);
                }
                LinkAttribute::Controller(index) => link.controller = IfIndex::new(*index),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                            LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = Some(vxlan::parse(data)),
                            LinkInfo::Data(InfoData::IpTunnel(data)) if link.kind == "ipip" => {
                                link.ipip = Some(ipip::parse(data));
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }
}

/// A link message in words, for errors.
pub(crate) struct Described<'a>(pub(crate) &'a LinkMessage);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("link")?;
        if self.0.header.index != 0 {
            write!(f, " {}", self.0.header.index)?;
        }
        for attribute in &self.0.attributes {
            match attribute {
                LinkAttribute::IfName(name) => write!(f, " {name}")?,
                LinkAttribute::Mtu(mtu) => write!(f, " mtu {mtu}")?,
                LinkAttribute::Controller(index) => write!(f, " controller {index}")?,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => write!(f, " type {kind}")?,
                            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))) => {
                                write!(f, " with peer {}", Described(peer))?;
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        if self.0.header.change_mask.contains(LinkFlags::Up) {
            f.write_str(if self.0.header.flags.contains(LinkFlags::Up) { " up" } else { " down" })?;
        }
        Ok(())
    }
}

fn message(index: Option<IfIndex>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Unspec;
    message.header.index = index.map_or(0, IfIndex::number);
    message
}

fn with_kind(kind: InfoKind, data: Option<InfoData>) -> LinkAttribute {
    let mut infos = vec![LinkInfo::Kind(kind)];
    infos.extend(data.map(LinkInfo::Data));
    LinkAttribute::LinkInfo(infos)
}
