//! The ways to pods of other nodes that the agent makes: tunnels and direct routes. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

use ipnetwork::IpNetwork;
use margay_api::resource::Encapsulation;
use margay_netlink::{
    MacAddr,
    link::{IfIndex, Mtu, Vni},
};
use sha2::{Digest, Sha256};

use super::State;
use crate::{
    traffic::{Routing, Traffic},
    tunnels::{Kind, Tunnels},
};

/// What the ways follow, as far as the API has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paths {
    /// The own node's name.
    pub(crate) name: String,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// The own node's blocks.
    pub(crate) own: Vec<IpNetwork>,
    /// The addresses of the other nodes, by name.
    pub(crate) nodes: BTreeMap<String, Vec<IpAddr>>,
    /// The blocks of the other nodes.
    pub(crate) blocks: BTreeMap<IpNetwork, Block>,
    /// Which kinds of tunnels may be needed, now or when a node or a block comes, and who asks for each.
    pub(crate) kinds: BTreeMap<Kind, String>,
    /// What each of the other nodes says of its tunnels, if it does. Where no tunnel is needed, those alone that may be waited for.
    pub(crate) said: BTreeMap<String, Option<Tunnels>>,
}

/// A block of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) node: String,
    pub(crate) encapsulation: Encapsulation,
}

/// A device that tunnels run through, of which a node has one each: the kind, and the family of the addresses between which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Carrier {
    Vxlan4,
    Vxlan6,
    /// Last, as the first has the node's addresses, and this one takes no IPv6.
    Ipip,
}

impl Carrier {
    pub(crate) const ALL: [Self; 3] = [Self::Vxlan4, Self::Vxlan6, Self::Ipip];

    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Vxlan4 | Self::Vxlan6 => Kind::Vxlan,
            Self::Ipip => Kind::Ipip,
        }
    }

    /// The first of a node's addresses that the tunnel may start or end at.
    fn address(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        let is_ipv4 = self != Self::Vxlan6;
        addresses.iter().copied().find(|address| address.is_ipv4() == is_ipv4)
    }

    /// What a tunnel adds to a packet: an outer IP header, and with VXLAN one of UDP, one of VXLAN and an inner one of Ethernet.
    fn overhead(self) -> u32 {
        match self {
            Self::Vxlan4 => 20 + 8 + 8 + 14,
            Self::Vxlan6 => 40 + 8 + 8 + 14,
            Self::Ipip => 20,
        }
    }
}

/// An interface with one of the node's addresses, as the kernel says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Uplink {
    pub(crate) link: IfIndex,
    /// The address with its subnet.
    pub(crate) network: IpNetwork,
    /// The interface's MTU.
    pub(crate) mtu: u32,
}

/// What the ways follow besides [`Paths`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions<'a> {
    pub(crate) settings: &'a Traffic,
    /// Whether a speaker makes routes, too.
    pub(crate) has_speaker: bool,
    /// The MTU that the agent was told.
    pub(crate) mtu: Option<Mtu>,
    pub(crate) uplinks: &'a [Uplink],
    /// The addresses that tunnels have: one of them stays as long as it is right.
    pub(crate) present: &'a [IpAddr],
}

/// Of blocks without an encapsulation, where `routing` is `bgp` and BGP is off.
const NOBODYS: &str = "nobody makes routes to other nodes' pods: `bgp.enabled` is false and `routing` is bgp, but a pool or the \
                       agent's file has no encapsulation; set `routing: direct`, an encapsulation (in mode pool \
                       `spec.encapsulation` of each IPPool, else `overlay.encapsulation`), or `bgp.enabled: true`";

/// What the kernel has to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ways {
    pub(crate) tunnels: BTreeMap<Carrier, Tunnel>,
    pub(crate) routes: BTreeMap<IpNetwork, Hop>,
    /// Blocks whose tunnel cannot be: whatever leads there stays.
    pub(crate) stuck: BTreeSet<IpNetwork>,
    /// Why a tunnel cannot be.
    pub(crate) faults: Vec<String>,
    /// Which ways cannot be, in words.
    pub(crate) problems: Vec<String>,
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) local: IpAddr,
    pub(crate) mtu: Mtu,
    /// Those from the node's blocks: what the node itself sends through a tunnel comes back through one. Each tunnel has them: where one
    /// takes the place of another, an address that moved would take along the routes that name it.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// What it has besides when it takes Ethernet frames. Else the gateway of a route is where its packets are sent to.
    pub(crate) frames: Option<Frames>,
}

