//! From whom packets seem to be, to policies and outside of the cluster, with both dataplanes.

use std::net::IpAddr;

use margay_api::resource::Encapsulation;
use margay_lab::{
    Daemon, Dataplane, ExternalConfig, FabricKind, IpFamilies, Lab, LabConfig, Party, PodSpec, Routing,
};
use serde_json::json;

use crate::cluster::{
    PATIENCE, PORT, apply, attach_outside, key, pod, seen_outside, start, until, until_connected,
};

/// Addresses of a Service, as kube-proxy serves them.
const SERVICE: [&str; 2] = ["192.0.2.10", "2001:db8::10"];

/// A policy of b by these addresses alone; by nobody where there are none.
fn only(addresses: &[IpAddr]) -> String {
    let block = |address: &IpAddr| {
        format!("{{ipBlock: {{cidr: {address}/{}}}}}", if address.is_ipv4() { 32 } else { 128 })
    };
    let blocks: Vec<String> = addresses.iter().map(block).collect();
    let ingress =
        if blocks.is_empty() { "[]".to_owned() } else { format!("[{{from: [{}]}}]", blocks.join(", ")) };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: only, namespace: default}}\n\
         spec: {{podSelector: {{matchLabels: {{name: b}}}}, policyTypes: [Ingress], ingress: {ingress}}}\n"
    )
}

/// Which addresses of b somebody reaches.
async fn reached(lab: &Lab, from: &Party) -> Vec<bool> {
    let mut reached = Vec::new();
    for address in lab.pod_addresses(&key("b")) {
        reached.push(lab.reach_address(from, address, PORT).await.unwrap().is_open());
    }
    reached
}

async fn until_reached(lab: &Lab, from: &Party, expected: bool) {
    until(lab, &format!("b is open to {from}: {expected}"), async || {
        reached(lab, from).await == [expected; 2]
    })
    .await;
}

fn node(name: &str) -> Party {
    Party::Node(name.to_owned())
}

/// A Service of b alone on each node. What comes from b itself has the node's address then, as with kube-proxy.
async fn serve(lab: &Lab) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for (address, service) in lab.pod_addresses(&key("b")).into_iter().zip(SERVICE) {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let target = std::net::SocketAddr::new(address, PORT.number);
        before.push(format!("{family} daddr {service} tcp dport 8080 dnat {family} to {target}; "));
        after.push(format!("{family} saddr {address} {family} daddr {address} masquerade; "));
    }
    let [before, after] = [before, after].map(|rules| rules.concat());
    let table = format!(
        "table inet services {{ chain prerouting {{ type nat hook prerouting priority dstnat; {before} }}; \
         chain postrouting {{ type nat hook postrouting priority srcnat; {after} }}; }}"
    );
    for node in lab.nodes() {
        node.output("nft", &[&table]).await.unwrap();
    }
}

async fn until_seen(lab: &Lab, expected: &[IpAddr]) {
    for (family, address) in expected.iter().enumerate() {
        until(lab, &format!("a is seen outside as {address}"), async || {
            seen_outside(lab, "a", family).await == Some(*address)
        })
        .await;
    }
}

