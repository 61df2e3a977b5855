//! Keeps the annotation of the own Node as the kernel and the agent's settings have it.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use anyhow::Context;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use margay_api::{
    annotation::{self, NODE_IPS},
    endpoint::HOST_IFNAME_PREFIX,
};
use margay_netlink::{
    Event as KernelEvent, Group, Monitor, Socket, addr,
    link::{self, Link},
    route::Protocol,
};
use serde_json::json;
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, watch},
    task::spawn_blocking,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{info, warn};

use super::{
    choose::{Conditions, Found, choose},
    method::{Method, NodeAddress},
};
use crate::{
    config::Settings,
    core::Event,
    facts::Facts,
    node_status,
    notice::{Notices, Reason},
    watch::{
        Identity,
        drift::{self, watched},
    },
};

/// An address that goes and comes back within this time, as when a lease is renewed, is no change.
const QUIET: Duration = Duration::from_secs(1);
/// How long a write may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between a write and the next: the watch shows what the last one did before, unless it failed.
const PAUSE: Duration = Duration::from_secs(2);
/// Any, as nothing is sent there: for which route it is makes no difference.
const PORT: u16 = 9;

/// Follows the kernel and the Node object for ever.
pub(crate) async fn run(
    mut settings: watch::Receiver<Settings>,
    client: Client,
    mut facts: watch::Receiver<Facts>,
    events: mpsc::Sender<Event>,
    notices: Notices,
) -> anyhow::Result<()> {
    let at_start = settings.borrow_and_update().clone();
    let methods = at_start.node_address;
    let mut monitor = monitor_for(&methods)?;
    let mut reconcile = interval(at_start.reconcile);
    reconcile.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut task = Task {
        api: Api::all(client),
        node_name: at_start.node_name,
        methods,
        events,
        notices,
        chosen: None,
        told: None,
        write_error: None,
        not_before: Instant::now(),
    };
    let mut due: Option<Instant> = None;
    loop {
        tokio::select! {
            changed = facts.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                due = Some(Instant::now());
            }
            changed = settings.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                let methods = settings.borrow_and_update().node_address.clone();
                if methods == task.methods {
                    continue;
                }
                monitor = monitor_for(&methods)?;
                task.methods = methods;
                due = Some(Instant::now());
            }
            _ = reconcile.tick() => due = Some(due.unwrap_or_else(Instant::now)),
            concerns = heard(&mut monitor, &task.methods) => {
                if concerns? {
                    due = Some(due.unwrap_or_else(|| Instant::now() + QUIET));
                }
                continue;
            }
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        if due.is_none_or(|due| due > Instant::now()) {
            continue;
        }
        let node = facts.borrow_and_update().node.clone();
        due = None;
        let Some(node) = node else { continue };
        match task.attempt(&node).await {
            Ok(Outcome::Settled) => {}
            Ok(Outcome::Again) => due = Some(task.not_before),
            // The look at each reconcile comes back to it.
            Err(error) => warn!("{error:#}; trying again"),
        }
    }
}

/// What is heard of the kernel. Where objects say it all, it is not asked; the annotation of an agent that was told something else
/// goes.
fn monitor_for(methods: &NodeAddress) -> anyhow::Result<Option<AsyncFd<Monitor>>> {
    if methods.is_kubernetes() {
        return Ok(None);
    }
    Ok(Some(watched(Monitor::open(&[Group::Links, Group::Addresses, Group::Routes])?)?))
}

/// Waits for changes in the kernel; whether one of them may be of an address of the node.
async fn heard(monitor: &mut Option<AsyncFd<Monitor>>, methods: &NodeAddress) -> io::Result<bool> {
    match monitor {
        Some(monitor) => drift::heard(monitor, |event| concerns(event, methods)).await,
        None => std::future::pending().await,
    }
}

