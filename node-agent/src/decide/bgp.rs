//! The nodes as far as BGP is about them.

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;

use super::State;
use crate::{
    config::Bgp,
    watch::{BgpFacts, Node},
};

/// The own node and the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    /// The own node's name.
    pub(crate) name: String,
    /// Its `metadata.uid`.
    pub(crate) uid: String,
    pub(crate) own: PeerNode,
    /// The other nodes, by name.
    pub(crate) others: BTreeMap<String, PeerNode>,
    /// What the own node's pods have addresses of.
    pub(crate) blocks: Vec<IpNetwork>,
}

/// A node that may be at one end of a session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PeerNode {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) facts: BgpFacts,
    pub(crate) labels: BTreeMap<String, String>,
}

impl PeerNode {
    /// Its first address of a family.
    pub(crate) fn address(&self, is_ipv4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv4() == is_ipv4)
    }
}

/// `None` as long as the own node is not there, or without BGP.
pub(super) fn topology(state: &State, settings: &Bgp) -> Option<Topology> {
    let node = state.own_node().filter(|_| settings.enabled)?;
    let uid = node.identity.as_ref().map(|identity| identity.uid.clone()).unwrap_or_default();
    let peer = |name: &str, node: &Node| PeerNode {
        addresses: node.addresses.clone(),
        facts: node.bgp.clone(),
        labels: state.objects().nodes.get(name).map(|node| node.labels.clone()).unwrap_or_default(),
    };
    let name = state.node_name();
    let others = state.nodes().filter(|(other, _)| *other != name);
    Some(Topology {
        name: name.to_owned(),
        uid,
        own: peer(name, node),
        others: others.map(|(name, node)| (name.clone(), peer(name, node))).collect(),
        blocks: state.blocks().to_vec(),
    })
}
