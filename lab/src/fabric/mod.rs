//! The network between the nodes, in a machine of its own.
//!
//! ```text
//!  flat:    n1   n2   n3        one bridge, 172.18.0.0/24; .1 is the nodes' default gateway
//!            \___|___/
//!              fabric --- external hosts
//!
//!  routed:  n1   n2   n3        172.18.1.0/30, 172.18.2.0/30, ...; eBGP on each link
//!            \   |   /
//!             router (BIRD) --- external hosts
//!
//!  subnets: n1   n3   n2   n4   two bridges, 172.18.1.0/24 and 172.18.2.0/24
//!            \   /     \   /
//!             router, which knows no pod --- external hosts
//! ```
//! On a flat fabric the routes to the pods serve only what comes from external hosts. Nodes have to learn their own
//! by BGP: without that, nothing between pods of two nodes may seem to work.

mod bird;
mod external;
mod link;
mod sysctl;

pub(crate) use external::External;
pub(crate) use sysctl::prepare_namespace;

use crate::config::{FabricKind, IpFamilies};
use crate::machine::{Machine, Process};
use crate::plan::NodePlan;
use anyhow::Context;
use ipnetwork::IpNetwork;
use link::{Cable, attach};
use margay_netlink::link::{Bridge, IfName, add_bridge, by_name, delete, set_controller};
use margay_netlink::netns::Namespace;
use margay_netlink::route::{self, Kind, NextHop, Protocol, Route, TableId};
use margay_netlink::{Socket, addr};
use std::net::IpAddr;
use std::sync::Arc;

/// The autonomous system of the router of a routed fabric.
pub(crate) const ROUTER_ASN: u32 = 64_600;
/// The table of the pod routes that serve external hosts on a flat fabric.
const PODS_TABLE: TableId = TableId(100);
/// The bridge of the nodes' second interfaces.
const SECOND_BRIDGE: &str = "second";

/// The network between the nodes.
#[derive(Debug)]
pub(crate) struct Fabric {
    kind: FabricKind,
    machine: Arc<Machine>,
    families: IpFamilies,
    bird: Option<Process>,
}

impl Fabric {
    /// A fabric that nothing is attached to yet.
    pub(crate) async fn start(
        kind: FabricKind,
        families: IpFamilies,
        nodes: &[NodePlan],
    ) -> anyhow::Result<Self> {
        let machine = Arc::new(Machine::start("fabric", &[]).await.context("make the fabric")?);
        prepare_namespace(machine.namespace())?;
        sysctl::route_packets(machine.namespace())?;
        let mut fabric = Self { kind, machine, families, bird: None };
        if nodes.iter().any(|plan| !plan.second.is_empty()) {
            let _inside = fabric.machine.namespace().enter()?;
            let bridge = add_bridge(&Bridge { name: &SECOND_BRIDGE.parse()? });
            Socket::open()?.execute(&bridge).context("make the second bridge")?;
        }
        fabric.expect(nodes).await?;
        Ok(fabric)
    }

    pub(crate) fn machine(&self) -> &Arc<Machine> {
        &self.machine
    }

    /// Runs BIRD where the nodes' default gateway is, with this configuration; one that runs there takes it over.
    pub(crate) async fn run_router(&mut self, configuration: &str) -> anyhow::Result<()> {
        anyhow::ensure!(self.kind == FabricKind::Flat, "a routed fabric has a router of its own");
        self.route(configuration).await
    }

    /// Prepares for these nodes: they have a bridge for each subnet, or a router that knows them and no others.
    pub(crate) async fn expect(&mut self, nodes: &[NodePlan]) -> anyhow::Result<()> {
        match self.kind {
            FabricKind::Flat | FabricKind::Subnets => self.make_bridges(nodes),
            FabricKind::Routed => self.route(&bird::configuration(nodes)).await,
        }
    }

    async fn route(&mut self, configuration: &str) -> anyhow::Result<()> {
        std::fs::write(self.machine.path("/run/lab/bird.conf"), configuration)
            .context("write BIRD's configuration")?;
        if self.bird.is_some() {
            return self.ask_router("configure").await.map(drop);
        }
        self.bird = Some(Process::start(Arc::clone(&self.machine), bird::spec(bird::find()?)));
        Ok(())
    }

    /// Asks BIRD.
    pub(crate) async fn ask_router(&self, command: &str) -> anyhow::Result<String> {
        self.machine.output("birdc", &["-s", bird::CONTROL, command]).await
    }

    /// The newest lines of the router's log.
    pub(crate) fn log(&self, lines: usize) -> Vec<String> {
        self.bird.as_ref().map(|bird| bird.log().tail(lines)).unwrap_or_default()
    }

