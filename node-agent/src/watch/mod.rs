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
mod cluster_network_policy;
pub(crate) mod drift;
mod endpoint_slice;
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

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
};

use futures::StreamExt;
use guarded::{Guarded, Kind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{Api, Client, Resource, api::ObjectMeta, runtime::watcher};
use margay_policy::{ClusterPolicy, PodName, Policy, PolicyRef};
use presence::{Absence, Presence};
use read::Read;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{info, warn};

pub(crate) use bgp_configuration::{ConfigurationFacts, ServiceRanges};
pub(crate) use bgp_peer::{Claim, End, FilterFacts, OwnOptions, PeerFacts, Session, SessionOptions};
pub(crate) use endpoint_slice::{Serving, SliceFacts};
pub(crate) use ip_block::BlockFacts;
pub(crate) use ip_pool::PoolFacts;
pub(crate) use namespace::NamespaceFacts;
pub(crate) use network_config::{NAME as NETWORK_CONFIG, NetworkFacts};
pub(crate) use node::{BgpFacts, Identity, Node, NodeFacts};
pub(crate) use pod::{Announced, PodFacts};
pub(crate) use secret::SecretFacts;
pub(crate) use service::{ServiceFacts, ServiceName, TrafficPolicy};

use crate::{
    addresses::Message,
    causes::in_full,
    config::Sources,
    core::Event,
    notice::{self, Notices, Reason},
    peering,
};

/// What the status of an object says, and of which form of it.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Told {
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
    pub(crate) conditions: Vec<Condition>,
}

/// What happened to the objects of one kind.
#[derive(Debug)]
pub(crate) enum Change<K, V> {
    /// These are all there are.
    Replaced(BTreeMap<K, V>),
    /// One is there, or has changed.
    Applied(K, V),
    /// One is gone.
    Deleted(K),
}

impl<K: Ord, V> Change<K, V> {
    /// Whether it is all there are.
    pub(crate) fn is_listing(&self) -> bool {
        matches!(self, Self::Replaced(_))
    }

    /// Does this to each value that it has.
    pub(crate) fn each(&mut self, mut change: impl FnMut(&K, &mut V)) {
        match self {
            Self::Replaced(all) => all.iter_mut().for_each(|(key, value)| change(key, value)),
            Self::Applied(key, value) => change(key, value),
            Self::Deleted(_) => {}
        }
    }

    /// Makes a map so; true when anything in it is other than before.
    pub(crate) fn changes(self, map: &mut BTreeMap<K, V>) -> bool
    where
        K: Clone,
        V: PartialEq,
    {
        !self.touches(map).is_empty()
    }

    /// Makes a map so, and says which keys have another value than before, or a value only before or after.
    pub(crate) fn touches(self, map: &mut BTreeMap<K, V>) -> BTreeSet<K>
    where
        K: Clone,
        V: PartialEq,
    {
        match self {
            Self::Replaced(all) => {
                let before = std::mem::replace(map, all);
                let gone = before.keys().filter(|key| !map.contains_key(*key)).cloned();
                let come = map.iter().filter(|(key, value)| before.get(*key) != Some(*value));
                gone.chain(come.map(|(key, _)| key.clone())).collect()
            }
            Self::Applied(key, value) => {
                if map.get(&key) == Some(&value) {
                    return BTreeSet::new();
                }
                map.insert(key.clone(), value);
                [key].into()
            }
            Self::Deleted(key) => map.remove(&key).map(|_| key).into_iter().collect(),
        }
    }

