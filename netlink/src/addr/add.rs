//! Giving an interface an address.

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{RouteNetlinkMessage, address::AddressHeaderFlags};

use super::message;
use crate::{Request, link::IfIndex};

/// Adds an address. An IPv6 address is usable at once: no duplicate address detection, since whoever calls
/// this has the address from an allocator.
pub fn add(link: IfIndex, network: IpNetwork) -> Request {
    let mut message = message(link, network);
    if network.is_ipv6() {
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    Request::new(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
}
