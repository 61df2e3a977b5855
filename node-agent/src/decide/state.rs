//! All that the agent knows, kept up to date by events.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use margay_api::endpoint::{Endpoint, EndpointId, PodRef};
use margay_policy::{Objects, PodName};

use crate::watch::{ApiEvent, Change, NamespaceFacts, Node, PodFacts};

/// The facts from the API and from the endpoint records.
///
/// A pod of this node has the addresses of its record, which are true from the first instant; a pod of another
/// node those of its status.
#[derive(Debug)]
pub(crate) struct State {
    node_name: String,
    objects: Objects,
    pods: BTreeMap<PodName, PodFacts>,
    nodes: BTreeMap<String, Node>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    /// The annotations of namespaces that say which pools their pods' addresses are from.
    namespace_pools: BTreeMap<String, String>,
    /// The blocks that the node has claimed; `None` where they come with the Node object.
    claimed: Option<Vec<IpNetwork>>,
    listed: Listed,
}

/// Which kinds have been listed once.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one independent fact for each kind")]
struct Listed {
    nodes: bool,
    namespaces: bool,
    pods: bool,
    policies: bool,
    records: bool,
    blocks: bool,
}

impl State {
    pub(crate) fn new(node_name: String) -> Self {
        Self {
            node_name,
            objects: Objects::default(),
            pods: BTreeMap::new(),
            nodes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            namespace_pools: BTreeMap::new(),
            claimed: None,
            // They come with the nodes, unless they are claimed.
            listed: Listed { blocks: true, ..Listed::default() },
        }
    }

