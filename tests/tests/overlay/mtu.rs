//! Uplinks whose MTU changes under pods that are there, and nodes whose address is on none.

use std::net::IpAddr;

use margay_lab::{Daemon, Dataplane, IpFamilies, Lab, LabConfig, PodSpec};
use serde_json::{Value, json};

use crate::cluster::{
    PATIENCE, PORT, carries_at_most, gives_mtu, inside, key, margayctl, passes, start, until, until_connected,
};

async fn set_uplinks(lab: &Lab, octets: u32) {
    for node in lab.nodes() {
        node.output("ip", &["link", "set", "eth0", "mtu", &octets.to_string()]).await.unwrap();
    }
}

async fn add(lab: &Lab, name: &str, node: &str) {
    lab.create_pods(&[(key(name), PodSpec::new(&[("name", name)], &[PORT]).on(node))]).await.unwrap();
    lab.wait_pods(&[key(name)], PATIENCE).await.unwrap();
}

async fn mtu_of(lab: &Lab, pod: &str) -> String {
    let shown = inside(lab, pod, "ip link show eth0").await;
    shown.split_once(" mtu ").and_then(|(_, rest)| rest.split(' ').next()).unwrap().to_owned()
}

/// Restarts the agents with another value of a field of their files.
async fn configure(lab: &Lab, field: &str, value: &Value) {
    for node in lab.nodes() {
        node.configure(|settings| settings[field] = value.clone()).unwrap();
        node.stop_daemon(Daemon::Agent).await;
        node.start_daemon(Daemon::Agent).await;
    }
}

/// New pods have the MTU of the uplinks at once. Pods that are there are told when a packet is too long, and follow when the
/// runtime calls the plugin; never up.
async fn follow(dataplane: Dataplane) {
    let ip_families = IpFamilies::Dual;
    let lab = start(LabConfig { nodes: 2, dataplane, ip_families, ..LabConfig::default() }).await;
    until_connected(&lab).await;
    carries_at_most(&lab, "a", "b", 1500).await;
    set_uplinks(&lab, 1400).await;
    until(&lab, "new pods get 1400", async || gives_mtu(&lab, 0, 1400) && gives_mtu(&lab, 1, 1400)).await;
    assert_eq!(mtu_of(&lab, "a").await, "1500");
    for to in lab.pod_addresses(&key("b")) {
        let header = if to.is_ipv4() { 28 } else { 48 };
        let ping = |octets: usize| format!("ping -n -c 1 -W 2 -M do -s {} {to}", octets - header);
        // The first is what tells; then the pod's own kernel knows.
        let said = inside(&lab, "a", &ping(1500)).await;
        assert!(said.contains("mtu = 1400") || said.contains("mtu=1400"), "{said}");
        let said = inside(&lab, "a", &ping(1400)).await;
        assert!(said.contains(" 1 received"), "{said}");
    }
    // It has to last. No kubelet here asks for STATUS: an ADD does the same.
    for node in lab.nodes() {
        let asked = node.path("/run/margay/pod-mtu");
        until(&lab, "the plugin is asked to make pods' MTU smaller", async || asked.exists()).await;
    }
    assert_eq!(mtu_of(&lab, "a").await, "1500");
    add(&lab, "d", "n1").await;
    add(&lab, "e", "n2").await;
    for pod in ["a", "b", "d", "e"] {
        until(&lab, &format!("{pod} has 1400"), async || mtu_of(&lab, pod).await == "1400").await;
    }
    for (from, to) in [("a", "b"), ("a", "d"), ("e", "a")] {
        carries_at_most(&lab, from, to, 1400).await;
    }
    until_connected(&lab).await;
    set_uplinks(&lab, 1500).await;
    until(&lab, "new pods get 1500", async || gives_mtu(&lab, 0, 1500) && gives_mtu(&lab, 1, 1500)).await;
    add(&lab, "f", "n1").await;
    assert_eq!([mtu_of(&lab, "a").await, mtu_of(&lab, "f").await], ["1400", "1500"]);
    passes(&lab, "f", "b", 1400).await.unwrap();
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_follow_the_uplinks_with_nftables() {
    follow(Dataplane::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_follow_the_uplinks_with_ebpf() {
    follow(Dataplane::Ebpf).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_nodes_whose_address_is_on_lo_get_the_mtu_of_the_uplinks() {
    let lab = start(LabConfig { nodes: 2, ..LabConfig::default() }).await;
    let addresses: Vec<IpAddr> = lab.nodes().iter().map(|node| node.addresses()[0]).collect();
    for (number, node) in lab.nodes().iter().enumerate() {
        let (own, other, via) = (number + 1, 2 - number, addresses[1 - number]);
        let script = format!(
            "ip address add 198.51.100.{own}/32 dev lo; ip link set eth0 mtu 1400; ip route add 198.51.100.{other}/32 via {via}"
        );
        node.output("sh", &["-e", "-c", &script]).await.unwrap();
    }
    configure(&lab, "nodeAddress", &json!({"ipv4": {"interface": ["lo"]}})).await;
    until(&lab, "new pods get 1400", async || gives_mtu(&lab, 0, 1400) && gives_mtu(&lab, 1, 1400)).await;
    until_connected(&lab).await;
    // Nor do the tests between nodes take packets for too long that `lo` alone has room for.
    until(&lab, "the way is tested", async || {
        let said = margayctl(&lab, 0, "node status").await;
        assert!(!said.contains("octets do not pass"), "{said}");
        said.contains("1 of 1 to other nodes tested and well")
    })
    .await;
    lab.stop().await;
}
