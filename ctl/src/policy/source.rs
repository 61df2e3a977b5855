//! The objects that decide, wherever they come from.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use k8s_openapi::api::{
    core::v1::{Namespace as NamespaceObject, Node as NodeObject, Pod as PodObject, PodTemplateSpec},
    networking::v1::NetworkPolicy,
};
use margay_api::annotation::{NODE_IPS, node_ips};
use margay_policy::{
    ClusterPolicy, Enforcement, Namespace, Objects, Peer, Peers, Pod, PodName, PolicyId, Problem, convert,
    convert_cluster, convert_node, convert_pod, v1alpha2::ClusterNetworkPolicy,
};

/// Objects, and what could not be read of them.
#[derive(Debug, Default)]
pub(crate) struct Source {
    pub(crate) objects: Objects,
    /// What policy need not know of the pods in `objects`, for each of them.
    pub(crate) facts: BTreeMap<PodName, Facts>,
    /// Where pods without a known address have one, as far as users say.
    pub(crate) pod_networks: Vec<IpNetwork>,
    /// What is wrong, in words.
    pub(crate) problems: Vec<String>,
    /// Which pod has each address of the pod network.
    owners: BTreeMap<IpAddr, PodName>,
    /// Objects of other kinds, by kind.
    others: BTreeMap<String, usize>,
    /// Where each object was read.
    origins: BTreeMap<(&'static str, String), String>,
}

/// What policy need not know of a pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The workload that made it, or would.
    pub(crate) workload: Option<String>,
    /// It stands for all pods that a template makes.
    pub(crate) template: bool,
    /// Its node.
    pub(crate) node: Option<String>,
    /// The addresses of its node.
    pub(crate) node_addresses: Vec<IpAddr>,
}

impl Source {
    pub(crate) fn add_pod(&mut self, object: &PodObject, origin: &str) {
        let spec = object.spec.as_ref();
        let status = object.status.as_ref();
        let several = status.and_then(|status| status.host_ips.as_ref()).into_iter().flatten();
        let one = status.and_then(|status| status.host_ip.as_ref());
        let facts = Facts {
            workload: workload(object),
            template: false,
            node: spec.and_then(|spec| spec.node_name.clone()),
            node_addresses: several.map(|ip| &ip.ip).chain(one).filter_map(|ip| ip.parse().ok()).collect(),
        };
        self.insert_pod(object, facts, origin);
    }

    /// A pod named after the workload whose template it is.
    pub(crate) fn add_template(
        &mut self,
        namespace: Option<&str>,
        workload: &str,
        template: PodTemplateSpec,
        origin: &str,
    ) {
        let mut object =
            PodObject { metadata: template.metadata.unwrap_or_default(), spec: template.spec, status: None };
        object.metadata.namespace = namespace.map(ToOwned::to_owned);
        object.metadata.name = Some(workload.to_owned());
        let facts = Facts { workload: Some(workload.to_owned()), template: true, ..Facts::default() };
        self.insert_pod(&object, facts, origin);
    }

    fn insert_pod(&mut self, object: &PodObject, facts: Facts, origin: &str) {
        let (pod, problems) = convert_pod(object);
        self.problems.extend(problems);
        self.note_origin("Pod", pod.name.to_string(), origin);
        self.facts.insert(pod.name.clone(), facts);
        self.objects.pods.insert(pod.name.clone(), Arc::new(pod));
    }

