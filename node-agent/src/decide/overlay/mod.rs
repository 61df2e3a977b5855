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
use crate::traffic::{Routing, Traffic};

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
    /// Whether a tunnel may be needed, now or when a node or a block comes.
    pub(crate) has_tunnels: bool,
}

/// A block of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) node: String,
    pub(crate) encapsulation: Encapsulation,
}

/// The family of the addresses between which a tunnel runs; it takes packets of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Underlay {
    V4,
    V6,
}

impl Underlay {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The first of a node's addresses in this family.
    fn address(self, addresses: &[IpAddr]) -> Option<IpAddr> {
        addresses.iter().copied().find(|address| Self::of(address) == self)
    }

    /// What a tunnel adds to a packet: an outer IP header, one of UDP, one of VXLAN and an inner one of Ethernet.
    fn overhead(self) -> u32 {
        match self {
            Self::V4 => 20 + 8 + 8 + 14,
            Self::V6 => 40 + 8 + 8 + 14,
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
    pub(crate) tunnels: BTreeMap<Underlay, Tunnel>,
    pub(crate) routes: BTreeMap<IpNetwork, Hop>,
    /// Why a tunnel cannot be.
    pub(crate) faults: Vec<String>,
    /// Which ways cannot be, in words.
    pub(crate) problems: Vec<String>,
}

/// A VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tunnel {
    pub(crate) local: IpAddr,
    pub(crate) mac: MacAddr,
    pub(crate) mtu: Mtu,
    pub(crate) vni: Vni,
    pub(crate) port: u16,
    /// Of the first tunnel, the addresses from the node's blocks: what the node itself sends through a tunnel comes back
    /// through one.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Which node has a link-layer address.
    pub(crate) forwarding: BTreeMap<MacAddr, IpAddr>,
    /// The gateways of routes.
    pub(crate) neighbours: BTreeMap<IpAddr, MacAddr>,
}

/// Where packets to a block go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    /// Through a tunnel, from one of the tunnels' addresses if there is one of the family.
    Tunnel { underlay: Underlay, gateway: IpAddr, source: Option<IpAddr> },
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
    /// The UDP port that tunnels listen on.
    pub(crate) port: u16,
    /// The addresses of the other nodes.
    pub(crate) peers: BTreeSet<IpAddr>,
}

/// Whether a tunnel may be needed, now or when a node or a block comes.
pub(super) fn has_tunnels(state: &State, settings: &Traffic) -> bool {
    let encapsulations = state.pool_traffic().values().map(|traffic| traffic.encapsulation);
    encapsulations.chain([settings.overlay.encapsulation]).any(|it| it != Encapsulation::None)
}

/// The ends of the tunnels.
pub(super) fn tunnel_ends(state: &State, settings: &Traffic) -> TunnelEnds {
    let others = state.nodes().filter(|(other, _)| *other != state.node_name());
    let peers = others.flat_map(|(_, node)| node.addresses.iter().copied()).collect();
    TunnelEnds { port: settings.overlay.port, peers }
}

