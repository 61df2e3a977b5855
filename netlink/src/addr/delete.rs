//! Taking an address from an interface.

use ipnetwork::IpNetwork;
use netlink_packet_route::RouteNetlinkMessage;

use super::message;
use crate::{Request, link::IfIndex};

/// Deletes an address.
pub fn delete(link: IfIndex, network: IpNetwork) -> Request {
    Request::new(RouteNetlinkMessage::DelAddress(message(link, network)), 0)
}
