//! The task that makes the kernel's routes match the tables.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;
use margay_netlink::route::{self, Filter, Protocol, Route, TableId};
use margay_netlink::{Error, Event, Group, Monitor, Request, Socket};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant};

use super::RoutesOnExit;
use super::kernel_plan::{KernelPlan, Operation};
use super::kernel_routes::{is_other, kernel_routes};
use super::timer::until;
use crate::config::Kernel;
use crate::family::FamilySet;
use crate::prefix::Prefix;
use crate::rib::{FibChange, KernelRoutes};

/// What the kernel task is told.
#[derive(Debug)]
pub(super) enum KernelInput {
    /// Where routes go; the first one opens the way for all others.
    Settings(Kernel),
    /// Wanted routes that may have changed.
    Routes(Vec<FibChange>),
    /// Which families have routes of an earlier run; asked behind the first settings.
    Adopted(oneshot::Sender<FamilySet>),
    /// All neighbours have told what they know, or had the time to.
    Settled,
    /// The speaker ends; answered once the routes are as they should stay.
    End(RoutesOnExit, oneshot::Sender<()>),
}

/// Time from a refusal to the next attempt, unless a change of links or addresses comes first.
const RETRY: Duration = Duration::from_secs(5);
/// Changes by others are looked at once for all that come within this time.
const QUIET: Duration = Duration::from_millis(100);

/// Requests that are in memory at a time.
const PIECE: usize = 512;

/// The agent's pod links: no router is behind one, and they come and go all the time.
const POD_LINK: &str = "mgy";

/// What next hops are resolved by: the routes of others, `None` while next hops are not resolved.
pub(super) type ShownRoutes = Option<Arc<KernelRoutes>>;

/// The kernel task's ends of what it and the rib task show each other.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) routes: watch::Sender<ShownRoutes>,
    /// Next hops in use.
    pub(super) next_hops: watch::Receiver<BTreeSet<IpAddr>>,
}

struct KernelTask {
    plan: KernelPlan,
    shown: Shown,
    /// Routes of others changed that lead to no next hop, so what was shown is not all true any more.
    unseen: bool,
    /// Missing only after a failure to exchange messages; then a new one is opened.
    socket: Option<Socket>,
    retry: Option<Instant>,
    /// When to look at what is really there.
    look: Option<Instant>,
}

/// Runs until all senders are gone, or told to end.
///
/// # Errors
/// When the kernel gives no netlink socket.
pub(super) async fn run(mut inputs: mpsc::Receiver<KernelInput>, shown: Shown) -> Result<(), Error> {
    let Some(settings) = first_settings(&mut inputs).await else { return Ok(()) };
    let monitor = Monitor::open(&[Group::Links, Group::Addresses, Group::Routes])?;
    // Thousands of our own changes would come back one by one. A socket that takes the place of this one after a
    // failure is not ignored, which costs time alone.
    let socket = Socket::open()?;
    monitor.ignore(&socket)?;
    let mut monitor = watched(monitor).map_err(Error::Open)?;
    let mut task = KernelTask {
        plan: KernelPlan::new(settings),
        shown,
        unseen: false,
        socket: Some(socket),
        retry: None,
        look: None,
    };
    task.refresh().await;
    let mut events = Vec::new();
    loop {
        tokio::select! {
            input = inputs.recv() => match input {
                None => return Ok(()),
                Some(KernelInput::Settings(settings)) => task.configure(settings).await,
                Some(KernelInput::Routes(changes)) => task.plan.change(changes),
                Some(KernelInput::Adopted(answer)) => {
                    if answer.send(task.plan.adopted()).is_err() {
                        tracing::debug!("the supervisor did not wait for what was adopted");
                    }
                    continue;
                }
                Some(KernelInput::Settled) => task.plan.settle(),
                Some(KernelInput::End(routes, answer)) => {
                    task.end(routes).await;
                    report_end(answer);
                    return Ok(());
                }
            },
            read = monitor.async_io_mut(Interest::READABLE, |monitor| monitor.read(&mut events)) => {
                if let Err(error) = read {
                    tracing::warn!(%error, "read changes in the kernel");
                    events.push(Event::Lost);
                }
                task.notice(events.drain(..));
                continue;
            }
            Ok(()) = task.shown.next_hops.changed() => {
                if task.unseen && task.look.is_none() {
                    task.look = Some(Instant::now() + QUIET);
                }
                continue;
            }
            () = until(task.look) => task.refresh().await,
            () = until(task.retry) => {}
        }
        task.apply().await;
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe because a type may close or exchange its descriptor; a monitor owns the one it has"
)]
fn watched(monitor: Monitor) -> io::Result<AsyncFd<Monitor>> {
    AsyncFd::new(monitor)
}

/// Before the first settings there is nothing to do but to end.
async fn first_settings(inputs: &mut mpsc::Receiver<KernelInput>) -> Option<Kernel> {
    loop {
        match inputs.recv().await? {
            KernelInput::Settings(settings) => return Some(settings),
            KernelInput::End(_, answer) => report_end(answer),
            // The tables say nothing before they are configured, which is after us.
            KernelInput::Routes(_) | KernelInput::Adopted(_) | KernelInput::Settled => {}
        }
    }
}

fn report_end(answer: oneshot::Sender<()>) {
    if answer.send(()).is_err() {
        tracing::debug!("the supervisor did not wait for the end of the kernel task");
    }
}

