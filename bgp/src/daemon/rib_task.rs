//! The task that owns the routing tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Duration, Instant};

use super::clock;
use super::convergence::{Convergence, Marks};
use super::kernel::{KernelInput, ShownRoutes};
use super::sender::Sender;
use super::session::Restart;
use super::timer::until;
use crate::bmp::{DownReason, Opened, Timestamp};
use crate::family::{Family, FamilySet};
use crate::prefix::Prefix;
use crate::rib::{
    Advertisement, Counts, DecisionOptions, Dump, Excess, Explanation, Fib, LimitReached, MonitorId,
    PathView, PeerId, PeerInfo, Policies, ReceivedView, Refused, Rib, Sizes, Speaker, Tallies, Tracking,
    Views,
};
use crate::wire::OwnedUpdate;

/// What a collector is given.
#[derive(Debug)]
pub(super) enum MonitorDelivery {
    /// Messages to send; the next come when these are written.
    Messages(Vec<u8>),
    /// More waits for it than is kept, and the session is to end.
    Lost,
}

/// The way to a collector.
#[derive(Debug)]
pub(super) struct Station {
    pub(super) outlet: Outlet,
    /// Where to say how many routes that changed wait for it.
    pub(super) waiting: Arc<AtomicUsize>,
}

/// How a session began, for collectors.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) opened: Opened,
    pub(super) time: Timestamp,
}

/// UPDATEs of a peer, as many as one read brought.
#[derive(Debug)]
pub(super) struct Updates {
    pub(super) peer: PeerId,
    pub(super) messages: Vec<OwnedUpdate>,
    /// Whether more can be read at once.
    pub(super) more: bool,
}

/// What the tables are told or asked.
#[derive(Debug)]
pub(super) enum RibInput {
    /// The configuration, as far as the tables care.
    Settings(Box<Settings>),
    /// A session came up.
    Up { peer: PeerId, info: Box<PeerInfo>, marks: Marks, outlet: SessionOutlet, beginning: Box<Beginning> },
    /// The same session is over, for collectors; what becomes of its paths comes next.
    Ended { peer: PeerId, reason: DownReason, time: Timestamp },
    /// A session ended; paths of the families to retain stay, stale, and all others go.
    Down { peer: PeerId, retain: Option<FamilySet> },
    /// Stale paths of these families go. Happens by itself at End-of-RIB.
    Sweep { peer: PeerId, families: FamilySet },
    /// Stale paths of these families become those of last resort (RFC 9494).
    LongLived { peer: PeerId, families: FamilySet },
    /// The peer begins to tell all of a family again (RFC 7313): what it said before is stale.
    RefreshBegins { peer: PeerId, family: Family },
    /// The peer has told all of a family again: what is still stale goes.
    RefreshEnds { peer: PeerId, family: Family },
    /// UPDATEs arrived.
    Updates(Updates),
    /// The first KEEPALIVE arrived on an established session.
    Keepalive { peer: PeerId },
    /// The peer wants to be told all again.
    Refresh { peer: PeerId, family: Family },
    /// The same, between two marks (RFC 7313).
    EnhancedRefresh { peer: PeerId, family: Family },
    /// A batch was handed to the socket of a peer or a collector, and the tables wait for that.
    Written,
    /// A collector is there, and wants to know all.
    BeginMonitor { id: MonitorId, views: Views, station: Station },
    /// It is gone.
    EndMonitor(MonitorId),
    /// It is due a report of statistics.
    MonitorStatistics(MonitorId),
    /// How many prefixes each peer announced and was announced.
    Counts(oneshot::Sender<BTreeMap<PeerId, Counts>>),
    /// What a peer announced, before the import policy.
    Received(PeerId, oneshot::Sender<Vec<ReceivedView>>),
    /// What a peer is told.
    Advertised(PeerId, oneshot::Sender<Vec<ReceivedView>>),
    /// What became of the paths to a prefix.
    Explain(Prefix, Vec<PeerId>, oneshot::Sender<PrefixReport>),
    /// How many paths there are, by peer and family, and what the tables hold.
    Tally(oneshot::Sender<(Tallies, Sizes)>),
    /// Begin a dump at this time (seconds since 1970).
    BeginDump(u32, oneshot::Sender<(Dump, Vec<u8>)>),
    /// The next part of a dump; `None` behind the last.
    NextDump(Dump, oneshot::Sender<Option<(Dump, Vec<u8>)>>),
    /// All paths.
    Paths(oneshot::Sender<Vec<PathView>>),
}

