//! Objects from the API server of a kubeconfig.

use std::{fmt::Debug, path::Path, time::Duration};

use anyhow::Context;
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod},
    networking::v1::NetworkPolicy,
};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use margay_policy::v1alpha2::ClusterNetworkPolicy;
use serde::de::DeserializeOwned;

use super::source::Source;

/// How long the API server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many objects one answer holds.
const PAGE: u32 = 500;

/// Lists what decides about policy, and nothing else.
pub(crate) fn load(kubeconfig: Option<&Path>) -> anyhow::Result<Source> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = config(kubeconfig, ", or --manifests to do without a cluster").await?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).context("prepare the connection to the API server")?;
        list(client).await.with_context(|| format!("ask the API server {server}"))
    })
}

/// How to reach the API server; `otherwise` is what else there is to give.
pub(crate) async fn config(kubeconfig: Option<&Path>, otherwise: &str) -> anyhow::Result<Config> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("read kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use kubeconfig {}", path.display()))?
        }
        None => Config::infer().await.with_context(|| {
            format!(
                "find the API server by $KUBECONFIG, ~/.kube/config or a service account; give --kubeconfig{otherwise}"
            )
        })?,
    };
    config.connect_timeout = Some(PATIENCE);
    config.read_timeout = Some(PATIENCE);
    Ok(config)
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

/// All objects of a kind.
pub(crate) async fn all<K>(client: &Client) -> kube::Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let api = Api::<K>::all(client.clone());
    let mut parameters = ListParams::default().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = api.list(&parameters).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters = parameters.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
