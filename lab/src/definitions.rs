//! Kinds of other projects that the plugin reads.

use serde_json::{Value, json};

/// A definition of `ClusterNetworkPolicy` (policy.networking.k8s.io/v1alpha2) with what a case can write, and good for
/// nothing else: clusters have the definition of the project that it is of, kubernetes-sigs/network-policy-api.
pub fn cluster_network_policies() -> Value {
    let selector = || {
        json!({"type": "object", "properties": {
            "matchLabels": {"type": "object", "additionalProperties": {"type": "string"}},
            "matchExpressions": {"type": "array", "items": {
                "type": "object", "required": ["key", "operator"],
                "properties": {
                    "key": {"type": "string"},
                    "operator": {"type": "string"},
                    "values": {"type": "array", "items": {"type": "string"}},
                },
            }},
        }})
    };
    let one_of = |properties: Value| json!({"type": "object", "minProperties": 1, "maxProperties": 1, "properties": properties});
    let pods = || {
        json!({
            "type": "object", "required": ["podSelector"],
            "properties": {"namespaceSelector": selector(), "podSelector": selector()},
        })
    };
    let number = || json!({"type": "integer", "minimum": 1, "maximum": 65535});
    let ports = || {
        json!({"type": "object", "minProperties": 1, "properties": {"destinationPort": one_of(json!({
            "number": number(),
            "range": {
                "type": "object", "required": ["start", "end"],
                "properties": {"start": number(), "end": number()},
            },
        }))}})
    };
    let texts = || json!({"type": "array", "minItems": 1, "maxItems": 25, "items": {"type": "string"}});
    let rules = |direction: &str, peer: Value| {
        let mut properties = json!({
            "name": {"type": "string", "maxLength": 100},
            "action": {"type": "string", "enum": ["Accept", "Deny", "Pass"]},
            "protocols": {"type": "array", "minItems": 1, "maxItems": 25, "items": one_of(json!({
                "tcp": ports(), "udp": ports(), "sctp": ports(), "destinationNamedPort": {"type": "string"},
            }))},
        });
        properties[direction] = json!({"type": "array", "minItems": 1, "maxItems": 25, "items": peer});
        json!({"type": "array", "maxItems": 25, "items": {
            "type": "object", "required": ["action", direction], "properties": properties,
        }})
    };
    let ingress = one_of(json!({"namespaces": selector(), "pods": pods()}));
    let egress = one_of(json!({
        "namespaces": selector(), "pods": pods(), "nodes": selector(), "networks": texts(), "domainNames": texts(),
    }));
    let spec = json!({
        "type": "object", "required": ["tier", "priority", "subject"],
        "properties": {
            "tier": {"type": "string", "enum": ["Admin", "Baseline"]},
            "priority": {"type": "integer", "minimum": 0, "maximum": 1000},
            "subject": one_of(json!({"namespaces": selector(), "pods": pods()})),
            "ingress": rules("from", ingress),
            "egress": rules("to", egress),
        },
    });
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "clusternetworkpolicies.policy.networking.k8s.io"},
        "spec": {
            "group": "policy.networking.k8s.io", "scope": "Cluster",
            "names": {
                "plural": "clusternetworkpolicies", "singular": "clusternetworkpolicy",
                "kind": "ClusterNetworkPolicy", "listKind": "ClusterNetworkPolicyList", "shortNames": ["cnp"],
            },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [column("Tier", ".spec.tier"), column("Priority", ".spec.priority")],
                "schema": {"openAPIV3Schema": {"type": "object", "required": ["spec"], "properties": {
                    "spec": spec,
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}},
            }],
        },
    })
}
