//! Removing interfaces.

use netlink_packet_route::{RouteNetlinkMessage, link::LinkAttribute};

use super::{IfName, message};
use crate::Request;

/// Deletes the interface with this name. Of a veth pair both ends go.
pub fn delete(name: &IfName) -> Request {
    let mut message = message(None);
    message.attributes.push(LinkAttribute::IfName(name.to_string()));
    Request::new(RouteNetlinkMessage::DelLink(message), 0)
}
