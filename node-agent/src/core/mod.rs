//! The core: one task that owns the state, decides, and has the drivers make it so.
//!
//! Events are taken in batches: whatever has come by the time the last batch is in the kernel makes the next one, so
//! a burst costs a few transactions, and a single change goes out at once.

mod call;
mod event;
mod look;
mod node;
mod report;
mod start;
mod write;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use ipnetwork::IpNetwork;
use margay_api::{endpoint::Records, paths};
use margay_ipam::Store;
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::warn;

use self::{call::Waiting, look::Look, node::Setup, report::tell_addresses};
pub(crate) use self::{event::Event, start::run};
use crate::{
    addresses::{self, Asking, ClaimedBlocks},
    config::Settings,
    decide::{Announcement, Decider, Doubles, Paths, Peers, State, Topology, Wanted},
    facts::Facts,
    log::Log,
    metrics::Metrics,
    news::tell,
    notice::{Notices, Reason},
    observe::{self, Asked, AskedFlows, Tally},
    pace::Pace,
    program::{ebpf::ShortWay, network_condition::Network, nft::Driver, overlay, takedown::Takedowns},
    readiness::Readiness,
    serve::http::Shared,
    watch::{ApiEvent, NETWORK_CONFIG},
};

/// Events that may wait; a sender of more waits too.
const QUEUE: usize = 4096;
/// How long a failed transaction waits before the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// What the core has of the task of mode `pool`.
struct Pools {
    asks: mpsc::Sender<addresses::Message>,
    claimed: ClaimedBlocks,
}

struct Core {
    settings: Settings,
    /// The same, for the tasks that follow it.
    followed: watch::Sender<Settings>,
    log: Log,
    metrics: Arc<Metrics>,
    shared: Shared,
    topology: watch::Sender<Option<Arc<Topology>>>,
    paths: watch::Sender<Option<Arc<Paths>>>,
    peers: watch::Sender<Option<Arc<Peers>>>,
    state: State,
    decider: Decider,
    nft: Driver,
    /// What goes round that table.
    short_way: ShortWay,
    records: Records,
    store: Store,
    /// What the kernel holds; `None` before the first transaction.
    programmed: Option<Arc<Wanted>>,
    node: Setup,
    /// Something has changed since the last attempt.
    changed: Changed,
    pace: Pace,
    /// A node has changed since its addresses were compared with those of others.
    nodes_changed: bool,
    doubles: Doubles,
    retry: Option<Instant>,
    last_error: Option<String>,
    waiting: Vec<Waiting>,
    takedowns: Takedowns,
    announcements: mpsc::Sender<Announcement>,
    /// Addresses whose connections may be forbidden and were not looked at yet.
    doubtful: BTreeSet<IpAddr>,
    connections: mpsc::Sender<BTreeSet<IpAddr>>,
    tally: Tally,
    /// The namespaces whose drops are to be logged.
    logging: watch::Sender<BTreeSet<String>>,
    look: Look,
    events: mpsc::Sender<Event>,
    asking: Asking,
    /// `None` where blocks come with the Node object.
    pools: Option<Pools>,
    facts: watch::Sender<Facts>,
    notices: Notices,
    readiness: Readiness,
    /// Blocks that another node has come to have, with whom, and whose pods here were not told of it yet.
    conflicts: BTreeMap<IpNetwork, String>,
}

/// Whether something has changed that is not written yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    No,
    Yes,
    /// And somebody waits for it.
    Urgently,
}

impl Changed {
    /// Something has, or has not.
    fn note(&mut self, changed: bool) {
        *self = (*self).max(if changed { Self::Yes } else { Self::No });
    }
}

/// The ways to the tasks that do what the core wants done.
struct Links {
    topology: watch::Sender<Option<Arc<Topology>>>,
    paths: watch::Sender<Option<Arc<Paths>>>,
    peers: watch::Sender<Option<Arc<Peers>>>,
    takedowns: Takedowns,
    announcements: mpsc::Sender<Announcement>,
    connections: mpsc::Sender<BTreeSet<IpAddr>>,
    logging: watch::Sender<BTreeSet<String>>,
    pools: Option<Pools>,
    short_way: ShortWay,
    facts: watch::Sender<Facts>,
    network: watch::Sender<Option<Network>>,
    notices: Notices,
    followed: watch::Sender<Settings>,
    log: Log,
}

