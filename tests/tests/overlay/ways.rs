//! Networks that do not carry what nodes send, and what the nodes' tests of their ways say of them.

use std::net::{IpAddr, Ipv4Addr};

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, FabricKind, Lab, LabConfig, Routing};

use crate::cluster::{glance, margayctl, passes, start, until, until_connected};

fn config(encapsulation: Encapsulation) -> LabConfig {
    LabConfig {
        nodes: 2,
        fabric: FabricKind::Flat,
        routing: Routing::Direct,
        encapsulation,
        ..LabConfig::default()
    }
}

/// The row of `margayctl node status` about the ways.
async fn ways(lab: &Lab, node: usize) -> String {
    let told = margayctl(lab, node, "node status").await;
    told.lines().find(|line| line.starts_with("ways")).unwrap_or_default().to_owned()
}

async fn until_told(lab: &Lab, node: usize, words: &[&str]) {
    until(lab, &format!("n{} says of its ways: {words:?}", node + 1), async || {
        let told = ways(lab, node).await;
        words.iter().all(|word| told.contains(word))
    })
    .await;
}

async fn until_well(lab: &Lab) {
    for node in [0, 1] {
        until_told(lab, node, &["1 of 1 to other nodes tested and well"]).await;
    }
}

/// Has the agents of both nodes test their ways again.
async fn restart(lab: &Lab) {
    for node in lab.nodes() {
        node.stop_daemon(Daemon::Agent).await;
        node.start_daemon(Daemon::Agent).await;
    }
}

/// What a condition of a node says.
async fn condition(lab: &Lab, node: &str, kind: &str) -> String {
    let path = format!("jsonpath={{.status.conditions[?(@.type=='{kind}')].status}}");
    lab.kubectl(&["get", "node", node, "-o", &path], "").await.unwrap()
}

/// How many ways into tunnels the programs of the eBPF dataplane know, which then need no device of this node.
async fn round_the_device(lab: &Lab, node: usize) -> String {
    let told = margayctl(lab, node, "ebpf status").await;
    let row = told.lines().find(|line| line.starts_with("ways into tunnels")).unwrap_or_default();
    row.split(' ').next_back().unwrap_or_default().to_owned()
}

