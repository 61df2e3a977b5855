//! The interfaces by which the node reaches others.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use margay_netlink::{
    Error, Socket,
    addr::Address,
    link::{self, IfIndex, Link},
    route::{self, Filter, Kind, Protocol, Route, TableId},
};

use crate::decide::Uplink;

/// What any way is believed to carry where no route says which interface it begins at.
pub(crate) const ETHERNET: u32 = 1500;

/// One for each of the node's own addresses that are among `all` of the kernel's. Where an address is on an interface that nothing is sent by (`lo`, or one of
/// the kind `dummy`), as in fabrics where each node is a router, the MTU is the smallest of the interfaces by which the
/// routes to other nodes lead.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn list(
    socket: &mut Socket,
    all: &[Address],
    own: &[IpAddr],
    others: &BTreeSet<IpAddr>,
) -> Result<Vec<Uplink>, Error> {
    let found = found(socket, all, own, others)?.into_iter();
    Ok(found.map(|(link, network, mtu)| Uplink { link, network, mtu: mtu.unwrap_or(ETHERNET) }).collect())
}

/// The smallest MTU of them; `None` where that of one is not known, or there is none.
///
/// # Errors
/// When the kernel cannot be asked.
pub(crate) fn smallest(
    socket: &mut Socket,
    all: &[Address],
    own: &[IpAddr],
    others: &BTreeSet<IpAddr>,
) -> Result<Option<u32>, Error> {
    let mtus: Option<Vec<u32>> =
        found(socket, all, own, others)?.into_iter().map(|(_, _, mtu)| mtu).collect();
    Ok(mtus.and_then(|mtus| mtus.into_iter().min()))
}

/// The interface of each of the own addresses, and the MTU of the ways that begin there, if it is known.
fn found(
    socket: &mut Socket,
    all: &[Address],
    own: &[IpAddr],
    others: &BTreeSet<IpAddr>,
) -> Result<Vec<(IfIndex, IpNetwork, Option<u32>)>, Error> {
    let mut found = Vec::new();
    // A fabric may have many routes: they are not asked for where nothing follows from them.
    let mut routed: Option<Routed> = None;
    for address in all.iter().filter(|address| own.contains(&address.network.ip())) {
        let Some(link) = link::by_index(socket, address.link)? else { continue };
        let mtu = if sends(&link) {
            Some(link.mtu)
        } else {
            let routed = match &mut routed {
                Some(routed) => routed,
                None => routed.insert(Routed::read(socket)?),
            };
            routed.smallest(address.network.ip(), others)
        };
        found.push((link.index, address.network, mtu));
    }
    Ok(found)
}

fn sends(link: &Link) -> bool {
    !link.loopback && link.kind != "dummy"
}

/// The routes, and the MTU of each interface that sends.
#[derive(Debug, Default)]
struct Routed {
    routes: Vec<Route>,
    links: BTreeMap<IfIndex, u32>,
}

impl Routed {
    fn read(socket: &mut Socket) -> Result<Self, Error> {
        let links = link::list(socket)?;
        let links = links.iter().filter(|link| sends(link)).map(|link| (link.index, link.mtu)).collect();
        let routes = route::list(socket, Filter { table: Some(TableId::MAIN), protocol: None })?;
        Ok(Self { routes, links })
    }

    /// The smallest MTU of the interfaces by which the best routes to others of the family of `own` lead; of those of the
    /// default route where none leads to one.
    fn smallest(&self, own: IpAddr, others: &BTreeSet<IpAddr>) -> Option<u32> {
        let mut by_length: BTreeMap<u8, BTreeMap<IpNetwork, Vec<&Route>>> = BTreeMap::new();
        for route in self.routes.iter().filter(|route| route.destination.is_ipv4() == own.is_ipv4()) {
            // Ours lead to pods.
            if [Protocol::MARGAY, Protocol::MARGAY_OVERLAY].contains(&route.protocol) {
                continue;
            }
            let same = by_length.entry(route.destination.prefix()).or_default();
            let best = same.entry(route.destination).or_default();
            match best.first().map(|other| other.metric.cmp(&route.metric)) {
                Some(std::cmp::Ordering::Less) => {}
                Some(std::cmp::Ordering::Equal) | None => best.push(route),
                Some(std::cmp::Ordering::Greater) => *best = vec![route],
            }
        }
        let to = |address: IpAddr| {
            by_length.iter().rev().find_map(|(length, routes)| {
                let network = IpNetwork::new(address, *length).ok()?;
                routes.get(&IpNetwork::new(network.network(), *length).ok()?)
            })
        };
        let mtu_of = |routes: &Vec<&Route>| {
            let hops = routes.iter().filter_map(|route| match &route.kind {
                Kind::Unicast(hops) => Some(hops),
                _ => None,
            });
            hops.flatten().filter_map(|hop| self.links.get(&hop.link?).copied()).min()
        };
        let others = others.iter().filter(|other| other.is_ipv4() == own.is_ipv4());
        let smallest = others.filter_map(|other| mtu_of(to(*other)?)).min();
        let default = || by_length.get(&0)?.values().filter_map(mtu_of).min();
        smallest.or_else(default)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::IpAddr, process::Command};

