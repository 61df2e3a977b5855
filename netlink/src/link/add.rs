//! Making interfaces.

use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
};

use super::{IfName, Mtu, message, with_kind};
use crate::{MacAddr, Request};

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct End<'a> {
    /// Its name.
    pub name: &'a IfName,
    /// Its link-layer address; the kernel makes one up when `None`.
    pub address: Option<MacAddr>,
    /// The namespace to make it in; the socket's own when `None`.
    pub netns: Option<BorrowedFd<'a>>,
}

/// A pair of virtual Ethernet interfaces.
#[derive(Debug, Clone)]
pub struct Veth<'a> {
    /// The near end.
    pub near: End<'a>,
    /// The far end.
    pub far: End<'a>,
    /// The MTU of both; the kernel's default when `None`.
    pub mtu: Option<Mtu>,
}

/// A virtual switch.
#[derive(Debug, Clone)]
pub struct Bridge<'a> {
    /// Its name.
    pub name: &'a IfName,
}

/// Makes a veth pair. Both ends are made in their final namespace at once, so no name can collide on the way.
/// The near end comes up at once; the far one must be brought up from inside its namespace, as the kernel
/// refuses to open it before it has its peer (`ENOTCONN`).
pub fn add_veth(veth: &Veth<'_>) -> Request {
    let far = end(&veth.far, veth.mtu);
    let mut near = end(&veth.near, veth.mtu);
    near.header.flags = LinkFlags::Up;
    near.header.change_mask = LinkFlags::Up;
    near.attributes.push(with_kind(InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(far)))));
    Request::new(RouteNetlinkMessage::NewLink(near), NLM_F_CREATE | NLM_F_EXCL)
}

/// Makes a bridge that is up.
pub fn add_bridge(bridge: &Bridge<'_>) -> Request {
    let mut message = message(None);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(bridge.name.to_string()));
    message.attributes.push(with_kind(InfoKind::Bridge, None));
    Request::new(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

fn end(end: &End<'_>, mtu: Option<Mtu>) -> LinkMessage {
    let mut message = message(None);
    message.attributes.push(LinkAttribute::IfName(end.name.to_string()));
    message.attributes.extend(end.address.map(|mac| LinkAttribute::Address(mac.octets().to_vec())));
    message.attributes.extend(mtu.map(|mtu| LinkAttribute::Mtu(mtu.octets())));
    message.attributes.extend(end.netns.map(|fd| LinkAttribute::NetNsFd(fd.as_raw_fd())));
    message
}
