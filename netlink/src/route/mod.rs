//! Routes.

mod add;
mod delete;
mod show;

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use netlink_packet_route::{
    AddressFamily,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteNextHopFlags,
        RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};

pub use add::{add, replace};
pub use delete::delete;
pub use show::{Filter, list};

use crate::link::IfIndex;

/// The number of a routing table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableId(pub u32);

impl TableId {
    /// The table that is consulted without any rule.
    pub const MAIN: Self = Self(254);
    /// The table of the host's own addresses.
    pub const LOCAL: Self = Self(255);
}

/// Who put a route there (`rtm_protocol`); the numbers of `/etc/iproute2/rt_protos`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The kernel itself.
    pub const KERNEL: Self = Self(2);
    /// Whoever configured the host at boot; what `ip route add` writes.
    pub const BOOT: Self = Self(3);
    /// An administrator.
    pub const STATIC: Self = Self(4);
    /// A BGP speaker.
    pub const BGP: Self = Self(186);
    /// Routes to pods of this node, made by the CNI plugin and repaired by the agent. Not assigned to anyone
    /// in `rt_protos`.
    pub const MARGAY: Self = Self(77);
    /// Routes to pods of other nodes, through a tunnel or by their nodes' addresses, made by the agent. Not assigned to
    /// anyone either.
    pub const MARGAY_OVERLAY: Self = Self(78);
}

/// The network of all addresses of a family: where a default route leads.
#[expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a prefix of 0 is in range for both families"
)]
pub fn everything(family_of: IpAddr) -> IpNetwork {
    let any = match family_of {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    IpNetwork::new(any, 0).expect("a prefix of 0 is in range")
}

/// One way that packets of a route may take.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NextHop {
    /// The router; `None` when the destination is on the link. May be IPv6 for an IPv4 route.
    pub via: Option<IpAddr>,
    /// The interface; the kernel finds it from `via` when `None`.
    pub link: Option<IfIndex>,
    /// Its share among several, 1 to 256.
    pub weight: u16,
    /// The router is on the link although no address says so.
    pub on_link: bool,
}

impl NextHop {
    /// Directly on a link.
    pub const fn dev(link: IfIndex) -> Self {
        Self { via: None, link: Some(link), weight: 1, on_link: false }
    }

    /// Through a router, wherever that is.
    pub const fn via(router: IpAddr) -> Self {
        Self { via: Some(router), link: None, weight: 1, on_link: false }
    }
}

/// What happens to a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is sent to one of these, at least one.
    Unicast(Vec<NextHop>),
    /// It is for this host.
    Local,
    /// It is dropped silently.
    Blackhole,
    /// It is dropped with an ICMP error.
    Unreachable,
    /// Something that we never write (`broadcast`, `multicast`, ...), by its number.
    Other(u8),
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Where to. The address has no host bits.
    pub destination: IpNetwork,
    /// What happens.
    pub kind: Kind,
    /// Which table.
    pub table: TableId,
    /// Whose it is.
    pub protocol: Protocol,
    /// The priority among routes to one destination, lower first; the kernel's default when `None`.
    pub metric: Option<u32>,
    /// The source address that the host prefers on it.
    pub source: Option<IpAddr>,
}

impl Route {
    /// A route in the main table.
    pub fn new(destination: IpNetwork, kind: Kind, protocol: Protocol) -> Self {
        Self { destination, kind, table: TableId::MAIN, protocol, metric: None, source: None }
    }

