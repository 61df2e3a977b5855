//! The API server that an operator's kubeconfig names.

use std::{fmt::Debug, path::Path, time::Duration};

use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, NodeCondition};
use kube::{
    Api, Client, Config,
    api::ListParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::de::DeserializeOwned;

/// How long the API server may be silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many objects one answer holds.
const PAGE: u32 = 500;

/// Asks the API server a question; an error says which one was asked.
pub(crate) fn ask<T>(
    kubeconfig: Option<&Path>,
    otherwise: &str,
    question: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = config(kubeconfig, otherwise).await?;
        let server = config.cluster_url.to_string();
        let client = Client::try_from(config).context("prepare the connection to the API server")?;
        question(client).await.with_context(|| format!("ask the API server {server}"))
    })
}

/// Whether a condition of a node is true.
pub(crate) fn is_true(node: &Node, name: &str) -> bool {
    condition(node, name).is_some_and(|condition| condition.status == "True")
}

/// A condition of a node, if it has one of that name.
pub(crate) fn condition<'a>(node: &'a Node, name: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == name)
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

/// All objects of a kind.
pub(crate) async fn all<K>(client: &Client) -> kube::Result<Vec<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    pages(&Api::all(client.clone()), ListParams::default()).await
}

/// All objects that a list has, page by page.
pub(crate) async fn pages<K: Clone + DeserializeOwned + Debug>(
    api: &Api<K>,
    which: ListParams,
) -> kube::Result<Vec<K>> {
    let mut parameters = which.limit(PAGE);
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
