//! A hollow kubelet: everything a kubelet does for a pod's network, with small servers in place of containers.
//!
//! ```text
//!  watch of the node's pods --> one worker a pod --> sandbox (namespace, CNI ADD, servers) --> status, events
//! ```
//! A worker sees only the newest state of its pod, and works until the pod is gone.

mod events;
mod node_status;
mod sandbox;
mod status;
mod worker;

pub(crate) use node_status::{NodeObject, Registered, create_node, delete_node, keep_ready};
pub(crate) use sandbox::{ADDRESSES, ports};
pub(crate) use status::finished as finished_status;
pub(crate) use worker::LINGER;

use crate::cni::Runtime;
use crate::machine::Machine;
use crate::pods::Pods;
use crate::station::Station;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the workers of a node share.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) node: String,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) machine: Arc<Machine>,
    /// The node's own network, for pods with hostNetwork.
    pub(crate) station: Arc<Station>,
    pub(crate) runtime: Runtime,
    pub(crate) pods: Pods,
}

/// What a worker knows of its pod.
#[derive(Debug, Clone)]
enum Seen {
    There(Arc<Pod>),
    Gone,
}

/// Takes care of the node's pods for ever.
pub(crate) async fn run(context: Arc<Context>, client: Client) {
    let api: Api<Pod> = Api::all(client.clone());
    let own = watcher::Config::default().fields(&format!("spec.nodeName={}", context.node));
    let mut events = std::pin::pin!(watcher::watcher(api, own).default_backoff());
    let mut workers: BTreeMap<String, watch::Sender<Seen>> = BTreeMap::new();
    let mut listed = BTreeSet::new();
    let mut tasks = JoinSet::new();
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            Some(_ended) = tasks.join_next() => continue,
        };
        match event {
            Some(Ok(Event::Init)) => listed.clear(),
            Some(Ok(Event::InitApply(pod) | Event::Apply(pod))) => {
                let uid = pod.uid().unwrap_or_default();
                listed.insert(uid.clone());
                let seen = Seen::There(Arc::new(pod));
                if let Some(worker) = workers.get(&uid).filter(|worker| !worker.is_closed()) {
                    worker.send_replace(seen);
                } else {
                    let (tell, sees) = watch::channel(seen);
                    tasks.spawn(worker::run(Arc::clone(&context), client.clone(), sees));
                    workers.insert(uid, tell);
                }
            }
            Some(Ok(Event::InitDone)) => {
                workers.retain(|uid, worker| {
                    let there = listed.contains(uid);
                    if !there {
                        worker.send_replace(Seen::Gone);
                    }
                    there
                });
            }
            Some(Ok(Event::Delete(pod))) => {
                if let Some(worker) = workers.remove(&pod.uid().unwrap_or_default()) {
                    worker.send_replace(Seen::Gone);
                }
            }
            // The watcher recovers by itself.
            Some(Err(error)) => tracing::debug!(%error, node = context.node, "watch pods"),
            None => return,
        }
    }
}
