//! The lab as a case wants it.

use super::case::{
    Case, IpFamily, Labels, Name, NamedPort, OpenDef, PodDef, ProbeSpec, ServiceDef, ServicePort, Step,
    Target,
};
use super::cluster::Cluster;
use super::pattern::Endpoint;
use super::substitute::Addresses;
use super::table::{Member, has_nodes, node_ports};
use crate::config::ExternalConfig;
use crate::lab::{Balanced, Lab, PodSpec};
use crate::party::Party;
use crate::pods::PodKey;
use crate::station::{Kept, Port, Servers};
use anyhow::Context;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use kube::api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// How long pods may take to come up, likewise.
const PODS: Duration = Duration::from_mins(2);
/// The abilities that the lab always has.
const ABILITIES: &[&str] = &[
    "external",
    "host",
    "host-pods",
    "multinode",
    "sctp",
    "ip-reuse",
    "long-connections",
    "terminating-pods",
    "sidecars",
    "startup-probes",
    "service",
];
const POLICY: (&str, &str, &str) = ("networking.k8s.io", "v1", "NetworkPolicy");
const SYSTEM_NAMESPACES: &[&str] = &["default", "kube-system", "kube-public", "kube-node-lease"];

/// A lab with what the running case has put there.
pub(super) struct World<'a> {
    pub(super) lab: &'a mut Lab,
    pub(super) cluster: Cluster,
    pub(super) addresses: Addresses,
    pub(super) kept: BTreeMap<String, (OpenDef, Kept)>,
    finished: BTreeSet<PodKey>,
    kinds: BTreeMap<String, GroupVersionKind>,
    node_servers: Vec<Servers>,
    node_ports: Vec<Port>,
    balanced: Vec<Balanced>,
}

impl<'a> World<'a> {
    pub(super) fn new(lab: &'a mut Lab) -> Self {
        Self {
            lab,
            cluster: Cluster::default(),
            addresses: Addresses::default(),
            kept: BTreeMap::new(),
            finished: BTreeSet::new(),
            kinds: BTreeMap::new(),
            node_servers: Vec::new(),
            node_ports: Vec::new(),
            balanced: Vec::new(),
        }
    }

    /// Why the lab cannot run a case; `None` when it can.
    pub(super) fn cannot(&self, case: &Case) -> Option<String> {
        let can = |need: &str| match need {
            // A real API server may be without the kind.
            "raw-objects" | "clusternetworkpolicy" | "cnp-named-ports" | "cnp-nodes" => {
                self.lab.api_server().is_some()
            }
            "ipv6" => self.lab.config().ip_families.has_ipv6(),
            _ => ABILITIES.contains(&need),
        };
        let missing: Vec<&str> = case.needs.iter().map(String::as_str).filter(|need| !can(need)).collect();
        if !missing.is_empty() {
            return Some(format!("needs {}", missing.join(", ")));
        }
        if families(case).is_empty() || !families(case).iter().all(|family| self.has_family(*family)) {
            return Some("needs a family that the lab has not".into());
        }
        let cluster = Cluster::build(&case.cluster).ok()?;
        let stranger = cluster.node_names().into_iter().find(|name| self.lab.node_named(name).is_err());
        stranger.map(|name| format!("needs a node {name}"))
    }

    fn has_family(&self, family: IpFamily) -> bool {
        match family {
            IpFamily::Ipv4 => self.lab.config().ip_families.has_ipv4(),
            IpFamily::Ipv6 => self.lab.config().ip_families.has_ipv6(),
        }
    }

