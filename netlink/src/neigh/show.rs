//! Looking neighbours up.

use netlink_packet_route::{
    RouteNetlinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage},
};

use super::Neighbour;
use crate::{Error, Request, Socket, link::IfIndex};

/// The entries of one interface, of both families, in order.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list_on(socket: &mut Socket, link: IfIndex) -> Result<Vec<Neighbour>, Error> {
    let mut message = NeighbourMessage::default();
    message.attributes.push(NeighbourAttribute::IfIndex(link.number()));
    let request = Request::new(RouteNetlinkMessage::GetNeighbour(message), 0);
    let mut neighbours: Vec<Neighbour> = socket
        .dump(&request)?
        .iter()
        .filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(message) => Neighbour::parse(message),
            _ => None,
        })
        .filter(|neighbour| neighbour.link == link)
        .collect();
    neighbours.sort();
    Ok(neighbours)
}
