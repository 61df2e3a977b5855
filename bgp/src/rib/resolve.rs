//! How next hops are reached that are not next door (RFC 4271 section 9.1.2.1).
//!
//! The longest of two kinds of routes counts: those that others put into the kernel, and paths of BGP whose own next hop
//! the kernel's routes lead to. No path is reached through one that needs another path of BGP: that could be itself.
//! So what is resolved depends on the kernel and on who announces what, never on what was resolved before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::fib::FibNextHop;
use super::next_hop::{self, Resolution};
use super::state::Rib;
use super::table::hash;
use crate::family::Family;
use crate::prefix::Prefix;
use crate::wire::NextHop;

/// Where a route of the kernel leads that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelRoute {
    /// To whoever is on a link.
    OnLink,
    /// Through these routers, at least one, at this cost.
    Via(Vec<FibNextHop>, u32),
    /// Nowhere.
    Nowhere,
}

/// The routes of the kernel that are not ours, of each prefix the one that the kernel prefers.
pub type KernelRoutes = BTreeMap<Prefix, KernelRoute>;

impl Rib {
    /// Sets what next hops are resolved by; without it, all count as next door.
    pub fn set_kernel_routes(&mut self, routes: Option<Arc<KernelRoutes>>) {
        self.kernel_routes = routes;
        let changed = self.next_hops.all().into_iter().filter(|address| self.resolve(*address)).collect();
        self.redecide_next_hops(&changed);
    }

    /// Resolves what paths began to have, before anything is decided about them.
    pub(super) fn resolve_begun(&mut self) {
        let begun = self.next_hops.take_begun();
        if self.kernel_routes.is_none() {
            return;
        }
        for address in begun {
            // Whatever has it is new, and undecided anyway.
            self.resolve(address);
        }
    }

    /// Resolves anew what paths of BGP may lead to, after some of them changed.
    pub(super) fn resolve_again(&mut self) {
        let distant = self.next_hops.distant().into_iter();
        let changed = distant.filter(|address| self.resolve(*address)).collect();
        self.redecide_next_hops(&changed);
    }

    /// Whether the address is reached in another way now.
    fn resolve(&mut self, address: IpAddr) -> bool {
        let (resolution, distant) = match self.kernel_routes.clone() {
            None => (Resolution::default(), false),
            Some(routes) => self.resolution(&routes, address),
        };
        self.next_hops.set_distant(address, distant);
        self.next_hops.set(address, resolution)
    }

    /// How an address is reached, and whether that may change with paths of BGP.
    fn resolution(&self, routes: &KernelRoutes, address: IpAddr) -> (Resolution, bool) {
        let longest = longest(routes, address);
        if let Some((_, KernelRoute::OnLink)) = longest {
            // What is next door stays there, whatever anybody announces.
            return (Resolution::default(), false);
        }
        let shortest = longest.map_or(0, |(prefix, _)| prefix.length()) + 1;
        for length in (shortest..=Family::of(address).address_bits()).rev() {
            let found = Prefix::masked(address, length).and_then(|prefix| self.through_path(routes, prefix));
            if let Some(resolution) = found {
                return (resolution, true);
            }
        }
        (longest.map_or(Resolution::UNREACHABLE, |(_, route)| route.resolution()), true)
    }

    /// What is reached through the best path to a prefix that the kernel's routes lead to.
    fn through_path(&self, routes: &KernelRoutes, prefix: Prefix) -> Option<Resolution> {
        let slot = self.table.slot(self.table.find(prefix, hash(prefix))?);
        slot.paths.as_slice().iter().find_map(|path| {
            let attributes = self.interners.received.attributes(path.attr);
            let ifindex = self.peers.find(path.peer).and_then(|peer| peer.info.ifindex);
            let gateway = match attributes.next_hop {
                // Packets for what is ours and not further known go nowhere.
                NextHop::Local => return Some(Resolution::UNREACHABLE),
                next_hop => super::fib::gateway(next_hop, ifindex)?,
            };
            let resolution = match next_hop::address(attributes.next_hop) {
                // A router on the session's link.
                None => Resolution::default(),
                Some(address) => longest(routes, address)?.1.resolution(),
            };
            resolution.metric?;
            Some(Resolution { gateways: Some(resolution.gateways.unwrap_or(vec![gateway])), ..resolution })
        })
    }
}

impl KernelRoute {
    fn resolution(&self) -> Resolution {
        match self {
            Self::OnLink => Resolution::default(),
            Self::Via(gateways, metric) => {
                Resolution { metric: Some(*metric), gateways: Some(gateways.clone()) }
            }
            Self::Nowhere => Resolution::UNREACHABLE,
        }
    }
}

