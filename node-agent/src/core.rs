//! The core: one task that owns the state, decides, and has the drivers make it so.
//!
//! Events are taken in batches: whatever has come by the time the last batch is in the kernel makes the next one, so
//! a burst costs a few transactions, and a single change goes out at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use ipnetwork::IpNetwork;
use kube::{
    Client,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use margay_api::{
    agent::{Request, Response},
    endpoint::{Endpoint, EndpointId, Records},
    paths,
    pools::Snapshot,
};
use margay_ipam::{Owner, Store};
use margay_netlink::{conntrack::Connection, link::Mtu};
use margay_policy::{
    PolicyId,
    compile::{Changes, Tightened},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, mpsc::error::TrySendError, oneshot, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tower::util::MapRequestLayer;
use tracing::{error, info, warn};

use crate::{
    addresses::{self, Asking, ClaimedBlocks},
    config::{IpamMode, Settings, Sources},
    decide::{Announcement, Decider, Decision, Doubles, Paths, Peers, State, Topology, Wanted},
    facts::Facts,
    freshness::of_the_newest,
    log::Log,
    metrics::{Metrics, Outcome},
    network_config::{self, Start},
    news::tell,
    node_address,
    notice::{self, Notices, Object, Reason},
    observe::{self, Asked, AskedFlows, Tally},
    pace::Pace,
    peering,
    program::{
        announce, cni,
        connections::{self, Found},
        ebpf::{Attachments, ShortWay},
        endpoint, leak,
        network_condition::{self, Condition, Network},
        nft::Driver,
        overlay,
        pod_mtu::Shrinking,
        sysctl,
        takedown::{Progress, Takedowns},
        uplink::ETHERNET,
    },
    readiness::Readiness,
    serve::{
        http::{self, Shared, Startup},
        plugin::{self, Call, Monitors},
    },
    watch::{
        self as watches, ApiEvent, NETWORK_CONFIG,
        drift::{self, Loss},
    },
    ways,
};

/// Events that may wait; a sender of more waits too.
const QUEUE: usize = 4096;
/// How long a failed transaction waits before the next attempt.
const RETRY: Duration = Duration::from_secs(1);
/// How long an ADD may wait for its pod before it is told why it waits; below the plugin's own patience.
const PATIENCE: Duration = Duration::from_secs(25);

/// What is said of others at the table.
const TABLE_CHANGED: &str = "somebody flushed or edited the table inet margay; it is written anew";

/// What is said of links without records.
const RECORDS_LOST: &str = "the endpoint records of running pods are lost: bring /run/margay back, or delete the pods of this \
                            node; until then they stay closed";

/// Counters that are asked for one by one; of more, all are listed at once.
const MOST_ASKED_BY_NAME: usize = 32;

/// What the core hears.
#[derive(Debug)]
pub(crate) enum Event {
    /// From the API server.
    Api(ApiEvent),
    /// From the plugin.
    Plugin(Call),
    /// Something in the kernel that may be ours was taken away.
    Drift(Vec<Loss>),
    /// An interface that is no pod's has another MTU, or may have.
    Mtu,
    /// A pod that is taken down has come further.
    Takedown(Progress),
    /// The look at the kernel's links and routes is over.
    Looked(Looked),
    /// Our table was changed by those with these netlink ports, of whom some may be ourselves.
    TableTouched(BTreeSet<u32>),
    /// Our table may have been changed, and nobody knows by whom.
    TableMissed,
    /// Whether the speaker has its configuration.
    Bgp(Result<(), String>),
    /// Whether the tunnels to other nodes are there, and what they take.
    Overlay(overlay::Told),
    /// Whether other nodes know where this one is.
    NodeAddress(Result<(), String>),
    /// The blocks that the node has claimed.
    Claimed(ClaimedBlocks),
    /// Packets that were dropped.
    Observed(Asked),
    /// Flows that began on the short way.
    Begun(AskedFlows),
    /// Somebody wants to hear of those, or nobody any more.
    Tell { tells: bool, answer: oneshot::Sender<Result<(), String>> },
    /// The metrics are to have what the kernel counts.
    Count(oneshot::Sender<()>),
    /// Which interfaces have the programs of the eBPF dataplane.
    Attached(Attachments),
    /// What all nodes have in common has changed.
    Settings(Box<Settings>),
    /// Connections of which some may be forbidden, and who ends those.
    Connections { found: Vec<Found>, answer: oneshot::Sender<Vec<Connection>> },
}

/// Runs the agent until a signal or a failure ends it. What it wrote stays in the kernel.
/// `own` is what its flags, environment and file come to, without what all nodes have in common.
pub(crate) async fn run(sources: Sources, own: Settings, mut log: Log) -> anyhow::Result<()> {
    std::fs::create_dir_all(&own.run_dir).with_context(|| format!("create {}", own.run_dir.display()))?;
    let metrics = Arc::new(Metrics::new());
    let client = client(&own).await?;
    let (events, inbox) = mpsc::channel(QUEUE);
    let shared = Shared::new(Arc::clone(&metrics), events.clone());
    let mut tasks = JoinSet::new();
    tasks.spawn(http::run(own.http_address, shared.clone()));
    let Start { settings, follower } = network_config::at_start(&client, sources, &own.state_dir).await?;
    log.set_level(&settings.log_level)?;
    let (topology, topology_known) = watch::channel(None);
    let (notices, noticed) = notice::queue(&metrics);
    let (facts, facts_known) = watch::channel(Facts::default());
    let listener = plugin::bind(&settings.run_dir.join(paths::AGENT_SOCKET))?;

    let (monitors, subscriptions) = mpsc::channel(QUEUE);
    let (logging, asked) = watch::channel(BTreeSet::new());
    tasks.spawn(observe::run(subscriptions, asked, events.clone()));
    let (flows, flows_asked) = mpsc::channel(QUEUE);
    tasks.spawn(plugin::run(listener, events.clone(), Monitors { drops: monitors, flows }));
    tasks.spawn(drift::run_table(events.clone()));
    if settings.bgp.enabled {
        peering::start(
            &mut tasks,
            &settings,
            &client,
            topology_known,
            &events,
            &notices,
            facts_known.clone(),
        );
    }
    let (paths, paths_known) = watch::channel(None);
    let (followed, to_follow) = watch::channel(settings.clone());
    follower.start(&mut tasks, &client, facts_known.clone(), &events, &notices);
    start_node_address(followed.subscribe(), &mut tasks, &client, facts_known.clone(), &events, &notices);
    watches::start(&mut tasks, &client, &settings.node_name, &events, &notices);
    let pools = start_pools(&settings, &mut tasks, &client, &events, facts_known.clone(), &notices)?;
    tasks.spawn(notice::run(
        client.clone(),
        settings.node_name.clone(),
        noticed,
        facts_known.clone(),
        Arc::clone(&metrics),
    ));
    let network = start_condition(&settings, &mut tasks, &client, &facts_known);
    let detour = start_condition(&settings, &mut tasks, &client, &facts_known);
    let peers = start_tests(followed.subscribe(), &mut tasks, &client, &facts_known, &notices);
    let mut short_way =
        ShortWay::start(&settings, &mut tasks, &events, flows_asked, &notices, detour).await?;
    info!(
        node = settings.node_name,
        version = env!("CARGO_PKG_VERSION"),
        dataplane = short_way.dataplane(),
        "margay-node runs"
    );
    if let Some(why) = short_way.refused() {
        let note = format!("nftables carries everything, as eBPF does not go here: {why}");
        notices.of_node(Reason::DATAPLANE_FALLBACK, note);
    }
    let follows = overlay::Follows { settings: to_follow, paths: paths_known, facts: facts_known };
    overlay::start(&mut tasks, &client, follows, short_way.take_tunnels(), &events, &metrics);
    let store = Store::new(&settings.state_dir.join(paths::IPAM));
    let (takedowns, sweeper) = Takedowns::new(settings.run_dir.clone(), store, events.clone());
    tasks.spawn(sweeper);
    tasks.spawn(drift::run(events.clone(), takedowns.pending()));
    let (announcements, announced) = mpsc::channel(announce::QUEUE);
    tasks.spawn(announce::run(client, announced));
    let (connections, doubts) = mpsc::channel(connections::QUEUE);
    tasks.spawn(connections::run(doubts, events.clone()));
    let links = Links {
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
    };
    let core = Core::new(settings, metrics, shared, links, events);
    tasks.spawn(core.run(inbox));

    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: pods keep their connections and their policy"),
        _ = interrupt.recv() => info!("SIGINT: pods keep their connections and their policy"),
        Some(ended) = tasks.join_next() => match ended {
            Ok(Ok(())) => anyhow::bail!("a task of the agent ended before its time"),
            Ok(Err(error)) => return Err(error),
            Err(panic) => return Err(panic).context("a task of the agent"),
        },
    }
    Ok(())
}

async fn client(settings: &Settings) -> anyhow::Result<Client> {
    let config = match &settings.kubeconfig {
        Some(path) => {
            let file =
                Kubeconfig::read_from(path).with_context(|| format!("read kubeconfig {}", path.display()))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("use kubeconfig {}", path.display()))?
        }
        None => kube::Config::incluster()
            .context("find the API server from the service account of this pod; or give --kubeconfig")?,
    };
    let builder = ClientBuilder::try_from(config).context("prepare the connection to the API server")?;
    Ok(builder.with_layer(&MapRequestLayer::new(of_the_newest)).build())
}

