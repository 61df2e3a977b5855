//! What a user must know is in the API, on the object that it is about.

use margay_lab::{Daemon, IpamMode, Lab, LabConfig};
use serde_json::json;

use crate::cluster::{apply, create, kubectl, run, start, until};

/// Waits for a line of `kubectl get events` with all these words.
async fn until_told(lab: &Lab, namespace: &str, words: &[&str]) {
    until(lab, &format!("{words:?}"), async || {
        let table = lab.kubectl(&["-n", namespace, "get", "events"], "").await.ok()?;
        let fits = |line: &str| words.iter().all(|word| line.contains(word));
        table.lines().any(fits).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_pod_a_node_a_policy_and_an_object_of_bgp_is_told_on_it() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    // A pod that asks for what it cannot have.
    create(&lab, "a", "n1", &[("margay.dev/ip", "not-an-address")]).await;
    until_told(&lab, "default", &["Warning", "AddressRefused", "pod/a", "not-an-address"]).await;

    // A policy that cannot be read, put there before the API server knew that.
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "wrong", "namespace": "kube-public"},
        "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.0/33"}}]}]},
    });
    lab.api_server().unwrap().put_raw(policy).unwrap();
    until_told(&lab, "kube-public", &["Warning", "InvalidPolicy", "networkpolicy/wrong", "192.0.2.0/33"])
        .await;

    // One node of two tells of what both read.
    let peer = "apiVersion: margay.dev/v1alpha1\nkind: BGPPeer\nmetadata: {name: tor}\n\
                spec: {address: 192.0.2.1, asn: 64500, sourceAddress: '1.2.3'}\n";
    apply(&lab, peer).await;
    until_told(&lab, "default", &["InvalidObject", "bgppeer/tor", "spec.sourceAddress"]).await;
    // Its own session is each node's affair.
    for node in ["node/n1", "node/n2"] {
        until_told(&lab, "default", &["PeeringProblem", node, "spec.sourceAddress"]).await;
    }
    let path = "jsonpath={.items[?(@.reason==\"InvalidObject\")].reportingComponent}";
    let said = lab.kubectl(&["get", "events", "-o", path], "").await.unwrap();
    assert_eq!(said, "margay.dev/margay-node");

    // Somebody else at the table.
    lab.node(0).output("nft", &["delete", "table", "inet", "margay"]).await.unwrap();
    until_told(&lab, "default", &["TableChangedByOthers", "node/n1"]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_addresses_and_a_pool_without_blocks_say_so() {
    let pools = vec![("wrong".to_owned(), Lab::pool_of("10.244.0.1/30"))];
    let lab = Lab::start(LabConfig { nodes: 1, ipam: IpamMode::Pool, pools, ..LabConfig::default() }).await;
    let lab = lab.unwrap();
    until_told(&lab, "default", &["AddressesExhausted", "node/n1"]).await;
    until_told(&lab, "default", &["Warning", "Invalid", "ippool/wrong"]).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_a_number_of_few_events_and_hurts_neither_the_agent_nor_the_api() {
    let lab = start(LabConfig { nodes: 1, ..LabConfig::default() }).await;
    let policy = |number: u32| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "wrong", "namespace": "default"},
            "spec": {"podSelector": {}, "ingress": [{"from": [{"ipBlock": {"cidr": format!("192.0.2.{number}/33")}}]}]},
        })
    };
    for number in 0..300 {
        lab.api_server().unwrap().put_raw(policy(number)).unwrap();
    }
    until_told(&lab, "default", &["InvalidPolicy", "networkpolicy/wrong"]).await;
    // Everything that came before this has been heard.
    run(&lab, "a", "n1").await;
    create(&lab, "b", "n1", &[("margay.dev/ip", "not-an-address")]).await;
    until_told(&lab, "default", &["AddressRefused", "pod/b"]).await;
    let events = kubectl(&lab, "get events --field-selector reason=InvalidPolicy --no-headers").await;
    assert!((1..=5).contains(&events.lines().count()), "{events}");
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_time_without_the_api_server_come_when_it_is_back() {
    let lab = start(LabConfig { nodes: 1, ..LabConfig::default() }).await;
    lab.cut_api().await;
    lab.node(0).output("nft", &["delete", "table", "inet", "margay"]).await.unwrap();
    until(&lab, "the agent has seen it", async || {
        let log = lab.node(0).log(Daemon::Agent, 50);
        log.iter().any(|line| line.contains("table inet margay")).then_some(())
    })
    .await;
    lab.restore_api().unwrap();
    until_told(&lab, "default", &["TableChangedByOthers", "node/n1"]).await;
    lab.stop().await;
}
