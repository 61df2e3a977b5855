//! The objects that policy is about.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use crate::{ClusterPolicy, Policy, PolicyRef, Protocol};

/// The label that every namespace has, with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Names a pod. Many maps know a pod by its name: all have the same text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodName {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl PodName {
    /// The pod `name` in `namespace`.
    pub fn new(namespace: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        Self { namespace: namespace.as_ref().into(), name: name.as_ref().into() }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A port that a container of a pod gave a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct NamedPort {
    /// The name.
    pub name: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The number.
    pub number: u16,
}

/// What policy needs to know of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its name.
    pub name: PodName,
    /// Its labels, which all pods of a workload may have together.
    pub labels: Arc<BTreeMap<String, String>>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Addresses that it is said to have, and that nothing confirms yet: they are its own as long as no other pod has
    /// them, or is said to.
    pub announced: Vec<IpAddr>,
    /// Its named ports, those of init containers that keep running included.
    pub ports: Vec<NamedPort>,
    /// It lives in its node's network: no policy selects it and no pod peer matches it.
    pub host_network: bool,
    /// It has run to its end (`Succeeded`, `Failed`): its addresses are no longer its own, whatever its status says.
    pub finished: bool,
    /// Its deletion has begun: it keeps its place in every policy until it is gone, unless its address is
    /// another's already.
    pub terminating: bool,
    /// When it was created, in seconds since 1970; the younger of two pods has an address that both claim.
    pub created: i64,
}

impl Pod {
    /// Whether it is an endpoint of the pod network.
    pub fn in_pod_network(&self) -> bool {
        !self.host_network && !self.finished
    }
}

/// What policy needs to know of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What policy needs to know of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its own addresses, which pods in its network have too.
    pub addresses: Vec<IpAddr>,
    /// What it may send from through tunnels, and no pod has: who names one of its own addresses of the family means these too.
    pub tunnels: Vec<IpAddr>,
}

/// All objects that decide about traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Objects {
    /// Namespaces by name.
    pub namespaces: BTreeMap<String, Namespace>,
    /// Pods by name, shared with those who need to know more of them.
    pub pods: BTreeMap<PodName, Arc<Pod>>,
    /// Policies by name.
    pub policies: BTreeMap<PolicyRef, Policy>,
    /// Policies of the cluster by name.
    pub cluster_policies: BTreeMap<String, ClusterPolicy>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Node>,
}

impl Node {
    /// What a block that names it may name it by, when a packet is from or to one of its addresses of tunnels: nothing otherwise.
    pub(crate) fn named_by(&self, address: IpAddr) -> impl Iterator<Item = IpAddr> {
        let is_tunnel = self.tunnels.contains(&address);
        let own = self.addresses.iter().filter(move |own| is_tunnel && own.is_ipv4() == address.is_ipv4());
        own.copied()
    }
}

impl Objects {
    /// The labels of a namespace. One that is not known (yet) has the label that all have.
    pub fn namespace_labels(&self, name: &str) -> Cow<'_, BTreeMap<String, String>> {
        let known = self.namespaces.get(name).map(|namespace| &namespace.labels);
        if let Some(labels) = known
            && labels.contains_key(NAME_LABEL)
        {
            return Cow::Borrowed(labels);
        }
        let mut labels = known.cloned().unwrap_or_default();
        labels.insert(NAME_LABEL.to_owned(), name.to_owned());
        Cow::Owned(labels)
    }

    /// The pods of a namespace.
    pub fn pods_of(&self, namespace: &str) -> impl Iterator<Item = &Pod> {
        let pods = self.pods.range(PodName::new(namespace, "")..).map(|(_, pod)| pod.as_ref());
        pods.take_while(move |pod| *pod.name.namespace == *namespace)
    }

    /// The policies of a namespace.
    pub fn policies_of(&self, namespace: &str) -> impl Iterator<Item = &Policy> {
        let first = PolicyRef { namespace: namespace.to_owned(), name: String::new() };
        let policies = self.policies.range(first..).map(|(_, policy)| policy);
        policies.take_while(move |policy| policy.name.namespace == namespace)
    }

    /// Which pod has each address of the pod network.
    ///
    /// What is only announced counts for less than anything else, as those who write it may not be those who give
    /// pods their addresses: it takes an address from nobody, and two pods for which one is announced get it neither.
    pub fn owners(&self) -> BTreeMap<IpAddr, &Pod> {
        let mut owners: BTreeMap<IpAddr, &Pod> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.in_pod_network()) {
            for address in &pod.addresses {
                let claim = |pod: &Pod| (!pod.terminating, pod.created);
                match owners.get(address) {
                    Some(holder) if claim(holder) >= claim(pod) => {}
                    _ => {
                        owners.insert(*address, pod);
                    }
                }
            }
        }
        let mut announced: BTreeMap<IpAddr, Option<&Pod>> = BTreeMap::new();
        for pod in self.pods.values().filter(|pod| pod.in_pod_network()) {
            let once: BTreeSet<&IpAddr> = pod.announced.iter().collect();
            for address in once.into_iter().filter(|address| !owners.contains_key(address)) {
                announced.entry(*address).and_modify(|holder| *holder = None).or_insert(Some(pod));
            }
        }
        owners.extend(announced.into_iter().filter_map(|(address, pod)| Some((address, pod?))));
        owners
    }
}
