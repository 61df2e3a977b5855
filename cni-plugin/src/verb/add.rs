//! ADD: connects a pod.

use std::path::Path;

use margay_api::{
    agent::Request,
    endpoint::{Endpoint, EndpointId, Records},
};
use margay_ipam::{Owner, Store};
use margay_netlink::{MacAddr, link::IfName, netns::Namespace, route::everything};

use super::{address, store, take_apart, take_lock};
use crate::{
    agent::{Agent, AgentError},
    config::{Config, Environment},
    link::{LinkError, PodLink, gateway, macs},
    result::{Added, Code, Failure, Interface, RouteEntry},
};

/// CNI spec 1.1, section 2, "ADD". See the module docs of the binary for the order of things and why.
pub(super) fn run(environment: &Environment, config: &Config) -> Result<String, Failure> {
    let attachment = environment.attachment()?;
    let netns = environment.netns()?;
    let args = environment.args()?;
    let namespace = Namespace::open(netns).map_err(|error| {
        Failure::new(Code::UnknownContainer, "enter the pod's namespace, CNI_NETNS").because(&error)
    })?;
    refuse_own_namespace(&namespace)?;

    let id = EndpointId::of(attachment.owner.container_id(), attachment.owner.ifname());
    let _lock = take_lock(&config.run_dir, &id)?;
    let records = Records::below(&config.run_dir);
    if let Ok(Some(_)) = records.read(&id) {
        return Err(Failure::new(
            Code::Environment,
            format!(
                "container {} has interface {} already; a DEL must come before another ADD",
                attachment.owner.container_id(),
                attachment.owner.ifname()
            ),
        ));
    }
    let mut agent = Agent::connect(&config.run_dir)
        .map_err(|error| Failure::new(Code::TryAgain, "connect the pod").because(&error))?;
    let addresses = address::ask(&mut agent, config, &args)?;
    let store = store(config);
    let host_name: IfName = id
        .host_ifname()
        .parse()
        .map_err(|error| Failure::new(Code::Io, "name the pod's link").because(&error))?;

    let mut undo = Undo { run_dir: &config.run_dir, store: &store, owner: &attachment.owner, armed: true };
    let addresses = addresses.allocate(&store, &attachment.owner)?;
    let (host_mac, derived_mac) = macs(&id);
    let pod_mac = config.mac.or(args.mac).unwrap_or(derived_mac);
    let endpoint = Endpoint {
        container_id: attachment.owner.container_id().to_owned(),
        ifname: attachment.owner.ifname().to_owned(),
        network: config.name.clone(),
        netns: netns.display().to_string(),
        host_ifname: host_name.to_string(),
        mac: pod_mac.to_string(),
        host_mac: host_mac.to_string(),
        addresses: addresses.clone(),
        mtu: config.mtu.octets(),
        pod: args.pod,
    };
    records
        .write(&endpoint)
        .map_err(|error| Failure::new(Code::Io, "record the endpoint").because(&error))?;
    let closed = |error: AgentError| {
        let code = if matches!(error, AgentError::Answer(_)) { Code::Io } else { Code::TryAgain };
        Failure::new(code, "get the pod's policy into the kernel").because(&error)
    };
    // The agent sees to the policy while the link is made.
    let asked = Request::EndpointAdded { endpoint: id.clone() };
    agent.tell(&asked, config.policy_wait).map_err(closed)?;
    PodLink {
        host_name: host_name.clone(),
        host_mac,
        pod_name: &attachment.ifname,
        pod_mac,
        netns: &namespace,
        addresses: &addresses,
        mtu: config.mtu,
    }
    .make()
    .map_err(|error| {
        let code = if matches!(error, LinkError::Present(_)) { Code::Environment } else { Code::Io };
        Failure::new(code, "connect the pod").because(&error)
    })?;
    agent.done().map_err(closed)?;
    undo.armed = false;
    Ok(result(&endpoint, host_mac, pod_mac).to_json(
        config.version,
        config.prev_result.as_ref(),
        config.dns.as_ref(),
    ))
}

/// A pod whose namespace is the host's own would have its address and routes put on the node.
fn refuse_own_namespace(namespace: &Namespace) -> Result<(), Failure> {
    let same = Namespace::current().and_then(|own| own.is_same(namespace));
    match same {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::new(
            Code::Environment,
            format!(
                "CNI_NETNS {} is the host's own namespace; a pod there needs no plugin",
                namespace.name()
            ),
        )),
        Err(error) => Err(Failure::new(Code::Io, "compare namespaces").because(&error)),
    }
}

fn result(endpoint: &Endpoint, host_mac: MacAddr, pod_mac: MacAddr) -> Added {
    let host = Interface {
        name: endpoint.host_ifname.clone(),
        mac: host_mac.to_string(),
        mtu: Some(endpoint.mtu),
        sandbox: String::new(),
    };
    let pod = Interface {
        name: endpoint.ifname.clone(),
        mac: pod_mac.to_string(),
        mtu: Some(endpoint.mtu),
        sandbox: endpoint.netns.clone(),
    };
    let ips = endpoint.addresses.iter().map(|address| {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        (format!("{address}/{prefix}"), Some(gateway(*address)), 1)
    });
    let routes = endpoint
        .addresses
        .iter()
        .map(|address| RouteEntry { dst: everything(*address).to_string(), gw: Some(gateway(*address)) });
    Added { interfaces: vec![host, pod], ips: ips.collect(), routes: routes.collect() }
}

/// Takes back what was done, in reverse, unless the ADD got to its end.
struct Undo<'a> {
    run_dir: &'a Path,
    store: &'a Store,
    owner: &'a Owner,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            // Best effort: the runtime is told of the failure that led here, and follows a failed ADD with a DEL,
            // which does all of this again.
            drop(take_apart(self.run_dir, self.store, self.owner));
        }
    }
}
