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

use super::takedown::Pending;

/// How much was found of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reclaimed {
    /// Endpoint records without a link and without a pod.
    pub(crate) records: u64,
    /// Links without a record.
    pub(crate) links: u64,
    /// Addresses without a record.
    pub(crate) addresses: u64,
    /// Links without a record that are left alone, because the records themselves are lost.
    pub(crate) unrecorded: u64,
}

/// Frees what belongs to no endpoint and to no call that is still running, and says how much that was.
///
/// The lock of an endpoint tells a running call from a dead one, and the record is looked for again under it: an
/// ADD may have ended since. What is `pending` by then is being taken down already.
///
/// An endpoint in `orphans`, whose pod the API does not know, is forgotten too once its link is gone: its pod's
/// namespace went without a DEL, or the ADD was cut off before it made the link.
pub(crate) fn reclaim(
    run_dir: &Path,
    store: &Store,
    pending: &Pending,
    orphans: &BTreeSet<EndpointId>,
) -> anyhow::Result<Reclaimed> {
    let records = Records::below(run_dir);
    let mut reclaimed = Reclaimed::default();
    let mut socket = Socket::open()?;
    let mut links = pod_links(&link::list(&mut socket)?);
    links.retain(|(id, _)| !pending.contains(id));
    for id in orphans.iter().filter(|orphan| !links.iter().any(|(id, _)| id == *orphan)) {
        let Some(lock) = EndpointLock::try_take(run_dir, id)? else { continue };
        let name: IfName = id.host_ifname().parse()?;
        // It may have been made since the links were listed, or the record removed.
        if records.read(id).is_ok_and(|endpoint| endpoint.is_some())
            && link::by_name(&mut socket, &name)?.is_none()
        {
            records.remove(id)?;
            warn!(endpoint = %id, "forgot an endpoint that has neither a link nor a pod");
            reclaimed.records += 1;
        }
        lock.forget();
    }
    reclaimed.unrecorded = unrecorded(run_dir, &records, &links)?;
    if reclaimed.unrecorded > 0 {
        return Ok(reclaimed);
    }
    for (id, link) in links {
        let Some(lock) = lock_if_dead(run_dir, &records, &id)? else { continue };
        if pending.contains(&id) {
            continue;
        }
        let name: IfName = link.parse()?;
        match socket.execute(&link::delete(&name)) {
            Ok(()) => {
                warn!(link = %name, "removed a link that no endpoint has: its ADD was cut off");
                reclaimed.links += 1;
            }
            // Taken down since the links were listed.
            Err(error) if error.is_gone() => {}
            Err(error) => warn!(%error, "a link without an endpoint stays"),
        }
        lock.forget();
    }
    let owners: BTreeSet<Owner> = holders(store)?.into_keys().collect();
    for owner in owners {
        let id = EndpointId::of(owner.container_id(), owner.ifname());
        let Some(lock) = lock_if_dead(run_dir, &records, &id)? else { continue };
        // A take-down that began meanwhile is known from before its DEL let go of the lock.
        if pending.contains(&id) {
            continue;
        }
        // Since the first look its addresses may have been freed, and be another pod's.
        let addresses = holders(store)?.remove(&owner).unwrap_or_default();
        // What was allowed to the pod that had the address is not allowed to the next one.
        if let Err(error) = conntrack::forget(&addresses) {
            debug!(%error, "connections of a leaked address stay until they time out");
        }
        for address in store.release(&owner).context("free a leaked address")? {
            warn!(%address, %owner, "freed an address that no endpoint has: its ADD was cut off, or the node rebooted");
            reclaimed.addresses += 1;
        }
        lock.forget();
    }
    Ok(reclaimed)
}

/// Has endpoints hold their addresses in blocks that know nothing of them: somebody has taken the files away, and they were
/// made anew. Without it the next pods would get addresses that pods have.
///
/// A DEL that ends meanwhile leaves its address held until the next [`reclaim`].
pub(crate) fn hold_again(records: &Records, store: &Store) -> anyhow::Result<()> {
    let endpoints = records.list().context("list the endpoint records")?.endpoints;
    for endpoint in endpoints {
        let owner = Owner::new(&endpoint.container_id, &endpoint.ifname)
            .with_context(|| format!("the record of endpoint {}", endpoint.id()))?;
        for address in store.hold(&owner, &endpoint.addresses).context("hold the addresses of endpoints")? {
            warn!(%address, %owner, "its endpoint holds an address again, of which its block knew nothing");
        }
    }
    Ok(())
}

fn holders(store: &Store) -> anyhow::Result<BTreeMap<Owner, BTreeSet<IpAddr>>> {
    let mut holders: BTreeMap<Owner, BTreeSet<IpAddr>> = BTreeMap::new();
    for allocation in store.allocations().context("list addresses")? {
        if let Some(owner) = allocation.owner {
            holders.entry(owner).or_default().insert(allocation.address);
        }
    }
    Ok(holders)
}

