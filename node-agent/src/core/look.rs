//! The looks at disk and kernel that find what others changed.

use std::collections::BTreeMap;

use margay_api::endpoint::{Endpoint, EndpointId};
use tokio::task::spawn_blocking;
use tracing::{error, warn};

use super::{Changed, Core, event::Event};
use crate::{
    notice::Reason,
    program::{endpoint, leak},
    watch::drift::Loss,
};

/// What is said of others at the table.
const TABLE_CHANGED: &str = "somebody flushed or edited the table inet margay; it is written anew";
/// What is said of links without records.
const RECORDS_LOST: &str = "the endpoint records of running pods are lost: bring /run/margay back, or delete the pods of this \
                            node; until then they stay closed";

/// What a look at links, routes and addresses has found and mended.
#[derive(Debug)]
pub(crate) struct Looked {
    repaired: anyhow::Result<usize>,
    reclaimed: anyhow::Result<leak::Reclaimed>,
}

/// The state of the look at links, routes and addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    Idle,
    Running,
    /// Something was lost since it began.
    Again,
}

impl Core {
    /// Whether something is lost that should be there.
    pub(super) fn concerns_us(&self, loss: &Loss) -> bool {
        match loss {
            Loss::Link(id) => self.state.endpoint(id).is_some(),
            Loss::Address(address) => {
                self.state.endpoints().any(|(_, endpoint)| endpoint.addresses.contains(address))
            }
            Loss::Unknown => true,
        }
    }

    /// Looks at the disk and the kernel, and repairs.
    pub(super) fn reconcile(&mut self) {
        let listing = match self.records.list() {
            Ok(listing) => listing,
            Err(error) => {
                error!(%error, "the endpoint records cannot be listed");
                return;
            }
        };
        for (id, error) in &listing.damaged {
            warn!(endpoint = %id, %error, "an endpoint record cannot be read: the pod stays closed");
        }
        let endpoints: BTreeMap<EndpointId, Endpoint> =
            listing.endpoints.iter().map(|endpoint| (endpoint.id(), endpoint.clone())).collect();
        self.changed.note(self.state.set_endpoints(endpoints));
        match self.nft.verify() {
            Ok(true) => {}
            Ok(false) => self.mend_table(),
            Err(error) => warn!(%error, "the table inet margay cannot be looked at"),
        }
        // Others empty /etc/cni/net.d, or turn forwarding off with a `sysctl --system` of their own.
        if let Some(blocks) = self.programmed.as_ref().map(|programmed| programmed.blocks.clone()) {
            self.configure_node(&blocks);
        }
        self.changed.note(self.short_way.is_closed());
        self.look(listing.endpoints);
        self.doubt();
        self.count_drops();
    }

    /// Has the table written anew, of which others have changed something.
    pub(super) fn mend_table(&mut self) {
        warn!("{TABLE_CHANGED}");
        self.notices.of_node(Reason::TABLE_CHANGED, TABLE_CHANGED);
        self.metrics.repaired.inc();
        self.changed = Changed::Urgently;
    }

    /// Starts a look at links, routes and addresses, unless one is under way: then another follows it.
    fn look(&mut self, endpoints: Vec<Endpoint>) {
        if self.look == Look::Idle {
            self.look = Look::Running;
        } else {
            self.look = Look::Again;
            return;
        }
        let (run_dir, store) = (self.settings.run_dir.clone(), self.store.clone());
        let (pending, events) = (self.takedowns.pending(), self.events.clone());
        let orphans = self.state.orphans();
        tokio::spawn(async move {
            let work = spawn_blocking(move || Looked {
                repaired: endpoint::repair(&endpoints).map_err(anyhow::Error::from),
                reclaimed: leak::reclaim(&run_dir, &store, &pending, &orphans),
            });
            let looked = work.await.unwrap_or_else(|panic| {
                let failed = || anyhow::anyhow!("{panic}");
                Looked { repaired: Err(failed()), reclaimed: Err(failed()) }
            });
            // A core that has ended takes no more notice.
            drop(events.send(Event::Looked(looked)).await);
        });
    }

    pub(super) fn looked(&mut self, looked: Looked) {
        match looked.repaired {
            Ok(count) => drop(self.metrics.repaired.inc_by(count as u64)),
            Err(error) => warn!("the pods' routes cannot be looked at: {error:#}"),
        }
        match looked.reclaimed {
            Ok(reclaimed) => {
                if reclaimed.unrecorded > 0 {
                    self.notices.of_node(Reason::RECORDS_LOST, RECORDS_LOST);
                }
                self.metrics.count_reclaimed(reclaimed);
            }
            Err(error) => warn!("what leaked cannot be taken back: {error:#}"),
        }
        if std::mem::replace(&mut self.look, Look::Idle) == Look::Again {
            let endpoints = self.state.endpoints().map(|(_, endpoint)| Endpoint::clone(endpoint)).collect();
            self.look(endpoints);
        }
    }
}