    /// What has not been listed yet, in words; `None` when the state is complete.
    pub(crate) fn missing(&self) -> Option<String> {
        let Listed { nodes, namespaces, pods, policies, records, blocks } = &self.listed;
        let parts = [
            (nodes, "nodes"),
            (namespaces, "namespaces"),
            (pods, "pods"),
            (policies, "networkpolicies"),
            (records, "endpoint records"),
            (blocks, "ippools and ipblocks"),
        ];
        let missing: Vec<&str> =
            parts.iter().filter(|(listed, _)| !**listed).map(|(_, name)| *name).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&EndpointId, &Endpoint)> {
        self.endpoints.iter()
    }

    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.endpoints.get(id)
    }

    pub(crate) fn node_name(&self) -> &str {
        &self.node_name
    }

    pub(crate) fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// The other nodes, by name.
    pub(crate) fn other_nodes(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter().filter(|(name, _)| **name != self.node_name)
    }

    /// The blocks that this node's pods have addresses of.
    pub(crate) fn blocks(&self) -> &[IpNetwork] {
        match (&self.claimed, self.own_node()) {
            (Some(claimed), _) => claimed,
            (None, Some(node)) => &node.pod_cidrs,
            (None, None) => &[],
        }
    }

    /// Waits for the first [`Self::set_claimed`]: without it the node's routes would be taken back at each start.
    pub(crate) fn await_claimed(&mut self) {
        self.claimed = Some(Vec::new());
        self.listed.blocks = false;
    }

    /// Takes the blocks that the node has claimed.
    pub(crate) fn set_claimed(&mut self, blocks: Vec<IpNetwork>) {
        self.claimed = Some(blocks);
        self.listed.blocks = true;
    }

    /// Whether this node speaks for all about the state of the cluster: the first by name of those that are Ready,
    /// or of all when none is.
    pub(crate) fn is_first_node(&self) -> bool {
        let first = |wanted: &dyn Fn(&Node) -> bool| self.nodes.iter().find(|(_, node)| wanted(node));
        let found = first(&|node| node.ready).or_else(|| first(&|_| true));
        found.is_some_and(|(name, _)| *name == self.node_name)
    }

    /// What the annotation of a namespace says about pools.
    pub(crate) fn pools_of_namespace(&self, namespace: &str) -> Option<&str> {
        self.namespace_pools.get(namespace).map(String::as_str)
    }

    /// The pod that an endpoint is of; `Ok(None)` when no Kubernetes runtime made it, and no policy can be
    /// about it.
    ///
    /// # Errors
    /// In words, when the API does not know that pod.
    pub(crate) fn pod_of(&self, endpoint: &Endpoint) -> Result<Option<PodName>, String> {
        let Some(pod) = &endpoint.pod else { return Ok(None) };
        self.pod(pod).map(|facts| Some(facts.pod.name.clone()))
    }

    /// What is known of a pod.
    ///
    /// # Errors
    /// In words, when the API does not know it.
    pub(crate) fn pod(&self, pod: &PodRef) -> Result<&PodFacts, String> {
        let name = PodName::new(&pod.namespace, &pod.name);
        match (self.pods.get(&name), &pod.uid) {
            (None, _) => Err(format!("pod {name} is not known from the API server (yet, or any more)")),
            (Some(facts), Some(uid)) if !facts.is(uid) => Err(format!(
                "pod {name} with UID {uid} is not known from the API server, which knows UID {}",
                facts.uid
            )),
            (Some(facts), _) => Ok(facts),
        }
    }

    /// Takes what the API server said.
    pub(crate) fn apply(&mut self, event: ApiEvent) {
        match event {
            ApiEvent::Nodes(change) => self.listed.nodes |= change.apply_to(&mut self.nodes),
            ApiEvent::Namespaces(change) => self.apply_namespaces(change),
            ApiEvent::Policies(change) => {
                self.listed.policies |= change.apply_to(&mut self.objects.policies);
            }
            ApiEvent::Pods(change) => {
                let touched: Option<PodName> = match &change {
                    Change::Replaced(_) => None,
                    Change::Applied(name, _) | Change::Deleted(name) => Some(name.clone()),
                };
                self.listed.pods |= change.apply_to(&mut self.pods);
                match touched {
                    Some(name) => self.refresh(&name),
                    None => self.refresh_all(),
                }
            }
        }
    }

    /// Takes the endpoint records as they are now; true when that changes anything.
    pub(crate) fn set_endpoints(&mut self, endpoints: BTreeMap<EndpointId, Endpoint>) -> bool {
        if self.listed.records && self.endpoints == endpoints {
            return false;
        }
        self.endpoints = endpoints;
        self.listed.records = true;
        self.refresh_all();
        true
    }

    /// Takes one endpoint record as it is now.
    pub(crate) fn set_endpoint(&mut self, id: &EndpointId, endpoint: Option<Endpoint>) {
        let before = match endpoint {
            Some(endpoint) => self.endpoints.insert(id.clone(), endpoint),
            None => self.endpoints.remove(id),
        };
        let after = self.endpoints.get(id);
        let pods =
            [before.as_ref(), after].map(|endpoint| endpoint.and_then(|endpoint| endpoint.pod.clone()));
        for pod in pods.into_iter().flatten() {
            self.refresh(&PodName::new(pod.namespace, pod.name));
        }
    }

    fn apply_namespaces(&mut self, change: Change<String, NamespaceFacts>) {
        let changed = match change {
            Change::Replaced(all) => {
                self.objects.namespaces.clear();
                self.namespace_pools.clear();
                self.listed.namespaces = true;
                all
            }
            Change::Applied(name, facts) => {
                self.namespace_pools.remove(&name);
                [(name, facts)].into()
            }
            Change::Deleted(name) => {
                self.objects.namespaces.remove(&name);
                self.namespace_pools.remove(&name);
                BTreeMap::new()
            }
        };
        for (name, facts) in changed {
            if let Some(pools) = facts.pools {
                self.namespace_pools.insert(name.clone(), pools);
            }
            self.objects.namespaces.insert(name, facts.namespace);
        }
    }

    fn refresh_all(&mut self) {
        self.objects.pods.clear();
        let mut recorded: BTreeMap<PodName, Vec<IpAddr>> = BTreeMap::new();
        for endpoint in self.endpoints.values() {
            if let Ok(Some(name)) = self.pod_of(endpoint) {
                recorded.entry(name).or_default().extend(&endpoint.addresses);
            }
        }
        for (name, facts) in &self.pods {
            let mut pod = facts.pod.clone();
            if let Some(addresses) = recorded.remove(name) {
                pod.addresses = addresses;
            }
            self.objects.pods.insert(name.clone(), pod);
        }
    }

    fn refresh(&mut self, name: &PodName) {
        let Some(facts) = self.pods.get(name) else {
            self.objects.pods.remove(name);
            return;
        };
        let mut pod = facts.pod.clone();
        let own = self.endpoints.values().filter(|endpoint| {
            endpoint.pod.as_ref().is_some_and(|pod| pod.namespace == name.namespace && pod.name == name.name)
        });
        let recorded: Vec<IpAddr> = own
            .filter(|endpoint| self.pod_of(endpoint).is_ok())
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        if !recorded.is_empty() {
            pod.addresses = recorded;
        }
        self.objects.pods.insert(name.clone(), pod);
    }
}
