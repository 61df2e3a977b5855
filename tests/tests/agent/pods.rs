//! Which pods an agent asks for, and what becomes of those that finish.

use margay_api::endpoint::EndpointId;
use serde_json::{Value, json};

use crate::node::{Node, on_node, table};

fn pod(name: &str, node: Option<&str>, phase: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "client"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": phase, "podIPs": [{"ip": address}]},
    })
}

/// The pod `server` of this node, which lets the pods `app=client` in.
async fn start(node: &mut Node) {
    node.put_node(&json!({"podCIDRs": ["10.0.0.0/24"]}));
    let mut server = pod("server", Some("n1"), "Running", "10.0.0.7");
    server["metadata"]["labels"]["app"] = "server".into();
    node.api.put_raw(server).unwrap();
    node.put_record("server", "10.0.0.7");
    node.put_policy("clients", "server", "client");
    node.start_speaker();
    node.start_agent();
    node.ready().await;
}

async fn until(node: &Node, address: &str, known: bool) {
    node.eventually(&format!("{address} known: {known}"), async || match table()? {
        table if table.contains(address) == known => Ok(()),
        table => Err(table),
    })
    .await;
}

#[test]
fn a_pod_of_another_node_owns_no_address_once_it_has_finished_though_its_pod_ip_stays() {
    on_node(async |node| {
        // One that had finished before the agent was there, and had the address of another.
        node.api.put_raw(pod("done", Some("n2"), "Failed", "10.0.1.8")).unwrap();
        node.api.put_raw(pod("job", Some("n2"), "Running", "10.0.1.7")).unwrap();
        start(node).await;
        until(node, "10.0.1.7", true).await;
        assert!(!table().unwrap().contains("10.0.1.8"));
        node.api.put_raw(pod("job", Some("n2"), "Succeeded", "10.0.1.7")).unwrap();
        until(node, "10.0.1.7", false).await;
        node.api.put_raw(pod("next", Some("n2"), "Running", "10.0.1.7")).unwrap();
        until(node, "10.0.1.7", true).await;
        assert!(node.api.remove_raw("v1", "Pod", "default", "job"));
        node.api.put_raw(pod("last", Some("n2"), "Running", "10.0.1.9")).unwrap();
        until(node, "10.0.1.9", true).await;
        assert!(table().unwrap().contains("10.0.1.7"));
    });
}

#[test]
fn pods_without_a_node_and_finished_ones_of_other_nodes_are_not_read() {
    on_node(async |node| {
        let api = node.api.clone();
        let large = |name: &str, on: Option<&str>, phase: &str| {
            let mut pod = pod(name, on, phase, "10.0.1.8");
            pod["metadata"]["annotations"] = json!({"text": "x".repeat(100_000)});
            api.put_raw(pod).unwrap();
        };
        large("finished", Some("n2"), "Succeeded");
        large("pending", None, "Pending");
        start(node).await;
        large("later", None, "Pending");
        large("failed", Some("n2"), "Failed");
        node.api.put_raw(pod("last", Some("n2"), "Running", "10.0.1.9")).unwrap();
        until(node, "10.0.1.9", true).await;
        let sent = node.api.sent()["pods"];
        assert!((1..100_000).contains(&sent), "{sent} octets");
        large("own", Some("n1"), "Succeeded");
        node.eventually("a finished pod of this node is read", async || match node.api.sent()["pods"] {
            sent if sent > 100_000 => Ok(()),
            sent => Err(format!("{sent} octets")),
        })
        .await;
    });
}

#[test]
fn a_pod_of_this_node_that_has_finished_keeps_its_policy_as_long_as_it_has_an_interface() {
    on_node(async |node| {
        start(node).await;
        let link = EndpointId::of("server", "eth0").host_ifname();
        let jump = format!("\"{link}\" : jump s");
        until(node, &jump, true).await;
        let mut server = node.api.find("v1", "Pod", "default", "server").unwrap();
        server["status"]["phase"] = "Succeeded".into();
        node.api.put_raw(server).unwrap();
        // Its address is nobody's, but who it may hear of is as before.
        node.api.put_raw(pod("last", Some("n2"), "Running", "10.0.1.9")).unwrap();
        until(node, "10.0.1.9", true).await;
        assert!(table().unwrap().contains(&jump));
        // Gone, it is closed.
        assert!(node.api.remove_raw("v1", "Pod", "default", "server"));
        until(node, &link, false).await;
    });
}
