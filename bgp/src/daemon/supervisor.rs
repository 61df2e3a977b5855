//! The task that starts and ends all others.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Duration, timeout};

use super::bfd::{BfdHandle, BfdStatus, Watched};
use super::bmp::{self, CollectorHandle};
use super::control_server::{self, ControlRequest};
use super::dump::{self, DumpError};
use super::interfaces::is_on_link;
use super::kernel::{self, KernelInput};
use super::listener::{Listener, PasswordError};
use super::metrics::{MetricsServer, Scrape, Scraped, Scrapes};
use super::rib_task::{self, Deferral, RibInput, Settings};
use super::session::{self, Command, Restart, SessionHandle};
use super::transport;
use super::view;
use super::{Options, RoutesOnExit};
use crate::bmp::TerminationReason;
use crate::config::{Checked, CheckedDynamic, CheckedNeighbor, Config, ConfigError};
use crate::control::{
    Explained, ExplainedAdvertisement, ExplainedPath, NeighborStatus, Request, Response, RouteView, Status,
};
use crate::family::{Family, FamilySet};
use crate::fsm::State;
use crate::prefix::Prefix;
use crate::rib::{Counts, Fib, MonitorId, PathView, PeerId, ReceivedView, Speaker};
use crate::wire::Notification;

/// Why the speaker cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The stand-alone configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The control socket cannot be made.
    #[error("make the control socket {path}")]
    Control {
        /// Where.
        path: PathBuf,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("listen on {address}; does another BGP speaker run on this host?")]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// The address for metrics cannot be listened on.
    #[error("serve metrics on {address}; is the port taken?")]
    Metrics {
        /// Which address.
        address: SocketAddr,
        /// The system call's error.
        #[source]
        source: io::Error,
    },
    /// The kernel does not take a neighbour's password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Signals cannot be caught.
    #[error("catch signals")]
    Signals(#[source] io::Error),
    /// BFD cannot begin.
    #[error("start the thread for BFD")]
    Bfd(#[source] io::Error),
    /// The kernel's routes cannot be reached.
    #[error("open the kernel's routing tables")]
    Kernel(#[source] margay_netlink::Error),
}

/// How long the kernel task may take at the end.
const END_TIME: Duration = Duration::from_secs(10);

struct Supervisor {
    config: Option<Checked>,
    listeners: BTreeMap<SocketAddr, Listener>,
    metrics: Option<MetricsServer>,
    scrapes: Scrapes,
    accepted: mpsc::Sender<TcpStream>,
    sessions: BTreeMap<IpAddr, SessionHandle>,
    next_peer: u32,
    rib: Option<mpsc::Sender<RibInput>>,
    rib_task: Option<JoinHandle<()>>,
    kernel: mpsc::Sender<KernelInput>,
    /// What the rib task and the kernel task show each other.
    shown: rib_task::Shown,
    /// Families for which the kernel forwarded while no speaker was there.
    kept: FamilySet,
    /// Whether neighbours need not be told any more that the speaker restarted.
    restart_over: Arc<AtomicBool>,
    /// From the first neighbour with BFD on.
    bfd: Option<BfdHandle>,
    collectors: BTreeMap<SocketAddr, CollectorHandle>,
    next_monitor: u32,
}

/// Runs the speaker until SIGTERM or SIGINT.
///
/// # Errors
/// When something it cannot do without is not to be had at the start.
pub async fn run(options: Options) -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    let path = &options.control;
    let socket =
        control_server::bind(path).map_err(|source| DaemonError::Control { path: path.clone(), source })?;
    let (accepted, mut connections) = mpsc::channel(256);
    let (scrapes, mut scraped) = mpsc::channel(4);
    let (kernel, kernel_inputs) = mpsc::channel(1);
    let (routes, shown_routes) = watch::channel(None);
    let (next_hops, shown_next_hops) = watch::channel(BTreeSet::new());
    let shown = kernel::Shown { routes, next_hops: shown_next_hops };
    let mut kernel_task = tokio::spawn(kernel::run(kernel_inputs, shown));
    let mut supervisor = Supervisor {
        config: None,
        listeners: BTreeMap::new(),
        metrics: None,
        scrapes,
        accepted,
        sessions: BTreeMap::new(),
        next_peer: 1,
        rib: None,
        rib_task: None,
        kernel,
        shown: rib_task::Shown { routes: shown_routes, next_hops },
        kept: FamilySet::EMPTY,
        restart_over: Arc::default(),
        bfd: None,
        collectors: BTreeMap::new(),
        next_monitor: 1,
    };
    if let Some(config) = &options.config {
        supervisor.configure(config).await?;
    }
    let (requests, mut control) = mpsc::channel(16);
    let server = tokio::spawn(control_server::serve(socket, requests));
    let result = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            ended = &mut kernel_task => {
                if let Ok(Err(error)) = ended {
                    break Err(DaemonError::Kernel(error));
                }
                break Ok(());
            }
            Some(stream) = connections.recv() => supervisor.accept(stream).await,
            Some(answer) = scraped.recv() => {
                // The scraper may be gone.
                drop(answer.send(supervisor.scrape().await));
            }
            Some(request) = control.recv() => supervisor.answer(request).await,
        }
    };
    tracing::info!("shutting down");
    server.abort();
    supervisor.end(options.routes_on_exit).await;
    // Left behind, it would be in the way of nobody.
    drop(std::fs::remove_file(path));
    result
}

