//! Addresses that several nodes say they have.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use super::State;

/// What is wrong with the addresses of nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Doubles {
    /// Of each node that has the address of one before it, in words.
    pub(crate) problems: BTreeSet<String>,
    /// That of the own node.
    pub(crate) own: Option<String>,
}

/// Of nodes with one address the first by name has it: its sessions and tunnels are those that others keep.
pub(super) fn doubles(state: &State) -> Doubles {
    find(state.nodes().map(|(name, node)| (name.as_str(), &node.addresses[..])), state.node_name())
}

fn find<'n>(nodes: impl Iterator<Item = (&'n str, &'n [IpAddr])>, own: &str) -> Doubles {
    let mut holders: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let mut doubles = Doubles::default();
    for (name, addresses) in nodes {
        for address in addresses {
            let holder = *holders.entry(*address).or_insert(name);
            if holder == name {
                continue;
            }
            let problem = format!(
                "Node {name}: its address {address} is that of Node {holder}, which comes first and has it; pods of {name} \
                 are not reached; see to the kubelet's --node-ip, the cloud provider, or nodeAddress of the agent's file"
            );
            if name == own {
                doubles.own = Some(problem.clone());
            }
            doubles.problems.insert(problem);
        }
    }
    doubles
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::find;

    #[test]
    fn the_first_by_name_has_an_address_and_the_others_are_named() {
        let [x, y, z] = ["192.0.2.1", "2001:db8::1", "192.0.2.2"].map(|text| text.parse::<IpAddr>().unwrap());
        let check = |nodes: &[(&str, &[IpAddr])], named: &[(&str, &str)], own: bool| {
            let found = find(nodes.iter().copied(), "n2");
            assert_eq!(found.problems.len(), named.len(), "{nodes:?}: {:?}", found.problems);
            for (problem, (second, first)) in found.problems.iter().zip(named) {
                assert!(problem.starts_with(&format!("Node {second}: ")), "{problem}");
                assert!(problem.contains(&format!("that of Node {first},")), "{problem}");
            }
            assert_eq!(found.own.is_some(), own, "{nodes:?}");
        };
        check(&[("n1", &[x, y]), ("n2", &[z]), ("n3", &[])], &[], false);
        check(&[("n1", &[x]), ("n2", &[x])], &[("n2", "n1")], true);
        check(&[("n1", &[x, y]), ("n2", &[z]), ("n3", &[z, y])], &[("n3", "n2"), ("n3", "n1")], false);
        check(&[("n1", &[x, x])], &[], false);
    }
}
