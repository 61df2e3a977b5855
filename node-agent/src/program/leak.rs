//! Takes back what a plugin that was killed half-way left: addresses and links without an endpoint record.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use anyhow::Context;
use margay_api::{
    endpoint::{EndpointId, HOST_IFNAME_PREFIX, Records},
    lock::EndpointLock,
};
use margay_ipam::{Owner, Store};
use margay_netlink::{
    Socket, conntrack,
    link::{self, IfName},
};
use tracing::{debug, warn};

/// Frees what belongs to no endpoint and to no call that is still running, and says how much that was.
///
/// The lock of an endpoint tells a running call from a dead one, and the record is looked for again under it: an
/// ADD may have ended since.
pub(crate) fn reclaim(run_dir: &Path, store: &Store) -> anyhow::Result<usize> {
    let records = Records::below(run_dir);
    let mut reclaimed = 0;
    let mut socket = Socket::open()?;
    for link in link::list(&mut socket)? {
        let digits = link.name.strip_prefix(HOST_IFNAME_PREFIX);
        let Some(id) = digits.and_then(|id| id.parse::<EndpointId>().ok()) else { continue };
        let Some(lock) = lock_if_dead(run_dir, &records, &id)? else { continue };
        let name: IfName = link.name.parse()?;
        match socket.execute(&link::delete(&name)) {
            Err(error) if !error.is_gone() => warn!(%error, "a link without an endpoint stays"),
            _ => {
                warn!(link = %name, "removed a link that no endpoint has: its ADD was cut off");
                reclaimed += 1;
            }
        }
        lock.forget();
    }
    let mut held: BTreeMap<Owner, Vec<IpAddr>> = BTreeMap::new();
    for allocation in store.allocations().context("list addresses")? {
        if let Some(owner) = allocation.owner {
            held.entry(owner).or_default().push(allocation.address);
        }
    }
    for (owner, addresses) in held {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let Some(lock) = lock_if_dead(run_dir, &records, &id)? else { continue };
        for address in addresses {
            // What was allowed to the pod that had the address is not allowed to the next one.
            if let Err(error) = conntrack::forget(address) {
                debug!(%error, "connections of a leaked address stay until they time out");
            }
        }
        for address in store.release(&owner).context("free a leaked address")? {
            warn!(%address, %owner, "freed an address that no endpoint has: its ADD was cut off, or the node rebooted");
            reclaimed += 1;
        }
        lock.forget();
    }
    Ok(reclaimed)
}

fn lock_if_dead(run_dir: &Path, records: &Records, id: &EndpointId) -> anyhow::Result<Option<EndpointLock>> {
    // A damaged record is a record: what cannot be read is not taken for gone.
    let is_recorded = || records.read(id).map_or(true, |endpoint| endpoint.is_some());
    if is_recorded() {
        return Ok(None);
    }
    let lock = EndpointLock::try_take(run_dir, id)?;
    Ok(lock.filter(|_| !is_recorded()))
}

#[cfg(test)]
mod tests {
    use margay_api::{endpoint::EndpointId, lock::EndpointLock};
    use margay_ipam::{Owner, Store};

    use super::reclaim;

    #[test]
    fn an_address_without_a_record_is_freed_unless_its_call_is_still_running() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("ipam"));
        store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
        for id in ["dead", "running"] {
            store.allocate(&Owner::new(id, "eth0").unwrap(), &[]).unwrap();
        }
        let running = EndpointLock::take(dir.path(), &EndpointId::of("running", "eth0")).unwrap();
        assert_eq!(reclaim(dir.path(), &store).unwrap(), 1);
        assert_eq!(reclaim(dir.path(), &store).unwrap(), 0);
        drop(running);
        assert_eq!(reclaim(dir.path(), &store).unwrap(), 1);
    }
}
