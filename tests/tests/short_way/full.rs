//! Maps of other sizes, and what does not fit in them.

use margay_lab::{Lab, PodKey};
use serde_json::{Value, json};

use crate::cluster::{
    PATIENCE, TCP, UDP, apply, create, is_open, margayctl, metrics, only, party, restart_agent,
    restart_agent_with, run, start, took, until, until_condition, until_told,
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

/// Another node with addresses for pods, of which nothing else is there.
const NODE: &str = "apiVersion: v1\nkind: Node\nmetadata: {name: n9}\n\
    spec: {podCIDR: 198.18.9.0/24, podCIDRs: [198.18.9.0/24, '2001:db8:9::/64']}\n";

/// A policy that names a range of addresses.
const RANGE: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: range, namespace: default}\n\
    spec: {podSelector: {matchLabels: {app: other}}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24}}]}]}\n";

/// Has the first node need more entries of a map.
async fn grow(lab: &Lab, map: &str) {
    match map {
        "ranges" => apply(lab, RANGE).await,
        "pods" => apply(lab, NODE).await,
        "uplinks" => on_node(lab, "ip link add more type bridge && ip link set more up").await,
        // The links of pods, and their addresses.
        _ => drop(create(lab, &[("more", "n1")]).await),
    }
}

/// Has it need as many as before.
async fn shrink(lab: &Lab, map: &str) {
    match map {
        "ranges" => drop(lab.kubectl(&["delete", "networkpolicy", "range"], "").await.unwrap()),
        "pods" => drop(lab.kubectl(&["delete", "node", "n9"], "").await.unwrap()),
        "uplinks" => on_node(lab, "ip link delete more").await,
        _ => lab.delete_pods(&[PodKey::new("default", "more")]).await.unwrap(),
    }
}

async fn on_node(lab: &Lab, command: &str) {
    lab.node(0).output("sh", &["-c", command]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_map_that_becomes_too_small_closes_the_short_way_whole_until_what_is_wanted_fits_again() {
    let (lab, _programs) = start().await;
    run(&lab, &[("client", "n1"), ("other", "n1"), ("near", "n1")]).await;
    apply(&lab, &only("client", "near")).await;
    until(&lab, "the policy is in force", async || !is_open(&lab, "other", "near", TCP).await).await;
    for map in ["ranges", "pods", "uplinks", "endpoints", "local"] {
        // As many as are wanted, and not one more.
        let entries = of_map(&lab, "entries", map).await.unwrap();
        restart_agent_with(&lab, 0, "ebpf", |settings| settings["ebpf"] = json!({map: entries})).await;
        until_open(&lab, 1).await;
        until_condition(&lab, "False", "ShortWayIsOpen", "").await;
        assert_eq!(of_map(&lab, "capacity", map).await, Some(entries), "{map}");
        let short = async || {
            let before = took(&lab, 0, "to_pod").await;
            assert!(is_open(&lab, "client", "near", TCP).await, "{map}{}", lab.log_tail(30));
            took(&lab, 0, "to_pod").await > before
        };
        until(&lab, "flows take the short way", async || short().await).await;
        let mut begun = lab.keep(&party("client"), &party("near"), TCP).await.unwrap().unwrap();

        grow(&lab, map).await;
        until_open(&lab, 0).await;
        let field = format!("ebpf.{map}");
        until_told(&lab, "ShortWayClosed", &field).await;
        until_condition(&lab, "True", "MapsLackEntries", &field).await;
        assert!(of_map(&lab, "entries", map).await > Some(entries), "{map}");
        // Nothing that was written, before it was found that there is no room, is judged by.
        let known = lab.node(0).output(&margayctl(), &["ebpf", "endpoints", "-o", "json"]).await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&known).unwrap(), json!([]), "{map}");
        assert!(!short().await, "{map}");
        for port in [TCP, UDP] {
            assert!(!is_open(&lab, "other", "near", port).await, "the policy is in force: {map}");
            assert!(is_open(&lab, "client", "near", port).await, "{map}");
        }
        assert!(begun.is_alive(PATIENCE).await, "the policy allows it: {map}");
        if ["endpoints", "local"].contains(&map) {
            assert!(is_open(&lab, "client", "more", TCP).await, "a pod that there is no room for: {map}");
        }

        shrink(&lab, map).await;
        until_open(&lab, 1).await;
        until_condition(&lab, "False", "ShortWayIsOpen", "").await;
        until(&lab, "flows take the short way again", async || short().await).await;
        assert!(!is_open(&lab, "other", "near", TCP).await, "the policy is in force: {map}");
        assert!(begun.is_alive(PATIENCE).await, "the policy allows it: {map}");
    }
    lab.stop().await;
}
