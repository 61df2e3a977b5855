//! Whose packets come from the node's address when they leave the cluster. Pure.

use ipnetwork::IpNetwork;
use margay_policy::{AddressRange, covered};

use super::State;
use crate::traffic::Nat;

/// What is masqueraded: packets from `sources` to anything but `kept`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Masquerade {
    pub(crate) sources: Vec<AddressRange>,
    /// Pools, blocks, nodes, and what the settings name.
    pub(crate) kept: Vec<AddressRange>,
}

/// `None` when nothing is.
pub(super) fn masquerade(state: &State, settings: &Nat) -> Option<Masquerade> {
    let pools = state.pool_traffic();
    let of_pools = pools.iter().filter(|(_, traffic)| traffic.nat_outgoing).map(|(range, _)| *range);
    let is_of_none = |block: &&IpNetwork| settings.outgoing && state.pool_traffic_of(**block).is_none();
    let of_none = state.blocks().iter().filter(is_of_none).copied();
    let sources = covered(of_pools.chain(of_none));
    if sources.is_empty() {
        return None;
    }
    let blocks = state.all_blocks().map(|(block, _)| block).chain(state.blocks().iter().copied());
    let nodes = state.nodes().flat_map(|(_, node)| node.addresses.iter().chain(&node.passed_over));
    let nodes = nodes.map(|address| (*address).into());
    let inside = pools.keys().copied().chain(blocks).chain(nodes);
    Some(Masquerade { sources, kept: covered(inside.chain(settings.excluded.iter().copied())) })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use ipnetwork::IpNetwork;
    use margay_api::resource::Encapsulation;

    use super::{Masquerade, masquerade};
    use crate::{
        addresses::PoolTraffic,
        decide::State,
        traffic::Nat,
        watch::{ApiEvent, Change, Node, NodeFacts},
    };

    fn net(text: &str) -> IpNetwork {
        text.parse().unwrap()
    }

    /// Two nodes with a podCIDR each.
    fn state() -> State {
        let node = |address: &str, cidr: &str| {
            let addresses = vec![address.parse().unwrap()];
            let node = Node { addresses, pod_cidrs: vec![net(cidr)], ..Node::default() };
            NodeFacts { node, ..NodeFacts::default() }
        };
        let nodes = [("n1", node("192.0.2.1", "10.0.0.0/24")), ("n2", node("192.0.2.2", "10.0.1.0/24"))];
        let mut state = State::new("n1".into());
        let nodes = nodes.map(|(name, node)| (name.to_owned(), node));
        state.apply(ApiEvent::Nodes(Change::Replaced(nodes.into())));
        state
    }

    fn texts(found: &Masquerade) -> [Vec<String>; 2] {
        [&found.sources, &found.kept]
            .map(|ranges| ranges.iter().map(|it| format!("{}-{}", it.first, it.last)).collect())
    }

    #[test]
    fn what_own_blocks_send_to_all_but_blocks_nodes_and_the_excluded_is_masqueraded() {
        let state = state();
        let nat = |outgoing| Nat { outgoing, excluded: vec![net("198.51.100.0/24")] };
        assert_eq!(masquerade(&state, &nat(false)), None);
        let found = masquerade(&state, &nat(true)).unwrap();
        let kept = ["10.0.0.0-10.0.1.255", "192.0.2.1-192.0.2.2", "198.51.100.0-198.51.100.255"];
        assert_eq!(texts(&found), [vec!["10.0.0.0-10.0.0.255".to_owned()], kept.map(str::to_owned).into()]);
    }

    #[test]
    fn each_pool_says_it_for_its_addresses_and_the_settings_for_blocks_that_are_of_none() {
        let mut state = state();
        state.await_claimed();
        let traffic = |nat_outgoing| PoolTraffic { encapsulation: Encapsulation::None, nat_outgoing };
        let pools = [(net("10.1.0.0/16"), traffic(true)), (net("10.2.0.0/16"), traffic(false))];
        let blocks = ["10.1.3.0/26", "10.2.3.0/26", "10.3.3.0/26"].map(net);
        let holders: BTreeMap<IpNetwork, String> = blocks.map(|block| (block, "n1".to_owned())).into();
        state.set_claimed(blocks.into(), Arc::new(holders), Arc::new(pools.into()));
        let kept = ["10.1.0.0-10.2.255.255", "10.3.3.0-10.3.3.63", "192.0.2.1-192.0.2.2"];
        for (outgoing, sources) in [
            (false, vec!["10.1.0.0-10.1.255.255"]),
            (true, vec!["10.1.0.0-10.1.255.255", "10.3.3.0-10.3.3.63"]),
        ] {
            let found = masquerade(&state, &Nat { outgoing, excluded: vec![] }).unwrap();
            let sources: Vec<String> = sources.into_iter().map(str::to_owned).collect();
            assert_eq!(texts(&found), [sources, kept.map(str::to_owned).into()]);
        }
    }
}
