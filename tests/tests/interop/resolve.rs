//! Next hops that are not on a link of ours are reached through routes of others, and through paths of BGP.

use crate::harness::{contains, eventually, lacks};
use crate::lab::{Daemon, Lab, Setup};

/// Of the networks that peers announce.
const ROUTES: [&str; 2] = ["198.51.100.0/25", "2001:db8:100::/40"];

fn distant() -> Setup {
    let setup = Setup::new(Daemon::Bird);
    Setup { next_hops: Some(["10.99.0.1", "2001:db8:99::1"]), networks: ROUTES.to_vec(), ..setup }
}

/// Waits until the routes lead to routers with these last parts, or are not there.
fn wait(lab: &Lab, what: &str, last: Option<u32>) {
    let through = last.map(|last| {
        [format!("198.51.100.0/25 via 192.0.2.{last} "), format!("2001:db8:100::/40 via 2001:db8::{last} ")]
    });
    eventually(what, || {
        match &through {
            Some([ipv4, ipv6]) => contains(&lab.kernel_routes(), &[ipv4, ipv6])?,
            None => lacks(&lab.kernel_routes(), &ROUTES)?,
        }
        let routes = lab.routes_of(&lab.peers[0]);
        let used = routes.iter().filter(|route| route.best).count();
        if used == if last.is_some() { 2 } else { 0 } { Ok(()) } else { Err(format!("{routes:?}")) }
    });
}

#[test]
fn a_distant_next_hop_follows_the_routes_of_the_kernel() {
    let mut lab = Lab::new(64496, vec![distant()]);
    lab.node.ip("route add default via 192.0.2.3");
    lab.node.ip("-6 route add default via 2001:db8::3");
    let mut config = lab.config();
    lab.start_all(&config);
    lab.wait_converged();
    wait(&lab, "a default route does not count", None);
    for (verb, last) in [("add", 1), ("replace", 9)] {
        lab.node.ip(&format!("route {verb} 10.99.0.0/24 via 192.0.2.{last}"));
        lab.node.ip(&format!("-6 route {verb} 2001:db8:99::/48 via 2001:db8::{last}"));
        wait(&lab, verb, Some(last));
    }
    lab.node.ip("route del 10.99.0.0/24");
    lab.node.ip("-6 route del 2001:db8:99::/48");
    wait(&lab, "nothing leads to the next hops", None);
    config.kernel.resolve_via_default = true;
    lab.configure(&config);
    wait(&lab, "a default route counts where that is set", Some(3));
}

#[test]
fn a_distant_next_hop_is_reached_through_another_path_of_bgp() {
    let between = Setup { networks: vec!["10.99.0.0/24", "2001:db8:99::/48"], ..Setup::new(Daemon::Bird) };
    let lab = Lab::converged(64496, vec![distant(), between]);
    wait(&lab, "through the other peer", Some(3));
    lab.peers[1].withdraw("10.99.0.0/24");
    lab.peers[1].withdraw("2001:db8:99::/48");
    wait(&lab, "the path between is gone", None);
}

#[test]
fn paths_come_and_go_with_the_link_of_their_next_hop() {
    let mut lab = Lab::new(64496, vec![distant()]);
    lab.node.ip("link add d0 type veth peer name d1");
    lab.node.ip("link set d1 up");
    lab.start_all(&lab.config());
    lab.wait_converged();
    wait(&lab, "no link leads to the next hops", None);
    let on_link = ["198.51.100.0/25 via 10.99.0.1 dev d0", "2001:db8:100::/40 via 2001:db8:99::1 dev d0"];
    for _ in 0..2 {
        lab.node.ip("link set d0 up");
        lab.node.ip("addr replace 10.99.0.2/24 dev d0");
        lab.node.ip("addr replace 2001:db8:99::2/64 dev d0 nodad");
        eventually("the link is up", || contains(&lab.kernel_routes(), &on_link));
        lab.node.ip("link set d0 down");
        wait(&lab, "the link is down", None);
    }
}
