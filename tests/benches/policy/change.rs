//! Changes of a cluster, as requests to its API server. Each has one that takes it back.

use serde_json::{Value, json};

use crate::cluster::{self, Place, app_label, namespace_name, team_label, tenant_label};

/// One request.
pub(crate) struct Change {
    pub(crate) what: &'static str,
    method: &'static str,
    path: String,
    body: Option<Value>,
}

impl Change {
    /// As a client sends it.
    pub(crate) fn request(&self) -> String {
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        let kind = if self.method == "PATCH" { "merge-patch+json" } else { "json" };
        format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/{kind}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.method,
            self.path,
            body.len(),
        )
    }

    fn patch(what: &'static str, path: String, patch: Value) -> Self {
        Self { what, method: "PATCH", path, body: Some(patch) }
    }
}

/// All that are measured, each after its opposite, in the namespace that all sizes of cluster have.
pub(crate) fn all() -> Vec<[Change; 2]> {
    let namespace = format!("/api/v1/namespaces/{}", namespace_name(0));
    let policies = format!("/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies", namespace_name(0));

    let edit = |port: u16| {
        let peers = json!([{"podSelector": {"matchLabels": {"app": app_label(6)}}}]);
        let rules = json!([{"from": peers, "ports": [{"protocol": "TCP", "port": port}]}]);
        let path = format!("{policies}/{}", app_label(5));
        Change::patch("edit of a policy's port", path, json!({"spec": {"ingress": rules}}))
    };
    let mut new = cluster::policy(0, 2);
    new["metadata"]["name"] = json!("new");
    // A peer that no other policy has: four pods of each app.
    new["spec"]["ingress"][0]["from"] = json!([{"podSelector": {"matchLabels": {"tier": "front"}}}]);
    let create = Change { what: "new policy", method: "POST", path: policies.clone(), body: Some(new) };
    let delete =
        Change { what: "policy deleted", method: "DELETE", path: format!("{policies}/new"), body: None };

    let pod = |what, app: usize, replica: usize, label: usize| {
        let path = format!("{namespace}/pods/{}", Place { namespace: 0, app, replica }.name());
        Change::patch(what, path, json!({"metadata": {"labels": {"app": app_label(label)}}}))
    };
    let remote = "remote pod moves between peers";
    let local = "local pod moves between policies";
    let team = |number| {
        let labels = json!({"metadata": {"labels": {"team": team_label(number)}}});
        Change::patch("namespace of 100 pods changes its team", namespace.clone(), labels)
    };
    let tenant = |number: usize| {
        let labels = json!({"metadata": {"labels": {"tenant": tenant_label(number)}}});
        Change::patch("namespace of 100 pods changes its tenant", namespace.clone(), labels)
    };
    vec![
        [edit(6000), edit(6001)],
        [create, delete],
        [pod(remote, 0, 5, 4), pod(remote, 0, 5, 0)],
        [pod(local, 3, 0, 7), pod(local, 3, 0, 3)],
        // Nobody has this one.
        [tenant(1000), tenant(0)],
        [team(1), team(0)],
    ]
}
