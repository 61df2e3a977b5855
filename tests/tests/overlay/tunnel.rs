//! Everything through VXLAN, without BGP, behind routers that know no address of a pod.

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, FabricKind, IpFamilies, LabConfig, PodSpec, Routing};
use serde_json::Value;

use crate::cluster::{
    PATIENCE, PORT, apply, attach_outside, carries_at_most, inside, key, margayctl, passes, pod,
    policy_knows_pods, seen_outside, start, until, until_connected, until_ways,
};

fn config(nodes: u8, fabric: FabricKind) -> LabConfig {
    LabConfig {
        nodes,
        fabric,
        routing: Routing::Direct,
        encapsulation: Encapsulation::Vxlan,
        ..LabConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_in_both_families_and_policies_see_the_pods_behind_a_tunnel() {
    let families = LabConfig { ip_families: IpFamilies::Dual, ..config(3, FabricKind::Subnets) };
    let mut lab = start(LabConfig { nat_outgoing: true, ..families }).await;
    // Of one subnet or not: all through the tunnel.
    let of_n1 = [
        "10.244.2.0/24 margay.vxlan4",
        "10.244.3.0/24 margay.vxlan4",
        "fd00:10:244:0:2::/80 margay.vxlan4",
        "fd00:10:244:0:3::/80 margay.vxlan4",
    ];
    until_ways(&lab, 0, &of_n1).await;
    until_connected(&lab).await;

    // A pod with the network of its node.
    let host = PodSpec { host_network: true, ..PodSpec::new(&[], &[PORT]).on("n2") };
    lab.create_pods(&[(key("host"), host)]).await.unwrap();
    lab.wait_pods(&[key("host")], PATIENCE).await.unwrap();
    for from in ["a", "b", "c"] {
        let cell = lab.reach(&pod(from), &pod("host"), PORT).await.unwrap();
        assert!(cell.is_open(), "{from}: {cell:?}");
    }
    let cell = lab.reach(&pod("host"), &pod("a"), PORT).await.unwrap();
    assert!(cell.reach.is_open(), "{cell:?}");
    lab.delete_pods(&[key("host")]).await.unwrap();

    // Outside they are seen as their nodes; nobody there knows a pod.
    attach_outside(&mut lab).await;
    for (family, address) in lab.node(0).addresses().into_iter().enumerate() {
        until(&lab, &format!("a is seen as {address}"), async || {
            seen_outside(&lab, "a", family).await == Some(address)
        })
        .await;
    }

    assert!(inside(&lab, "a", "ip link show eth0").await.contains("mtu 1450"));
    carries_at_most(&lab, "a", "b", 1450).await;

    policy_knows_pods(&lab, "c").await;
    let reaches = async |from: &str| lab.reach(&pod(from), &pod("b"), PORT).await.unwrap().is_open();

    // A node that goes takes its ways along, and brings them when it comes back.
    let node: Value = {
        let text = lab.kubectl(&["get", "node", "n3", "-o", "json"], "").await.unwrap();
        serde_json::from_str(&text).unwrap()
    };
    lab.kubectl(&["delete", "node", "n3"], "").await.unwrap();
    until_ways(&lab, 0, &[of_n1[0], of_n1[2]]).await;
    let entries = lab.node(0).output("bridge", &["fdb", "show", "dev", "margay.vxlan4"]).await.unwrap();
    assert_eq!(entries.lines().count(), 1, "{entries}");
    let fresh = serde_json::json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n3"}, "spec": node["spec"],
    });
    apply(&lab, &fresh.to_string()).await;
    let status = serde_json::json!({"status": {"addresses": node["status"]["addresses"]}}).to_string();
    let patch = ["patch", "node", "n3", "--subresource=status", "--type=merge", "-p", &status];
    lab.kubectl(&patch, "").await.unwrap();
    until_ways(&lab, 0, &of_n1).await;
    until_connected(&lab).await;

    // The kernel forwards without the agent; what others take away while it runs, it puts back.
    lab.node(0).stop_daemon(Daemon::Agent).await;
    assert!(reaches("a").await);
    lab.node(0).start_daemon(Daemon::Agent).await;
    for damage in ["link delete margay.vxlan4", "neigh flush dev margay.vxlan4 nud permanent"] {
        until_ways(&lab, 0, &of_n1).await;
        lab.node(0).output("ip", &damage.split(' ').collect::<Vec<_>>()).await.unwrap();
        until(&lab, damage, async || reaches("a").await).await;
    }
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_with_a_router_each_need_nothing_of_it_but_their_own_addresses() {
    let lab = start(config(2, FabricKind::Routed)).await;
    until_ways(&lab, 0, &["10.244.2.0/24 margay.vxlan4"]).await;
    until_connected(&lab).await;
    passes(&lab, "a", "b", 1450).await.unwrap();

    // A node whose tunnel cannot be says so, and works as soon as it can.
    lab.node(0).stop_daemon(Daemon::Agent).await;
    let take = "ip link delete margay.vxlan4 && ip link add thief type vxlan id 4096 dstport 4789";
    lab.node(0).output("sh", &["-c", take]).await.unwrap();
    lab.node(0).start_daemon(Daemon::Agent).await;
    until(&lab, "the agent tells of the thief", async || {
        margayctl(&lab, 0, "node status").await.contains("overlay: add link margay.vxlan4")
    })
    .await;
    lab.node(0).output("ip", &["link", "delete", "thief"]).await.unwrap();
    until_connected(&lab).await;
    until(&lab, "all is well", async || !margayctl(&lab, 0, "node status").await.contains("overlay")).await;
    lab.stop().await;
}
