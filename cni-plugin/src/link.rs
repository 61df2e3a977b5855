//! A pod's link: the veth pair, its addresses, routes and neighbours, on both sides.
//!
//! ```text
//!   pod namespace                               host namespace
//!   eth0  192.0.2.7/32, 2001:db8::7/128         mgy0123456789ab
//!   default via 169.254.1.1, fe80::1            192.0.2.7 dev mgy..., proto 77
//!   neighbour 169.254.1.1, fe80::1 -> host MAC  neighbour 192.0.2.7 -> pod MAC
//! ```
//!
//! All neighbours are permanent: no ARP or ND is ever answered for anyone, so no pod can claim another's address.

use std::{fs, io, net::IpAddr, os::fd::AsFd, thread, time::Duration};

use margay_api::endpoint::EndpointId;
use margay_netlink::{
    Error, MacAddr, Socket, addr,
    link::{self, End, IfIndex, IfName, Mtu, Veth},
    neigh,
    netns::Namespace,
    route::{self, Filter, Kind, NextHop, Protocol, Route, TableId},
};

/// The router that every pod sees, IPv4. It is on no interface: a permanent neighbour stands in for it.
pub(crate) const GATEWAY_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 1, 1));
/// The router that every pod sees, IPv6.
pub(crate) const GATEWAY_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Settings of a host end, and their values.
pub(crate) const HOST_SETTINGS: [(&str, &str); 5] = [
    // A pod must not be able to configure its node by router advertisements or redirects,
    ("ipv6/accept_ra", "0"),
    ("ipv6/accept_redirects", "0"),
    ("ipv4/accept_redirects", "0"),
    ("ipv4/send_redirects", "0"),
    // nor fill its neighbour table: a pod has its router's address and needs to ask for none.
    ("ipv4/arp_ignore", "8"),
];

/// Metric of the routes of a pod's further interfaces, to which the interface's index is added: above 1024, which
/// IPv6 routes have by default.
const SECOND_METRIC: u32 = 2048;

/// How often it is looked whether the host end sends, and how long in between.
const LOOKS: usize = 1000;
const BETWEEN_LOOKS: Duration = Duration::from_micros(500);

/// What a pod's link is to be.
#[derive(Debug)]
pub(crate) struct PodLink<'a> {
    pub(crate) host_name: IfName,
    pub(crate) host_mac: MacAddr,
    pub(crate) pod_name: &'a IfName,
    pub(crate) pod_mac: MacAddr,
    pub(crate) netns: &'a Namespace,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) mtu: Mtu,
}

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] Error),
    /// An interface that was just made is not there.
    #[error("find interface {0}: it is gone again; did somebody delete the pod's namespace?")]
    Vanished(String),
    /// The pod has an interface of this name.
    #[error("interface {0} exists in the pod already; a DEL must come before another ADD")]
    Present(String),
    /// A kernel setting could not be written.
    #[error("write {path}: {source}")]
    Setting { path: String, source: io::Error },
}

pub(crate) fn gateway(address: IpAddr) -> IpAddr {
    if address.is_ipv4() { GATEWAY_V4 } else { GATEWAY_V6 }
}

/// The link-layer addresses of host and pod end: derived, so that they are the same after a restart.
pub(crate) fn macs(id: &EndpointId) -> (MacAddr, MacAddr) {
    let mut octets = [0; 6];
    for (octet, digits) in octets.iter_mut().zip(id.as_str().as_bytes().chunks(2)) {
        // An endpoint ID holds hex digits only.
        *octet = std::str::from_utf8(digits).ok().and_then(|d| u8::from_str_radix(d, 16).ok()).unwrap_or(0);
    }
    let pod = MacAddr::local(octets);
    octets[5] ^= 0xff;
    (MacAddr::local(octets), pod)
}

