//! Takes back what a plugin that was killed half-way left: addresses and links without an endpoint record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
};

use anyhow::Context;
use margay_api::{
    endpoint::{EndpointId, HOST_IFNAME_PREFIX, Records},
    lock::EndpointLock,
};
use margay_ipam::{Owner, Store};
use margay_netlink::{
    Socket, conntrack,
    link::{self, IfName, Link},
};
use tracing::{debug, error, warn};

/// Frees what belongs to no endpoint and to no call that is still running, and says how much that was.
///
/// The lock of an endpoint tells a running call from a dead one, and the record is looked for again under it: an
/// ADD may have ended since. What is `pending` is being taken down already.
///
/// An endpoint in `orphans`, whose pod the API does not know, is forgotten too once its link is gone: its pod's
/// namespace went without a DEL, or the ADD was cut off before it made the link.
pub(crate) fn reclaim(
    run_dir: &Path,
    store: &Store,
    pending: &BTreeSet<EndpointId>,
    orphans: &BTreeSet<EndpointId>,
) -> anyhow::Result<usize> {
    let records = Records::below(run_dir);
    let mut reclaimed = 0;
    let mut socket = Socket::open()?;
    let mut links = pod_links(&link::list(&mut socket)?);
    links.retain(|(id, _)| !pending.contains(id));
    for id in orphans.iter().filter(|orphan| !links.iter().any(|(id, _)| id == *orphan)) {
        let Some(lock) = EndpointLock::try_take(run_dir, id)? else { continue };
        let name: IfName = id.host_ifname().parse()?;
        // It may have been made since the links were listed.
        if link::by_name(&mut socket, &name)?.is_none() {
            records.remove(id)?;
            warn!(endpoint = %id, "forgot an endpoint that has neither a link nor a pod");
            reclaimed += 1;
        }
        lock.forget();
    }
    if !records_are_whole(run_dir, &records, &links)? {
        return Ok(0);
    }
    for (id, link) in links {
        let Some(lock) = lock_if_dead(run_dir, &records, &id)? else { continue };
        let name: IfName = link.parse()?;
        match socket.execute(&link::delete(&name)) {
            Err(error) if !error.is_gone() => warn!(%error, "a link without an endpoint stays"),
            _ => {
                warn!(link = %name, "removed a link that no endpoint has: its ADD was cut off");
                reclaimed += 1;
            }
        }
        lock.forget();
    }
    let mut held: BTreeMap<Owner, BTreeSet<IpAddr>> = BTreeMap::new();
    for allocation in store.allocations().context("list addresses")? {
        if let Some(owner) = allocation.owner {
            held.entry(owner).or_default().insert(allocation.address);
        }
    }
    for (owner, addresses) in held {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        if pending.contains(&id) {
            continue;
        }
        let Some(lock) = lock_if_dead(run_dir, &records, &id)? else { continue };
        // What was allowed to the pod that had the address is not allowed to the next one.
        if let Err(error) = conntrack::forget(&addresses) {
            debug!(%error, "connections of a leaked address stay until they time out");
        }
        for address in store.release(&owner).context("free a leaked address")? {
            warn!(%address, %owner, "freed an address that no endpoint has: its ADD was cut off, or the node rebooted");
            reclaimed += 1;
        }
        lock.forget();
    }
    Ok(reclaimed)
}

/// Beside the records: they have been kept in this directory since the node started.
const MARKER: &str = "endpoints.kept";

/// Whether a link without a record is one whose ADD was cut off. Where the marker is missing, the node has just
/// started, and then it has no pods; or the directory is not the one that it was, and then its pods are alive.
fn records_are_whole(
    run_dir: &Path,
    records: &Records,
    links: &[(EndpointId, String)],
) -> anyhow::Result<bool> {
    let marker = run_dir.join(MARKER);
    if marker.exists() {
        return Ok(true);
    }
    let mut unrecorded = 0;
    for (id, _) in links {
        if let Some(lock) = lock_if_dead(run_dir, records, id)? {
            lock.forget();
            unrecorded += 1;
        }
    }
    if unrecorded > 0 {
        error!(
            directory = %records.dir().display(),
            unrecorded,
            "the endpoint records of running pods are lost; nothing is taken back, and those pods stay closed: \
             bring the directory back, or delete the pods"
        );
        return Ok(false);
    }
    fs::write(&marker, "").with_context(|| format!("write {}", marker.display()))?;
    Ok(true)
}

fn pod_links(links: &[Link]) -> Vec<(EndpointId, String)> {
    let id = |link: &Link| link.name.strip_prefix(HOST_IFNAME_PREFIX)?.parse().ok();
    links.iter().filter_map(|link| Some((id(link)?, link.name.clone()))).collect()
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
    use std::{collections::BTreeSet, fs, path::Path, thread};

    use margay_api::{endpoint::EndpointId, lock::EndpointLock};
    use margay_ipam::{Owner, Store};
    use margay_netlink::{
        Socket,
        link::{self, Bridge, IfName},
    };
    use nix::sched::{CloneFlags, unshare};

    use super::{MARKER, reclaim};

    /// Makes a link as a pod would have it, but without a record.
    fn add_link(socket: &mut Socket, container: &str) -> IfName {
        let name: IfName = EndpointId::of(container, "eth0").host_ifname().parse().unwrap();
        socket.execute(&link::add_bridge(&Bridge { name: &name })).unwrap();
        name
    }

    #[test]
    fn links_without_records_go_unless_the_directory_of_records_itself_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir: &Path = dir.path();
        thread::scope(|scope| {
            let test = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .expect("a network namespace of its own: run the tests as root");
                let store = Store::new(&run_dir.join("ipam"));
                let mut socket = Socket::open().unwrap();
                assert_eq!(reclaim(run_dir, &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 0);
                let name = add_link(&mut socket, "cut-off");
                assert_eq!(reclaim(run_dir, &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 1);
                assert_eq!(link::by_name(&mut socket, &name).unwrap(), None);

                let name = add_link(&mut socket, "alive");
                fs::remove_file(run_dir.join(MARKER)).unwrap();
                for _ in 0..2 {
                    assert_eq!(reclaim(run_dir, &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 0);
                    assert!(link::by_name(&mut socket, &name).unwrap().is_some());
                }
                socket.execute(&link::delete(&name)).unwrap();
                assert_eq!(reclaim(run_dir, &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 0);
                assert!(run_dir.join(MARKER).exists());
            });
            if let Err(panic) = test.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    #[test]
    fn an_address_without_a_record_is_freed_unless_its_call_is_still_running() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("ipam"));
        store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
        for id in ["dead", "running"] {
            store.allocate(&Owner::new(id, "eth0").unwrap(), &[]).unwrap();
        }
        let running = EndpointLock::take(dir.path(), &EndpointId::of("running", "eth0")).unwrap();
        assert_eq!(reclaim(dir.path(), &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 1);
        assert_eq!(reclaim(dir.path(), &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 0);
        drop(running);
        assert_eq!(reclaim(dir.path(), &store, &BTreeSet::new(), &BTreeSet::new()).unwrap(), 1);
    }
}
