//! Removing interfaces.

use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute};

use super::{IfIndex, IfName, message};
use crate::Request;

/// Deletes the interface with this name. Of a veth pair both ends go.
pub fn delete(name: &IfName) -> Request {
    let mut message = message(None);
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}

/// Deletes the interface with this index, and no other that has got its name since.
pub fn delete_by_index(index: IfIndex) -> Request {
    Request::new(RouteNetlinkMessage::DelLink(message(Some(index))), 0)
}
