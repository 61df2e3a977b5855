//! Looking forwarding entries up.

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage, neighbour::NeighbourMessage};

use super::Entry;
use crate::{Error, Request, Socket, link::IfIndex};

/// The entries of one tunnel, in order.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list_on(socket: &mut Socket, link: IfIndex) -> Result<Vec<Entry>, Error> {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = link.number();
    let request = Request::new(RouteNetlinkMessage::GetNeighbour(message), 0);
    let mut entries: Vec<Entry> = socket
        .dump(&request)?
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Entry::parse(message),
            _ => None,
        })
        .filter(|entry| entry.link == link)
        .collect();
    entries.sort();
    Ok(entries)
}
