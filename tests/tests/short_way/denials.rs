//! What the programs drop themselves: it is counted and told of as what nftables drops.

use margay_lab::{Daemon, Lab};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    cluster::{TCP, UDP, apply, is_open, metrics, only, run, start, took, until},
    monitor::Monitor,
};

/// What a policy has dropped on a node, by the metric.
async fn dropped(lab: &Lab, node: usize, policy: &str) -> u64 {
    let drops = metrics(lab, node, "margay_policy_drops_total").await;
    drops.iter().filter(|(labels, _)| labels.contains(policy)).map(|(_, count)| count).sum()
}

/// Asks for an echo, and does not wait for long.
async fn ping(lab: &Lab, from: &str, to: &str) {
    let (node, netns) = lab.pod_netns(&margay_lab::PodKey::new("default", from)).unwrap();
    let address = lab.pod_addresses(&margay_lab::PodKey::new("default", to))[0].to_string();
    let netns = format!("--net={}", netns.unwrap().display());
    let said = node.output("nsenter", &[&netns, "ping", "-c", "1", "-W", "1", &address]).await;
    assert!(said.is_err(), "{from} to {to}: {said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_programs_drop_is_told_of_with_pods_and_policy_and_counted() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("away", "n2")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "the policy is in force", async || !is_open(&lab, "other", "near", TCP).await).await;

    let mut monitor = Monitor::start(&lab, "--drops", &["--pod", "near"]).await.unwrap();
    let pod = |name: &str| json!({"namespace": "default", "name": name});
    let policies = json!([{"kind": "NetworkPolicy", "namespace": "default", "name": "only-near"}]);
    for from in ["other", "away"] {
        let (counted, by_programs) = (dropped(&lab, 0, "only-near").await, took(&lab, 0, "denied").await);
        assert!(!is_open(&lab, from, "near", TCP).await);
        let event = monitor.event().await;
        assert_eq!(
            (&event["source"]["pod"], &event["destination"]["pod"]),
            (&pod(from), &pod("near")),
            "{event}"
        );
        assert_eq!((&event["verdict"], &event["direction"]), (&json!("drop"), &json!("ingress")), "{event}");
        assert_eq!((&event["protocol"], &event["destinationPort"]), (&json!("TCP"), &json!(8080)), "{event}");
        assert_eq!((&event["reason"], &event["policies"]), (&json!("isolation"), &policies), "{event}");
        let more = dropped(&lab, 0, "only-near").await - counted;
        assert_eq!(more, took(&lab, 0, "denied").await - by_programs, "nftables had nothing to drop");
        assert!(more > 0);
        // A SYN is sent again.
        drop(monitor);
        monitor = Monitor::start(&lab, "--drops", &["--pod", "near"]).await.unwrap();
    }
    ping(&lab, "other", "near").await;
    let event = monitor.event().await;
    assert_eq!((&event["protocol"], &event["icmpType"]), (&json!("ICMP"), &json!(8)), "{event}");
    assert_eq!((&event["destinationPort"], &event["policies"]), (&Value::Null, &policies), "{event}");
    // Datagrams are the table's to drop, and told of in the same way.
    let by_programs = took(&lab, 0, "denied").await;
    assert!(!is_open(&lab, "other", "near", UDP).await);
    let event = monitor.event().await;
    assert_eq!((&event["protocol"], &event["policies"]), (&json!("UDP"), &policies), "{event}");
    assert_eq!(took(&lab, 0, "denied").await, by_programs);
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_flushes_nftables_opens_no_connection_between_pods() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1"), ("away", "n2")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "the policy is in force", async || !is_open(&lab, "other", "near", TCP).await).await;
    // Else the agent would put the table back at once.
    lab.node(0).signal(Daemon::Agent, Signal::SIGSTOP).unwrap();
    // Its last act may have been to write it anew.
    until(&lab, "the table is away: datagrams pass", async || {
        lab.node(0).output("nft", &["flush", "ruleset"]).await.unwrap();
        is_open(&lab, "other", "near", UDP).await
    })
    .await;
    for from in ["other", "away"] {
        assert!(!is_open(&lab, from, "near", TCP).await, "{from}");
    }
    assert!(is_open(&lab, "client", "near", TCP).await);
    lab.node(0).signal(Daemon::Agent, Signal::SIGCONT).unwrap();
    until(&lab, "the table is back", async || !is_open(&lab, "other", "near", UDP).await).await;
    lab.stop().await;
}