/// The configuration, as far as the tables care.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) speaker: Speaker,
    pub(super) networks: BTreeMap<Prefix, bool>,
    pub(super) peers: BTreeSet<PeerId>,
    /// Whether neighbours may come of whom nobody knows before.
    pub(super) others: bool,
    pub(super) settle_time: Duration,
    /// Whether the kernel is told anything.
    pub(super) fib: Fib,
    pub(super) options: DecisionOptions,
    /// Of all sessions that there are; one that starts later brings its own.
    pub(super) policies: BTreeMap<PeerId, Policies>,
}

/// What became of the paths to a prefix.
#[derive(Debug)]
pub(super) struct PrefixReport {
    pub(super) paths: Vec<Explanation>,
    pub(super) refused: Vec<Refused>,
    pub(super) advertisements: Vec<(PeerId, Advertisement)>,
}

/// How long messages that are not full may wait for what is still being read.
const HOLD: Duration = Duration::from_millis(20);

/// Inputs taken together, before anything is decided or sent.
const INPUTS: usize = 1024;

/// The way to a session.
#[derive(Debug)]
pub(super) struct SessionOutlet {
    /// Gone with its connection.
    pub(super) sender: Weak<Sender>,
    /// Takes the word that the peer announces more than it may, and the session is to end.
    pub(super) limits: mpsc::Sender<LimitReached>,
}

/// The way to a collector.
#[derive(Debug)]
pub(super) struct Outlet {
    deliveries: mpsc::Sender<MonitorDelivery>,
    /// Set when there was no room: the collector's task then says when there is.
    waiting: Arc<AtomicBool>,
}

/// The other end of an [`Outlet`].
#[derive(Debug)]
pub(super) struct Inlet {
    pub(super) deliveries: mpsc::Receiver<MonitorDelivery>,
    waiting: Arc<AtomicBool>,
}

/// Batches on their way to a collector, beside the one that is written.
const BATCHES: usize = 1;

/// A way with room for batches and one word about its end.
pub(super) fn outlet() -> (Outlet, Inlet) {
    let (sender, receiver) = mpsc::channel(BATCHES + 1);
    let waiting = Arc::new(AtomicBool::new(false));
    (Outlet { deliveries: sender, waiting: Arc::clone(&waiting) }, Inlet { deliveries: receiver, waiting })
}

impl Outlet {
    fn is_full(&self) -> bool {
        self.deliveries.capacity() <= 1
    }

    #[cfg(test)]
    pub(super) fn send(&self, delivery: MonitorDelivery) {
        assert!(self.deliveries.try_send(delivery).is_ok(), "there is no room");
    }

    /// Whether a batch can go; if not, the collector's task will say when.
    fn is_ready(&self) -> bool {
        if self.is_full() {
            self.waiting.store(true, Ordering::SeqCst);
            // Room that was made before the task could see that is seen here.
            return !self.is_full();
        }
        true
    }
}