impl Core {
    fn new(
        settings: Settings,
        metrics: Arc<Metrics>,
        shared: Shared,
        links: Links,
        events: mpsc::Sender<Event>,
    ) -> Self {
        let Links {
            topology,
            paths,
            peers,
            takedowns,
            announcements,
            connections,
            logging,
            pools,
            short_way,
            facts,
            network,
            notices,
            followed,
            log,
        } = links;
        let mut state = State::new(settings.node_name.clone());
        if pools.is_some() {
            state.await_claimed();
        }
        Self {
            state,
            decider: Decider::default(),
            nft: Driver::new(),
            short_way,
            records: Records::below(&settings.run_dir),
            store: Store::new(&settings.state_dir.join(paths::IPAM)),
            programmed: None,
            node: Setup::new(&settings),
            changed: Changed::Urgently,
            pace: Pace::new(Instant::now()),
            nodes_changed: false,
            doubles: Doubles::default(),
            retry: None,
            last_error: None,
            waiting: Vec::new(),
            takedowns,
            announcements,
            doubtful: BTreeSet::new(),
            connections,
            tally: Tally::new(&metrics),
            logging,
            look: Look::Idle,
            events,
            asking: Asking::new(pools.as_ref().map(|pools| pools.asks.clone()), notices.clone()),
            readiness: Readiness::new(settings.unready, network, notices.clone()),
            conflicts: BTreeMap::new(),
            facts,
            notices,
            pools,
            settings,
            followed,
            log,
            metrics,
            shared,
            topology,
            paths,
            peers,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let mut reconcile = interval(self.settings.reconcile);
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let next = self
                .waiting
                .iter()
                .map(|waiting| waiting.until)
                .chain(self.retry)
                .chain(self.due())
                .chain(self.asking.next())
                .min();
            let (event, is_tick) = tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => (Some(event), false),
                    None => return Ok(()),
                },
                _ = reconcile.tick() => (None, true),
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => (None, false),
            };
            // The disk and the kernel are waited for: tasks of the same thread, as those that answer `/livez`, go on in another.
            block_in_place(|| {
                let more = iter::from_fn(|| inbox.try_recv().ok()).take(QUEUE);
                self.step(event.into_iter().chain(more), is_tick);
            });
        }
    }

    /// Takes what has come, and has the kernel follow.
    fn step(&mut self, events: impl Iterator<Item = Event>, is_tick: bool) {
        let mut drifted = is_tick;
        for event in events {
            drifted |= self.hear(event);
        }
        // An address does not wait for policy.
        self.asking.serve(&self.state, &self.node.blocks);
        if drifted {
            self.reconcile();
        }
        if self.due().into_iter().chain(self.retry).any(|due| due <= Instant::now()) {
            self.program();
        }
        self.answer();
        self.tell_conflicts();
        self.tell_doubles();
        self.publish();
    }

    /// When what has changed is to be written, if anything has: at once, if somebody waits for it.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let at_once =
            self.changed == Changed::Urgently || !self.waiting.is_empty() || self.programmed.is_none();
        let due = if at_once { now } else { self.pace.next(now) };
        (self.changed != Changed::No).then_some(due)
    }

    /// Takes an event; true when the kernel is to be looked at.
    fn hear(&mut self, event: Event) -> bool {
        match event {
            Event::Api(event) => {
                let is_node = matches!(event, ApiEvent::Nodes(_));
                let is_namespace = matches!(event, ApiEvent::Namespaces(_));
                let changed = self.state.apply(event);
                if is_namespace {
                    self.tell_observer();
                }
                self.node.changed |= is_node && changed;
                self.nodes_changed |= is_node && changed;
                self.changed.note(changed);
                if is_node {
                    self.tell_facts();
                }
            }
            Event::Claimed(claimed) => {
                let (holders, traffic) = (Arc::clone(&claimed.holders), Arc::clone(&claimed.traffic));
                let changed = self.state.set_claimed(claimed.blocks.clone(), holders, traffic);
                self.changed.note(changed);
                if let Some(pools) = &mut self.pools {
                    // What other nodes claim is nothing that this one is configured by.
                    let is_ours = pools.claimed.blocks != claimed.blocks
                        || pools.claimed.missing.is_some() != claimed.missing.is_some()
                        || pools.claimed.traffic != claimed.traffic;
                    self.node.changed |= is_ours;
                    self.changed.note(is_ours);
                    tell_addresses(&self.notices, &pools.claimed, &claimed);
                    let known = &pools.claimed.conflicts;
                    let news = claimed.conflicts.iter().filter(|(block, _)| !known.contains_key(*block));
                    self.conflicts.extend(news.map(|(block, node)| (*block, node.clone())));
                    pools.claimed = claimed;
                }
            }
            Event::Bgp(outcome) => {
                if let Err(error) = &outcome {
                    self.notices.of_node(Reason::BGP_NOT_CONFIGURED, error);
                }
                self.node.bgp = outcome;
                self.node.changed = true;
                // The runtime may be told of the node only once its routes are announced.
                self.changed.note(true);
            }
            Event::Overlay(overlay::Told { ways, overhead }) => {
                if let Err(error) = &ways {
                    self.notices.of_node(Reason::NO_WAY_TO_PODS, error);
                }
                (self.node.overlay, self.node.tunnels_take) = (ways, overhead);
                self.node.changed = true;
                // Nor before there is a way to the pods of others.
                self.changed.note(true);
            }
            Event::NodeAddress(outcome) => {
                self.node.node_address = outcome;
                self.node.changed = true;
                // Nor before others find the way back.
                self.changed.note(true);
            }
            Event::Mtu => {
                self.node.changed = true;
                self.changed.note(true);
            }
            Event::Drift(losses) => return losses.iter().any(|loss| self.concerns_us(loss)),
            Event::Takedown(progress) => self.takedowns.note(progress),
            Event::Looked(looked) => self.looked(looked),
            Event::TableTouched(ports) => {
                if !self.nft.heed(&ports) {
                    self.mend_table();
                }
            }
            Event::TableMissed => {
                if !self.nft.heed_missed() {
                    warn!("somebody may have changed the table inet margay; it is written anew");
                    self.metrics.repaired.inc();
                    self.changed = Changed::Urgently;
                }
            }
            Event::Plugin(call) => self.call(call),
            Event::Settings(settings) => self.follow(*settings),
            Event::Attached(attachments) => {
                self.short_way.attached(attachments);
                self.changed.note(true);
            }
            Event::Observed(Asked { seen, answer }) => {
                // A task that has ended takes no more notice.
                drop(answer.send(observe::named(&self.state, self.decider.compiler(), seen)));
            }
            Event::Begun(AskedFlows { flows, answer }) => {
                // Nor does that one.
                drop(answer.send(observe::named_flows(&self.state, self.decider.compiler(), &flows)));
            }
            Event::Tell { flags, answer } => drop(answer.send(self.short_way.tell(flags))),
            Event::Count(answer) => {
                self.count_drops();
                self.short_way.count(&self.metrics, answer);
            }
            Event::Connections { found, answer } => {
                // A task that has ended takes no more notice.
                drop(answer.send(self.forbidden(found)));
            }
        }
        false
    }

    /// Takes what all nodes have in common from now on.
    fn follow(&mut self, settings: Settings) {
        let later = self.settings.follow(settings);
        if let Err(error) = self.log.set_level(&self.settings.log_level) {
            warn!("{error:#}; the log stays as it is");
        }
        self.metrics.restart_needed.set(i64::from(!later.is_empty()));
        if !later.is_empty() {
            let note = format!(
                "NetworkConfig {NETWORK_CONFIG} has another `{}` than this agent was started with, which counts from its next \
                 start: kubectl -n kube-system rollout restart daemonset/margay",
                later.join("` and `")
            );
            warn!("{note}");
            self.notices.of_node(Reason::RESTART_NEEDED, note);
        }
        self.state.look_at_ways_again();
        self.node.changed = true;
        self.changed.note(true);
    }

    /// Tells the tasks that need it what has changed of the nodes.
    fn tell_facts(&self) {
        let node = self.state.own_node().and_then(|node| node.identity.as_deref().cloned());
        let facts = Facts { node, speaks: self.state.is_first_node() };
        tell(&self.facts, facts);
    }

    /// Tells the task that logs drops for which namespaces it does.
    fn tell_observer(&self) {
        tell(&self.logging, self.state.logging_namespaces());
    }
}