/// Starts the choice of the node's address, which follows what is sent to it.
fn start_node_address(
    settings: watch::Receiver<Settings>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    facts: watch::Receiver<Facts>,
    events: &mpsc::Sender<Event>,
    notices: &Notices,
) {
    tasks.spawn(node_address::run(settings, client.clone(), facts, events.clone(), notices.clone()));
}

/// Starts the tests of the ways to other nodes, which follow what is sent to it.
fn start_tests(
    settings: watch::Receiver<Settings>,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    facts: &watch::Receiver<Facts>,
    notices: &Notices,
) -> watch::Sender<Option<Arc<Peers>>> {
    let (peers, known) = watch::channel(None);
    let passage = start_condition(&settings.borrow(), tasks, client, facts);
    tasks.spawn(ways::run(settings, known, passage, notices.clone()));
    peers
}

/// Starts who keeps a condition of the own Node as is sent to it.
fn start_condition<C: Condition + 'static>(
    settings: &Settings,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    facts: &watch::Receiver<Facts>,
) -> watch::Sender<Option<C>> {
    let (said, known) = watch::channel(None);
    tasks.spawn(network_condition::run(client.clone(), settings.node_name.clone(), known, facts.clone()));
    said
}

/// What the core has of the task of mode `pool`.
struct Pools {
    asks: mpsc::Sender<addresses::Message>,
    claimed: ClaimedBlocks,
}