impl Inlet {
    /// Whether the tables wait for room; they are to be told once.
    pub(super) fn is_awaited(&self) -> bool {
        self.waiting.swap(false, Ordering::SeqCst)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Settling {
    NotConfigured,
    Until(Instant),
    /// The kernel task must be told.
    Over,
    Done,
}

/// The rib task's ends of what it and the kernel task show each other.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) routes: watch::Receiver<ShownRoutes>,
    /// Next hops in use.
    pub(super) next_hops: watch::Sender<BTreeSet<IpAddr>>,
}

struct RibTask {
    rib: Rib,
    next_hops: watch::Sender<BTreeSet<IpAddr>>,
    convergence: Convergence,
    policies: BTreeMap<PeerId, Policies>,
    settling: Settling,
    /// When what neighbours told is selected and told at the latest; `None` once that is done.
    deferred_until: Option<Instant>,
    /// Whether neighbours need not be told any more that the speaker restarted.
    restart_over: Arc<AtomicBool>,
    outlets: BTreeMap<PeerId, SessionOutlet>,
    collectors: BTreeMap<MonitorId, Station>,
    /// Peers of which more can be read at once.
    reading: BTreeSet<PeerId>,
    /// When messages that are not full are sent whatever is still being read.
    held_until: Option<Instant>,
}

/// What the tables do first after a restart (RFC 4724 section 4.1).
#[derive(Clone, Debug)]
pub(super) struct Deferral {
    /// Families of which the neighbours may still have what the speaker told them before.
    pub(super) families: FamilySet,
    /// How long the tables wait for the neighbours at most, and where they say that they wait no more.
    pub(super) restart: Restart,
}

/// Runs until all senders are gone.
pub(super) async fn run(
    mut inputs: mpsc::Receiver<RibInput>,
    kernel: mpsc::Sender<KernelInput>,
    shown: Shown,
    speaker: Speaker,
    deferral: Deferral,
) {
    let Shown { mut routes, next_hops } = shown;
    let mut rib = Rib::new(speaker);
    rib.defer(deferral.families);
    let mut task = RibTask {
        rib,
        next_hops,
        convergence: Convergence::default(),
        policies: BTreeMap::new(),
        settling: Settling::NotConfigured,
        deferred_until: Some(Instant::now() + deferral.restart.time),
        restart_over: deferral.restart.over,
        outlets: BTreeMap::new(),
        collectors: BTreeMap::new(),
        reading: BTreeSet::new(),
        held_until: None,
    };
    let mut batch = Vec::with_capacity(INPUTS);
    loop {
        let settled_at = match task.settling {
            // What is still deferred has not reached the kernel, and must not look unwanted there.
            Settling::Until(at) if task.deferred_until.is_none() => Some(at),
            _ => None,
        };
        tokio::select! {
            taken = inputs.recv_many(&mut batch, INPUTS) => {
                if taken == 0 {
                    return;
                }
                for input in batch.drain(..) {
                    task.take(input);
                }
            }
            permit = kernel.reserve(), if task.has_kernel_input() => match permit {
                Ok(permit) => permit.send(task.kernel_input()),
                Err(_) => return,
            },
            Ok(()) = routes.changed() => {
                let routes = routes.borrow_and_update().clone();
                task.rib.set_kernel_routes(routes);
            }
            () = until(settled_at) => task.settling = Settling::Over,
            () = until(task.deferred_until) => task.proceed(),
            () = until(task.held_until) => {}
        }
        task.flush(inputs.is_empty());
        // Sessions that have something to send now come before what else has arrived.
        tokio::task::yield_now().await;
    }
}

impl RibTask {
    fn take(&mut self, input: RibInput) {
        match input {
            RibInput::Settings(settings) => {
                let Settings { speaker, networks, peers, others, settle_time, fib, options, policies } =
                    *settings;
                self.rib.set_speaker(speaker);
                self.rib.set_fib(fib);
                self.rib.set_options(options);
                self.rib.set_policies(&policies);
                self.policies = policies;
                self.rib.originate(networks);
                self.convergence.configure(peers, others);
                if self.settling == Settling::NotConfigured {
                    self.settling = Settling::Until(Instant::now() + settle_time);
                }
            }
            RibInput::Up { peer, mut info, marks, outlet, beginning } => {
                // Its task knows those of its own start.
                if let Some(policies) = self.policies.get(&peer) {
                    info.policy = policies.clone();
                }
                self.convergence.up(peer, info.families, marks);
                self.outlets.insert(peer, outlet);
                self.rib.peer_up(peer, *info);
                self.rib.session_opened(peer, &beginning.opened, beginning.time);
            }
            RibInput::Ended { peer, reason, time } => self.rib.session_ended(peer, &reason, time),
            RibInput::Down { peer, retain } => {
                self.convergence.down(peer);
                self.outlets.remove(&peer);
                self.reading.remove(&peer);
                self.rib.peer_down(peer, retain);
            }
            RibInput::Sweep { peer, families } => self.rib.sweep(peer, families),
            RibInput::LongLived { peer, families } => self.rib.long_lived(peer, families),
            RibInput::RefreshBegins { peer, family } => {
                self.rib.mark_stale(peer, FamilySet::from_iter([family]));
            }
            RibInput::RefreshEnds { peer, family } => {
                self.rib.sweep(peer, FamilySet::from_iter([family]));
            }
            RibInput::Updates(updates) => self.updates(updates),
            RibInput::Keepalive { peer } => self.convergence.keepalive(peer),
            RibInput::Refresh { peer, family } => self.rib.refresh(peer, family),
            RibInput::EnhancedRefresh { peer, family } => self.rib.enhanced_refresh(peer, family),
            // What there is for it goes out with all other news.
            RibInput::Written => {}
            RibInput::BeginMonitor { id, views, station } => {
                self.collectors.insert(id, station);
                self.rib.begin_monitor(id, views, clock::timestamp());
            }
            RibInput::EndMonitor(id) => {
                self.collectors.remove(&id);
                self.rib.end_monitor(id);
            }
            RibInput::MonitorStatistics(id) => self.rib.monitor_statistics(id, clock::timestamp()),
            RibInput::Counts(answer) => {
                let counts = self.outlets.keys().map(|peer| (*peer, self.rib.counts(*peer))).collect();
                // Whoever asked may have gone away.
                drop(answer.send(counts));
            }
            RibInput::Tally(answer) => drop(answer.send(self.rib.tally())),
            RibInput::Received(peer, answer) => drop(answer.send(self.rib.received(peer))),
            RibInput::Advertised(peer, answer) => drop(answer.send(self.rib.advertised(peer))),
            RibInput::Explain(prefix, peers, answer) => {
                let paths = self.rib.explain(prefix);
                let told = |peer: PeerId| {
                    let advertisements = self.rib.advertisements(prefix, peer).into_iter();
                    advertisements.map(move |advertisement| (peer, advertisement)).collect::<Vec<_>>()
                };
                let advertisements = peers.into_iter().flat_map(told).collect();
                let refused = self.rib.refused(prefix);
                drop(answer.send(PrefixReport { paths, refused, advertisements }));
            }
            RibInput::BeginDump(time, answer) => drop(answer.send(self.rib.begin_dump(time))),
            RibInput::NextDump(mut dump, answer) => {
                let part = self.rib.next_dump(&mut dump);
                drop(answer.send(part.map(|octets| (dump, octets))));
            }
            RibInput::Paths(answer) => {
                self.rib.decide();
                drop(answer.send(self.rib.paths()));
            }
        }
    }

