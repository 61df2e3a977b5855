//! Keeps tunnels and routes to other nodes' pods as they are wanted: a task of its own.
//!
//! ```text
//!   core --Paths (nodes, blocks, encapsulations)--> task --> decide/overlay (pure): Ways
//!   kernel --links, addresses, what others do-------->  |      with the kernel's addresses and MTU
//!                                                       +--> difference (pure) --> kernel: devices, entries, routes
//!   kernel --policies of xfrm (`IPsec`)---------------->  |  bypass: the map by which the eBPF programs go round a device
//!              core <--Event::Overlay (the tunnels are there, or why not; what they take of a packet)
//!       other nodes <--annotations of the Node (which kinds of tunnels it has, and sends through)
//! ```
//! It owns the devices `margay.vxlan4`, `margay.vxlan6` and `margay.ipip`, all that is on them, and the routes of its protocol number in
//! the main table; what else there is it never touches. What is there is read at every attempt, so that it needs not know
//! what an earlier agent wrote, and mends what others do.

mod bypass;
mod difference;
mod kernel;
mod phase;
mod publish;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Arc,
    time::Duration,
};

use kube::Client;
use margay_api::{
    annotation::{TUNNELS_RECEIVED, TUNNELS_SENT},
    endpoint::HOST_IFNAME_PREFIX,
};
use margay_netlink::{
    Event as KernelEvent, Group, Monitor, Socket,
    link::{IfIndex, Link},
    route::Protocol,
    xfrm,
};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
    task::{JoinSet, spawn_blocking},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

pub(crate) use self::difference::name_of;
use self::{
    bypass::Bypass,
    kernel::{Applied, Settings},
    phase::{PATIENCE, Phase},
};
use crate::{
    config,
    core::Event,
    decide::Paths,
    facts::Facts,
    metrics::{MapLabels, Metrics},
    news::tell,
    program::ebpf::TunnelMap,
    traffic::Routing,
    tunnels::Tunnels,
    watch::drift::{heard, watched},
};

/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);
/// As much of what is missing is told where it is asked whether the node is ready.
const MOST_TOLD: usize = 3;
/// Changes by others are looked at once for all that come within this time.
const QUIET: Duration = Duration::from_millis(100);

/// How the ways to other nodes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// Whether they are there; if not, why.
    pub(crate) ways: Result<(), String>,
    /// How many octets the tunnels take of a packet of a pod at most: those that are wanted, and while a change is under way
    /// those that others may still send through.
    pub(crate) overhead: u32,
}

/// What the task follows.
pub(crate) struct Follows {
    pub(crate) settings: watch::Receiver<config::Settings>,
    pub(crate) paths: watch::Receiver<Option<Arc<Paths>>>,
    pub(crate) facts: watch::Receiver<Facts>,
}

/// Starts what follows the settings and the paths, and what tells other nodes. `map` is there where there are programs that can go round a
/// tunnel's device.
pub(crate) fn start(
    tasks: &mut JoinSet<anyhow::Result<()>>,
    client: &Client,
    follows: Follows,
    map: Option<TunnelMap>,
    events: &mpsc::Sender<Event>,
    metrics: &Arc<Metrics>,
) {
    let Follows { settings, paths, facts } = follows;
    let (said, to_publish) = watch::channel(None);
    let node_name = settings.borrow().node_name.clone();
    tasks.spawn(publish::run(client.clone(), node_name, facts, to_publish));
    let task = Task {
        settings: Settings::of(&settings.borrow()),
        socket: None,
        map,
        said,
        metrics: Arc::clone(metrics),
        done: None,
        tunnels: BTreeSet::new(),
        problems: BTreeSet::new(),
        hindrance: None,
        told: None,
        due: None,
        phase: Phase::default(),
        last: None,
    };
    tasks.spawn(task.run(settings, paths, events.clone()));
}

struct Task {
    settings: Settings,
    /// Missing only after a failure; then a new one is opened.
    socket: Option<Socket>,
    /// What other nodes are to know of the tunnels here.
    said: watch::Sender<Option<Tunnels>>,
    /// By which the programs go round the device of a tunnel; missing where there are none, and while an attempt has it.
    map: Option<TunnelMap>,
    metrics: Arc<Metrics>,
    /// What the kernel was last made to hold, all of it.
    done: Option<Arc<Paths>>,
    tunnels: BTreeSet<IfIndex>,
    /// What is known to be wrong, so that it is told once.
    problems: BTreeSet<String>,
    /// Why the programs do not go round the device, where they could.
    hindrance: Option<String>,
    /// What the core was told.
    told: Option<Told>,
    /// When the next attempt is made, if there is anything to do.
    due: Option<Instant>,
    /// How far it is from what was wanted before to what is wanted now.
    phase: Phase,
    /// When the last attempt was made.
    last: Option<Instant>,
}

