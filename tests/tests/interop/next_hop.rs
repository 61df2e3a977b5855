//! IPv4 routes with IPv6 next hops, over link-local addresses.

use crate::harness::{contains, eventually};
use crate::lab::{Daemon, Lab, OURS, Setup};

#[test]
fn ipv4_routes_have_ipv6_next_hops_on_a_link_without_ipv4() {
    // FRR needs zebra for the link of a link-local neighbour.
    let mut lab = Lab::new(64497, vec![Setup { link_local: true, ..Setup::new(Daemon::Bird) }]);
    lab.node.ip("addr del 192.0.2.2/24 dev eth0");
    lab.start_all(&lab.config());
    lab.wait_converged();
    eventually("the kernel has the IPv6 next hop", || {
        contains(&lab.kernel_routes(), &["198.51.100.0/25 via inet6 ", "2001:db8:100::/40 via "])
    });
    let routes = lab.routes_of(&lab.peers[0]);
    assert!(routes.iter().all(|route| route.next_hop.is_some_and(|address| address.is_ipv6())), "{routes:?}");
    contains(&lab.peers[0].route(OURS[0]).unwrap(), &["via fe80::2 on eth0"]).unwrap();
}
