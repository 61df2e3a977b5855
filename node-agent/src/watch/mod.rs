//! Streams of the API to typed events.
//!
//! One task for each kind of object. An object that does not have its kind's form is reported by name, counts as not
//! there, and hides no other. A watcher lists, then watches, and starts over by itself when the API server
//! is away, restarts, or has forgotten the history (410 Gone), with a growing wait between attempts. What it lists
//! arrives as one [`Change::Replaced`], so that an object that vanished meanwhile is missed there and nowhere else.

pub(crate) mod drift;
mod ip_block;
mod ip_pool;
mod namespace;
mod network_policy;
mod node;
mod pod;

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::StreamExt;
use kube::{
    Api, Client, Resource,
    api::ObjectMeta,
    core::DeserializeGuard,
    runtime::{WatchStreamExt, watcher},
};
use margay_policy::{PodName, Policy, PolicyRef};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};
use tracing::{info, warn};

pub(crate) use ip_block::BlockFacts;
pub(crate) use ip_pool::PoolFacts;
pub(crate) use namespace::NamespaceFacts;
pub(crate) use node::{Identity, Node};
pub(crate) use pod::{Announced, PodFacts};

use crate::{addresses::Message, core::Event, metrics::Metrics};

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
    /// Makes a map so; true when everything was listed.
    pub(crate) fn apply_to(self, map: &mut BTreeMap<K, V>) -> bool {
        match self {
            Self::Replaced(all) => {
                *map = all;
                return true;
            }
            Self::Applied(key, value) => {
                map.insert(key, value);
            }
            Self::Deleted(key) => {
                map.remove(&key);
            }
        }
        false
    }
}

/// Something that the API server said.
#[derive(Debug)]
pub(crate) enum ApiEvent {
    Nodes(Change<String, Node>),
    Namespaces(Change<String, NamespaceFacts>),
    Pods(Change<PodName, PodFacts>),
    Policies(Change<PolicyRef, Policy>),
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
    metrics: &Arc<Metrics>,
) {
    let feed = |resource| Feed { resource, events: events.clone(), metrics: Arc::clone(metrics) };
    let own = node_name.to_owned();
    let read_node = move |object: &_| node::read(object, &own);
    tasks.spawn(follow(client.clone(), feed("nodes"), read_node, node::key, ApiEvent::Nodes));
    tasks.spawn(follow(
        client.clone(),
        feed("namespaces"),
        namespace::read,
        namespace::key,
        ApiEvent::Namespaces,
    ));
    tasks.spawn(follow(client.clone(), feed("pods"), pod::read, pod::key, ApiEvent::Pods));
    tasks.spawn(follow(
        client.clone(),
        feed("networkpolicies"),
        network_policy::read,
        network_policy::key,
        ApiEvent::Policies,
    ));
}

/// Starts the watches of pools and blocks.
pub(crate) fn start_pools(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    events: &mpsc::Sender<Message>,
    metrics: &Arc<Metrics>,
) {
    let feed = |resource| Feed { resource, events: events.clone(), metrics: Arc::clone(metrics) };
    tasks.spawn(follow(client.clone(), feed("ippools"), ip_pool::read, ip_pool::key, Message::Pools));
    tasks.spawn(follow(client.clone(), feed("ipblocks"), ip_block::read, ip_block::key, Message::Blocks));
}

struct Feed<E> {
    resource: &'static str,
    events: mpsc::Sender<E>,
    metrics: Arc<Metrics>,
}

/// An object as the core wants it, with what could not be read of it.
struct Read<V> {
    value: Option<V>,
    problems: Vec<String>,
}

impl<V> Read<V> {
    fn clean(value: V) -> Self {
        Self { value: Some(value), problems: Vec::new() }
    }
}

impl<E> Feed<E> {
    /// Reads an object and reports what is wrong with it; the core gets the rest.
    fn sift<O, V>(&self, object: &DeserializeGuard<O>, read: impl Fn(&O) -> Read<V>) -> Option<V> {
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
            self.metrics.unreadable.get_or_create(&label).inc();
        }
        read.value
    }
}

async fn follow<O, K, V, W, E>(
    client: Client,
    feed: Feed<E>,
    read: impl Fn(&O) -> Read<V>,
    key: impl Fn(&ObjectMeta) -> K,
    wrap: impl Fn(Change<K, V>) -> W,
) -> anyhow::Result<()>
where
    O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    K: Ord,
    E: From<W>,
{
    let mut listed = BTreeMap::new();
    let mut failing = false;
    let api = Api::<DeserializeGuard<O>>::all(client);
    let stream = watcher(api, watcher::Config::default()).default_backoff();
    let mut stream = std::pin::pin!(stream);
    while let Some(event) = stream.next().await {
        let change = match event {
            Err(error) => {
                // Once, not at every attempt.
                if !failing {
                    warn!(resource = feed.resource, %error, "the API server does not serve the watch; trying again");
                }
                failing = true;
                continue;
            }
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                let key = key(object.meta());
                if let Some(value) = feed.sift(&object, &read) {
                    listed.insert(key, value);
                }
                continue;
            }
            Ok(watcher::Event::InitDone) => {
                info!(resource = feed.resource, objects = listed.len(), "listed");
                Change::Replaced(std::mem::take(&mut listed))
            }
            Ok(watcher::Event::Apply(object)) => match feed.sift(&object, &read) {
                Some(value) => Change::Applied(key(object.meta()), value),
                // Unreadable as a whole, it counts as not there.
                None => Change::Deleted(key(object.meta())),
            },
            Ok(watcher::Event::Delete(object)) => Change::Deleted(key(object.meta())),
        };
        if failing {
            info!(resource = feed.resource, "the API server serves the watch again");
            failing = false;
        }
        feed.metrics.api_events.get_or_create(&crate::metrics::Resource { resource: feed.resource }).inc();
        if feed.events.send(wrap(change).into()).await.is_err() {
            return Ok(());
        }
    }
    anyhow::bail!("the watch of {} ended", feed.resource)
}