    fn updates(&mut self, Updates { peer, messages, more }: Updates) {
        for update in messages {
            if let Some(family) = update.end_of_rib {
                self.convergence.end_of_rib(peer, family);
            }
            self.rib.update(peer, update);
        }
        if more {
            self.reading.insert(peer);
        } else {
            self.reading.remove(&peer);
        }
    }

    /// Ends the sessions of peers that announce more than they may.
    fn enforce_limits(&mut self) {
        for reached in self.rib.take_limits_reached() {
            tracing::warn!(peer = %reached.peer, received = reached.received, limit = ?reached.limit, "prefix limit");
            if reached.excess == Excess::Beyond
                && reached.limit.enforced
                && let Some(outlet) = self.outlets.get(&reached.peer)
                && let Err(error) = outlet.limits.try_send(reached)
            {
                tracing::debug!(%error, "the session ends already");
            }
        }
    }

    /// Encodes what is not in full messages yet, unless more of the same may come at once.
    fn write_pending(&mut self, idle: bool) {
        if !self.rib.is_pending() {
            self.held_until = None;
        } else if idle && self.reading.is_empty() || self.held_until.is_some_and(|at| at <= Instant::now()) {
            self.held_until = None;
            self.rib.write_pending();
        } else if self.held_until.is_none() {
            self.held_until = Some(Instant::now() + HOLD);
        }
    }

