//! Making and deleting namespaces and pods, as a user would.

use super::Lab;
use crate::clock;
use crate::kubelet;
use crate::pods::{PodKey, Stage};
use crate::station::Port;
use anyhow::Context;
use futures::future::try_join_all;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

/// A pod to be made.
#[derive(Debug, Clone, Default)]
pub struct PodSpec {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its node; the scheduler's choice when `None`.
    pub node: Option<String>,
    /// Whether it has the node's network.
    pub host_network: bool,
    /// The ports of its container, each with a name if it has one.
    pub ports: Vec<(Port, Option<String>)>,
    /// The ports of a native sidecar.
    pub sidecar_ports: Vec<(Port, Option<String>)>,
    /// Addresses that it asks for.
    pub addresses: Vec<IpAddr>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

impl PodSpec {
    /// A pod with labels and TCP ports.
    pub fn new(labels: &[(&str, &str)], ports: &[Port]) -> Self {
        Self {
            labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            ports: ports.iter().map(|port| (*port, None)).collect(),
            ..Self::default()
        }
    }

    /// On a node.
    #[must_use]
    pub fn on(mut self, node: &str) -> Self {
        self.node = Some(node.to_owned());
        self
    }

    fn object(&self, key: &PodKey) -> Value {
        let ports = |ports: &[(Port, Option<String>)]| -> Vec<Value> {
            let port = |(port, name): &(Port, Option<String>)| {
                let mut value = json!({"containerPort": port.number, "protocol": port.protocol.text()});
                if let Some(name) = name {
                    value["name"] = name.as_str().into();
                }
                if self.host_network {
                    value["hostPort"] = port.number.into();
                }
                value
            };
            ports.iter().map(port).collect()
        };
        let mut spec = json!({
            "containers": [{"name": "server", "image": "margay-lab", "ports": ports(&self.ports)}],
            "terminationGracePeriodSeconds": 30,
        });
        if let Some(node) = &self.node {
            spec["nodeName"] = node.as_str().into();
        }
        if self.host_network {
            spec["hostNetwork"] = true.into();
        }
        if !self.sidecar_ports.is_empty() {
            let ports = ports(&self.sidecar_ports);
            spec["initContainers"] = json!([{"name": "sidecar", "image": "margay-lab", "restartPolicy": "Always", "ports": ports}]);
        }
        let mut annotations: Map<String, Value> =
            self.annotations.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        if !self.addresses.is_empty() {
            let list: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
            annotations.insert(kubelet::ADDRESSES.into(), list.join(",").into());
        }
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": key.name, "namespace": key.namespace, "labels": self.labels, "annotations": annotations,
            },
            "spec": spec,
        })
    }
}

