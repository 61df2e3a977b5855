//! Agents that end and begin, with either dataplane, under traffic.

use std::{fs, time::Duration};

use margay_ebpf_common::LAYOUT_VERSION;
use margay_lab::{Counted, Daemon, Lab};

use crate::cluster::{
    PATIENCE, TCP, UDP, apply, is_open, only, party, restart_agent, run, start, took, until, until_runs,
};

/// Between two datagrams of a stream.
const EVERY: Duration = Duration::from_millis(2);

/// Counts what is lost from one pod to another, both on one node and on two, while something happens.
async fn lost(lab: &Lab, work: impl AsyncFnOnce()) -> Vec<Counted> {
    let mut streams = Vec::new();
    for to in ["near", "far"] {
        let mut stream = lab.stream(&party("client"), &party(to), EVERY).unwrap();
        stream.sends(50).await.unwrap();
        streams.push(stream);
    }
    work().await;
    let mut counted = Vec::new();
    for mut stream in streams {
        stream.sends(100).await.unwrap();
        counted.push(stream.finish().await.unwrap());
    }
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_or_changes_the_dataplane_loses_no_packet_and_opens_nothing() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    apply(&lab, &format!("{}---\n{}", only("client", "near"), only("client", "far"))).await;
    for to in ["near", "far"] {
        until(&lab, &format!("other -> {to} is closed"), async || !is_open(&lab, "other", to, TCP).await)
            .await;
    }
    // They live through all of it.
    let mut kept = Vec::new();
    for to in ["near", "far"] {
        kept.push(lab.keep(&party("client"), &party(to), TCP).await.unwrap().unwrap());
    }
    for dataplane in ["ebpf", "nftables", "nftables", "ebpf"] {
        let change = async || {
            for node in [0, 1] {
                restart_agent(&lab, node, dataplane).await;
            }
        };
        let watch = async {
            loop {
                // Each way, all the time: what the stack does not know of a connection it drops, and that would show.
                for kept in &mut kept {
                    assert!(kept.is_alive(PATIENCE).await, "an open connection on the way to {dataplane}");
                }
                for to in ["near", "far"] {
                    assert!(
                        !is_open(&lab, "other", to, TCP).await,
                        "{to} was open on the way to {dataplane}"
                    );
                }
            }
        };
        let counted = tokio::select! {
            counted = lost(&lab, change) => counted,
            () = watch => unreachable!("it never ends"),
        };
        for counted in counted {
            assert_eq!(
                counted.lost,
                [0_u64; 0],
                "to {dataplane}: of {} lost{}",
                counted.sent,
                lab.log_tail(30)
            );
        }
        for kept in &mut kept {
            assert!(kept.is_alive(PATIENCE).await, "an open connection on the way to {dataplane}");
        }
        let way = took(&lab, 0, "to_pod").await;
        assert!(is_open(&lab, "client", "near", TCP).await);
        if dataplane == "nftables" {
            assert!(!lab.node(0).path("/sys/fs/bpf/margay").exists(), "nothing is left of the programs");
        } else {
            until(&lab, "flows take the short way again", async || {
                assert!(is_open(&lab, "client", "near", TCP).await);
                took(&lab, 0, "to_pod").await > way
            })
            .await;
        }
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn flows_that_another_version_keeps_by_other_keys_may_end_and_all_maps_are_made_anew_and_nothing_opens()
{
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "other -> near is closed", async || !is_open(&lab, "other", "near", TCP).await).await;
    let node = lab.node(0);
    let pins = node.path("/sys/fs/bpf/margay");
    let [current, before] = [0, 1].map(|less| pins.join(format!("v{}", LAYOUT_VERSION - less)));
    for (map, of_other_keys) in [("FLOWS", "LOCAL"), ("EMBRYOS", "UPLINKS")] {
        assert!(is_open(&lab, "client", "near", TCP).await && is_open(&lab, "client", "near", UDP).await);
        until(&lab, "they take the short way", async || {
            let before = took(&lab, 0, "to_pod").await;
            is_open(&lab, "client", "near", TCP).await && took(&lab, 0, "to_pod").await > before
        })
        .await;

        let mut kept = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();
        // What an older version left, of which the keys of one map are shorter.
        node.stop_daemon(Daemon::Agent).await;
        fs::rename(&current, &before).unwrap();
        fs::rename(before.join(of_other_keys), before.join(map)).unwrap();
        let watch = async {
            loop {
                for port in [TCP, UDP] {
                    assert!(!is_open(&lab, "other", "near", port).await, "near was open to other");
                }
            }
        };
        tokio::select! {
            () = async {
                node.start_daemon(Daemon::Agent).await;
                until_runs(&lab, 0, "ebpf").await;
            } => {}
            () = watch => unreachable!("it never ends"),
        }
        assert!(current.exists() && !before.exists(), "the maps before are gone");
        let said = node.log(Daemon::Agent, 2000);
        assert!(
            said.iter().any(|line| line.contains("flows on the short way may end") && line.contains(map)),
            "{map}: {said:?}"
        );
        assert!(!is_open(&lab, "other", "near", TCP).await);
        // Nobody knows it any more, and the policy lets in what begins alone.
        until(&lab, "the open connection ends", async || !kept.is_alive(PATIENCE / 100).await).await;
    }
    until(&lab, "flows take the short way again", async || {
        let before = took(&lab, 0, "to_pod").await;
        assert!(is_open(&lab, "client", "near", TCP).await, "what policy allows{}", lab.log_tail(30));
        took(&lab, 0, "to_pod").await > before
    })
    .await;
    lab.stop().await;
}
