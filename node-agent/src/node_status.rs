//! Writes to the own Node object.
//!
//! By its status subresource, which takes annotations too: the agent may write no more of a node.

use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{causes::in_full, watch::Identity};

/// Has that very node carry annotations; what is null goes.
///
/// # Errors
/// What the API server says, or that it says nothing within that time.
pub(crate) async fn annotate(
    api: &Api<Node>,
    name: &str,
    node: &Identity,
    annotations: Value,
    patience: Duration,
) -> Result<(), String> {
    let patch = json!({"metadata": {"uid": node.uid, "annotations": annotations}});
    write(api, name, &Patch::Merge(patch), patience).await
}

/// Has that very node have a condition. Merged by type, so that the kubelet's conditions stay.
///
/// # Errors
/// As of [`annotate`].
pub(crate) async fn set_condition(
    api: &Api<Node>,
    name: &str,
    node: &Identity,
    condition: Value,
    patience: Duration,
) -> Result<(), String> {
    let patch = json!({"metadata": {"uid": node.uid}, "status": {"conditions": [condition]}});
    write(api, name, &Patch::Strategic(patch), patience).await
}

async fn write(api: &Api<Node>, name: &str, patch: &Patch<Value>, patience: Duration) -> Result<(), String> {
    match timeout(patience, api.patch_status(name, &PatchParams::default(), patch)).await {
        Ok(written) => written.map(drop).map_err(|error| in_full(&error)),
        Err(_elapsed) => Err(format!("no answer within {patience:?}")),
    }
}