/// Whether an Event of a node has a reason.
async fn has_event(lab: &Lab, reason: &str) -> bool {
    let selector = format!("reason={reason}");
    let found =
        lab.kubectl(&["get", "events", "--field-selector", &selector, "-o", "name"], "").await.unwrap();
    !found.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_carries_less_than_it_says_is_found_with_the_size_that_passes() {
    for (encapsulation, less, way) in
        [(Encapsulation::Vxlan, 50, "through margay.vxlan4"), (Encapsulation::None, 0, "directly")]
    {
        let lab = start(config(encapsulation)).await;
        until_connected(&lab).await;
        until_well(&lab).await;
        until(&lab, "the Node says so", async || {
            condition(&lab, "n1", "PodNetworkImpaired").await == "False"
        })
        .await;
        // A switch drops what is too long without a word.
        lab.on_fabric("ip link set n1 mtu 1400; ip link set n2 mtu 1400").await.unwrap();
        restart(&lab).await;
        until_told(&lab, 0, &["not ready", &format!("octets do not pass {way} to node n2"), "set `mtu: "])
            .await;
        let told = ways(&lab, 0).await;
        let fits = told.split("set `mtu: ").nth(1).and_then(|rest| rest.split('`').next()).unwrap();
        let fits: usize = fits.parse().unwrap();
        // Room for a tag of four octets, where the switch has it, is room for these.
        assert!((1400 - less..=1404 - less).contains(&fits), "{told}");
        assert!(told.contains(&format!("packets of more than {fits} octets")), "{told}");
        until_told(&lab, 1, &["to node n1"]).await;
        assert!(passes(&lab, "a", "b", fits).await.is_ok());
        assert!(passes(&lab, "a", "b", fits + 1).await.is_err());
        // It is said wherever one may look, and keeps no pod away.
        until(&lab, "the Node says so", async || condition(&lab, "n1", "PodNetworkImpaired").await == "True")
            .await;
        until(&lab, "an Event says so", async || has_event(&lab, "WayImpaired").await).await;
        assert!(margayctl(&lab, 0, "node status").await.contains("pods can be added"));
        // What it says is what helps.
        for node in lab.nodes() {
            node.configure(|settings| settings["mtu"] = fits.into()).unwrap();
        }
        restart(&lab).await;
        until_well(&lab).await;
        until(&lab, "the Node says so", async || {
            condition(&lab, "n1", "PodNetworkImpaired").await == "False"
        })
        .await;
        lab.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uplink_or_a_tunnel_that_changes_is_tested_again_and_the_cluster_at_a_glance_has_what_was_found() {
    let lab = start(config(Encapsulation::Vxlan)).await;
    until_connected(&lab).await;
    until_well(&lab).await;
    // Nobody tells the nodes that the switch carries less now, until their own uplinks change.
    lab.on_fabric("ip link set n1 mtu 1400; ip link set n2 mtu 1400").await.unwrap();
    for node in lab.nodes() {
        node.output("ip", &["link", "set", "eth0", "mtu", "1480"]).await.unwrap();
    }
    let problem = ["octets do not pass through margay.vxlan4 to node n2", "set `mtu: "];
    until_told(&lab, 0, &problem).await;
    until(&lab, "the cluster at a glance says so", async || {
        let told = glance(&lab).await;
        told.contains("what pods send does not all come through")
            && problem.iter().all(|it| told.contains(it))
    })
    .await;
    // Nor that it carries all again, until a tunnel is made anew, as after a change of its network.
    lab.on_fabric("ip link set n1 mtu 1500; ip link set n2 mtu 1500").await.unwrap();
    for node in lab.nodes() {
        node.output("ip", &["link", "delete", "margay.vxlan4"]).await.unwrap();
    }
    until_well(&lab).await;
    until(&lab, "the cluster at a glance says no more", async || {
        !glance(&lab).await.contains("what pods send does not all come through")
    })
    .await;
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_drops_the_tunnels_packets_is_told_from_a_node_that_is_away() {
    let lab = start(config(Encapsulation::Vxlan)).await;
    until_well(&lab).await;
    let drop = "nft 'table bridge lab { chain forward { type filter hook forward priority 0; udp dport 4789 drop; }; }'";
    lab.on_fabric(drop).await.unwrap();
    restart(&lab).await;
    until_told(&lab, 0, &["nothing passes through margay.vxlan4 to node n2", "UDP port 4789"]).await;
    lab.on_fabric("nft delete table bridge lab").await.unwrap();
    restart(&lab).await;
    until_well(&lab).await;
    // Of a node that is away nothing is said but that.
    lab.node(1).stop_daemon(Daemon::Agent).await;
    lab.node(0).stop_daemon(Daemon::Agent).await;
    lab.node(0).start_daemon(Daemon::Agent).await;
    until_told(&lab, 0, &["ok", "nodes that do not answer: 1"]).await;
    lab.node(1).start_daemon(Daemon::Agent).await;
    until_well(&lab).await;
    lab.stop().await;
}

/// The checksum that a network card is to complete in a SYN of Linux (RFC 1071): the sum over addresses, protocol and length.
fn half_checksum(from: Ipv4Addr, to: Ipv4Addr) -> u16 {
    let words = [from, to].into_iter().flat_map(|address| {
        let [a, b, c, d] = address.octets();
        [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
    });
    // TCP is 6; a SYN has 20 octets of options.
    let sum: u32 = words.map(u32::from).sum::<u32>() + 6 + 40;
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_that_a_network_card_gets_wrong_are_computed_by_the_kernel() {
    let lab = start(config(Encapsulation::Vxlan)).await;
    until_well(&lab).await;
    until(&lab, "packets go round the device", async || round_the_device(&lab, 0).await == "1").await;
    // What leaves n1 with the checksum left to the card is lost, as if the card had got it wrong. Behind the outer header of UDP are
    // those of VXLAN, Ethernet and IPv4, and 16 octets of TCP.
    let [from, to] = [1, 2].map(|number| Ipv4Addr::new(10, 244, number, 0));
    let drop = format!(
        "nft 'table bridge lab {{ chain forward {{ type filter hook forward priority 0; \
         iifname n1 udp dport 4789 @th,{},16 {} drop; }}; }}'",
        (8 + 8 + 14 + 20 + 16) * 8,
        half_checksum(from, to)
    );
    lab.on_fabric(&drop).await.unwrap();
    restart(&lab).await;
    until_told(&lab, 0, &["ok", "checksums of packets in margay.vxlan4 are computed by the kernel"]).await;
    until(&lab, "an Event says so", async || has_event(&lab, "WayCorrected").await).await;
    until(&lab, "pods' packets go through the device", async || round_the_device(&lab, 0).await == "0").await;
    // That of the other node is well.
    until_told(&lab, 1, &["1 of 1 to other nodes tested and well"]).await;
    assert!(!ways(&lab, 1).await.contains("checksums"));
    lab.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_nodes_is_answered_and_a_cluster_that_is_well_says_nothing() {
    let lab =
        start(LabConfig { fabric: FabricKind::Subnets, nodes: 3, ..config(Encapsulation::VxlanCrossSubnet) })
            .await;
    until_connected(&lab).await;
    for node in [0, 1, 2] {
        until_told(&lab, node, &["ok", "2 of 2 to other nodes tested and well"]).await;
    }
    // A pod gets a connection that is closed with nothing said, and no answer to a datagram.
    let question = r"MARGAY01\0\0\0\1";
    let node: IpAddr = lab.node(1).addresses()[0];
    for (way, at) in [("tcp", node), ("udp", node), ("tcp", "10.244.2.0".parse().unwrap())] {
        let ask = format!(
            "bash -c 'exec 3<>/dev/{way}/{at}/9097; printf \"{question}\" >&3; timeout 2 head -c 1 <&3 | wc -c'"
        );
        let told = crate::cluster::inside(&lab, "a", &ask).await;
        assert!(told.trim().ends_with('0'), "{way} {at}: {told}");
    }
    for node in lab.nodes() {
        let log = node.log_tail(2000);
        assert!(!log.contains("do not pass") && !log.contains("nothing passes"), "{log}");
    }
    assert!(!has_event(&lab, "WayImpaired").await);
    lab.stop().await;
}
