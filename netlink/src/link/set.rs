//! Changing interfaces.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags},
};

use super::{IfIndex, IfName, Mtu, message};
use crate::Request;

/// Brings an interface up.
pub fn set_up(index: IfIndex) -> Request {
    let mut message = message(Some(index));
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}

/// Sets the MTU.
pub fn set_mtu(index: IfIndex, mtu: Mtu) -> Request {
    set(index, LinkAttribute::Mtu(mtu.octets()))
}

/// Makes the interface a port of the bridge `controller`.
pub fn set_controller(index: IfIndex, controller: IfIndex) -> Request {
    set(index, LinkAttribute::Controller(controller.number()))
}

/// Renames the interface.
pub fn set_name(index: IfIndex, name: &IfName) -> Request {
    set(index, LinkAttribute::IfName(name.to_string()))
}

fn set(index: IfIndex, attribute: LinkAttribute) -> Request {
    let mut message = message(Some(index));
    message.attributes.push(attribute);
    Request::new(RouteNetlinkMessage::SetLink(message), 0)
}
