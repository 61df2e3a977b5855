//! Looking routes up.

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage, RouteProtocol},
};

use super::{Protocol, Route, TableId};
use crate::{Error, Request, Socket};

/// Which routes to list; the kernel does the filtering.
#[derive(Debug, Clone, Copy, Default)]
pub struct Filter {
    /// Only those of this table.
    pub table: Option<TableId>,
    /// Only those of this protocol.
    pub protocol: Option<Protocol>,
}

/// The routes of both families that pass the filter, in order.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn list(socket: &mut Socket, filter: Filter) -> Result<Vec<Route>, Error> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        if let Some(protocol) = filter.protocol {
            message.header.protocol = RouteProtocol::from(protocol.0);
        }
        if let Some(table) = filter.table {
            message.attributes.push(RouteAttribute::Table(table.0));
        }
        let request = Request::new(RouteNetlinkMessage::GetRoute(message), 0);
        let found = match socket.dump(&request) {
            // A table without a route does not exist yet.
            Err(error) if error.is_gone() => continue,
            found => found?,
        };
        routes.extend(found.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewRoute(message) => Route::parse(message),
            _ => None,
        }));
    }
    routes.retain(|route| {
        filter.table.is_none_or(|table| route.table == table)
            && filter.protocol.is_none_or(|protocol| route.protocol == protocol)
    });
    routes.sort();
    Ok(routes)
}
