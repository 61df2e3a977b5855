//! The speaker killed while its sessions are up.

use std::{collections::BTreeSet, time::Duration};

use margay_lab::{Daemon, clock};
use nix::sys::signal::Signal;

use crate::cluster::{PATIENCE, run_pods, start, until_open, until_restarted};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_speaker_keeps_its_nodes_routes_and_comes_back_to_all_its_peers() {
    let lab = start(3).await;
    run_pods(&lab, &[("a", "n1"), ("b", "n2"), ("c", "n3")]).await;
    until_open(&lab, "a", "b", true).await;
    let node = lab.node(0);
    let before: BTreeSet<String> = node.bgp_routes().await.unwrap().into_iter().collect();
    assert!(before.len() >= 3, "two nodes and the own blackhole: {before:?}");

    let pid = node.pid(Daemon::Bgp);
    node.signal(Daemon::Bgp, Signal::SIGKILL).unwrap();
    let restart = async {
        until_restarted(node, Daemon::Bgp, pid).await;
        lab.wait_ready(PATIENCE).await.unwrap();
        // Longer than the end-of-life of routes that nobody announces again would take to show.
        clock::until(Duration::from_secs(10), "all is told", || async {
            let status = node.bgp_status().await.ok()?;
            status.neighbors.iter().all(|peer| peer.prefixes_received == 1).then_some(())
        })
        .await
        .unwrap();
    };
    let watch = async {
        loop {
            let now: BTreeSet<String> = node.bgp_routes().await.unwrap().into_iter().collect();
            assert_eq!(now, before, "a route went while the speaker was away");
        }
    };
    tokio::select! {
        () = restart => {}
        () = watch => {}
    }
    for (from, to) in [("a", "b"), ("b", "a"), ("c", "a"), ("a", "c")] {
        until_open(&lab, from, to, true).await;
    }
    lab.stop().await;
}
