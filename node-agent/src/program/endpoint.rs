//! Keeps what the plugin made: routes and neighbours of pods that somebody took away are put back.

use margay_api::endpoint::Endpoint;
use margay_netlink::{
    Error, MacAddr, Request, Socket,
    link::{self, IfIndex, IfName},
    neigh,
    route::{self, Filter, Kind, NextHop, Protocol, Route, TableId},
};
use tracing::warn;

/// Puts back what is missing of these endpoints and says how much that was. One whose link is gone is the
/// runtime's to take down: only a DEL removes a record.
pub(crate) fn repair(endpoints: &[Endpoint]) -> Result<usize, Error> {
    let mut socket = Socket::open()?;
    let filter = Filter { table: Some(TableId::MAIN), protocol: Some(Protocol::MARGAY) };
    let present = route::list(&mut socket, filter)?;
    let mut requests: Vec<Request> = Vec::new();
    for endpoint in endpoints {
        let Ok(name) = endpoint.host_ifname.parse::<IfName>() else { continue };
        let Some(link) = link::by_name(&mut socket, &name)? else { continue };
        if !link.up {
            requests.push(link::set_up(link.index));
        }
        let neighbours = neigh::list_on(&mut socket, link.index)?;
        for address in endpoint.addresses.iter().copied() {
            let hops = vec![NextHop::dev(link.index)];
            let wanted = Route::new(address.into(), Kind::Unicast(hops), Protocol::MARGAY);
            let same = |route: &Route| route.destination == wanted.destination && leads_to(route, link.index);
            if !link.up || !present.iter().any(same) {
                requests.push(route::replace(&wanted));
            }
            let Ok(mac) = endpoint.mac.parse::<MacAddr>() else { continue };
            if !neighbours.iter().any(|n| n.address == address && n.mac == Some(mac) && n.permanent) {
                requests.push(neigh::replace_permanent(link.index, address, mac));
            }
        }
    }
    for (request, outcome) in requests.iter().zip(socket.execute_all(&requests)?) {
        match outcome {
            Ok(()) => warn!("put back: {request}"),
            Err(error) => warn!("{error}"),
        }
    }
    Ok(requests.len())
}

fn leads_to(route: &Route, link: IfIndex) -> bool {
    matches!(&route.kind, Kind::Unicast(hops) if hops.iter().any(|hop| hop.link == Some(link)))
}
