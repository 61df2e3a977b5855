//! The task that owns the objects of peering.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::Context;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};
use tracing::{info, warn};

use super::{
    Message, Plan, QUEUE,
    in_force::in_force,
    services::{self, Balancing},
    speaker::{self, Known},
};
use crate::{
    conditions::{Conditions, Named},
    config::Bgp,
    decide::Topology,
    facts::Facts,
    notice::{Notices, Reason},
    watch::{
        self as watches, Change, ConfigurationFacts, PeerFacts, SecretFacts, ServiceFacts, ServiceName,
        ServiceRanges, SliceFacts,
    },
};

/// Plans for ever.
pub(super) async fn run(
    settings: Bgp,
    watcher: Watcher,
    mut inbox: mpsc::Receiver<Message>,
    mut topology: watch::Receiver<Option<Arc<Topology>>>,
    mut facts: watch::Receiver<Facts>,
    plans: watch::Sender<Option<Plan>>,
) -> anyhow::Result<()> {
    let mut task =
        Task { settings, watcher, objects: Objects::default(), plans, conditions: Conditions::default() };
    let mut next = None;
    loop {
        tokio::select! {
            message = inbox.recv() => match message {
                Some(message) => task.objects.note(message),
                None => return Ok(()),
            },
            changed = topology.changed() => if changed.is_err() { return Ok(()) },
            changed = facts.changed() => if changed.is_err() { return Ok(()) },
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            ended = task.watcher.ended() => return ended,
        }
        for _ in 0..QUEUE {
            let Ok(message) = inbox.try_recv() else { break };
            task.objects.note(message);
        }
        let topology = topology.borrow_and_update().clone();
        if let Some(topology) = topology {
            task.plan(&topology);
        }
        next = if facts.borrow_and_update().speaks { task.write_conditions() } else { None };
    }
}

struct Task {
    settings: Bgp,
    watcher: Watcher,
    objects: Objects,
    plans: watch::Sender<Option<Plan>>,
    conditions: Conditions,
}

/// What the API server has said.
#[derive(Debug, Default)]
struct Objects {
    /// `None` before the first listing, here and below.
    configuration: Option<BTreeMap<String, ConfigurationFacts>>,
    peers: Option<BTreeMap<String, PeerFacts>>,
    /// Those as they count.
    peers_in_force: BTreeMap<String, PeerFacts>,
    /// Those that are watched and were listed, whether they are there or not.
    secrets: BTreeMap<String, Option<SecretFacts>>,
    services: Option<BTreeMap<ServiceName, ServiceFacts>>,
    slices: Option<BTreeMap<ServiceName, SliceFacts>>,
}

impl Objects {
    fn note(&mut self, message: Message) {
        match message {
            Message::Configurations(change) => take(&mut self.configuration, change),
            Message::Peers(change) => {
                take(&mut self.peers, change);
                if let Some(peers) = &self.peers {
                    self.peers_in_force = in_force(&self.peers_in_force, peers);
                }
            }
            Message::Secret(name, change) => {
                let mut all: BTreeMap<String, SecretFacts> = BTreeMap::new();
                change.changes(&mut all);
                let facts = all.remove(&name);
                self.secrets.insert(name, facts);
            }
            Message::Services(change) => take(&mut self.services, change),
            Message::Slices(change) => take(&mut self.slices, change),
        }
    }
}

/// A watch says first what there is.
fn take<K: Ord + Clone, V: PartialEq>(map: &mut Option<BTreeMap<K, V>>, change: Change<K, V>) {
    change.changes(map.get_or_insert_default());
}

impl Task {
    /// Writes what is wrong with objects on them; says when to come again.
    fn write_conditions(&mut self) -> Option<Instant> {
        let Objects { configuration: Some(configurations), peers: Some(peers), .. } = &self.objects else {
            return None;
        };
        let configurations = configurations
            .iter()
            .map(|(name, facts)| (Named::Configuration(name.clone()), &facts.told, &facts.problems[..]));
        let peers =
            peers.iter().map(|(name, facts)| (Named::Peer(name.clone()), &facts.told, &facts.problems[..]));
        let (now, wall) = (Instant::now(), Timestamp::now());
        self.conditions.write(&self.watcher.client, configurations.chain(peers), now, wall)
    }

