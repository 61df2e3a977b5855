//! Maps of other sizes, and what does not fit in them.

use margay_lab::Lab;
use serde_json::json;

use crate::cluster::{
    PATIENCE, TCP, apply, is_open, metrics, only, party, restart_agent, restart_agent_with, run, start, took,
    until, until_condition, until_told,
};

/// A number that the agent of the first node has of a map.
async fn of_map(lab: &Lab, metric: &str, map: &str) -> Option<u64> {
    metrics(lab, 0, &format!("margay_ebpf_map_{metric}")).await.get(&format!("{{map=\"{map}\"}}")).copied()
}

async fn until_open(lab: &Lab, open: u64) {
    until(lab, &format!("margay_short_way_open is {open}"), async || {
        metrics(lab, 0, "margay_short_way_open").await.values().next() == Some(&open)
    })
    .await;
}

/// A policy that lets the client in to `near` on the ports of the servers and on so many others, none beside another.
fn many_ports(number: u32) -> String {
    let others: Vec<_> = (0..number).map(|port| json!({"port": 9000 + 2 * port})).collect();
    let ports = [vec![json!({"port": 8080}), json!({"port": 8081, "protocol": "UDP"})], others].concat();
    let from = json!([{"podSelector": {"matchLabels": {"app": "client"}}}]);
    let spec =
        json!({"podSelector": {"matchLabels": {"app": "near"}}, "ingress": [{"from": from, "ports": ports}]});
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "only-near", "namespace": "default"}, "spec": spec,
    })
    .to_string()
}

/// A policy about `near` that names every pod.
const ALL_PODS: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: only-near, namespace: default}\n\
    spec: {podSelector: {matchLabels: {app: near}}, ingress: [{from: [{podSelector: {}}]}]}\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_closes_the_short_way_and_says_so_and_is_in_force_all_the_same() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1")]).await;
    let mut kept = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();
    let mut ending = lab.keep(&party("other"), &party("near"), TCP).await.unwrap().unwrap();
    // Counted when it was first asked, before there were any.
    assert!(of_map(&lab, "entries", "flows").await.is_some());

    // Other sizes: the flows of the tables before go on, and new ones take the short way.
    let sizes = json!({"flows": 2048, "verdicts": 8, "addresses": 4});
    restart_agent_with(&lab, 0, "ebpf", |settings| settings["ebpf"] = sizes).await;
    until_open(&lab, 1).await;
    until_condition(&lab, "False", "ShortWayIsOpen", "").await;
    for (map, capacity) in [("flows", 2048), ("verdicts", 8), ("addresses", 4), ("embryos", 65_536)] {
        assert_eq!(of_map(&lab, "capacity", map).await, Some(capacity), "{map}");
    }
    for kept in [&mut kept, &mut ending] {
        assert!(kept.is_alive(PATIENCE).await, "an open connection");
    }
    let short = async || {
        let before = took(&lab, 0, "to_pod").await;
        assert!(is_open(&lab, "client", "near", TCP).await);
        took(&lab, 0, "to_pod").await > before
    };
    assert!(short().await);
    let left = lab.node(0).path("/sys/fs/bpf/margay");
    let left = std::fs::read_dir(left).unwrap().count();
    assert_eq!(left, 1, "the maps before are gone");
    // One that began in the new tables.
    let mut begun = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();

    // More verdicts than there is room for.
    apply(&lab, &many_ports(20)).await;
    until_open(&lab, 0).await;
    until_told(&lab, "ShortWayClosed", "ebpf.verdicts").await;
    until_condition(&lab, "True", "MapsLackEntries", "ebpf.verdicts").await;
    assert!(of_map(&lab, "entries", "verdicts").await > Some(20));
    assert!(!is_open(&lab, "other", "near", TCP).await, "the policy is in force");
    assert!(!short().await);
    for kept in [&mut kept, &mut begun] {
        assert!(kept.is_alive(PATIENCE).await, "the policy allows it");
    }
    until(&lab, "what the policy forbids ends", async || !ending.is_alive(PATIENCE / 100).await).await;

    // Room again.
    apply(&lab, &only("client", "near")).await;
    until_open(&lab, 1).await;
    until_told(&lab, "ShortWayOpen", "round the stack").await;
    until_condition(&lab, "False", "ShortWayIsOpen", "").await;
    until(&lab, "flows take the short way again", async || short().await).await;
    assert!(!is_open(&lab, "other", "near", TCP).await);

    // More addresses than there is room for: two of each of three pods.
    apply(&lab, ALL_PODS).await;
    until_open(&lab, 0).await;
    until_told(&lab, "ShortWayClosed", "ebpf.addresses").await;
    until_condition(&lab, "True", "MapsLackEntries", "ebpf.addresses").await;
    assert!(is_open(&lab, "other", "near", TCP).await, "the policy is in force");
    for kept in [&mut kept, &mut begun] {
        assert!(kept.is_alive(PATIENCE).await, "the policy allows it");
    }

    // Without eBPF there is nothing to be closed, and what was said of it does not stay.
    restart_agent(&lab, 0, "nftables").await;
    until_condition(&lab, "Unknown", "DataplaneIsNftables", "").await;
    lab.stop().await;
}
