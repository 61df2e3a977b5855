//! Nodes whose addresses change, or are said to be those of others.

use std::net::IpAddr;

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, LabConfig, Routing};

use crate::{
    cluster::{PATIENCE, leave_nothing, readiness, run, start, until, until_open, until_ready, until_said},
    traffic::Traffic,
};

/// Both ways of packets from node to node.
fn configs() -> [LabConfig; 2] {
    let tunnels =
        LabConfig { routing: Routing::Direct, encapsulation: Encapsulation::Vxlan, ..LabConfig::default() };
    [LabConfig::default(), tunnels]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_with_another_address_is_found_there_and_others_do_not_notice() {
    for config in configs() {
        let lab = start(config).await;
        let pods = run(&lab, &[("a", "n1"), ("b", "n2"), ("c", "n3")]).await;
        let others = Traffic::start(&lab, &[("a", "b"), ("b", "a")]).await;
        let mut kept = lab
            .keep(&crate::cluster::party("a"), &crate::cluster::party("c"), crate::cluster::PORT)
            .await
            .unwrap()
            .unwrap();
        let node = lab.node(2);
        node.stop_daemon(Daemon::Agent).await;
        node.stop_daemon(Daemon::Bgp).await;
        let move_away = "set -e
            gateway=$(ip route show default)
            ip address delete 172.18.0.4/24 dev eth0
            ip address add 172.18.0.40/24 dev eth0
            ip route replace $gateway";
        node.output("bash", &["-c", move_away]).await.unwrap();
        let address: IpAddr = "172.18.0.40".parse().unwrap();
        node.report_addresses(vec![address]);
        node.start_daemon(Daemon::Bgp).await;
        node.start_daemon(Daemon::Agent).await;
        until_ready(&lab, node).await;
        for (from, to) in [("a", "c"), ("c", "a"), ("b", "c"), ("c", "b")] {
            until_open(&lab, from, to, true).await;
        }
        assert!(kept.is_alive(PATIENCE).await, "an open connection finds it too{}", lab.log_tail(30));
        others.lost_nothing(&lab, "the third node came back").await;
        for other in &lab.nodes()[..2] {
            let routes = other.output("ip", &["route"]).await.unwrap();
            assert!(!routes.contains("172.18.0.4 "), "{routes}");
        }
        leave_nothing(&lab, &pods).await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_nodes_with_one_address_the_first_has_it_and_the_other_is_named() {
    for config in configs() {
        let lab = start(config).await;
        let pods = run(&lab, &[("a", "n1"), ("b", "n2"), ("c", "n3")]).await;
        let others = Traffic::start(&lab, &[("a", "b"), ("b", "a")]).await;
        let (first, second) = (lab.node(1), lab.node(2));
        second.report_addresses(first.addresses());
        let words = ["Node n3", "172.18.0.3", "Node n2"];
        for node in lab.nodes() {
            until_said(&lab, node, &words).await;
        }
        until(&lab, "the second is not ready", async || {
            readiness(second).await.is_err_and(|told| words.iter().all(|word| told.contains(word)))
        })
        .await;
        for node in &lab.nodes()[..2] {
            readiness(node).await.unwrap();
        }
        others.lost_nothing(&lab, "the third node says that it is the second").await;
        second.report_addresses(second.addresses());
        until_ready(&lab, second).await;
        for (from, to) in [("a", "c"), ("c", "b")] {
            until_open(&lab, from, to, true).await;
        }
        until_said(&lab, lab.node(0), &["no longer so", "Node n3", "172.18.0.3"]).await;
        leave_nothing(&lab, &pods).await;
        lab.stop().await;
    }
}