    /// Has watched what is needed, and decides if all of it was listed.
    fn plan(&mut self, topology: &Topology) {
        let (Some(configurations), Some(_)) = (&self.objects.configuration, &self.objects.peers) else {
            return;
        };
        let peers = &self.objects.peers_in_force;
        let none = ConfigurationFacts::default();
        let configuration = configurations.values().next().unwrap_or(&none);
        let wanted = speaker::secrets(topology, peers);
        let wants_services = !configuration.services.is_empty();
        self.watcher.watch(&wanted, wants_services);
        self.objects.secrets.retain(|name, _| wanted.contains(name));
        if !wants_services {
            (self.objects.services, self.objects.slices) = (None, None);
        }
        let is_complete = wanted.iter().all(|name| self.objects.secrets.contains_key(name))
            && (!wants_services || (self.objects.services.is_some() && self.objects.slices.is_some()));
        // Later, what is new waits, and what is there goes on.
        if !is_complete && self.plans.borrow().is_none() {
            return;
        }
        let known = Known {
            settings: &self.settings,
            topology,
            configuration,
            peers,
            secrets: &self.objects.secrets,
            services: self.announced(topology, &configuration.services),
        };
        let Some(outcome) = speaker::speaker(&known) else { return };
        let before = self.plans.borrow().clone();
        let config = match &before {
            Some(before) if *before.config == outcome.config => Arc::clone(&before.config),
            _ => Arc::new(outcome.config),
        };
        let plan = Plan { config, problems: outcome.problems, node_uid: topology.uid.clone() };
        let known = before.as_ref().map(|before| before.problems.clone()).unwrap_or_default();
        for problem in plan.problems.iter().filter(|problem| !known.contains(problem)) {
            warn!("{problem}");
            self.watcher.notices.of_node(Reason::PEERING_PROBLEM, problem);
        }
        for problem in known.iter().filter(|problem| !plan.problems.contains(problem)) {
            info!("no longer so: {problem}");
        }
        if before.as_ref() != Some(&plan) {
            self.plans.send_replace(Some(plan));
        }
    }

    fn announced(&self, topology: &Topology, ranges: &ServiceRanges) -> BTreeSet<margay_bgp::Prefix> {
        let (Some(services), Some(slices)) = (&self.objects.services, &self.objects.slices) else {
            // The ranges of cluster IPs do not depend on any Service.
            return ranges.cluster.iter().copied().collect();
        };
        let balancing = if topology.own.facts.is_excluded { Balancing::Excluded } else { Balancing::Takes };
        services::announced(ranges, balancing, services, slices)
    }
}

/// The watches that not every cluster needs. Dropped, they end.
pub(super) struct Watcher {
    client: Client,
    node_name: String,
    messages: mpsc::Sender<Message>,
    notices: Notices,
    services: JoinSet<anyhow::Result<()>>,
    secrets: BTreeMap<String, JoinSet<anyhow::Result<()>>>,
}

impl Watcher {
    pub(super) fn new(
        client: Client,
        node_name: String,
        messages: mpsc::Sender<Message>,
        notices: Notices,
    ) -> Self {
        let (services, secrets) = (JoinSet::new(), BTreeMap::new());
        Self { client, node_name, messages, notices, services, secrets }
    }

    /// Has these watches, and no others.
    fn watch(&mut self, secrets: &BTreeSet<String>, wants_services: bool) {
        let Self { client, node_name, messages, notices, .. } = self;
        match (wants_services, self.services.is_empty()) {
            (true, true) => watches::start_services(&mut self.services, client, node_name, messages, notices),
            (false, false) => self.services = JoinSet::new(),
            _ => {}
        }
        self.secrets.retain(|name, _| secrets.contains(name));
        for name in secrets {
            self.secrets.entry(name.clone()).or_insert_with(|| {
                let mut tasks = JoinSet::new();
                watches::start_secret(&mut tasks, client, name, messages, notices);
                tasks
            });
        }
    }

    /// Waits for one of them to end, which none does by itself.
    async fn ended(&mut self) -> anyhow::Result<()> {
        let services = async {
            match self.services.join_next().await {
                Some(ended) => ended,
                None => std::future::pending().await,
            }
        };
        let secrets = async {
            let all = self.secrets.values_mut().map(|tasks| Box::pin(tasks.join_next()));
            let all: Vec<_> = all.collect();
            if all.is_empty() {
                return std::future::pending().await;
            }
            match futures::future::select_all(all).await.0 {
                Some(ended) => ended,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = services => ended,
            ended = secrets => ended,
        };
        ended.context("a watch of peering")?
    }
}
