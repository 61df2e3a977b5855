//! Routes by the agent on one switched subnet.

use margay_lab::{FabricKind, IpFamilies, LabConfig, Routing};

use crate::cluster::{
    attach_outside, inside, key, passes, seen_outside, start, until, until_connected, until_ways,
};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_one_subnet_reach_each_others_pods_by_direct_routes_without_bgp() {
    let mut lab = start(LabConfig {
        nodes: 2,
        fabric: FabricKind::Flat,
        ip_families: IpFamilies::Dual,
        routing: Routing::Direct,
        ..LabConfig::default()
    })
    .await;
    until_ways(&lab, 0, &["10.244.2.0/24 eth0", "fd00:10:244:0:2::/80 eth0"]).await;
    until_connected(&lab).await;
    assert!(inside(&lab, "a", "ip link show eth0").await.contains("mtu 1500"));
    passes(&lab, "a", "b", 1500).await.unwrap();
    attach_outside(&mut lab).await;
    // As nothing asks for another.
    for (family, address) in lab.pod_addresses(&key("a")).into_iter().enumerate() {
        until(&lab, &format!("a is seen as {address}"), async || {
            seen_outside(&lab, "a", family).await == Some(address)
        })
        .await;
    }
    // What no pod has goes nowhere, and not round and round between the node and its router.
    let blackholes = lab.node(0).overlay_routes().await.unwrap();
    assert!(blackholes.iter().any(|route| route.starts_with("blackhole 10.244.1.0/24")), "{blackholes:?}");
    lab.stop().await;
}
