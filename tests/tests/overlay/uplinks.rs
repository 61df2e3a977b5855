//! Nodes with two uplinks, of which the kubelet names the first and the agents' files the second.

use margay_api::resource::Encapsulation;
use margay_lab::{Daemon, IpFamilies, Lab, LabConfig, Routing};
use serde_json::{Value, json};

use crate::cluster::{margayctl, start, until, until_connected};

/// Both ways between nodes. Each node is told in words of its own.
fn configs() -> [LabConfig; 2] {
    let both =
        LabConfig { nodes: 2, second_uplink: true, ip_families: IpFamilies::Dual, ..LabConfig::default() };
    let tunnels = LabConfig { routing: Routing::Direct, encapsulation: Encapsulation::Vxlan, ..both.clone() };
    [both, tunnels]
}

async fn configure(lab: &Lab, node: usize, section: Value) {
    let node = lab.node(node);
    node.configure(|settings| settings["nodeAddress"] = section).unwrap();
    node.stop_daemon(Daemon::Agent).await;
    node.start_daemon(Daemon::Agent).await;
}

/// What the Node object of a node says of its address.
async fn published(lab: &Lab, node: usize) -> Option<String> {
    let text = lab.kubectl(&["get", "node", lab.node(node).name(), "-o", "json"], "").await.unwrap();
    let object: Value = serde_json::from_str(&text).unwrap();
    object["metadata"]["annotations"]["margay.dev/node-ips"].as_str().map(str::to_owned)
}

async fn until_published(lab: &Lab, node: usize, expected: Option<&str>) {
    until(lab, &format!("n{} says {expected:?}", node + 1), async || {
        published(lab, node).await.as_deref() == expected
    })
    .await;
}

async fn run(lab: &Lab, node: usize, script: &str) {
    lab.node(node).output("sh", &["-e", "-c", script]).await.unwrap();
}

/// All that a node has of ways to pods of others.
async fn ways(lab: &Lab, node: usize) -> String {
    let all = "ip -4 route show proto 78; ip -6 route show proto 78; ip -4 route show proto bgp; ip -6 route show proto bgp; \
               bridge fdb show | grep margay || true; ip -d link show type vxlan";
    lab.node(node).output("sh", &["-c", all]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_on_the_uplink_that_their_files_name_and_follow_its_address() {
    for config in configs() {
        let lab = start(config).await;
        until_connected(&lab).await;
        assert_eq!(published(&lab, 0).await, None);
        configure(&lab, 0, json!({"ipv4": {"interface": ["eth1"]}, "ipv6": {"skip-interface": ["eth0"]}}))
            .await;
        configure(&lab, 1, json!({"ipv4": {"cidr": ["172.19.0.0/24"]}, "ipv6": {"can-reach": "fd00:19::2"}}))
            .await;
        until_published(&lab, 0, Some("172.19.0.2,fd00:19::2")).await;
        until_published(&lab, 1, Some("172.19.0.3,fd00:19::3")).await;
        // Nothing else is between the nodes from here on.
        let cut = "nft 'table bridge lab { chain forward { type filter hook forward priority 0; oifname { n1, n2 } drop; }; }'";
        lab.on_fabric(cut).await.unwrap();
        until_connected(&lab).await;
        for node in [0, 1] {
            let ways = ways(&lab, node).await;
            let is_old = |text: &str| text.contains("172.18.0.") || text.contains("fd00:18:");
            assert!(!is_old(&ways), "{ways}");
        }

        // It follows by itself, everywhere.
        run(&lab, 1, "ip address delete 172.19.0.3/24 dev eth1; ip address add 172.19.0.30/24 dev eth1")
            .await;
        until_published(&lab, 1, Some("172.19.0.30,fd00:19::3")).await;
        until_connected(&lab).await;
        // An address beside it changes nothing.
        run(&lab, 1, "ip address add 172.19.0.1/32 dev eth1").await;
        // What others write there is mended.
        let wrong = ["annotate", "node", "n2", "--overwrite", "margay.dev/node-ips=192.0.2.1"];
        lab.kubectl(&wrong, "").await.unwrap();
        until_published(&lab, 1, Some("172.19.0.30,fd00:19::3")).await;
        until_connected(&lab).await;

        // Without any it says so, and what others know stays.
        run(&lab, 1, "ip address flush dev eth1 to 172.19.0.0/24").await;
        let words =
            "nodeAddress.ipv4 of the agent's file is `cidr: [172.19.0.0/24]`: no address of this node";
        until(&lab, "n2 says so", async || margayctl(&lab, 1, "node status").await.contains(words)).await;
        assert_eq!(published(&lab, 1).await.as_deref(), Some("172.19.0.30,fd00:19::3"));
        run(&lab, 1, "ip address add 172.19.0.3/24 dev eth1").await;
        until_published(&lab, 1, Some("172.19.0.3,fd00:19::3")).await;
        until_connected(&lab).await;

        // And back to what the kubelet says.
        lab.on_fabric("nft delete table bridge lab").await.unwrap();
        for node in [0, 1] {
            configure(&lab, node, json!({})).await;
            until_published(&lab, node, None).await;
        }
        until_connected(&lab).await;
        lab.stop().await;
    }
}
