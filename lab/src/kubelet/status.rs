//! What a kubelet reports of a pod that runs.

use super::Context;
use super::sandbox::is_sidecar;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};
use std::net::IpAddr;

/// A merge patch of the status; it names the pod's UID, so that it can meet no other pod of the same name.
pub(super) fn running(pod: &Pod, context: &Context, addresses: &[IpAddr]) -> Value {
    let now = now();
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastTransitionTime": now});
    let spec = pod.spec.as_ref();
    let containers = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let started = json!({"running": {"startedAt": now}});
    let done =
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}});
    let host_ips: Vec<Value> = context.addresses.iter().map(|ip| json!({"ip": ip})).collect();
    let mut status = json!({
        "phase": "Running",
        "podIP": addresses.first(),
        "podIPs": addresses.iter().map(|ip| json!({"ip": ip})).collect::<Vec<_>>(),
        "hostIP": context.addresses.first(),
        "hostIPs": host_ips,
        "startTime": now,
        "qosClass": "BestEffort",
        "conditions": [
            condition("PodReadyToStartContainers"),
            condition("Initialized"),
            condition("Ready"),
            condition("ContainersReady"),
            condition("PodScheduled"),
        ],
        "containerStatuses": containers.iter().map(|c| container(c, &started)).collect::<Vec<_>>(),
    });
    if !init.is_empty() {
        let state = |c: &Container| if is_sidecar(c) { container(c, &started) } else { container(c, &done) };
        status["initContainerStatuses"] = init.iter().map(state).collect();
    }
    json!({"metadata": {"uid": pod.uid()}, "status": status})
}

/// A merge patch that ends a pod's containers.
pub(crate) fn finished(pod: &Pod) -> Value {
    let now = now();
    let done =
        json!({"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": now}});
    let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let mut statuses: Vec<Value> = containers.iter().map(|c| container(c, &done)).collect();
    for status in &mut statuses {
        status["ready"] = false.into();
    }
    let ready =
        json!({"type": "Ready", "status": "False", "reason": "PodCompleted", "lastTransitionTime": now});
    let status = json!({"phase": "Succeeded", "conditions": [ready], "containerStatuses": statuses});
    json!({"metadata": {"uid": pod.uid()}, "status": status})
}

fn container(container: &Container, state: &Value) -> Value {
    json!({
        "name": container.name,
        "image": container.image,
        "imageID": "",
        "containerID": format!("margay-lab://{}", container.name),
        "ready": true,
        "started": true,
        "restartCount": 0,
        "state": state,
    })
}

/// The time as Kubernetes writes it, in whole seconds.
pub(super) fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