fn concerns(event: &KernelEvent, methods: &NodeAddress) -> bool {
    let is_pods = |link: &Link| link.name.starts_with(HOST_IFNAME_PREFIX);
    match event {
        KernelEvent::LinkChanged(link) | KernelEvent::LinkGone(link) => !is_pods(link),
        KernelEvent::AddressChanged(_) | KernelEvent::AddressGone(_) | KernelEvent::Lost => true,
        // Those to pods come and go with them. What the speaker learns is seen at the next look.
        KernelEvent::RouteChanged(route) | KernelEvent::RouteGone(route) => {
            let is_ours =
                [Protocol::MARGAY, Protocol::MARGAY_OVERLAY, Protocol::BGP].contains(&route.protocol);
            methods.follows_routes() && !is_ours
        }
        _ => false,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Settled,
    /// Something is to be written, and may be after a while.
    Again,
}

struct Task {
    api: Api<Node>,
    node_name: String,
    methods: NodeAddress,
    events: mpsc::Sender<Event>,
    notices: Notices,
    /// What was chosen last; `None` before the first time.
    chosen: Option<Vec<IpAddr>>,
    /// What the core was told.
    told: Option<Result<(), String>>,
    write_error: Option<String>,
    not_before: Instant,
}

impl Task {
    /// Chooses, and writes what differs from what the node's object says.
    async fn attempt(&mut self, node: &Identity) -> anyhow::Result<Outcome> {
        // What cannot be read is written anew.
        let said = node.node_ips.as_deref();
        let present = said.and_then(|text| annotation::node_ips(text).ok()).unwrap_or_default();
        // What others write there is no choice of this agent's; what an earlier one of its kind wrote is.
        let known = self.chosen.clone().unwrap_or_else(|| present.clone());
        let (wanted, faults) = self.wanted(&known).await?;
        self.chosen = Some(wanted.clone());
        let text = (!wanted.is_empty())
            .then(|| wanted.iter().map(ToString::to_string).collect::<Vec<_>>().join(","));
        let differs = text.as_deref() != said;
        let mut outcome = Outcome::Settled;
        if !differs {
            self.write_error = None;
        } else if Instant::now() < self.not_before {
            outcome = Outcome::Again;
        } else {
            outcome = Outcome::Again;
            self.not_before = Instant::now() + PAUSE;
            self.write(node, text.as_deref()).await;
        }
        let missing = if !faults.is_empty() {
            Err(faults.join("; "))
        } else if let Some(error) = self.write_error.as_ref().filter(|_| differs) {
            Err(format!("write the annotation {NODE_IPS} of Node {}: {error}; trying again", self.node_name))
        } else if present.len() < wanted.len() {
            // The watch tells in a moment: what the core was told at the start stays.
            return Ok(outcome);
        } else {
            Ok(())
        };
        self.tell(missing).await;
        Ok(outcome)
    }

    /// The addresses that the object is to name, and why one of a family cannot be found. What others know stays then.
    async fn wanted(&self, present: &[IpAddr]) -> anyhow::Result<(Vec<IpAddr>, Vec<String>)> {
        if self.methods.is_kubernetes() {
            return Ok((Vec::new(), Vec::new()));
        }
        let methods = self.methods.clone();
        let (found, sources) = spawn_blocking(move || {
            let found = found()?;
            let sources = [true, false].map(|is_ipv4| match methods.method(is_ipv4) {
                Method::CanReach(address) => source(*address).ok(),
                _ => None,
            });
            anyhow::Ok((found, sources))
        })
        .await?
        .context("look which addresses the node has")?;
        let (mut wanted, mut faults) = (Vec::new(), Vec::new());
        for (is_ipv4, source) in [true, false].into_iter().zip(sources) {
            let conditions = Conditions { found: &found, present, source };
            match choose(self.methods.method(is_ipv4), is_ipv4, &conditions) {
                Ok(address) => wanted.extend(address),
                Err(fault) => {
                    wanted.extend(present.iter().filter(|address| address.is_ipv4() == is_ipv4));
                    faults.push(fault);
                }
            }
        }
        Ok((wanted, faults))
    }

    async fn write(&mut self, node: &Identity, text: Option<&str>) {
        let annotations = json!({NODE_IPS: text});
        match node_status::annotate(&self.api, &self.node_name, node, annotations, PATIENCE).await {
            Ok(()) => {
                info!(
                    address = text.unwrap_or("its InternalIP"),
                    "other nodes reach this one at another address"
                );
                self.write_error = None;
            }
            Err(error) => {
                if self.write_error.is_none() {
                    warn!(%error, "the annotation {NODE_IPS} of the node cannot be written; trying again");
                }
                self.write_error = Some(error);
            }
        }
    }

    async fn tell(&mut self, outcome: Result<(), String>) {
        if self.told.as_ref() == Some(&outcome) {
            return;
        }
        if let Err(error) = &outcome {
            warn!("{error}");
            self.notices.of_node(Reason::NO_NODE_ADDRESS, error);
        }
        self.told = Some(outcome.clone());
        // A core that has ended takes no more notice.
        drop(self.events.send(Event::NodeAddress(outcome)).await);
    }
}

/// The addresses that may be the node's.
fn found() -> anyhow::Result<Vec<Found>> {
    let mut socket = Socket::open()?;
    let links = link::list(&mut socket)?;
    let addresses = addr::list(&mut socket)?.into_iter();
    let lasting = addresses
        .filter(|it| it.global && it.state == addr::State::Preferred && !it.network.ip().is_loopback());
    let found = lasting.filter_map(|address| {
        let link = links.iter().find(|link| link.index == address.link && link.up)?;
        Some(Found {
            interface: link.name.clone(),
            link: link.index,
            network: address.network,
            secondary: address.secondary,
        })
    });
    Ok(found.collect())
}

/// What the node sends to an address from; nothing is sent.
fn source(to: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((to, PORT))?;
    Ok(socket.local_addr()?.ip())
}
