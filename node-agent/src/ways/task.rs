//! Has ways tested when they are due, and tells what was found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use futures::future::join_all;
use ipnetwork::IpNetwork;
use margay_api::{endpoint::HOST_IFNAME_PREFIX, ways::Ways};
use margay_netlink::{
    Event as KernelEvent, Group, Monitor, Socket, addr,
    link::{self, IfIndex, IfName, Link},
    route::{self, Filter, Kind, Protocol, TableId},
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{info, warn};

use super::{
    judge::{Fault, Stream, Verdict, judge},
    ledger::{Ledger, Way},
    listen::{Listeners, Nodes},
    probe::{Target, Tunnel, ask, needs_checksums},
    report::{self, corrected, report},
    sys,
};
use crate::{
    config::Settings,
    decide::{Carrier, Peers},
    metrics::WayState,
    news::tell,
    notice::{Notices, Reason},
    program::{network_condition::Passage, overlay::name_of, uplink},
    watch::drift::{heard, watched},
};

/// Changes are looked at once for all that come within this time: a tunnel comes with a route to each node.
const QUIET: Duration = Duration::from_secs(2);
/// How long after a failure it is looked again, and how often although nothing is heard.
const RETRY: Duration = Duration::from_secs(10);
const ANYWAY: Duration = Duration::from_mins(1);
/// As many blocks of a node are tried to find the one whose first address its tunnels have.
const MOST_TRIED: usize = 4;

/// Tests for ever, if that is to be, and as it is to be: with another port, or when tests are turned on or off, all begins anew.
///
/// What was under way is dropped then, at any point where it waits; a test that has changed something puts it back.
pub(crate) async fn run(
    mut settings: watch::Receiver<Settings>,
    peers: watch::Receiver<Option<Arc<Peers>>>,
    passage: watch::Sender<Option<Passage>>,
    notices: Notices,
) -> anyhow::Result<()> {
    loop {
        let begun = settings.borrow_and_update().self_test;
        let tests = tests(settings.clone(), peers.clone(), passage.clone(), notices.clone());
        tokio::select! {
            outcome = tests => return outcome,
            changed = settings.wait_for(|now| now.self_test != begun) => if changed.is_err() { return Ok(()) },
        }
    }
}

/// Tests as the settings say that there are now.
async fn tests(
    mut settings: watch::Receiver<Settings>,
    mut peers: watch::Receiver<Option<Arc<Peers>>>,
    passage: watch::Sender<Option<Passage>>,
    notices: Notices,
) -> anyhow::Result<()> {
    let at_start = settings.borrow_and_update().clone();
    if let Err(error) = Ways::remove(&at_start.run_dir) {
        warn!(%error, "what an agent before found out about ways cannot be removed");
    }
    let Some(port) = at_start.self_test else {
        passage.send_replace(Some(Passage::Untested));
        return std::future::pending().await;
    };
    let mut monitor = watched(Monitor::open(&[Group::Links, Group::Addresses, Group::Routes])?)?;
    let (nodes, known) = watch::channel(Nodes::default());
    let mut task = Task {
        port,
        run_dir: at_start.run_dir,
        node_name: at_start.node_name,
        mtu: at_start.mtu.map(link::Mtu::octets),
        words: report::Settings { test_port: port, vxlan_port: at_start.traffic.overlay.port },
        nodes,
        listeners: Listeners::new(port, known),
        ledger: Ledger::default(),
        here: Here::default(),
        targets: BTreeMap::new(),
        asked: 0,
        told: None,
        passage,
        notices,
    };
    let mut look: Option<Instant> = None;
    let mut anyway = interval(ANYWAY);
    anyway.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = look.into_iter().chain(task.ledger.next()).min();
        tokio::select! {
            changed = peers.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                look = Some(look.unwrap_or_else(Instant::now));
            }
            changed = settings.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let now = settings.borrow_and_update();
                task.follow(now.mtu.map(link::Mtu::octets), now.traffic.overlay.port);
                look = Some(look.unwrap_or_else(Instant::now));
            }
            concerns = heard(&mut monitor, concerns) => {
                if concerns? {
                    look = Some(look.unwrap_or_else(|| Instant::now() + QUIET));
                }
                continue;
            }
            // A listener that has lost its socket gets another.
            _ = anyway.tick() => look = Some(look.unwrap_or_else(Instant::now)),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        if look.is_some_and(|look| look <= Instant::now()) {
            look = None;
            let peers = peers.borrow_and_update().clone();
            if let Some(peers) = peers
                && let Err(error) = task.look(&peers).await
            {
                warn!("{error:#}; trying again");
                look = Some(Instant::now() + RETRY);
            }
        }
        task.test().await;
    }
}

