//! Streams of the API to typed events.
//!
//! One task for each kind of object. An object that does not have its kind's form is reported by name, counts as not
//! there, and hides no other. A watcher lists, then watches, and starts over by itself when the API server
//! is away, restarts, or has forgotten the history (410 Gone), with a growing wait between attempts. What it lists
//! arrives as one [`Change::Replaced`], so that an object that vanished meanwhile is missed there and nowhere else.
//! A list comes as a stream of the watch itself, which no server has to hold in whole, or in pages from servers that do not
//! have that: see [`listing`]. Of each object no more is parsed than is read: see [`guarded`]. Of pods no more are asked for than
//! are needed: see [`pod`].
//! A kind that a cluster may be without has an empty listing as long as it is: see [`presence`].

mod bgp_configuration;
mod bgp_peer;
mod change;
mod cluster_network_policy;
pub(crate) mod drift;
mod endpoint_slice;
mod feed;
mod guarded;
mod ip_block;
mod ip_pool;
mod listing;
mod namespace;
mod network_config;
mod network_policy;
mod node;
mod pod;
mod presence;
mod read;
mod secret;
mod service;

use feed::{Feed, Need, follow, optional};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client};
use margay_policy::{ClusterPolicy, PodName, Policy, PolicyRef};
use read::Read;
use tokio::{sync::mpsc, task::JoinSet};

pub(crate) use bgp_configuration::{ConfigurationFacts, ServiceRanges};
pub(crate) use bgp_peer::{Claim, End, FilterFacts, OwnOptions, PeerFacts, Session, SessionOptions};
pub(crate) use change::Change;
pub(crate) use endpoint_slice::{Serving, SliceFacts};
pub(crate) use ip_block::BlockFacts;
pub(crate) use ip_pool::PoolFacts;
pub(crate) use namespace::NamespaceFacts;
pub(crate) use network_config::{NAME as NETWORK_CONFIG, NetworkFacts};
pub(crate) use node::{BgpFacts, Identity, Node, NodeFacts};
pub(crate) use pod::{Announced, PodFacts};
pub(crate) use secret::SecretFacts;
pub(crate) use service::{ServiceFacts, ServiceName, TrafficPolicy};

use crate::{addresses::Message, config::Sources, core::Event, notice::Notices, peering};

/// What the status of an object says, and of which form of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Told {
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
    pub(crate) conditions: Vec<Condition>,
}

/// Something that the API server said.
#[derive(Debug)]
pub(crate) enum ApiEvent {
    Nodes(Change<String, NodeFacts>),
    Namespaces(Change<String, NamespaceFacts>),
    /// Pods of other nodes, those that have finished left out.
    Pods(Change<PodName, PodFacts>),
    /// Pods of this node.
    OwnPods(Change<PodName, PodFacts>),
    Policies(Change<PolicyRef, Policy>),
    ClusterPolicies(Change<String, ClusterPolicy>),
}

impl From<ApiEvent> for Event {
    fn from(event: ApiEvent) -> Self {
        Self::Api(event)
    }
}

/// Starts the watches of the core.
pub(crate) fn start(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    node_name: &str,
    events: &mpsc::Sender<Event>,
    notices: &Notices,
) {
    let feed = |resource| Feed::of_all(resource, Need::Always, events, notices);
    let own = node_name.to_owned();
    let read_node = move |object: &_| node::read(object, &own);
    tasks.spawn(follow(Api::all(client.clone()), feed("nodes"), read_node, node::key, ApiEvent::Nodes));
    tasks.spawn(follow(
        Api::all(client.clone()),
        feed("namespaces"),
        namespace::read,
        namespace::key,
        ApiEvent::Namespaces,
    ));
    let mut pods = |fields: String, wrap: fn(Change<PodName, PodFacts>) -> ApiEvent| {
        let feed = feed("pods").with_fields(Some(fields));
        let common = pod::Common::default();
        let of_key = common.clone();
        let read = move |object: &_| pod::read(object, &common);
        let key = move |meta: &_| of_key.name(meta);
        tasks.spawn(follow(Api::all(client.clone()), feed, read, key, wrap));
    };
    pods(pod::of_node(node_name), ApiEvent::OwnPods);
    pods(pod::of_others(node_name), ApiEvent::Pods);
    tasks.spawn(follow(
        Api::all(client.clone()),
        feed("networkpolicies"),
        network_policy::read,
        network_policy::key,
        ApiEvent::Policies,
    ));
    tasks.spawn(follow(
        Api::all(client.clone()),
        optional("clusternetworkpolicies", events, notices),
        cluster_network_policy::read,
        cluster_network_policy::key,
        ApiEvent::ClusterPolicies,
    ));
}