    /// The same about a part of each value, and about the rest of it.
    pub(crate) fn split<A, B>(self, parts: impl Fn(V) -> (A, B)) -> (Change<K, A>, Change<K, B>)
    where
        K: Clone,
    {
        match self {
            Self::Replaced(all) => {
                let parts = all.into_iter().map(|(key, value)| {
                    let (a, b) = parts(value);
                    ((key.clone(), a), (key, b))
                });
                let (one, other) = parts.unzip();
                (Change::Replaced(one), Change::Replaced(other))
            }
            Self::Applied(key, value) => {
                let (a, b) = parts(value);
                (Change::Applied(key.clone(), a), Change::Applied(key, b))
            }
            Self::Deleted(key) => (Change::Deleted(key.clone()), Change::Deleted(key)),
        }
    }
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
        let feed = Feed { fields: Some(fields), ..feed("pods") };
        let labels = pod::Labels::default();
        let read = move |object: &_| pod::read(object, &labels);
        tasks.spawn(follow(Api::all(client.clone()), feed, read, pod::key, wrap));
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
    let feed = Feed { fields, ..optional("secrets", events, notices) };
    let name = name.to_owned();
    tasks.spawn(follow(
        Api::default_namespaced(client.clone()),
        feed,
        secret::read,
        secret::key,
        move |change| peering::Message::Secret(name.clone(), change),
    ));
}

/// The feed of a kind that a cluster, or the agent's role, may be without.
fn optional<E>(resource: &'static str, events: &mpsc::Sender<E>, notices: &Notices) -> Feed<E> {
    Feed::of_all(resource, Need::IfInstalled, events, notices)
}

struct Feed<E> {
    resource: &'static str,
    need: Need,
    /// The field selector of the objects that it is about; all when there is none.
    fields: Option<String>,
    events: mpsc::Sender<E>,
    notices: Notices,
    /// The objects that were told to be wrong.
    wrong: BTreeSet<notice::Object>,
    /// How many of them the metrics have, where another feed of the same resource has its own.
    counted: i64,
}

/// Whether a cluster can be without a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Always,
    IfInstalled,
}

impl<E> Feed<E> {
    fn of_all(resource: &'static str, need: Need, events: &mpsc::Sender<E>, notices: &Notices) -> Self {
        // What is there before it counts: no object is wrong, and a series that begins with its first count has no increase.
        let label = crate::metrics::Resource { resource };
        drop(notices.metrics().unreadable.get_or_create(&label));
        drop(notices.metrics().invalid.get_or_create(&label));
        let (events, notices) = (events.clone(), notices.clone());
        Self { resource, need, fields: None, events, notices, wrong: BTreeSet::new(), counted: 0 }
    }

    /// Reads an object and reports what is wrong with it; the core gets the rest.
    fn sift<O: Kind, V>(&mut self, object: &Guarded<O>, read: impl Fn(&O) -> Read<V>) -> Option<V> {
        let label = crate::metrics::Resource { resource: self.resource };
        let read = match &object.0 {
            Ok(object) => read(object),
            Err(invalid) => {
                let ObjectMeta { namespace, name, .. } = &invalid.metadata;
                let parts = [namespace.as_deref(), name.as_deref()];
                let name = parts.into_iter().flatten().collect::<Vec<_>>().join("/");
                let problem = format!("{name}: {}; it is passed over", invalid.error);
                Read { value: None, problems: vec![problem] }
            }
        };
        for problem in &read.problems {
            warn!(resource = self.resource, "{problem}");
            self.notices.metrics().unreadable.get_or_create(&label).inc();
        }
        self.tell(notice::Object::of::<O>(object.meta()), read.problems);
        read.value
    }

    /// Tells that the role lacks a rule.
    fn denied<O: Resource<DynamicType = ()>>(&self) {
        let (kind, version) = (O::kind(&()), O::api_version(&()));
        let note = format!(
            "the agent may not read {kind} ({version}); apply the roles of manifests/margay.yaml: what changes there has no effect"
        );
        self.notices.of_node(Reason::ACCESS_DENIED, note);
    }

    /// Tells what is wrong with an object on the object itself, and that nothing is any more.
    fn tell(&mut self, object: notice::Object, problems: Vec<String>) {
        let was_wrong =
            if problems.is_empty() { self.wrong.remove(&object) } else { !self.wrong.insert(object.clone()) };
        let label = crate::metrics::Resource { resource: self.resource };
        let count = i64::try_from(self.wrong.len()).unwrap_or(i64::MAX);
        self.notices.metrics().invalid.get_or_create(&label).inc_by(count - self.counted);
        self.counted = count;
        let reason = match self.resource {
            // Their status says it, and who writes that tells.
            "ippools" => return,
            "networkpolicies" | "clusternetworkpolicies" => Reason::POLICY_NOT_READ,
            _ => Reason::NOT_READ,
        };
        if was_wrong || !problems.is_empty() {
            self.notices.standing(object, reason, problems);
        }
    }

