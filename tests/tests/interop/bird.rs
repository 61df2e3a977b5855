//! Routes go both ways between BIRD and the speaker, with the right attributes, to the kernel and out of it.

use margay_bgp::config::Neighbor;
use nix::sys::signal::Signal;

use crate::harness::{EXTERNAL, INTERNAL, Pair, Session, contains, eventually, lacks, prefix};

#[test]
fn routes_of_an_external_session_over_ipv4_reach_the_other_side_and_the_kernel() {
    let (pair, routes) = exchanged(EXTERNAL);
    assert!(routes.iter().all(|route| route.as_path == "64496"), "{routes:?}");
    assert!(routes.iter().all(|route| route.local_pref.is_none()), "{routes:?}");
    for (network, next_hop) in [("203.0.113.0/25", "192.0.2.2"), ("2001:db8:200::/40", "2001:db8::2")] {
        let seen = pair.birdc(&format!("show route for {network} all"));
        contains(&seen, &["BGP.as_path: 64497\n", "BGP.origin: IGP", &format!("BGP.next_hop: {next_hop}")])
            .unwrap();
    }
}

#[test]
fn routes_of_an_internal_session_over_ipv6_reach_the_other_side_and_the_kernel() {
    let (pair, routes) = exchanged(INTERNAL);
    assert!(routes.iter().all(|route| route.as_path.is_empty()), "{routes:?}");
    assert!(routes.iter().all(|route| route.local_pref == Some(100)), "{routes:?}");
    for (network, next_hop) in [("203.0.113.0/25", "192.0.2.2"), ("2001:db8:200::/40", "2001:db8::2")] {
        let seen = pair.birdc(&format!("show route for {network} all"));
        let next_hop = format!("BGP.next_hop: {next_hop}");
        contains(&seen, &["BGP.as_path: \n", "BGP.origin: IGP", "BGP.local_pref: 100", &next_hop]).unwrap();
    }
}

#[test]
fn withdrawn_routes_leave_the_kernel() {
    for session in [EXTERNAL, INTERNAL] {
        let (pair, _) = exchanged(session);
        pair.birdc("disable s4");
        eventually("the IPv4 route goes", || lacks(&pair.kernel_routes(), &["198.51.100.0/24"]));
        contains(&pair.kernel_routes(), &["2001:db8:100::/40", "blackhole 203.0.113.0/25"]).unwrap();
        pair.birdc("disable s6");
        eventually("the IPv6 route goes", || lacks(&pair.kernel_routes(), &["2001:db8:100::/40"]));
        pair.birdc("enable s4");
        eventually("the IPv4 route comes back", || contains(&pair.kernel_routes(), &["198.51.100.0/24"]));
    }
}

#[test]
fn routes_of_a_peer_that_dies_go_and_come_back_with_it() {
    let (mut pair, _) = exchanged(EXTERNAL);
    pair.bird.take().unwrap().end(Signal::SIGKILL);
    eventually("all routes of the peer go", || {
        lacks(&pair.kernel_routes(), &["198.51.100.0/24", "2001:db8:100::/40"])
    });
    contains(&pair.kernel_routes(), &["blackhole 203.0.113.0/25", "blackhole 2001:db8:200::/40"]).unwrap();
    pair.start_bird();
    eventually("all routes of the peer come back", || kernel_has_both(&pair));
}

#[test]
fn equal_paths_of_two_peers_become_a_multipath_route() {
    let (pair, _) = exchanged(EXTERNAL);
    let mut config = pair.config();
    let second = Neighbor::new("192.0.2.3".parse().unwrap(), config.neighbors[0].remote_as);
    config.neighbors.push(Neighbor { local_address: Some("192.0.2.4".parse().unwrap()), ..second });
    pair.configure(&config);
    // IPv6: the paths are equal. IPv4: the first one has a MED, so the second is better.
    eventually("the IPv6 route has two next hops", || {
        let routes = pair.node_ip("-6 route show 2001:db8:100::/40 proto bgp");
        contains(&routes, &["nexthop via 2001:db8::1 dev eth0", "nexthop via 2001:db8::3 dev eth0"])
    });
    eventually("the IPv4 route has the better next hop", || {
        contains(&pair.kernel_routes(), &["198.51.100.0/24 via 192.0.2.3 dev eth0"])
    });
    pair.birdc("disable second");
    eventually("one next hop is left", || kernel_has_both(&pair));
}

#[test]
fn a_kernel_route_that_somebody_removes_comes_back() {
    let (pair, _) = exchanged(EXTERNAL);
    pair.node_ip("route del 198.51.100.0/24");
    eventually("the route comes back", || kernel_has_both(&pair));
    // Without its link the kernel drops routes on its own, those of IPv4 without a word.
    pair.node_ip("link set eth0 down");
    pair.node_ip("link set eth0 up");
    pair.node_ip("addr replace 2001:db8::2/64 dev eth0 nodad");
    eventually("both routes come back", || kernel_has_both(&pair));
}

#[test]
fn a_route_of_the_administrator_is_never_replaced() {
    let mut pair = Pair::new(EXTERNAL);
    pair.node_ip("route add 198.51.100.0/24 via 192.0.2.77 metric 512");
    pair.start_bird();
    pair.start_speaker(&[]);
    pair.configure(&pair.config());
    eventually("the other route is there", || contains(&pair.kernel_routes(), &["2001:db8:100::/40"]));
    let all = pair.node_ip("route show 198.51.100.0/24");
    contains(&all, &["via 192.0.2.77"]).unwrap();
    lacks(&all, &["proto bgp"]).unwrap();
    pair.node_ip("route del 198.51.100.0/24 metric 512");
    eventually("ours takes its place", || kernel_has_both(&pair));
}

fn kernel_has_both(pair: &Pair) -> Result<(), String> {
    contains(
        &pair.kernel_routes(),
        &[
            "198.51.100.0/24 via 192.0.2.1 dev eth0",
            "2001:db8:100::/40 via 2001:db8::1 dev eth0",
            "blackhole 203.0.113.0/25",
            "blackhole 2001:db8:200::/40",
        ],
    )
}

/// A pair that has exchanged everything, and the two routes that the speaker learned.
fn exchanged(session: Session) -> (Pair, Vec<margay_bgp::control::RouteView>) {
    let pair = Pair::established(session);
    eventually("all routes are in the kernel", || kernel_has_both(&pair));
    eventually("bird has both of our networks", || {
        contains(&pair.birdc("show route protocol peer"), &["203.0.113.0/25", "2001:db8:200::/40"])
    });
    let learned: Vec<_> = pair.routes().into_iter().filter(|route| route.neighbor.is_some()).collect();
    assert_eq!(
        learned.iter().map(|route| route.prefix).collect::<Vec<_>>(),
        [prefix("198.51.100.0/24"), prefix("2001:db8:100::/40")]
    );
    assert_eq!((learned[0].med, &learned[0].communities[..]), (Some(10), &["64496:7".to_owned()][..]));
    eventually("the counts are right", || {
        let status = pair.try_status()?;
        let counts = (status.neighbors[0].prefixes_received, status.neighbors[0].prefixes_advertised);
        if counts == (2, 2) { Ok(()) } else { Err(format!("{counts:?}")) }
    });
    (pair, learned)
}
