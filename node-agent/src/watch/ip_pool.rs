//! Pools, checked.

use kube::core::ObjectMeta;
use margay_api::resource::{AssignmentMode, Encapsulation, IPPool, IPPoolStatus};
use margay_ipam::{Assignment, Fault, Pool, Range, Supply};
use margay_policy::Selector;

use super::{Read, guarded::Kind};
use crate::addresses::PoolTraffic;

/// What the agent needs to know of a pool.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PoolFacts {
    /// As if it chose no node.
    pub(crate) pool: Pool,
    /// The nodes that it chooses.
    pub(crate) nodes: Selector,
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`.
    pub(crate) generation: Option<i64>,
    /// What its status says.
    pub(crate) status: IPPoolStatus,
    /// How packets of its pods travel.
    pub(crate) traffic: PoolTraffic,
}

impl Kind for IPPool {}

pub(super) fn key(meta: &ObjectMeta) -> String {
    meta.name.clone().unwrap_or_default()
}

pub(super) fn read(object: &IPPool) -> Read<PoolFacts> {
    let spec = &object.spec;
    let mut range = Range::new(&spec.cidr, spec.block_size, &spec.reserved);
    let nodes = match spec.node_selector.as_ref().map(Selector::from_api) {
        None => Selector::default(),
        Some(Ok(selector)) => selector,
        Some(Err((field, reason))) => {
            range = Err(Fault::new("InvalidNodeSelector", format!("spec.nodeSelector.{field}: {reason}")));
            Selector::default()
        }
    };
    if let Ok(found) = &range
        && found.cidr().is_ipv6()
        && matches!(spec.encapsulation, Encapsulation::Ipip | Encapsulation::IpipCrossSubnet)
    {
        let reason = "spec.encapsulation: IP-in-IP carries IPv4 alone; for a pool of IPv6 take VXLAN, VXLANCrossSubnet or None";
        range = Err(Fault::new("InvalidEncapsulation", reason));
    }
    let name = key(&object.metadata);
    let problems = range.as_ref().err().map(|fault| format!("IPPool {name}: {fault}; it gives nothing"));
    let pool = Pool {
        created: object.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        range,
        selects_node: false,
        assignment: match spec.assignment_mode {
            AssignmentMode::Automatic => Assignment::Automatic,
            AssignmentMode::Manual => Assignment::Manual,
        },
        supply: match (&object.metadata.deletion_timestamp, spec.disabled) {
            (Some(_), _) => Supply::Deleting,
            (None, true) => Supply::Disabled,
            (None, false) => Supply::Open,
        },
    };
    let facts = PoolFacts {
        pool,
        nodes,
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: object.metadata.generation,
        status: object.status.clone().unwrap_or_default(),
        traffic: PoolTraffic { encapsulation: spec.encapsulation, nat_outgoing: spec.nat_outgoing },
    };
    Read { value: Some(facts), problems: problems.into_iter().collect() }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn what_makes_no_pool_is_kept_with_its_fault_so_that_its_status_can_say_it() {
        for (spec, reason) in [
            ("{cidr: 192.0.2.0/24}", None),
            ("{cidr: 192.0.2.0/24, blockSize: 8}", Some("InvalidBlockSize")),
            ("{cidr: x}", Some("InvalidCIDR")),
            ("{cidr: 192.0.2.0/24, encapsulation: IPIP}", None),
            ("{cidr: '2001:db8::/64', encapsulation: VXLAN}", None),
            ("{cidr: '2001:db8::/64', encapsulation: IPIP}", Some("InvalidEncapsulation")),
            ("{cidr: '2001:db8::/64', encapsulation: IPIPCrossSubnet}", Some("InvalidEncapsulation")),
            (
                "{cidr: 192.0.2.0/24, nodeSelector: {matchExpressions: [{key: a, operator: Near}]}}",
                Some("InvalidNodeSelector"),
            ),
        ] {
            let text = format!("{{metadata: {{name: a, generation: 3}}, spec: {spec}}}");
            let read = read(&serde_saphyr::from_str(&text).unwrap());
            assert_eq!(read.problems.len(), usize::from(reason.is_some()), "{:?}", read.problems);
            let facts = read.value.unwrap();
            assert_eq!(facts.pool.range.err().map(|fault| fault.reason), reason, "{spec}");
            assert_eq!(facts.generation, Some(3));
        }
    }
}
