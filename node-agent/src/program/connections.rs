//! Ends connections that a change of policy forbids.
//!
//! ```text
//!  core ─ addresses of what is more closed than before ─> this task ─> look through the table of connections
//!  core <─ those of them that are there ──────────────────┘
//!   └──── those of these that are forbidden ─────────────> deleted
//! ```
//!
//! The kernel asks policy about the first packet of a connection only. Deleted, a connection is new to it with its next
//! packet, whichever side sends that; a TCP segment that begins nothing is dropped then (`midstream` in
//! [`super::nft`]). A look costs the kernel a walk through its whole table, so that changes that come fast share one.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use margay_netlink::{
    Socket, addr,
    conntrack::{self, Connection},
};
use margay_policy::{
    Protocol,
    compile::{Cause, Compiler, Verdict, Way},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, timeout},
};
use tracing::{info, warn};

use crate::core::Event;

/// Sets of addresses that may wait for a look.
pub(crate) const QUEUE: usize = 64;
/// Shortest time from one look to the next.
const PACE: Duration = Duration::from_millis(200);
/// How long until a look that failed is tried again, if none is asked for before.
const RETRY: Duration = Duration::from_secs(10);
/// Connections that the core judges at once.
const BATCH: usize = 1000;

/// Looks after connections of addresses for ever.
pub(crate) async fn run(
    mut doubts: mpsc::Receiver<BTreeSet<IpAddr>>,
    events: mpsc::Sender<Event>,
) -> anyhow::Result<()> {
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Those of a look that failed.
    let mut left = BTreeSet::new();
    loop {
        let mut addresses = std::mem::take(&mut left);
        let patience = if addresses.is_empty() { Duration::MAX } else { RETRY };
        match timeout(patience, doubts.recv()).await {
            Ok(Some(more)) => addresses.extend(more),
            Ok(None) => return Ok(()),
            Err(_elapsed) => {}
        }
        pace.tick().await;
        while let Ok(more) = doubts.try_recv() {
            addresses.extend(more);
        }
        let look = addresses.clone();
        let found = match spawn_blocking(move || find(&look)).await? {
            Ok(found) => found,
            Err(error) => {
                warn!("connections that policy forbids now go on: {error}; trying again");
                left = addresses;
                continue;
            }
        };
        for batch in found.chunks(BATCH) {
            let (answer, forbidden) = oneshot::channel();
            if events.send(Event::Connections { found: batch.to_vec(), answer }).await.is_err() {
                return Ok(());
            }
            let Ok(forbidden) = forbidden.await else { return Ok(()) };
            match spawn_blocking(move || conntrack::end(&forbidden)).await? {
                Ok(0) => {}
                Ok(ended) => info!(connections = ended, "ended: policy forbids them now"),
                Err(error) => {
                    warn!("connections that policy forbids now go on: {error}; trying again");
                    left.clone_from(&addresses);
                }
            }
        }
    }
}

/// A connection that policy is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) connection: Connection,
    /// It is with the node itself, from a pod.
    to_this_node: bool,
}

/// Whether the policy of a pod at either end drops what begins such a connection.
pub(crate) fn is_forbidden(compiler: &Compiler, found: &Found) -> bool {
    let Connection { source, destination, protocol, port, .. } = &found.connection;
    let [client, server] = [*source, *destination].map(|address| compiler.pod_at(address));
    // A pod reaches itself, whatever its policies are.
    if client.is_some() && client == server {
        return false;
    }
    let protocol = Protocol::ALL.into_iter().find(|known| known.number() == *protocol);
    let port = protocol.and_then(|protocol| Some((protocol, (*port)?)));
    let drops = |pod, way, far| match compiler.verdict(pod, way, far, port) {
        Verdict::Allow | Verdict::Audit(_) => false,
        // Isolation never comes between a pod and its node.
        Verdict::Deny(cause) => !(found.to_this_node && cause == Cause::Isolation),
    };
    client.is_some_and(|pod| drops(pod, Way::Egress, *destination))
        || server.is_some_and(|pod| drops(pod, Way::Ingress, *source))
}

/// The connections of some addresses, but those that the node itself began, which policy is never asked about.
fn find(addresses: &BTreeSet<IpAddr>) -> Result<Vec<Found>, margay_netlink::Error> {
    let own: BTreeSet<IpAddr> =
        addr::list(&mut Socket::open()?)?.into_iter().map(|address| address.network.ip()).collect();
    let found = conntrack::list(addresses)?.into_iter().filter(|found| !own.contains(&found.source));
    let found =
        found.map(|connection| Found { to_this_node: own.contains(&connection.destination), connection });
    Ok(found.collect())
}
