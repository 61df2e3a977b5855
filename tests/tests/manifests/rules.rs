//! The rules of the definitions refuse what they are about, and nothing besides: each has an object that breaks it and nothing
//! else, and one that keeps it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cluster::{Cluster, manifests};

/// What breaks a rule. Before it, what it replaces, if the rule is about that.
struct Case {
    kind: &'static str,
    name: &'static str,
    message: &'static str,
    before: Option<Value>,
    kept: Value,
    broken: Value,
}

fn case(kind: &'static str, message: &'static str, kept: Value, broken: Value) -> Case {
    Case { kind, name: "x", message, before: None, kept, broken }
}

fn change(kind: &'static str, message: &'static str, before: &Value, field: &str) -> Case {
    let mut broken = before.clone();
    broken[field] = json!("10.1.0.0/26");
    Case { kind, name: "x", message, before: Some(before.clone()), kept: before.clone(), broken }
}

fn peers() -> Vec<Case> {
    let peer = |message, kept, broken| case("BGPPeer", message, kept, broken);
    vec![
        peer(
            "give either address or peerSelector",
            json!({"peerSelector": {}}),
            json!({"address": "192.0.2.1", "asn": 64512, "peerSelector": {}}),
        ),
        peer(
            "asn goes with address; nodes of a peerSelector have theirs",
            json!({"address": "192.0.2.1", "asn": 64512}),
            json!({"address": "192.0.2.1"}),
        ),
        peer(
            "ttlSecurity sets the ttl: leave ttl out",
            json!({"peerSelector": {}, "ttlSecurity": 1}),
            json!({"peerSelector": {}, "ttlSecurity": 1, "ttl": 1}),
        ),
        peer(
            "interface goes with a link-local address",
            json!({"address": "fe80::1", "asn": 64512, "interface": "eth0"}),
            json!({"address": "192.0.2.1", "asn": 64512, "interface": "eth0"}),
        ),
        peer(
            "port and sourceAddress go with address",
            json!({"address": "192.0.2.1", "asn": 64512, "port": 1179, "sourceAddress": "192.0.2.2"}),
            json!({"peerSelector": {}, "port": 1179}),
        ),
        peer(
            "holdTimeSeconds is 0 or at least 3 (RFC 4271)",
            json!({"peerSelector": {}, "holdTimeSeconds": 3}),
            json!({"peerSelector": {}, "holdTimeSeconds": 2}),
        ),
        peer(
            "sendLimit goes with direction Send or Both",
            json!({"peerSelector": {}, "addPath": {"direction": "Both", "sendLimit": 4}}),
            json!({"peerSelector": {}, "addPath": {"direction": "Receive", "sendLimit": 4}}),
        ),
    ]
}

fn pools() -> Vec<Case> {
    let pool = |message, kept, broken| case("IPPool", message, kept, broken);
    vec![
        pool(
            "blockSize of an IPv4 pool is at most 30",
            json!({"cidr": "10.0.0.0/16", "blockSize": 30}),
            json!({"cidr": "10.0.0.0/16", "blockSize": 31}),
        ),
        pool(
            "blockSize is a prefix length; it must not be less than that of cidr",
            json!({"cidr": "fd00::/120", "blockSize": 120}),
            json!({"cidr": "fd00::/120", "blockSize": 119}),
        ),
        pool(
            "encapsulation IPIP carries IPv4 alone; a pool of IPv6 takes VXLAN, VXLANCrossSubnet or None",
            json!({"cidr": "10.0.0.0/16", "encapsulation": "IPIPCrossSubnet"}),
            json!({"cidr": "fd00::/64", "encapsulation": "IPIPCrossSubnet"}),
        ),
    ]
}

fn the_rest() -> Vec<Case> {
    let block = json!({"cidr": "10.0.0.0/26", "pool": "p", "node": "n1"});
    let named = |kind, message| {
        let (kept, broken) = (json!({}), json!({}));
        Case { kind, name: "default", message, before: None, kept, broken }
    };
    vec![
        change("IPBlock", "the range of a block does not change", &block, "cidr"),
        change("IPBlock", "the pool of a block does not change", &block, "pool"),
        change("IPBlock", "a block does not go from node to node", &block, "node"),
        change("BGPNodeStatus", "the status of a node stays its own", &json!({"node": "x"}), "node"),
        named("NetworkConfig", "the one NetworkConfig is named default"),
        named("BGPConfiguration", "the one BGPConfiguration is named default"),
        Case {
            name: "default",
            ..case(
                "BGPConfiguration",
                "holdTimeSeconds is 0 or at least 3 (RFC 4271)",
                json!({"holdTimeSeconds": 0}),
                json!({"holdTimeSeconds": 1}),
            )
        },
    ]
}

fn cases() -> Vec<Case> {
    peers().into_iter().chain(pools()).chain(the_rest()).collect()
}

/// The kind and the message of each rule in a schema of it.
fn rules(kind: &str, schema: &Value, found: &mut BTreeSet<(String, String)>) {
    match schema {
        Value::Object(map) => {
            for rule in map.get("x-kubernetes-validations").and_then(Value::as_array).into_iter().flatten() {
                found.insert((kind.to_owned(), rule["message"].as_str().unwrap().to_owned()));
            }
            map.values().for_each(|inner| rules(kind, inner, found));
        }
        Value::Array(list) => list.iter().for_each(|inner| rules(kind, inner, found)),
        _ => {}
    }
}

#[tokio::test]
async fn each_rule_refuses_what_breaks_it_and_takes_what_keeps_it() {
    let cluster = Cluster::new().await;
    cluster.apply(&manifests().join("base/crds.yaml")).await;
    let mut there = BTreeSet::new();
    for definition in cluster.api.list("apiextensions.k8s.io/v1", "CustomResourceDefinition") {
        rules(
            definition["spec"]["names"]["kind"].as_str().unwrap(),
            &definition["spec"]["versions"],
            &mut there,
        );
    }
    let cases = cases();
    let tested: BTreeSet<_> =
        cases.iter().map(|case| (case.kind.to_owned(), case.message.to_owned())).collect();
    assert_eq!(tested, there, "a case for each rule, and for each case a rule");

    for Case { kind, name, message, before, kept, broken } in cases {
        let object = |name: &str, spec: &Value| {
            let metadata = json!({"name": name});
            json!({"apiVersion": "margay.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec})
        };
        if let Some(before) = before {
            cluster.send(&object(name, &before)).await.unwrap();
        }
        // Whose name is the rule breaks it by its name.
        let wrong = if kept == broken { "other" } else { name };
        let refused = cluster.send(&object(wrong, &broken)).await.unwrap_err();
        assert!(refused.contains(message), "{message}: {refused}");
        assert_eq!(refused.matches("Invalid value").count(), 1, "this rule alone: {refused}");
        cluster.send(&object(name, &kept)).await.unwrap_or_else(|error| panic!("{message}: {error}"));
        cluster.kubectl(&["delete", kind, name]).await;
    }
}

#[tokio::test]
async fn a_definition_with_a_rule_that_is_no_expression_is_refused() {
    let cluster = Cluster::new().await;
    let text = std::fs::read_to_string(manifests().join("base/crds.yaml")).unwrap();
    let definitions: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    let mut definition = definitions.into_iter().find(|it| it["spec"]["names"]["kind"] == "IPPool").unwrap();
    let schema = &mut definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["x-kubernetes-validations"][0]["rule"] = json!("self.cidr ==");
    let refused = cluster.send(&definition).await.unwrap_err();
    assert!(refused.contains("compilation failed"), "{refused}");
}
