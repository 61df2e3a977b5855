//! What a pool's status says.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;

use crate::{
    Claimed, Fault, Pool,
    occupied::Occupied,
    pool::{holds, judge},
};

/// The state of a pool in the whole cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Blocks of its range that nodes have.
    pub claimed: u64,
    /// Blocks of its size in its range.
    pub total: u64,
    /// Why nodes get no blocks of it, when they do not.
    pub fault: Option<Fault>,
}

/// Reports on all pools.
pub fn report(
    pools: &BTreeMap<String, Pool>,
    blocks: &BTreeMap<IpNetwork, Claimed>,
) -> BTreeMap<String, Report> {
    let occupied = Occupied::of(blocks.keys().copied());
    let mut reports = BTreeMap::new();
    for (name, verdict) in judge(pools) {
        let range = pools.get(name).and_then(|pool| pool.range.as_ref().ok());
        let (claimed, total) = range.map_or((0, 0), |range| {
            let claimed = blocks.keys().filter(|block| holds(range.cidr(), **block)).count();
            (claimed as u64, range.total_blocks())
        });
        let fault = match verdict {
            Err(fault) => Some(fault),
            Ok(range) if !occupied.has_room(range) => Some(Fault::new(
                "Full",
                format!(
                    "nodes have all blocks of {}: add a pool, or free addresses; pods still get what is free in those blocks",
                    range.cidr()
                ),
            )),
            Ok(_) => None,
        };
        reports.insert(name.to_owned(), Report { claimed, total, fault });
    }
    reports
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::report;
    use crate::{Claimed, pool::tests::pool};

    #[test]
    fn a_pool_is_full_when_no_block_is_left_whatever_the_sizes() {
        let pools = [("a".to_owned(), pool(1, "10.0.0.0/24", Some(25)))].into();
        let claimed = |blocks: &[&str]| {
            let claim = Claimed { node: "n1".into(), owner: None };
            let blocks: BTreeMap<_, _> =
                blocks.iter().map(|block| (block.parse().unwrap(), claim.clone())).collect();
            let report = report(&pools, &blocks).remove("a").unwrap();
            (report.claimed, report.total, report.fault.map(|fault| fault.reason))
        };
        assert_eq!(claimed(&[]), (0, 2, None));
        assert_eq!(claimed(&["10.0.0.0/25"]), (1, 2, None));
        assert_eq!(claimed(&["10.0.0.0/25", "10.0.0.128/26"]), (2, 2, Some("Full")));
        assert_eq!(claimed(&["10.1.0.0/25"]), (0, 2, None));
    }
}
