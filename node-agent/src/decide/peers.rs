//! The nodes as far as the tests of the ways between them are about them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;

use super::State;

/// The own node's addresses, and the other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peers {
    pub(crate) own: Vec<IpAddr>,
    /// By name.
    pub(crate) nodes: BTreeMap<String, Peer>,
}

/// Another node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Where it is reached.
    pub(crate) addresses: Vec<IpAddr>,
    /// Addresses besides that it may send from.
    pub(crate) others: Vec<IpAddr>,
    /// What its pods have addresses of. Its tunnels have the first address of one of them in each family.
    pub(crate) blocks: BTreeSet<IpNetwork>,
}

/// `None` as long as the own node is not there.
pub(super) fn peers(state: &State) -> Option<Peers> {
    let own = state.own_node()?.addresses.clone();
    let others = state.nodes().filter(|(name, _)| *name != state.node_name());
    let mut nodes: BTreeMap<String, Peer> = others
        .map(|(name, node)| {
            let (addresses, others) = (node.addresses.clone(), node.passed_over.clone());
            (name.clone(), Peer { addresses, others, blocks: BTreeSet::new() })
        })
        .collect();
    for (block, name) in state.all_blocks() {
        if let Some(peer) = nodes.get_mut(name) {
            peer.blocks.insert(block);
        }
    }
    Some(Peers { own, nodes })
}

impl Peers {
    /// What other nodes may send from that is no pod's.
    pub(crate) fn sources(&self) -> BTreeSet<IpAddr> {
        let of = |peer: &Peer| {
            let firsts = peer.blocks.iter().map(IpNetwork::network);
            let all = peer.addresses.iter().chain(&peer.others).copied();
            all.chain(firsts).collect::<Vec<_>>()
        };
        self.nodes.values().flat_map(of).collect()
    }

    /// The own address and another node's between which packets go outside of tunnels: of IPv4 where both have it.
    pub(crate) fn direct(&self, peer: &Peer) -> Option<[IpAddr; 2]> {
        let of = |addresses: &[IpAddr], is_ipv4| addresses.iter().copied().find(|it| it.is_ipv4() == is_ipv4);
        let both = |is_ipv4| Some([of(&self.own, is_ipv4)?, of(&peer.addresses, is_ipv4)?]);
        both(true).or_else(|| both(false))
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::{Peer, Peers};

    fn all(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn nodes_are_known_by_their_addresses_and_the_first_of_each_block_and_meet_over_ipv4_where_they_can() {
        let peer = |addresses: &[&str], blocks: &[&str]| Peer {
            addresses: all(addresses),
            others: all(&["198.51.100.1"]),
            blocks: blocks.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let peers = |own: &[&str]| Peers {
            own: all(own),
            nodes: [(
                "n2".to_owned(),
                peer(&["2001:db8::2", "192.0.2.2"], &["10.0.2.0/24", "2001:db8:2::/80"]),
            )]
            .into(),
        };
        let both = peers(&["2001:db8::1", "192.0.2.1"]);
        let sources: Vec<IpAddr> = both.sources().into_iter().collect();
        assert_eq!(sources, all(&["10.0.2.0", "192.0.2.2", "198.51.100.1", "2001:db8::2", "2001:db8:2::"]));
        let there = &both.nodes["n2"];
        assert_eq!(both.direct(there).unwrap().to_vec(), all(&["192.0.2.1", "192.0.2.2"]));
        assert_eq!(
            peers(&["2001:db8::1"]).direct(there).unwrap().to_vec(),
            all(&["2001:db8::1", "2001:db8::2"])
        );
        assert_eq!(peers(&[]).direct(there), None);
    }
}