fn longest(routes: &KernelRoutes, address: IpAddr) -> Option<(Prefix, &KernelRoute)> {
    (0..=Family::of(address).address_bits()).rev().find_map(|length| {
        let prefix = Prefix::masked(address, length)?;
        routes.get(&prefix).map(|route| (prefix, route))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rib::FibRoute;
    use crate::rib::tests::{announce, id, path, prefix, rib, told, via};
    use crate::wire::Attributes;

    fn gateway(text: &str) -> FibNextHop {
        FibNextHop::new(text.parse().unwrap(), None)
    }

    /// The kernel's routes that are not ours.
    fn set_kernel(rib: &mut Rib, routes: &[(&str, KernelRoute)]) {
        let routes = routes.iter().map(|(text, route)| (prefix(text), route.clone())).collect();
        rib.set_kernel_routes(Some(Arc::new(routes)));
    }

    #[test]
    fn a_next_hop_is_reached_by_the_longest_route_of_the_kernel() {
        let mut rib = rib(&[1, 2]);
        let destination = prefix("198.51.100.0/24");
        let distant = NextHop::V4("203.0.113.1".parse().unwrap());
        let gateways = |last| KernelRoute::Via(vec![via(last)], 20);
        let link = ("192.0.2.0/24", KernelRoute::OnLink);
        set_kernel(&mut rib, std::slice::from_ref(&link));
        announce(&mut rib, id(1), Attributes { next_hop: distant, ..path(1, &[64501]) }, [destination]);
        let fib = |rib: &mut Rib| rib.take_fib_changes().pop().map(|change| change.route);
        assert_eq!(fib(&mut rib), Some(None), "nothing leads to it");
        assert!(told(&mut rib, 2).is_empty());
        let cases = [
            (vec![("203.0.0.0/16", gateways(8))], Some(vec![via(8)])),
            (vec![("203.0.113.0/24", gateways(7)), ("203.0.0.0/16", gateways(8))], Some(vec![via(7)])),
            (vec![("203.0.113.0/24", gateways(7)), ("203.0.113.1/32", gateways(8))], Some(vec![via(8)])),
            (vec![("203.0.113.0/24", gateways(7)), ("203.0.113.1/32", KernelRoute::Nowhere)], None),
            (vec![("203.0.113.0/24", KernelRoute::OnLink)], Some(vec![gateway("203.0.113.1")])),
            (vec![], None),
        ];
        for (mut routes, expected) in cases {
            routes.push(link.clone());
            set_kernel(&mut rib, &routes);
            assert_eq!(fib(&mut rib), Some(expected.map(FibRoute::Unicast)), "{routes:?}");
        }
        rib.set_kernel_routes(None);
        assert_eq!(fib(&mut rib), Some(Some(FibRoute::Unicast(vec![gateway("203.0.113.1")]))));
    }

    #[test]
    fn the_cost_of_the_kernels_route_decides_between_equal_paths() {
        let mut rib = rib(&[1, 3]);
        let destination = prefix("198.51.100.0/24");
        for (last, next_hop) in [(1, "203.0.113.1"), (3, "203.0.113.3")] {
            let next_hop = NextHop::V4(next_hop.parse().unwrap());
            let attributes = Attributes { next_hop, ..path(last, &[64500 + u32::from(last)]) };
            announce(&mut rib, id(last), attributes, [destination]);
        }
        let routes = |first, second| {
            [
                ("203.0.113.1/32", KernelRoute::Via(vec![via(7)], first)),
                ("203.0.113.3/32", KernelRoute::Via(vec![via(8)], second)),
            ]
        };
        for ((first, second), gateways) in
            [((10, 20), vec![via(7)]), ((20, 10), vec![via(8)]), ((10, 10), vec![via(7), via(8)])]
        {
            set_kernel(&mut rib, &routes(first, second));
            let change = rib.take_fib_changes().pop().unwrap();
            assert_eq!(change.route, Some(FibRoute::Unicast(gateways)));
        }
    }

    #[test]
    fn a_next_hop_is_reached_through_a_path_that_needs_no_other() {
        let mut rib = rib(&[1, 2]);
        set_kernel(&mut rib, &[("192.0.2.0/24", KernelRoute::OnLink)]);
        let (destination, between) = (prefix("198.51.100.0/24"), prefix("203.0.113.0/24"));
        let distant = NextHop::V4("203.0.113.1".parse().unwrap());
        let recursive = |asn| Attributes { next_hop: distant, local_pref: Some(200), ..path(1, &[asn]) };
        announce(&mut rib, id(1), recursive(64501), [destination]);
        let fib = |rib: &mut Rib| -> BTreeMap<Prefix, Option<FibRoute>> {
            rib.take_fib_changes().into_iter().map(|change| (change.prefix, change.route)).collect()
        };
        assert_eq!(fib(&mut rib)[&destination], None);
        // What leads to it comes later, and the better path to that leads through itself.
        announce(&mut rib, id(2), path(2, &[64502]), [between]);
        announce(&mut rib, id(1), recursive(64501), [between]);
        let through = Some(FibRoute::Unicast(vec![via(2)]));
        let routes = fib(&mut rib);
        assert_eq!((&routes[&destination], &routes[&between]), (&through, &through));
        rib.withdraw(id(2), [(0, between)]);
        let routes = fib(&mut rib);
        assert_eq!((&routes[&destination], &routes[&between]), (&None, &None));
    }
}