    /// Makes the cluster that a case begins with, in the place of all that was there.
    pub(super) async fn begin(&mut self, case: &Case) -> anyhow::Result<()> {
        self.clear().await.context("clean up after the case before")?;
        let cluster = Cluster::build(&case.cluster)?;
        let nodes: Api<Node> = Api::all(self.lab.client());
        for node in self.lab.nodes() {
            let labels = cluster.nodes.get(node.name()).cloned().unwrap_or_default();
            self.lab.relabel(&nodes, node.name(), &labels).await?;
            self.addresses.nodes.insert(node.name().to_owned(), node.addresses());
        }
        for (name, external) in &cluster.externals {
            let addresses = external.ipv4.map(IpAddr::V4).into_iter().chain(external.ipv6.map(IpAddr::V6));
            let config = ExternalConfig {
                name: name.clone(),
                addresses: addresses.collect(),
                ports: numbers(&external.ports),
            };
            self.lab.attach_external(&config).await?;
            self.addresses.externals.insert(name.clone(), config.addresses);
        }
        self.cluster.externals = cluster.externals;
        self.add_namespaces(&cluster.namespaces).await?;
        self.add_pods(cluster.pods.into_values().collect()).await?;
        self.add_services(cluster.services.into_values().collect()).await?;
        self.balance().await
    }

    /// Takes a step's changes, in the order of the format.
    pub(super) async fn change(&mut self, step: &Step, raw: bool) -> anyhow::Result<()> {
        for name in &step.delete {
            self.delete(name).await?;
        }
        self.remove(&step.remove).await?;
        for Name(key) in &step.finish {
            self.lab.finish_pod(key).await?;
            self.finished.insert(key.clone());
        }
        for Name(key) in &step.terminate {
            self.lab.terminate_pod(key).await?;
        }
        self.add_namespaces(&step.namespaces).await?;
        self.add_pods(step.pods.clone()).await?;
        self.add_services(step.services.clone()).await?;
        for (name, labels) in &step.relabel {
            self.relabel(name, labels).await?;
        }
        for object in &step.apply {
            let object = self.addresses.substitute(object)?;
            self.apply(object, raw).await?;
        }
        self.balance().await
    }

    /// Everybody who can be in a row.
    pub(super) fn members(&self, probe: &ProbeSpec) -> Vec<Member> {
        let with_nodes = has_nodes(probe);
        let families = |addresses: &[IpAddr]| -> Vec<IpFamily> {
            let has = |v4: bool| addresses.iter().any(|address| address.is_ipv4() == v4);
            [(true, IpFamily::Ipv4), (false, IpFamily::Ipv6)]
                .into_iter()
                .filter(|(v4, _)| has(*v4))
                .map(|(_, family)| family)
                .collect()
        };
        let pods =
            self.cluster.pods.iter().filter(|(key, _)| !self.finished.contains(*key)).map(|(key, pod)| {
                let addresses = self.addresses.pods.get(key).map(Vec::as_slice).unwrap_or_default();
                Member {
                    endpoint: Endpoint::Pod(key.clone()),
                    is_pod: !pod.host,
                    ports: all_ports(pod).iter().map(|named| named.port).collect(),
                    families: families(addresses),
                    backends: BTreeSet::new(),
                }
            });
        let externals = self.cluster.externals.iter().map(|(name, external)| Member {
            endpoint: Endpoint::External(name.clone()),
            is_pod: false,
            ports: numbers(&external.ports),
            families: families(self.addresses.externals.get(name).map(Vec::as_slice).unwrap_or_default()),
            backends: BTreeSet::new(),
        });
        let nodes = self.lab.nodes().iter().filter(|_| with_nodes).map(|node| Member {
            endpoint: Endpoint::Node(node.name().to_owned()),
            is_pod: false,
            ports: self.node_ports.clone(),
            families: families(&node.addresses()),
            backends: BTreeSet::new(),
        });
        let services = self.cluster.services.iter().map(|(key, service)| {
            let backends = service.ports.iter().flat_map(|port| self.cluster.backends(service, port));
            Member {
                endpoint: Endpoint::Service(key.clone()),
                is_pod: false,
                ports: service.ports.iter().map(|port| port.port).collect(),
                families: families(self.addresses.services.get(key).map(Vec::as_slice).unwrap_or_default()),
                backends: backends.map(|(pod, _)| pod.clone()).collect(),
            }
        });
        pods.chain(externals).chain(nodes).chain(services).collect()
    }

