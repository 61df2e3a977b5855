//! What a user must know, as Kubernetes Events.
//!
//! ```text
//!   core, watch, addresses, peering --Notice, a bounded queue--> task --> ledger (pure): which are new, which are again
//!   core --Facts (own node, who speaks for all)------------------> |  --> the API server, one request at a time
//! ```
//! Nobody waits for an Event: when the queue is full a notice is dropped and counted. What is the same as before within ten
//! minutes becomes a number on the Event that is there, and a bucket for each object and one for the node bound what is
//! written. What is wrong with an object that all nodes read is told by the node that speaks for all, whichever
//! that is; see [`crate::decide::State::is_first_node`].

mod ledger;
mod task;

use std::{fmt, sync::Arc};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::ObjectMeta;
use margay_api::endpoint::PodRef;
use tokio::sync::{
    mpsc::{Receiver, Sender, channel},
    watch,
};

use crate::{facts::Facts, metrics::Metrics};

pub(crate) use task::run;

/// Notices that may wait; more of them are dropped.
const QUEUE: usize = 1024;

/// Why an Event is there: what `kubectl get events` shows as its reason. `docs/operating.md` has them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Reason {
    pub(crate) word: &'static str,
    pub(crate) severity: Severity,
}

impl Reason {
    /// Of a warning, with a word that is not known before: the fault of a pool.
    pub(crate) const fn warning(word: &'static str) -> Self {
        Self { word, severity: Severity::Warning }
    }

    const fn normal(word: &'static str) -> Self {
        Self { word, severity: Severity::Normal }
    }

    /// The node has been without something that it needs for long.
    pub(crate) const NOT_READY: Self = Self::warning("MargayNotReady");
    /// It has it again.
    pub(crate) const READY: Self = Self::normal("MargayReady");
    /// nftables alone, where eBPF was to be.
    pub(crate) const DATAPLANE_FALLBACK: Self = Self::warning("DataplaneFallback");
    /// The maps of the eBPF dataplane cannot hold what is wanted.
    pub(crate) const SHORT_WAY_CLOSED: Self = Self::warning("ShortWayClosed");
    /// They hold it again.
    pub(crate) const SHORT_WAY_OPEN: Self = Self::normal("ShortWayOpen");
    /// The kernel refuses the table of nftables.
    pub(crate) const POLICY_NOT_PROGRAMMED: Self = Self::warning("PolicyNotProgrammed");
    /// Somebody changed the table of nftables.
    pub(crate) const TABLE_CHANGED: Self = Self::warning("TableChangedByOthers");
    /// Forwarding or the runtime's configuration cannot be written.
    pub(crate) const NODE_NOT_CONFIGURED: Self = Self::warning("NodeNotConfigured");
    /// Tunnels or routes to other nodes' pods cannot be made.
    pub(crate) const NO_WAY_TO_PODS: Self = Self::warning("NoWayToPods");
    /// There is no address that other nodes are to reach the node at.
    pub(crate) const NO_NODE_ADDRESS: Self = Self::warning("NoNodeAddress");
    /// What packets there are do not all pass to other nodes.
    pub(crate) const WAY_IMPAIRED: Self = Self::warning("WayImpaired");
    /// They do since the agent has changed something.
    pub(crate) const WAY_CORRECTED: Self = Self::warning("WayCorrected");
    /// The BGP speaker does not take its configuration.
    pub(crate) const BGP_NOT_CONFIGURED: Self = Self::warning("BGPNotConfigured");
    /// Something that this node's sessions follow is wrong.
    pub(crate) const PEERING_PROBLEM: Self = Self::warning("PeeringProblem");
    /// Settings of the cluster count from the agent's next start.
    pub(crate) const RESTART_NEEDED: Self = Self::warning("RestartNeeded");
    /// The node can give no more addresses.
    pub(crate) const ADDRESSES_EXHAUSTED: Self = Self::warning("AddressesExhausted");
    /// The endpoint records of running pods are gone.
    pub(crate) const RECORDS_LOST: Self = Self::warning("EndpointRecordsLost");
    /// The agent's role lacks a rule.
    pub(crate) const ACCESS_DENIED: Self = Self::warning("AccessDenied");
    /// A pod was not let talk in time.
    pub(crate) const POLICY_NOT_READY: Self = Self::warning("PolicyNotReady");
    /// A pod cannot have the addresses that it asks for.
    pub(crate) const ADDRESS_REFUSED: Self = Self::warning("AddressRefused");
    /// A pod has no address yet.
    pub(crate) const NO_ADDRESS: Self = Self::warning("NoAddress");
    /// Another node has a pod's addresses.
    pub(crate) const ADDRESS_CONFLICT: Self = Self::warning("AddressConflict");
    /// An object, or a part of it, cannot be read.
    pub(crate) const NOT_READ: Self = Self::warning("InvalidObject");
    /// The same of a policy, of which that part fails closed.
    pub(crate) const POLICY_NOT_READ: Self = Self::warning("InvalidPolicy");
}