/// A prefix as netlink wants it.
pub(super) fn destination(prefix: Prefix) -> IpNetwork {
    // A prefix never has more bits than its address.
    IpNetwork::new(prefix.address(), prefix.length()).unwrap_or_else(|_| IpNetwork::from(prefix.address()))
}

impl KernelTask {
    /// Plans a look at the kernel if what others did may concern our routes.
    fn notice(&mut self, events: impl Iterator<Item = Event>) {
        for event in events {
            let concerns = match event {
                Event::RouteGone(route) => self.plan.concerns(&route) || self.concerns_next_hop(&route),
                Event::RouteChanged(route) => self.concerns_next_hop(&route),
                Event::LinkChanged(link) | Event::LinkGone(link) => !link.name.starts_with(POD_LINK),
                Event::AddressChanged(_) | Event::AddressGone(_) | Event::Lost => true,
                Event::NeighbourChanged(_)
                | Event::NeighbourGone(_)
                | Event::QdiscChanged(_)
                | Event::QdiscGone(_)
                | Event::ForwardingChanged(_)
                | Event::ForwardingGone(_) => false,
            };
            if concerns && self.look.is_none() {
                self.look = Some(Instant::now() + QUIET);
            }
        }
    }

    /// Whether it is a route of others to a next hop. What there is beside is looked at when a next hop comes.
    fn concerns_next_hop(&mut self, route: &Route) -> bool {
        if !is_other(route, self.plan.settings()) {
            return false;
        }
        let next_hops = self.shown.next_hops.borrow();
        let concerns = next_hops.iter().any(|address| route.destination.contains(*address));
        self.unseen |= !concerns;
        concerns
    }

    /// Moves routes to where the new settings want them.
    async fn configure(&mut self, settings: Kernel) {
        let old = *self.plan.settings();
        if old == settings {
            return;
        }
        let moved =
            (old.table, old.protocol, old.metric) != (settings.table, settings.protocol, settings.metric);
        if moved {
            let removal = self.plan.removal();
            self.execute(removal).await;
        }
        self.plan.reset(settings, moved);
        self.refresh().await;
    }

    /// Reads our routes from the kernel, and those of others by which next hops are reached.
    async fn refresh(&mut self) {
        self.look = None;
        self.unseen = false;
        let settings = *self.plan.settings();
        let (table, protocol) = (TableId(settings.table), Protocol(settings.protocol));
        let read = move |socket: &mut Socket| {
            let every = Filter { table: Some(TableId::MAIN), protocol: None };
            let main = route::list(socket, every)?;
            let (others, mut ours): (Vec<Route>, Vec<Route>) =
                main.into_iter().partition(|route| is_other(route, &settings));
            if table != TableId::MAIN {
                ours = route::list(socket, Filter { table: Some(table), protocol: Some(protocol) })?;
            }
            Ok((ours, kernel_routes(&others, &settings)))
        };
        match self.blocking(read).await {
            Some((ours, others)) => {
                self.plan.found(ours);
                self.show(settings.install.then(|| Arc::new(others)));
            }
            None => self.look = Some(Instant::now() + RETRY),
        }
    }

    fn show(&self, routes: ShownRoutes) {
        self.shown.routes.send_if_modified(|shown| {
            let changed = *shown != routes;
            *shown = routes;
            changed
        });
    }

    async fn apply(&mut self) {
        let operations = self.plan.plan();
        if !operations.is_empty() {
            self.execute(operations).await;
        }
        self.retry = self.plan.is_dirty().then(|| Instant::now() + RETRY);
    }

    async fn end(&mut self, routes: RoutesOnExit) {
        match routes {
            RoutesOnExit::Keep => self.apply().await,
            RoutesOnExit::Remove => {
                let removal = self.plan.removal();
                self.execute(removal).await;
            }
        }
    }

    async fn execute(&mut self, operations: Vec<Operation>) {
        let operations = Arc::new(operations);
        let shared = Arc::clone(&operations);
        let exchange = move |socket: &mut Socket| {
            let mut results = Vec::with_capacity(shared.len());
            for piece in shared.chunks(PIECE) {
                let requests: Vec<Request> = piece.iter().map(Operation::request).collect();
                results.append(&mut socket.execute_all(&requests)?);
            }
            Ok(results)
        };
        let results = self.blocking(exchange).await;
        let operations = Arc::unwrap_or_clone(operations);
        let Some(results) = results else {
            // Nobody knows how far it came: look, which marks all that differs.
            self.plan.undone(operations);
            self.look = Some(Instant::now() + RETRY);
            return;
        };
        for (operation, result) in operations.into_iter().zip(results) {
            self.plan.done(operation, result);
        }
    }

    /// Runs a netlink exchange on a thread that may block; `None` after a failure, which is logged.
    async fn blocking<T: Send + 'static>(
        &mut self,
        exchange: impl FnOnce(&mut Socket) -> Result<T, Error> + Send + 'static,
    ) -> Option<T> {
        let socket = self.socket.take();
        let exchanged = tokio::task::spawn_blocking(move || {
            let mut socket = match socket {
                Some(socket) => socket,
                None => Socket::open()?,
            };
            let result = exchange(&mut socket)?;
            Ok::<_, Error>((socket, result))
        });
        match exchanged.await {
            Ok(Ok((socket, result))) => {
                self.socket = Some(socket);
                Some(result)
            }
            Ok(Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "talk to the kernel about routes");
                None
            }
            // The runtime is shutting down.
            Err(_) => None,
        }
    }
}
