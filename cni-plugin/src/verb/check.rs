//! CHECK: is the kernel still as the ADD left it?

use std::{collections::BTreeSet, net::IpAddr};

use margay_api::{
    agent::Request,
    endpoint::{Endpoint, EndpointId, Records},
};
use margay_netlink::{
    MacAddr, Socket, addr,
    link::{self as kernel_link, IfName, Link},
    neigh,
    netns::Namespace,
    route::{self, Filter, Route, TableId},
};
use serde_json::Value;

use crate::{
    agent,
    config::{Config, Environment, Version},
    link::{gateway, host_route, pod_routes},
    result::{Code, Failure},
};

/// CNI spec 1.1, section 2, "CHECK". Names the first difference.
pub(super) fn run(environment: &Environment, config: &Config) -> Result<String, Failure> {
    if config.version < Version::V0_4_0 {
        return Err(Failure::new(
            Code::IncompatibleVersion,
            format!("CHECK came with version 0.4.0; the configuration asks for {}", config.version.text()),
        ));
    }
    let attachment = environment.attachment()?;
    let netns = environment.netns()?;
    let previous = config
        .prev_result
        .as_ref()
        .ok_or_else(|| Failure::new(Code::Config, "CHECK needs `prevResult`, the result of the ADD"))?;
    let id = EndpointId::of(attachment.owner.container_id(), attachment.owner.ifname());
    let endpoint = Records::below(&config.run_dir)
        .read(&id)
        .map_err(|error| Failure::new(Code::Io, "read the endpoint").because(&error))?
        .ok_or_else(|| differs(format!("endpoint {id} has no record: it was never added, or is deleted")))?;
    compare_result(previous, &endpoint)?;
    let namespace = Namespace::open(netns)
        .map_err(|error| Failure::new(Code::UnknownContainer, "open CNI_NETNS").because(&error))?;
    check_host(&endpoint)?;
    check_pod(&endpoint, &namespace, &attachment.ifname)?;
    agent::ask(&config.run_dir, &Request::EndpointCheck { endpoint: id }, config.policy_wait)
        .map_err(|error| differs("the pod's policy").because(&error))?;
    Ok(String::new())
}

fn differs(message: impl Into<String>) -> Failure {
    Failure::new(Code::Differs, message)
}

fn compare_result(previous: &Value, endpoint: &Endpoint) -> Result<(), Failure> {
    let listed: BTreeSet<IpAddr> = previous["ips"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok())
        .collect();
    match endpoint.addresses.iter().find(|address| !listed.contains(address)) {
        Some(address) => Err(differs(format!("prevResult lacks {address}, which the endpoint has"))),
        None => Ok(()),
    }
}

fn kernel(error: &margay_netlink::Error) -> Failure {
    Failure::new(Code::Io, "read the kernel's state").because(error)
}

fn interface(socket: &mut Socket, name: &str, mac: &str, place: &str) -> Result<Link, Failure> {
    let name: IfName = name.parse().map_err(|error| differs("read the record").because(&error))?;
    let link = kernel_link::by_name(socket, &name)
        .map_err(|error| kernel(&error))?
        .ok_or_else(|| differs(format!("interface {name} is not {place}")))?;
    if !link.up {
        return Err(differs(format!("interface {name} {place} is down")));
    }
    let found = link.address.map(|mac| mac.to_string()).unwrap_or_default();
    if found != mac {
        return Err(differs(format!("interface {name} {place} has address {found}, not {mac}")));
    }
    Ok(link)
}

fn expect_route(socket: &mut Socket, wanted: &Route, place: &str) -> Result<(), Failure> {
    let filter = Filter { table: Some(TableId::MAIN), protocol: None };
    let found = route::list(socket, filter).map_err(|error| kernel(&error))?;
    let same = |route: &&Route| {
        route.destination == wanted.destination
            && links(route) == links(wanted)
            && routers(route) == routers(wanted)
    };
    if found.iter().any(|route| same(&route)) {
        Ok(())
    } else {
        Err(differs(format!("{wanted} is not {place}")))
    }
}

fn links(route: &Route) -> Vec<Option<kernel_link::IfIndex>> {
    hops(route).iter().map(|hop| hop.link).collect()
}

fn routers(route: &Route) -> Vec<Option<IpAddr>> {
    hops(route).iter().map(|hop| hop.via).collect()
}

fn hops(route: &Route) -> &[route::NextHop] {
    match &route.kind {
        route::Kind::Unicast(hops) => hops,
        _ => &[],
    }
}

fn expect_neighbour(
    socket: &mut Socket,
    link: &Link,
    address: IpAddr,
    mac: &str,
    place: &str,
) -> Result<(), Failure> {
    let found = neigh::list_on(socket, link.index).map_err(|error| kernel(&error))?;
    let wanted = mac.parse::<MacAddr>().ok();
    if found.iter().any(|n| n.address == address && n.mac == wanted && n.permanent) {
        Ok(())
    } else {
        Err(differs(format!("neighbour {address} at {mac} is not {place}")))
    }
}

fn check_host(endpoint: &Endpoint) -> Result<(), Failure> {
    let place = "on the host";
    let mut socket = Socket::open().map_err(|error| kernel(&error))?;
    let link = interface(&mut socket, &endpoint.host_ifname, &endpoint.host_mac, place)?;
    for address in endpoint.addresses.iter().copied() {
        expect_route(&mut socket, &host_route(link.index, address), place)?;
        expect_neighbour(&mut socket, &link, address, &endpoint.mac, place)?;
    }
    Ok(())
}

fn check_pod(endpoint: &Endpoint, namespace: &Namespace, ifname: &IfName) -> Result<(), Failure> {
    let place = "in the pod";
    let _inside = namespace.enter().map_err(|error| kernel(&error))?;
    let mut socket = Socket::open().map_err(|error| kernel(&error))?;
    let link = interface(&mut socket, ifname.as_str(), &endpoint.mac, place)?;
    let addresses = addr::list_on(&mut socket, link.index).map_err(|error| kernel(&error))?;
    for address in endpoint.addresses.iter().copied() {
        if !addresses.iter().any(|found| found.network.ip() == address) {
            return Err(differs(format!("address {address} is not on {ifname} {place}")));
        }
        for route in pod_routes(link.index, address) {
            expect_route(&mut socket, &route, place)?;
        }
        expect_neighbour(&mut socket, &link, gateway(address), &endpoint.host_mac, place)?;
    }
    Ok(())
}