/// What is of VXLAN alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frames {
    pub(crate) mac: MacAddr,
    pub(crate) vni: Vni,
    pub(crate) port: u16,
    /// Which node has a link-layer address.
    pub(crate) forwarding: BTreeMap<MacAddr, IpAddr>,
    /// The gateways of routes.
    pub(crate) neighbours: BTreeMap<IpAddr, MacAddr>,
}

/// Where packets to a block go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Through a tunnel, from one of the tunnels' addresses if there is one of the family.
    Tunnel { carrier: Carrier, gateway: IpAddr, source: Option<IpAddr> },
    /// To the other node's address.
    Direct { via: IpAddr, link: IfIndex },
    /// Nowhere: of the own blocks, what no pod has.
    Nowhere,
}

/// The link-layer address of a node's tunnels, made from its name alone: nodes tell each other nothing, and no restart,
/// reboot or new device changes it.
pub(crate) fn mac_of(node: &str) -> MacAddr {
    let hash: [u8; 32] = Sha256::digest(format!("margay tunnel {node}")).into();
    let mut octets = [0; 6];
    octets.copy_from_slice(&hash[..6]);
    MacAddr::local(octets)
}

/// Who may send to the tunnels of this node: other nodes, and nobody else. What a pod or a stranger puts into one would come
/// out as from whoever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TunnelEnds {
    /// Whether there are tunnels of IP-in-IP, which have no port.
    pub(crate) ipip: bool,
    /// The UDP ports that tunnels listen on, or did since the agent began.
    pub(crate) ports: BTreeSet<u16>,
    /// The addresses of this node.
    pub(crate) own: BTreeSet<IpAddr>,
    /// The addresses of the other nodes.
    pub(crate) peers: BTreeSet<IpAddr>,
}

/// Which kinds of tunnels may be needed, now or when a node or a block comes, and who asks for each.
pub(super) fn kinds(state: &State, settings: &Traffic) -> BTreeMap<Kind, String> {
    let pools = state.pool_traffic().iter();
    let pools = pools.map(|(range, traffic)| (traffic.encapsulation, format!("the IPPool of {range}")));
    let file = (
        settings.overlay.encapsulation,
        "overlay.encapsulation of the NetworkConfig or the agent's file".to_owned(),
    );
    let mut kinds = BTreeMap::new();
    for (encapsulation, who) in pools.chain([file]) {
        if let Some(kind) = Kind::of(encapsulation) {
            kinds.entry(kind).or_insert(who);
        }
    }
    kinds
}

/// The ends of the tunnels: of the kinds of now, and of those that there were since the agent began.
pub(super) fn tunnel_ends(
    state: &State,
    settings: &Traffic,
    before: Option<&TunnelEnds>,
) -> Option<TunnelEnds> {
    let kinds = kinds(state, settings);
    if before.is_none() && kinds.is_empty() {
        return None;
    }
    let ipip = kinds.contains_key(&Kind::Ipip) || before.is_some_and(|before| before.ipip);
    let others = state.nodes().filter(|(other, _)| *other != state.node_name());
    let peers = others.flat_map(|(_, node)| node.addresses.iter().copied()).collect();
    let own = state.own_node().map(|own| own.addresses.iter().copied().collect()).unwrap_or_default();
    let mut ports = before.map(|before| before.ports.clone()).unwrap_or_default();
    ports.insert(settings.overlay.port);
    Some(TunnelEnds { ipip, ports, own, peers })
}

