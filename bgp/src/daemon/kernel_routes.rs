//! What the tables resolve next hops by: the kernel's routes that are not ours.

use std::net::IpAddr;

use margay_netlink::link::IfIndex;
use margay_netlink::route::{Kind, Protocol, Route, TableId};

use crate::config::Kernel;
use crate::prefix::Prefix;
use crate::rib::{FibNextHop, KernelRoute, KernelRoutes};

/// Whether next hops may be reached by the route: one of the main table, which leads to links, that is not ours.
pub(super) fn is_other(route: &Route, settings: &Kernel) -> bool {
    route.table == TableId::MAIN && route.protocol != Protocol(settings.protocol)
}

/// Of each prefix the route that the kernel prefers.
pub(super) fn kernel_routes(routes: &[Route], settings: &Kernel) -> KernelRoutes {
    let mut others: Vec<&Route> = routes.iter().filter(|route| is_other(route, settings)).collect();
    // Stable: of two with one metric, which IPv6 may have, the first counts.
    others.sort_by_key(|route| route.metric.unwrap_or(0));
    let mut found = KernelRoutes::new();
    for route in others {
        let length = route.destination.prefix();
        if length == 0 && !settings.resolve_via_default {
            continue;
        }
        if let Some(prefix) = Prefix::masked(route.destination.ip(), length) {
            found.entry(prefix).or_insert_with(|| kernel_route(route));
        }
    }
    found
}

fn kernel_route(route: &Route) -> KernelRoute {
    let Kind::Unicast(hops) = &route.kind else { return KernelRoute::Nowhere };
    let gateway = |via: IpAddr, hop: &margay_netlink::route::NextHop| FibNextHop {
        via,
        ifindex: hop.link.map(IfIndex::number),
        weight: hop.weight,
    };
    let mut gateways: Vec<FibNextHop> = hops.iter().filter_map(|hop| Some(gateway(hop.via?, hop))).collect();
    gateways.sort();
    gateways.dedup();
    if gateways.is_empty() {
        KernelRoute::OnLink
    } else {
        KernelRoute::Via(gateways, route.metric.unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use margay_netlink::route::NextHop;

    use super::*;

    fn route(destination: &str, kind: Kind, metric: Option<u32>) -> Route {
        Route { metric, ..Route::new(destination.parse().unwrap(), kind, Protocol::STATIC) }
    }

    fn via(text: &str) -> Kind {
        let link = IfIndex::new(3);
        Kind::Unicast(vec![NextHop { link, ..NextHop::via(text.parse().unwrap()) }])
    }

    #[test]
    fn of_each_prefix_the_preferred_route_of_others_counts() {
        let on_link = || Kind::Unicast(vec![NextHop::dev(IfIndex::new(3).unwrap())]);
        let ours = Route { protocol: Protocol::BGP, ..route("10.9.0.0/16", via("192.0.2.1"), None) };
        let elsewhere = Route { table: TableId(100), ..route("10.8.0.0/16", via("192.0.2.1"), None) };
        let routes = [
            ours,
            elsewhere,
            route("0.0.0.0/0", via("192.0.2.1"), None),
            route("192.0.2.0/24", on_link(), None),
            route("10.1.0.0/16", via("192.0.2.1"), Some(100)),
            route("10.1.0.0/16", via("192.0.2.2"), Some(20)),
            route("10.2.0.0/16", Kind::Blackhole, None),
        ];
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let through = |text: &str, metric| {
            KernelRoute::Via(vec![FibNextHop::new(text.parse().unwrap(), Some(3))], metric)
        };
        let mut expected = KernelRoutes::from([
            (prefix("192.0.2.0/24"), KernelRoute::OnLink),
            (prefix("10.1.0.0/16"), through("192.0.2.2", 20)),
            (prefix("10.2.0.0/16"), KernelRoute::Nowhere),
        ]);
        assert_eq!(kernel_routes(&routes, &Kernel::default()), expected);
        expected.insert(prefix("0.0.0.0/0"), through("192.0.2.1", 0));
        let settings = Kernel { resolve_via_default: true, ..Kernel::default() };
        assert_eq!(kernel_routes(&routes, &settings), expected);
    }
}