/// `None` as long as the own node is not there.
pub(super) fn paths(state: &State, settings: &Traffic, has_speaker: bool) -> Option<Paths> {
    let own = state.own_node()?;
    let name = state.node_name();
    let default = settings.overlay.encapsulation;
    let has_tunnels = has_tunnels(state, settings);
    let mut paths = Paths {
        name: name.to_owned(),
        addresses: own.addresses.clone(),
        own: state.blocks().to_vec(),
        nodes: BTreeMap::new(),
        blocks: BTreeMap::new(),
        has_tunnels,
    };
    // Where all is the speaker's, nothing is to change with the cluster.
    if !has_tunnels && settings.routing == Routing::Bgp && has_speaker {
        return Some(paths);
    }
    let others = state.nodes().filter(|(other, _)| *other != name);
    paths.nodes = others.map(|(name, node)| (name.clone(), node.addresses.clone())).collect();
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
    /// The families that tunnels of this node run over. Both ends of a tunnel choose alike: IPv4 where both nodes have it.
    pub(crate) fn underlays(&self) -> BTreeSet<Underlay> {
        if !self.has_tunnels {
            return BTreeSet::new();
        }
        let has = |addresses: &[IpAddr], family: Underlay| family.address(addresses).is_some();
        let mut underlays = BTreeSet::new();
        if has(&self.addresses, Underlay::V4) {
            underlays.insert(Underlay::V4);
        }
        // One without any address, as it just joined, has no tunnel at all.
        let has_ipv6_alone = |other: &Vec<IpAddr>| has(other, Underlay::V6) && !has(other, Underlay::V4);
        let needs_ipv6 = underlays.is_empty() || self.nodes.values().any(has_ipv6_alone);
        if needs_ipv6 && has(&self.addresses, Underlay::V6) {
            underlays.insert(Underlay::V6);
        }
        underlays
    }

    /// Why nothing can be said of the ways: all that is there stays as it is then.
    pub(crate) fn is_nowhere(&self) -> Option<String> {
        let is_nowhere = self.has_tunnels && self.addresses.is_empty();
        let fault = || {
            format!(
                "a tunnel starts at an InternalIP of the node, but the Node object {} has none; see to the kubelet's \
                 --node-ip or the cloud provider",
                self.name
            )
        };
        is_nowhere.then(fault)
    }

    /// The same as long as nobody may be sent anything through a tunnel: others may not have theirs yet.
    pub(crate) fn receiving(&self) -> Self {
        let plain = |block: &Block| Block { encapsulation: Encapsulation::None, ..block.clone() };
        let blocks = self.blocks.iter().map(|(range, block)| (*range, plain(block))).collect();
        Self { blocks, ..self.clone() }
    }

    /// The same with the tunnels that there were before, through which others may still send.
    pub(crate) fn lingering(&self, before: &Self) -> Self {
        // Where all is the speaker's, the nodes do not matter, but they say which tunnels there were.
        let nodes = if self.nodes.is_empty() { &before.nodes } else { &self.nodes };
        Self { has_tunnels: true, nodes: nodes.clone(), ..self.clone() }
    }

    /// How much smaller than the uplink's packets those of pods have to be.
    pub(crate) fn overhead(&self) -> u32 {
        self.underlays().into_iter().map(Underlay::overhead).max().unwrap_or(0)
    }

    /// What the kernel has to hold.
    pub(crate) fn ways(&self, conditions: &Conditions<'_>) -> Ways {
        let mut ways = Ways::default();
        let addresses = self.tunnel_addresses(conditions.present);
        for underlay in self.underlays() {
            match self.tunnel(underlay, conditions) {
                Ok(tunnel) => drop(ways.tunnels.insert(underlay, tunnel)),
                Err(fault) => ways.faults.push(fault),
            }
        }
        if let Some(first) = ways.tunnels.values_mut().next() {
            first.addresses.clone_from(&addresses);
        }
        let mut lost: BTreeMap<&str, &'static str> = BTreeMap::new();
        let mut is_nobodys = false;
        for (block, Block { node, encapsulation }) in &self.blocks {
            // A node that is gone from the API is no way to its blocks, which are about to go too.
            let Some(there) = self.nodes.get(node) else { continue };
            let direct = direct(conditions.uplinks, there, *block);
            let wants_tunnel = match encapsulation {
                Encapsulation::None => false,
                Encapsulation::Vxlan => true,
                Encapsulation::VxlanCrossSubnet => direct.is_none(),
            };
            if wants_tunnel {
                let underlay = self.underlay_to(there);
                let Some((underlay, destination)) = underlay.and_then(|it| Some((it, it.address(there)?)))
                else {
                    lost.insert(node, "no tunnel leads there: both nodes need addresses of one family");
                    continue;
                };
                // Why there is none, its fault says.
                let Some(tunnel) = ways.tunnels.get_mut(&underlay) else { continue };
                let mac = mac_of(node);
                let gateway = gateway(*block, mac);
                tunnel.forwarding.insert(mac, destination);
                tunnel.neighbours.insert(gateway, mac);
                let source = addresses.iter().copied().find(|it| it.is_ipv4() == block.is_ipv4());
                ways.routes.insert(*block, Hop::Tunnel { underlay, gateway, source });
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
        if !conditions.has_speaker && (self.has_tunnels || conditions.settings.routing == Routing::Direct) {
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

    fn tunnel(&self, underlay: Underlay, conditions: &Conditions<'_>) -> Result<Tunnel, String> {
        let unknown = || "a tunnel needs an address of the node's own".to_owned();
        let local = underlay.address(&self.addresses).ok_or_else(unknown)?;
        let uplink = conditions.uplinks.iter().find(|uplink| uplink.network.ip() == local).ok_or_else(|| {
            format!("a tunnel starts at {local}, the node's InternalIP, but no interface here has that address")
        })?;
        let mtu = match conditions.mtu {
            Some(mtu) => mtu,
            None => uplink.mtu.checked_sub(underlay.overhead()).and_then(Mtu::new).ok_or_else(|| {
                format!("the interface with {local} has an MTU of {}, which no tunnel fits in", uplink.mtu)
            })?,
        };
        let overlay = conditions.settings.overlay;
        Ok(Tunnel {
            local,
            mac: mac_of(&self.name),
            mtu,
            vni: overlay.vni,
            port: overlay.port,
            addresses: BTreeSet::new(),
            forwarding: BTreeMap::new(),
            neighbours: BTreeMap::new(),
        })
    }

    /// The family of the tunnel to a node.
    fn underlay_to(&self, there: &[IpAddr]) -> Option<Underlay> {
        let is_common =
            |family: &Underlay| family.address(&self.addresses).is_some() && family.address(there).is_some();
        Underlay::ALL.into_iter().find(is_common)
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