    /// Connects a node and gives it its addresses and default routes.
    pub(crate) fn attach_node(&self, plan: &NodePlan, node: &Namespace) -> anyhow::Result<()> {
        let near = port(plan)?;
        let cable = Cable {
            name: &near,
            far: "eth0",
            mac: Some(plan.mac(0)),
            addresses: &plan.networks,
            gateways: &plan.gateways,
        };
        let port = attach(self.machine.namespace(), &cable, node)
            .with_context(|| format!("connect {} to the fabric", plan.name))?;
        if !plan.second.is_empty() {
            let near = second_port(plan)?;
            let cable = Cable {
                name: &near,
                far: "eth1",
                mac: Some(plan.mac(1)),
                addresses: &plan.second,
                gateways: &[],
            };
            let port = attach(self.machine.namespace(), &cable, node)
                .with_context(|| format!("connect {} to the second subnet", plan.name))?;
            let _inside = self.machine.namespace().enter()?;
            let mut socket = Socket::open()?;
            let bridge =
                by_name(&mut socket, &SECOND_BRIDGE.parse()?)?.context("the second bridge is gone")?;
            socket.execute(&set_controller(port, bridge.index))?;
        }
        let _inside = self.machine.namespace().enter()?;
        let mut socket = Socket::open()?;
        match self.kind {
            FabricKind::Flat | FabricKind::Subnets => {
                let bridge = by_name(&mut socket, &bridge_of(plan)?)?.context("the bridge is gone")?;
                socket.execute(&set_controller(port, bridge.index))?;
                // Between subnets nobody knows pods.
                let is_flat = self.kind == FabricKind::Flat;
                for (pods, address) in plan.pod_routes().into_iter().filter(|_| is_flat) {
                    socket.execute(&route::replace(&pods_behind(pods, address)))?;
                }
            }
            FabricKind::Routed => {
                for network in &plan.gateway_networks() {
                    socket.execute(&addr::add(port, *network))?;
                }
            }
        }
        Ok(())
    }

    /// Takes a node's cables away.
    pub(crate) fn detach_node(&self, plan: &NodePlan) -> anyhow::Result<()> {
        let _inside = self.machine.namespace().enter()?;
        let mut socket = Socket::open()?;
        if !plan.second.is_empty() {
            socket.execute(&delete(&second_port(plan)?))?;
        }
        socket
            .execute(&delete(&port(plan)?))
            .with_context(|| format!("disconnect {} from the fabric", plan.name))?;
        if self.kind == FabricKind::Flat {
            for (pods, address) in plan.pod_routes() {
                socket.execute(&route::delete(&pods_behind(pods, address)))?;
            }
        }
        Ok(())
    }

    /// Connects a host outside the cluster.
    pub(crate) async fn attach_external(
        &self,
        index: usize,
        addresses: &[IpAddr],
    ) -> anyhow::Result<External> {
        let addresses: Vec<IpAddr> =
            addresses.iter().copied().filter(|address| self.families.has_family_of(*address)).collect();
        let external = External::attach(&self.machine, index, addresses)?;
        if self.kind == FabricKind::Flat {
            let families = [("-4", self.families.has_ipv4()), ("-6", self.families.has_ipv6())];
            for (family, _) in families.into_iter().filter(|(_, is_there)| *is_there) {
                let rule =
                    [family, "rule", "add", "iif", external.port(), "lookup", "100", "priority", "100"];
                self.machine.output("ip", &rule).await.context("let external hosts use the pod routes")?;
            }
        }
        Ok(external)
    }

    fn make_bridges(&self, nodes: &[NodePlan]) -> anyhow::Result<()> {
        let _inside = self.machine.namespace().enter()?;
        let mut socket = Socket::open()?;
        for plan in nodes {
            let name = bridge_of(plan)?;
            if by_name(&mut socket, &name)?.is_some() {
                continue;
            }
            socket.execute(&add_bridge(&Bridge { name: &name })).context("make the bridge")?;
            let bridge = by_name(&mut socket, &name)?.context("the bridge is gone")?;
            for network in plan.gateway_networks() {
                socket.execute(&addr::add(bridge.index, network))?;
            }
        }
        Ok(())
    }
}

/// Where a node is plugged in.
fn port(plan: &NodePlan) -> anyhow::Result<IfName> {
    plan.name.parse().context("name a port after the node")
}

/// Where its second interface is.
fn second_port(plan: &NodePlan) -> anyhow::Result<IfName> {
    format!("{}s", plan.name).parse().context("name a second port after the node")
}

/// The route of external hosts to the pods of a node.
fn pods_behind(pods: IpNetwork, node: IpAddr) -> Route {
    let hop = Kind::Unicast(vec![NextHop::via(node)]);
    Route { table: PODS_TABLE, ..Route::new(pods, hop, Protocol::STATIC) }
}

/// The bridge of a node's subnet, named after the router's first address there.
fn bridge_of(plan: &NodePlan) -> anyhow::Result<IfName> {
    let subnet = match plan.gateways.first() {
        Some(IpAddr::V4(gateway)) => u16::from(gateway.octets()[2]),
        Some(IpAddr::V6(gateway)) => gateway.segments()[3],
        None => 0,
    };
    Ok(format!("br{subnet}").parse()?)
}