/// Whether a change in the kernel may be of a way.
fn concerns(event: &KernelEvent) -> bool {
    let is_pods = |link: &Link| link.name.starts_with(HOST_IFNAME_PREFIX);
    match event {
        KernelEvent::LinkChanged(link) | KernelEvent::LinkGone(link) => !is_pods(link),
        KernelEvent::AddressChanged(address) | KernelEvent::AddressGone(address) => address.global,
        KernelEvent::Lost => true,
        KernelEvent::RouteChanged(route) | KernelEvent::RouteGone(route) => {
            route.protocol == Protocol::MARGAY_OVERLAY
        }
        _ => false,
    }
}

/// What this node has of ways.
#[derive(Debug, Default)]
struct Here {
    tunnels: BTreeMap<Carrier, Device>,
    /// The blocks to which a route leads through a tunnel.
    routes: Vec<(IpNetwork, Carrier)>,
    /// The interface of each own address, and the MTU of the ways that begin there.
    uplinks: BTreeMap<IpAddr, (IfIndex, u32)>,
}

/// A tunnel of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Device {
    index: IfIndex,
    name: IfName,
    mtu: u32,
    addresses: Vec<IpAddr>,
    offload: bool,
}

struct Task {
    port: u16,
    run_dir: PathBuf,
    node_name: String,
    /// What the agent was told.
    mtu: Option<u32>,
    words: report::Settings,
    nodes: watch::Sender<Nodes>,
    listeners: Listeners,
    ledger: Ledger,
    here: Here,
    targets: BTreeMap<Way, Target>,
    /// How many ways were asked, for a share that differs from time to time.
    asked: u32,
    told: Option<Ways>,
    passage: watch::Sender<Option<Passage>>,
    notices: Notices,
}

impl Task {
    /// Takes the size of packets and the port of tunnels from now on.
    fn follow(&mut self, mtu: Option<u32>, vxlan_port: u16) {
        self.words.vxlan_port = vxlan_port;
        if std::mem::replace(&mut self.mtu, mtu) != mtu {
            self.ledger.doubt(None, Instant::now());
        }
    }

    /// Sees which ways there are, and which of them are others than they were.
    async fn look(&mut self, peers: &Arc<Peers>) -> anyhow::Result<()> {
        let all = Arc::clone(peers);
        let here = spawn_blocking(move || here(&all)).await?.context("look at the ways to other nodes")?;
        self.nodes.send_replace(Arc::new(peers.sources()));
        let on_tunnels = here.tunnels.values().flat_map(|device| device.addresses.iter().copied());
        self.listeners.set(&on_tunnels.chain(here.uplinks.keys().copied()).collect());
        self.targets = targets(peers, &here, self.mtu);
        let now = Instant::now();
        self.ledger.set(self.targets.keys().cloned().collect(), now);
        if self.here.uplinks != here.uplinks {
            self.ledger.doubt(None, now);
        }
        for (carrier, device) in &here.tunnels {
            let before = self.here.tunnels.get(carrier);
            // Where checksums are computed is what a test itself changes.
            let is_same = |it: &Device| Device { offload: device.offload, ..it.clone() } == *device;
            if before.is_some_and(|before| !is_same(before)) {
                self.ledger.doubt(Some(*carrier), now);
            }
        }
        self.here = here;
        self.tell();
        Ok(())
    }