impl Supervisor {
    async fn configure(&mut self, config: &Config) -> Result<(), DaemonError> {
        let checked = config.check()?;
        let passwords = checked.passwords();
        // What can fail comes first, so that a refusal changes nothing.
        let wanted: BTreeSet<SocketAddr> = checked.listen.iter().copied().collect();
        let mut opened = Vec::new();
        for address in wanted.iter().filter(|address| !self.listeners.contains_key(address)) {
            opened.push((*address, Listener::open(*address, &passwords, self.accepted.clone())?));
        }
        let mut neighbors =
            checked.neighbors.values().chain(checked.dynamic_neighbors.iter().map(CheckedDynamic::template));
        if self.bfd.is_none() && neighbors.any(|neighbor| neighbor.bfd.is_some()) {
            self.bfd = Some(BfdHandle::start().map_err(DaemonError::Bfd)?);
        }
        let metrics = match checked.metrics {
            Some(address) if self.metrics.as_ref().is_none_or(|server| server.address != address) => {
                let server = MetricsServer::open(address, self.scrapes.clone())
                    .map_err(|source| DaemonError::Metrics { address, source })?;
                Some(server)
            }
            Some(_) => self.metrics.take(),
            None => None,
        };
        self.metrics = metrics;
        self.listeners.extend(opened);
        self.listeners.retain(|address, _| wanted.contains(address));

        // A refusal here is the kernel's, for all keys or none: what was set before it serves the next attempt.
        for listener in self.listeners.values_mut() {
            listener.set_passwords(&passwords)?;
        }

        self.end_sessions_unlike(&checked).await;
        self.tell_kernel(KernelInput::Settings(checked.kernel)).await;
        let started: Vec<&CheckedNeighbor> = checked
            .neighbors
            .values()
            .filter(|neighbor| !self.sessions.contains_key(&neighbor.address))
            .collect();
        let first = self.config.is_none();
        if first {
            self.kept = self.kept(&checked).await;
        }
        let rib = self.rib(&checked);
        // Later ones are new to a speaker that has been there all the time.
        let kept = if first { self.kept } else { FamilySet::from_iter(Family::ALL) };
        let restart = first.then(|| self.restart(&checked));
        for neighbor in started {
            self.start(neighbor.clone(), rib.clone(), restart.clone(), kept);
        }
        let settings = Settings {
            speaker: speaker(&checked),
            networks: checked.networks.clone(),
            peers: self
                .sessions
                .iter()
                .filter(|(address, _)| checked.neighbors.contains_key(address))
                .map(|(_, session)| session.peer)
                .collect(),
            others: !checked.dynamic_neighbors.is_empty(),
            settle_time: Duration::from_secs(checked.kernel.settle_time.into()),
            options: checked.options,
            policies: self
                .sessions
                .values()
                .map(|session| (session.peer, session.neighbor.policy.clone()))
                .collect(),
            fib: if checked.kernel.install { Fib::Wanted } else { Fib::Unwanted },
        };
        self.tell_rib(RibInput::Settings(Box::new(settings))).await;
        self.watch_paths().await;
        self.start_collectors(&checked).await;
        tracing::info!(asn = %checked.asn, neighbors = checked.neighbors.len(), "configured");
        self.config = Some(checked);
        Ok(())
    }

