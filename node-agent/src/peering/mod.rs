//! Whom this node speaks BGP with, and what it tells them.
//!
//! ```text
//!   core --Topology (nodes, own blocks)-----------------> task: state -> speaker, services (pure)
//!   watch/bgp_configuration, bgp_peer --Message--------->   |  starts and ends the watches of Secrets and Services
//!   watch/secret, service, endpoint_slice --Message----->   v
//!                                   program/bgp (margay-bgp) <--Plan--+--> program/bgp_status (BGPNodeStatus)
//! ```
//! A task beside the core has the objects, so that none of them ever keeps policy waiting. The speaker is given nothing
//! before all that decides about its sessions was listed: an agent that comes back must not end those that are there.
//! What is wrong with an object costs what it says and nothing else, and is told in the log and in the node's status; a `BGPPeer` is as it
//! was before, if it was right.
//! Services are watched only where their addresses are announced, and Secrets only by the names that sessions of this
//! node ask for.

mod in_force;
mod services;
mod speaker;
mod task;

use std::sync::Arc;

use kube::Client;
use margay_api::paths;
use margay_bgp::config::Config;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    config::Settings,
    core::Event,
    decide::Topology,
    facts::Facts,
    notice::Notices,
    program::{bgp, bgp_status},
    watch::{
        self as watches, Change, ConfigurationFacts, PeerFacts, SecretFacts, ServiceFacts, ServiceName,
        SliceFacts,
    },
};

/// Messages that may wait; a sender of more waits too.
const QUEUE: usize = 1024;

/// What the task hears from the API server.
#[derive(Debug)]
pub(crate) enum Message {
    Configurations(Change<String, ConfigurationFacts>),
    Peers(Change<String, PeerFacts>),
    /// About the one Secret of this name.
    Secret(String, Change<String, SecretFacts>),
    Services(Change<ServiceName, ServiceFacts>),
    Slices(Change<ServiceName, SliceFacts>),
}

/// What the speaker is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) config: Arc<Config>,
    /// What is wrong with the objects that this node follows.
    pub(crate) problems: Vec<String>,
    /// `metadata.uid` of the own node.
    pub(crate) node_uid: String,
}

/// Starts the tasks that peering takes.
pub(crate) fn start(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    settings: &Settings,
    client: &Client,
    topology: watch::Receiver<Option<Arc<Topology>>>,
    events: &mpsc::Sender<Event>,
    notices: &Notices,
    facts: watch::Receiver<Facts>,
) {
    let (messages, inbox) = mpsc::channel(QUEUE);
    let (plans, planned) = watch::channel(None);
    let (sightings, seen) = watch::channel(bgp::Sighting::NotYet);
    watches::start_peering(tasks, client, &messages, notices);
    let watcher = task::Watcher::new(client.clone(), settings.node_name.clone(), messages, notices.clone());
    tasks.spawn(task::run(settings.bgp.clone(), watcher, inbox, topology, facts, plans));
    let socket = settings.run_dir.join(paths::BGP_SOCKET);
    tasks.spawn(bgp::run(socket, planned.clone(), sightings, events.clone(), notices.shared_metrics()));
    tasks.spawn(bgp_status::run(client.clone(), settings.node_name.clone(), planned, seen));
}
