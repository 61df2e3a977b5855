//! Agent and speaker of a node killed again and again.

use margay_lab::{Daemon, LabConfig, Node, clock};
use margay_tests::soak;
use serde_json::Value;

use crate::{
    cluster::{PATIENCE, deny, is_open, leave_nothing, margayctl, run, start, until_open, until_ready},
    traffic::Traffic,
};

/// Kills a process (SIGKILL), and starts it at once, without the pause that a supervisor makes after many ends.
async fn kill(node: &Node, daemon: Daemon) {
    node.stop_daemon(daemon).await;
    assert_eq!(node.pid(daemon), None);
    node.start_daemon(daemon).await;
}

/// Until then peers hold the routes of the session before, which are stale: it may not end once more (RFC 4724 section 4.2).
async fn until_all_is_told_again(node: &Node, peers: usize) {
    clock::until(PATIENCE, "all sessions are up and have told all", || async {
        let neighbors = node.bgp_status().await.ok()?.neighbors;
        let is_whole = neighbors.iter().all(|it| it.state == "Established" && it.prefixes_received == 1);
        let routes: Value = serde_json::from_str(&margayctl(node, "bgp routes -o json").await).ok()?;
        let is_fresh = routes.as_array()?.iter().all(|path| path["use"] == "best");
        (neighbors.len() == peers && is_whole && is_fresh).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_and_a_speaker_that_are_killed_again_and_again_lose_no_packet_and_open_nothing() {
    let lab = start(LabConfig::default()).await;
    let pods = run(&lab, &[("a", "n1"), ("b", "n2"), ("near", "n2"), ("db", "n2")]).await;
    deny(&lab, "db").await;
    until_open(&lab, "a", "db", false).await;
    let mut traffic = Traffic::start(&lab, &[("a", "b"), ("b", "a"), ("b", "near")]).await;
    let node = lab.node_named("n2").unwrap();
    let kills = async {
        for round in 0..6 * soak() {
            // Both at once, and the agent once more before it has found its way.
            tokio::join!(kill(node, Daemon::Agent), kill(node, Daemon::Bgp));
            kill(node, Daemon::Agent).await;
            until_ready(&lab, node).await;
            until_all_is_told_again(node, lab.nodes().len() - 1).await;
            for other in lab.nodes().iter().filter(|other| other.name() != node.name()) {
                until_all_is_told_again(other, lab.nodes().len() - 1).await;
            }
            traffic.goes_on(&lab, &format!("round {round}")).await;
        }
    };
    let watch = async {
        loop {
            assert!(!is_open(&lab, "a", "db").await, "db was open");
        }
    };
    tokio::select! {
        () = kills => {}
        () = watch => {}
    }
    traffic.lost_nothing(&lab, "kills").await;
    leave_nothing(&lab, &pods).await;
    lab.stop().await;
}
