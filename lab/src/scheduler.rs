//! A scheduler of one line: the next node in turn that the pod's selector allows.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Binding, Node, ObjectReference, Pod};
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, watcher};
use kube::{Api, Client, ResourceExt};

/// Binds pods without a node for ever.
pub(crate) async fn run(client: Client) {
    let unbound = watcher::Config::default().fields("spec.nodeName=");
    let pods = watcher(Api::<Pod>::all(client.clone()), unbound).default_backoff().applied_objects();
    let mut pods = std::pin::pin!(pods);
    let mut turn = 0;
    while let Some(pod) = pods.next().await {
        match pod {
            Ok(pod) => {
                if let Err(error) = bind(&client, &pod, &mut turn).await {
                    tracing::warn!("bind pod {}: {error:#}", pod.name_any());
                }
            }
            // The watcher recovers by itself.
            Err(error) => tracing::debug!(%error, "watch pods to bind"),
        }
    }
}

async fn bind(client: &Client, pod: &Pod, turn: &mut usize) -> anyhow::Result<()> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.node_name.is_none()) else { return Ok(()) };
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await?;
    let selector = spec.node_selector.clone().unwrap_or_default();
    let fits = |node: &&Node| selector.iter().all(|(key, value)| node.labels().get(key) == Some(value));
    let fitting: Vec<&Node> = nodes.iter().filter(fits).collect();
    let Some(node) = fitting.get(*turn % fitting.len().max(1)) else {
        anyhow::bail!("no node has the labels of its nodeSelector");
    };
    *turn += 1;
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(pod.name_any()),
            namespace: pod.namespace(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Node".into()),
            name: Some(node.name_any()),
            ..ObjectReference::default()
        },
    };
    let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let bound: Result<serde_json::Value, kube::Error> =
        api.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await;
    match bound {
        Ok(_) => Ok(()),
        // Another scheduler was faster, or the pod is gone.
        Err(kube::Error::Api(status)) if status.code == 409 || status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
