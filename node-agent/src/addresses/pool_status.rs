//! The status of pools, written by the agent of one node for all.
//!
//! Every agent could: all know all pools and blocks. So that thousands do not write the same, the agent of the first
//! node by name that is Ready does. When two take themselves for the first for a moment, both write the same.

use std::{collections::BTreeMap, time::Duration};

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use margay_api::resource::{IPPoolStatus, set_condition};
use margay_ipam::Report;
use tokio::time::Instant;

use crate::watch::PoolFacts;

/// Between two writes of one pool's status: claims come in bursts.
const PAUSE: Duration = Duration::from_secs(1);

/// What was written last of each pool, and when.
#[derive(Debug, Default)]
pub(super) struct Written(BTreeMap<String, Instant>);

impl Written {
    /// The statuses to write now, and when to come again for those that have to wait.
    pub(super) fn due(
        &mut self,
        pools: &BTreeMap<String, PoolFacts>,
        reports: &BTreeMap<String, Report>,
        now: Instant,
        wall: Timestamp,
    ) -> (Vec<(String, IPPoolStatus)>, Option<Instant>) {
        self.0.retain(|name, _| pools.contains_key(name));
        let (mut due, mut next) = (Vec::new(), None::<Instant>);
        for (name, report) in reports {
            let Some(facts) = pools.get(name) else { continue };
            let status = status(facts, report, wall);
            if status == facts.status {
                continue;
            }
            let pause = self.0.get(name).map(|last| *last + PAUSE).filter(|until| *until > now);
            if let Some(until) = pause {
                next = Some(next.map_or(until, |next| next.min(until)));
            } else {
                self.0.insert(name.clone(), now);
                due.push((name.clone(), status));
            }
        }
        (due, next)
    }
}

fn status(facts: &PoolFacts, report: &Report, wall: Timestamp) -> IPPoolStatus {
    let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (reason, message) = match &report.fault {
        None => ("Ready", "nodes get blocks of it".to_owned()),
        Some(fault) => (fault.reason, fault.message.clone()),
    };
    let condition = Condition {
        type_: "Ready".into(),
        status: if report.fault.is_none() { "True" } else { "False" }.into(),
        reason: reason.into(),
        message,
        observed_generation: facts.generation,
        last_transition_time: Time(wall),
    };
    let mut conditions = facts.status.conditions.clone();
    set_condition(&mut conditions, condition);
    IPPoolStatus { conditions, claimed_blocks: count(report.claimed), total_blocks: count(report.total) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::jiff::Timestamp;
    use margay_api::resource::IPPoolStatus;
    use margay_ipam::{Assignment, Fault, Pool, Range, Report, Supply};
    use margay_policy::Selector;
    use tokio::time::Instant;

    use super::{PAUSE, Written};
    use crate::addresses::PoolTraffic;
    use crate::watch::PoolFacts;

    #[test]
    fn a_status_is_written_when_it_changes_and_not_more_often_than_once_a_second() {
        let pool = Pool {
            created: 0,
            range: Range::new("192.0.2.0/24", None, &[]),
            selects_node: true,
            assignment: Assignment::Automatic,
            supply: Supply::Open,
        };
        let facts = PoolFacts {
            pool,
            nodes: Selector::default(),
            generation: Some(2),
            uid: String::new(),
            status: IPPoolStatus::default(),
            traffic: PoolTraffic::default(),
        };
        let mut pools = BTreeMap::from([("a".to_owned(), facts)]);
        let mut written = Written::default();
        let start = Instant::now();
        let wall = Timestamp::UNIX_EPOCH;
        let report =
            |fault: Option<Fault>| BTreeMap::from([("a".to_owned(), Report { claimed: 1, total: 4, fault })]);
        let (due, _) = written.due(&pools, &report(None), start, wall);
        let (_, first) = &due[0];
        assert_eq!((first.claimed_blocks, first.total_blocks), (1, 4));
        let ready = &first.conditions[0];
        assert_eq!((ready.status.as_str(), ready.observed_generation), ("True", Some(2)));
        pools.get_mut("a").unwrap().status = first.clone();
        assert_eq!(written.due(&pools, &report(None), start, wall), (vec![], None));
        let full = || report(Some(Fault::new("Full", "no block is left")));
        let (due, next) = written.due(&pools, &full(), start, wall);
        assert_eq!((due, next), (vec![], Some(start + PAUSE)));
        let (due, _) = written.due(&pools, &full(), start + PAUSE, wall);
        assert_eq!(due[0].1.conditions[0].reason, "Full");
    }
}
