//! Writing forwarding entries.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use super::message;
use crate::{MacAddr, Request, link::IfIndex};

/// Adds an entry that is never forgotten, in the place of one for the same link-layer address.
pub fn replace_permanent(link: IfIndex, mac: MacAddr, destination: IpAddr) -> Request {
    let message = message(link, mac, destination);
    Request::new(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}