    /// Ends the collectors that are gone or different, and starts those that are new.
    async fn start_collectors(&mut self, checked: &Checked) {
        let mut ending = Vec::new();
        for (address, handle) in std::mem::take(&mut self.collectors) {
            match checked.collectors.get(&address) {
                Some(wanted) if *wanted == handle.collector => drop(self.collectors.insert(address, handle)),
                Some(_) => ending.push((handle, TerminationReason::Administrative)),
                None => ending.push((handle, TerminationReason::ForGood)),
            }
        }
        bmp::end(ending).await;
        let Some(rib) = &self.rib else { return };
        for (address, collector) in &checked.collectors {
            if !self.collectors.contains_key(address) {
                let id = MonitorId(self.next_monitor);
                self.next_monitor += 1;
                self.collectors.insert(*address, bmp::start(id, collector.clone(), rib.clone()));
            }
        }
    }

    /// Has BFD watch the paths to all neighbours that want it.
    async fn watch_paths(&self) {
        let Some(bfd) = &self.bfd else { return };
        let watched = self.sessions.values().filter_map(|session| {
            Some(Watched {
                address: session.neighbor.address,
                local_address: session.neighbor.local_address,
                interface: session.neighbor.interface.clone(),
                bfd: session.neighbor.bfd?,
                status: session.bfd.clone(),
            })
        });
        bfd.watch(watched.collect()).await;
    }

    /// Families for which the kernel forwarded while no speaker was there. One that installs nothing, as a reflector
    /// beside the packets' way, stops no packet by being away.
    async fn kept(&self, checked: &Checked) -> FamilySet {
        if !checked.kernel.install {
            return FamilySet::from_iter(Family::ALL);
        }
        let (answer, answered) = oneshot::channel();
        self.tell_kernel(KernelInput::Adopted(answer)).await;
        answered.await.unwrap_or(FamilySet::EMPTY)
    }

    /// Ends the sessions whose neighbour is gone or different, and waits for them.
    async fn end_sessions_unlike(&mut self, checked: &Checked) {
        let mut ending = Vec::new();
        for (address, session) in std::mem::take(&mut self.sessions) {
            let notification = match checked.neighbor(address) {
                // The tables take other policies without the session's help.
                Some(neighbor) if neighbor.has_session_of(&session.neighbor) => {
                    let session = SessionHandle { neighbor, ..session };
                    self.sessions.insert(address, session);
                    continue;
                }
                Some(_) => Notification::other_configuration_change(),
                None => Notification::peer_deconfigured(),
            };
            ending.push((session, Command::Stop(notification)));
        }
        end_sessions(ending).await;
    }

    /// The way to the rib task, which is started with the first configuration.
    fn rib(&mut self, checked: &Checked) -> mpsc::Sender<RibInput> {
        let (kernel, shown, speaker) = (self.kernel.clone(), self.shown.clone(), speaker(checked));
        let deferral = Deferral { families: self.kept, restart: self.restart(checked) };
        let rib_task = &mut self.rib_task;
        self.rib
            .get_or_insert_with(|| {
                let (sender, inputs) = mpsc::channel(512);
                *rib_task = Some(tokio::spawn(rib_task::run(inputs, kernel, shown, speaker, deferral)));
                sender
            })
            .clone()
    }

    fn restart(&self, checked: &Checked) -> Restart {
        Restart { time: checked.deferral_time, over: Arc::clone(&self.restart_over) }
    }

    fn start(
        &mut self,
        neighbor: CheckedNeighbor,
        rib: mpsc::Sender<RibInput>,
        restart: Option<Restart>,
        kept: FamilySet,
    ) {
        let peer = PeerId(self.next_peer);
        self.next_peer += 1;
        let address = neighbor.address;
        let bfd = watch::Sender::new(BfdStatus::default());
        self.sessions.insert(address, session::start(peer, neighbor, rib, bfd, restart, kept));
    }