    /// Has the nodes serve what a probe asks of them.
    pub(super) fn serve_on_nodes(&mut self, probe: &ProbeSpec) -> anyhow::Result<()> {
        let ports = if has_nodes(probe) { node_ports(probe) } else { Vec::new() };
        if ports == self.node_ports {
            return Ok(());
        }
        self.node_servers.clear();
        for node in self.lab.nodes() {
            self.node_servers.push(node.station().serve(&ports)?);
        }
        self.node_ports = ports;
        Ok(())
    }

    /// The endpoint as the lab knows it.
    pub(super) fn party(endpoint: &Endpoint) -> anyhow::Result<Party> {
        Ok(match endpoint {
            Endpoint::Pod(key) => Party::Pod(key.clone()),
            Endpoint::External(name) => Party::External(name.clone()),
            Endpoint::Node(name) => Party::Node(name.clone()),
            Endpoint::Service(key) => anyhow::bail!("{key} is a service, and nobody"),
        })
    }

    /// The newest warnings and errors of the nodes' processes.
    pub(super) fn complaints(&self) -> Vec<String> {
        const LOOKED_AT: usize = 60;
        let text = self.lab.log_tail(LOOKED_AT);
        let bad =
            |line: &&str| line.contains(" WARN ") || line.contains("ERROR ") || line.contains(" ended: ");
        text.lines().filter(bad).map(|line| line.trim().to_owned()).collect()
    }

    async fn clear(&mut self) -> anyhow::Result<()> {
        self.kept.clear();
        self.node_servers.clear();
        self.node_ports.clear();
        let (group, version, kind) = POLICY;
        self.kinds.insert(kind.into(), GroupVersionKind::gvk(group, version, kind));
        for gvk in self.kinds.values() {
            let resource = ApiResource::from_gvk(gvk);
            let all: Api<DynamicObject> = Api::all_with(self.lab.client(), &resource);
            for object in all.list(&ListParams::default()).await?.items {
                let api: Api<DynamicObject> = match object.namespace() {
                    Some(namespace) => Api::namespaced_with(self.lab.client(), &namespace, &resource),
                    None => all.clone(),
                };
                api.delete(&object.name_any(), &DeleteParams::default()).await?;
            }
        }
        let pods = Api::<Pod>::all(self.lab.client()).list(&ListParams::default()).await?;
        let pods: Vec<PodKey> = pods.iter().map(PodKey::of).collect();
        self.lab.remove_pods(&pods).await?;
        let namespaces = Api::<Namespace>::all(self.lab.client());
        for namespace in namespaces.list(&ListParams::default()).await? {
            let name = namespace.name_any();
            if SYSTEM_NAMESPACES.contains(&name.as_str()) {
                self.lab.relabel(&namespaces, &name, &Labels::new()).await?;
            } else {
                namespaces.delete(&name, &DeleteParams::default()).await?;
            }
        }
        self.lab.detach_externals();
        if !self.balanced.is_empty() {
            self.lab.balance(&[]).await?;
            self.balanced.clear();
        }
        self.cluster = Cluster::default();
        self.addresses = Addresses::default();
        self.finished.clear();
        Ok(())
    }

    async fn add_namespaces(&mut self, namespaces: &BTreeMap<String, Labels>) -> anyhow::Result<()> {
        for (name, labels) in namespaces {
            self.lab.create_namespace(name, labels).await?;
        }
        self.cluster.namespaces.extend(namespaces.clone());
        Ok(())
    }

    async fn add_pods(&mut self, pods: Vec<PodDef>) -> anyhow::Result<()> {
        let mut specs = Vec::new();
        for pod in &pods {
            let key = pod.name.0.clone();
            if !self.cluster.namespaces.contains_key(&key.namespace) {
                self.add_namespaces(&BTreeMap::from([(key.namespace.clone(), Labels::new())])).await?;
            }
            specs.push((key, self.spec(pod)?));
        }
        let keys: Vec<PodKey> = specs.iter().map(|(key, _)| key.clone()).collect();
        // A pod that takes the name of another takes its place.
        let replaced: Vec<PodKey> =
            keys.iter().filter(|key| self.cluster.pods.contains_key(*key)).cloned().collect();
        self.lab.remove_pods(&replaced).await?;
        self.lab.create_pods(&specs).await?;
        self.lab.wait_pods(&keys, PODS).await?;
        for (key, pod) in keys.into_iter().zip(pods) {
            self.addresses.pods.insert(key.clone(), self.lab.pod_addresses(&key));
            self.finished.remove(&key);
            self.cluster.pods.insert(key, pod);
        }
        Ok(())
    }

