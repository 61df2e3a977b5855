//! Events that a kubelet records.

use super::status;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::json;

/// Says on the pod why its sandbox failed, in a kubelet's words.
pub(super) async fn failed_sandbox(client: &Client, pod: &Pod, node: &str, error: &anyhow::Error) {
    let namespace = pod.namespace().unwrap_or_default();
    let now = status::now();
    let event = json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": format!("{}.", pod.name_any()), "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": namespace,
            "name": pod.name_any(), "uid": pod.uid(),
        },
        "type": "Warning",
        "reason": "FailedCreatePodSandBox",
        "message": format!("Failed to create pod sandbox: {error:#}"),
        "source": {"component": "kubelet", "host": node},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    });
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    let created = match serde_json::from_value(event) {
        Ok(event) => api.create(&PostParams::default(), &event).await.map(drop).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = created {
        tracing::debug!(error, "record an event");
    }
}