/// What `kubectl get events` shows as the type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    Normal,
    Warning,
}

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum About {
    /// The node that the agent runs on.
    OwnNode,
    Object(Object),
}

/// An object of the API.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Object {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    /// Empty for what is in none.
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// Empty where it is not known.
    pub(crate) uid: String,
}

impl Object {
    /// An object of a kind.
    pub(crate) fn of<K: kube::Resource<DynamicType = ()>>(meta: &ObjectMeta) -> Self {
        Self {
            api_version: K::api_version(&()).into_owned(),
            kind: K::kind(&()).into_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            uid: meta.uid.clone().unwrap_or_default(),
        }
    }

    /// A pod.
    pub(crate) fn pod(pod: &PodRef) -> Self {
        Self {
            api_version: "v1".into(),
            kind: "Pod".into(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
            uid: pod.uid.clone().unwrap_or_default(),
        }
    }

    fn reference(&self) -> ObjectReference {
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        ObjectReference {
            api_version: given(&self.api_version),
            kind: given(&self.kind),
            namespace: given(&self.namespace),
            name: given(&self.name),
            uid: given(&self.uid),
            ..ObjectReference::default()
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        if namespace.is_empty() { write!(f, "{kind} {name}") } else { write!(f, "{kind} {namespace}/{name}") }
    }
}

/// Something that a user must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) about: About,
    pub(crate) reason: Reason,
    pub(crate) note: String,
}

/// What the task hears.
#[derive(Debug)]
enum Message {
    /// Of this node: told.
    Notice(Notice),
    /// What is wrong with an object that all nodes read, all of it; nothing once it is gone or mended.
    Standing(Object, Reason, Vec<String>),
}

/// The way to the task; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Notices {
    queue: Sender<Message>,
    metrics: Arc<Metrics>,
}

impl Notices {
    /// Something that concerns the own node.
    pub(crate) fn of_node(&self, reason: Reason, note: impl Into<String>) {
        self.send(Message::Notice(Notice { about: About::OwnNode, reason, note: note.into() }));
    }

    /// Something that this node knows of an object.
    pub(crate) fn of(&self, object: Object, reason: Reason, note: impl Into<String>) {
        self.send(Message::Notice(Notice { about: About::Object(object), reason, note: note.into() }));
    }

    /// What is wrong with an object that all nodes read, all of it.
    pub(crate) fn standing(&self, object: Object, reason: Reason, notes: Vec<String>) {
        self.send(Message::Standing(object, reason, notes));
    }

    /// The metrics of whoever tells.
    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The same, to keep.
    pub(crate) fn shared_metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    fn send(&self, message: Message) {
        if self.queue.try_send(message).is_err() {
            self.metrics.notices_dropped.inc();
        }
    }
}

/// The two ends of the queue.
pub(crate) fn queue(metrics: &Arc<Metrics>) -> (Notices, Inbox) {
    let (queue, inbox) = channel(QUEUE);
    (Notices { queue, metrics: Arc::clone(metrics) }, Inbox(inbox))
}

/// The task's end.
pub(crate) struct Inbox(Receiver<Message>);

/// What the core tells the task.
pub(crate) type Told = watch::Receiver<Facts>;

#[cfg(test)]
mod tests {
    #[test]
    fn each_reason_of_an_event_is_explained_to_operators() {
        let docs = include_str!("../../../docs/operating.md");
        let source = include_str!("mod.rs");
        let of = |severity| source.split(severity).skip(1).filter_map(|rest| rest.split('"').next());
        let words: Vec<&str> =
            of(concat!("Self::", "warning(\"")).chain(of(concat!("Self::", "normal(\""))).collect();
        assert!(words.contains(&"MargayNotReady") && words.contains(&"MargayReady"), "{words:?}");
        for word in words {
            assert!(docs.contains(&format!("`{word}`")), "docs/operating.md does not name {word}");
        }
    }
}
