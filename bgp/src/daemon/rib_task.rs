//! The task that owns the routing tables.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, Instant, sleep_until};

use super::convergence::Convergence;
use super::kernel::KernelInput;
use crate::asn::Asn;
use crate::family::{Family, FamilySet};
use crate::prefix::Prefix;
use crate::rib::{Batch, PathView, PeerId, PeerInfo, Rib};
use crate::wire::{Attributes, NextHop, Update};

/// An UPDATE with its prefixes copied out of the message.
#[derive(Debug)]
pub(super) struct OwnedUpdate {
    withdrawn: Vec<Prefix>,
    announced: Vec<(NextHop, Vec<Prefix>)>,
    attributes: Attributes,
    end_of_rib: Option<Family>,
}

impl OwnedUpdate {
    pub(super) fn new(update: &Update<'_>) -> Self {
        Self {
            withdrawn: update.withdrawn.iter().flat_map(|nlri| nlri.iter()).collect(),
            announced: update
                .announced
                .iter()
                .map(|reach| (reach.next_hop, reach.nlri.iter().collect()))
                .collect(),
            attributes: update.attributes.clone(),
            end_of_rib: update.end_of_rib,
        }
    }
}

/// What the tables are told or asked.
#[derive(Debug)]
pub(super) enum RibInput {
    /// The configuration, as far as the tables care.
    Settings { asn: Asn, networks: BTreeMap<Prefix, bool>, peers: BTreeSet<PeerId>, settle_time: Duration },
    /// A session came up; messages for it go to `batches`.
    Up { peer: PeerId, info: Box<PeerInfo>, batches: mpsc::Sender<Batch> },
    /// A session ended; paths of the families to retain stay, stale, and all others go.
    Down { peer: PeerId, retain: Option<FamilySet> },
    /// Stale paths of these families go. Happens by itself at End-of-RIB.
    #[expect(dead_code, reason = "for sessions that keep routes over a restart")]
    Sweep { peer: PeerId, families: FamilySet },
    /// Stale paths of these families become those of last resort (RFC 9494).
    #[expect(dead_code, reason = "for sessions that keep routes over a restart")]
    LongLived { peer: PeerId, families: FamilySet },
    /// The peer begins to tell all of a family again (RFC 7313): what it said before is stale.
    #[expect(dead_code, reason = "for sessions that keep routes over a restart")]
    RefreshBegins { peer: PeerId, family: Family },
    /// The peer has told all of a family again: what is still stale goes.
    #[expect(dead_code, reason = "for sessions that keep routes over a restart")]
    RefreshEnds { peer: PeerId, family: Family },
    /// An UPDATE arrived.
    Update { peer: PeerId, update: Box<OwnedUpdate> },
    /// A KEEPALIVE arrived on an established session.
    Keepalive { peer: PeerId },
    /// The peer wants to be told all again.
    Refresh { peer: PeerId, family: Family },
    /// The last batch was handed to the peer's socket.
    Written { peer: PeerId },
    /// How many prefixes each peer announced and was announced.
    Counts(oneshot::Sender<BTreeMap<PeerId, (usize, usize)>>),
    /// All paths.
    Paths(oneshot::Sender<Vec<PathView>>),
}

/// Inputs taken together, before anything is decided or sent.
const INPUTS: usize = 1024;

struct Outlet {
    batches: mpsc::Sender<Batch>,
    busy: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Settling {
    NotConfigured,
    Until(Instant),
    /// The kernel task must be told.
    Over,
    Done,
}

struct RibTask {
    rib: Rib,
    convergence: Convergence,
    settling: Settling,
    outlets: BTreeMap<PeerId, Outlet>,
}

/// Runs until all senders are gone.
pub(super) async fn run(mut inputs: mpsc::Receiver<RibInput>, kernel: mpsc::Sender<KernelInput>, asn: Asn) {
    let mut task = RibTask {
        rib: Rib::new(asn),
        convergence: Convergence::default(),
        settling: Settling::NotConfigured,
        outlets: BTreeMap::new(),
    };
    let mut batch = Vec::with_capacity(INPUTS);
    loop {
        let settled_at = match task.settling {
            Settling::Until(at) => Some(at),
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
            () = settle(settled_at) => task.settling = Settling::Over,
        }
        task.flush();
    }
}

async fn settle(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl RibTask {
    fn take(&mut self, input: RibInput) {
        match input {
            RibInput::Settings { asn, networks, peers, settle_time } => {
                self.rib.set_local_as(asn);
                self.rib.originate(networks);
                self.convergence.configure(peers);
                if self.settling == Settling::NotConfigured {
                    self.settling = Settling::Until(Instant::now() + settle_time);
                }
            }
            RibInput::Up { peer, info, batches } => {
                self.convergence.up(peer, info.families);
                self.outlets.insert(peer, Outlet { batches, busy: false });
                self.rib.peer_up(peer, *info);
            }
            RibInput::Down { peer, retain } => {
                self.convergence.down(peer);
                self.outlets.remove(&peer);
                self.rib.peer_down(peer, retain);
            }
            RibInput::Sweep { peer, families } => self.rib.sweep(peer, families),
            RibInput::LongLived { peer, families } => self.rib.long_lived(peer, families),
            RibInput::RefreshBegins { peer, family } => {
                self.rib.mark_all_stale(peer, FamilySet::from_iter([family]));
            }
            RibInput::RefreshEnds { peer, family } => {
                self.rib.sweep(peer, FamilySet::from_iter([family]));
            }
            RibInput::Update { peer, update } => self.update(peer, *update),
            RibInput::Keepalive { peer } => self.convergence.keepalive(peer),
            RibInput::Refresh { peer, family } => self.rib.refresh(peer, family),
            RibInput::Written { peer } => {
                if let Some(outlet) = self.outlets.get_mut(&peer) {
                    outlet.busy = false;
                }
            }
            RibInput::Counts(answer) => {
                let counts = self.outlets.keys().map(|peer| (*peer, self.rib.counts(*peer))).collect();
                // Whoever asked may have gone away.
                drop(answer.send(counts));
            }
            RibInput::Paths(answer) => {
                self.rib.decide();
                drop(answer.send(self.rib.paths()));
            }
        }
    }

    fn update(&mut self, peer: PeerId, update: OwnedUpdate) {
        let OwnedUpdate { withdrawn, announced, attributes, end_of_rib } = update;
        self.rib.withdraw(peer, withdrawn);
        for (next_hop, prefixes) in announced {
            self.rib.announce(peer, Attributes { next_hop, ..attributes.clone() }, prefixes);
        }
        if let Some(family) = end_of_rib {
            self.convergence.end_of_rib(peer, family);
            self.rib.sweep(peer, FamilySet::from_iter([family]));
        }
    }

    /// Gives each peer that can take one its next batch of messages.
    fn flush(&mut self) {
        self.rib.decide();
        if matches!(self.settling, Settling::Until(_)) && self.convergence.is_reached() {
            tracing::info!("all neighbours have told their routes");
            self.settling = Settling::Over;
        }
        for (peer, outlet) in &mut self.outlets {
            if outlet.busy {
                continue;
            }
            if let Some(batch) = self.rib.export(*peer) {
                // The channel has room for the one batch that is under way; a closed one belongs to a session
                // whose end is on its way to us.
                outlet.busy = outlet.batches.try_send(batch).is_ok();
            }
        }
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
