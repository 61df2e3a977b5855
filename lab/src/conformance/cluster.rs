//! The cluster that a case begins with.

use super::case::{
    ClusterSpec, Described, ExternalDef, Labels, Name, NamedPort, PodDef, ServiceDef, ServicePort, Target,
};
use crate::pods::PodKey;
use anyhow::Context;
use std::collections::{BTreeMap, BTreeSet};

/// A cluster, with everything named and in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<String, Labels>,
    pub(super) namespaces: BTreeMap<String, Labels>,
    pub(super) pods: BTreeMap<PodKey, PodDef>,
    pub(super) externals: BTreeMap<String, ExternalDef>,
    pub(super) services: BTreeMap<PodKey, ServiceDef>,
}

impl Cluster {
    pub(super) fn build(spec: &ClusterSpec) -> anyhow::Result<Self> {
        match spec {
            ClusterSpec::Named(name) => named(name),
            ClusterSpec::Described(described) => Self::described(described),
        }
    }

    fn described(described: &Described) -> anyhow::Result<Self> {
        let mut cluster = described.base.as_deref().map(named).transpose()?.unwrap_or_default();
        if let Some(only) = &described.only {
            let kept: BTreeSet<&PodKey> = only.iter().map(|Name(key)| key).collect();
            for key in &kept {
                anyhow::ensure!(
                    cluster.pods.contains_key(*key),
                    "`only` names {key}, which the base does not have"
                );
            }
            cluster.pods.retain(|key, _| kept.contains(key));
        }
        cluster.nodes.extend(described.nodes.clone());
        cluster.namespaces.extend(described.namespaces.clone());
        for pod in &described.pods {
            cluster.pods.insert(pod.name.0.clone(), pod.clone());
        }
        cluster.externals.extend(described.external.clone());
        for service in &described.services {
            cluster.services.insert(service.name.0.clone(), service.clone());
        }
        Ok(cluster)
    }

    /// The pods behind a service, each with its number for one of the service's ports.
    pub(super) fn backends(&self, service: &ServiceDef, port: &ServicePort) -> Vec<(&PodKey, u16)> {
        let selected = |(key, pod): &(&PodKey, &PodDef)| {
            key.namespace == service.name.0.namespace
                && !pod.host
                && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        let number = |pod: &PodDef| match &port.target {
            Target::Number(number) => Some(*number),
            Target::Name(name) => {
                let mut ports = pod.ports.iter().chain(&pod.sidecar_ports);
                let named = |named: &&NamedPort| {
                    named.name.as_ref() == Some(name) && named.port.protocol == port.port.protocol
                };
                ports.find(named).map(|named| named.port.number)
            }
        };
        self.pods.iter().filter(selected).filter_map(|(key, pod)| Some((key, number(pod)?))).collect()
    }

    /// The names of all nodes that it speaks of.
    pub(super) fn node_names(&self) -> BTreeSet<&str> {
        let of_pods = self.pods.values().map(|pod| pod.node.as_str());
        self.nodes.keys().map(String::as_str).chain(of_pods).collect()
    }
}

fn named(name: &str) -> anyhow::Result<Cluster> {
    match name {
        "standard" => standard(),
        "teams" => teams(),
        _ => anyhow::bail!("there is no cluster named `{name}`"),
    }
}

fn standard() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster { nodes: two_nodes(&Labels::new()), ..Cluster::default() };
    let texts = ["80/TCP", "80/UDP", "80/SCTP", "81/TCP", "81/UDP", "81/SCTP"];
    let ports: Vec<NamedPort> = texts
        .iter()
        .map(|text| {
            let (number, protocol) = text.split_once('/').context("a port")?;
            NamedPort::parse(&format!("{text}=serve-{number}-{}", protocol.to_lowercase()))
        })
        .collect::<anyhow::Result<_>>()?;
    for (i, namespace) in ["x", "y", "z"].into_iter().enumerate() {
        cluster.namespaces.insert(namespace.into(), label("ns", namespace));
        for (j, name) in ["a", "b", "c"].into_iter().enumerate() {
            let node = if (i + j) % 2 == 0 { "n1" } else { "n2" };
            let key = PodKey::new(namespace, name);
            cluster.pods.insert(key.clone(), pod(key, label("pod", name), node, ports.clone()));
        }
    }
    Ok(cluster)
}