    use margay_netlink::{
        Socket, addr,
        link::IfIndex,
        route::{Kind, NextHop, Protocol, Route},
    };

    use nix::sched::{CloneFlags, unshare};

    use super::{Routed, list, smallest};

    fn route(destination: &str, links: &[u32], protocol: Protocol, metric: u32) -> Route {
        let hop = |link: &u32| NextHop::dev(IfIndex::new(*link).unwrap());
        let kind = Kind::Unicast(links.iter().map(hop).collect());
        Route { metric: Some(metric), ..Route::new(destination.parse().unwrap(), kind, protocol) }
    }

    fn check(routes: Vec<Route>, others: &[&str], expected: Option<u32>) {
        let links = [(2, 9000), (3, 1400), (4, 1300)].map(|(link, mtu)| (IfIndex::new(link).unwrap(), mtu));
        let routed = Routed { routes, links: links.into() };
        let others: BTreeSet<IpAddr> = others.iter().map(|text| text.parse().unwrap()).collect();
        let found = routed.smallest("192.0.2.1".parse().unwrap(), &others);
        assert_eq!(found, expected, "{others:?}: {routed:?}");
    }

    #[test]
    fn the_mtu_is_the_smallest_of_the_interfaces_by_which_the_best_routes_to_other_nodes_lead() {
        let default = || route("0.0.0.0/0", &[4], Protocol::BOOT, 0);
        let node = |links: &[u32], metric| route("192.0.2.2/32", links, Protocol::BGP, metric);
        // Both of two that share the packets, and neither a shorter prefix nor a worse metric.
        check(vec![default(), node(&[2, 3], 20), node(&[4], 30)], &["192.0.2.2"], Some(1400));
        check(vec![default(), node(&[4], 30), node(&[2], 20)], &["192.0.2.2"], Some(9000));
        check(vec![default(), node(&[2], 20)], &["192.0.2.2", "198.51.100.2"], Some(1300));
        // Without others, or without a route to them.
        check(vec![default(), node(&[2], 20)], &[], Some(1300));
        check(vec![node(&[2], 20)], &["198.51.100.2"], None);
        check(vec![default()], &["2001:db8::2"], Some(1300));
        // What is ours leads to pods; what is on `lo` leads nowhere.
        let pods = route("192.0.2.0/24", &[3], Protocol::MARGAY_OVERLAY, 128);
        check(vec![default(), pods], &["192.0.2.2"], Some(1300));
        check(vec![route("0.0.0.0/0", &[1], Protocol::BOOT, 0)], &["192.0.2.2"], None);
    }

    fn ip(arguments: &str) {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    }

    /// In a network of its own, with an interface for each family.
    #[test]
    fn of_several_uplinks_the_smallest_counts_and_where_one_is_not_known_nothing_does() {
        let in_a_network = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of its own: run the tests as root");
            for (name, mtu, address) in [
                ("eth0", 1400, "192.0.2.1/24"),
                ("eth1", 1300, "2001:db8::1/64"),
                ("eth2", 1280, "203.0.113.1/24"),
            ] {
                ip(&format!("link add {name} mtu {mtu} type veth peer name {name}p"));
                ip(&format!("address add {address} dev {name}"));
            }
            ip("link set lo up");
            ip("address add 198.51.100.1/32 dev lo");
            let mut socket = Socket::open().unwrap();
            let all = addr::list(&mut socket).unwrap();
            let others = BTreeSet::from(["198.51.100.2".parse().unwrap()]);
            let mut check = |own: &[&str], expected| {
                let own: Vec<IpAddr> = own.iter().map(|text| text.parse().unwrap()).collect();
                assert_eq!(smallest(&mut socket, &all, &own, &others).unwrap(), expected, "{own:?}");
            };
            check(&["192.0.2.1"], Some(1400));
            check(&["192.0.2.1", "2001:db8::1"], Some(1300));
            check(&["2001:db8::1", "192.0.2.1"], Some(1300));
            check(&[], None);
            check(&["192.0.2.9"], None);
            // An address on `lo`, and no route to anybody.
            check(&["198.51.100.1"], None);
            check(&["192.0.2.1", "198.51.100.1"], None);
            let lo = list(&mut socket, &all, &["198.51.100.1".parse().unwrap()], &others).unwrap();
            assert_eq!(lo[0].mtu, 1500, "what tunnels begin with");
        });
        in_a_network.join().unwrap();
    }
}
