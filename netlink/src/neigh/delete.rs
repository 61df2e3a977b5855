//! Removing neighbours.

use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;

use super::message;
use crate::{Request, link::IfIndex};

/// Deletes the entry for an address.
pub fn delete(link: IfIndex, address: IpAddr) -> Request {
    Request::new(RouteNetlinkMessage::DelNeighbour(message(link, address)), 0)
}
