//! CHECK: is the kernel still as the ADD left it?

use std::net::IpAddr;

use margay_api::{
    agent::Request,
    endpoint::{Endpoint, EndpointId, Records},
};
use margay_ipam::Owner;
use margay_netlink::{
    Error, MacAddr, Socket, addr,
    link::{self as kernel_link, IfName, Link},
    neigh,
    netns::Namespace,
    route::{self, Filter, Route},
};
use serde_json::Value;

use super::store;
use crate::{
    agent,
    config::{Config, Environment},
    link::{HOST_SETTINGS, family, gateway, host_route, pod_routes, setting},
    result::{Code, Failure},
};

const ON_HOST: &str = "on the host";
const IN_POD: &str = "in the pod";

/// CNI spec 1.1, section 2, "CHECK". Names all differences between the result, the kernel, the addresses held and the
/// policy in force.
pub(super) fn run(environment: &Environment, config: &Config) -> Result<String, Failure> {
    let attachment = environment.attachment()?;
    let netns = environment.netns()?;
    let previous = config
        .prev_result
        .as_ref()
        .ok_or_else(|| Failure::new(Code::Config, "CHECK needs `prevResult`, the result of the ADD"))?;
    let id = EndpointId::of(attachment.owner.container_id(), attachment.owner.ifname());
    let record = Records::below(&config.run_dir)
        .read(&id)
        .map_err(|error| Failure::new(Code::Io, "read the endpoint").because(&error))?;
    let Some(endpoint) = record else {
        return Err(Failure::new(
            Code::Differs,
            format!("endpoint {id} has no record: it was never added, or is deleted"),
        ));
    };
    let mut differences = Differences::default();
    differences.result(previous, &endpoint, netns.to_str().unwrap_or_default());
    differences.reservations(config, &attachment.owner, &endpoint)?;
    differences.host(&endpoint).map_err(|error| kernel(&error))?;
    match Namespace::open(netns) {
        Ok(namespace) => differences
            .pod(&endpoint, &namespace, &attachment.ifname, mtu_of(previous, &attachment.ifname))
            .map_err(|error| kernel(&error))?,
        // Not code 3: that would say that there is nothing to DEL, but the address is held.
        Err(error) => differences.push(format!("the pod's namespace is gone: {error}")),
    }
    let asked = Request::EndpointCheck { endpoint: id };
    if let Err(error) = agent::ask(&config.run_dir, &asked, config.policy_wait) {
        differences.push(format!("the pod's policy is not known to be in force: {error}"));
    }
    differences.into_outcome()
}

fn kernel(error: &Error) -> Failure {
    Failure::new(Code::Io, "read the kernel's state").because(error)
}

/// The MTU that the result gives a pod's interface (since 1.1.0). A later plugin of the list may have changed it.
fn mtu_of(result: &Value, ifname: &IfName) -> Option<u64> {
    let interfaces = result["interfaces"].as_array()?;
    let ours = |interface: &&Value| interface["name"] == ifname.as_str() && interface["sandbox"] != "";
    interfaces.iter().find(ours)?["mtu"].as_u64()
}

/// What is not as it must be, in words.
#[derive(Debug, Default)]
struct Differences(Vec<String>);

impl Differences {
    fn push(&mut self, difference: String) {
        self.0.push(difference);
    }

    fn expect(&mut self, holds: bool, difference: impl FnOnce() -> String) {
        if !holds {
            self.0.push(difference());
        }
    }

    fn into_outcome(self) -> Result<String, Failure> {
        if self.0.is_empty() {
            Ok(String::new())
        } else {
            Err(Failure::new(Code::Differs, self.0.join("; ")))
        }
    }

    /// Interfaces and addresses that we made must be in the result; what others added to it is theirs.
    fn result(&mut self, previous: &Value, endpoint: &Endpoint, netns: &str) {
        let entries = |key: &str| previous[key].as_array().map(Vec::as_slice).unwrap_or_default();
        let ips = entries("ips").iter();
        let listed: Vec<IpAddr> =
            ips.filter_map(|ip| ip["address"].as_str()?.split('/').next()?.parse().ok()).collect();
        for address in &endpoint.addresses {
            self.expect(listed.contains(address), || {
                format!("prevResult lacks {address}, which the endpoint has")
            });
        }
        for (name, sandbox) in [(&endpoint.host_ifname, ""), (&endpoint.ifname, netns)] {
            let is_listed = entries("interfaces").iter().any(|interface| {
                interface["name"] == name.as_str()
                    && interface["sandbox"].as_str().unwrap_or_default() == sandbox
            });
            self.expect(is_listed, || format!("prevResult lacks interface {name}, which the endpoint has"));
        }
    }

    fn reservations(&mut self, config: &Config, owner: &Owner, endpoint: &Endpoint) -> Result<(), Failure> {
        let held = store(config)
            .allocations()
            .map_err(|error| Failure::new(Code::Io, "list addresses").because(&error))?;
        for address in &endpoint.addresses {
            let holder = held.iter().find(|allocation| allocation.address == *address);
            self.expect(holder.is_some_and(|found| found.owner.as_ref() == Some(owner)), || {
                format!("address {address} is not held for this interface")
            });
        }
        Ok(())
    }