    async fn accept(&mut self, stream: TcpStream) {
        let Ok(peer) = stream.peer_addr() else { return };
        if !self.sessions.contains_key(&peer.ip()) {
            self.start_dynamic(peer.ip()).await;
        }
        match self.sessions.get(&peer.ip()) {
            Some(session) if is_on_link(peer, session.neighbor.interface.as_deref()) => {
                // A session that ended just now takes no connection.
                drop(session.commands.send(Command::Accepted(stream)).await);
            }
            _ => {
                tracing::debug!(%peer, "connection from an address that is no neighbour's");
                // RFC 4486 section 4: whoever dials should know that it is not the network that refuses.
                tokio::spawn(transport::refuse(stream));
            }
        }
    }

    /// Starts a session with whoever dials from a prefix of neighbours, unless there are as many as may be.
    async fn start_dynamic(&mut self, address: IpAddr) {
        let (Some(config), Some(rib)) = (&self.config, &self.rib) else { return };
        let Some(dynamic) = config.dynamic(address) else { return };
        let (neighbor, rib, prefix) = (dynamic.neighbor(address), rib.clone(), dynamic.prefix);
        let restart = Some(self.restart(config));
        let siblings: Vec<IpAddr> = self
            .sessions
            .keys()
            .filter(|other| !config.neighbors.contains_key(other))
            .filter(|other| config.dynamic(**other).is_some_and(|dynamic| dynamic.prefix == prefix))
            .copied()
            .collect();
        if siblings.len() >= dynamic.limit.try_into().unwrap_or(usize::MAX) {
            // One that is gone gives way; its routes, were they kept, go with it.
            let gone = siblings.into_iter().find(|other| self.sessions.get(other).is_some_and(is_gone));
            let Some(session) = gone.and_then(|gone| self.sessions.remove(&gone)) else {
                tracing::warn!(%address, %prefix, "too many neighbours of the prefix");
                return;
            };
            end_sessions(vec![(session, Command::Stop(Notification::peer_deconfigured()))]).await;
        }
        self.start(neighbor, rib, restart, self.kept);
        self.watch_paths().await;
    }

    async fn answer(&mut self, ControlRequest { request, answer }: ControlRequest) {
        let response = match request {
            Request::Dump(path) => return self.dump(path, answer),
            Request::Configure(config) => match self.configure(&config).await {
                Ok(()) => Response::Configured,
                Err(error) => Response::Error(in_one_line(&error)),
            },
            Request::Status => Response::Status(self.status().await),
            Request::Routes => Response::Routes(self.routes().await),
            Request::Received(address) => self.routes_of(address, RibInput::Received).await,
            Request::Advertised(address) => self.routes_of(address, RibInput::Advertised).await,
            Request::Explain(prefix) => Response::Explained(self.explain(prefix).await),
            Request::Reset(address) => self.reset(address).await,
            Request::Refresh(address) => self.refresh(address).await,
        };
        // The client may be gone.
        drop(answer.send(response));
    }

    async fn status(&self) -> Status {
        let counts = self.ask_rib(RibInput::Counts).await.unwrap_or_default();
        let neighbors = self.sessions.values().map(|session| {
            let status = session.status.borrow();
            let Counts { received, accepted, advertised, .. } =
                counts.get(&session.peer).copied().unwrap_or_default();
            NeighborStatus {
                address: session.neighbor.address,
                remote_as: session.neighbor.remote_as,
                state: status.state.name().to_owned(),
                since_seconds: status.since.elapsed().as_secs(),
                prefixes_received: received,
                prefixes_accepted: accepted,
                prefixes_advertised: advertised,
                last_error: status.last_error.clone(),
                bfd: view::bfd(&session.bfd.borrow()),
                flaps: status.tally.down,
                messages: [status.tally.received, session.sent.load(Ordering::Relaxed)],
                negotiated: status.negotiated.as_ref().map(view::negotiated),
            }
        });
        Status {
            configured: self.config.is_some(),
            router_id: self.config.as_ref().map(|config| config.router_id),
            asn: self.config.as_ref().map(|config| config.asn),
            neighbors: neighbors.collect(),
            collectors: self.collectors.values().map(view::collector).collect(),
        }
    }