impl Task {
    /// Follows `paths` until the core is gone.
    async fn run(
        mut self,
        mut followed: watch::Receiver<config::Settings>,
        mut paths: watch::Receiver<Option<Arc<Paths>>>,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<()> {
        let monitor = Monitor::open(&[
            Group::Links,
            Group::Addresses,
            Group::Routes,
            Group::Neighbours,
            Group::Qdiscs,
        ])?;
        let socket = Socket::open()?;
        // A socket that takes the place of this one after a failure is not ignored: that costs a look for nothing.
        monitor.ignore(&socket)?;
        self.socket = Some(socket);
        let mut monitor = watched(monitor)?;
        let mut policies = match &self.map {
            Some(_) => xfrm::Monitor::open()?.map(watched).transpose()?,
            None => None,
        };
        // Those that came while there was no agent, whenever the paths come.
        self.yield_to_encryption()?;
        let mut reconcile = interval(followed.borrow().reconcile);
        reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = paths.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    // Many nodes may say something at once.
                    let now = Instant::now();
                    self.due = Some(self.last.map_or(now, |last| now.max(last + QUIET)));
                }
                changed = followed.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let settings = Settings::of(&followed.borrow_and_update());
                    if settings != self.settings {
                        self.settings = settings;
                        self.done = None;
                        self.due = Some(Instant::now());
                    }
                }
                _ = reconcile.tick() => if !self.is_idle() { self.due = Some(Instant::now()) },
                concerns = heard(&mut monitor, |event| self.concerns(event)) => {
                    if concerns? && !self.is_idle() {
                        let soon = Instant::now() + QUIET;
                        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
                    }
                    continue;
                }
                changed = changed(&mut policies) => {
                    changed?;
                    self.yield_to_encryption()?;
                    if !self.is_idle() {
                        self.due = Some(self.due.unwrap_or_else(|| Instant::now() + QUIET));
                    }
                    continue;
                }
                () = sleep_until(self.due.unwrap_or_else(Instant::now)), if self.due.is_some() => {}
            }
            if self.due.is_none_or(|due| due > Instant::now()) {
                continue;
            }
            let wanted = paths.borrow_and_update().clone();
            let Some(wanted) = wanted else {
                self.due = None;
                continue;
            };
            let now = self.attempt(&wanted).await;
            if self.told.as_ref() != Some(&now) {
                self.told = Some(now.clone());
                if events.send(Event::Overlay(now)).await.is_err() {
                    return Ok(());
                }
            }
        }
    }

    /// Has all packets go through the tunnel's device at once, if what it sends may be encrypted: the programs would send it as it is.
    fn yield_to_encryption(&mut self) -> anyhow::Result<()> {
        match &mut self.map {
            Some(map) if bypass::encryption().is_some() => map.retain(&BTreeMap::new()),
            _ => Ok(()),
        }
    }

    /// Whether all ways are the speaker's: what others do is nothing to us then, and a look at all routes is not cheap.
    fn is_idle(&self) -> bool {
        self.settings.traffic.routing == Routing::Bgp
            && !self.phase.is_changing()
            && self.done.as_ref().is_some_and(|paths| !paths.has_tunnels())
    }

    /// Whether a change may be one of ours, or of what ours follow.
    fn concerns(&self, event: &KernelEvent) -> bool {
        let is_pods = |link: &Link| link.name.starts_with(HOST_IFNAME_PREFIX);
        match event {
            KernelEvent::LinkChanged(link) | KernelEvent::LinkGone(link) => !is_pods(link),
            KernelEvent::AddressChanged(_) | KernelEvent::AddressGone(_) | KernelEvent::Lost => true,
            KernelEvent::QdiscChanged(qdisc) | KernelEvent::QdiscGone(qdisc) => {
                self.tunnels.contains(&qdisc.link)
            }
            KernelEvent::RouteChanged(route) | KernelEvent::RouteGone(route) => {
                route.protocol == Protocol::MARGAY_OVERLAY
            }
            KernelEvent::NeighbourChanged(neighbour) | KernelEvent::NeighbourGone(neighbour) => {
                neighbour.permanent && self.tunnels.contains(&neighbour.link)
            }
            KernelEvent::ForwardingChanged(entry) | KernelEvent::ForwardingGone(entry) => {
                self.tunnels.contains(&entry.link)
            }
        }
    }

    /// Makes the ways of the phase that has come, and says how they are.
    async fn attempt(&mut self, wanted: &Arc<Paths>) -> Told {
        let now = Instant::now();
        self.phase = std::mem::take(&mut self.phase).next(wanted, now);
        (self.due, self.last) = (self.phase.until(now), Some(now));
        let waited = waited_for(&self.phase.waited_for(wanted, now));
        let paths = self.phase.paths(wanted);
        Told { ways: self.make(&paths, wanted, waited).await, overhead: paths.overhead() }
    }

    /// Whether these ways are there, as far as the wanted ones go; if not, why.
    async fn make(
        &mut self,
        paths: &Arc<Paths>,
        wanted: &Arc<Paths>,
        waited: Option<String>,
    ) -> Result<(), String> {
        match self.apply(paths).await {
            Ok(applied) => {
                let Applied { changes, faults, refused, mut problems, tunnels, said, bypass } = applied;
                if self.map.is_some() {
                    self.note(bypass, &mut problems);
                }
                if said.is_some() {
                    tell(&self.said, said);
                }
                let is_news = self.done.as_ref() != Some(wanted);
                match (changes, is_news) {
                    (0, _) => {}
                    (_, true) => info!(changes, "tunnels and routes to other nodes' pods"),
                    (_, false) => {
                        warn!(
                            changes,
                            "put back what others changed of tunnels and routes, or what an uplink did"
                        );
                        self.metrics.repaired.inc_by(changes as u64);
                    }
                }
                self.tunnels = tunnels;
                let missing: Vec<String> = faults.into_iter().chain(refused).collect();
                self.tell(problems.into_iter().chain(waited).chain(missing.iter().cloned()).collect());
                if missing.is_empty() {
                    if !self.phase.is_changing() {
                        self.done = Some(Arc::clone(wanted));
                    }
                    return Ok(());
                }
                self.retry();
                Err(in_short(&missing))
            }
            Err(error) => {
                self.socket = None;
                self.retry();
                let error = format!("{error:#}");
                if self.told.as_ref().is_none_or(|told| told.ways != Err(error.clone())) {
                    error!("the ways to other nodes' pods cannot be made: {error}; trying again");
                }
                Err(error)
            }
        }
    }

    /// Has the next attempt made soon, and not later than the phase ends.
    fn retry(&mut self) {
        let soon = Instant::now() + RETRY;
        self.due = Some(self.due.map_or(soon, |due| due.min(soon)));
    }

    /// On a thread that may block: a thousand nodes are a few thousand entries.
    async fn apply(&mut self, paths: &Arc<Paths>) -> anyhow::Result<Applied> {
        let (socket, paths, settings) = (self.socket.take(), Arc::clone(paths), self.settings.clone());
        let mut map = self.map.take();
        let (map, applied) = spawn_blocking(move || {
            let applied = (|| {
                let mut socket = match socket {
                    Some(socket) => socket,
                    None => Socket::open()?,
                };
                let applied = kernel::apply(&mut socket, &paths, &settings, map.as_mut())?;
                Ok::<_, anyhow::Error>((socket, applied))
            })();
            // Nobody knows then what the kernel has been made to hold: all of it goes through the device.
            let cleared = match &mut map {
                Some(map) if applied.is_err() => map.retain(&BTreeMap::new()),
                _ => Ok(()),
            };
            (map, cleared.and(applied))
        })
        .await?;
        self.map = map;
        let (socket, applied) = applied?;
        self.socket = Some(socket);
        Ok(applied)
    }

    /// Tells what the programs do in the place of the tunnel's device.
    fn note(&mut self, bypass: Option<Bypass>, problems: &mut Vec<String>) {
        let wanted = bypass.as_ref().map_or(0, |bypass| bypass.wanted);
        let entries = self.metrics.map_entries.get_or_create(&MapLabels { map: "tunnels" }).clone();
        entries.set(i64::try_from(wanted).unwrap_or(i64::MAX));
        let Some(Bypass { hindrance, problem, .. }) = bypass else { return };
        problems.extend(problem);
        if hindrance != self.hindrance {
            if let Some(why) = &hindrance {
                info!("packets to other nodes go through the tunnel's device: {why}");
            } else {
                info!("packets of the short way go round the tunnel's device again");
            }
            self.hindrance = hindrance;
        }
    }

    fn tell(&mut self, problems: BTreeSet<String>) {
        for problem in problems.difference(&self.problems) {
            warn!("{problem}");
        }
        for problem in self.problems.difference(&problems) {
            info!("no longer so: {problem}");
        }
        self.problems = problems;
    }
}