/// Beside the records: they have been kept in this directory since the node started.
const MARKER: &str = "endpoints.kept";

/// How many links without a record are of pods that are alive: the others' ADDs were cut off. Where the marker is
/// missing, the node has just started, and then it has no pods; or the directory is not the one that it was, and then
/// its pods are alive.
fn unrecorded(run_dir: &Path, records: &Records, links: &[(EndpointId, String)]) -> anyhow::Result<u64> {
    let marker = run_dir.join(MARKER);
    if marker.exists() {
        return Ok(0);
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
        return Ok(unrecorded);
    }
    fs::write(&marker, "").with_context(|| format!("write {}", marker.display()))?;
    Ok(0)
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

    use super::{MARKER, Pending, Reclaimed, reclaim};

    fn count(reclaimed: anyhow::Result<Reclaimed>) -> u64 {
        let Reclaimed { records, links, addresses, .. } = reclaimed.unwrap();
        records + links + addresses
    }

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
                assert_eq!(count(reclaim(run_dir, &store, &Pending::default(), &BTreeSet::new())), 0);
                let name = add_link(&mut socket, "cut-off");
                assert_eq!(count(reclaim(run_dir, &store, &Pending::default(), &BTreeSet::new())), 1);
                assert_eq!(link::by_name(&mut socket, &name).unwrap(), None);

                let name = add_link(&mut socket, "alive");
                fs::remove_file(run_dir.join(MARKER)).unwrap();
                for _ in 0..2 {
                    assert_eq!(count(reclaim(run_dir, &store, &Pending::default(), &BTreeSet::new())), 0);
                    assert!(link::by_name(&mut socket, &name).unwrap().is_some());
                }
                socket.execute(&link::delete(&name)).unwrap();
                assert_eq!(count(reclaim(run_dir, &store, &Pending::default(), &BTreeSet::new())), 0);
                assert!(run_dir.join(MARKER).exists());
            });
            if let Err(panic) = test.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    #[test]
    fn an_endpoint_without_a_link_is_forgotten_when_it_has_no_pod_and_no_call_is_at_it() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir: &Path = dir.path();
        thread::scope(|scope| {
            let test = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET)
                    .expect("a network namespace of its own: run the tests as root");
                let store = Store::new(&run_dir.join("ipam"));
                store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
                let mut orphans = BTreeSet::new();
                for container in ["with-pod", "dead", "linked", "running"] {
                    let id = EndpointId::of(container, "eth0");
                    let owner = Owner::new(container, "eth0").unwrap();
                    let addresses = store.allocate(&owner, &[]).unwrap().addresses;
                    let (host_ifname, text) = (id.host_ifname(), String::new);
                    let endpoint = Endpoint {
                        container_id: container.into(),
                        ifname: "eth0".into(),
                        network: "margay".into(),
                        netns: text(),
                        host_ifname,
                        mac: text(),
                        host_mac: text(),
                        addresses,
                        mtu: 1500,
                        pod: None,
                    };
                    Records::below(run_dir).write(&endpoint).unwrap();
                    if container != "with-pod" {
                        orphans.insert(id);
                    }
                }
                add_link(&mut Socket::open().unwrap(), "linked");
                let running = EndpointLock::take(run_dir, &EndpointId::of("running", "eth0")).unwrap();
                let reclaimed = reclaim(run_dir, &store, &Pending::default(), &orphans).unwrap();
                assert_eq!(reclaimed, Reclaimed { records: 1, addresses: 1, ..Reclaimed::default() });
                drop(running);
                assert_eq!(reclaim(run_dir, &store, &Pending::default(), &orphans).unwrap().records, 1);
                assert_eq!(Records::below(run_dir).list().unwrap().endpoints.len(), 2);
            });
            if let Err(panic) = test.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }

    #[test]
    fn an_address_without_a_record_is_freed_unless_its_call_is_still_running_or_it_is_taken_down() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(&dir.path().join("ipam"));
        store.set_blocks(&["192.0.2.0/24".parse().unwrap()]).unwrap();
        for id in ["dead", "running", "going"] {
            store.allocate(&Owner::new(id, "eth0").unwrap(), &[]).unwrap();
        }
        let running = EndpointLock::take(dir.path(), &EndpointId::of("running", "eth0")).unwrap();
        let going = Pending::of(EndpointId::of("going", "eth0"));
        assert_eq!(count(reclaim(dir.path(), &store, &going, &BTreeSet::new())), 1);
        assert_eq!(count(reclaim(dir.path(), &store, &going, &BTreeSet::new())), 0);
        drop(running);
        assert_eq!(count(reclaim(dir.path(), &store, &going, &BTreeSet::new())), 1);
        assert_eq!(count(reclaim(dir.path(), &store, &Pending::default(), &BTreeSet::new())), 1);
    }
}
