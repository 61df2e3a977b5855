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
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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
    run_dir: PathBuf,
    events: mpsc::Sender<Event>,
    sweep: mpsc::Sender<Owner>,
    pending: Pending,
}

/// Those that have begun and not ended, with who waits for them: neither their links nor their addresses are leaked.
/// Shared with the reconcile, as one may begin after that did, and with who hears the kernel.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending(Arc<Mutex<BTreeMap<EndpointId, Vec<oneshot::Sender<Response>>>>>);

impl Pending {
    #[cfg(test)]
    pub(crate) fn of(id: EndpointId) -> Self {
        let pending = Self::default();
        pending.lock().insert(id, Vec::new());
        pending
    }

    pub(crate) fn contains(&self, id: &EndpointId) -> bool {
        self.lock().contains_key(id)
    }

    /// The kernel says that the link of an endpoint is gone; true when that was to be. Who waits for it is answered at
    /// once, whatever the core is at.
    pub(crate) fn link_gone(&self, id: &EndpointId) -> bool {
        let mut pending = self.lock();
        let Some(answers) = pending.get_mut(id) else { return false };
        for answer in answers.drain(..) {
            drop(answer.send(Response::Done));
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Vec<oneshot::Sender<Response>>>> {
        // Each change is one call of a map, so that a panic leaves none half made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shortest time from one sweep to the next.
const PACE: Duration = Duration::from_millis(100);
/// Owners of one sweep, each with a lock held.
const BATCH: usize = 256;

/// What happened to a take-down.
#[derive(Debug)]
pub(crate) enum Progress {
    /// The kernel has done with the link.
    LinkDeleted { owner: Owner, outcome: Result<(), String> },
    /// Nothing is left of these.
    Swept(BTreeSet<Owner>),
}

impl Takedowns {
    /// The state, and the task that sweeps.
    pub(crate) fn new(
        run_dir: PathBuf,
        store: Store,
        events: mpsc::Sender<Event>,
    ) -> (Self, impl Future<Output = anyhow::Result<()>>) {
        let (sweep, owners) = mpsc::channel(QUEUE);
        let sweeper = sweeper(run_dir.clone(), store, owners, events.clone());
        (Self { run_dir, events, sweep, pending: Pending::default() }, sweeper)
    }

    /// Begins to take down the link of an endpoint whose record is gone.
    pub(crate) fn begin(&mut self, owner: Owner, answer: oneshot::Sender<Response>) {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let (run_dir, events) = (self.run_dir.clone(), self.events.clone());
        self.pending.lock().entry(id.clone()).or_default().push(answer);
        tokio::spawn(async move {
            let outcome = match spawn_blocking(move || delete_link(&run_dir, &id)).await {
                Ok(outcome) => outcome,
                Err(panic) => Err(panic.to_string()),
            };
            // A core that has ended takes no more notice.
            drop(events.send(Event::Takedown(Progress::LinkDeleted { owner, outcome })).await);
        });
    }

    pub(crate) fn pending(&self) -> Pending {
        self.pending.clone()
    }

    /// Takes note of how far one has come.
    pub(crate) fn note(&mut self, progress: Progress) {
        match progress {
            Progress::LinkDeleted { owner, outcome: Ok(()) } => {
                let id = EndpointId::of(owner.container_id(), owner.ifname());
                self.pending.link_gone(&id);
                if self.sweep.try_send(owner).is_err() {
                    self.pending.lock().remove(&id);
                }
            }
            Progress::LinkDeleted { owner, outcome: Err(reason) } => {
                let id = EndpointId::of(owner.container_id(), owner.ifname());
                let answers = self.pending.lock().remove(&id);
                for answer in answers.unwrap_or_default() {
                    drop(answer.send(Response::Refused { reason: reason.clone() }));
                }
            }
            Progress::Swept(owners) => {
                let mut pending = self.pending.lock();
                for owner in owners {
                    let id = EndpointId::of(owner.container_id(), owner.ifname());
                    // Another call for it may have come meanwhile, and its answer is still owed.
                    if pending.get(&id).is_some_and(Vec::is_empty) {
                        pending.remove(&id);
                    }
                }
            }
        }
    }
}

/// The plugin may have given up long ago, and an ADD of the same interface have come since. That one writes its record
/// before it makes its link, so a link found while there is no record is not its; and no other link ever has the index.
fn delete_link(run_dir: &Path, id: &EndpointId) -> Result<(), String> {
    let name = id.host_ifname();
    let name: IfName = name.parse().map_err(|error| format!("link {name}: {error}"))?;
    let mut socket = Socket::open().map_err(|error| error.to_string())?;
    let Some(link) = link::by_name(&mut socket, &name).map_err(|error| error.to_string())? else {
        return Ok(());
    };
    if !matches!(Records::below(run_dir).read(id), Ok(None)) {
        return Err(format!("endpoint {id} has a record: it was added again"));
    }
    match socket.execute(&link::delete_by_index(link.index)) {
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
    let mut waiting = BTreeSet::new();
    loop {
        if waiting.is_empty() {
            let Some(first) = owners.recv().await else { return Ok(()) };
            waiting.insert(first);
        }
        pace.tick().await;
        while waiting.len() < BATCH
            && let Ok(next) = owners.try_recv()
        {
            waiting.insert(next);
        }
        let (run_dir, store) = (run_dir.clone(), store.clone());
        let swept = spawn_blocking(move || {
            let busy = sweep(&run_dir, &store, &waiting).unwrap_or_else(|error| {
                warn!("addresses of deleted pods stay held until the next look: {error:#}");
                BTreeSet::new()
            });
            waiting.retain(|owner| !busy.contains(owner));
            (waiting, busy)
        });
        let (swept, busy) = swept.await?;
        waiting = busy;
        if events.send(Event::Takedown(Progress::Swept(swept))).await.is_err() {
            return Ok(());
        }
    }
}

/// Connections, then addresses: an address becomes free only when nothing is remembered that would pass for it.
/// Gives back those that a call is at: the DEL is about to end, or an ADD came after it and may take long.
fn sweep(run_dir: &Path, store: &Store, owners: &BTreeSet<Owner>) -> anyhow::Result<BTreeSet<Owner>> {
    let records = Records::below(run_dir);
    let mut busy = BTreeSet::new();
    let mut locked = BTreeMap::new();
    for owner in owners {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let Some(lock) = EndpointLock::try_take(run_dir, &id)? else {
            busy.insert(owner.clone());
            continue;
        };
        // With a record the address is that of an ADD that came after.
        if matches!(records.read(&id), Ok(None)) {
            locked.insert(owner, lock);
        }
    }
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for allocation in store.allocations()? {
        if allocation.owner.as_ref().is_some_and(|owner| locked.contains_key(owner)) {
            addresses.insert(allocation.address);
        }
    }
    if let Err(error) = conntrack::forget(&addresses) {
        debug!(%error, "connections of deleted pods stay until they time out");
    }
    for (owner, lock) in locked {
        store.release(owner)?;
        lock.forget();
    }
    Ok(busy)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path, thread};

    use margay_api::{
        endpoint::{Endpoint, EndpointId, Records},
        lock::EndpointLock,
    };
    use margay_ipam::{Owner, Store};
    use margay_netlink::{
        Socket,
        link::{self, Bridge, IfName},
    };
    use nix::sched::{CloneFlags, unshare};

    use super::{delete_link, sweep};

    fn record(run_dir: &Path, container: &str) -> EndpointId {
        let id = EndpointId::of(container, "eth0");
        let endpoint = Endpoint {
            container_id: container.into(),
            ifname: "eth0".into(),
            network: "margay".into(),
            netns: String::new(),
            host_ifname: id.host_ifname(),
            mac: String::new(),
            host_mac: String::new(),
            addresses: vec![],
            mtu: 1500,
            pod: None,
        };
        Records::below(run_dir).write(&endpoint).unwrap();
        id
    }

    #[test]
    fn a_take_down_that_comes_late_leaves_the_link_of_the_add_after_it() {
        let dir = tempfile::tempdir().unwrap();
        thread::scope(|scope| {
            let test = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .expect("a network namespace of its own: run the tests as root");
                let mut socket = Socket::open().unwrap();
                let id = record(dir.path(), "again");
                let name: IfName = id.host_ifname().parse().unwrap();
                socket.execute(&link::add_bridge(&Bridge { name: &name })).unwrap();
                assert!(delete_link(dir.path(), &id).unwrap_err().contains("added again"));
                assert!(link::by_name(&mut socket, &name).unwrap().is_some());
                Records::below(dir.path()).remove(&id).unwrap();
                for _ in 0..2 {
                    delete_link(dir.path(), &id).unwrap();
                    assert_eq!(link::by_name(&mut socket, &name).unwrap(), None);
                }
            });
            if let Err(panic) = test.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    #[test]
    fn a_call_that_takes_long_keeps_no_address_of_another_pod_held() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("ipam"));
        store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
        let owners: BTreeSet<Owner> =
            ["busy", "gone", "again"].map(|container| Owner::new(container, "eth0").unwrap()).into();
        for owner in &owners {
            store.allocate(owner, &[]).unwrap();
        }
        let held = || {
            let allocations = store.allocations().unwrap().into_iter();
            allocations.map(|held| held.owner.unwrap().container_id().to_owned()).collect::<BTreeSet<_>>()
        };
        record(dir.path(), "again");
        let call = EndpointLock::take(dir.path(), &EndpointId::of("busy", "eth0")).unwrap();
        let busy = sweep(dir.path(), &store, &owners).unwrap();
        assert_eq!(busy, [Owner::new("busy", "eth0").unwrap()].into());
        assert_eq!(held(), ["again".to_owned(), "busy".to_owned()].into());
        drop(call);
        assert_eq!(sweep(dir.path(), &store, &busy).unwrap(), BTreeSet::new());
        assert_eq!(held(), ["again".to_owned()].into());
    }
}
