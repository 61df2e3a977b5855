//! The start of all tasks of the agent, with the core in their midst.

use std::sync::Arc;

use anyhow::Context;
use kube::{
    Client,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use margay_api::{paths, pools::Snapshot};
use margay_ipam::Store;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tower::util::MapRequestLayer;
use tracing::info;

use super::{Core, Links, Pools, QUEUE, event::Event};
use crate::{
    addresses::{self, ClaimedBlocks},
    config::{IpamMode, Settings, Sources},
    decide::Peers,
    facts::Facts,
    freshness::of_the_newest,
    log::Log,
    metrics::Metrics,
    network_config::{self, Start},
    node_address,
    notice::{self, Notices, Reason},
    observe::{self, Observing},
    peering,
    program::{
        announce, connections,
        ebpf::ShortWay,
        network_condition::{self, Condition},
        overlay,
        takedown::Takedowns,
    },
    serve::{
        http::{self, Shared},
        plugin::{self, Monitors},
    },
    watch::{self as watches, drift},
    ways,
};

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

    let Observing { monitors, logging, denials } = observe::start(&mut tasks, &events);
    let (flows, flows_asked) = mpsc::channel(QUEUE);
    tasks.spawn(plugin::run(listener, events.clone(), Monitors { drops: monitors, flows }));
    tasks.spawn(drift::run_table(events.clone(), Arc::clone(&metrics)));
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
        ShortWay::start(&settings, &mut tasks, &events, flows_asked, denials, &notices, detour).await?;
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
    tasks.spawn(drift::run(events.clone(), takedowns.pending(), Arc::clone(&metrics)));
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
