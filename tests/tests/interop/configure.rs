//! A new configuration touches only what differs.

use margay_bgp::config::Neighbor;

use crate::harness::{EXTERNAL, Pair, contains, eventually, lacks};

#[test]
fn another_neighbour_or_network_leaves_a_session_alone() {
    let pair = Pair::established(EXTERNAL);
    let changes = pair.state_changes();
    assert!(changes > 0, "bird logs its states");
    let mut config = pair.config();
    let absent = "192.0.2.99".parse().unwrap();
    config.neighbors.push(Neighbor::new(absent, config.asn));
    config.networks.remove(0);
    pair.configure(&config);
    eventually("the network is withdrawn", || {
        lacks(&pair.birdc("show route protocol peer"), &["203.0.113.0/25"])
    });
    eventually("its blackhole goes", || lacks(&pair.kernel_routes(), &["203.0.113.0/25"]));
    assert_eq!(pair.state_changes(), changes, "the session flapped");
    assert_eq!(pair.try_status().unwrap().neighbors.len(), 2);
}

#[test]
fn a_neighbour_that_is_taken_out_is_told_so_and_its_routes_go() {
    let pair = Pair::established(EXTERNAL);
    eventually("the route is there", || contains(&pair.kernel_routes(), &["198.51.100.0/24"]));
    let mut config = pair.config();
    config.neighbors.clear();
    pair.configure(&config);
    eventually("the route goes", || lacks(&pair.kernel_routes(), &["198.51.100.0/24"]));
    eventually("bird knows why", || {
        contains(&pair.birdc("show protocols all peer"), &["Peer de-configured"])
    });
}

#[test]
fn a_configuration_that_cannot_be_used_changes_nothing() {
    let pair = Pair::established(EXTERNAL);
    let changes = pair.state_changes();
    assert!(changes > 0, "bird logs its states");
    let mut config = pair.config();
    config.neighbors[0].port = 0;
    let error = pair.try_configure(&config).unwrap_err().to_string();
    assert!(error.contains("neighbors[0].port"), "{error}");
    assert_eq!(pair.state_changes(), changes, "the session flapped");
}