impl Lab {
    /// Makes a namespace, or sets the labels of one that is there.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_namespace(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> anyhow::Result<()> {
        let api: Api<Namespace> = Api::all(self.client());
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        let created = api.create(&PostParams::default(), &serde_json::from_value(object)?).await;
        match created {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.relabel::<Namespace>(&api, name, labels).await
            }
            created => created.map(drop).with_context(|| format!("create namespace {name}")),
        }
    }

    /// Makes pods; [`Self::wait_pods`] waits for them.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn create_pods(&self, pods: &[(PodKey, PodSpec)]) -> anyhow::Result<()> {
        try_join_all(pods.iter().map(|(key, spec)| async move {
            let api: Api<Pod> = Api::namespaced(self.client(), &key.namespace);
            let pod = serde_json::from_value(spec.object(key))?;
            api.create(&PostParams::default(), &pod).await.with_context(|| format!("create pod {key}"))?;
            anyhow::Ok(())
        }))
        .await?;
        Ok(())
    }

    /// Waits until pods are Ready, their servers answering and their policy in the kernel.
    ///
    /// # Errors
    /// When they are not in time, with the reasons of those that failed.
    pub async fn wait_pods(&self, pods: &[PodKey], limit: Duration) -> anyhow::Result<()> {
        let ready = |pod: Option<&crate::pods::Running>| {
            pod.is_some_and(|pod| matches!(pod.stage, Stage::Ready { .. }))
        };
        self.pods
            .wait(pods, "pods Ready", limit, ready)
            .await
            .map_err(|error| error.context(format!("the newest log lines:{}", self.log_tail(10))))
    }

    /// The addresses of a pod that is Ready; empty when it is not.
    pub fn pod_addresses(&self, pod: &PodKey) -> Vec<IpAddr> {
        match self.pods.find(pod).map(|running| running.stage) {
            Some(Stage::Ready { addresses }) => addresses,
            _ => Vec::new(),
        }
    }

    /// The pods that are Ready, with the name of their node.
    pub fn ready_pods(&self) -> Vec<(PodKey, String)> {
        self.pods.ready().into_iter().map(|(key, (running, _))| (key, running.node)).collect()
    }

    /// The ports that the containers of all pods declare.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn declared_ports(&self) -> anyhow::Result<BTreeMap<PodKey, Vec<Port>>> {
        let pods = Api::<Pod>::all(self.client()).list(&ListParams::default()).await?;
        Ok(pods.iter().map(|pod| (PodKey::of(pod), kubelet::ports(pod))).collect())
    }

    /// Deletes pods, and waits until their objects and networks are gone.
    ///
    /// # Errors
    /// When they do not go.
    pub async fn delete_pods(&self, pods: &[PodKey]) -> anyhow::Result<()> {
        try_join_all(pods.iter().map(|key| self.delete_pod(key, DeleteParams::default()))).await?;
        self.wait_gone(pods).await
    }

    /// Deletes pods without grace, as `kubectl delete --force` does, and waits until they are gone.
    ///
    /// # Errors
    /// When they do not go.
    pub async fn remove_pods(&self, pods: &[PodKey]) -> anyhow::Result<()> {
        let force = || DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        try_join_all(pods.iter().map(|key| self.delete_pod(key, force()))).await?;
        self.wait_gone(pods).await
    }

    /// Ends a pod's containers: its phase becomes Succeeded, its network goes, its object stays.
    ///
    /// # Errors
    /// When the API server refuses, or its network does not go.
    pub async fn finish_pod(&self, key: &PodKey) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client(), &key.namespace);
        let pod = api.get(&key.name).await.with_context(|| format!("finish pod {key}"))?;
        let patch = Patch::Merge(kubelet::finished_status(&pod));
        api.patch_status(&key.name, &PatchParams::default(), &patch).await?;
        let finished =
            |pod: Option<&crate::pods::Running>| pod.is_none_or(|pod| pod.stage == Stage::Finished);
        self.pods.wait(std::slice::from_ref(key), "pod finished", PATIENCE, finished).await
    }

    /// Begins the deletion of a pod that takes its time: it runs on until it is removed.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn terminate_pod(&self, key: &PodKey) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client(), &key.namespace);
        let linger = json!({"metadata": {"annotations": {kubelet::LINGER: "true"}}});
        api.patch(&key.name, &PatchParams::default(), &Patch::Merge(linger)).await?;
        let later = DeleteParams { grace_period_seconds: Some(3600), ..DeleteParams::default() };
        self.delete_pod(key, later).await
    }

    /// Gives an object exactly these labels, beside those that Kubernetes itself sets.
    pub(crate) async fn relabel<K>(
        &self,
        api: &Api<K>,
        name: &str,
        labels: &BTreeMap<String, String>,
    ) -> anyhow::Result<()>
    where
        K: kube::Resource + Clone + serde::de::DeserializeOwned + std::fmt::Debug,
    {
        let old = api.get(name).await.with_context(|| format!("read the labels of {name}"))?;
        let mut patch: Map<String, Value> =
            labels.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        for key in old.meta().labels.iter().flat_map(BTreeMap::keys) {
            let system = ["kubernetes.io/metadata.name", "kubernetes.io/hostname"].contains(&key.as_str());
            if !labels.contains_key(key) && !system {
                patch.insert(key.clone(), Value::Null);
            }
        }
        let patch = json!({"metadata": {"labels": patch}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .with_context(|| format!("label {name}"))?;
        Ok(())
    }

    async fn delete_pod(&self, key: &PodKey, how: DeleteParams) -> anyhow::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.client(), &key.namespace);
        match api.delete(&key.name, &how).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error).with_context(|| format!("delete pod {key}")),
        }
    }

    async fn wait_gone(&self, pods: &[PodKey]) -> anyhow::Result<()> {
        self.pods.wait(pods, "pods gone", PATIENCE, |pod| pod.is_none()).await?;
        let wanted: BTreeSet<&PodKey> = pods.iter().collect();
        let api: Api<Pod> = Api::all(self.client());
        clock::until(PATIENCE, "pods' objects gone", || async {
            let there = api.list(&ListParams::default()).await.ok()?;
            let left = there.iter().any(|pod| wanted.contains(&PodKey::of(pod)));
            (!left).then_some(())
        })
        .await
    }
}

/// How long pods may take to go.
const PATIENCE: Duration = Duration::from_secs(30);