/// Starts the watch of what all nodes have in common.
pub(crate) fn start_network_config(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    sources: &Sources,
    events: &mpsc::Sender<Change<String, NetworkFacts>>,
    notices: &Notices,
) {
    let sources = sources.clone();
    // A server that does not serve the kind, or not to this agent, says nothing about it: settings stay.
    let feed = Feed::of_all("networkconfigs", Need::Always, events, notices);
    tasks.spawn(follow(
        Api::all(client.clone()),
        feed,
        move |object: &_| network_config::read(object, &sources),
        network_config::key,
        std::convert::identity,
    ));
}

/// Starts the watches of pools and blocks.
pub(crate) fn start_pools(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    events: &mpsc::Sender<Message>,
    notices: &Notices,
) {
    let feed = |resource| Feed::of_all(resource, Need::Always, events, notices);
    tasks.spawn(follow(
        Api::all(client.clone()),
        feed("ippools"),
        ip_pool::read,
        ip_pool::key,
        Message::Pools,
    ));
    tasks.spawn(follow(
        Api::all(client.clone()),
        feed("ipblocks"),
        ip_block::read,
        ip_block::key,
        Message::Blocks,
    ));
}

/// Starts the watches of the sessions that users ask for.
pub(crate) fn start_peering(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    events: &mpsc::Sender<peering::Message>,
    notices: &Notices,
) {
    use peering::Message;
    tasks.spawn(follow(
        Api::all(client.clone()),
        optional("bgpconfigurations", events, notices),
        bgp_configuration::read,
        bgp_configuration::key,
        Message::Configurations,
    ));
    tasks.spawn(follow(
        Api::all(client.clone()),
        optional("bgppeers", events, notices),
        bgp_peer::read,
        bgp_peer::key,
        Message::Peers,
    ));
}

/// Starts the watches of Services and of who serves them.
pub(crate) fn start_services(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    node_name: &str,
    events: &mpsc::Sender<peering::Message>,
    notices: &Notices,
) {
    use peering::Message;
    tasks.spawn(follow(
        Api::all(client.clone()),
        optional("services", events, notices),
        service::read,
        service::key,
        Message::Services,
    ));
    let own = node_name.to_owned();
    tasks.spawn(follow(
        Api::all(client.clone()),
        optional("endpointslices", events, notices),
        move |object: &_| endpoint_slice::read(object, &own),
        endpoint_slice::key,
        Message::Slices,
    ));
}

/// Starts the watch of one Secret in the agent's namespace.
pub(crate) fn start_secret(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    name: &str,
    events: &mpsc::Sender<peering::Message>,
    notices: &Notices,
) {
    let fields = Some(format!("metadata.name={name}"));
    let feed = optional("secrets", events, notices).with_fields(fields);
    let name = name.to_owned();
    tasks.spawn(follow(
        Api::default_namespaced(client.clone()),
        feed,
        secret::read,
        secret::key,
        move |change| peering::Message::Secret(name.clone(), change),
    ));
}

/// Objects as the watches read them, for tests of those who get the facts.
#[cfg(test)]
pub(crate) mod reading {
    use k8s_openapi::api::core::v1::{Node, Secret};
    use margay_api::resource::{BGPConfiguration, BGPPeer};

    use super::{ConfigurationFacts, NodeFacts, PeerFacts, SecretFacts};

    pub(crate) fn node(object: &Node) -> NodeFacts {
        super::node::read(object, "").value.unwrap_or_default()
    }

    pub(crate) fn configuration(object: &BGPConfiguration) -> Option<ConfigurationFacts> {
        super::bgp_configuration::read(object).value
    }

    pub(crate) fn peer(object: &BGPPeer) -> Option<PeerFacts> {
        super::bgp_peer::read(object).value
    }

    pub(crate) fn secret(object: &Secret) -> Option<SecretFacts> {
        super::secret::read(object).value
    }
}