/// In tunnels of another network and port than others have.
async fn through_tunnels(dataplane: Dataplane) {
    let mut lab = start(LabConfig {
        nodes: 3,
        fabric: FabricKind::Flat,
        ip_families: IpFamilies::Dual,
        routing: Routing::Direct,
        encapsulation: Encapsulation::Vxlan,
        nat_outgoing: true,
        dataplane,
        ..LabConfig::default()
    })
    .await;
    for node in lab.nodes() {
        node.configure(|settings| {
            settings["overlay"] = json!({"encapsulation": "VXLAN", "vni": 77, "port": 8472});
        })
        .unwrap();
        node.stop_daemon(Daemon::Agent).await;
        node.start_daemon(Daemon::Agent).await;
    }
    for node in lab.nodes() {
        until(&lab, &format!("the tunnel of {} is of the other network and port", node.name()), async || {
            let shown = node.output("ip", &["-d", "link"]).await.unwrap();
            shown.contains("vxlan id 77 ") && shown.contains("dstport 8472")
        })
        .await;
    }
    until_connected(&lab).await;

    // By its own address a policy means a node, and what it sends through a tunnel: that node, and no other.
    apply(&lab, &only(&lab.node(0).addresses())).await;
    until_reached(&lab, &node("n3"), false).await;
    until_reached(&lab, &node("n1"), true).await;
    until_reached(&lab, &pod("a"), false).await;
    // A node reaches its own pods whatever policies say.
    until_reached(&lab, &node("n2"), true).await;
    // The node's own address could not be the source: where the network drops what is from pods, nothing would come back.
    let filter = "nft 'table bridge sources { chain forward { type filter hook forward priority 0; ip saddr 10.244.0.0/16 drop; }; }'";
    lab.on_fabric(filter).await.unwrap();
    until_reached(&lab, &node("n1"), true).await;
    let (own, to) = (lab.node(0).addresses()[0], lab.pod_addresses(&key("b"))[0]);
    let ping = format!("ping -n -c 3 -i 0.2 -W 1 -I {own} {to} || true");
    let said = lab.node(0).output("sh", &["-c", &ping]).await.unwrap();
    assert!(said.contains(" 0 received"), "{said}");
    lab.on_fabric("nft delete table bridge sources").await.unwrap();

    // A pod and itself through its Service; nobody else.
    apply(&lab, &only(&[])).await;
    until_reached(&lab, &node("n1"), false).await;
    serve(&lab).await;
    for service in SERVICE {
        let open = async |from: &str| {
            lab.reach_address(&pod(from), service.parse().unwrap(), PORT).await.unwrap().is_open()
        };
        assert!(open("b").await, "b reaches itself as {service}{}", lab.log_tail(25));
        assert!(!open("a").await, "a reaches b as {service}");
    }
    lab.kubectl(&["delete", "networkpolicy", "only"], "").await.unwrap();

    // Outside a pod is its node, and a node, its pods and ranges that are named see the pod.
    attach_outside(&mut lab).await;
    until_seen(&lab, &lab.node(0).addresses()).await;
    let host = PodSpec { host_network: true, ..PodSpec::new(&[], &[PORT]).on("n2") };
    lab.create_pods(&[(key("host"), host)]).await.unwrap();
    lab.wait_pods(&[key("host")], PATIENCE).await.unwrap();
    let own = lab.pod_addresses(&key("a"));
    for address in lab.node(1).addresses() {
        let seen = lab.reach_address(&pod("a"), address, PORT).await.unwrap();
        let client = match seen {
            margay_lab::Reach::Open { client } => client,
            margay_lab::Reach::Closed { .. } => panic!("a does not reach n2 at {address}: {seen:?}"),
        };
        assert!(own.contains(&client), "n2 sees a as {client}");
    }
    lab.delete_pods(&[key("host")]).await.unwrap();
    apply(
        &lab,
        "apiVersion: margay.dev/v1alpha1\nkind: NetworkConfig\nmetadata: {name: default}\n\
         spec: {nonMasqueradeCIDRs: [203.0.113.0/24, '2001:db8:113::/64']}\n",
    )
    .await;
    until_seen(&lab, &own).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_tunnels_each_is_known_by_its_own_address_with_nftables() {
    through_tunnels(Dataplane::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_tunnels_each_is_known_by_its_own_address_with_ebpf() {
    through_tunnels(Dataplane::Ebpf).await;
}

/// A host outside that routers lead to pods, by what nodes tell them.
async fn from_outside(dataplane: Dataplane) {
    let mut lab = start(LabConfig {
        nodes: 2,
        fabric: FabricKind::Routed,
        ip_families: IpFamilies::Dual,
        dataplane,
        ..LabConfig::default()
    })
    .await;
    until_connected(&lab).await;
    attach_outside(&mut lab).await;
    let addresses = ["203.0.113.20", "2001:db8:113::20"].map(|text| text.parse().unwrap()).into();
    lab.attach_external(&ExternalConfig { name: "stranger".into(), addresses, ports: vec![] }).await.unwrap();
    let [outside, stranger] = ["outside", "stranger"].map(|name| Party::External(name.into()));
    until_reached(&lab, &outside, true).await;
    until_reached(&lab, &stranger, true).await;
    apply(&lab, &only(&["203.0.113.10", "2001:db8:113::10"].map(|text| text.parse().unwrap()))).await;
    until_reached(&lab, &stranger, false).await;
    until_reached(&lab, &pod("a"), false).await;
    until_reached(&lab, &node("n1"), false).await;
    until_reached(&lab, &outside, true).await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_lets_a_host_outside_in_by_its_address_with_nftables() {
    from_outside(Dataplane::Nftables).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_lets_a_host_outside_in_by_its_address_with_ebpf() {
    from_outside(Dataplane::Ebpf).await;
}
