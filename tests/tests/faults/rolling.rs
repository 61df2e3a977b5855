//! All nodes upgraded, one after the other.

use margay_lab::{Daemon, LabConfig, clock};
use margay_tests::soak;

use crate::{
    cluster::{PATIENCE, deny, is_open, leave_nothing, run, start, until_open, until_ready},
    traffic::Traffic,
};

#[tokio::test(flavor = "multi_thread")]
async fn agents_and_speakers_of_all_nodes_begin_anew_one_after_the_other_and_no_packet_is_lost() {
    let lab = start(LabConfig::default()).await;
    let pods = run(&lab, &[("a", "n1"), ("b", "n2"), ("c", "n3"), ("near", "n1"), ("db", "n3")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "a", "db", false).await;
    let ways = [("a", "b"), ("b", "c"), ("c", "a"), ("a", "near")];
    let mut traffic = Traffic::start(&lab, &ways).await;
    let roll = async {
        for node in lab.nodes().iter().cycle().take(lab.nodes().len() * soak()) {
            // As the kubelet does with the pod of the DaemonSet: both go before one comes.
            node.stop_daemon(Daemon::Agent).await;
            node.stop_daemon(Daemon::Bgp).await;
            node.start_daemon(Daemon::Bgp).await;
            node.start_daemon(Daemon::Agent).await;
            until_ready(&lab, node).await;
            clock::until(PATIENCE, "all sessions are up again", || async {
                let neighbors = node.bgp_status().await.ok()?.neighbors;
                let is_up = |it: &margay_bgp::control::NeighborStatus| {
                    it.state == "Established" && it.prefixes_received == 1
                };
                (neighbors.len() == 2 && neighbors.iter().all(is_up)).then_some(())
            })
            .await
            .unwrap();
            traffic.goes_on(&lab, node.name()).await;
        }
    };
    let watch = async {
        loop {
            assert!(!is_open(&lab, "a", "db").await, "db was open");
        }
    };
    tokio::select! {
        () = roll => {}
        () = watch => {}
    }
    traffic.lost_nothing(&lab, "a rolling restart").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