/// Starts that task, if the node's blocks come from pools.
fn start_pools(
    settings: &Settings,
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    events: &mpsc::Sender<Event>,
    facts: watch::Receiver<Facts>,
    notices: &Notices,
) -> anyhow::Result<Option<Pools>> {
    if settings.ipam.mode == IpamMode::PodCidr {
        Snapshot::remove(&settings.run_dir).context("remove what an agent in mode `pool` left")?;
        return Ok(None);
    }
    let (asks, inbox) = mpsc::channel(QUEUE);
    watches::start_pools(tasks, client, &asks, notices);
    tasks.spawn(addresses::run(
        settings.clone(),
        client.clone(),
        inbox,
        facts,
        events.clone(),
        notices.clone(),
    ));
    Ok(Some(Pools { asks, claimed: ClaimedBlocks::default() }))
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
    blocks: Vec<IpNetwork>,
    bgp: Result<(), String>,
    overlay: Result<(), String>,
    /// What the tunnels take of a packet that there are, wanted or not.
    tunnels_take: u32,
    node_address: Result<(), String>,
    /// Something has changed since the last attempt.
    changed: Changed,
    pace: Pace,
    /// What the node's own configuration follows has changed, or the last attempt to write it failed.
    node_changed: bool,
    /// A node has changed since its addresses were compared with those of others.
    nodes_changed: bool,
    doubles: Doubles,
    retry: Option<Instant>,
    /// What new pods get, as far as it was ever known.
    mtu: Option<Mtu>,
    shrinking: Shrinking,
    last_error: Option<String>,
    configured: bool,
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

/// What a look at links, routes and addresses has found and mended.
#[derive(Debug)]
pub(crate) struct Looked {
    repaired: anyhow::Result<usize>,
    reclaimed: anyhow::Result<leak::Reclaimed>,
}

/// The state of the look at links, routes and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Look {
    Idle,
    Running,
    /// Something was lost since it began.
    Again,
}