impl PodLink<'_> {
    /// Makes the pair and configures both ends. What is made before a failure goes when the host end is deleted.
    pub(crate) fn make(&self) -> Result<(), LinkError> {
        let mut host = Socket::open()?;
        let veth = Veth {
            near: End { name: &self.host_name, address: Some(self.host_mac), netns: None },
            far: End { name: self.pod_name, address: Some(self.pod_mac), netns: Some(self.netns.as_fd()) },
            mtu: Some(self.mtu),
        };
        let request = link::add_veth(&veth);
        let mut made = host.execute(&request);
        if made.as_ref().is_err_and(Error::is_present) {
            // Whatever an ADD left that was killed half-way: nobody else makes an interface of the host's name.
            match host.execute(&link::delete(&self.host_name)) {
                Err(error) if !error.is_gone() => return Err(error.into()),
                _ => made = host.execute(&request),
            }
        }
        made.map_err(|error| {
            if error.is_present() { LinkError::Present(self.pod_name.to_string()) } else { error.into() }
        })?;
        self.configure_pod()?;
        self.configure_host(&mut host)
    }

    fn configure_pod(&self) -> Result<(), LinkError> {
        let _inside = self.netns.enter()?;
        let mut socket = Socket::open()?;
        let index = find(self.pod_name)?;
        self.enable_ipv6(self.pod_name)?;
        let mut requests = vec![link::set_up(index)];
        let present = route::list(&mut socket, Filter { table: Some(TableId::MAIN), protocol: None })?;
        for address in self.addresses.iter().copied() {
            let router = gateway(address);
            requests.push(addr::add(index, address.into()));
            requests.push(neigh::replace_permanent(index, router, self.host_mac));
            // A pod that has an interface already keeps its way out: ours stands behind it.
            let is_second = present.iter().any(|route| route.destination == route::everything(address));
            for mut route in pod_routes(index, address) {
                route.metric = is_second.then(|| SECOND_METRIC.saturating_add(index.number()));
                requests.push(route::replace(&route));
            }
        }
        run(&mut socket, &requests)
    }

    /// `default/disable_ipv6` of a hardened node, or a sysctl that the runtime set before us, must not cost an IPv6 pod
    /// its address.
    fn enable_ipv6(&self, name: &IfName) -> Result<(), LinkError> {
        if self.addresses.iter().any(IpAddr::is_ipv6) { set(name, "ipv6/disable_ipv6", "0") } else { Ok(()) }
    }

    fn configure_host(&self, socket: &mut Socket) -> Result<(), LinkError> {
        let index = find(&self.host_name)?;
        for (setting, value) in HOST_SETTINGS {
            set(&self.host_name, setting, value)?;
        }
        // What the node's `default` says of new links is for its uplinks; this one must forward.
        self.enable_ipv6(&self.host_name)?;
        for address in self.addresses {
            set(&self.host_name, &format!("{}/forwarding", family(*address)), "1")?;
        }
        let mut requests = Vec::new();
        for address in self.addresses.iter().copied() {
            requests.push(neigh::replace_permanent(index, address, self.pod_mac));
            requests.push(route::replace(&host_route(index, address)));
        }
        run(socket, &requests)?;
        until_running(socket, index)
    }
}

/// Waits until the host end sends. It got its carrier from the pod's end, and the kernel tells its queue of that from a worker, which may
/// have to wait for others who change links: until then it drops what is for the pod, and a first SYN that is lost costs a second. Linux
/// 6.8 has it done when the interface is asked for by its number (`rtnl_getlink`); before, the worker comes within milliseconds.
fn until_running(socket: &mut Socket, index: IfIndex) -> Result<(), LinkError> {
    for _ in 0..LOOKS {
        // One without a carrier any more is somebody else's doing.
        if link::by_index(socket, index)?.is_none_or(|link| link.running || !link.carrier) {
            break;
        }
        thread::sleep(BETWEEN_LOOKS);
    }
    Ok(())
}

/// The routes inside a pod.
pub(crate) fn pod_routes(index: IfIndex, address: IpAddr) -> Vec<Route> {
    let router = gateway(address);
    let default = NextHop { link: Some(index), on_link: true, ..NextHop::via(router) };
    let mut routes = Vec::new();
    if router.is_ipv4() {
        routes.push(Route::new(router.into(), Kind::Unicast(vec![NextHop::dev(index)]), Protocol::BOOT));
    }
    // fe80::/64 is on every link that is up.
    routes.push(Route::new(route::everything(address), Kind::Unicast(vec![default]), Protocol::BOOT));
    routes
}

/// The route to a pod on its node.
pub(crate) fn host_route(index: IfIndex, address: IpAddr) -> Route {
    Route::new(address.into(), Kind::Unicast(vec![NextHop::dev(index)]), Protocol::MARGAY)
}

/// Deletes the host end, and so the pair with all that hangs on it. That it is not there is success.
pub(crate) fn delete(host_name: &IfName) -> Result<(), Error> {
    match Socket::open()?.execute(&link::delete(host_name)) {
        Err(error) if !error.is_gone() => Err(error),
        _ => Ok(()),
    }
}

/// The kernel's directory for settings of an address's protocol.
pub(crate) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ipv4" } else { "ipv6" }
}

/// `family/setting` of an interface in the thread's namespace; `None` where the kernel has none.
pub(crate) fn setting(name: &str, setting: &str) -> Option<String> {
    let text = fs::read_to_string(setting_path(name, setting)).ok()?;
    Some(text.trim().to_owned())
}

fn setting_path(name: &str, setting: &str) -> String {
    let (family, setting) = setting.split_once('/').unwrap_or(("ipv4", setting));
    format!("/proc/sys/net/{family}/conf/{name}/{setting}")
}

/// Sets `family/setting` of an interface in the thread's namespace, where it differs.
fn set(name: &IfName, setting: &str, value: &str) -> Result<(), LinkError> {
    let path = setting_path(name.as_str(), setting);
    let written = match fs::read_to_string(&path) {
        Ok(present) if present.trim() == value => Ok(()),
        Ok(_) => fs::write(&path, value),
        Err(error) => Err(error),
    };
    match written {
        // No IPv6 in this kernel.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written.map_err(|source| LinkError::Setting { path, source }),
    }
}

fn find(name: &IfName) -> Result<IfIndex, LinkError> {
    link::index_of(name)?.ok_or_else(|| LinkError::Vanished(name.to_string()))
}

fn run(socket: &mut Socket, requests: &[margay_netlink::Request]) -> Result<(), LinkError> {
    for outcome in socket.execute_all(requests)? {
        outcome?;
    }
    Ok(())
}
