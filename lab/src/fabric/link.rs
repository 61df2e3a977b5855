//! Cables between the fabric and what is attached to it.

use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_netlink::link::{End, IfIndex, IfName, Veth, add_veth, by_name, set_up};
use margay_netlink::netns::Namespace;
use margay_netlink::route::{self, Kind, NextHop, Protocol, Route};
use margay_netlink::{MacAddr, Socket, addr};
use std::net::IpAddr;
use std::os::fd::AsFd;

/// A cable from the fabric to an interface of a namespace.
pub(super) struct Cable<'a> {
    /// The interface at the fabric's end.
    pub(super) name: &'a IfName,
    /// The interface at the far end.
    pub(super) far: &'a str,
    /// Its link-layer address there; the kernel makes one up when `None`.
    pub(super) mac: Option<MacAddr>,
    /// Its addresses.
    pub(super) addresses: &'a [IpNetwork],
    /// Its default routers, one a family.
    pub(super) gateways: &'a [IpAddr],
}

/// Lays a cable, and configures the far end. The near end is up, without addresses.
pub(super) fn attach(fabric: &Namespace, cable: &Cable<'_>, far: &Namespace) -> anyhow::Result<IfIndex> {
    let interface: IfName = cable.far.parse()?;
    let port = {
        let _inside = fabric.enter()?;
        let mut socket = Socket::open()?;
        socket.execute(&add_veth(&Veth {
            near: End { name: cable.name, address: None, netns: None },
            far: End { name: &interface, address: cable.mac, netns: Some(far.as_fd()) },
            mtu: None,
        }))?;
        by_name(&mut socket, cable.name)?.context("the new link is gone")?.index
    };
    let _inside = far.enter()?;
    let mut socket = Socket::open()?;
    let link = by_name(&mut socket, &interface)?.context("the new link's far end is gone")?.index;
    socket.execute(&set_up(link))?;
    for network in cable.addresses {
        socket.execute(&addr::add(link, *network))?;
    }
    for gateway in cable.gateways {
        let hop = NextHop { link: Some(link), on_link: true, ..NextHop::via(*gateway) };
        let default = Route::new(route::everything(*gateway), Kind::Unicast(vec![hop]), Protocol::BOOT);
        socket.execute(&route::add(&default))?;
    }
    Ok(port)
}
