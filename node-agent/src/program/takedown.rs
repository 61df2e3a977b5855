//! Takes pods' links down for the plugin, which hears when a link is gone and not when the kernel has done with it.
//!
//! ```text
//!  takeDown ─> link deleted on a thread ─┬─> the kernel says that it is gone ─> answer
//!                                        └─> the kernel returns ─> sweep: connections forgotten, addresses freed
//! ```
//!
//! A link is gone within a millisecond of the request, with its addresses and routes; the kernel then waits some
//! 20 ms for all processors before the request returns. Nobody needs to wait for that. The look through the table
//! of connections, which takes 5 ms where it is empty, is one for all pods that wait for it, at most ten times a second.
//!
//! An agent that dies here leaves links and addresses without a record, which [`super::leak`] takes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use margay_api::{
    agent::Response,
    endpoint::{EndpointId, Records},
    lock::EndpointLock,
};
use margay_ipam::{Owner, Store};
use margay_netlink::{
    Socket, conntrack,
    link::{self, IfName},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{debug, warn};

use crate::core::Event;

/// Owners that may wait for a sweep; what does not fit is found by the reconcile.
const QUEUE: usize = 4096;

/// The pods that are being taken down.
#[derive(Debug)]
pub(crate) struct Takedowns {
    events: mpsc::Sender<Event>,
    sweep: mpsc::Sender<Owner>,
    pending: BTreeMap<EndpointId, Vec<oneshot::Sender<Response>>>,
}

/// Shortest time from one sweep to the next.
const PACE: Duration = Duration::from_millis(100);

/// What happened to a take-down.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The kernel has done with the link.
    LinkDeleted { owner: Owner, outcome: Result<(), String> },
    /// Nothing is left of these.
    Swept(Vec<Owner>),
}

impl Takedowns {
    /// The state, and the task that sweeps.
    pub(crate) fn new(
        run_dir: PathBuf,
        store: Store,
        events: mpsc::Sender<Event>,
    ) -> (Self, impl Future<Output = anyhow::Result<()>>) {
        let (sweep, owners) = mpsc::channel(QUEUE);
        let sweeper = sweeper(run_dir, store, owners, events.clone());
        (Self { events, sweep, pending: BTreeMap::new() }, sweeper)
    }

    /// Begins to take down the link of an endpoint whose record is gone.
    pub(crate) fn begin(&mut self, owner: Owner, answer: oneshot::Sender<Response>) {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let events = self.events.clone();
        let name = id.host_ifname();
        self.pending.entry(id).or_default().push(answer);
        tokio::spawn(async move {
            let outcome = match spawn_blocking(move || delete_link(&name)).await {
                Ok(outcome) => outcome,
                Err(panic) => Err(panic.to_string()),
            };
            // A core that has ended takes no more notice.
            drop(events.send(Event::Takedown(Progress::LinkDeleted { owner, outcome })).await);
        });
    }

    /// Those that have begun and not ended: neither their links nor their addresses are leaked.
    pub(crate) fn pending(&self) -> BTreeSet<EndpointId> {
        self.pending.keys().cloned().collect()
    }

    /// The kernel says that the link of an endpoint is gone; true when that was to be.
    pub(crate) fn link_gone(&mut self, id: &EndpointId) -> bool {
        let Some(answers) = self.pending.get_mut(id) else { return false };
        for answer in answers.drain(..) {
            drop(answer.send(Response::Done));
        }
        true
    }

    /// Takes note of how far one has come.
    pub(crate) fn note(&mut self, progress: Progress) {
        match progress {
            Progress::LinkDeleted { owner, outcome: Ok(()) } => {
                let id = EndpointId::of(owner.container_id(), owner.ifname());
                self.link_gone(&id);
                if self.sweep.try_send(owner).is_err() {
                    self.pending.remove(&id);
                }
            }
            Progress::LinkDeleted { owner, outcome: Err(reason) } => {
                let id = EndpointId::of(owner.container_id(), owner.ifname());
                for answer in self.pending.remove(&id).unwrap_or_default() {
                    drop(answer.send(Response::Refused { reason: reason.clone() }));
                }
            }
            Progress::Swept(owners) => {
                for owner in owners {
                    let id = EndpointId::of(owner.container_id(), owner.ifname());
                    // Another call for it may have come meanwhile, and its answer is still owed.
                    if self.pending.get(&id).is_some_and(Vec::is_empty) {
                        self.pending.remove(&id);
                    }
                }
            }
        }
    }
}

fn delete_link(name: &str) -> Result<(), String> {
    let name: IfName = name.parse().map_err(|error| format!("link {name}: {error}"))?;
    let outcome = Socket::open().and_then(|mut socket| socket.execute(&link::delete(&name)));
    match outcome {
        Err(error) if !error.is_gone() => Err(error.to_string()),
        _ => Ok(()),
    }
}

async fn sweeper(
    run_dir: PathBuf,
    store: Store,
    mut owners: mpsc::Receiver<Owner>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while let Some(first) = owners.recv().await {
        pace.tick().await;
        let mut batch = vec![first];
        while let Ok(next) = owners.try_recv() {
            batch.push(next);
        }
        let (run_dir, store) = (run_dir.clone(), store.clone());
        let batch = spawn_blocking(move || {
            if let Err(error) = sweep(&run_dir, &store, &batch) {
                warn!("addresses of deleted pods stay held until the next look: {error:#}");
            }
            batch
        });
        if events.send(Event::Takedown(Progress::Swept(batch.await?))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Connections, then addresses: an address becomes free only when nothing is remembered that would pass for it.
fn sweep(run_dir: &Path, store: &Store, owners: &[Owner]) -> anyhow::Result<()> {
    let wanted: BTreeSet<&Owner> = owners.iter().collect();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for allocation in store.allocations()? {
        if allocation.owner.as_ref().is_some_and(|owner| wanted.contains(owner)) {
            addresses.insert(allocation.address);
        }
    }
    if let Err(error) = conntrack::forget(&addresses) {
        debug!(%error, "connections of deleted pods stay until they time out");
    }
    let records = Records::below(run_dir);
    for owner in wanted {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        // The plugin's call ends, or an ADD that came after it: then the address is that one's.
        let lock = EndpointLock::take(run_dir, &id)?;
        if records.read(&id)?.is_none() {
            store.release(owner)?;
        }
        lock.forget();
    }
    Ok(())
}
