//! Writing routes.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;

use super::Route;
use crate::Request;

/// Adds a route; refused when one to the destination with the same metric is there.
pub fn add(route: &Route) -> Request {
    Request::new(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_EXCL)
}

/// Adds a route, in the place of one to the destination with the same metric, whoever made that.
pub fn replace(route: &Route) -> Request {
    Request::new(RouteNetlinkMessage::NewRoute(route.message()), NLM_F_CREATE | NLM_F_REPLACE)
}
