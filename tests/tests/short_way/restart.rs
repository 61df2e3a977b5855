//! Agents that end and begin, with either dataplane, under traffic.

use std::time::Duration;

use margay_lab::{Counted, Lab};

use crate::cluster::{PATIENCE, TCP, apply, is_open, only, party, restart_agent, run, start, took, until};

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
