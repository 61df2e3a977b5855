//! What the API server knows.

use anyhow::Context;
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Event, Node, Pod},
        networking::v1::NetworkPolicy,
    },
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, LogParams},
};
use margay_api::resource::{BGPConfiguration, BGPNodeStatus, BGPPeer, IPBlock, IPPool, NetworkConfig};
use margay_policy::v1alpha2::ClusterNetworkPolicy;
use serde_json::Value;

use super::{Options, bundle::Bundle, redact};
use crate::{cluster, output::Output, status};

/// Of how many nodes logs are taken where nobody says of which.
const LOGS_OF: usize = 3;

pub(super) fn gather(options: &Options, bundle: &mut Bundle<'_>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let config = cluster::config(options.cluster.kubeconfig.as_deref(), "").await;
        let client = config.and_then(|config| Ok(Client::try_from(config)?));
        match client {
            Ok(client) => gather_from(client, options, bundle).await,
            Err(error) => bundle.add("cluster", Err(error)),
        }
    })
}

async fn gather_from(client: Client, options: &Options, bundle: &mut Bundle<'_>) -> anyhow::Result<()> {
    let namespace = options.cluster.namespace.as_str();
    let glance = status::of(&client, namespace, Timestamp::now()).await;
    bundle.add("cluster/status.txt", glance.map(|answer| answer.text(Output::Wide)))?;
    bundle.add_objects("cluster/nodes.json", objects::<Node>(&client).await)?;
    bundle.add_objects("cluster/ippools.json", objects::<IPPool>(&client).await)?;
    bundle.add_objects("cluster/ipblocks.json", objects::<IPBlock>(&client).await)?;
    bundle.add_objects("cluster/networkconfigs.json", objects::<NetworkConfig>(&client).await)?;
    bundle.add_objects("cluster/bgpconfigurations.json", objects::<BGPConfiguration>(&client).await)?;
    bundle.add_objects("cluster/bgppeers.json", objects::<BGPPeer>(&client).await)?;
    bundle.add_objects("cluster/bgpnodestatuses.json", objects::<BGPNodeStatus>(&client).await)?;
    bundle.add_objects("cluster/networkpolicies.json", objects::<NetworkPolicy>(&client).await)?;
    bundle
        .add_objects("cluster/clusternetworkpolicies.json", objects::<ClusterNetworkPolicy>(&client).await)?;
    let by_label = ListParams::default().labels(status::SELECTOR);
    bundle.add_objects(
        "agents/daemonset.json",
        some::<DaemonSet>(&client, namespace, by_label.clone()).await,
    )?;
    bundle.add_objects("agents/pods.json", some::<Pod>(&client, namespace, by_label.clone()).await)?;
    let by_name = ListParams::default().fields("metadata.name=margay-node");
    let configuration = some::<ConfigMap>(&client, namespace, by_name).await;
    let configuration = configuration.map(redact::redact_texts);
    bundle.add_objects("agents/configmap.json", configuration)?;
    bundle
        .add_objects("agents/events.json", some::<Event>(&client, namespace, ListParams::default()).await)?;
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    match status::agents(&client, namespace).await {
        Ok(agents) => {
            for pod in chosen(agents, &options.node) {
                logs(&pods, &pod, options.log_lines, bundle).await?;
            }
            Ok(())
        }
        Err(error) => bundle.add("agents/logs", Err(error)),
    }
}

/// All objects of a kind, as they are: one that cannot be read is what a bug report needs.
async fn objects<K: Resource<DynamicType = ()>>(client: &Client) -> anyhow::Result<Value> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let objects = cluster::pages(&api, ListParams::default()).await;
    Ok(serde_json::to_value(objects.with_context(|| format!("list {}", K::plural(&())))?)?)
}

/// Some of a namespace.
async fn some<K: Resource<DynamicType = ()>>(
    client: &Client,
    namespace: &str,
    which: ListParams,
) -> anyhow::Result<Value> {
    let kind = ApiResource::erase::<K>(&());
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
    let objects = cluster::pages(&api, which).await;
    Ok(serde_json::to_value(objects.with_context(|| format!("list {} in {namespace}", K::plural(&())))?)?)
}

/// The pods whose logs are taken: those on the nodes that were named, or those that are not ready and a few more.
fn chosen(mut pods: Vec<Pod>, nodes: &[String]) -> Vec<Pod> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    if !nodes.is_empty() {
        pods.retain(|pod| nodes.contains(&node(pod)));
        return pods;
    }
    pods.sort_by_key(|pod| (status::is_agent_ready(pod), node(pod)));
    let unready = pods.iter().filter(|pod| !status::is_agent_ready(pod)).count();
    // A cluster of a thousand nodes may be down as a whole; its logs are much alike.
    pods.truncate(unready.clamp(LOGS_OF, 10 * LOGS_OF));
    pods
}

async fn logs(pods: &Api<Pod>, pod: &Pod, lines: u32, bundle: &mut Bundle<'_>) -> anyhow::Result<()> {
    let name = pod.name_any();
    for status in pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()) {
        let runs: &[bool] = if status.restart_count > 0 { &[false, true] } else { &[false] };
        for &previous in runs {
            let parameters = LogParams {
                container: Some(status.name.clone()),
                previous,
                tail_lines: Some(i64::from(lines)),
                timestamps: true,
                ..LogParams::default()
            };
            let which = if previous { "-previous" } else { "" };
            let log = pods.logs(&name, &parameters).await.context("read the log");
            bundle.add(&format!("agents/logs/{name}/{}{which}.log", status.name), log)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::json;

    use super::chosen;

    fn pods(states: &[(&str, bool)]) -> Vec<Pod> {
        let pod = |(node, ready): &(&str, bool)| {
            serde_json::from_value(json!({
                "metadata": {"name": format!("margay-{node}")}, "spec": {"nodeName": node, "containers": []},
                "status": {"containerStatuses": [
                    {"name": "margay-node", "ready": ready, "image": "i", "imageID": "", "restartCount": 0},
                ]},
            }))
            .unwrap()
        };
        states.iter().map(pod).collect()
    }

    #[test]
    fn logs_are_of_the_nodes_that_are_named_or_of_those_that_are_not_well_and_a_few_more() {
        let all = [("a", true), ("b", true), ("c", false), ("d", true), ("e", true)];
        let names = |nodes: &[&str]| {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            chosen(pods(&all), &nodes).iter().map(ResourceExt::name_any).collect::<Vec<_>>()
        };
        assert_eq!(names(&[]), ["margay-c", "margay-a", "margay-b"]);
        assert_eq!(names(&["e"]), ["margay-e"]);
    }
}
