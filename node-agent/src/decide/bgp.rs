//! The speaker's configuration, from the nodes and the agent's settings.

use std::net::{IpAddr, Ipv4Addr};

use margay_bgp::{
    BgpIdentifier, HoldTime, Prefix,
    config::{Config, Neighbor, Network},
};

use super::State;
use crate::{config::Bgp, watch::Node};

/// `None` as long as the node has no address, or without BGP.
pub(super) fn speaker(state: &State, settings: &Bgp) -> Option<Config> {
    let own = state.own_node().filter(|_| settings.enabled)?;
    let mut config = Config::new(settings.asn, router_id(state.node_name(), own)?);
    if let Some(hold_time) = HoldTime::new(settings.hold_time) {
        config.hold_time = hold_time;
    }
    let prefixes =
        state.blocks().iter().filter_map(|network| Prefix::masked(network.network(), network.prefix()));
    // Whom the agent peers with, and what it tells, is its configuration's policy.
    config.ebgp_requires_policy = false;
    config.networks = prefixes.map(Network::from).collect();
    let mesh = state.other_nodes().filter(|_| settings.mesh).filter_map(|(name, node)| {
        // One session carries both families: over IPv4 where both nodes have it.
        let (address, local) = common(node, own)?;
        let description = Some(format!("node {name}"));
        Some((Neighbor { description, ..Neighbor::new(address, settings.asn) }, Some(local)))
    });
    let peers = settings.peers.iter().map(|peer| {
        let local = own.address(peer.address.is_ipv4());
        (Neighbor::new(peer.address, peer.asn), local)
    });
    for (neighbor, local_address) in mesh.chain(peers) {
        config.neighbors.push(Neighbor {
            local_address,
            next_hop_ipv4: match own.address(true) {
                Some(IpAddr::V4(address)) => Some(address),
                _ => None,
            },
            next_hop_ipv6: match own.address(false) {
                Some(IpAddr::V6(address)) => Some(address),
                _ => None,
            },
            ..neighbor
        });
    }
    Some(config)
}

fn common(node: &Node, own: &Node) -> Option<(IpAddr, IpAddr)> {
    [true, false].into_iter().find_map(|is_ipv4| Some((node.address(is_ipv4)?, own.address(is_ipv4)?)))
}

/// The node's IPv4 address; without one, a number made from its name (RFC 6286 asks only that it is unique
/// within the autonomous system).
fn router_id(name: &str, own: &Node) -> Option<BgpIdentifier> {
    if let Some(IpAddr::V4(address)) = own.address(true) {
        return BgpIdentifier::new(address);
    }
    own.address(false)?;
    // FNV-1a: a hash that is the same in every build.
    let step = |hash: u32, octet: u8| (hash ^ u32::from(octet)).wrapping_mul(0x0100_0193);
    let hash = name.bytes().fold(0x811c_9dc5, step);
    BgpIdentifier::new(Ipv4Addr::from(hash | 1))
}