/// `None` as long as the own node is not there.
pub(super) fn paths(state: &State, settings: &Traffic, has_speaker: bool) -> Option<Paths> {
    let own = state.own_node()?;
    let name = state.node_name();
    let default = settings.overlay.encapsulation;
    let kinds = kinds(state, settings);
    let has_tunnels = !kinds.is_empty();
    let mut paths = Paths {
        name: name.to_owned(),
        addresses: own.addresses.clone(),
        own: state.blocks().to_vec(),
        nodes: BTreeMap::new(),
        blocks: BTreeMap::new(),
        kinds,
        said: BTreeMap::new(),
    };
    let others = || state.nodes().filter(|(other, _)| *other != name);
    let said = others().map(|(name, node)| (name, &node.tunnels));
    // Tunnels that go are there for those who still send through them.
    let said = said.filter(|(_, said)| has_tunnels || said.as_ref().is_none_or(|it| !it.sent.is_empty()));
    paths.said = said.map(|(name, said)| (name.clone(), said.clone())).collect();
    // Where all is the speaker's, nothing is to change with the cluster.
    if !has_tunnels && settings.routing == Routing::Bgp && has_speaker {
        return Some(paths);
    }
    paths.nodes = others().map(|(name, node)| (name.clone(), node.addresses.clone())).collect();
    let blocks = state.all_blocks().filter(|(_, node)| *node != name);
    paths.blocks = blocks
        .map(|(block, node)| {
            let of_pool = state.pool_traffic_of(block);
            let encapsulation = of_pool.map_or(default, |traffic| traffic.encapsulation);
            (block, Block { node: node.to_owned(), encapsulation })
        })
        .collect();
    Some(paths)
}