fn teams() -> anyhow::Result<Cluster> {
    let mut cluster = Cluster { nodes: two_nodes(&label("kubernetes.io/os", "linux")), ..Cluster::default() };
    let ports =
        |texts: &[&str]| texts.iter().map(|text| NamedPort::parse(text)).collect::<Result<Vec<_>, _>>();
    let of_pods = ports(&["80/TCP=web", "8080/TCP", "53/UDP=dns", "5353/UDP", "9003/SCTP", "9005/SCTP"])?;
    let of_hosts = ports(&["36001/TCP", "36002/TCP", "36003/UDP", "36004/UDP", "36005/SCTP", "36006/SCTP"])?;
    for namespace in ["red", "green", "gold", "blue", "metal"] {
        cluster.namespaces.insert(namespace.into(), label("team", namespace));
        let host = namespace == "metal";
        for (name, node) in [("p0", "n1"), ("p1", "n2")] {
            let key = PodKey::new(namespace, name);
            let ports = if host { of_hosts.clone() } else { of_pods.clone() };
            let pod = PodDef { host, ..pod(key.clone(), label("team", namespace), node, ports) };
            cluster.pods.insert(key, pod);
        }
    }
    Ok(cluster)
}

fn pod(key: PodKey, labels: Labels, node: &str, ports: Vec<NamedPort>) -> PodDef {
    PodDef {
        name: Name(key),
        labels,
        node: node.into(),
        host: false,
        ports,
        sidecar_ports: Vec::new(),
        reuse_ip_of: None,
    }
}

fn two_nodes(labels: &Labels) -> BTreeMap<String, Labels> {
    ["n1", "n2"].map(|name| (name.to_owned(), labels.clone())).into()
}

fn label(key: &str, value: &str) -> Labels {
    Labels::from([(key.into(), value.into())])
}

#[cfg(test)]
mod tests {
    use super::{Cluster, ClusterSpec};
    use crate::PodKey;

    fn build(yaml: &str) -> anyhow::Result<Cluster> {
        Cluster::build(&serde_saphyr::from_str::<ClusterSpec>(yaml)?)
    }

    #[test]
    fn the_named_clusters_are_as_the_format_says() {
        let standard = build("standard").unwrap();
        assert_eq!(standard.pods.len(), 9);
        let node = |namespace, name| standard.pods[&PodKey::new(namespace, name)].node.clone();
        assert_eq!((node("x", "a"), node("x", "b"), node("z", "b")), ("n1".into(), "n2".into(), "n2".into()));
        let port = &standard.pods[&PodKey::new("x", "a")].ports[5];
        assert_eq!((port.port.to_string(), port.name.as_deref()), ("81/SCTP".into(), Some("serve-81-sctp")));
        let teams = build("teams").unwrap();
        assert_eq!(teams.pods.values().filter(|pod| pod.host).count(), 2);
        assert_eq!(teams.nodes["n1"]["kubernetes.io/os"], "linux");
    }

    #[test]
    fn entries_beside_a_base_are_added_or_replace() {
        let cluster = build(
            "{base: standard, only: [x/a, y/a], namespaces: {w: {}}, pods: [{name: x/a, labels: {v: '2'}}]}",
        )
        .unwrap();
        assert_eq!(cluster.pods.len(), 2);
        assert_eq!(cluster.pods[&PodKey::new("x", "a")].labels["v"], "2");
        assert_eq!(cluster.namespaces.len(), 4);
        assert!(build("{base: standard, only: [x/q]}").is_err());
        assert!(build("other").is_err());
    }
}
