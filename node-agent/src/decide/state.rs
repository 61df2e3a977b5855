//! All that the agent knows, kept up to date by events.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use ipnetwork::IpNetwork;
use margay_api::endpoint::{Endpoint, EndpointId, PodRef};
use margay_policy::{Objects, PodName, PolicyId, compile};

use super::{
    doubles::{self, Doubles},
    pods::{Pods, call_as_before},
};
use crate::{
    addresses::PoolTraffic,
    watch::{Announced, ApiEvent, Change, NamespaceFacts, Node, NodeFacts, PodFacts},
};

/// The facts from the API and from the endpoint records.
///
/// A pod of this node has the addresses of its record, which are true from the first instant; a pod of another
/// node those of its status.
#[derive(Debug)]
pub(crate) struct State {
    node_name: String,
    objects: Objects,
    pods: Pods,
    nodes: BTreeMap<String, Node>,
    endpoints: BTreeMap<EndpointId, Arc<Endpoint>>,
    /// The endpoints of each pod.
    of_pod: BTreeMap<PodName, BTreeSet<EndpointId>>,
    /// What the annotations of namespaces ask for.
    namespace_wishes: BTreeMap<String, NamespaceWishes>,
    /// The blocks that the node has claimed; `None` where they come with the Node object.
    claimed: Option<Vec<IpNetwork>>,
    /// The node of each block, where they are claimed.
    holders: Arc<BTreeMap<IpNetwork, String>>,
    /// The first addresses of the blocks of each node, where they are claimed: what it may send from through tunnels.
    tunnels: BTreeMap<String, Vec<IpAddr>>,
    /// How packets of the pods of each pool travel, by its range; ranges do not overlap.
    pool_traffic: Arc<BTreeMap<IpNetwork, PoolTraffic>>,
    listed: Listed,
    /// What has changed since it was last taken.
    touched: Touched,
}

/// What the annotations of a namespace ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct NamespaceWishes {
    /// Which pools its pods' addresses are from.
    pools: Option<String>,
    logs_drops: bool,
}

/// What has changed since it was last decided about.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    /// Of what policy is about.
    pub(crate) policy: compile::Touched,
    /// Whether nodes or their blocks have.
    pub(crate) nodes: bool,
    /// Whether blocks of other nodes have, or how packets of pools travel.
    pub(crate) blocks: bool,
    /// The endpoints that have, or whose pods have.
    pub(crate) endpoints: BTreeSet<EndpointId>,
}

/// Which kinds have been listed once.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one independent fact for each kind")]
struct Listed {
    nodes: bool,
    namespaces: bool,
    pods: bool,
    own_pods: bool,
    policies: bool,
    cluster_policies: bool,
    records: bool,
    blocks: bool,
}

impl Listed {
    /// Whether those of this node and those of the others are.
    fn all_pods(&self) -> bool {
        self.pods && self.own_pods
    }
}

/// A pod and the addresses that it has from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Announcement {
    pub(crate) pod: PodName,
    /// The pod that is meant: another of the same name is left alone.
    pub(crate) uid: String,
    pub(crate) addresses: Vec<IpAddr>,
}

impl State {
    pub(crate) fn new(node_name: String) -> Self {
        Self {
            node_name,
            objects: Objects::default(),
            pods: Pods::default(),
            nodes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            of_pod: BTreeMap::new(),
            namespace_wishes: BTreeMap::new(),
            claimed: None,
            holders: Arc::default(),
            tunnels: BTreeMap::new(),
            pool_traffic: Arc::default(),
            // They come with the nodes, unless they are claimed.
            listed: Listed { blocks: true, ..Listed::default() },
            touched: Touched::default(),
        }
    }

    /// What has not been listed yet, in words; `None` when the state is complete.
    pub(crate) fn missing(&self) -> Option<String> {
        let Listed { nodes, namespaces, pods: _, own_pods: _, policies, cluster_policies, records, blocks } =
            &self.listed;
        let parts = [
            (nodes, "nodes"),
            (namespaces, "namespaces"),
            (&self.listed.all_pods(), "pods"),
            (policies, "networkpolicies"),
            (cluster_policies, "clusternetworkpolicies"),
            (records, "endpoint records"),
            (blocks, "ippools and ipblocks"),
        ];
        let missing: Vec<&str> =
            parts.iter().filter(|(listed, _)| !**listed).map(|(_, name)| *name).collect();
        (!missing.is_empty()).then(|| missing.join(", "))
    }

    /// What has changed since this was last asked.
    pub(crate) fn take_touched(&mut self) -> Touched {
        std::mem::take(&mut self.touched)
    }

