//! What decides about policy, from the API server.

use std::path::Path;

use anyhow::Context;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use kube::Client;
use margay_policy::v1alpha2::ClusterNetworkPolicy;

use super::source::Source;
use crate::cluster::{all, ask};

/// Lists what decides about policy, and nothing else.
pub(crate) fn load(kubeconfig: Option<&Path>) -> anyhow::Result<Source> {
    ask(kubeconfig, ", or --manifests to do without a cluster", list)
}

async fn list(client: Client) -> anyhow::Result<Source> {
    let mut source = Source::default();
    for object in all::<Namespace>(&client).await.context("list namespaces")? {
        source.add_namespace(&object, "");
    }
    for object in all::<NetworkPolicy>(&client).await.context("list networkpolicies")? {
        source.add_policy(&object, "");
    }
    match all::<ClusterNetworkPolicy>(&client).await {
        // The kind is not installed.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        objects => {
            for object in objects.context("list clusternetworkpolicies")? {
                source.add_cluster_policy(&object, "");
            }
        }
    }
    // Not everyone may list nodes, and seldom does anything depend on them.
    if source.wants_nodes() {
        for object in all::<Node>(&client).await.context("list nodes")? {
            source.add_node(&object, "");
        }
    }
    for object in all::<Pod>(&client).await.context("list pods")? {
        source.add_pod(&object, "");
    }
    Ok(source.complete())
}