    /// What is not in a new listing is wrong no more.
    fn forget(&mut self, before: &BTreeSet<notice::Object>) {
        let gone: Vec<_> = before.difference(&self.wrong).cloned().collect();
        for object in gone {
            self.wrong.insert(object.clone());
            self.tell(object, Vec::new());
        }
    }
}

async fn follow<O, K, V, W, E>(
    api: Api<Guarded<O>>,
    mut feed: Feed<E>,
    read: impl Fn(&O) -> Read<V>,
    key: impl Fn(&ObjectMeta) -> K,
    wrap: impl Fn(Change<K, V>) -> W,
) -> anyhow::Result<()>
where
    O: Kind + Clone + Debug + Send + 'static,
    K: Ord,
    E: From<W>,
{
    // A map that is made of all its objects at once takes little more than half the memory of one that grew.
    let mut listed = Vec::new();
    let mut before = BTreeSet::new();
    let mut failing = false;
    let mut presence = Presence::default();
    let mut stream = listing::watched(api, feed.fields.as_deref(), feed.resource);
    while let Some(event) = stream.next().await {
        if matches!(
            event,
            Ok(watcher::Event::InitDone | watcher::Event::Apply(_) | watcher::Event::Delete(_))
        ) {
            presence.served();
        }
        let change = match event {
            Err(error) => {
                let absence = match feed.need {
                    Need::Always => None,
                    Need::IfInstalled => presence.failed(status(&error)),
                };
                let Some(absence) = absence else {
                    // Once, not at every attempt.
                    if !failing && !presence.is_absent() {
                        let is_denied = status(&error) == Some(403);
                        let error = in_full(&error);
                        warn!(
                            resource = feed.resource,
                            error, "the API server does not serve the watch; trying again"
                        );
                        failing = true;
                        if is_denied {
                            feed.denied::<O>();
                        }
                    }
                    continue;
                };
                let (kind, version) = (O::kind(&()), O::api_version(&()));
                match absence {
                    Absence::NotInstalled => {
                        info!(
                            resource = feed.resource,
                            "{kind} is not installed (no CRD {version}); it is looked for again"
                        );
                    }
                    Absence::Forbidden => {
                        warn!(
                            resource = feed.resource,
                            %error,
                            "the agent may not read {kind} ({version}): if there are any, they have NO effect; apply the \
                             roles of manifests/margay.yaml"
                        );
                        feed.denied::<O>();
                    }
                }
                failing = false;
                Change::Replaced(BTreeMap::new())
            }
            Ok(watcher::Event::Init) => {
                listed.clear();
                before.append(&mut feed.wrong);
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                let key = key(object.meta());
                if let Some(value) = feed.sift(&object, &read) {
                    listed.push((key, value));
                }
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                info!(resource = feed.resource, objects = listed.len(), "listed");
                feed.forget(&std::mem::take(&mut before));
                Change::Replaced(std::mem::take(&mut listed).into_iter().collect())
            }
            Ok(watcher::Event::Apply(object)) => match feed.sift(&object, &read) {
                Some(value) => Change::Applied(key(object.meta()), value),
                // Unreadable as a whole, it counts as not there.
                None => Change::Deleted(key(object.meta())),
            },
            Ok(watcher::Event::Delete(object)) => {
                feed.tell(notice::Object::of::<O>(object.meta()), Vec::new());
                Change::Deleted(key(object.meta()))
            }
        };
        if failing {
            info!(resource = feed.resource, "the API server serves the watch again");
            failing = false;
        }
        feed.notices
            .metrics()
            .api_events
            .get_or_create(&crate::metrics::Resource { resource: feed.resource })
            .inc();
        if feed.events.send(wrap(change).into()).await.is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of {} ended", feed.resource)
}

/// The HTTP status of the API server's answer, if that is what failed.
fn status(error: &watcher::Error) -> Option<u16> {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => Some(status.code),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use k8s_openapi::api::core::v1::Namespace;
    use kube::{Api, Client, client::Body};
    use serde_json::{Value, json};
    use tokio::{sync::mpsc, time::timeout};

    use super::{ApiEvent, Change, Feed, Need, follow, namespace};
    use crate::{core::Event, metrics::Metrics, notice};

    const DEADLINE: Duration = Duration::from_secs(30);

    fn a_namespace(name: &str) -> Value {
        json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "resourceVersion": "7"}})
    }

    /// Which namespaces are listed, so many times one after the other, from a server that has one, `paged`, in a list, and answers
    /// so when a list is streamed, the last way from then on. It forgets its history after each list.
    async fn listed(streamed: &[(u16, String)], times: usize) -> Vec<Vec<String>> {
        let streamed = streamed.to_vec();
        let asked = AtomicUsize::new(0);
        let gone = json!({"type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Expired", "code": 410, "message": "too old",
        }});
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let query = request.uri().query().unwrap_or_default();
            let (status, body) = if query.contains("sendInitialEvents") {
                let number = asked.fetch_add(1, Ordering::Relaxed);
                streamed[number.min(streamed.len() - 1)].clone()
            } else if query.contains("watch=true") {
                (200, format!("{gone}\n"))
            } else {
                let metadata = json!({"resourceVersion": "7"});
                let list = json!({"kind": "NamespaceList", "apiVersion": "v1", "metadata": metadata, "items": [a_namespace("paged")]});
                (200, list.to_string())
            };
            let response = http::Response::builder().status(status).body(Body::from(body.into_bytes()));
            std::future::ready(Ok::<_, Infallible>(response.unwrap()))
        });
        let (events, mut inbox) = mpsc::channel::<Event>(1);
        let (notices, _noticed) = notice::queue(&Arc::new(Metrics::new()));
        let feed = Feed::of_all("namespaces", Need::Always, &events, &notices);
        let api = Api::all(Client::new(service, "default"));
        let following = tokio::spawn(follow::<Namespace, _, _, _, _>(
            api,
            feed,
            namespace::read,
            namespace::key,
            ApiEvent::Namespaces,
        ));
        let mut lists = Vec::new();
        while lists.len() < times {
            let next = timeout(DEADLINE, inbox.recv()).await.unwrap();
            let Some(Event::Api(ApiEvent::Namespaces(Change::Replaced(all)))) = next else {
                panic!("{next:?}")
            };
            lists.push(all.into_keys().collect());
        }
        following.abort();
        lists
    }

    /// A list as a stream, to its end.
    fn a_stream() -> (u16, String) {
        let added = json!({"type": "ADDED", "object": a_namespace("streamed")});
        let annotations = json!({"k8s.io/initial-events-end": "true"});
        let mark = json!({"type": "BOOKMARK", "object": {
            "kind": "Namespace", "apiVersion": "v1", "metadata": {"resourceVersion": "7", "annotations": annotations},
        }});
        (200, format!("{added}\n{mark}\n"))
    }

    /// One that was cut off.
    fn half_a_stream() -> (u16, String) {
        (200, format!("{}\n", json!({"type": "ADDED", "object": a_namespace("streamed")})))
    }

    fn a_refusal(code: u16, reason: &str) -> (u16, String) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code,
            "message": "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled",
        });
        (code, status.to_string())
    }

    #[tokio::test]
    async fn a_list_is_streamed_where_the_server_can() {
        assert_eq!(listed(&[a_stream()], 1).await, [["streamed"]]);
    }

    #[tokio::test]
    async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
        for (code, reason) in [(422, "Invalid"), (400, "BadRequest")] {
            assert_eq!(listed(&[a_refusal(code, reason)], 2).await, [["paged"], ["paged"]], "{code}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_the_mark_of_its_end_is_no_list() {
        assert_eq!(listed(&[half_a_stream()], 1).await, [["paged"]]);
    }

    #[tokio::test]
    async fn the_next_list_is_streamed_again() {
        for first in [half_a_stream(), a_refusal(422, "Invalid")] {
            assert_eq!(listed(&[first, a_stream()], 2).await, [["paged"], ["streamed"]]);
        }
    }
}
