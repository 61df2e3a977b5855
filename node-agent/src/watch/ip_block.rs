//! Blocks: who has them.

use ipnetwork::IpNetwork;
use kube::core::ObjectMeta;
use margay_api::resource::IPBlock;
use margay_ipam::Claimed;

use super::{Read, guarded::Kind};

/// What the agent needs to know of a block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BlockFacts {
    /// Its range.
    pub(crate) network: IpNetwork,
    /// Who has it.
    pub(crate) claimed: Claimed,
    /// `metadata.uid`.
    pub(crate) uid: String,
}

impl Kind for IPBlock {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &IPBlock) -> Read<BlockFacts> {
    let name = key(&object.metadata);
    // The name is what the API server arbitrates by: an object that says another range is none of an agent.
    let network = object.spec.cidr.parse::<IpNetwork>().ok();
    let network =
        network.filter(|network| network.ip() == network.network() && IPBlock::name_of(*network) == name);
    let Some(network) = network else {
        let cidr = &object.spec.cidr;
        let problem = format!(
            "IPBlock {name}: spec.cidr is {cidr}, which is not what its name says; it is passed over"
        );
        return Read { value: None, problems: vec![problem] };
    };
    let owners = object.metadata.owner_references.iter().flatten();
    let owner = owners.into_iter().find(|owner| owner.kind == "Node").map(|owner| owner.uid.clone());
    Read::clean(BlockFacts {
        network,
        claimed: Claimed { node: object.spec.node.clone(), owner },
        uid: object.metadata.uid.clone().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn the_owner_is_a_node_and_a_name_that_says_another_range_is_reported() {
        let text = |name: &str, cidr: &str| {
            format!(
                "{{metadata: {{name: {name}, uid: u, ownerReferences: [{{apiVersion: v1, kind: Node, name: n1, uid: v}}]}},\
                  spec: {{cidr: {cidr}, pool: a, node: n1}}}}"
            )
        };
        let facts =
            read(&serde_saphyr::from_str(&text("192-0-2-0-26", "192.0.2.0/26")).unwrap()).value.unwrap();
        assert_eq!((facts.claimed.node.as_str(), facts.claimed.owner.as_deref()), ("n1", Some("v")));
        for (name, cidr) in [("other", "192.0.2.0/26"), ("192-0-2-0-26", "192.0.2.7/26"), ("x", "x")] {
            let read = read(&serde_saphyr::from_str(&text(name, cidr)).unwrap());
            assert_eq!((read.value, read.problems.len()), (None, 1), "{name} {cidr}");
        }
    }
}
