//! Equal paths have shares of the packets by their bandwidths, in the kernel.

use crate::harness::{contains, eventually};
use crate::lab::{Daemon, Lab, Setup};

fn lab(peers: [(Daemon, Option<u16>); 2]) -> Lab {
    let setup = |(daemon, bandwidth)| Setup { bandwidth, ..Setup::new(daemon) };
    Lab::converged(64496, peers.map(setup).to_vec())
}

/// Waits for the weights of the routers .1 and .3, as the kernel has them.
fn wait(lab: &Lab, weights: [u64; 2]) {
    let families = [("-4", "198.51.100.0/25", "192.0.2."), ("-6", "2001:db8:100::/40", "2001:db8::")];
    for (family, network, router) in families {
        eventually("the kernel has the weights", || {
            let text = lab.node.ip(&format!("-j {family} route show {network} proto bgp"));
            let routes: serde_json::Value = serde_json::from_str(&text).unwrap();
            let hops = routes[0]["nexthops"].as_array().cloned().unwrap_or_default();
            let mut found: Vec<(String, u64)> = hops
                .iter()
                .map(|hop| (hop["gateway"].as_str().unwrap().to_owned(), hop["weight"].as_u64().unwrap()))
                .collect();
            found.sort();
            let expected = [1, 3].map(|last: u32| format!("{router}{last}")).into_iter().zip(weights);
            if found.iter().cloned().eq(expected) { Ok(()) } else { Err(text) }
        });
    }
}

#[test]
fn the_shares_follow_the_bandwidths() {
    wait(&lab([(Daemon::Bird, Some(100)), (Daemon::Frr, Some(50))]), [2, 1]);
}

#[test]
fn the_shares_are_equal_unless_all_say_a_bandwidth() {
    wait(&lab([(Daemon::Bird, Some(100)), (Daemon::Bird, None)]), [1, 1]);
}

#[test]
fn another_bandwidth_changes_the_shares_of_the_route_that_is_there() {
    let mut lab = lab([(Daemon::Bird, Some(100)), (Daemon::Bird, Some(300))]);
    wait(&lab, [85, 256]);
    let text = |lab: &Lab| lab.node.ip("route show 198.51.100.0/25 proto bgp");
    contains(&text(&lab), &["weight 85"]).unwrap();
    lab.peers[1].setup.bandwidth = Some(100);
    lab.peers[1].configure();
    wait(&lab, [1, 1]);
}
