//! What a cluster goes through, whatever carries its packets: a node that loses its power, one that comes, one that goes.

use margay_lab::{Lab, LabConfig, PodSpec};

use crate::cluster::{
    PATIENCE, PORT, carries_at_most, inside, key, policy_knows_pods, start, until, until_connected, ways,
};

/// Three nodes; in the end n1, n2 that was started again, and n4. Pods have links with this MTU.
pub(crate) async fn live(config: LabConfig, mtu: usize) {
    let mut lab = start(LabConfig { nodes: 3, ..config }).await;
    check(&lab, mtu, "c").await;

    lab.reboot_node("n2").await.unwrap();
    lab.wait_pods(&[key("b")], PATIENCE).await.unwrap();
    check(&lab, mtu, "c").await;

    let name = lab.add_node().await.unwrap();
    lab.wait_ready(PATIENCE).await.unwrap();
    let spec = PodSpec::new(&[("name", "d")], &[PORT]).on(&name);
    lab.create_pods(&[(key("d"), spec)]).await.unwrap();
    lab.wait_pods(&[key("d")], PATIENCE).await.unwrap();
    check(&lab, mtu, "d").await;

    let address = lab.node_named("n3").unwrap().addresses()[0].to_string();
    let pods: Vec<String> =
        lab.node_named("n3").unwrap().pod_cidrs().iter().map(ToString::to_string).collect();
    lab.remove_node("n3").await.unwrap();
    for node in 0..lab.nodes().len() {
        until(&lab, &format!("n3 leaves nothing on {}", lab.node(node).name()), async || {
            let routes =
                lab.node(node).bgp_routes().await.unwrap().join("\n") + &ways(&lab, node).await.join("\n");
            !pods.iter().any(|pods| routes.contains(pods.as_str())) && !knows(&lab, node, &address).await
        })
        .await;
    }
    check(&lab, mtu, "d").await;
    lab.stop().await;
}

/// All reach all with packets of any length, but for who is not allowed to.
async fn check(lab: &Lab, mtu: usize, stranger: &str) {
    until_connected(lab).await;
    let link = inside(lab, "a", "ip link show eth0").await;
    assert!(link.contains(&format!("mtu {mtu} ")), "{link}");
    for to in ["b", stranger] {
        carries_at_most(lab, "a", to, mtu).await;
        let at = lab.pod_addresses(&key(to))[0];
        let said = inside(lab, "a", &format!("ping -n -c 1 -W 2 -M dont -s {} {at}", 3 * mtu)).await;
        assert!(said.contains(" 1 received"), "in pieces: {said}");
    }
    policy_knows_pods(lab, stranger).await;
}

/// Whether a tunnel of a node leads to this address.
async fn knows(lab: &Lab, node: usize, address: &str) -> bool {
    let entries = lab.node(node).output("bridge", &["fdb", "show"]).await.unwrap();
    entries.contains(&format!("dst {address} "))
}
