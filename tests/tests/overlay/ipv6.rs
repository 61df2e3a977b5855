//! Clusters without IPv4, each way between nodes that there is.

use margay_api::resource::Encapsulation;
use margay_lab::{FabricKind, IpFamilies, IpamMode, Lab, LabConfig, Routing};

use crate::cluster::{
    PORT, apply, attach_outside, carries_at_most, inside, pod, seen_outside, start, until, until_connected,
    until_ways,
};

const DENY_B: &str = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
    metadata: {name: closed, namespace: default}\n\
    spec: {podSelector: {matchLabels: {name: b}}, policyTypes: [Ingress]}\n";

/// Pods of both nodes reach each other, policy is in force, and nowhere is IPv4.
async fn check(lab: &Lab) {
    until_connected(lab).await;
    for (key, _) in lab.ready_pods() {
        let addresses = lab.pod_addresses(&key);
        assert!(addresses.len() == 1 && addresses[0].is_ipv6(), "{key}: {addresses:?}");
    }
    for node in lab.nodes() {
        let addresses =
            node.output("ip", &["-4", "-brief", "address", "show", "scope", "global"]).await.unwrap();
        assert_eq!(addresses, "", "{} has IPv4", node.name());
    }
    apply(lab, DENY_B).await;
    let is_open = async || lab.reach(&pod("a"), &pod("b"), PORT).await.unwrap().is_open();
    until(lab, "b is closed", async || !is_open().await).await;
    lab.kubectl(&["delete", "networkpolicy", "closed"], "").await.unwrap();
    until(lab, "b is open", is_open).await;
}

fn config(fabric: FabricKind) -> LabConfig {
    LabConfig { nodes: 2, fabric, ip_families: IpFamilies::Ipv6, ..LabConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_tell_each_other_and_a_router_their_pods_by_bgp() {
    let mesh = start(LabConfig { ipam: IpamMode::Pool, ..config(FabricKind::Flat) }).await;
    check(&mesh).await;
    mesh.stop().await;
    let routed = start(config(FabricKind::Routed)).await;
    check(&routed).await;
    routed.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tunnels_go_over_ipv6_and_outside_sees_nodes() {
    let mut lab = start(LabConfig {
        routing: Routing::Direct,
        encapsulation: Encapsulation::Vxlan,
        nat_outgoing: true,
        ..config(FabricKind::Subnets)
    })
    .await;
    until_ways(&lab, 0, &["fd00:10:244:0:2::/80 margay.vxlan6"]).await;
    check(&lab).await;
    assert!(inside(&lab, "a", "ip link show eth0").await.contains("mtu 1430"));
    carries_at_most(&lab, "a", "b", 1430).await;
    attach_outside(&mut lab).await;
    let node = lab.node(0).addresses()[0];
    until(&lab, &format!("a is seen as {node}"), async || seen_outside(&lab, "a", 1).await == Some(node))
        .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_subnet_do_without_bgp() {
    let lab = start(LabConfig { routing: Routing::Direct, ..config(FabricKind::Flat) }).await;
    until_ways(&lab, 0, &["fd00:10:244:0:2::/80 eth0"]).await;
    check(&lab).await;
    lab.stop().await;
}
