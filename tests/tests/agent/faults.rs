//! What the agent does when something around it goes wrong.

use std::process::Command;

use serde_json::{Value, json};

use crate::node::{Node, on_node, table};

async fn start(node: &mut Node) {
    node.put_node(&json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24"]}));
    node.start_speaker();
    node.start_agent();
    node.ready().await;
}

fn put_pod(node: &Node, name: &str, address: &str) {
    node.put_record(name, address);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]},
    });
    node.api.put_raw(pod).unwrap();
}

fn deny(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "deny"},
        "spec": {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]},
    })
}

/// Whether a policy set closes the interface of this pod to what comes in.
fn is_closed(name: &str) -> Result<bool, String> {
    let interface = margay_api::endpoint::EndpointId::of(name, "eth0").host_ifname();
    let listing = table()?;
    let known =
        listing.split("set endpoints").nth(1).and_then(|rest| rest.split('}').next()).unwrap_or_default();
    if !known.contains(&interface) {
        return Err(format!("{name} is not in the table:\n{listing}"));
    }
    Ok(listing.contains(&format!("\"{interface}\" : jump s")))
}

async fn until_closed(node: &Node, name: &str, closed: bool) {
    node.eventually(&format!("{name} closed: {closed}"), async || match is_closed(name) {
        Ok(found) if found == closed => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

#[test]
fn a_malformed_object_is_counted_and_hides_no_other() {
    on_node(async |node| {
        put_pod(node, "a", "10.0.0.1");
        node.api.put_raw(deny("a")).unwrap();
        let mut malformed = deny("b");
        malformed["metadata"]["name"] = json!("malformed");
        malformed["spec"]["podSelector"] = json!("oops");
        node.api.put_raw(malformed.clone()).unwrap();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken"}, "spec": {"nodeName": "n2", "containers": 3}});
        node.api.put_raw(pod).unwrap();
        start(node).await;
        until_closed(node, "a", true).await;
        // Later ones neither.
        malformed["metadata"]["name"] = json!("later");
        node.api.put_raw(malformed).unwrap();
        put_pod(node, "b", "10.0.0.2");
        until_closed(node, "b", false).await;
        let metrics = node.get("/metrics").await.unwrap();
        assert!(
            metrics.contains("margay_unreadable_objects_total{resource=\"networkpolicies\"} 2"),
            "{metrics}"
        );
        assert!(metrics.contains("margay_unreadable_objects_total{resource=\"pods\"} 1"), "{metrics}");
        let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
        for name in ["default/malformed", "default/later", "default/broken"] {
            assert!(log.contains(name), "{name}: {log}");
        }
    });
}

#[test]
fn a_kind_of_policy_that_is_installed_later_is_found_and_one_that_is_removed_takes_its_policies_along() {
    on_node(async |node| {
        put_pod(node, "a", "10.0.0.1");
        start(node).await;
        until_closed(node, "a", false).await;
        let log = std::fs::read_to_string(node.path("agent.log")).unwrap();
        let absent = "ClusterNetworkPolicy is not installed (no CRD policy.networking.k8s.io/v1alpha2)";
        assert_eq!(log.matches(absent).count(), 1, "{log}");
        let definition = margay_lab::cluster_network_policies();
        let name = definition["metadata"]["name"].as_str().unwrap().to_owned();
        // Both at once, as far as the agent can see.
        node.stop_api().await;
        node.api.put_raw(definition).unwrap();
        let deny = json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "deny"},
            "spec": {
                "tier": "Admin", "priority": 1, "subject": {"namespaces": {}},
                "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}],
            },
        });
        node.api.put_raw(deny).unwrap();
        node.start_api().await;
        until_closed(node, "a", true).await;
        node.delete(&format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")).await;
        until_closed(node, "a", false).await;
    });
}

#[test]
fn what_changed_while_the_api_server_was_away_is_in_force_when_it_is_back_without_its_history() {
    on_node(async |node| {
        put_pod(node, "a", "10.0.0.1");
        put_pod(node, "b", "10.0.0.2");
        node.api.put_raw(deny("a")).unwrap();
        start(node).await;
        until_closed(node, "a", true).await;
        node.stop_api().await;
        node.api.put_raw(deny("b")).unwrap();
        node.api.compact();
        assert_eq!(is_closed("a"), Ok(true), "the kernel goes on with what it had");
        node.start_api().await;
        until_closed(node, "a", false).await;
        until_closed(node, "b", true).await;
    });
}

#[test]
fn a_killed_agent_leaves_the_table_in_force_and_the_next_one_takes_it_over() {
    on_node(async |node| {
        put_pod(node, "a", "10.0.0.1");
        node.api.put_raw(deny("a")).unwrap();
        start(node).await;
        until_closed(node, "a", true).await;
        node.kill_agent();
        assert_eq!(is_closed("a"), Ok(true));
        // The next agent does not see a complete API at first, and must not touch the table before it does.
        node.stop_api().await;
        node.start_agent();
        let missing = node
            .eventually("the agent runs", async || {
                node.get("/readyz").await.err().filter(|text| text.contains("api:")).ok_or_else(String::new)
            })
            .await;
        assert!(
            missing.contains("nodes, namespaces, pods, networkpolicies, clusternetworkpolicies"),
            "{missing}"
        );
        assert_eq!(is_closed("a"), Ok(true));
        node.start_api().await;
        node.ready().await;
        assert_eq!(is_closed("a"), Ok(true));
        node.api.put_raw(deny("nobody")).unwrap();
        until_closed(node, "a", false).await;
    });
}

#[test]
fn a_flushed_ruleset_is_written_anew_and_tables_of_others_are_left_alone() {
    on_node(async |node| {
        put_pod(node, "a", "10.0.0.1");
        node.api.put_raw(deny("a")).unwrap();
        start(node).await;
        until_closed(node, "a", true).await;
        for command in ["flush ruleset", "add table ip others"] {
            assert!(Command::new("nft").args(command.split(' ')).status().unwrap().success());
        }
        until_closed(node, "a", true).await;
        let others = Command::new("nft").args(["list", "table", "ip", "others"]).output().unwrap();
        assert!(others.status.success());
    });
}

#[test]
fn an_element_that_somebody_takes_out_of_a_set_is_put_back() {
    on_node(async |node| {
        put_pod(node, "a", "10.0.0.1");
        node.api.put_raw(deny("a")).unwrap();
        start(node).await;
        node.api.put_raw(deny("nobody")).unwrap();
        until_closed(node, "a", false).await;
        node.api.put_raw(deny("a")).unwrap();
        until_closed(node, "a", true).await;
        let metrics = node.get("/metrics").await.unwrap();
        assert!(metrics.contains("margay_repaired_total 0"), "its own changes are nobody else's: {metrics}");
        for command in ["flush map inet margay ingress", "flush set inet margay sources4"] {
            assert!(Command::new("nft").args(command.split(' ')).status().unwrap().success());
            until_closed(node, "a", true).await;
        }
        node.eventually("the pod's source address is known", async || {
            let listing = table()?;
            if listing.contains(". 10.0.0.1") { Ok(()) } else { Err(listing) }
        })
        .await;
    });
}
