//! A smaller MTU for pods that are there.
//!
//! The agent says in a file which MTU pods get now, as long as some have a larger one. It may not enter their namespaces, and
//! this plugin may; so each STATUS, which runtimes call every few seconds, and each ADD does it.

use std::{path::Path, time::Duration};

use margay_api::{
    agent::Request,
    endpoint::{Endpoint, EndpointId, LEAST_MTU, Records},
    left,
    lock::EndpointLock,
    paths,
};
use margay_netlink::{
    Socket,
    link::{self, IfName, Mtu},
    netns::Namespace,
};

use crate::{agent::Agent, config::Config};

/// How long the agent may take to hear of a pod.
const WAIT: Duration = Duration::from_secs(1);

/// Why a pod keeps what it has.
type Kept = Box<dyn std::error::Error>;

/// Brings the pods of this network down to the MTU that the agent names. What fails is done by the next call, as the file stays:
/// the call at hand is about something else.
pub(super) fn pods(config: &Config) {
    let Ok(Some(octets)) = left::read(&config.run_dir, paths::POD_MTU) else { return };
    let Some(mtu) = Mtu::new(octets).filter(|_| octets >= LEAST_MTU) else { return };
    let records = Records::below(&config.run_dir);
    let Ok(listing) = records.list() else { return };
    let has_more = |endpoint: &&Endpoint| endpoint.network == config.name && endpoint.mtu > octets;
    for endpoint in listing.endpoints.iter().filter(has_more) {
        let id = endpoint.id();
        if let Ok(true) = shrink(&config.run_dir, &records, &id, mtu) {
            // It reads the records every few seconds anyway.
            let told = Agent::connect(&config.run_dir)
                .and_then(|mut agent| agent.tell(&Request::EndpointAdded { endpoint: id }, WAIT));
            drop(told);
        }
    }
}

/// Whether a pod has a smaller MTU now. Its own end is first: what it sends fits at once.
fn shrink(run_dir: &Path, records: &Records, id: &EndpointId, mtu: Mtu) -> Result<bool, Kept> {
    // Whoever has the lock is adding or deleting it.
    let Some(lock) = EndpointLock::try_take(run_dir, id)? else { return Ok(false) };
    let Some(mut endpoint) = records.read(id)? else {
        lock.forget();
        return Ok(false);
    };
    if endpoint.mtu <= mtu.octets() {
        return Ok(false);
    }
    // Whoever can write a record names no other interface of the node by it.
    if endpoint.host_ifname != id.host_ifname() {
        return Err(format!("the record of {id} names {}", endpoint.host_ifname).into());
    }
    let namespace = Namespace::open(Path::new(&endpoint.netns))?;
    {
        let _inside = namespace.enter()?;
        lower(&endpoint.ifname, &endpoint.mac, mtu)?;
    }
    lower(&endpoint.host_ifname, &endpoint.host_mac, mtu)?;
    endpoint.mtu = mtu.octets();
    records.write(&endpoint)?;
    Ok(true)
}

/// Lowers the MTU of an interface of the thread's namespace that has this link-layer address: of the pod's namespace another may
/// have its path. A later plugin of the list may have made it smaller still.
fn lower(name: &str, mac: &str, mtu: Mtu) -> Result<(), Kept> {
    let name: IfName = name.parse()?;
    let mut socket = Socket::open()?;
    let link = link::by_name(&mut socket, &name)?.ok_or_else(|| format!("there is no interface {name}"))?;
    if link.address.map(|found| found.to_string()).as_deref() != Some(mac) {
        return Err(format!("interface {name} is not the one that was made").into());
    }
    if link.mtu > mtu.octets() {
        socket.execute(&link::set_mtu(link.index, mtu))?;
    }
    Ok(())
}