    async fn routes(&self) -> Vec<RouteView> {
        let paths = self.ask_rib(RibInput::Paths).await.unwrap_or_default();
        let addresses: BTreeMap<PeerId, IpAddr> =
            self.sessions.iter().map(|(address, session)| (session.peer, *address)).collect();
        paths.iter().map(|path| view::route(path, &addresses)).collect()
    }

    async fn scrape(&self) -> Scrape {
        let (counts, sizes) = self.ask_rib(RibInput::Tally).await.unwrap_or_default();
        let neighbors = self.sessions.iter().map(|(address, session)| {
            let status = session.status.borrow();
            let of = |family| Some((family, *counts.get(&(session.peer, family))?));
            Scraped {
                neighbor: address.to_string(),
                state: status.state.name(),
                established: status.state == State::Established,
                tally: status.tally,
                sent: session.sent.load(Ordering::Relaxed),
                bfd: session.bfd.borrow().clone(),
                counts: Family::ALL.into_iter().filter_map(of).collect(),
            }
        });
        let collectors = self.collectors.iter();
        let collectors = collectors.map(|(address, handle)| (*address, handle.state.borrow().clone()));
        Scrape { neighbors: neighbors.collect(), collectors: collectors.collect(), sizes }
    }

    async fn routes_of(
        &self,
        address: IpAddr,
        question: impl FnOnce(PeerId, oneshot::Sender<Vec<ReceivedView>>) -> RibInput,
    ) -> Response {
        let Some(session) = self.sessions.get(&address) else { return no_neighbor(address) };
        let views = self.ask_rib(|answer| question(session.peer, answer)).await.unwrap_or_default();
        let path = |view: ReceivedView| PathView {
            prefix: view.prefix,
            peer: session.peer,
            path_id: view.path_id,
            attributes: view.attributes,
            best: false,
            multipath: false,
            stale: false,
        };
        let addresses = BTreeMap::from([(session.peer, address)]);
        Response::Routes(views.into_iter().map(|view| view::route(&path(view), &addresses)).collect())
    }

    async fn explain(&self, prefix: Prefix) -> Explained {
        let addresses: BTreeMap<PeerId, IpAddr> =
            self.sessions.iter().map(|(address, session)| (session.peer, *address)).collect();
        let peers = self.sessions.values().map(|session| session.peer).collect();
        let report = self.ask_rib(|answer| RibInput::Explain(prefix, peers, answer)).await;
        let mut explained = Explained { prefix, paths: Vec::new(), advertisements: Vec::new() };
        let Some(report) = report else { return explained };
        let name = |peer: PeerId| addresses.get(&peer).map_or("(own)".to_owned(), IpAddr::to_string);
        for path in report.paths {
            let state = match (path.used, path.lost_at) {
                (true, None) => "best",
                (true, Some(_)) => "multipath",
                (false, _) => "unused",
            };
            explained.paths.push(ExplainedPath {
                neighbor: addresses.get(&path.path.peer).copied(),
                path_id: path.path.path_id,
                state: state.to_owned(),
                reason: path.lost_at.map(|step| step.to_string()),
                lost_to: path.lost_to.map(|other| name(other.peer)),
            });
        }
        explained.paths.extend(report.refused.into_iter().map(|refused| ExplainedPath {
            neighbor: addresses.get(&refused.peer).copied(),
            path_id: refused.path_id,
            state: "rejected".to_owned(),
            reason: Some(refused.decided),
            lost_to: None,
        }));
        for (peer, advertisement) in report.advertisements {
            let Some(to) = addresses.get(&peer).copied() else { continue };
            explained.advertisements.push(ExplainedAdvertisement {
                to,
                from: addresses.get(&advertisement.path.peer).copied(),
                path_id: advertisement.path.path_id,
                told: advertisement.withheld.is_none(),
                reason: advertisement.withheld.map(|withheld| withheld.to_string()),
                decided: advertisement.decided,
            });
        }
        explained
    }

    async fn reset(&mut self, address: IpAddr) -> Response {
        let Some(rib) = self.rib.clone() else { return no_neighbor(address) };
        let Some(session) = self.sessions.remove(&address) else { return no_neighbor(address) };
        let neighbor = session.neighbor.clone();
        end_sessions(vec![(session, Command::Stop(Notification::administrative_reset()))]).await;
        self.start(neighbor, rib, None, FamilySet::from_iter(Family::ALL));
        self.watch_paths().await;
        Response::Done
    }

