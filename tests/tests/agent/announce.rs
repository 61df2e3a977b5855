//! The addresses of new pods, told and believed before a status has them.

use margay_api::{
    agent::{Request, Response},
    annotation::POD_IPS,
    endpoint::EndpointId,
    paths,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
};

use crate::node::{Node, on_node, table};

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    })
}

async fn start(node: &mut Node) {
    node.put_node(&json!({"podCIDRs": ["10.0.0.0/24"]}));
    node.start_speaker();
    node.start_agent();
    node.ready().await;
}

/// As the plugin asks.
async fn added(node: &Node, container: &str) -> Response {
    let mut stream = UnixStream::connect(node.path("run").join(paths::AGENT_SOCKET)).await.unwrap();
    let request = Request::EndpointAdded { endpoint: EndpointId::of(container, "eth0") };
    let text = format!("{}\n", serde_json::to_string(&request).unwrap());
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.unwrap();
    serde_json::from_str(&line).unwrap()
}

#[test]
fn a_pods_addresses_are_annotated_as_soon_as_its_policy_is_in_the_kernel() {
    on_node(async |node| {
        start(node).await;
        node.api.put_raw(pod("a", "n1")).unwrap();
        node.put_record("a", "10.0.0.7");
        assert_eq!(added(node, "a").await, Response::Done);
        node.eventually("the annotation", async || {
            let pod = node.api.find("v1", "Pod", "default", "a").unwrap();
            let annotation = pod["metadata"]["annotations"][POD_IPS].as_str();
            if annotation == Some("10.0.0.7") { Ok(()) } else { Err(pod.to_string()) }
        })
        .await;
    });
}

#[test]
fn policy_knows_a_pod_of_another_node_by_its_annotation_until_somebody_elses_status_has_the_address() {
    on_node(async |node| {
        let other = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}, "spec": {"podCIDRs": ["10.0.1.0/24"]},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]},
        });
        node.api.put_raw(other).unwrap();
        node.api.put_raw(pod("a", "n1")).unwrap();
        node.put_record("a", "10.0.0.7");
        node.put_policy("allow-b", "a", "b");
        start(node).await;
        let until = async |known: bool| {
            node.eventually(&format!("10.0.1.7 known: {known}"), async || match table()? {
                table if table.contains("10.0.1.7") == known => Ok(()),
                table => Err(table),
            })
            .await;
        };
        until(false).await;
        let mut b = pod("b", "n2");
        b["metadata"]["annotations"] = json!({POD_IPS: "10.0.1.7"});
        node.api.put_raw(b).unwrap();
        until(true).await;
        let mut c = pod("c", "n2");
        c["status"] = json!({"podIPs": [{"ip": "10.0.1.7"}]});
        node.api.put_raw(c).unwrap();
        until(false).await;
    });
}