    /// Has all that leads out of the node decided anew.
    pub(crate) fn look_at_ways_again(&mut self) {
        self.touched.blocks = true;
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.objects
    }

    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&EndpointId, &Arc<Endpoint>)> {
        self.endpoints.iter()
    }

    pub(crate) fn endpoint(&self, id: &EndpointId) -> Option<&Endpoint> {
        self.shared_endpoint(id).map(AsRef::as_ref)
    }

    pub(crate) fn shared_endpoint(&self, id: &EndpointId) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(id)
    }

    pub(crate) fn node_name(&self) -> &str {
        &self.node_name
    }

    pub(crate) fn own_node(&self) -> Option<&Node> {
        self.nodes.get(&self.node_name)
    }

    /// All nodes, by name.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&String, &Node)> {
        self.nodes.iter()
    }

    /// What is wrong with the addresses of nodes.
    pub(crate) fn doubles(&self) -> Doubles {
        doubles::doubles(self)
    }

    /// The blocks that this node's pods have addresses of.
    pub(crate) fn blocks(&self) -> &[IpNetwork] {
        match (&self.claimed, self.own_node()) {
            (Some(claimed), _) => claimed,
            (None, Some(node)) => &node.pod_cidrs,
            (None, None) => &[],
        }
    }

    /// Where the addresses of all pods of the cluster are from.
    pub(crate) fn pod_blocks(&self) -> BTreeSet<IpNetwork> {
        self.all_blocks().map(|(block, _)| block).collect()
    }

    /// The blocks of all nodes, with the nodes' names.
    pub(crate) fn all_blocks(&self) -> impl Iterator<Item = (IpNetwork, &str)> {
        let of_nodes = self.claimed.is_none().then_some(&self.nodes);
        let of_nodes = of_nodes.into_iter().flatten();
        let of_nodes =
            of_nodes.flat_map(|(name, node)| node.pod_cidrs.iter().map(move |block| (*block, name.as_str())));
        of_nodes.chain(self.holders.iter().map(|(block, name)| (*block, name.as_str())))
    }

    /// How packets of the pods of each pool travel, by its range.
    pub(crate) fn pool_traffic(&self) -> &BTreeMap<IpNetwork, PoolTraffic> {
        &self.pool_traffic
    }

    /// The same of the pool that a block is of.
    pub(crate) fn pool_traffic_of(&self, block: IpNetwork) -> Option<PoolTraffic> {
        let (range, traffic) = self.pool_traffic.range(..=block).next_back()?;
        margay_ipam::holds(*range, block).then_some(*traffic)
    }

    /// Waits for the first [`Self::set_claimed`]: without it the node's routes would be taken back at each start.
    pub(crate) fn await_claimed(&mut self) {
        self.claimed = Some(Vec::new());
        self.listed.blocks = false;
    }

    /// Takes the blocks that the node has claimed, which node has each block of the cluster, and how packets of pools
    /// travel; true when that changes anything.
    pub(crate) fn set_claimed(
        &mut self,
        blocks: Vec<IpNetwork>,
        holders: Arc<BTreeMap<IpNetwork, String>>,
        pool_traffic: Arc<BTreeMap<IpNetwork, PoolTraffic>>,
    ) -> bool {
        let mut changed = !std::mem::replace(&mut self.listed.blocks, true);
        changed |= self.claimed.as_ref() != Some(&blocks);
        self.touched.nodes |= changed;
        self.claimed = Some(blocks);
        if !Arc::ptr_eq(&self.holders, &holders) {
            self.holders = holders;
            self.touched.blocks = true;
            changed |= self.refresh_announced();
            changed |= self.refresh_tunnels();
        }
        if self.pool_traffic != pool_traffic {
            self.pool_traffic = pool_traffic;
            self.touched.blocks = true;
        }
        changed || self.touched.blocks
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
        self.namespace_wishes.get(namespace)?.pools.as_deref()
    }

    /// The namespaces whose drops are to be logged.
    pub(crate) fn logging_namespaces(&self) -> BTreeSet<String> {
        let wishes = self.namespace_wishes.iter();
        wishes.filter(|(_, wishes)| wishes.logs_drops).map(|(name, _)| name.clone()).collect()
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

    /// Endpoints whose pod the API does not know, once it has said what it knows.
    pub(crate) fn orphans(&self) -> BTreeSet<EndpointId> {
        let orphans = self.endpoints.iter().filter(|(_, endpoint)| self.pod_of(endpoint).is_err());
        if self.listed.all_pods() { orphans.map(|(id, _)| id.clone()).collect() } else { BTreeSet::new() }
    }

    /// Takes what the API server said; true when that changes anything. Much of it does not: nodes report that they
    /// live, and pods what is not asked here.
    pub(crate) fn apply(&mut self, event: ApiEvent) -> bool {
        match event {
            ApiEvent::Nodes(change) => {
                let (nodes, mut peers) = change.split(|NodeFacts { node, peer }| (node, peer));
                if self.claimed.is_some() {
                    peers.each(|name, peer| {
                        peer.tunnels = self.tunnels.get(name).cloned().unwrap_or_default();
                    });
                }
                let changed = !apply(&mut self.nodes, &mut self.listed.nodes, nodes).is_same();
                if changed {
                    self.refresh_announced();
                }
                let peers = peers.touches(&mut self.objects.nodes);
                let changed = changed || !peers.is_empty();
                // BGP chooses nodes by their labels, too.
                self.touched.nodes |= changed;
                self.touched.policy.nodes.extend(peers);
                changed
            }
            ApiEvent::Namespaces(change) => self.apply_namespaces(change),
            ApiEvent::Policies(change) => {
                let applied = apply(&mut self.objects.policies, &mut self.listed.policies, change);
                let changed = !applied.is_same();
                self.touched.policy.policies.extend(applied.touched.into_iter().map(PolicyId::Network));
                changed
            }
            ApiEvent::ClusterPolicies(change) => {
                let listed = &mut self.listed.cluster_policies;
                let applied = apply(&mut self.objects.cluster_policies, listed, change);
                let changed = !applied.is_same();
                self.touched.policy.policies.extend(applied.touched.into_iter().map(PolicyId::Cluster));
                changed
            }
            ApiEvent::Pods(mut change) => {
                call_as_before(&self.pods.others, &mut change);
                let applied = apply(&mut self.pods.others, &mut self.listed.pods, change);
                self.refresh_applied(applied)
            }
            ApiEvent::OwnPods(mut change) => {
                call_as_before(&self.pods.own, &mut change);
                // Of our own pods the records tell.
                match &mut change {
                    Change::Replaced(pods) => pods.values_mut().for_each(|facts| facts.announced = None),
                    Change::Applied(_, facts) => facts.announced = None,
                    Change::Deleted(_) => {}
                }
                let applied = apply(&mut self.pods.own, &mut self.listed.own_pods, change);
                self.refresh_applied(applied)
            }
        }
    }

    /// Which announcements are believed depends on whose blocks are where; true when there are any.
    fn refresh_announced(&mut self) -> bool {
        let announced = self.pods.others.iter().filter(|(_, facts)| facts.announced.is_some());
        let announced: Vec<PodName> = announced.map(|(name, _)| name.clone()).collect();
        for name in &announced {
            self.refresh(name);
        }
        !announced.is_empty()
    }

    /// What nodes may send from through tunnels, as their blocks are now; true when that is other than before.
    fn refresh_tunnels(&mut self) -> bool {
        let mut tunnels: BTreeMap<String, Vec<IpAddr>> = BTreeMap::new();
        for (block, name) in self.holders.iter() {
            tunnels.entry(name.clone()).or_default().push(block.network());
        }
        self.tunnels = tunnels;
        let mut changed = false;
        for (name, node) in &mut self.objects.nodes {
            let now = self.tunnels.get(name).map(Vec::as_slice).unwrap_or_default();
            if node.tunnels != now {
                node.tunnels = now.to_vec();
                self.touched.policy.nodes.insert(name.clone());
                changed = true;
            }
        }
        changed
    }

    fn refresh_applied(&mut self, applied: Applied<PodName>) -> bool {
        let changed = !applied.is_same();
        for name in applied.touched {
            self.refresh(&name);
        }
        changed
    }

    /// Takes the endpoint records as they are now; true when that changes anything.
    pub(crate) fn set_endpoints(&mut self, endpoints: BTreeMap<EndpointId, Endpoint>) -> bool {
        let same = |(id, endpoint): (&EndpointId, &Endpoint)| self.endpoint(id) == Some(endpoint);
        if self.listed.records && self.endpoints.len() == endpoints.len() && endpoints.iter().all(same) {
            return false;
        }
        self.listed.records = true;
        let gone: Vec<EndpointId> =
            self.endpoints.keys().filter(|id| !endpoints.contains_key(*id)).cloned().collect();
        for id in gone {
            self.set_endpoint(&id, None);
        }
        for (id, endpoint) in endpoints {
            self.set_endpoint(&id, Some(endpoint));
        }
        true
    }

    /// Takes one endpoint record as it is now.
    pub(crate) fn set_endpoint(&mut self, id: &EndpointId, endpoint: Option<Endpoint>) {
        let pod_of = |endpoint: Option<&Arc<Endpoint>>| {
            let pod = endpoint.and_then(|endpoint| endpoint.pod.as_ref());
            pod.map(|pod| PodName::new(&pod.namespace, &pod.name))
        };
        let before = match endpoint {
            Some(endpoint) => self.endpoints.insert(id.clone(), Arc::new(endpoint)),
            None => self.endpoints.remove(id),
        };
        self.touched.endpoints.insert(id.clone());
        let pods = [pod_of(before.as_ref()), pod_of(self.endpoints.get(id))];
        if let Some(pod) = &pods[0]
            && let Entry::Occupied(mut ids) = self.of_pod.entry(pod.clone())
        {
            ids.get_mut().remove(id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
        if let Some(pod) = &pods[1] {
            self.of_pod.entry(pod.clone()).or_default().insert(id.clone());
        }
        for pod in pods.iter().flatten() {
            self.refresh(pod);
        }
    }

    fn apply_namespaces(&mut self, change: Change<String, NamespaceFacts>) -> bool {
        let (namespaces, wishes) = change.split(|NamespaceFacts { namespace, pools, logs_drops }| {
            (namespace, NamespaceWishes { pools, logs_drops })
        });
        let applied = apply(&mut self.objects.namespaces, &mut self.listed.namespaces, namespaces);
        let changed = wishes.changes(&mut self.namespace_wishes) || !applied.is_same();
        self.touched.policy.namespaces.extend(applied.touched);
        changed
    }

    /// The endpoints of a pod, whether the API knows that very pod or not.
    pub(crate) fn ids_of(&self, pod: &PodName) -> impl Iterator<Item = &EndpointId> {
        self.of_pod.get(pod).into_iter().flatten()
    }

    /// Whether a pod that the API knows has an interface on this node.
    pub(crate) fn is_local(&self, pod: &PodName) -> bool {
        self.endpoints_of(pod).any(|endpoint| self.pod_of(endpoint).is_ok())
    }

    fn endpoints_of(&self, pod: &PodName) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.ids_of(pod).filter_map(|id| self.endpoints.get(id))
    }

    fn refresh(&mut self, name: &PodName) {
        self.touched.policy.pods.insert(name.clone());
        self.touched.endpoints.extend(self.of_pod.get(name).into_iter().flatten().cloned());
        let Some(facts) = self.pods.get(name) else {
            self.objects.pods.remove(name);
            return;
        };
        let recorded: Vec<IpAddr> = self
            .endpoints_of(name)
            .filter(|endpoint| self.pod_of(endpoint).is_ok())
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect();
        let announced = self.believed(facts);
        let mut pod = Arc::clone(&facts.pod);
        // Of nearly all pods the status says it all: policy has them as they were read, and not a copy.
        if !recorded.is_empty() {
            Arc::make_mut(&mut pod).addresses = recorded;
        }
        if !announced.is_empty() {
            Arc::make_mut(&mut pod).announced = announced;
        }
        self.objects.pods.insert(name.clone(), pod);
    }

    /// The addresses of what is announced for a pod that are in the blocks of its node.
    fn believed(&self, facts: &PodFacts) -> Vec<IpAddr> {
        let Some(Announced { node, addresses }) = facts.announced.as_deref() else { return Vec::new() };
        let has = |address: IpAddr| {
            if self.claimed.is_none() {
                let blocks = self.nodes.get(node).map(|node| &node.pod_cidrs);
                return blocks.into_iter().flatten().any(|block| block.contains(address));
            }
            // Blocks do not overlap, so that the last to begin before an address is the only one that may hold it.
            IpNetwork::new(address, if address.is_ipv4() { 32 } else { 128 })
                .ok()
                .and_then(|last| self.holders.range(..=last).next_back())
                .is_some_and(|(block, holder)| holder == node && block.contains(address))
        };
        addresses.iter().copied().filter(|address| has(*address)).collect()
    }

    /// What to tell of the pod of an endpoint: all its addresses here.
    pub(crate) fn announcement(&self, id: &EndpointId) -> Option<Announcement> {
        let pod = self.pod_of(self.endpoint(id)?).ok()??;
        let uid = self.pods.get(&pod)?.uid.clone();
        let addresses =
            self.endpoints_of(&pod).flat_map(|endpoint| endpoint.addresses.iter().copied()).collect();
        Some(Announcement { pod, uid, addresses })
    }
}

/// What a change has done to a map.
struct Applied<K> {
    touched: BTreeSet<K>,
    is_first: bool,
}

impl<K> Applied<K> {
    fn is_same(&self) -> bool {
        self.touched.is_empty() && !self.is_first
    }
}

/// Applies a change, and notes when it has listed everything.
fn apply<K: Ord + Clone, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    listed: &mut bool,
    change: Change<K, V>,
) -> Applied<K> {
    let is_first = change.is_listing() && !std::mem::replace(listed, true);
    Applied { touched: change.touches(map), is_first }
}
