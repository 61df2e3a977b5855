//! Hosts outside the cluster.

use super::link::{Cable, attach};
use super::sysctl::prepare_namespace;
use crate::machine::Machine;
use crate::station::{Port, Servers, Station};
use anyhow::Context;
use ipnetwork::IpNetwork;
use margay_netlink::link::{IfName, delete};
use margay_netlink::netns::Namespace;
use margay_netlink::route::{self, Kind, NextHop, Protocol, Route};
use margay_netlink::{Socket, addr};
use nix::sched::{CloneFlags, unshare};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// What an external host takes for its router: an address that need not be in any subnet of its own.
const GATEWAY_IPV4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_IPV6: &str = "fe80::1";

/// A host outside the cluster; dropping it unplugs it.
#[derive(Debug)]
pub(crate) struct External {
    fabric: Arc<Machine>,
    port: IfName,
    station: Arc<Station>,
    addresses: Vec<IpAddr>,
    servers: Option<Servers>,
}

impl External {
    pub(super) fn attach(
        fabric: &Arc<Machine>,
        index: usize,
        addresses: Vec<IpAddr>,
    ) -> anyhow::Result<Self> {
        let namespace = Arc::new(anonymous_namespace()?);
        prepare_namespace(&namespace)?;
        let port: IfName = format!("ext{index}").parse()?;
        let networks: Vec<IpNetwork> = addresses.iter().map(|address| IpNetwork::from(*address)).collect();
        let gateways = gateways(&addresses)?;
        let cable = Cable { name: &port, far: "eth0", mac: None, addresses: &networks, gateways: &gateways };
        let link = attach(fabric.namespace(), &cable, &namespace).context("connect an external host")?;
        {
            let _inside = fabric.namespace().enter()?;
            let mut socket = Socket::open()?;
            for gateway in &gateways {
                socket.execute(&addr::add(link, IpNetwork::from(*gateway)))?;
            }
            for network in &networks {
                let hop = Kind::Unicast(vec![NextHop::dev(link)]);
                socket.execute(&route::add(&Route::new(*network, hop, Protocol::STATIC)))?;
            }
        }
        let station = Station::open(namespace)?;
        Ok(Self { fabric: Arc::clone(fabric), port, station, addresses, servers: None })
    }

    pub(super) fn port(&self) -> &str {
        self.port.as_str()
    }

    pub(crate) fn serve(&mut self, ports: &[Port]) -> anyhow::Result<()> {
        self.servers = None;
        self.servers = Some(self.station.serve(ports)?);
        Ok(())
    }

    pub(crate) fn station(&self) -> &Arc<Station> {
        &self.station
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }
}

impl Drop for External {
    fn drop(&mut self) {
        let unplug = || -> Result<(), margay_netlink::Error> {
            let _inside = self.fabric.namespace().enter()?;
            Socket::open()?.execute(&delete(&self.port))
        };
        if let Err(error) = unplug() {
            tracing::debug!(%error, "unplug an external host");
        }
    }
}

fn gateways(addresses: &[IpAddr]) -> anyhow::Result<Vec<IpAddr>> {
    let mut gateways = Vec::new();
    if addresses.iter().any(IpAddr::is_ipv4) {
        gateways.push(GATEWAY_IPV4);
    }
    if addresses.iter().any(IpAddr::is_ipv6) {
        gateways.push(GATEWAY_IPV6.parse()?);
    }
    Ok(gateways)
}

/// A network namespace without a name.
fn anonymous_namespace() -> anyhow::Result<Namespace> {
    let make = || -> anyhow::Result<Namespace> {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        Ok(Namespace::current()?)
    };
    // A thread of its own, as a thread cannot go back to where it was without knowing the way.
    std::thread::scope(|scope| scope.spawn(make).join())
        .map_err(|_panic| anyhow::anyhow!("the thread that makes a namespace panicked"))?
}
