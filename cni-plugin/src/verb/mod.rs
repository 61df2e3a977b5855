//! The verbs, and what they share: checking a call, and taking an endpoint apart.

mod add;
mod check;
mod del;
mod gc;
mod loopback;
mod status;
mod version;

use std::path::Path;

use margay_api::{
    agent::Request,
    endpoint::{EndpointId, Records},
    lock::EndpointLock,
    paths,
};
use margay_ipam::{Owner, Store};

use crate::{
    agent,
    config::{Command, Config, Environment, Kind},
    link,
    result::{Code, Failure},
};

/// Runs the verb that the environment names and gives back what goes to standard output.
pub(crate) fn run(environment: &Environment, stdin: &[u8]) -> Result<String, Failure> {
    let command = environment.command()?;
    if command == Command::Version {
        return Ok(version::run(stdin));
    }
    let config = Config::parse(stdin)?;
    match (command, config.kind) {
        (Command::Add, Kind::Loopback) => loopback::add(environment, &config),
        (Command::Check, Kind::Loopback) => loopback::check(environment),
        (_, Kind::Loopback) => Ok(String::new()),
        (Command::Add, Kind::Pod) => add::run(environment, &config),
        (Command::Del, Kind::Pod) => del::run(environment, &config),
        (Command::Check, Kind::Pod) => check::run(environment, &config),
        (Command::Gc, Kind::Pod) => gc::run(&config),
        (Command::Status, Kind::Pod) => status::run(&config),
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

/// Takes an endpoint apart: link, address, record, in this order, so that a call that is cut off leaves the
/// record and the next one repeats the rest. Runs to the end and reports all that failed.
fn remove_endpoint(run_dir: &Path, store: &Store, owner: &Owner) -> Result<(), Failure> {
    let id = EndpointId::of(owner.container_id(), owner.ifname());
    let lock = take_lock(run_dir, &id)?;
    let mut problems = Vec::new();
    let host_name = id.host_ifname();
    match host_name.parse() {
        Ok(name) => problems.extend(
            link::delete(&name)
                .err()
                .map(|error| Failure::new(Code::Io, "remove the pod's link").because(&error)),
        ),
        Err(error) => problems.push(Failure::new(Code::Io, "name the pod's link").because(&error)),
    }
    // An address whose link is still there must not be handed out again.
    if problems.is_empty()
        && let Err(error) = store.release(owner)
    {
        problems.push(Failure::new(Code::Io, "free the pod's address").because(&error));
    }
    if problems.is_empty()
        && let Err(error) = Records::below(run_dir).remove(&id)
    {
        problems.push(Failure::new(Code::Io, "forget the endpoint").because(&error));
    }
    if let Some(first) = problems.into_iter().next() {
        return Err(first);
    }
    lock.forget();
    // The agent sees the record go by itself; telling it is a courtesy that needs no answer.
    let told = Request::EndpointDeleted { endpoint: id };
    drop(agent::ask(run_dir, &told, std::time::Duration::from_millis(200)));
    Ok(())
}