    /// Makes services, with the addresses that the API server gives them.
    async fn add_services(&mut self, services: Vec<ServiceDef>) -> anyhow::Result<()> {
        self.kinds.insert("Service".into(), GroupVersionKind::gvk("", "v1", "Service"));
        for service in services {
            let Name(key) = &service.name;
            let ports = service.ports.iter().enumerate().map(|(place, ServicePort { port, target })| {
                let target = match target {
                    Target::Number(number) => json!(number),
                    Target::Name(name) => json!(name),
                };
                let protocol = port.protocol.to_string();
                json!({"name": format!("p{place}"), "port": port.number, "protocol": protocol, "targetPort": target})
            });
            let object = json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"namespace": key.namespace, "name": key.name},
                "spec": {
                    "selector": service.selector, "ports": ports.collect::<Vec<_>>(),
                    "ipFamilyPolicy": "PreferDualStack",
                },
            });
            let api: Api<Service> = Api::namespaced(self.lab.client(), &key.namespace);
            let made = api.create(&PostParams::default(), &serde_json::from_value(object)?).await;
            let made = made.with_context(|| format!("create service {key}"))?;
            let addresses = made.spec.and_then(|spec| spec.cluster_ips).unwrap_or_default();
            let addresses = addresses.iter().map(|text| text.parse()).collect::<Result<Vec<IpAddr>, _>>();
            self.addresses.services.insert(key.clone(), addresses.with_context(|| format!("service {key}"))?);
            self.cluster.services.insert(key.clone(), service);
        }
        Ok(())
    }

    /// Has the nodes balance what is sent to services, as a service proxy does.
    async fn balance(&mut self) -> anyhow::Result<()> {
        let mut balanced = Vec::new();
        for (key, service) in &self.cluster.services {
            for port in &service.ports {
                let running = |(key, _): &(&PodKey, u16)| !self.finished.contains(*key);
                let backends = self.cluster.backends(service, port).into_iter().filter(running);
                balanced.push(Balanced {
                    addresses: self.addresses.services.get(key).cloned().unwrap_or_default(),
                    port: port.port,
                    backends: backends
                        .flat_map(|(pod, number)| {
                            let addresses = self.addresses.pods.get(pod).into_iter().flatten();
                            addresses.map(move |address| SocketAddr::new(*address, number))
                        })
                        .collect(),
                });
            }
        }
        if self.balanced != balanced {
            self.lab.balance(&balanced).await.context("have the nodes balance services")?;
            self.balanced = balanced;
        }
        Ok(())
    }

    fn spec(&self, pod: &PodDef) -> anyhow::Result<PodSpec> {
        let ports =
            |ports: &[NamedPort]| ports.iter().map(|named| (named.port, named.name.clone())).collect();
        let addresses = match &pod.reuse_ip_of {
            Some(Name(old)) => {
                let known = self.addresses.pods.get(old);
                known.cloned().with_context(|| format!("reuse the address of {old}, which never was"))?
            }
            None => Vec::new(),
        };
        Ok(PodSpec {
            labels: pod.labels.clone(),
            node: Some(pod.node.clone()),
            host_network: pod.host,
            ports: ports(&pod.ports),
            sidecar_ports: ports(&pod.sidecar_ports),
            addresses,
            annotations: BTreeMap::new(),
        })
    }

    async fn remove(&mut self, names: &[Name]) -> anyhow::Result<()> {
        let mut pods = Vec::new();
        let mut namespaces = Vec::new();
        for Name(key) in names {
            if key.name == "*" {
                namespaces.push(key.namespace.clone());
                pods.extend(self.cluster.pods.keys().filter(|pod| pod.namespace == key.namespace).cloned());
            } else {
                pods.push(key.clone());
            }
        }
        self.lab.remove_pods(&pods).await?;
        for pod in &pods {
            self.cluster.pods.remove(pod);
            self.finished.remove(pod);
        }
        let api = Api::<Namespace>::all(self.lab.client());
        for name in namespaces {
            api.delete(&name, &DeleteParams::default()).await.with_context(|| format!("remove {name}/*"))?;
            self.cluster.namespaces.remove(&name);
        }
        Ok(())
    }

    async fn relabel(&self, name: &str, labels: &Labels) -> anyhow::Result<()> {
        let client = self.lab.client();
        match name.split_once(':') {
            Some(("pod", pod)) => {
                let key: PodKey = pod.parse()?;
                self.lab.relabel(&Api::<Pod>::namespaced(client, &key.namespace), &key.name, labels).await
            }
            Some(("namespace", name)) => self.lab.relabel(&Api::<Namespace>::all(client), name, labels).await,
            Some(("node", name)) => self.lab.relabel(&Api::<Node>::all(client), name, labels).await,
            _ => anyhow::bail!("relabel `{name}`: it takes pod:NAMESPACE/NAME, namespace:NAME or node:NAME"),
        }
    }

    async fn apply(&mut self, object: Value, raw: bool) -> anyhow::Result<()> {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).map(str::to_owned);
        let kind = text("/kind").context("an object without kind")?;
        let version = text("/apiVersion").context("an object without apiVersion")?;
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let gvk = GroupVersionKind::gvk(group, version, &kind);
        let name = text("/metadata/name").unwrap_or_default();
        self.kinds.insert(kind.clone(), gvk.clone());
        if raw && let Some(server) = self.lab.api_server() {
            server
                .put_raw(object)
                .map_err(|error| anyhow::anyhow!("put {kind} {name}: {}", error.message))?;
            return Ok(());
        }
        let api = self.api(&gvk, text("/metadata/namespace").as_deref());
        let mut object: DynamicObject = serde_json::from_value(object)?;
        let applied = match api.create(&PostParams::default(), &object).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                object.metadata.resource_version = api.get(&name).await?.metadata.resource_version;
                api.replace(&name, &PostParams::default(), &object).await
            }
            created => created,
        };
        applied.map(drop).with_context(|| format!("apply {kind} {name}"))
    }

    async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let parts: Vec<&str> = name.split('/').collect();
        let (kind, namespace, object) = match *parts.as_slice() {
            [kind, namespace, object] => (kind, Some(namespace), object),
            [kind, object] => (kind, None, object),
            _ => anyhow::bail!("delete `{name}`: it takes KIND/NAMESPACE/NAME or KIND/NAME"),
        };
        let core = || GroupVersionKind::gvk("", "v1", kind);
        let gvk = self.kinds.get(kind).cloned().unwrap_or_else(core);
        let api = self.api(&gvk, namespace);
        api.delete(object, &DeleteParams::default()).await.with_context(|| format!("delete {name}"))?;
        Ok(())
    }

    fn api(&self, gvk: &GroupVersionKind, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::from_gvk(gvk);
        match namespace {
            Some(namespace) => Api::namespaced_with(self.lab.client(), namespace, &resource),
            None => Api::all_with(self.lab.client(), &resource),
        }
    }
}

/// The families of a case's rows.
pub(super) fn families(case: &Case) -> Vec<IpFamily> {
    case.families.clone().unwrap_or_else(|| vec![IpFamily::Ipv4])
}

fn all_ports(pod: &PodDef) -> Vec<&NamedPort> {
    pod.ports.iter().chain(&pod.sidecar_ports).collect()
}

fn numbers(ports: &[NamedPort]) -> Vec<Port> {
    ports.iter().map(|named| named.port).collect()
}
