//! Keeps tunnels and routes to other nodes' pods as they are wanted: a task of its own.
//!
//! ```text
//!   core --Paths (nodes, blocks, encapsulations)--> task --> decide/overlay (pure): Ways
//!   kernel --links, addresses, what others do-------->  |      with the kernel's addresses and MTU
//!                                                       +--> difference (pure) --> kernel: devices, entries, routes
//!              core <--Event::Overlay (the tunnels are there, or why not)
//! ```
//! It owns the devices `margay.vxlan4` and `margay.vxlan6`, all that is on them, and the routes of its protocol number in
//! the main table; what else there is it never touches. What is there is read at every attempt, so that it needs not know
//! what an earlier agent wrote, and mends what others do.

mod difference;
mod kernel;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use margay_api::endpoint::HOST_IFNAME_PREFIX;
use margay_netlink::{
    Event as KernelEvent, Group, Monitor, Socket,
    link::{IfIndex, Link},
    route::Protocol,
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use self::kernel::{Applied, Settings};
use crate::{config, core::Event, decide::Paths, metrics::Metrics, traffic::Routing, watch::drift::watched};

/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);
/// How long after a pool's encapsulation has changed all agents have heard of it. Watches tell within milliseconds; this is for
/// an API server that has much to do.
const SPREAD: Duration = Duration::from_secs(5);
/// Changes by others are looked at once for all that come within this time.
const QUIET: Duration = Duration::from_millis(100);

/// Follows `paths` until the core is gone.
pub(crate) async fn run(
    settings: config::Settings,
    mut paths: watch::Receiver<Option<Arc<Paths>>>,
    events: mpsc::Sender<Event>,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let monitor = Monitor::open(&[Group::Links, Group::Addresses, Group::Routes, Group::Neighbours])?;
    let socket = Socket::open()?;
    // A socket that takes the place of this one after a failure is not ignored: that costs a look for nothing.
    monitor.ignore(&socket)?;
    let mut monitor = watched(monitor)?;
    let mut task = Task {
        settings: Settings {
            traffic: settings.traffic,
            has_speaker: settings.bgp.enabled,
            mtu: settings.mtu,
        },
        socket: Some(socket),
        metrics,
        done: None,
        tunnels: BTreeSet::new(),
        problems: BTreeSet::new(),
        told: None,
        due: None,
        changing: None,
    };
    let mut reconcile = interval(settings.reconcile);
    reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = Vec::new();
    loop {
        tokio::select! {
            changed = paths.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                task.due = Some(Instant::now());
            }
            _ = reconcile.tick() => if !task.is_idle() { task.due = Some(Instant::now()) },
            ready = monitor.readable_mut() => {
                match ready?.try_io(|monitor| monitor.get_mut().read(&mut seen)) {
                    Ok(read) => read?,
                    Err(_would_block) => continue,
                }
                let concerns = seen.drain(..).filter(|event| task.concerns(event)).count() > 0;
                if concerns && !task.is_idle() {
                    let soon = Instant::now() + QUIET;
                    task.due = Some(task.due.map_or(soon, |due| due.min(soon)));
                }
                continue;
            }
            () = sleep_until(task.due.unwrap_or_else(Instant::now)), if task.due.is_some() => {}
        }
        if task.due.is_none_or(|due| due > Instant::now()) {
            continue;
        }
        let wanted = paths.borrow_and_update().clone();
        let Some(wanted) = wanted else {
            task.due = None;
            continue;
        };
        let outcome = task.attempt(&wanted).await;
        if task.told.as_ref() != Some(&outcome) {
            task.told = Some(outcome.clone());
            if events.send(Event::Overlay(outcome)).await.is_err() {
                return Ok(());
            }
        }
    }
}

struct Task {
    settings: Settings,
    /// Missing only after a failure; then a new one is opened.
    socket: Option<Socket>,
    metrics: Arc<Metrics>,
    /// What the kernel was last made to hold.
    done: Option<Arc<Paths>>,
    tunnels: BTreeSet<IfIndex>,
    /// What is known to be wrong, so that it is told once.
    problems: BTreeSet<String>,
    /// What the core was told.
    told: Option<Result<(), String>>,
    /// When the next attempt is made, if there is anything to do.
    due: Option<Instant>,
    /// Until when it is not certain that all nodes know that there are tunnels, or no more.
    changing: Option<Instant>,
}

impl Task {
    /// Whether all ways are the speaker's: what others do is nothing to us then, and a look at all routes is not cheap.
    fn is_idle(&self) -> bool {
        self.settings.traffic.routing == Routing::Bgp
            && self.done.as_ref().is_some_and(|paths| !paths.has_tunnels)
    }

    /// Whether a change may be one of ours, or of what ours follow.
    fn concerns(&self, event: &KernelEvent) -> bool {
        let is_pods = |link: &Link| link.name.starts_with(HOST_IFNAME_PREFIX);
        match event {
            KernelEvent::LinkChanged(link) | KernelEvent::LinkGone(link) => !is_pods(link),
            KernelEvent::AddressChanged(_) | KernelEvent::AddressGone(_) | KernelEvent::Lost => true,
            KernelEvent::QdiscChanged(_) | KernelEvent::QdiscGone(_) => false,
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

    /// What is made of the paths for now. When tunnels come, every node has them before any sends through them; when they go,
    /// none sends through them any more before any takes them away. An agent that starts knows of no change.
    fn phase(&mut self, wanted: &Arc<Paths>) -> Arc<Paths> {
        let now = Instant::now();
        let before = self.done.as_ref().filter(|done| done.has_tunnels != wanted.has_tunnels);
        let Some(before) = before else {
            self.changing = None;
            return Arc::clone(wanted);
        };
        let until = *self.changing.get_or_insert(now + SPREAD);
        if until <= now {
            self.changing = None;
            return Arc::clone(wanted);
        }
        Arc::new(if wanted.has_tunnels { wanted.receiving() } else { wanted.lingering(before) })
    }

    /// Whether the tunnels are there; if not, why.
    async fn attempt(&mut self, wanted: &Arc<Paths>) -> Result<(), String> {
        let phase = self.phase(wanted);
        self.due = self.changing;
        match self.apply(&phase).await {
            Ok(applied) => {
                let Applied { changes, faults, problems, tunnels } = applied;
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
                self.tell(problems.into_iter().chain(faults.iter().cloned()).collect());
                if faults.is_empty() {
                    if self.changing.is_none() {
                        self.done = Some(Arc::clone(wanted));
                    }
                    return Ok(());
                }
                self.due = Some(Instant::now() + RETRY);
                Err(faults.join("; "))
            }
            Err(error) => {
                self.socket = None;
                self.due = Some(Instant::now() + RETRY);
                let error = format!("{error:#}");
                if self.told.as_ref() != Some(&Err(error.clone())) {
                    error!("the ways to other nodes' pods cannot be made: {error}; trying again");
                }
                Err(error)
            }
        }
    }

    /// On a thread that may block: a thousand nodes are a few thousand entries.
    async fn apply(&mut self, wanted: &Arc<Paths>) -> anyhow::Result<Applied> {
        let (socket, paths, settings) = (self.socket.take(), Arc::clone(wanted), self.settings.clone());
        let (socket, applied) = spawn_blocking(move || {
            let mut socket = match socket {
                Some(socket) => socket,
                None => Socket::open()?,
            };
            let applied = kernel::apply(&mut socket, &paths, &settings)?;
            Ok::<_, anyhow::Error>((socket, applied))
        })
        .await??;
        self.socket = Some(socket);
        Ok(applied)
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