    fn host(&mut self, endpoint: &Endpoint) -> Result<(), Error> {
        let mut socket = Socket::open()?;
        let Some(link) = self.interface(&mut socket, &endpoint.host_ifname, &endpoint.host_mac, ON_HOST)?
        else {
            return Ok(());
        };
        self.expect(link.mtu == endpoint.mtu, || {
            format!("interface {} {ON_HOST} has MTU {}, not {}", link.name, link.mtu, endpoint.mtu)
        });
        for address in endpoint.addresses.iter().copied() {
            self.route(&mut socket, &host_route(link.index, address), ON_HOST)?;
            self.neighbour(&mut socket, &link, address, &endpoint.mac, ON_HOST)?;
        }
        self.settings(&link.name, &endpoint.addresses);
        Ok(())
    }

    /// Kernel settings without which the pod is unreachable, or the node open to it.
    fn settings(&mut self, name: &str, addresses: &[IpAddr]) {
        let forwarding = addresses.iter().map(|address| (format!("{}/forwarding", family(*address)), "1"));
        let guards = HOST_SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), *value));
        for (key, value) in forwarding.chain(guards) {
            // The kernel has no such setting: then it has no such protocol.
            let Some(found) = setting(name, &key) else { continue };
            self.expect(found == value, || format!("{key} of interface {name} is {found}, not {value}"));
        }
    }

    fn pod(
        &mut self,
        endpoint: &Endpoint,
        namespace: &Namespace,
        ifname: &IfName,
        mtu: Option<u64>,
    ) -> Result<(), Error> {
        let _inside = namespace.enter()?;
        let mut socket = Socket::open()?;
        let Some(link) = self.interface(&mut socket, ifname.as_str(), &endpoint.mac, IN_POD)? else {
            return Ok(());
        };
        match mtu {
            // The result is of the ADD; pods that are there follow a smaller MTU.
            Some(mtu) => {
                let mtu = mtu.min(endpoint.mtu.into());
                self.expect(u64::from(link.mtu) == mtu, || {
                    format!("interface {ifname} {IN_POD} has MTU {}, not {mtu}", link.mtu)
                });
            }
            // A later plugin may have made it smaller without a word; larger packets get nowhere.
            None => self.expect(link.mtu <= endpoint.mtu, || {
                format!("interface {ifname} {IN_POD} has MTU {}, more than {}", link.mtu, endpoint.mtu)
            }),
        }
        let addresses = addr::list_on(&mut socket, link.index)?;
        for address in endpoint.addresses.iter().copied() {
            self.expect(addresses.iter().any(|found| found.network == address.into()), || {
                format!("address {address} is not on {ifname} {IN_POD}")
            });
            for route in pod_routes(link.index, address) {
                self.route(&mut socket, &route, IN_POD)?;
            }
            self.neighbour(&mut socket, &link, gateway(address), &endpoint.host_mac, IN_POD)?;
        }
        Ok(())
    }

    fn interface(
        &mut self,
        socket: &mut Socket,
        name: &str,
        mac: &str,
        place: &str,
    ) -> Result<Option<Link>, Error> {
        let found = match name.parse::<IfName>() {
            Ok(name) => kernel_link::by_name(socket, &name)?,
            Err(_no_name) => None,
        };
        let Some(link) = found else {
            self.push(format!("interface {name} is not {place}"));
            return Ok(None);
        };
        self.expect(link.up, || format!("interface {name} {place} is down"));
        let found = link.address.map(|mac| mac.to_string()).unwrap_or_default();
        self.expect(found == mac, || {
            format!("interface {name} {place} has address {found}, not {mac}, which its peer sends to")
        });
        Ok(Some(link))
    }

    /// Looks in all tables: a later plugin, such as `sbr`, may have moved a route to one of its own.
    fn route(&mut self, socket: &mut Socket, wanted: &Route, place: &str) -> Result<(), Error> {
        let found = route::list(socket, Filter { table: None, protocol: None })?;
        let same = |route: &Route| {
            route.destination == wanted.destination
                && links(route) == links(wanted)
                && routers(route) == routers(wanted)
        };
        self.expect(found.iter().any(same), || format!("{wanted} is not {place}"));
        Ok(())
    }

    fn neighbour(
        &mut self,
        socket: &mut Socket,
        link: &Link,
        address: IpAddr,
        mac: &str,
        place: &str,
    ) -> Result<(), Error> {
        let found = neigh::list_on(socket, link.index)?;
        let wanted = mac.parse::<MacAddr>().ok();
        let is_there = found.iter().any(|n| n.address == address && n.mac == wanted && n.permanent);
        self.expect(is_there, || format!("neighbour {address} at {mac} is not {place}"));
        Ok(())
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