    pub(crate) fn add_namespace(&mut self, object: &NamespaceObject, origin: &str) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let labels = object.metadata.labels.clone().unwrap_or_default();
        self.note_origin("Namespace", name.clone(), origin);
        self.objects.namespaces.insert(name.clone(), Namespace { name, labels });
    }

    pub(crate) fn add_policy(&mut self, object: &NetworkPolicy, origin: &str) {
        let (policy, problems) = convert(object);
        self.note_problems(&problems, origin);
        if let Some(policy) = policy {
            self.note_origin("NetworkPolicy", policy.name.to_string(), origin);
            self.objects.policies.insert(policy.name.clone(), policy);
        }
    }

    pub(crate) fn add_cluster_policy(&mut self, object: &ClusterNetworkPolicy, origin: &str) {
        let (policy, problems) = convert_cluster(object);
        self.note_problems(&problems, origin);
        if let Some(policy) = policy {
            self.note_origin("ClusterNetworkPolicy", policy.name.clone(), origin);
            self.objects.cluster_policies.insert(policy.name.clone(), policy);
        }
    }

    pub(crate) fn add_node(&mut self, object: &NodeObject, origin: &str) {
        let name = object.metadata.name.clone().unwrap_or_default();
        let (mut node, problems) = convert_node(object);
        self.problems.extend(problems);
        // The agents have it among a node's addresses, too.
        let annotations = object.metadata.annotations.as_ref();
        let chosen = annotations.and_then(|all| node_ips(all.get(NODE_IPS)?).ok());
        for address in chosen.into_iter().flatten() {
            if !node.addresses.contains(&address) {
                node.addresses.push(address);
            }
        }
        self.note_origin("Node", name.clone(), origin);
        self.objects.nodes.insert(name, node);
    }

    /// Whether a policy asks for the labels of nodes.
    pub(crate) fn wants_nodes(&self) -> bool {
        let policies = self.objects.cluster_policies.values();
        let mut rules = policies.flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
        rules.any(|rule| match &rule.peers {
            Peers::Any => false,
            Peers::Of(peers) => peers.iter().any(|peer| matches!(peer, Peer::Nodes(_))),
        })
    }

    /// Whether a policy of the cluster is about a pod.
    pub(crate) fn is_subject(&self, policy: &ClusterPolicy, pod: &Pod) -> bool {
        policy.subject.namespaces.matches(&self.objects.namespace_labels(&pod.name.namespace))
            && policy.subject.pods.matches(&pod.labels)
    }

    /// The policies in audit.
    pub(crate) fn audited(&self) -> impl Iterator<Item = PolicyId> {
        let cluster = self
            .objects
            .cluster_policies
            .values()
            .map(|policy| (policy.enforcement, PolicyId::Cluster(policy.name.clone())));
        let network = self
            .objects
            .policies
            .values()
            .map(|policy| (policy.enforcement, PolicyId::Network(policy.name.clone())));
        cluster
            .chain(network)
            .filter(|(enforcement, _)| *enforcement == Enforcement::Audit)
            .map(|(_, name)| name)
    }

    /// Counts an object that says nothing about policy.
    pub(crate) fn pass_over(&mut self, kind: String) {
        *self.others.entry(kind).or_default() += 1;
    }

    /// Takes stock: to be called when all objects are in.
    pub(crate) fn complete(mut self) -> Self {
        let owners = self.objects.owners().into_iter();
        self.owners = owners.map(|(address, pod)| (address, pod.name.clone())).collect();
        self
    }

    /// The pod of the pod network that has an address.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&PodName> {
        self.owners.get(&address)
    }

    /// Which kinds were passed over, if any.
    pub(crate) fn passed_over(&self) -> Option<String> {
        let total: usize = self.others.values().sum();
        let kinds: Vec<String> = self.others.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        (total > 0).then(|| {
            let objects = if total == 1 { "object" } else { "objects" };
            format!("passed over {total} {objects} of other kinds: {}", kinds.join(", "))
        })
    }

    fn note_problems(&mut self, problems: &[Problem], origin: &str) {
        self.problems.extend(problems.iter().map(|problem| {
            if origin.is_empty() { problem.to_string() } else { format!("{origin}: {problem}") }
        }));
    }

    fn note_origin(&mut self, kind: &'static str, name: String, origin: &str) {
        match self.origins.entry((kind, name)) {
            Entry::Vacant(entry) => drop(entry.insert(origin.to_owned())),
            Entry::Occupied(mut entry) => {
                let earlier = entry.insert(origin.to_owned());
                let (kind, name) = entry.key();
                self.problems.push(format!(
                    "{kind} {name} is there twice, at {earlier} and at {origin}; the second one counts"
                ));
            }
        }
    }
}

/// The workload of a pod, by the object that controls it.
fn workload(object: &PodObject) -> Option<String> {
    let mut owners = object.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    // A ReplicaSet of a Deployment has the Deployment's name with this hash behind.
    let hash = object.metadata.labels.as_ref().and_then(|labels| labels.get("pod-template-hash"));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash.as_str())?.strip_suffix('-'));
    Some(deployment.unwrap_or(&owner.name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::Source;

    #[test]
    fn a_pod_of_a_deployment_belongs_to_it_and_others_to_their_controller() {
        for (labels, owner, workload) in [
            ("{pod-template-hash: 5f6}", "web-5f6", Some("web")),
            ("{}", "db", Some("db")),
            ("{pod-template-hash: 5f6}", "lone", Some("lone")),
        ] {
            let text = format!(
                "{{metadata: {{namespace: x, name: p, labels: {labels}, ownerReferences: \
                 [{{apiVersion: v1, kind: K, name: {owner}, uid: u, controller: true}}]}}}}"
            );
            let mut source = Source::default();
            source.add_pod(&serde_saphyr::from_str(&text).unwrap(), "");
            assert_eq!(source.facts.values().next().unwrap().workload.as_deref(), workload);
        }
    }

    #[test]
    fn what_is_there_twice_is_a_problem_that_names_both_places() {
        let mut source = Source::default();
        let pod = serde_saphyr::from_str("{metadata: {namespace: x, name: p}}").unwrap();
        source.add_pod(&pod, "a.yaml:1");
        source.add_pod(&pod, "b.yaml:3");
        assert_eq!(
            source.problems,
            ["Pod x/p is there twice, at a.yaml:1 and at b.yaml:3; the second one counts"]
        );
    }
}
