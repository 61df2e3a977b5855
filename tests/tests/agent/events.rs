//! Each thing that keeps a node from working is an Event of the Node, or of the pod that it keeps from talking.

use std::{
    fs,
    io::Write,
    process::{Command, Stdio},
    sync::Arc,
};

use margay_api::endpoint::EndpointId;
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use crate::{
    node::{Node, on_node},
    plugin::{Call, Outcome, namespace},
};

/// Waits for an Event with this reason and this in its note.
async fn until_told(node: &Node, reason: &str, about: &str, words: &str) {
    node.eventually(&format!("an Event {reason} of {about}: {words}"), async || {
        let events = node.api.list("events.k8s.io/v1", "Event");
        let fits = |event: &&Value| {
            event["reason"] == reason
                && event["regarding"]["name"] == about
                && event["note"].as_str().is_some_and(|note| note.contains(words))
        };
        if events.iter().any(|event| fits(&event)) {
            Ok(())
        } else {
            let there: Vec<_> = events
                .iter()
                .map(|event| format!("{} {}: {}", event["reason"], event["regarding"]["name"], event["note"]))
                .collect();
            Err(format!("{there:#?}"))
        }
    })
    .await;
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
}

fn put_pod(node: &Node, name: &str) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Pending"},
    });
    node.api.put_raw(pod).unwrap();
}

/// An ADD for a pod.
async fn add(node: &Node, pod: &'static str) -> Outcome {
    let call = Call::add(node.path(""), pod, Arc::new(namespace()));
    spawn_blocking(move || call.run()).await.unwrap()
}

#[test]
fn a_node_that_cannot_be_configured_says_why_and_that_it_can_again() {
    on_node(async |node| {
        node.configure_agent(&json!({"unreadySeconds": 1}));
        // In the place of the folder that runtimes look into.
        fs::write(node.path("cni"), "").unwrap();
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_agent();
        until_told(node, "BGPNotConfigured", "n1", "is margay-bgp running?").await;
        until_told(node, "MargayNotReady", "n1", "bgp: ").await;
        node.start_speaker();
        until_told(node, "NodeNotConfigured", "n1", "/cni: File exists").await;
        fs::remove_file(node.path("cni")).unwrap();
        until_told(node, "MargayReady", "n1", "pods can be added again").await;
        node.ready().await;
    });
}

#[test]
fn a_node_without_the_address_that_it_is_reached_at_says_so() {
    on_node(async |node| {
        let address = json!({"ipv4": {"interface": ["eth9"]}});
        node.configure_agent(&json!({"bgp": {"enabled": false}, "nodeAddress": address}));
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_agent();
        until_told(node, "NoNodeAddress", "n1", "eth9").await;
    });
}

#[test]
fn a_tunnel_that_cannot_be_made_is_told_of() {
    on_node(async |node| {
        node.configure_agent(&json!({"bgp": {"enabled": false}, "overlay": {"encapsulation": "VXLAN"}}));
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        // Somebody else's, of another kind.
        ip(&["link", "add", "margay.vxlan4", "type", "bridge"]);
        node.start_agent();
        until_told(node, "NoWayToPods", "n1", "margay.vxlan4").await;
    });
}

#[test]
fn links_of_pods_without_records_are_told_of() {
    on_node(async |node| {
        let host_end = EndpointId::of("c1", "eth0").host_ifname();
        ip(&["link", "add", &host_end, "type", "veth", "peer", "name", "eth0"]);
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_agent();
        until_told(node, "EndpointRecordsLost", "n1", "bring /run/margay back").await;
    });
}

#[test]
fn what_the_role_lacks_is_told_of() {
    on_node(async |node| {
        let mut role = node.api.find("rbac.authorization.k8s.io/v1", "ClusterRole", "", "margay").unwrap();
        let rules = role["rules"].as_array_mut().unwrap();
        rules.retain(|rule| rule["resources"] != json!(["networkpolicies"]));
        node.api.put_raw(role).unwrap();
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_agent();
        until_told(node, "AccessDenied", "n1", "may not read NetworkPolicy").await;
    });
}

#[test]
fn a_table_that_the_kernel_refuses_is_told_of_on_the_node_and_on_the_pod_that_waits_for_it() {
    on_node(async |node| {
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_speaker();
        node.start_agent();
        node.ready().await;
        // Somebody takes the table's place, whose it is as long as he lives (`flags owner`).
        let mut owner =
            Command::new("nft").arg("-i").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut commands = owner.stdin.take().unwrap();
        commands.write_all(b"delete table inet margay; add table inet margay { flags owner; }\n").unwrap();
        until_told(node, "PolicyNotProgrammed", "n1", "the kernel refuses the table inet margay").await;
        put_pod(node, "web");
        let outcome = add(node, "web").await;
        assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
        until_told(node, "PolicyNotReady", "web", "was not let talk in time").await;
        // Without its owner it is gone, and the agent's takes its place.
        drop(commands);
        assert!(owner.wait().unwrap().success());
        node.ready().await;
    });
}

#[test]
fn a_pod_that_the_api_server_does_not_know_gets_no_address_and_is_told_so() {
    on_node(async |node| {
        node.put_node(&json!({"podCIDRs": ["10.244.1.0/24"]}));
        node.start_speaker();
        node.start_agent();
        node.ready().await;
        let outcome = add(node, "ghost").await;
        assert!(matches!(outcome, Outcome::Failure(_)), "{outcome:?}");
        until_told(node, "NoAddress", "ghost", "is not known from the API server").await;
    });
}
