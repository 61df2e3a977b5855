//! Policy on the short way.

use std::time::Duration;

use tokio::time::timeout;

use crate::cluster::{
    PATIENCE, TCP, UDP, apply, audited, is_open, margayctl, metrics, only, party, run, start, took, until,
};

#[tokio::test(flavor = "multi_thread")]
async fn flows_between_pods_go_round_the_stack_as_far_as_policy_allows_them() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("near", "n1"), ("far", "n2"), ("other", "n1")]).await;
    apply(&lab, &format!("{}---\n{}", only("client", "near"), only("client", "far"))).await;
    for to in ["near", "far"] {
        until(&lab, &format!("other -> {to} is closed"), async || !is_open(&lab, "other", to, TCP).await)
            .await;
        assert!(!is_open(&lab, "other", to, UDP).await);
    }
    assert_eq!(metrics(&lab, 0, "margay_short_way_open").await.values().next(), Some(&1));

    for (to, receiver) in [("near", 0), ("far", 1)] {
        for port in [TCP, UDP] {
            let (sent, before) = (took(&lab, 0, "to_node").await, took(&lab, receiver, "to_pod").await);
            assert!(is_open(&lab, "client", to, port).await);
            assert!(took(&lab, receiver, "to_pod").await > before, "{port:?} to {to} went through the stack");
            assert_eq!(took(&lab, 0, "to_node").await > sent, to == "far", "{port:?} to {to}");
        }
    }
    // Who drops it, it is counted.
    let drops = metrics(&lab, 1, "margay_policy_drops_total").await;
    assert!(drops.iter().any(|(labels, count)| labels.contains("only-far") && *count > 0), "{drops:?}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_that_policy_allows_no_more_ends_and_others_go_on() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("far", "n2")]).await;
    let mut ending = Vec::new();
    let mut staying = Vec::new();
    for to in ["near", "far"] {
        for port in [TCP, UDP] {
            ending.push(lab.keep(&party("other"), &party(to), port).await.unwrap().unwrap());
            staying.push(lab.keep(&party("client"), &party(to), port).await.unwrap().unwrap());
        }
    }
    // Two flows of each pod that asks, to each of two pods: on the short way, all of them.
    for (node, flows) in [(0, 8), (1, 4)] {
        let known = lab.node(node).output(&margayctl(), &["ebpf", "flows", "-o", "json"]).await.unwrap();
        let known: serde_json::Value = serde_json::from_str(&known).unwrap();
        assert_eq!(known.as_array().unwrap().len(), flows, "{known}");
    }
    // What is only audited ends none of them.
    apply(&lab, &audited("near")).await;
    let set = async || {
        let known = lab.node(0).output(&margayctl(), &["ebpf", "verdicts"]).await.unwrap();
        known.contains("nftables, which tells of it")
    };
    until(&lab, "the audit is in force", set).await;
    for kept in ending.iter_mut().chain(&mut staying) {
        assert!(kept.is_alive(PATIENCE).await, "an audit ends nothing");
    }

    apply(&lab, &format!("{}---\n{}", only("client", "near"), only("client", "far"))).await;
    for kept in &mut ending {
        let end = async { while kept.is_alive(Duration::from_millis(300)).await {} };
        timeout(PATIENCE, end).await.expect("it ends");
    }
    for kept in &mut staying {
        assert!(kept.is_alive(PATIENCE).await);
    }
    lab.stop().await;
}
