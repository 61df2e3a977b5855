//! Removing routes.

use netlink_packet_route::RouteNetlinkMessage;

use super::Route;
use crate::Request;

/// Deletes the route that has this destination, table, protocol, metric and next hops.
pub fn delete(route: &Route) -> Request {
    Request::new(RouteNetlinkMessage::DelRoute(route.message()), 0)
}
