//! The addresses that the node's interfaces have.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use margay_netlink::{Socket, addr};
use tokio::time::Instant;
use tracing::warn;

/// How old the last look may be.
const FRESH: Duration = Duration::from_secs(1);

/// The node's addresses, looked at again when the last look is old.
#[derive(Debug, Default)]
pub(crate) struct OwnAddresses {
    seen: BTreeSet<IpAddr>,
    at: Option<Instant>,
}

impl OwnAddresses {
    /// All of them but those of links, which no pool has. Looked at anew for a pod that asks for some.
    pub(crate) fn look_for(&mut self, wanted: &[IpAddr]) -> &BTreeSet<IpAddr> {
        if !wanted.is_empty() {
            self.at = None;
        }
        self.look()
    }

    /// As seen a moment ago.
    pub(crate) fn look(&mut self) -> &BTreeSet<IpAddr> {
        if self.at.is_none_or(|at| at.elapsed() > FRESH) {
            self.at = Some(Instant::now());
            match Socket::open().and_then(|mut socket| addr::list(&mut socket)) {
                Ok(all) => {
                    let addresses = all.iter().map(|found| found.network.ip());
                    self.seen = addresses.filter(|address| !is_of_link(*address)).collect();
                }
                Err(error) => warn!(%error, "the node's own addresses cannot be listed"),
            }
        }
        &self.seen
    }
}

fn is_of_link(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local(),
    }
}