/// An ADD or CHECK that waits for its policy.
struct Waiting {
    endpoint: EndpointId,
    answer: oneshot::Sender<Response>,
    until: Instant,
    is_add: bool,
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
            blocks: Vec::new(),
            bgp: if settings.bgp.enabled {
                Err("the BGP speaker is not configured yet".into())
            } else {
                Ok(())
            },
            overlay: Err("the ways to other nodes are not made yet".into()),
            tunnels_take: 0,
            node_address: if settings.node_address.is_kubernetes() {
                Ok(())
            } else {
                Err("its address is not chosen yet".into())
            },
            changed: Changed::Urgently,
            pace: Pace::new(Instant::now()),
            node_changed: true,
            nodes_changed: false,
            doubles: Doubles::default(),
            retry: None,
            mtu: None,
            shrinking: Shrinking::default(),
            last_error: None,
            configured: false,
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
            let mut drifted = false;
            let next = self
                .waiting
                .iter()
                .map(|waiting| waiting.until)
                .chain(self.retry)
                .chain(self.due())
                .chain(self.asking.next())
                .min();
            tokio::select! {
                event = inbox.recv() => match event {
                    Some(event) => drifted |= self.hear(event),
                    None => return Ok(()),
                },
                _ = reconcile.tick() => drifted = true,
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            for _ in 0..QUEUE {
                let Ok(event) = inbox.try_recv() else { break };
                drifted |= self.hear(event);
            }
            // An address does not wait for policy.
            self.asking.serve(&self.state, &self.blocks);
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
                self.node_changed |= is_node && changed;
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
                    self.node_changed |= is_ours;
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
                self.bgp = outcome;
                self.node_changed = true;
                // The runtime may be told of the node only once its routes are announced.
                self.changed.note(true);
            }
            Event::Overlay(overlay::Told { ways, overhead }) => {
                if let Err(error) = &ways {
                    self.notices.of_node(Reason::NO_WAY_TO_PODS, error);
                }
                (self.overlay, self.tunnels_take) = (ways, overhead);
                self.node_changed = true;
                // Nor before there is a way to the pods of others.
                self.changed.note(true);
            }
            Event::NodeAddress(outcome) => {
                self.node_address = outcome;
                self.node_changed = true;
                // Nor before others find the way back.
                self.changed.note(true);
            }
            Event::Mtu => {
                self.node_changed = true;
                self.changed.note(true);
            }
            Event::Drift(losses) => return losses.iter().any(|loss| self.concerns_us(loss)),
            Event::Takedown(progress) => self.takedowns.note(progress),
            Event::Looked(looked) => self.note(looked),
            Event::TableTouched(ports) => {
                if !self.nft.heed(&ports) {
                    warn!("{TABLE_CHANGED}");
                    self.notices.of_node(Reason::TABLE_CHANGED, TABLE_CHANGED);
                    self.metrics.repaired.inc();
                    self.changed = Changed::Urgently;
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
            Event::Tell { tells, answer } => drop(answer.send(self.short_way.tell(tells))),
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
        self.node_changed = true;
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

    /// Counts what the kernel has counted since the last look.
    fn count_drops(&mut self) {
        // Before, the table is another agent's.
        if self.programmed.is_none() {
            return;
        }
        match self.nft.counters() {
            Ok(counters) => {
                let objects = self.state.objects();
                self.tally.take(&counters, Instant::now(), |policy| match policy {
                    PolicyId::Network(name) => objects.policies.contains_key(name),
                    PolicyId::Cluster(name) => objects.cluster_policies.contains_key(name),
                });
            }
            Err(error) => warn!(%error, "the counters of dropped packets cannot be read"),
        }
    }

    /// Reads the counters that go with these changes, or count for others from then on.
    fn count_last_drops(&mut self, changes: &Changes) {
        if self.programmed.is_none() {
            return;
        }
        let names: Vec<String> = Tally::concerned(changes).collect();
        if names.len() > MOST_ASKED_BY_NAME {
            return self.count_drops();
        }
        for name in names {
            match self.nft.counter(&name) {
                Ok(count) => self.tally.take_one(&name, count),
                Err(error) => warn!(%error, "a counter of dropped packets cannot be read"),
            }
        }
    }

    fn call(&mut self, call: Call) {
        let response = match call.request {
            Request::Addressing { pod, addresses } => {
                self.asking.push(pod, addresses, call.answer);
                return;
            }
            Request::EndpointAdded { endpoint } => match self.read(&endpoint) {
                Ok(()) => {
                    let until = Instant::now() + PATIENCE;
                    self.waiting.push(Waiting { endpoint, answer: call.answer, until, is_add: true });
                    return;
                }
                Err(reason) => Response::Refused { reason },
            },
            Request::TakeDown { container_id, ifname } => match Owner::new(&container_id, &ifname) {
                Ok(owner) => {
                    let id = EndpointId::of(&container_id, &ifname);
                    match self.read(&id) {
                        Ok(()) if self.state.endpoint(&id).is_none() => {
                            self.takedowns.begin(owner, call.answer);
                            return;
                        }
                        // The plugin has given up meanwhile, and come back.
                        Ok(()) => Response::Refused { reason: format!("endpoint {id} was added again") },
                        Err(reason) => Response::Refused { reason },
                    }
                }
                Err(error) => Response::Refused { reason: error.to_string() },
            },
            // Answered when what has come in with it is in the kernel.
            Request::EndpointCheck { endpoint } => {
                let until = Instant::now();
                self.waiting.push(Waiting { endpoint, answer: call.answer, until, is_add: false });
                return;
            }
            // Never comes here: its connection is the observer's.
            Request::Monitor { .. } | Request::Flows { .. } => {
                Response::Refused { reason: "nothing to tell".into() }
            }
            Request::Status => {
                let mut missing = self.missing();
                missing.extend(self.pools.as_ref().and_then(|pools| pools.claimed.full.clone()));
                if missing.is_empty() {
                    Response::Done
                } else if self.stale().is_empty() {
                    Response::Refused { reason: missing.join("; ") }
                } else {
                    Response::Degraded { reason: missing.join("; ") }
                }
            }
        };
        // A plugin that has given up does not hear the answer.
        drop(call.answer.send(response));
    }

    /// Whether something is lost that should be there.
    fn concerns_us(&self, loss: &Loss) -> bool {
        match loss {
            Loss::Link(id) => self.state.endpoint(id).is_some(),
            Loss::Address(address) => {
                self.state.endpoints().any(|(_, endpoint)| endpoint.addresses.contains(address))
            }
            Loss::Unknown => true,
        }
    }

    /// Reads an endpoint's record, or sees that it is gone.
    fn read(&mut self, id: &EndpointId) -> Result<(), String> {
        let endpoint = self.records.read(id).map_err(|error| error.to_string())?;
        self.state.set_endpoint(id, endpoint);
        self.changed = Changed::Urgently;
        Ok(())
    }

    /// Why an endpoint may not talk; `None` when it may and the kernel knows it.
    fn why_not(&self, id: &EndpointId) -> Option<String> {
        if let Some(missing) = self.state.missing() {
            return Some(format!("the API server has not listed everything yet; missing: {missing}"));
        }
        let Some(programmed) = &self.programmed else {
            let error = self.last_error.as_deref().unwrap_or("not tried yet");
            return Some(format!("the policy is not in the kernel: {error}"));
        };
        // As it is now: the same container may have come back with another address since.
        let is_there = programmed
            .endpoints
            .get(id)
            .is_some_and(|there| self.state.endpoint(id) == Some(there.endpoint.as_ref()));
        if is_there && self.changed == Changed::No && !self.nft.replaces() {
            return None;
        }
        let reason = programmed.waiting.get(id).or(self.last_error.as_ref());
        Some(reason.cloned().unwrap_or_else(|| format!("endpoint {id} has no record")))
    }

    /// Decides, and has the drivers make it so.
    fn program(&mut self) {
        self.changed = Changed::No;
        self.retry = None;
        let started = Instant::now();
        let Some(Decision { wanted, changes }) = self.decide() else {
            return;
        };
        self.doubtful.extend(doubtful(&changes.tightened, &self.state));
        let wanted = Arc::new(wanted);
        let is_replaced = self.nft.replaces();
        // What goes now takes its counters with it.
        if is_replaced {
            self.count_drops();
        } else {
            self.count_last_drops(&changes);
        }
        self.short_way.prepare(&wanted, self.decider.compiler(), &changes);
        match self.nft.apply(&wanted, self.decider.compiler(), &changes) {
            Ok(0) => {}
            Ok(_) => {
                self.pace.wrote(Instant::now());
                self.metrics.transactions.get_or_create(&Outcome { outcome: "applied" }).inc();
                self.metrics.program_seconds.observe(started.elapsed().as_secs_f64());
            }
            Err(error) => {
                self.metrics.transactions.get_or_create(&Outcome { outcome: "refused" }).inc();
                error!(%error, "the policy is not in the kernel; trying again");
                let note = format!("the kernel refuses the table inet margay; what was there stays: {error}");
                self.notices.of_node(Reason::POLICY_NOT_PROGRAMMED, note);
                self.short_way.resume();
                self.last_error = Some(error.to_string());
                self.retry = Some(Instant::now() + RETRY);
                return;
            }
        }
        self.doubtful.extend(self.short_way.write());
        let compiler = self.decider.compiler();
        if is_replaced {
            self.tally.restart(compiler);
        } else {
            self.tally.note(compiler, &changes);
        }
        self.last_error = None;
        self.count(&wanted);
        self.programmed = Some(Arc::clone(&wanted));
        self.doubt();
        if wanted.bgp.is_some() {
            tell(&self.topology, wanted.bgp.clone());
        }
        // A tunnel listens on another port when the table guards that one.
        self.followed.send_if_modified(|told| {
            let now = &self.settings;
            let differs = (told.mtu, &told.traffic, &told.node_address, told.self_test)
                != (now.mtu, &now.traffic, &now.node_address, now.self_test);
            if differs {
                told.clone_from(now);
            }
            differs
        });
        if wanted.paths.is_some() {
            tell(&self.paths, wanted.paths.clone());
        }
        if wanted.peers.is_some() {
            tell(&self.peers, wanted.peers.clone());
        }
        // The rest of the time a look at each reconcile is enough: not at each pod that is added.
        if self.node_changed {
            self.configure_node(&wanted.blocks);
        }
    }

    fn decide(&mut self) -> Option<Decision> {
        let Settings { bgp, traffic, .. } = &self.settings;
        self.decider.decide(&mut self.state, bgp, traffic)
    }

    /// Has the connections looked at that may be forbidden now, once the kernel lets no new ones like them begin.
    fn doubt(&mut self) {
        if !self.doubtful.is_empty() && !self.nft.replaces() {
            match self.connections.try_send(std::mem::take(&mut self.doubtful)) {
                Ok(()) => {}
                // There are looks enough under way; the reconcile comes back to it.
                Err(TrySendError::Full(addresses) | TrySendError::Closed(addresses)) => {
                    self.doubtful = addresses;
                }
            }
        }
    }

    /// Of some connections, those that the policy in the kernel forbids; they go on being doubtful while it is not there.
    fn forbidden(&mut self, found: Vec<Found>) -> Vec<Connection> {
        if self.nft.replaces() {
            let ends = found.iter().map(|found| &found.connection);
            self.doubtful.extend(ends.flat_map(|connection| [connection.source, connection.destination]));
            return Vec::new();
        }
        let compiler = self.decider.compiler();
        let forbidden = found.into_iter().filter(|found| connections::is_forbidden(compiler, found));
        forbidden.map(|found| found.connection).collect()
    }

    fn configure_node(&mut self, blocks: &[IpNetwork]) {
        let again = self.try_configure_node(blocks).unwrap_or_else(|error| {
            error!("{error:#}; trying again");
            self.notices.of_node(Reason::NODE_NOT_CONFIGURED, format!("{error:#}"));
            self.last_error = Some(format!("{error:#}"));
            Some(Instant::now() + RETRY)
        });
        self.node_changed = again.is_some();
        self.retry = self.retry.into_iter().chain(again).min();
    }

    /// Address blocks, forwarding, and the runtime's configuration once all else is there. Says when it is to be asked again, if it is.
    fn try_configure_node(&mut self, blocks: &[IpNetwork]) -> anyhow::Result<Option<Instant>> {
        // A node that is gone from the API keeps its blocks: one missed event takes nothing away.
        let is_news = !blocks.is_empty() || self.pools.is_some();
        if is_news && blocks != self.blocks {
            if self.pools.is_none() {
                self.store.set_blocks(blocks).context("use the node's podCIDRs")?;
                leak::hold_again(&self.records, &self.store)?;
            }
            info!(blocks = ?blocks.iter().map(ToString::to_string).collect::<Vec<_>>(), "address blocks");
            self.blocks = blocks.to_vec();
        }
        sysctl::enable_forwarding(&self.settings.sysctl_dir, &self.blocks)?;
        let has_blocks = self.pools.as_ref().is_none_or(|pools| pools.claimed.missing.is_none());
        let lacks_ways = self.bgp.is_err() || self.overlay.is_err() || self.node_address.is_err();
        if self.blocks.is_empty() || !has_blocks || lacks_ways {
            return Ok(None);
        }
        let addresses = self.state.own_node().map(|node| node.addresses.clone()).unwrap_or_default();
        let fits = if let Some(mtu) = self.settings.mtu {
            Some(mtu)
        } else {
            let others = self.state.nodes().filter(|(name, _)| *name != self.state.node_name());
            let others = others.flat_map(|(_, node)| node.addresses.iter().copied()).collect();
            cni::fits(&addresses, &others, self.overhead())?
        };
        // What is not known for a moment is as it was, for new pods; of those that are there nothing follows from it.
        let mtu = match fits.or(self.mtu) {
            Some(mtu) => mtu,
            None => cni::less(ETHERNET, self.overhead())?,
        };
        self.mtu = fits.or(self.mtu);
        cni::write(&self.settings, mtu)?;
        let endpoints = self.state.endpoints().map(|(_, endpoint)| endpoint.as_ref());
        let again = self.shrinking.note(&self.settings.run_dir, fits, endpoints, Instant::now())?;
        self.configured = true;
        Ok(again)
    }

    /// How many octets a tunnel takes of each packet of a pod: of a pod that is added while tunnels change, the most before and after.
    fn overhead(&self) -> u32 {
        let paths = self.programmed.as_ref().and_then(|programmed| programmed.paths.as_ref());
        paths.map_or(0, |paths| paths.overhead()).max(self.tunnels_take)
    }

    /// Looks at the disk and the kernel, and repairs.
    fn reconcile(&mut self) {
        let listing = match self.records.list() {
            Ok(listing) => listing,
            Err(error) => {
                error!(%error, "the endpoint records cannot be listed");
                return;
            }
        };
        for (id, error) in &listing.damaged {
            warn!(endpoint = %id, %error, "an endpoint record cannot be read: the pod stays closed");
        }
        let endpoints: BTreeMap<EndpointId, Endpoint> =
            listing.endpoints.iter().map(|endpoint| (endpoint.id(), endpoint.clone())).collect();
        self.changed.note(self.state.set_endpoints(endpoints));
        match self.nft.verify() {
            Ok(true) => {}
            Ok(false) => {
                warn!("{TABLE_CHANGED}");
                self.notices.of_node(Reason::TABLE_CHANGED, TABLE_CHANGED);
                self.metrics.repaired.inc();
                self.changed = Changed::Urgently;
            }
            Err(error) => warn!(%error, "the table inet margay cannot be looked at"),
        }
        // Others empty /etc/cni/net.d, or turn forwarding off with a `sysctl --system` of their own.
        if let Some(blocks) = self.programmed.as_ref().map(|programmed| programmed.blocks.clone()) {
            self.configure_node(&blocks);
        }
        self.changed.note(self.short_way.is_closed());
        self.look(listing.endpoints);
        self.doubt();
        self.count_drops();
    }

    /// Starts a look at links, routes and addresses, unless one is under way: then another follows it.
    fn look(&mut self, endpoints: Vec<Endpoint>) {
        if self.look == Look::Idle {
            self.look = Look::Running;
        } else {
            self.look = Look::Again;
            return;
        }
        let (run_dir, store) = (self.settings.run_dir.clone(), self.store.clone());
        let (pending, events) = (self.takedowns.pending(), self.events.clone());
        let orphans = self.state.orphans();
        tokio::spawn(async move {
            let work = spawn_blocking(move || Looked {
                repaired: endpoint::repair(&endpoints).map_err(anyhow::Error::from),
                reclaimed: leak::reclaim(&run_dir, &store, &pending, &orphans),
            });
            let looked = work.await.unwrap_or_else(|panic| {
                let failed = || anyhow::anyhow!("{panic}");
                Looked { repaired: Err(failed()), reclaimed: Err(failed()) }
            });
            // A core that has ended takes no more notice.
            drop(events.send(Event::Looked(looked)).await);
        });
    }

    fn note(&mut self, looked: Looked) {
        match looked.repaired {
            Ok(count) => drop(self.metrics.repaired.inc_by(count as u64)),
            Err(error) => warn!("the pods' routes cannot be looked at: {error:#}"),
        }
        match looked.reclaimed {
            Ok(reclaimed) => {
                if reclaimed.unrecorded > 0 {
                    self.notices.of_node(Reason::RECORDS_LOST, RECORDS_LOST);
                }
                self.metrics.count_reclaimed(reclaimed);
            }
            Err(error) => warn!("what leaked cannot be taken back: {error:#}"),
        }
        if std::mem::replace(&mut self.look, Look::Idle) == Look::Again {
            let endpoints = self.state.endpoints().map(|(_, endpoint)| Endpoint::clone(endpoint)).collect();
            self.look(endpoints);
        }
    }

    /// Answers those who wait for what is now there, and those who have waited long enough.
    fn answer(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            match self.why_not(&waiting.endpoint) {
                None => {
                    // When too much is to be told, the statuses tell.
                    if let Some(announcement) = self.state.announcement(&waiting.endpoint) {
                        drop(self.announcements.try_send(announcement));
                    }
                    drop(waiting.answer.send(Response::Done));
                }
                Some(reason) if waiting.until <= now => {
                    let endpoint = self.state.endpoint(&waiting.endpoint);
                    if waiting.is_add
                        && let Some(pod) = endpoint.and_then(|endpoint| endpoint.pod.as_ref())
                    {
                        let note = format!("the pod was not let talk in time: {reason}");
                        self.notices.of(Object::pod(pod), Reason::POLICY_NOT_READY, note);
                    }
                    drop(waiting.answer.send(Response::Refused { reason }));
                }
                // The plugin has given up, or was killed.
                Some(_) if waiting.answer.is_closed() => {}
                Some(_) => self.waiting.push(waiting),
            }
        }
    }

    /// What keeps changes in the cluster from reaching the pods that are here.
    fn stale(&self) -> Vec<String> {
        let mut missing = Vec::new();
        missing.extend(self.state.missing().map(|what| format!("api: not listed yet: {what}")));
        if self.programmed.is_none() {
            let error = self.last_error.as_deref().unwrap_or("waits for the API");
            missing.push(format!("dataplane: the policy is not in the kernel: {error}"));
        } else if let Some(error) = &self.last_error {
            missing.push(format!("dataplane: {error}"));
        }
        missing.extend(self.bgp.as_ref().err().map(|error| format!("bgp: {error}")));
        missing.extend(self.overlay.as_ref().err().map(|error| format!("overlay: {error}")));
        missing.extend(self.node_address.as_ref().err().map(|error| format!("node: {error}")));
        missing.extend(self.doubles.own.as_ref().map(|problem| format!("node: {problem}")));
        missing
    }

    /// What keeps the node from being ready.
    fn missing(&self) -> Vec<String> {
        let mut missing = self.stale();
        match &self.pools {
            Some(pools) => missing.extend(pools.claimed.missing.clone()),
            None if self.blocks.is_empty() => {
                missing.push(format!("ipam: node {} has no spec.podCIDRs", self.settings.node_name));
            }
            None => {}
        }
        if missing.is_empty() && !self.configured {
            missing.push("cni: the network configuration is not written yet".into());
        }
        missing
    }

    /// Tells pods that another node has their addresses, once it is known which pods are here.
    fn tell_conflicts(&mut self) {
        if self.conflicts.is_empty() || self.state.missing().is_some() {
            return;
        }
        for (block, node) in std::mem::take(&mut self.conflicts) {
            let all = self.state.endpoints().map(|(_, endpoint)| endpoint);
            let of_block = all.filter(|endpoint| endpoint.addresses.iter().any(|it| block.contains(*it)));
            for pod in of_block.filter_map(|endpoint| endpoint.pod.as_ref()) {
                let note = format!(
                    "its address is of block {block}, which node {node} has: it loses its network; delete it"
                );
                self.notices.of(Object::pod(pod), Reason::ADDRESS_CONFLICT, note);
            }
        }
    }

    /// Says which nodes have the address of another, and which no longer.
    fn tell_doubles(&mut self) {
        if !std::mem::take(&mut self.nodes_changed) {
            return;
        }
        let before = std::mem::replace(&mut self.doubles, self.state.doubles());
        for problem in self.doubles.problems.difference(&before.problems) {
            warn!("{problem}");
        }
        for problem in before.problems.difference(&self.doubles.problems) {
            info!("no longer so: {problem}");
        }
    }

    fn publish(&mut self) {
        let missing = self.missing();
        self.metrics.ready.set(i64::from(missing.is_empty()));
        self.readiness.note(&missing, Instant::now());
        let startup = if self.programmed.is_some() { Startup::Done } else { Startup::Waits };
        self.shared.publish(missing, startup);
    }

    fn count(&self, wanted: &Wanted) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.endpoints.set(gauge(wanted.endpoints.len()));
        self.metrics.policies.set(gauge(self.state.objects().policies.len()));
        let compiler = self.decider.compiler();
        self.metrics.policy_sets.set(gauge(compiler.sets().count()));
        self.metrics.classes.set(gauge(compiler.classes()));
    }
}

/// Tells the node that it has no more addresses, when that is news.
fn tell_addresses(notices: &Notices, before: &ClaimedBlocks, now: &ClaimedBlocks) {
    let lack = |claimed: &ClaimedBlocks| claimed.full.clone().or_else(|| claimed.missing.clone());
    if let Some(note) = lack(now).filter(|_| lack(before) != lack(now)) {
        notices.of_node(Reason::ADDRESSES_EXHAUSTED, note);
    }
}

/// The addresses of whatever has connections that may be forbidden now.
fn doubtful(tightened: &Tightened, state: &State) -> BTreeSet<IpAddr> {
    let pods = tightened.pods.iter().filter_map(|name| state.objects().pods.get(name));
    pods.flat_map(|pod| &pod.addresses).chain(&tightened.addresses).copied().collect()
}