    pub(crate) fn parse(message: &RouteMessage) -> Option<Self> {
        let any = match message.header.address_family {
            AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            _ => return None,
        };
        let mut destination = any;
        let mut table = u32::from(message.header.table);
        let (mut metric, mut source, mut several) = (None, None, Vec::new());
        let mut single = NextHop { via: None, link: None, weight: 1, on_link: false };
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(address) => destination = ip(address)?,
                RouteAttribute::Table(number) => table = *number,
                RouteAttribute::Priority(number) => metric = Some(*number),
                RouteAttribute::PrefSource(address) => source = ip(address),
                RouteAttribute::MultiPath(hops) => several = hops.iter().map(parse_hop).collect(),
                RouteAttribute::Oif(index) => single.link = IfIndex::new(*index),
                other => single.via = single.via.or_else(|| via(other)),
            }
        }
        single.on_link = message.header.flags.contains(RouteFlags::Onlink);
        let kind = match message.header.kind {
            RouteType::Unicast if several.is_empty() => Kind::Unicast(vec![single]),
            RouteType::Unicast => Kind::Unicast(several),
            RouteType::Local => Kind::Local,
            RouteType::BlackHole => Kind::Blackhole,
            RouteType::Unreachable => Kind::Unreachable,
            other => Kind::Other(other.into()),
        };
        Some(Self {
            destination: IpNetwork::new(destination, message.header.destination_prefix_length).ok()?,
            kind,
            table: TableId(table),
            protocol: Protocol(message.header.protocol.into()),
            metric,
            source,
        })
    }

    pub(crate) fn message(&self) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = crate::addr::family(self.destination.ip());
        header.destination_prefix_length = self.destination.prefix();
        header.table = u8::try_from(self.table.0).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
        header.protocol = RouteProtocol::from(self.protocol.0);
        header.scope = RouteScope::Universe;
        header.kind = match &self.kind {
            Kind::Unicast(_) => RouteType::Unicast,
            Kind::Local => RouteType::Local,
            Kind::Blackhole => RouteType::BlackHole,
            Kind::Unreachable => RouteType::Unreachable,
            Kind::Other(number) => RouteType::from(*number),
        };
        let attributes = &mut message.attributes;
        if self.destination.prefix() > 0 {
            attributes.push(RouteAttribute::Destination(self.destination.network().into()));
        }
        if header.table == RouteHeader::RT_TABLE_UNSPEC {
            attributes.push(RouteAttribute::Table(self.table.0));
        }
        attributes.extend(self.metric.map(RouteAttribute::Priority));
        attributes.extend(self.source.map(|address| RouteAttribute::PrefSource(address.into())));
        if let Kind::Unicast(hops) = &self.kind {
            if let [hop] = hops.as_slice() {
                if hop.via.is_none() && self.destination.is_ipv4() {
                    // What is on the link is out of a router's reach; IPv4 checks next hops by this.
                    header.scope = RouteScope::Link;
                }
                if hop.on_link {
                    header.flags |= RouteFlags::Onlink;
                }
                attributes.extend(hop.via.map(|router| gateway(router, self.destination)));
                attributes.extend(hop.link.map(|link| RouteAttribute::Oif(link.number())));
            } else {
                let hops = hops.iter().map(|hop| emit_hop(hop, self.destination)).collect();
                attributes.push(RouteAttribute::MultiPath(hops));
            }
        }
        message
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unicast(hops) => {
                write!(f, "route {}", self.destination)?;
                for hop in hops {
                    if let Some(router) = hop.via {
                        write!(f, " via {router}")?;
                    }
                    if let Some(link) = hop.link {
                        write!(f, " dev {link}")?;
                    }
                }
            }
            Kind::Local => write!(f, "local route {}", self.destination)?,
            Kind::Blackhole => write!(f, "blackhole route {}", self.destination)?,
            Kind::Unreachable => write!(f, "unreachable route {}", self.destination)?,
            Kind::Other(number) => write!(f, "route {} of type {number}", self.destination)?,
        }
        write!(f, " proto {}", self.protocol.0)?;
        if self.table != TableId::MAIN {
            write!(f, " table {}", self.table.0)?;
        }
        Ok(())
    }
}

/// A route message in words, for errors.
pub(crate) struct Described<'a>(pub(crate) &'a RouteMessage);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Route::parse(self.0) {
            Some(route) => route.fmt(f),
            None => f.write_str("route"),
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

fn via(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// `RTA_GATEWAY`, or `RTA_VIA` for a router of the other family (RFC 8950).
fn gateway(router: IpAddr, destination: IpNetwork) -> RouteAttribute {
    if router.is_ipv4() == destination.is_ipv4() {
        RouteAttribute::Gateway(router.into())
    } else {
        RouteAttribute::Via(match router {
            IpAddr::V4(address) => RouteVia::Inet(address),
            IpAddr::V6(address) => RouteVia::Inet6(address),
        })
    }
}

fn parse_hop(hop: &RouteNextHop) -> NextHop {
    NextHop {
        via: hop.attributes.iter().find_map(via),
        link: IfIndex::new(hop.interface_index),
        weight: u16::from(hop.hops) + 1,
        on_link: hop.flags.contains(RouteNextHopFlags::Onlink),
    }
}

fn emit_hop(hop: &NextHop, destination: IpNetwork) -> RouteNextHop {
    let mut message = RouteNextHop::default();
    message.interface_index = hop.link.map_or(0, IfIndex::number);
    message.hops = u8::try_from(hop.weight.clamp(1, 256) - 1).unwrap_or(u8::MAX);
    if hop.on_link {
        message.flags = RouteNextHopFlags::Onlink;
    }
    message.attributes.extend(hop.via.map(|router| gateway(router, destination)));
    message
}