impl Paths {
    /// Whether a tunnel may be needed.
    pub(crate) fn has_tunnels(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// The devices of this node. Both ends of a tunnel choose alike: IPv4 where both nodes have it.
    pub(crate) fn carriers(&self) -> BTreeSet<Carrier> {
        let mut carriers = BTreeSet::new();
        if self.kinds.contains_key(&Kind::Ipip) {
            carriers.insert(Carrier::Ipip);
        }
        if !self.kinds.contains_key(&Kind::Vxlan) {
            return carriers;
        }
        let has = |addresses: &[IpAddr], carrier: Carrier| carrier.address(addresses).is_some();
        if has(&self.addresses, Carrier::Vxlan4) {
            carriers.insert(Carrier::Vxlan4);
        }
        // One without any address, as it just joined, has no tunnel at all.
        let has_ipv6_alone =
            |other: &Vec<IpAddr>| has(other, Carrier::Vxlan6) && !has(other, Carrier::Vxlan4);
        let needs_ipv6 = !has(&self.addresses, Carrier::Vxlan4) || self.nodes.values().any(has_ipv6_alone);
        if needs_ipv6 && has(&self.addresses, Carrier::Vxlan6) {
            carriers.insert(Carrier::Vxlan6);
        }
        carriers
    }

    /// Why nothing can be said of the ways: all that is there stays as it is then.
    pub(crate) fn is_nowhere(&self) -> Option<String> {
        let is_nowhere = self.has_tunnels() && self.addresses.is_empty();
        let fault = || {
            format!(
                "a tunnel starts at an InternalIP of the node, but the Node object {} has none; see to the kubelet's \
                 --node-ip or the cloud provider, or set nodeAddress in the agent's file",
                self.name
            )
        };
        is_nowhere.then(fault)
    }

    /// The same while others may not have heard of it: they may still send through tunnels that there were before, and may not have
    /// yet those that are new, through which nothing is sent.
    pub(crate) fn between(&self, before: &Self) -> Self {
        let is_known =
            |encapsulation| Kind::of(encapsulation).is_none_or(|kind| before.kinds.contains_key(&kind));
        let mut paths = self.clone();
        for (range, block) in &mut paths.blocks {
            if !is_known(block.encapsulation) {
                let as_before = before.blocks.get(range).map(|block| block.encapsulation);
                block.encapsulation =
                    as_before.filter(|before| is_known(*before)).unwrap_or(Encapsulation::None);
            }
        }
        // Where all is the speaker's, the nodes do not matter, but they say which tunnels there were.
        if paths.nodes.is_empty() {
            paths.nodes.clone_from(&before.nodes);
        }
        for (kind, who) in &before.kinds {
            paths.kinds.entry(*kind).or_insert_with(|| who.clone());
        }
        paths
    }

    /// How much smaller than the uplink's packets those of pods have to be.
    pub(crate) fn overhead(&self) -> u32 {
        self.carriers().into_iter().map(Carrier::overhead).max().unwrap_or(0)
    }

    /// What the kernel has to hold.
    pub(crate) fn ways(&self, conditions: &Conditions<'_>) -> Ways {
        let mut ways = Ways::default();
        let addresses = self.tunnel_addresses(conditions.present);
        for carrier in self.carriers() {
            match self.tunnel(carrier, conditions) {
                Ok(tunnel) => drop(ways.tunnels.insert(carrier, tunnel)),
                Err(fault) => ways.faults.push(fault),
            }
        }
        for (carrier, tunnel) in &mut ways.tunnels {
            let fits = |address: &&IpAddr| *carrier != Carrier::Ipip || address.is_ipv4();
            tunnel.addresses = addresses.iter().filter(fits).copied().collect();
        }
        let mut lost: BTreeMap<&str, &'static str> = BTreeMap::new();
        let mut is_nobodys = false;
        for (block, Block { node, encapsulation }) in &self.blocks {
            // A node that is gone from the API is no way to its blocks, which are about to go too.
            let Some(there) = self.nodes.get(node) else { continue };
            let direct = direct(conditions.uplinks, there, *block);
            let spares_tunnel = match encapsulation {
                Encapsulation::None | Encapsulation::Vxlan | Encapsulation::Ipip => false,
                Encapsulation::VxlanCrossSubnet | Encapsulation::IpipCrossSubnet => direct.is_some(),
            };
            if let Some(kind) = Kind::of(*encapsulation).filter(|_| !spares_tunnel) {
                if kind == Kind::Ipip && block.is_ipv6() {
                    lost.insert(node, "IP-in-IP carries IPv4 alone: IPv6 takes VXLAN or None");
                    continue;
                }
                let carrier = self.carrier_to(there, kind);
                let Some((carrier, destination)) = carrier.and_then(|it| Some((it, it.address(there)?)))
                else {
                    lost.insert(
                        node,
                        match kind {
                            Kind::Vxlan => "no tunnel leads there: both nodes need addresses of one family",
                            Kind::Ipip => "no tunnel leads there: both nodes need IPv4 addresses",
                        },
                    );
                    continue;
                };
                // Why there is none, its fault says.
                let Some(tunnel) = ways.tunnels.get_mut(&carrier) else {
                    ways.stuck.insert(*block);
                    continue;
                };
                let gateway = match &mut tunnel.frames {
                    Some(frames) => {
                        let mac = mac_of(node);
                        let gateway = gateway(*block, mac);
                        frames.forwarding.insert(mac, destination);
                        frames.neighbours.insert(gateway, mac);
                        gateway
                    }
                    None => destination,
                };
                let source = addresses.iter().copied().find(|it| it.is_ipv4() == block.is_ipv4());
                ways.routes.insert(*block, Hop::Tunnel { carrier, gateway, source });
                continue;
            }
            // Somebody has to make the routes that a tunnel is spared for.
            let is_ours = conditions.settings.routing == Routing::Direct
                || (*encapsulation != Encapsulation::None && !conditions.has_speaker);
            match direct {
                Some((via, link)) if is_ours => drop(ways.routes.insert(*block, Hop::Direct { via, link })),
                None if is_ours && !conditions.has_speaker => {
                    let why =
                        "it is in no subnet of this node, and there is neither BGP nor an encapsulation";
                    lost.insert(node, why);
                }
                _ => is_nobodys |= !is_ours && !conditions.has_speaker,
            }
        }
        if is_nobodys {
            ways.problems.push(NOBODYS.to_owned());
        }
        let lost =
            lost.into_iter().map(|(node, why)| format!("there is no way to pods of node {node}: {why}"));
        ways.problems.extend(lost);
        // The speaker has these where there is one. Without them packets to addresses that no pod has would go to the
        // default router, which sends them back.
        if !conditions.has_speaker && (self.has_tunnels() || conditions.settings.routing == Routing::Direct) {
            ways.routes.extend(self.own.iter().map(|block| (*block, Hop::Nowhere)));
        }
        ways
    }

    /// The addresses of the own node on its tunnels, one of each family: the first one of a block, which no pod gets.
    fn tunnel_addresses(&self, present: &[IpAddr]) -> BTreeSet<IpAddr> {
        [true, false]
            .into_iter()
            .filter_map(|is_ipv4| {
                let firsts = || self.own.iter().filter(|it| it.is_ipv4() == is_ipv4).map(IpNetwork::network);
                // Connections of the node go on when a block comes that is before the others.
                firsts().find(|first| present.contains(first)).or_else(|| firsts().min())
            })
            .collect()
    }

    fn tunnel(&self, carrier: Carrier, conditions: &Conditions<'_>) -> Result<Tunnel, String> {
        let unknown = || {
            let who = self.kinds.get(&carrier.kind()).map_or("nobody", String::as_str);
            format!(
                "a tunnel as {who} asks for starts at an IPv4 InternalIP, but the Node object {} has none",
                self.name
            )
        };
        let local = carrier.address(&self.addresses).ok_or_else(unknown)?;
        let uplink =
            conditions.uplinks.iter().find(|uplink| uplink.network.ip() == local).ok_or_else(|| {
                format!(
                    "a tunnel starts at {local}, the node's address, but no interface here has that address"
                )
            })?;
        let mtu = match conditions.mtu {
            Some(mtu) => mtu,
            None => uplink.mtu.checked_sub(carrier.overhead()).and_then(Mtu::new).ok_or_else(|| {
                format!("the interface with {local} has an MTU of {}, which no tunnel fits in", uplink.mtu)
            })?,
        };
        let overlay = conditions.settings.overlay;
        let frames = match carrier.kind() {
            Kind::Ipip => None,
            Kind::Vxlan => Some(Frames {
                mac: mac_of(&self.name),
                vni: overlay.vni,
                port: overlay.port,
                forwarding: BTreeMap::new(),
                neighbours: BTreeMap::new(),
            }),
        };
        Ok(Tunnel { local, mtu, addresses: BTreeSet::new(), frames })
    }

    /// The device of this kind that leads to a node.
    fn carrier_to(&self, there: &[IpAddr], kind: Kind) -> Option<Carrier> {
        let is_common = |carrier: &Carrier| {
            carrier.address(&self.addresses).is_some() && carrier.address(there).is_some()
        };
        Carrier::ALL.into_iter().filter(|carrier| carrier.kind() == kind).find(is_common)
    }
}

/// The router of a block behind a tunnel, of the node with this link-layer address. Of IPv6 it is link-local: the kernel
/// refuses one to whose address another route leads elsewhere, as BGP's to the block does (`ip6_route_check_nh_onlink`).
fn gateway(block: IpNetwork, mac: MacAddr) -> IpAddr {
    match block {
        IpNetwork::V4(block) => block.network().into(),
        IpNetwork::V6(_) => {
            // RFC 4291, appendix A.
            let [first, second, third, rest @ ..] = mac.octets();
            let mut address = [0; 16];
            address[..2].copy_from_slice(&[0xfe, 0x80]);
            address[8..13].copy_from_slice(&[first ^ 2, second, third, 0xff, 0xfe]);
            address[13..].copy_from_slice(&rest);
            Ipv6Addr::from(address).into()
        }
    }
}

/// The address of a node in a subnet of an uplink, and that, for a block of its.
fn direct(uplinks: &[Uplink], there: &[IpAddr], block: IpNetwork) -> Option<(IpAddr, IfIndex)> {
    let of_family = there.iter().copied().filter(|address| address.is_ipv4() == block.is_ipv4());
    of_family.into_iter().find_map(|address| {
        let uplink = uplinks.iter().find(|uplink| uplink.network.contains(address))?;
        Some((address, uplink.link))
    })
}

#[cfg(test)]
mod tests;
