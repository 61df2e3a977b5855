//! Tells the other nodes a new pod's addresses before the kubelet's status does, by an annotation of the pod.
//!
//! Policy on other nodes knows a pod by its addresses, and a kubelet reports them a second or so after the pod has
//! begun to send. What others make of the annotation is with `State`: they need not believe it. Nothing waits for it
//! here, and one that fails is left: the status comes by itself.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use margay_api::annotation::POD_IPS;
use serde_json::json;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tracing::debug;

use crate::decide::Announcement;

/// Announcements that may wait; more of them are dropped.
pub(crate) const QUEUE: usize = 1024;
/// Requests under way at once.
const AT_ONCE: usize = 16;
/// How long one may take: later the status is there.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes announcements for ever.
pub(crate) async fn run(client: Client, mut queue: mpsc::Receiver<Announcement>) -> anyhow::Result<()> {
    let mut requests = JoinSet::new();
    loop {
        tokio::select! {
            next = queue.recv(), if requests.len() < AT_ONCE => match next {
                Some(announcement) => drop(requests.spawn(write(client.clone(), announcement))),
                None => return Ok(()),
            },
            Some(_) = requests.join_next() => {}
        }
    }
}

async fn write(client: Client, announcement: Announcement) {
    let Announcement { pod, uid, addresses } = announcement;
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let patch = json!({"metadata": {"uid": uid, "annotations": {POD_IPS: addresses.join(",")}}});
    let api: Api<Pod> = Api::namespaced(client, &pod.namespace);
    // The status subresource takes annotations too, and lets nobody change what a pod runs.
    let (parameters, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let request = api.patch_status(&pod.name, &parameters, &patch);
    match timeout(PATIENCE, request).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%pod, %error, "the pod's addresses are not announced; its status will tell"),
        Err(_elapsed) => debug!(%pod, "the pod's addresses are not announced in time; its status will tell"),
    }
}
