//! The `loopback` plugin, which runtimes call for every pod before ours.

use margay_netlink::{
    Socket,
    link::{self, IfName, Link},
    netns::Namespace,
};

use crate::{
    config::{Config, Environment},
    result::{Added, Code, Failure, Interface},
};

/// Brings `lo` up.
pub(super) fn add(environment: &Environment, config: &Config) -> Result<String, Failure> {
    let netns = environment.netns()?;
    let link = in_pod(environment, |socket, link| socket.execute(&link::set_up(link.index)))?;
    let result = Added {
        interfaces: vec![Interface {
            name: link.name,
            mac: "00:00:00:00:00:00".into(),
            mtu: Some(link.mtu),
            sandbox: netns.display().to_string(),
        }],
        ips: vec![("127.0.0.1/8".into(), None, 0), ("::1/128".into(), None, 0)],
        routes: vec![],
    };
    Ok(result.to_json(config.version, config.prev_result.as_ref(), config.dns.as_ref()))
}

/// Is `lo` up?
pub(super) fn check(environment: &Environment) -> Result<String, Failure> {
    let link = in_pod(environment, |_, _| Ok(()))?;
    if link.up {
        Ok(String::new())
    } else {
        Err(Failure::new(Code::Differs, "interface lo in the pod is down"))
    }
}

fn in_pod(
    environment: &Environment,
    work: impl FnOnce(&mut Socket, &Link) -> Result<(), margay_netlink::Error>,
) -> Result<Link, Failure> {
    let failed =
        |error: &margay_netlink::Error| Failure::new(Code::Io, "set up lo in the pod").because(error);
    let namespace = Namespace::open(environment.netns()?).map_err(|error| {
        Failure::new(Code::UnknownContainer, "enter the pod's namespace, CNI_NETNS").because(&error)
    })?;
    let _inside = namespace.enter().map_err(|error| failed(&error))?;
    let mut socket = Socket::open().map_err(|error| failed(&error))?;
    let name: IfName = "lo".parse().map_err(|error| Failure::new(Code::Io, "name lo").because(&error))?;
    let link = link::by_name(&mut socket, &name)
        .map_err(|error| failed(&error))?
        .ok_or_else(|| Failure::new(Code::Io, "the pod's namespace has no lo"))?;
    work(&mut socket, &link).map_err(|error| failed(&error))?;
    Ok(link)
}
