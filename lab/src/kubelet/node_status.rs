//! The Node object, as a kubelet registers it and keeps it.

use super::status;
use crate::cni::NetworkList;
use crate::machine::Machine;
use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use margay_api::paths;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How often the runtime's network configuration is looked at, and the status repeated without a change.
const LOOK: Duration = Duration::from_millis(50);
const HEARTBEAT_LOOKS: u32 = 200;

/// What a Node object says.
#[derive(Debug, Clone)]
pub(crate) struct NodeObject {
    pub(crate) name: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<String>,
}

/// Whether a Node object is the lab's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registered {
    /// It has been made.
    New,
    /// It was there, on an API server of others.
    Before,
}

/// Registers a node.
pub(crate) async fn create_node(client: &Client, node: &NodeObject) -> anyhow::Result<Registered> {
    let api: Api<Node> = Api::all(client.clone());
    let labels = json!({
        "kubernetes.io/hostname": node.name,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    });
    let object = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": node.name, "labels": labels},
        "spec": if node.pod_cidrs.is_empty() {
            json!({})
        } else {
            json!({"podCIDR": node.pod_cidrs.first(), "podCIDRs": node.pod_cidrs})
        },
    });
    let object: Node = serde_json::from_value(object)?;
    let registered = match api.create(&PostParams::default(), &object).await {
        Ok(_) => Registered::New,
        Err(kube::Error::Api(status)) if status.code == 409 => Registered::Before,
        Err(error) => return Err(error).with_context(|| format!("create Node {}", node.name)),
    };
    report(&api, node, Err("cni plugin not initialized")).await?;
    Ok(registered)
}

/// Takes a node's object away again.
pub(crate) async fn delete_node(client: &Client, name: &str) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    api.delete(name, &DeleteParams::default()).await.with_context(|| format!("delete Node {name}"))?;
    Ok(())
}

/// Keeps the condition Ready as a kubelet does: true as soon as the runtime finds a network configuration.
pub(crate) async fn keep_ready(
    client: Client,
    mut node: NodeObject,
    mut addresses: watch::Receiver<Vec<IpAddr>>,
    machine: Arc<Machine>,
) {
    let api: Api<Node> = Api::all(client);
    let directory = machine.path(paths::CNI_CONF_DIR);
    drop(machine);
    let mut looks = tokio::time::interval(LOOK);
    let mut reported = None;
    let mut since: u32 = 0;
    loop {
        looks.tick().await;
        since += 1;
        // An error says that the node ends, and this with it.
        if addresses.has_changed().unwrap_or(false) {
            node.addresses.clone_from(&addresses.borrow_and_update());
            reported = None;
        }
        let ready = NetworkList::load(&directory).map(drop).map_err(|error| error.to_string());
        if reported.as_ref() == Some(&ready) && since < HEARTBEAT_LOOKS {
            continue;
        }
        match report(&api, &node, ready.as_ref().copied().map_err(String::as_str)).await {
            Ok(()) => {
                reported = Some(ready);
                since = 0;
            }
            Err(error) => tracing::debug!("report node {}: {error:#}", node.name),
        }
    }
}

async fn report(api: &Api<Node>, node: &NodeObject, ready: Result<(), &str>) -> anyhow::Result<()> {
    let now = status::now();
    let (state, reason, message) = match ready {
        Ok(()) => ("True", "KubeletReady", "margay-lab is posting ready status".to_owned()),
        Err(why) => ("False", "KubeletNotReady", format!("container runtime network not ready: {why}")),
    };
    let mut addresses: Vec<Value> =
        node.addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    addresses.push(json!({"type": "Hostname", "address": node.name}));
    // Merged by type, one of two families would be lost.
    addresses.push(json!({"$patch": "replace"}));
    let condition = |kind: &str, state: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": state, "reason": reason, "message": message,
               "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let status = json!({
        "addresses": addresses,
        "capacity": {"pods": "250", "cpu": "4", "memory": "8Gi"},
        "allocatable": {"pods": "250", "cpu": "4", "memory": "8Gi"},
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory", ""),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure", ""),
            condition("PIDPressure", "False", "KubeletHasSufficientPID", ""),
            condition("Ready", state, reason, &message),
        ],
        "nodeInfo": {
            "architecture": "amd64", "operatingSystem": "linux", "osImage": "margay-lab",
            "kernelVersion": "", "kubeletVersion": "v1.33.0", "kubeProxyVersion": "",
            "containerRuntimeVersion": "margay-lab://1", "machineID": "", "systemUUID": "", "bootID": "",
        },
    });
    // By type: the condition NetworkUnavailable is the network plugin's.
    let patch = json!({"status": status});
    api.patch_status(&node.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .with_context(|| format!("report the status of node {}", node.name))?;
    Ok(())
}