    /// Writes the tables to a file, while everything else goes on.
    fn dump(&self, path: PathBuf, answer: oneshot::Sender<Response>) {
        let rib = self.rib.clone();
        tokio::spawn(async move {
            let written = match rib {
                Some(rib) => dump::write(rib, &path).await,
                None => Err(DumpError::NoTables),
            };
            // The client may be gone.
            drop(answer.send(match written {
                Ok(()) => Response::Done,
                Err(error) => Response::Error(in_one_line(&error)),
            }));
        });
    }

    async fn refresh(&self, address: IpAddr) -> Response {
        let Some(session) = self.sessions.get(&address) else { return no_neighbor(address) };
        let (answer, answered) = oneshot::channel();
        // A session that ended just now answers nothing.
        drop(session.commands.send(Command::Refresh(answer)).await);
        match answered.await {
            Ok(Ok(())) => Response::Done,
            Ok(Err(reason)) => Response::Error(format!("refresh {address}: {reason}")),
            Err(_) => Response::Error(format!("refresh {address}: the session ends")),
        }
    }

    async fn ask_rib<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> RibInput) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.rib.as_ref()?.send(question(answer)).await.ok()?;
        answered.await.ok()
    }

    async fn tell_rib(&self, input: RibInput) {
        if let Some(rib) = &self.rib {
            // Gone only when the speaker ends.
            drop(rib.send(input).await);
        }
    }

    async fn tell_kernel(&self, input: KernelInput) {
        // Gone only after a failure that ends the speaker.
        drop(self.kernel.send(input).await);
    }

    /// Says goodbye to the neighbours and leaves the kernel's routes as they should stay.
    async fn end(mut self, routes: RoutesOnExit) {
        self.listeners.clear();
        let collectors = std::mem::take(&mut self.collectors).into_values();
        bmp::end(collectors.map(|handle| (handle, TerminationReason::Administrative)).collect()).await;
        // The tables go first: what the sessions' end does to them must not reach the kernel.
        if let Some(task) = self.rib_task.take() {
            task.abort();
        }
        // Neighbours stop sending before routes that their packets need may go.
        let message = self.config.as_ref().and_then(|config| config.shutdown_message.as_deref());
        let notification = Notification::shutdown_communication(message.unwrap_or_default());
        let command = |notification| match routes {
            RoutesOnExit::Keep => Command::Restart(notification),
            RoutesOnExit::Remove => Command::Stop(notification),
        };
        let sessions = std::mem::take(&mut self.sessions).into_values();
        end_sessions(sessions.map(|session| (session, command(notification.clone()))).collect()).await;
        // Last, as a neighbour that hears no BFD may think that its routes to us are broken.
        if let Some(bfd) = self.bfd.take() {
            bfd.end().await;
        }
        let (answer, answered) = oneshot::channel();
        let kernel = async {
            self.tell_kernel(KernelInput::End(routes, answer)).await;
            // No answer means that the task is gone, and with it the work.
            drop(answered.await);
        };
        if timeout(END_TIME, kernel).await.is_err() {
            tracing::warn!("the kernel's routes could not be finished in {END_TIME:?}");
        }
    }
}

/// Whether the neighbour has no connection.
fn is_gone(session: &SessionHandle) -> bool {
    matches!(session.status.borrow().state, State::Idle | State::Active)
}

async fn end_sessions(ending: Vec<(SessionHandle, Command)>) {
    let mut tasks = Vec::new();
    for (session, command) in ending {
        // A task that is gone has ended already.
        drop(session.commands.send(command).await);
        tasks.push(session.task);
    }
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!(%error, "session task");
        }
    }
}

fn speaker(checked: &Checked) -> Speaker {
    Speaker { cluster_id: checked.cluster_id, ..Speaker::new(checked.asn, checked.router_id) }
}

fn no_neighbor(address: IpAddr) -> Response {
    Response::Error(format!("{address} is no neighbour; `margayctl bgp neighbors` has them"))
}

fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
