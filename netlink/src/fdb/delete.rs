//! Removing forwarding entries.

use netlink_packet_route::RouteNetlinkMessage;

use super::{Entry, message};
use crate::Request;

/// Deletes an entry.
pub fn delete(entry: &Entry) -> Request {
    let message = message(entry.link, entry.mac, entry.destination);
    Request::new(RouteNetlinkMessage::DelNeighbour(message), 0)
}
