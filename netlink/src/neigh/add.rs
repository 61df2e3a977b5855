//! Writing neighbours.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourState},
};

use super::message;
use crate::{MacAddr, Request, link::IfIndex};

/// Adds or replaces an entry that is never asked for and never forgotten.
pub fn replace_permanent(link: IfIndex, address: IpAddr, mac: MacAddr) -> Request {
    let mut message = message(link, address);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    Request::new(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE)
}