    /// Selects and tells what was deferred.
    fn proceed(&mut self) {
        self.deferred_until = None;
        self.restart_over.store(true, Ordering::SeqCst);
        if self.rib.proceed() {
            tracing::info!("telling the neighbours what others told");
        }
    }

    /// Gives each peer that can take one its next batch of messages.
    fn flush(&mut self, idle: bool) {
        self.enforce_limits();
        if self.deferred_until.is_some() && self.convergence.may_tell() {
            self.proceed();
        }
        if matches!(self.settling, Settling::Until(_)) && self.convergence.is_reached() {
            tracing::info!("all neighbours have told their routes");
            self.settling = Settling::Over;
        }
        self.rib.decide();
        self.write_pending(idle);
        for (peer, outlet) in &self.outlets {
            if !self.rib.has_news(*peer) {
                continue;
            }
            // Without a connection the end of the session is on its way to us.
            let Some(sender) = outlet.sender.upgrade() else { continue };
            while self.rib.has_news(*peer) && sender.has_room() {
                let Some(batch) = self.rib.export(*peer) else { break };
                sender.send(batch);
            }
        }
        if !self.collectors.is_empty() {
            self.tell_collectors();
        }
        self.show_next_hops();
        self.rib.tidy();
    }

    /// Gives each collector that can take one its next batch of messages.
    fn tell_collectors(&mut self) {
        let mut lost = Vec::new();
        for (id, Station { outlet, waiting }) in &self.collectors {
            if self.rib.monitor_is_lost(*id) {
                lost.push(*id);
                continue;
            }
            while self.rib.monitor_has_news(*id) && outlet.is_ready() {
                let Some(batch) = self.rib.monitor_batch(*id, clock::timestamp()) else { break };
                // A closed channel belongs to a collector whose end is on its way to us.
                if outlet.deliveries.try_send(MonitorDelivery::Messages(batch)).is_err() {
                    break;
                }
            }
            waiting.store(self.rib.monitor_waiting(*id), Ordering::Relaxed);
        }
        for id in lost {
            self.rib.end_monitor(id);
            if let Some(Station { outlet, .. }) = self.collectors.remove(&id)
                && let Err(error) = outlet.deliveries.try_send(MonitorDelivery::Lost)
            {
                tracing::debug!(%error, "the session with the collector ends already");
            }
        }
    }

    /// Shows the kernel task which next hops there are.
    fn show_next_hops(&mut self) {
        let changes = self.rib.take_tracking();
        self.next_hops.send_if_modified(|next_hops| {
            let changed = !changes.is_empty();
            for change in changes {
                match change {
                    Tracking::Begin(address) => drop(next_hops.insert(address)),
                    Tracking::End(address) => drop(next_hops.remove(&address)),
                }
            }
            changed
        });
    }

    fn has_kernel_input(&self) -> bool {
        self.rib.has_fib_changes() || self.settling == Settling::Over
    }

    /// Changes first: what is settled is settled with them.
    fn kernel_input(&mut self) -> KernelInput {
        if self.rib.has_fib_changes() {
            return KernelInput::Routes(self.rib.take_fib_changes());
        }
        self.settling = Settling::Done;
        KernelInput::Settled
    }
}
