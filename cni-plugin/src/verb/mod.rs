//! The verbs, and what they share: checking a call, and taking an endpoint apart.

mod add;
mod address;
mod check;
mod del;
mod gc;
mod loopback;
mod shrink;
mod status;
mod version;

use std::{path::Path, time::Duration};

use margay_api::{
    agent::Request,
    endpoint::{EndpointId, Records},
    lock::EndpointLock,
    paths,
};
use margay_ipam::{Owner, Store};
use margay_netlink::conntrack;

use crate::{
    agent,
    config::{Command, Config, Environment, Kind},
    link,
    result::{Code, Failure},
};

/// How long the agent may take to take a link down, before the plugin does it itself.
const AGENT_WAIT: Duration = Duration::from_secs(2);

/// Runs the verb that the environment names and gives back what goes to standard output.
pub(crate) fn run(environment: &Environment, stdin: &[u8]) -> Result<String, Failure> {
    let command = environment.command()?;
    if command == Command::Version {
        return Ok(version::run(stdin));
    }
    let config = Config::parse(stdin, command)?;
    match (command, config.kind) {
        (Command::Add, Kind::Loopback) => loopback::add(environment, &config),
        (Command::Check, Kind::Loopback) => loopback::check(environment),
        (_, Kind::Loopback) => Ok(String::new()),
        (Command::Add, Kind::Pod) => {
            let added = add::run(environment, &config)?;
            shrink::pods(&config);
            Ok(added)
        }
        (Command::Del, Kind::Pod) => del::run(environment, &config),
        (Command::Check, Kind::Pod) => check::run(environment, &config),
        (Command::Gc, Kind::Pod) => gc::run(&config),
        (Command::Status, Kind::Pod) => {
            shrink::pods(&config);
            status::run(&config)
        }
        (Command::Version, Kind::Pod) => Ok(version::run(stdin)),
    }
}

fn store(config: &Config) -> Store {
    Store::new(&config.state_dir.join(paths::IPAM))
}

fn take_lock(run_dir: &Path, id: &EndpointId) -> Result<EndpointLock, Failure> {
    EndpointLock::take(run_dir, id)
        .map_err(|error| Failure::new(Code::Io, "wait for other calls for this interface").because(&error))
}

/// Takes an endpoint apart, under its lock.
fn remove_endpoint(run_dir: &Path, store: &Store, owner: &Owner) -> Result<(), Failure> {
    let id = EndpointId::of(owner.container_id(), owner.ifname());
    let lock = take_lock(run_dir, &id)?;
    take_apart(run_dir, store, owner)?;
    lock.forget();
    Ok(())
}

/// Record, link, connections, address, in this order: an address becomes free only when neither a record nor an
/// interface has it, and no connection is remembered that would pass for it. All after the record is the agent's, which
/// need not wait for what the kernel does behind the scenes; where there is none it is done here. A call that is
/// cut off leaves the address held, and the next one, or the agent, repeats the rest.
fn take_apart(run_dir: &Path, store: &Store, owner: &Owner) -> Result<(), Failure> {
    let id = EndpointId::of(owner.container_id(), owner.ifname());
    Records::below(run_dir)
        .remove(&id)
        .map_err(|error| Failure::new(Code::Io, "forget the endpoint").because(&error))?;
    let asked = Request::TakeDown {
        container_id: owner.container_id().to_owned(),
        ifname: owner.ifname().to_owned(),
    };
    if agent::ask(run_dir, &asked, AGENT_WAIT).is_ok() {
        return Ok(());
    }
    let name = id
        .host_ifname()
        .parse()
        .map_err(|error| Failure::new(Code::Io, "name the pod's link").because(&error))?;
    link::delete(&name).map_err(|error| Failure::new(Code::Io, "remove the pod's link").because(&error))?;
    let unreadable = |error| Failure::new(Code::Io, "free the pod's address").because(&error);
    let held = store.allocations().map_err(unreadable)?;
    let held = held.iter().filter(|allocation| allocation.owner.as_ref() == Some(owner));
    // A kernel without this netlink family keeps them until they time out: no reason to keep the pod.
    drop(conntrack::forget(&held.map(|allocation| allocation.address).collect()));
    store.release(owner).map_err(unreadable)?;
    Ok(())
}