    /// Tests what is due.
    async fn test(&mut self) {
        let batch = self.ledger.take(Instant::now());
        if batch.is_empty() {
            return;
        }
        let targets: Vec<Target> = batch.iter().filter_map(|way| self.targets.get(way).cloned()).collect();
        let port = self.port;
        let mut seen = join_all(targets.iter().map(|target| ask(target, port))).await;
        // One at a time, and not again where it is known to be something else: pods' packets are in that tunnel.
        let doubted = targets.iter().zip(&mut seen).find(|(target, seen)| {
            let is_known = self.ledger.faults().any(|(way, _)| *way == target.way);
            seen.stream == Stream::Broken && target.tunnel.is_some() && !is_known
        });
        if let Some((target, seen)) = doubted
            && needs_checksums(target, port).await
        {
            seen.stream = Stream::WithoutOffload;
        }
        let now = Instant::now();
        for (target, seen) in targets.iter().zip(&seen) {
            let verdict = judge(seen);
            self.asked = self.asked.wrapping_add(1);
            let share = share(&self.node_name, &target.way.node, self.asked);
            self.ledger.note(&target.way, verdict, share, now);
            let device = target.way.by.and_then(|carrier| self.here.tunnels.get_mut(&carrier));
            if let (Verdict::Corrected, Some(device)) = (verdict, device) {
                device.offload = false;
                if let Some(carrier) = target.way.by {
                    let node = &target.way.node;
                    let note = format!("{}: TCP to node {node} did not pass otherwise", corrected(carrier));
                    warn!("{note}");
                    self.notices.of_node(Reason::WAY_CORRECTED, note);
                    // Others may have failed for the same reason.
                    self.ledger.doubt(Some(carrier), now);
                }
            }
        }
        self.tell();
    }

    /// Tells what has changed.
    fn tell(&mut self) {
        let without_offload = self.here.tunnels.iter().filter(|(_, device)| !device.offload);
        let without_offload: BTreeSet<Carrier> = without_offload.map(|(carrier, _)| *carrier).collect();
        let ways = report(&self.ledger, self.words, &without_offload);
        self.count(&ways);
        if ways.problems.is_empty() {
            if self.ledger.is_settled() {
                tell(&self.passage, Some(Passage::Clear));
            }
        } else {
            tell(&self.passage, Some(Passage::Impaired(ways.problems.join("; "))));
        }
        if self.told.as_ref() == Some(&ways) {
            return;
        }
        let before = self.told.as_ref().map(|told| told.problems.clone()).unwrap_or_default();
        for problem in ways.problems.iter().filter(|problem| !before.contains(problem)) {
            warn!("{problem}");
            self.notices.of_node(Reason::WAY_IMPAIRED, problem);
        }
        for problem in before.iter().filter(|problem| !ways.problems.contains(problem)) {
            info!("no longer so: {problem}");
        }
        if let Err(error) = ways.write(&self.run_dir) {
            warn!(%error, "what the tests of ways have found cannot be written for margayctl");
        }
        self.told = Some(ways);
    }