/// Waits for a change of the policies of xfrm; for ever, where there are none.
async fn changed(policies: &mut Option<AsyncFd<xfrm::Monitor>>) -> io::Result<()> {
    let Some(monitor) = policies else { return std::future::pending().await };
    let mut ready = monitor.readable_mut().await?;
    // That there was nothing to read after all is a look for nothing.
    ready.try_io(|monitor| monitor.get_mut().read()).unwrap_or(Ok(()))
}

/// Why a change takes so long, if it does.
fn waited_for(nodes: &BTreeSet<&str>) -> Option<String> {
    let nodes: Vec<String> = nodes.iter().map(|node| (*node).to_owned()).collect();
    (!nodes.is_empty()).then(|| {
        format!(
            "the change of encapsulation waits, for {} s at most, for nodes that do not say that they are so far (annotations {TUNNELS_RECEIVED} \
             and {TUNNELS_SENT}): {}",
            PATIENCE.as_secs(),
            in_short(&nodes)
        )
    })
}

/// The first few of what is missing, which may be a route for each node: the log has them all.
fn in_short(missing: &[String]) -> String {
    let (first, rest) = missing.split_at(missing.len().min(MOST_TOLD));
    let first = first.join("; ");
    if rest.is_empty() { first } else { format!("{first}; and {} more", rest.len()) }
}