    fn count(&self, ways: &Ways) {
        let of = |wanted: fn(&Fault) -> bool| self.ledger.faults().filter(|(_, fault)| wanted(fault)).count();
        for (state, count) in [
            ("well", ways.well),
            ("silent", ways.silent),
            ("filtered", of(|fault| matches!(fault, Fault::Filtered))),
            ("mtu", of(|fault| matches!(fault, Fault::Long { .. }))),
            ("tcp", of(|fault| matches!(fault, Fault::Tcp))),
        ] {
            let gauge = self.notices.metrics().ways_tested.get_or_create(&WayState { state }).clone();
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// A number from 0 to 1 that differs from node to node and from time to time.
fn share(own: &str, node: &str, time: u32) -> f32 {
    // FNV-1a: nothing depends on it but that nodes do not ask all at once.
    let octets = own.bytes().chain(node.bytes()).chain(time.to_be_bytes());
    let hash =
        octets.fold(0x811c_9dc5_u32, |hash, octet| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193));
    let [_, high, low, _] = hash.to_be_bytes();
    f32::from(u16::from_be_bytes([high, low])) / f32::from(u16::MAX)
}

/// What there is of ways.
fn here(peers: &Peers) -> anyhow::Result<Here> {
    let mut socket = Socket::open()?;
    let (links, addresses) = (link::list(&mut socket)?, addr::list(&mut socket)?);
    let mut here = Here::default();
    for carrier in Carrier::ALL {
        let Some(link) = links.iter().find(|link| link.name == name_of(carrier) && link.up) else { continue };
        let name: IfName = name_of(carrier).parse()?;
        // One that does not tell is as one that has it: nothing is said of it, and nothing changed.
        let offload = sys::has_tx_checksum_offload(&name).unwrap_or(true);
        let on_it = addresses.iter().filter(|address| address.link == link.index && address.global);
        let on_it = on_it.map(|address| address.network.ip()).collect();
        let device = Device { index: link.index, name, mtu: link.mtu, addresses: on_it, offload };
        here.tunnels.insert(carrier, device);
    }
    let others = peers.nodes.values().flat_map(|peer| peer.addresses.iter().copied()).collect();
    for uplink in uplink::list(&mut socket, &addresses, &peers.own, &others)? {
        here.uplinks.insert(uplink.network.ip(), (uplink.link, uplink.mtu));
    }
    let filter = Filter { table: Some(TableId::MAIN), protocol: Some(Protocol::MARGAY_OVERLAY) };
    for route in route::list(&mut socket, filter)? {
        let Kind::Unicast(hops) = &route.kind else { continue };
        let through =
            |(_, device): &(&Carrier, &Device)| hops.iter().any(|hop| hop.link == Some(device.index));
        if let Some((carrier, _)) = here.tunnels.iter().find(through) {
            here.routes.push((route.destination, *carrier));
        }
    }
    Ok(here)
}

/// How each way there is is asked.
fn targets(peers: &Peers, here: &Here, mtu: Option<u32>) -> BTreeMap<Way, Target> {
    let routes: BTreeMap<IpNetwork, Carrier> = here.routes.iter().copied().collect();
    let sources: Vec<IpAddr> = here.tunnels.values().flat_map(|device| device.addresses.clone()).collect();
    let mut targets = BTreeMap::new();
    for (node, peer) in &peers.nodes {
        let Some([source, to]) = peers.direct(peer) else { continue };
        let mut by_tunnel: BTreeMap<Carrier, Vec<IpAddr>> = BTreeMap::new();
        for block in &peer.blocks {
            if let Some(carrier) = routes.get(block) {
                by_tunnel.entry(*carrier).or_default().push(block.network());
            }
        }
        if by_tunnel.is_empty() {
            let Some((_, uplink)) = here.uplinks.get(&source) else { continue };
            let way = Way { node: node.clone(), by: None };
            let full = mtu.unwrap_or(*uplink);
            targets.insert(way.clone(), Target { way, source, to: vec![to], full, tunnel: None });
            continue;
        }
        for (carrier, firsts) in by_tunnel {
            let Some(device) = here.tunnels.get(&carrier) else { continue };
            // Both families take the same tunnel.
            let family = |is_ipv4: bool| {
                let inner = sources.iter().copied().find(|address| address.is_ipv4() == is_ipv4)?;
                let of_family = firsts.iter().copied().filter(|first| first.is_ipv4() == is_ipv4);
                let tried: Vec<IpAddr> = of_family.take(MOST_TRIED).collect();
                (!tried.is_empty()).then_some((inner, tried))
            };
            let Some((inner, tried)) = family(true).or_else(|| family(false)) else { continue };
            let way = Way { node: node.clone(), by: Some(carrier) };
            let tunnel = Some(Tunnel { device: device.name.clone(), source, to });
            targets.insert(way.clone(), Target { way, source: inner, to: tried, full: device.mtu, tunnel });
        }
    }
    targets
}
